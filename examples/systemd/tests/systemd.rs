//! What systemd hears of a service that drains.
#![cfg(target_os = "linux")]

use command_fds::{CommandFdExt, FdMapping};
use nix::{
    sys::signal::{Signal::SIGTERM, kill},
    unistd::Pid,
};
use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::{
        fd::OwnedFd,
        unix::net::{UnixDatagram, UnixStream},
    },
    path::PathBuf,
    process::{self, Child, Command},
    time::Duration,
};

/// For what takes milliseconds, on a machine that is busy with something else.
const GUARD: Duration = Duration::from_secs(20);

#[test]
fn requests_are_answered_and_systemd_is_asked_to_wait() {
    let mut service = Service::start("answered", &["60", "127.0.0.1:0"], None);
    let mut client = Client::upload(service.ready());

    service.terminate();
    service.says("STOPPING=1");
    // It is said again, and never for longer than until the next time may be missed.
    for _ in 0..3 {
        let message = service.message("EXTEND_TIMEOUT_USEC=");
        let (micros, status) = extension(&message);
        assert_eq!(micros, 5_000_000);
        assert!(status.starts_with("waits for 1 request, "), "{status}");
    }

    let answer = client.finish();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nhello"), "{answer}");
    let status = service.says("STATUS=drained in ");
    assert!(status.ends_with("nothing left"), "{status}");
    assert_eq!(service.exit_code(), Some(0));
}

#[test]
fn systemd_is_not_asked_to_wait_beyond_the_deadline() {
    let mut service = Service::start("cut", &["2", "127.0.0.1:0"], None);
    let mut client = Client::upload(service.ready());

    service.terminate();
    // The deadline, and 2 s; each time, which is a second later, at least one less.
    let mut limit = 4_000_000;
    let outcome = loop {
        let message = service.hears();
        if message.starts_with("EXTEND_TIMEOUT_USEC=") {
            let (micros, _) = extension(&message);
            assert!(micros <= limit, "{micros}, {limit}");
            limit -= 1_000_000;
        } else if message.starts_with("STATUS=") {
            break message;
        }
    };
    assert!(limit < 4_000_000, "it was asked once at least");
    let given_up = "STATUS=drain given up after 2";
    assert!(outcome.starts_with(given_up), "{outcome}");
    assert!(outcome.contains(" with 1 request, "), "{outcome}");
    let answer = client.rest();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert_eq!(service.exit_code(), Some(1));
}

#[test]
fn the_socket_is_the_one_that_systemd_gives() {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a port of the loopback");
    let address = socket.local_addr().expect("bound");
    let mut service = Service::start("given", &[], Some(socket));
    assert_eq!(service.ready(), address);
    assert!(Client::get(address).ends_with("\r\n\r\nhello\n"));

    // Idle, it is over at once, and says so all the same.
    service.terminate();
    service.says("STOPPING=1");
    assert_eq!(service.exit_code(), Some(0));
}

struct Service {
    process: Child,
    /// Its end is that of the process.
    stdout: UnixStream,
    manager: UnixDatagram,
    directory: PathBuf,
}

impl Service {
    fn start(test: &str, arguments: &[&str], socket: Option<TcpListener>) -> Self {
        // Not in the target directory: the path of a socket is to be short.
        let directory = std::env::temp_dir().join(format!("systemd-{test}-{}", process::id()));
        fs::create_dir_all(&directory).expect("a directory");
        let path = directory.join("notify");
        let manager = UnixDatagram::bind(&path).expect("a socket");
        manager.set_read_timeout(Some(GUARD)).expect("not zero");
        let (stdout, theirs) = UnixStream::pair().expect("a pair");
        stdout.set_read_timeout(Some(GUARD)).expect("not zero");

        let mut command = Command::new(env!("CARGO_BIN_EXE_example-systemd"));
        command
            .args(arguments)
            .env("NOTIFY_SOCKET", path)
            .stdout(OwnedFd::from(theirs));
        if let Some(socket) = socket {
            let socket = FdMapping {
                parent_fd: socket.into(),
                child_fd: 3,
            };
            command.env("LISTEN_FDS", "1");
            command.fd_mappings(vec![socket]).expect("one");
        }
        Self {
            process: command.spawn().expect("it starts"),
            stdout,
            manager,
            directory,
        }
    }

    /// Where it serves.
    fn ready(&self) -> SocketAddr {
        let message = self.message("READY=1");
        let address = value(&message, "STATUS=serves http://");
        address.parse().expect("an address")
    }

    fn says(&self, start: &str) -> String {
        let message = self.message(start);
        format!("{start}{}", value(&message, start))
    }

    /// The next one with such a line.
    fn message(&self, start: &str) -> String {
        loop {
            let message = self.hears();
            if message.lines().any(|line| line.starts_with(start)) {
                return message;
            }
        }
    }

    fn hears(&self) -> String {
        let mut buffer = [0; 4096];
        let length = self.manager.recv(&mut buffer).expect("a message");
        let message = String::from_utf8(buffer[..length].to_vec()).expect("text");
        println!("{message}");
        message
    }

    fn terminate(&self) {
        let process = Pid::from_raw(self.process.id() as i32);
        kill(process, SIGTERM).expect("it is there");
    }

    fn exit_code(&mut self) -> Option<i32> {
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).expect("its end");
        self.process.wait().expect("a child").code()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // An error means that it has ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// By how much, and why.
fn extension(message: &str) -> (u64, &str) {
    let micros = value(message, "EXTEND_TIMEOUT_USEC=");
    (micros.parse().expect("a number"), value(message, "STATUS="))
}

fn value<'a>(message: &'a str, start: &str) -> &'a str {
    let value = message.lines().find_map(|line| line.strip_prefix(start));
    value.unwrap_or_else(|| panic!("{start} in {message}"))
}

struct Client {
    stream: TcpStream,
}

impl Client {
    /// A request that its handler waits for, until it is finished.
    fn upload(address: SocketAddr) -> Self {
        let mut client = Self::connect(address);
        client.send(
            "POST / HTTP/1.1\r\nhost: test\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n",
        );
        let mut go_on = [0; b"HTTP/1.1 100 Continue\r\n\r\n".len()];
        client.stream.read_exact(&mut go_on).expect("it is read");
        assert!(go_on.starts_with(b"HTTP/1.1 100 "));
        client
    }

    fn finish(&mut self) -> String {
        self.send("hello");
        self.rest()
    }

    fn get(address: SocketAddr) -> String {
        let mut client = Self::connect(address);
        client.send("GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
        client.rest()
    }

    fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&address, GUARD).expect("it listens");
        stream.set_read_timeout(Some(GUARD)).expect("not zero");
        Self { stream }
    }

    fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).expect("it reads");
    }

    fn rest(&mut self) -> String {
        let mut rest = String::new();
        self.stream.read_to_string(&mut rest).expect("a FIN");
        rest
    }
}
