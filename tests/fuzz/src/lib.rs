//! Compares what the sniffer says of a connection with what hyper does with the same bytes.
//!
//! The files in `src/net/sniff` are compiled here as they stand. hyper's server runs over an IO in
//! memory that shows each byte to the sniffer, as `DrainIo` does. Nothing waits for time: a step
//! passes a part of the input to hyper, then polls hyper until nothing wakes it any more. Checked
//! after each step:
//!
//! - The sniffer says that a response is awaited while hyper owes one.
//! - It never says that nothing is going on while a response is on its way.
//!
//! After the last step, all calls are answered. A further request then shows where hyper is:
//!
//! - If hyper takes it for a request of its own, hyper was idle. The sniffer has to have said so.
//! - If hyper takes it for a part of another request, the sniffer must not have said idle.
//!
//! Of a connection that hyper closes, nothing is expected but that the sniffer does not panic.

mod service;

#[allow(dead_code)] // The crate uses the rest.
mod drain {
    /// Repeats the enum of the crate's reports, without its docs.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum ConnectionState {
        Silent,
        Reading,
        Handling,
        Streaming,
        Upgraded,
        Idle,
        Opaque,
    }
}

#[path = "../../../src/net"]
mod net {
    #[allow(dead_code)]
    mod sniff;

    use crate::drain::ConnectionState;

    /// Makes the sniffer visible to this crate.
    pub struct Sniffer(sniff::Sniffer);

    impl Sniffer {
        pub fn new() -> Self {
            Self(sniff::Sniffer::new())
        }

        pub fn read(&mut self, bytes: &[u8]) {
            self.0.read(bytes);
        }

        pub fn wrote(&mut self, bytes: &[u8], all: bool) {
            self.0.wrote(bytes, all);
        }

        pub fn activity(&self) -> ConnectionState {
            self.0.activity()
        }

        pub fn is_mid_request(&self) -> bool {
            self.0.is_mid_request()
        }
    }
}

