//! Go's `http.Server`, stopped by its `Shutdown`: a process of its own, from the files in `go`.

use super::{LIMIT, Running, Start, TIMEOUT};
use crate::{BoxError, client::Mode};
use std::{
    io::{self, BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

/// Where the files are.
const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/go");

/// Of the program.
const NAME: &str = "server";

/// Builds the program, in a directory that goes with what is given back.
pub(super) fn prepare(mode: Mode) -> Result<Start, BoxError> {
    let (files, since): (&[_], _) = match mode {
        Mode::KeepAlive | Mode::OneEach => (&["main.go"], "1.19"),
        Mode::Http2 => (&["main.go", "http2.go"], "1.24"),
    };
    let directory = TempDir::new()?;
    let built = Command::new("go")
        .current_dir(SOURCE)
        // Nothing here needs a C compiler.
        .env("CGO_ENABLED", "0")
        .args(["build", "-o"])
        .arg(directory.path().join(NAME))
        .args(files)
        .output()
        .map_err(|error| format!("`go` can not be run: {error}"))?;
    if !built.status.success() {
        let error = String::from_utf8_lossy(&built.stderr);
        return Err(format!("Go {since} builds it, but this one says:\n{error}").into());
    }
    Ok(Box::new(move || {
        let program = directory.path().join(NAME);
        Ok(Box::new(Process::start(&program)?))
    }))
}

/// Ends at the end of its standard input, so without this harness, too.
struct Process {
    child: Child,
    address: SocketAddr,
}

impl Process {
    fn start(program: &Path) -> io::Result<Self> {
        let mut child = Command::new(program)
            .arg(format!("{TIMEOUT:?}"))
            // As many threads as the others have.
            .env("GOMAXPROCS", "2")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().expect("it is piped");
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let address = line.trim_end().parse().map_err(io::Error::other)?;
        Ok(Self { child, address })
    }
}

impl Running for Process {
    fn address(&self) -> SocketAddr {
        self.address
    }

    fn stop(mut self: Box<Self>) -> Option<Duration> {
        let start = Instant::now();
        drop(self.child.stdin.take());
        while start.elapsed() < LIMIT {
            let ended = self.child.try_wait().expect("it is our child");
            if ended.is_some() {
                return Some(start.elapsed());
            }
            thread::sleep(Duration::from_millis(1));
        }
        self.child.kill().expect("it is our child");
        self.child.wait().expect("it is our child");
        None
    }
}
