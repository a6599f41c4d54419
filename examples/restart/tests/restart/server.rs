//! A server and its successors: what they say, and how they end.

use crate::GUARD;
use command_fds::{CommandFdExt, FdMapping};
use nix::{
    sys::{
        prctl::set_child_subreaper,
        signal::{Signal, kill, killpg},
        wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid},
    },
    unistd::Pid,
};
use std::{
    fs::{self, Permissions},
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpListener},
    os::{
        fd::OwnedFd,
        unix::{fs::PermissionsExt, net::UnixStream, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::mpsc::{self, Receiver},
    thread,
};

/// What is started at a restart, which may be another one than at the start.
pub struct Executable {
    path: PathBuf,
}

impl Executable {
    const GOOD: &str = env!("CARGO_BIN_EXE_example-restart");

    /// In a directory of the test's own.
    pub fn new(test: &str) -> Self {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(test);
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).expect("a directory");
        let executable = Self {
            path: directory.join("server"),
        };
        executable.replace_by_good_one();
        executable
    }

    pub fn replace_by_good_one(&self) {
        self.replace(|next| fs::hard_link(Self::GOOD, next).expect("a link"));
    }

    pub fn replace_by_script(&self, script: &str) {
        self.replace(|next| {
            fs::write(next, format!("#!/bin/sh\n{script}\n")).expect("a script");
            fs::set_permissions(next, Permissions::from_mode(0o755)).expect("executable");
        });
    }

    /// As a package manager does it: there is always one.
    fn replace(&self, write: impl Fn(&Path)) {
        let next = self.path.with_extension("next");
        write(&next);
        fs::rename(next, &self.path).expect("renamed");
    }
}

pub struct Server {
    /// Whose id is that of the group that all of them are in. The system does not give it to others
    /// before this one is reaped, which is the last that is done here.
    first: Child,
    lines: Receiver<String>,
    unread: Vec<String>,
}

impl Server {
    /// That has its socket from nobody.
    pub fn bind(executable: &Executable) -> Self {
        let mut command = Command::new(&executable.path);
        command.arg("127.0.0.1:0");
        Self::start(command)
    }

    /// That has it from someone as systemd is.
    pub fn inherit(executable: &Executable, socket: TcpListener) -> Self {
        let socket = FdMapping {
            parent_fd: socket.into(),
            child_fd: 3,
        };
        let mut command = Command::new(&executable.path);
        command.env("LISTEN_FDS", "1");
        command.fd_mappings(vec![socket]).expect("one");
        Self::start(command)
    }

    fn start(mut command: Command) -> Self {
        // Whose parent, the predecessor, has ended is ours to wait for.
        set_child_subreaper(true).expect("Linux has it since 3.4");
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let theirs = OwnedFd::from(theirs);
        let first = command
            .stdout(theirs.try_clone().expect("a descriptor"))
            .stderr(theirs)
            .process_group(0)
            .spawn()
            .expect("it starts");
        // It has copies of what was given to the child, whose end would not be seen.
        drop(command);
        let (tell, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(ours).lines().map_while(Result::ok) {
                println!("{line}");
                let _ = tell.send(line);
            }
        });
        Self {
            first,
            lines,
            unread: Vec::new(),
        }
    }

    /// A process that is new, and where it serves.
    pub fn serves(&mut self) -> (u32, SocketAddr) {
        let line = self.says(|line| line.contains(" serves "));
        let parsed = line.split_once(" serves http://").and_then(|(pid, rest)| {
            let (address, _) = rest.split_once(',')?;
            Some((pid.parse().ok()?, address.parse().ok()?))
        });
        parsed.expect("a process and an address")
    }

    /// Its outcome.
    pub fn drained(&mut self, process: u32) -> String {
        self.says(|line| line.starts_with(&format!("{process} drained in ")))
    }

    pub fn goes_on(&mut self, process: u32) {
        self.says(|line| line.starts_with(&format!("{process} goes on serving: ")));
    }

    /// The first such line that was not asked for yet.
    pub fn says(&mut self, wanted: impl Fn(&str) -> bool) -> String {
        loop {
            if let Some(at) = self.unread.iter().position(|line| wanted(line)) {
                return self.unread.remove(at);
            }
            let line = self.lines.recv_timeout(GUARD).expect("another line");
            self.unread.push(line);
        }
    }

    pub fn signal(&self, process: u32, signal: Signal) {
        kill(pid(process), signal).expect("it is there");
    }

    /// Of one whose predecessors have all ended.
    pub fn exit_code(&self, process: u32) -> i32 {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        match waitid(Id::Pid(pid(process)), flags).expect("a child") {
            WaitStatus::Exited(_, code) => code,
            other => panic!("{other:?}"),
        }
    }

    /// No process is left that could say anything.
    pub fn is_over(&mut self) {
        match self.lines.recv_timeout(GUARD) {
            Err(mpsc::RecvTimeoutError::Disconnected) => {}
            other => panic!("{other:?}"),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let group = pid(self.first.id());
        let _ = killpg(group, Signal::SIGKILL);
        // The end of one makes its successor ours, so there is always one until there is none.
        while waitpid(Pid::from_raw(-group.as_raw()), None).is_ok() {}
    }
}

fn pid(process: u32) -> Pid {
    Pid::from_raw(process.try_into().expect("a pid"))
}
