//! Google's client: grpcio, through `client.py`.
//!
//! `GRPC_PYTHON` names the interpreter; the default is `python3`. If that has no grpcio, the test
//! is skipped with a message; if `GRPC_PYTHON` is set, it fails.

use crate::soon;
use std::{
    env,
    io::{self, Write},
    net::SocketAddr,
    process::{self, Stdio},
};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};

/// An interpreter that has grpcio.
pub struct Python {
    interpreter: String,
}

impl Python {
    /// Finds an interpreter with grpcio. Prints that the test is skipped if there is none.
    pub fn with_grpcio(test: &str) -> Option<Self> {
        let named = env::var("GRPC_PYTHON").ok();
        let interpreter = named.as_deref().unwrap_or("python3");
        let has_grpcio = process::Command::new(interpreter)
            .args(["-c", "import grpc"])
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        if has_grpcio {
            return Some(Self {
                interpreter: interpreter.to_owned(),
            });
        }
        assert!(named.is_none(), "GRPC_PYTHON={interpreter} has no grpcio");
        // Not `eprintln!`: the test harness keeps that to itself when a test passes.
        let mut stderr = io::stderr().lock();
        writeln!(stderr, "\nSKIPPED {test}: {interpreter} has no grpcio\n").ok();
        None
    }

    pub fn call(&self, address: SocketAddr, method: &str, kind: &str, message: &[u8]) -> Call {
        let hex: String = message.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut child = Command::new(&self.interpreter)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/client.py"))
            .args([&address.to_string(), method, kind, &hex])
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("an interpreter that has just run");
        let stdout = child.stdout.take().expect("it is piped");
        Call {
            lines: BufReader::new(stdout).lines(),
            _child: child,
        }
    }
}

/// A call in a process of its own.
pub struct Call {
    lines: Lines<BufReader<ChildStdout>>,
    _child: Child,
}

impl Call {
    /// Reads the next line that `client.py` prints.
    pub async fn line(&mut self) -> Option<String> {
        soon("the Python client", self.lines.next_line())
            .await
            .expect("lines of text")
    }

    /// All lines that are left.
    pub async fn finish(mut self) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some(line) = self.line().await {
            lines.push(line);
        }
        lines
    }
}
