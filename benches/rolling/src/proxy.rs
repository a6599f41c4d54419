//! The proxies: each a child of the rig, with a configuration that the rig has written.

use crate::{BoxError, GUARD, load::Front};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    collections::HashSet,
    env, fs,
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::net::UnixStream,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Mutex,
    time::Duration,
};
use tempfile::TempDir;
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proxy {
    Nginx,
    Haproxy,
}

impl Proxy {
    pub const ALL: [Self; 2] = [Self::Nginx, Self::Haproxy];

    /// In commands.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
        }
    }

    /// In the table.
    pub fn title(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "HAProxy",
        }
    }

    pub fn configuration(self) -> &'static str {
        match self {
            Self::Nginx => include_str!("../nginx.conf"),
            Self::Haproxy => include_str!("../haproxy.cfg"),
        }
    }

    /// The version; an error if it is not installed.
    pub fn version(self) -> Result<String, BoxError> {
        let said = self.command().arg("-v").output();
        let said = said.map_err(|error| format!("`{}` can not be run: {error}", self.name()))?;
        // nginx says it where errors are said.
        let said = [said.stdout, said.stderr].concat();
        let first = String::from_utf8_lossy(&said);
        Ok(first.lines().next().unwrap_or_default().to_owned())
    }

    /// Not every user's `PATH` has what Debian has put into `/usr/sbin`.
    fn command(self) -> Command {
        let mut path = env::var_os("PATH").unwrap_or_default();
        path.push(":/usr/local/sbin:/usr/sbin");
        let found = env::split_paths(&path).map(|directory| directory.join(self.name()));
        let mut found = found.filter(|program| program.exists());
        Command::new(found.next().unwrap_or_else(|| self.name().into()))
    }
}

/// For the race: see `race.cfg`.
pub const RACE: &str = include_str!("../race.cfg");

/// A proxy that runs; it ends when this is dropped.
pub struct Running {
    proxy: Proxy,
    child: Child,
    directory: TempDir,
    pub front: Front,
}

impl Running {
    /// In front of two replicas, with that configuration.
    pub async fn start(
        proxy: Proxy,
        configuration: &str,
        replicas: [u16; 2],
    ) -> Result<Self, BoxError> {
        let directory = TempDir::new()?;
        let [http1, http2] = [free_port()?, free_port()?];
        let [a, b] = replicas;
        let mut written = configuration.to_owned();
        for (name, value) in [("A", a), ("B", b), ("HTTP1", http1), ("HTTP2", http2)] {
            written = written.replace(&format!("@{name}@"), &value.to_string());
        }
        let path = directory.path().to_str().ok_or("a path in UTF-8")?;
        written = written.replace("@DIRECTORY@", path);
        let file = directory.path().join("configuration");
        fs::write(&file, written)?;

        let mut command = proxy.command();
        match proxy {
            Proxy::Nginx => command.arg("-p").arg(path).arg("-e").arg("error.log"),
            Proxy::Haproxy => command.arg("-db"),
        };
        let flag = match proxy {
            Proxy::Nginx => "-c",
            Proxy::Haproxy => "-f",
        };
        let log = fs::File::create(directory.path().join("said"))?;
        let child = command
            .arg(flag)
            .arg(file)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let [http1, http2] = [http1, http2].map(|port| (Ipv4Addr::LOCALHOST, port).into());
        let mut running = Self {
            proxy,
            child,
            directory,
            front: Front { http1, http2 },
        };
        for address in [http1, http2] {
            let listens = timeout(GUARD, running.listens(address)).await;
            listens.map_err(|_| format!("{} does not listen", proxy.name()))??;
        }
        Ok(running)
    }

    async fn listens(&mut self, address: SocketAddr) -> Result<(), BoxError> {
        while TcpStream::connect(address).await.is_err() {
            if let Some(status) = self.child.try_wait()? {
                let said = self.read("said")? + &self.read("error.log").unwrap_or_default();
                return Err(format!("{}: {status}\n{said}", self.proxy.name()).into());
            }
            sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// How many requests it has sent a second time, though something of them had been sent.
    pub fn sent_twice(&self) -> Result<usize, BoxError> {
        match self.proxy {
            Proxy::Nginx => {
                let lines = self.read("retries.log")?;
                Ok(lines.lines().filter(|line| was_sent_twice(line)).count())
            }
            // It is told to try again only what could not connect.
            Proxy::Haproxy => Ok(0),
        }
    }

    /// Whether HAProxy sends requests to that replica.
    pub fn route(&self, replica: usize, routed: bool) -> Result<(), BoxError> {
        let state = if routed { "ready" } else { "drain" };
        let name = ["a", "b"][replica];
        for backend in ["replicas", "grpc_replicas"] {
            let mut socket = UnixStream::connect(self.directory.path().join("haproxy.sock"))?;
            writeln!(socket, "set server {backend}/{name} state {state}")?;
            let mut said = String::new();
            socket.read_to_string(&mut said)?;
            if !said.trim().is_empty() {
                return Err(said.into());
            }
        }
        Ok(())
    }

    fn read(&self, file: &str) -> io::Result<String> {
        fs::read_to_string(self.path().join(file))
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Running {
    /// nginx has workers, which its end by force would leave behind.
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.child.id().try_into().expect("a pid"));
        let _ = kill(pid, Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

/// `POST 502, 200|0, 312`: what came of each try, and the bytes that were sent. Of all but the last
/// one, none may have been.
fn was_sent_twice(line: &str) -> bool {
    let sent = line.rsplit_once('|').map_or("", |(_, sent)| sent);
    let mut tries = sent.rsplit(", ").skip(1);
    tries.any(|sent| sent != "0" && sent != "-")
}

/// A port that will still be free when a replica has been away for a while: not one of those that the
/// system gives to whoever connects, as the clients and the proxy do all the time.
pub fn free_port() -> io::Result<u16> {
    static GIVEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);
    const FIRST: u16 = 10_000;
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let low = range.split_whitespace().next();
    let low = low.and_then(|low| low.parse().ok()).unwrap_or(32_768);
    let mut given = GIVEN.lock().expect("nobody panics under it");
    let given = given.get_or_insert_default();
    // Where another run starts to look is elsewhere.
    let start = std::process::id() as u16 % 1000 * 20;
    let span = low.max(FIRST + 1) - FIRST;
    for offset in 0..span {
        let port = FIRST + (start % span + offset) % span;
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        if free && given.insert(port) {
            return Ok(port);
        }
    }
    Err(io::Error::other("no port is free"))
}
