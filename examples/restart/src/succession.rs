//! Hands a listening socket to the next process, as systemd does: `LISTEN_FDS` sockets, from
//! descriptor 3 on. Over the second one, the new process tells the old one that it is ready.

use command_fds::{CommandFdExt, FdMapping};
use listenfd::ListenFd;
use std::{
    env,
    io::{self, Write},
    mem,
    net::TcpListener,
    os::unix::net,
    process,
    time::Duration,
};
use tokio::{
    io::AsyncReadExt,
    net::UnixStream,
    process::Command,
    signal::unix::{Signal, SignalKind, signal},
    time::timeout,
};

/// What a process has got from its predecessor or from systemd, if anything. systemd gives no second
/// socket.
pub struct Inheritance {
    pub socket: Option<TcpListener>,
    predecessor: Option<net::UnixStream>,
}

impl Inheritance {
    /// Takes the sockets, and removes the variables from the environment.
    pub fn take() -> io::Result<Self> {
        let mut fds = ListenFd::from_env();
        Ok(Self {
            socket: fds.take_tcp_listener(0)?,
            predecessor: fds.take_custom(1, libc::AF_UNIX, libc::SOCK_STREAM, "Unix stream")?,
        })
    }

    /// Has the predecessor drain, so nothing may fail after this. Fails if the predecessor has ended.
    pub fn ready(self) -> io::Result<()> {
        match self.predecessor {
            Some(mut predecessor) => predecessor.write_all(b"\n"),
            None => Ok(()),
        }
    }
}

/// Starts a new process at each SIGHUP, until one is ready.
pub struct Successors {
    socket: TcpListener,
    hangup: Signal,
}

impl Successors {
    /// Handles SIGHUP from the call on: it does not end the process any more.
    pub fn of(socket: TcpListener) -> io::Result<Self> {
        Ok(Self {
            socket,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    pub async fn one_is_ready(mut self) {
        loop {
            self.hangup.recv().await;
            match self.start().await {
                Ok(()) => return,
                Err(error) => eprintln!("{} goes on serving: {error}", process::id()),
            }
        }
    }

    async fn start(&self) -> io::Result<()> {
        const PATIENCE: Duration = Duration::from_secs(30);
        let (mut told, tells) = UnixStream::pair()?;
        // This drops the command, which has a copy of the child's socket. With that copy open, the
        // read below would not see the child's end.
        let child = self.command(tells)?.spawn()?;
        let ready = timeout(PATIENCE, told.read_u8()).await;
        if !matches!(ready, Ok(Ok(_))) {
            return Err(io::Error::other("the successor did not become ready"));
        }
        mem::forget(child);
        Ok(())
    }

    fn command(&self, tells: UnixStream) -> io::Result<Command> {
        // The path by which this process was started. `current_exe` would be the old version, even
        // if that was renamed.
        let mut arguments = env::args_os();
        let mut command = Command::new(arguments.next().unwrap_or_default());
        let fds = [self.socket.try_clone()?.into(), tells.into_std()?.into()];
        let mappings = (3..).zip(fds).map(|(child_fd, parent_fd)| FdMapping {
            parent_fd,
            child_fd,
        });
        command
            .args(arguments)
            .env("LISTEN_FDS", "2")
            // The id of the child is not known yet. Without the variable, `listenfd` does not check it.
            .env_remove("LISTEN_PID")
            // Ends a child that is not ready in time, or when this process has to stop.
            .kill_on_drop(true)
            .fd_mappings(mappings.collect())
            .map_err(io::Error::other)?;
        Ok(command)
    }
}
