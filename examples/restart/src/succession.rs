//! How a listening socket passes from one process to the next: as from systemd, `LISTEN_FDS` of them
//! from descriptor 3 on. The second one is no listener, but where the new process says to the old
//! that it is ready.

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

/// What a process is given, by its predecessor, by systemd (which gives no second one), or by nobody.
pub struct Inheritance {
    pub socket: Option<TcpListener>,
    predecessor: Option<net::UnixStream>,
}

impl Inheritance {
    /// Takes it from the environment, so that nobody else takes it for theirs.
    pub fn take() -> io::Result<Self> {
        let mut fds = ListenFd::from_env();
        Ok(Self {
            socket: fds.take_tcp_listener(0)?,
            predecessor: fds.take_custom(1, libc::AF_UNIX, libc::SOCK_STREAM, "Unix stream")?,
        })
    }

    /// From here on the predecessor drains, so nothing may fail after this. An error if it is gone.
    pub fn ready(self) -> io::Result<()> {
        match self.predecessor {
            Some(mut predecessor) => predecessor.write_all(b"\n"),
            None => Ok(()),
        }
    }
}

/// Starts one at each SIGHUP, until one is ready.
pub struct Successors {
    socket: TcpListener,
    hangup: Signal,
}

impl Successors {
    /// From the call on, SIGHUP does not end the process any more.
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
        // The command is gone with this line, and with it our copy of what the child tells by: else
        // its end would not be seen.
        let child = self.command(tells)?.spawn()?;
        let ready = timeout(PATIENCE, told.read_u8()).await;
        if !matches!(ready, Ok(Ok(_))) {
            return Err(io::Error::other("the successor did not become ready"));
        }
        mem::forget(child);
        Ok(())
    }

    fn command(&self, tells: UnixStream) -> io::Result<Command> {
        // By the name that this one was called by: `current_exe` would be the old version, under
        // whatever name it has by now.
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
            // Nobody knows it before there is the process. Without it, whoever reads is meant.
            .env_remove("LISTEN_PID")
            // Until it is ready it is ours to end: if it is late, and if this process is to stop.
            .kill_on_drop(true)
            .fd_mappings(mappings.collect())
            .map_err(io::Error::other)?;
        Ok(command)
    }
}