use crate::{
    drain::ConnectionState,
    net::Sniffer,
    service::{Answers, Calls},
};
use hyper::rt::ReadBufCursor;
use hyper_util::server::conn::auto;
use std::{
    cell::RefCell,
    collections::HashSet,
    future::Future,
    io,
    pin::Pin,
    rc::Rc,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Is sent after the input over HTTP/1.
const PROBE: &[u8] = b"GET /probe HTTP/1.1\r\n\r\n";

/// Is sent after the input over HTTP/2: a PING, then an initial window and a WINDOW_UPDATE, each of
/// 1 MiB, so that all responses can be sent. If the PING is answered, no frame of the input has
/// swallowed the rest.
const PROBE_HTTP2: &[u8] = b"\
    \0\0\x08\x06\0\0\0\0\0the ping\
    \0\0\x06\x04\0\0\0\0\0\0\x04\0\x10\0\0\
    \0\0\x04\x08\0\0\0\0\0\0\x10\0\0";
/// Answers that PING.
const PONG: &[u8] = b"\0\0\x08\x06\x01\0\0\0\0the ping";

/// Runs one input: four digits, and the bytes of a client.
///
/// Each digit is an ASCII character that counts from `0` on. The first two are the sizes of the
/// parts in turn, where 0 stands for all that is left. The third is how many steps a call waits for
/// its answer, and each part of a body for the next. The fourth is how many bytes hyper can write
/// in a step; 0 is no limit, and has hyper write a head and its body in one piece.
pub fn run(input: &[u8]) {
    let Some((digits, bytes)) = input.split_first_chunk::<4>() else {
        return;
    };
    let [first, second, hold, credit] = digits.map(|digit| usize::from(digit.wrapping_sub(b'0')));
    let mut server = Server::new(hold, credit);
    let mut sizes = [first, second].into_iter().cycle();
    let mut rest = bytes;
    while let (Some(size), false) = (sizes.next(), rest.is_empty()) {
        let size = if size == 0 { rest.len() } else { size };
        let (part, after) = rest.split_at(size.min(rest.len()));
        rest = after;
        if !server.step(part) {
            return;
        }
    }
    // From here on, nothing is held back.
    server.calls.release();
    server.credit = 0;
    // The second step is for a call that began while the response before it was still being written:
    // hyper 1.12 writes that response, then does not poll the call until something else wakes it.
    if !server.step(b"") || !server.step(b"") {
        return;
    }
    if PREFACE.starts_with(bytes) && bytes.len() < PREFACE.len() {
        let expected = match bytes {
            b"" => ConnectionState::Silent,
            _ => ConnectionState::Reading,
        };
        assert_eq!(server.activity(), expected);
    } else if bytes.starts_with(PREFACE) {
        server.probe_http2();
    } else {
        server.probe_http1(bytes);
    }
}

/// Holds one connection of hyper, and what is on its other side.
struct Server {
    pipe: Arc<Mutex<Pipe>>,
    connection: Task,
    tasks: Tasks,
    calls: Rc<Calls>,
    woken: Arc<Woken>,
    credit: usize,
}

impl Server {
    fn new(hold: usize, credit: usize) -> Self {
        let pipe = Arc::new(Mutex::new(Pipe::new(credit > 0)));
        let calls = Rc::new(Calls::new(hold));
        let tasks = Tasks::default();
        let mut builder = auto::Builder::new(tasks.clone());
        builder.http1().header_read_timeout(None);
        builder.http2().enable_connect_protocol();
        let (io, answers) = (Io(pipe.clone()), Answers(calls.clone()));
        let connection = Box::pin(async move {
            let connection = builder.serve_connection_with_upgrades(io, answers);
            // An error closes the connection, as its end does.
            let _ = connection.await;
        });
        Self {
            pipe,
            connection,
            tasks,
            calls,
            woken: Arc::default(),
            credit,
        }
    }

    fn pipe(&self) -> MutexGuard<'_, Pipe> {
        self.pipe.lock().unwrap()
    }

    fn activity(&self) -> ConnectionState {
        self.pipe().sniffer.activity()
    }

    /// Passes bytes to hyper, lets it do what it can, and compares. Returns whether there is more
    /// to compare.
    fn step(&mut self, bytes: &[u8]) -> bool {
        self.pipe().input.extend(bytes);
        self.pipe().credit = match self.credit {
            0 => usize::MAX,
            credit => credit,
        };
        self.calls.tick();
        let compares = self.settle() && self.is_valid();
        if compares {
            self.compare();
        }
        compares
    }

    /// Polls until nothing wakes any more. Returns whether the connection is still open.
    fn settle(&mut self) -> bool {
        let waker = Waker::from(self.woken.clone());
        let mut cx = Context::from_waker(&waker);
        for _ in 0..10_000 {
            self.woken.0.store(false, Ordering::Relaxed);
            if self.connection.as_mut().poll(&mut cx).is_ready() {
                return false;
            }
            let tasks = std::mem::take(&mut *self.tasks.0.borrow_mut());
            for mut task in tasks {
                if task.as_mut().poll(&mut cx).is_pending() {
                    self.tasks.0.borrow_mut().push(task);
                } else {
                    // The connection may wait for the task without being woken by it.
                    self.woken.0.store(true, Ordering::Relaxed);
                }
            }
            if !self.woken.0.load(Ordering::Relaxed) {
                return true;
            }
        }
        panic!("hyper is woken without end");
    }

    /// Returns whether the client keeps the rules that hyper does not enforce.
    fn is_valid(&self) -> bool {
        let pipe = self.pipe();
        pipe.received.strip_prefix(PREFACE).is_none_or(ascends)
    }

    /// Compares what the sniffer says with what hyper owes.
    fn compare(&self) {
        let (activity, pipe) = (self.activity(), self.pipe());
        let (started, unanswered, live) = self.calls.counts();
        let is_http2 = pipe.received.starts_with(PREFACE);
        let (is_awaited, is_owed) = if is_http2 {
            let mut streams = ended(&pipe.output, true);
            streams.extend(ended(&pipe.received[PREFACE.len()..], false));
            (false, started > streams.len())
        } else {
            (started > heads(&pipe.output), false)
        };
        if unanswered > 0 || is_awaited {
            assert_eq!(activity, ConnectionState::Handling, "a response is awaited");
        }
        if live > 0 || is_owed {
            let is_busy = match activity {
                ConnectionState::Handling | ConnectionState::Upgraded => true,
                ConnectionState::Streaming | ConnectionState::Reading => !is_http2,
                _ => false,
            };
            assert!(is_busy, "{activity:?} while a response is on its way");
        }
    }

    /// Sends a request, which shows whether hyper was idle.
    fn probe_http1(&mut self, bytes: &[u8]) {
        let (before, live) = (self.calls.started(), self.calls.counts().2);
        let activity = self.activity();
        let mid_request = self.pipe().sniffer.is_mid_request();
        let is_open = self.step(PROBE);
        let is_called = self.calls.started() == before + 1 && self.calls.was_probed();
        if is_called {
            assert_eq!(live, 0);
            assert!(!mid_request, "mid-request while hyper is idle");
            let is_idle = match activity {
                ConnectionState::Streaming => before > 0,
                ConnectionState::Silent => bytes.is_empty(),
                // Line breaks alone begin a first request.
                ConnectionState::Reading => before == 0,
                _ => false,
            };
            assert!(is_idle, "{activity:?} while hyper is idle");
            if is_open {
                assert_eq!(
                    self.activity(),
                    ConnectionState::Streaming,
                    "after the probe"
                );
            }
        } else if activity == ConnectionState::Streaming && !rejects_line_breaks(bytes) {
            assert!(mid_request, "idle while hyper is within a request");
        }
    }

    /// Sends a PING, whose answer shows that hyper was between two frames.
    fn probe_http2(&mut self) {
        let is_open = self.step(PROBE_HTTP2);
        let has_pong = self
            .pipe()
            .output
            .windows(PONG.len())
            .any(|part| part == PONG);
        if is_open && has_pong && self.calls.counts().2 == 0 {
            assert_eq!(
                self.activity(),
                ConnectionState::Idle,
                "while hyper is idle"
            );
        }
    }
}

