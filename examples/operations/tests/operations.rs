//! The person on call, while it drains.
#![cfg(unix)]

use nix::{
    sys::signal::{Signal::SIGTERM, kill},
    unistd::Pid,
};
use prometheus_parse::{Scrape, Value};
use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Child, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// For what takes seconds, on a machine that is busy with something else.
const GUARD: Duration = Duration::from_secs(60);

struct Service {
    process: Child,
    _stdout: BufReader<ChildStdout>,
    public: SocketAddr,
    admin: SocketAddr,
}

impl Service {
    fn start(grace: &str) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_example-operations"))
            .args(["127.0.0.1:0", "127.0.0.1:0"])
            .env("TERMINATION_GRACE_PERIOD_SECONDS", grace)
            .env("PRE_STOP_SECONDS", "0")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut stdout = BufReader::new(process.stdout.take().expect("it is piped"));
        let mut address = || {
            let mut line = String::new();
            stdout.read_line(&mut line).expect("a line");
            let address = line.trim().strip_prefix("http://").expect("an address");
            address.parse().expect("an address")
        };
        let (public, admin) = (address(), address());
        Self {
            process,
            _stdout: stdout,
            public,
            admin,
        }
    }

    fn terminate(&self) {
        let pid = Pid::from_raw(self.process.id().try_into().expect("a pid"));
        kill(pid, SIGTERM).expect("it is there");
    }

    /// An upload that has not ended, and its client's address.
    fn upload(&self) -> (TcpStream, SocketAddr) {
        let mut client = connect(self.public);
        let head =
            "POST /upload?token=secret HTTP/1.1\r\nhost: test\r\ncontent-length: 5\r\n\r\nhel";
        client.write_all(head.as_bytes()).expect("it reads");
        let peer = client.local_addr().expect("connected");
        // It may take a moment until it is read.
        self.until(|service| service.metrics()["graceful_in_flight{kind=request}"] == 1.0);
        (client, peer)
    }

    fn ask(&self, path: &str, accept: &str) -> (u16, String) {
        let mut client = connect(self.admin);
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: test\r\naccept: {accept}\r\nconnection: close\r\n\r\n"
        );
        client.write_all(request.as_bytes()).expect("it reads");
        let response = rest(&mut client);
        let (head, body) = response.split_once("\r\n\r\n").expect("a head");
        let status = head.split(' ').nth(1).expect("a status");
        (status.parse().expect("a number"), body.to_owned())
    }

    fn status(&self, path: &str) -> u16 {
        self.ask(path, "*/*").0
    }

    fn report(&self) -> serde_json::Value {
        let (_, body) = self.ask("/drainz", "application/json");
        serde_json::from_str(&body).expect("JSON")
    }

    /// As Prometheus reads it.
    fn metrics(&self) -> BTreeMap<String, f64> {
        let (status, text) = self.ask("/metrics", "*/*");
        assert_eq!(status, 200);
        let lines = text.lines().map(|line| Ok(line.to_owned()));
        let scrape = Scrape::parse(lines).expect("Prometheus' format");
        let samples = scrape.samples.into_iter().map(|sample| {
            let labels: Vec<_> = sample
                .labels
                .iter()
                .map(|(k, v)| format!("{k}={v}"))
                .collect();
            let value = match sample.value {
                Value::Counter(value) | Value::Gauge(value) | Value::Untyped(value) => value,
                other => panic!("{other:?}"),
            };
            match labels.is_empty() {
                true => (sample.metric, value),
                false => (format!("{}{{{}}}", sample.metric, labels.join(",")), value),
            }
        });
        samples.collect()
    }

    fn until(&self, is_so: impl Fn(&Self) -> bool) {
        let started = Instant::now();
        while !is_so(self) {
            assert!(started.elapsed() < GUARD, "it does not come to that");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Its exit code, and all that it has logged.
    fn ends(mut self) -> (Option<i32>, String) {
        let mut stderr = self.process.stderr.take().expect("it is piped");
        let mut log = String::new();
        stderr.read_to_string(&mut log).expect("text");
        (self.process.wait().expect("it ends").code(), log)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let client = TcpStream::connect(address).expect("it listens");
    client.set_read_timeout(Some(GUARD)).expect("not zero");
    client
}

fn rest(client: &mut TcpStream) -> String {
    let mut rest = String::new();
    client.read_to_string(&mut rest).expect("a FIN");
    rest
}

#[test]
fn it_says_what_it_waits_for_while_it_drains() {
    let service = Service::start("60");
    assert_eq!(
        (service.status("/readyz"), service.status("/livez")),
        (200, 200)
    );
    assert_eq!(service.metrics()["graceful_drain_phase"], 0.0);
    assert_eq!(service.report()["phase"], "serving");
    let (mut client, peer) = service.upload();
    let mut events = connect(service.public);
    let request = "GET /events HTTP/1.1\r\nhost: test\r\n\r\n";
    events.write_all(request.as_bytes()).expect("it reads");
    service.until(|service| service.metrics()["graceful_in_flight{kind=request}"] == 2.0);

    service.terminate();

    service.until(|service| service.status("/readyz") == 503);
    assert_eq!(service.status("/livez"), 200);
    assert_eq!(service.report()["phase"], "lame_duck");
    service.until(|service| service.metrics()["graceful_drain_phase"] == 2.0);
    // The listener has closed; that of the probes has not. The stream has said goodbye.
    assert!(TcpStream::connect(service.public).is_err());
    let goodbye = "event: goodbye\ndata: come again\n\n\r\n0\r\n\r\n";
    assert!(rest(&mut events).ends_with(goodbye));
    assert_eq!(
        (service.status("/readyz"), service.status("/livez")),
        (503, 200)
    );

    service.until(|service| service.metrics()["graceful_in_flight{kind=task}"] == 0.0);
    let metrics = service.metrics();
    assert_eq!(metrics["graceful_in_flight{kind=request}"], 1.0);
    assert_eq!(metrics["graceful_in_flight{kind=connection}"], 1.0);
    assert_eq!(metrics["graceful_connections{state=handling}"], 1.0);
    assert_eq!(metrics["graceful_completed_total"], 1.0);
    assert_eq!(metrics["graceful_refused_total"], 0.0);
    let (elapsed, remaining) = (
        metrics["graceful_drain_elapsed_seconds"],
        metrics["graceful_drain_remaining_seconds"],
    );
    // Of the pod's 60 s, 2 s are for its end.
    assert!(
        (57.9..58.1).contains(&(elapsed + remaining)),
        "{elapsed} {remaining}"
    );
    assert!(elapsed >= 5.0, "{elapsed}");

    let report = service.report();
    assert_eq!(report["left"]["requests"], 1);
    let blockers = report["blockers"].as_array().expect("a list");
    let request = blockers
        .iter()
        .find(|it| it["kind"] == "request")
        .expect("it is there");
    assert_eq!(
        (&request["method"], &request["path"]),
        (&"POST".into(), &"/upload".into())
    );
    assert_eq!(request["peer"], peer.to_string());
    let (_, table) = service.ask("/drainz", "*/*");
    assert!(table.starts_with("draining for "), "{table}");
    assert!(
        table.contains("\nrequest     POST /upload  waiting   127.0.0.1:"),
        "{table}"
    );
    assert!(!table.contains("secret"), "{table}");

    client.write_all(b"lo").expect("it reads");
    let answer = rest(&mut client);
    assert!(
        answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\n5"),
        "{answer}"
    );
    let (code, log) = service.ends();
    assert_eq!(code, Some(0), "{log}");
    let lines: Vec<_> = log
        .lines()
        .filter(|line| !line.contains("still draining"))
        .collect();
    assert_eq!(lines.len(), 3, "{log}");
    for (line, says) in lines
        .iter()
        .zip(["the drain begins", "draining", "drained"])
    {
        assert!(
            line.contains(&format!(" INFO tower_graceful: {says} ")),
            "{line}"
        );
    }
}

#[test]
fn it_says_what_it_has_cut() {
    // 2 s for the drain, half of them lame duck.
    let service = Service::start("4");
    let (mut client, _) = service.upload();
    service.terminate();
    // Its handler still waits for the upload, so nobody knows what was executed.
    let answer = rest(&mut client);
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(!answer.contains("retry-after"), "{answer}");
    let (code, log) = service.ends();
    assert_eq!(code, Some(1), "{log}");
    assert!(
        log.contains(" WARN tower_graceful: the drain was given up "),
        "{log}"
    );
    assert!(
        log.contains(" WARN tower_graceful: cut blocker=request POST /upload, waiting, "),
        "{log}"
    );
    assert!(log.contains("drain given up after 2."), "{log}");
    assert!(
        log.contains(" left (0 completed, 0 refused, 1 answered at the deadline)\nkind "),
        "{log}"
    );
    assert!(!log.contains("outbox"), "that was through: {log}");
}

#[test]
fn a_setting_that_is_none_is_said() {
    let run = Command::new(env!("CARGO_BIN_EXE_example-operations"))
        .env("TERMINATION_GRACE_PERIOD_SECONDS", "30s")
        .output()
        .expect("it starts");
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(
        said.contains("TERMINATION_GRACE_PERIOD_SECONDS=30s: invalid digit"),
        "{said}"
    );
}