/// Returns whether hyper rejects what comes after these bytes, if they end between two requests. It
/// skips line breaks there, and the sniffer skips any `\r` and `\n`.
fn rejects_line_breaks(bytes: &[u8]) -> bool {
    let is_break = |byte: &&u8| b"\r\n".contains(byte);
    let count = bytes.iter().rev().take_while(is_break).count();
    let breaks = &bytes[bytes.len() - count..];
    breaks.ends_with(b"\r") || breaks.windows(2).any(|two| two == b"\r\r")
}

/// Counts the final responses of HTTP/1 that have begun. No body looks like one.
fn heads(output: &[u8]) -> usize {
    let is_head = |part: &&[u8]| {
        part.starts_with(b"HTTP/1.") && part[8] == b' ' && (part[9] != b'1' || part[11] == b'1')
    };
    output.windows(12).filter(is_head).count()
}

/// Splits bytes into whole HTTP/2 frames: kind, flags and stream of each.
fn frames(mut bytes: &[u8]) -> impl Iterator<Item = (u8, u8, u32)> {
    std::iter::from_fn(move || {
        let ([a, b, c, kind, flags, stream @ ..], rest) = bytes.split_first_chunk::<9>()?;
        bytes = rest.get(u32::from_be_bytes([0, *a, *b, *c]) as usize..)?;
        Some((*kind, *flags, u32::from_be_bytes(*stream) & (u32::MAX >> 1)))
    })
}

/// Returns the streams that are ended: by RST_STREAM, and if the server sends, by END_STREAM.
fn ended(bytes: &[u8], by_server: bool) -> HashSet<u32> {
    let ends = |kind, flags| kind == 3 || (by_server && kind < 2 && flags & 1 != 0);
    let ended = frames(bytes).filter(|(kind, flags, _)| ends(*kind, *flags));
    ended.map(|(.., stream)| stream).collect()
}

/// Returns whether each new stream has a higher number than those before. Otherwise the server has
/// to close the connection (RFC 9113, section 5.1.1). h2 does not if it has rejected the head of
/// the stream with the higher number. The sniffer takes a head with a lower number for trailers.
fn ascends(bytes: &[u8]) -> bool {
    let (mut seen, mut last) = (HashSet::new(), 0);
    frames(bytes)
        .filter(|(kind, ..)| *kind == 1)
        .all(|(.., stream)| {
            last = last.max(stream);
            !seen.insert(stream) || stream == last
        })
}

/// Runs the futures that hyper spawns.
#[derive(Clone, Default)]
struct Tasks(Rc<RefCell<Vec<Task>>>);

type Task = Pin<Box<dyn Future<Output = ()>>>;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Tasks {
    fn execute(&self, task: F) {
        self.0.borrow_mut().push(Box::pin(task));
    }
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Connects hyper with the input and the sniffer.
struct Pipe {
    sniffer: Sniffer,
    /// Holds all bytes of the client.
    input: Vec<u8>,
    /// Holds those that hyper has read.
    received: Vec<u8>,
    output: Vec<u8>,
    /// Counts the bytes that can be written in this step.
    credit: usize,
    is_vectored: bool,
}

impl Pipe {
    fn new(is_vectored: bool) -> Self {
        Self {
            sniffer: Sniffer::new(),
            input: Vec::new(),
            received: Vec::new(),
            output: Vec::new(),
            credit: usize::MAX,
            is_vectored,
        }
    }
}

struct Io(Arc<Mutex<Pipe>>);

impl Io {
    fn pipe(&self) -> MutexGuard<'_, Pipe> {
        self.0.lock().unwrap()
    }
}

impl hyper::rt::Read for Io {
    // Each step polls again, so no waker is kept.
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let pipe = &mut *self.pipe();
        let unread = &pipe.input[pipe.received.len()..];
        let part = &unread[..unread.len().min(buf.remaining())];
        if part.is_empty() {
            return Poll::Pending;
        }
        buf.put_slice(part);
        pipe.sniffer.read(part);
        pipe.received.extend(part);
        Poll::Ready(Ok(()))
    }
}

impl hyper::rt::Write for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let pipe = &mut *self.pipe();
        let mut written = 0;
        for slice in slices {
            let part = &slice[..slice.len().min(pipe.credit)];
            pipe.credit -= part.len();
            written += part.len();
            pipe.output.extend(part);
            if !part.is_empty() {
                pipe.sniffer.wrote(part, part.len() == slice.len());
            }
        }
        match written {
            0 => Poll::Pending,
            written => Poll::Ready(Ok(written)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.pipe().is_vectored
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
