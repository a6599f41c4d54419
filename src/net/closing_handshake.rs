//! Closes a WebSocket in a drain, in place of its handler ([RFC 6455, section
//! 7](https://www.rfc-editor.org/rfc/rfc6455#section-7)).

use super::sniff::WebSocket;
use crate::{drain::Connection, timer::random};
use std::{
    future::Future,
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};
use tokio::{io::AsyncWrite, task::consume_budget, time::Instant};

/// Limits how long the client may take to answer the Close frame.
const ANSWER: Duration = Duration::from_secs(5);

/// Says how WebSockets are closed; see
/// [`close_websockets`](super::DrainListener::close_websockets).
#[derive(Clone, Debug, Default)]
pub(crate) struct CloseWebSockets {
    /// Holds the Close frame. Empty if WebSockets are not closed.
    frame: Vec<u8>,
    /// Says over what time the Close frames are spread.
    pub(crate) over: Duration,
}

impl CloseWebSockets {
    /// Sets the status code and the reason of the Close frame.
    pub(crate) fn set(&mut self, code: u16, reason: &str) {
        assert!(
            matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999),
            "a WebSocket cannot be closed with the code {code}"
        );
        // A control frame has 125 bytes at most, two of which are the code.
        assert!(
            reason.len() <= 123,
            "the reason of a Close frame must not be longer than 123 bytes"
        );
        // Final and not compressed, as control frames have to be, and not masked.
        self.frame = vec![0x88, 2 + reason.len() as u8];
        self.frame.extend(code.to_be_bytes());
        self.frame.extend(reason.as_bytes());
    }

    /// Returns the settings for a connection, if WebSockets are closed.
    pub(crate) fn share(self: &Arc<Self>) -> Option<Arc<Self>> {
        (!self.frame.is_empty()).then(|| self.clone())
    }
}

/// Follows a WebSocket, writes a Close frame in the drain, and waits for that of the client.
pub(super) struct ClosingHandshake {
    settings: Arc<CloseWebSockets>,
    pub(super) websocket: WebSocket,
    connection: Arc<Connection>,
    /// Holds a random number, which places the Close frame within the duration.
    share: u16,
    /// Says when to give up the connection; `None` until the Close frame has begun. What the server
    /// writes is discarded from then on.
    pub(super) until: Option<Instant>,
    /// Counts the bytes of the Close frame that were written.
    written: usize,
    /// Says whether the Close frame was written and flushed.
    is_sent: bool,
}

impl ClosingHandshake {
    pub(super) fn new(
        settings: Arc<CloseWebSockets>,
        websocket: WebSocket,
        connection: Arc<Connection>,
    ) -> Self {
        Self {
            settings,
            websocket,
            connection,
            share: random(),
            until: None,
            written: 0,
            is_sent: false,
        }
    }

    /// Returns whether both sides have sent a Close frame. Nothing is read after that.
    pub(super) fn has_closed(&self) -> bool {
        self.is_sent && self.websocket.client.has_closed()
    }

    /// Returns whether the client has not answered in time.
    pub(super) fn is_overdue(&self) -> bool {
        self.until.is_some_and(|until| until <= Instant::now())
    }

    /// Returns when the Close frame is due; `None` before the drain, and once it is being written.
    fn due_at(&self) -> Option<Instant> {
        if self.until.is_some() {
            return None;
        }
        let (over, share) = (self.settings.over, self.share);
        self.connection
            .schedule(|schedule| schedule.closes_websocket_at(over, share))
    }

    fn is_due(&self) -> bool {
        self.due_at().is_some_and(|at| at <= Instant::now())
    }

    /// Returns when the Close frame will be due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.due_at().filter(|at| *at > Instant::now())
    }

    /// Returns whether the Close frame may be written now: it is due, and no frame of the server
    /// has begun.
    pub(super) fn may_begin(&self) -> bool {
        self.websocket.is_open() && self.websocket.server.is_between_frames() && self.is_due()
    }

    /// Returns the bytes that the server may write: up to the end of its frame if the Close frame
    /// is due.
    pub(super) fn limit_write<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        let mut frames = self.websocket.server;
        match self.is_due() {
            true => &bytes[..frames.end_frame(bytes)],
            false => bytes,
        }
    }

    /// Discards bytes that the server writes after the Close frame. Fails once the connection is
    /// given up.
    pub(super) fn poll_discard(
        &self,
        bytes: &[u8],
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        // Otherwise a handler that always has something to send would never yield.
        ready!(pin!(consume_budget()).poll(cx));
        Poll::Ready(match self.is_overdue() {
            true => Err(io::ErrorKind::BrokenPipe.into()),
            false => Ok(bytes.len()),
        })
    }

    /// Writes the Close frame, as far as it may and can be written. Returns whether it has begun.
    ///
    /// The tasks that read and write have registered with the connection, and all of them wake when
    /// the socket takes more. The socket itself keeps the waker of one task, which may have ended.
    pub(super) fn advance<T: AsyncWrite>(&mut self, io: Pin<&mut T>) -> bool {
        if self.may_begin() {
            self.until = Some(Instant::now() + ANSWER);
            // A pending write is discarded, and a pending read has another limit.
            self.connection.wakers.wake_all();
        }
        let has_begun = self.until.is_some();
        if has_begun && !self.is_sent {
            let waker = Waker::from(self.connection.clone());
            let mut cx = Context::from_waker(&waker);
            // If it fails, the next read fails, too.
            let frame = &self.settings.frame;
            self.is_sent = poll_write_all(io, frame, &mut self.written, &mut cx).is_ready();
        }
        has_begun
    }
}

/// Writes and flushes. Ready once that is done or has failed.
fn poll_write_all<T: AsyncWrite>(
    mut io: Pin<&mut T>,
    bytes: &[u8],
    written: &mut usize,
    cx: &mut Context<'_>,
) -> Poll<()> {
    while *written < bytes.len() {
        match ready!(io.as_mut().poll_write(cx, &bytes[*written..])) {
            Ok(0) | Err(_) => return Poll::Ready(()),
            Ok(more) => *written += more,
        }
    }
    io.poll_flush(cx).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::super::DrainIo;
    use super::*;
    use crate::{
        Drain,
        drain::{ConnectionGuard, Stage},
    };
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio_test::{assert_pending, assert_ready_ok, task};

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: test\r\nupgrade: websocket\r\n\r\n";
    const HEAD: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\n\r\n";
    const CLOSE_1001: &[u8] = b"\x88\x05\x03\xe9bye";
    /// The client's, masked with zeros.
    const ANSWER_1001: &[u8] = b"\x88\x82\0\0\0\0\x03\xe9";

    /// Two frames of a compressed message, and a Ping in between.
    fn frames() -> [Vec<u8>; 3] {
        let mut long = b"\x41\x7e\x00\x80".to_vec();
        long.resize(4 + 128, 0x88);
        [long, b"\x89\x01\x88".to_vec(), b"\x80\x02\x88\x00".to_vec()]
    }

    fn connection(drain: &Drain, buffer: usize) -> (DrainIo<DuplexStream>, DuplexStream) {
        let (server, client) = duplex(buffer);
        let guard = ConnectionGuard::enter(drain.shared(), None).expect("serving");
        let mut settings = CloseWebSockets::default();
        settings.set(1001, "bye");
        let io = DrainIo::accepted(server, guard).close_websockets(Arc::new(settings).share());
        (io, client)
    }

    /// A connection whose client has asked for a WebSocket.
    async fn asked(drain: &Drain) -> (DrainIo<DuplexStream>, DuplexStream) {
        let (mut io, mut client) = connection(drain, 1 << 20);
        client.write_all(REQUEST).await.expect("open");
        let mut request = [0; REQUEST.len()];
        io.read_exact(&mut request).await.expect("a request");
        (io, client)
    }

    /// A connection that has become a WebSocket.
    async fn opened(drain: &Drain) -> (DrainIo<DuplexStream>, DuplexStream) {
        let (mut io, client) = asked(drain).await;
        io.write_all(HEAD).await.expect("open");
        (io, client)
    }

    async fn is_due(drain: &Drain) {
        drain.begin();
        drain.reached(crate::Phase::Draining).await;
        tokio::time::sleep(Duration::from_millis(101)).await;
        assert!(drain.shared().stage() >= Stage::LastRead);
    }

    async fn received(client: &mut DuplexStream, length: usize) -> Vec<u8> {
        let mut received = vec![0; length];
        client.read_exact(&mut received).await.expect("open");
        received
    }

    /// The drain comes after each byte that the server writes.
    #[tokio::test(start_paused = true)]
    async fn the_close_frame_comes_at_the_next_boundary() {
        let frames = frames();
        let all = [HEAD, &frames.concat()].concat();
        for cut in HEAD.len()..all.len() {
            let drain = Drain::builder().settle(Duration::ZERO).build();
            let (mut io, mut client) = asked(&drain).await;
            // The first frames may be in one write with the head.
            io.write_all(&all[..cut]).await.expect("open");
            is_due(&drain).await;
            // The end of the frame and the next one, in one write.
            io.write_all(&all[cut..]).await.expect("open");
            io.flush().await.expect("open");
            let mut boundary = HEAD.len();
            for frame in &frames {
                if boundary < cut {
                    boundary += frame.len();
                }
            }
            let expected = [&all[..boundary], CLOSE_1001].concat();
            assert_eq!(received(&mut client, expected.len()).await, expected);
            // The client ends its own frame, and answers. The server reads both, and then the end.
            client.write_all(b"\x81\x80\0\0").await.expect("open");
            client.write_all(b"\0\0").await.expect("open");
            client.write_all(ANSWER_1001).await.expect("open");
            let mut rest = Vec::new();
            io.read_to_end(&mut rest).await.expect("an end of file");
            assert_eq!(rest, [b"\x81\x80\0\0\0\0", ANSWER_1001].concat());
            io.write_all(b"\x88\x02\x03\xe9").await.expect("discarded");
            drop(io);
            assert_eq!(client.read_to_end(&mut rest).await.expect("the end"), 0);
            assert!(drain.wait().await.is_ok(), "{cut}");
        }
    }

    /// Only a read is pending, and the client takes one byte after the other.
    #[tokio::test(start_paused = true)]
    async fn a_pending_read_writes_the_close_frame() {
        for buffer in 1..CLOSE_1001.len() + 1 {
            let drain = Drain::builder().settle(Duration::ZERO).build();
            let (mut io, mut client) = connection(&drain, buffer);
            let handler = tokio::spawn(async move {
                let mut request = [0; REQUEST.len()];
                io.read_exact(&mut request).await.expect("a request");
                io.write_all(HEAD).await.expect("open");
                let mut rest = Vec::new();
                io.read_to_end(&mut rest).await.expect("an end of file");
                rest
            });
            client.write_all(REQUEST).await.expect("open");
            assert_eq!(received(&mut client, HEAD.len()).await, HEAD);
            drain.begin();
            let close = received(&mut client, CLOSE_1001.len()).await;
            assert_eq!(close, CLOSE_1001);
            client.write_all(ANSWER_1001).await.expect("open");
            assert_eq!(handler.await.expect("no panic"), ANSWER_1001);
        }
    }

    /// Those bytes are the first ones of the WebSocket, and not of another request.
    #[tokio::test(start_paused = true)]
    async fn a_frame_behind_the_request_is_followed() {
        // It looks like a Close frame to a reader that begins within it.
        let early = b"\x81\x84\0\0\0\0\x88\x80\0\0";
        for cut in 0..early.len() {
            let drain = Drain::builder().settle(Duration::ZERO).build();
            let (mut io, mut client) = connection(&drain, 4096);
            client.write_all(REQUEST).await.expect("open");
            client.write_all(&early[..cut]).await.expect("open");
            let mut read = vec![0; REQUEST.len() + cut];
            io.read_exact(&mut read).await.expect("a request");
            io.write_all(HEAD).await.expect("open");
            is_due(&drain).await;
            client.write_all(&early[cut..]).await.expect("open");
            client.write_all(ANSWER_1001).await.expect("open");
            let began = Instant::now();
            let mut rest = Vec::new();
            io.read_to_end(&mut rest).await.expect("an end of file");
            assert_eq!(rest, [&early[cut..], ANSWER_1001].concat(), "{cut}");
            assert_eq!(began.elapsed(), Duration::ZERO);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_has_five_seconds_to_answer() {
        let drain = Drain::builder().settle(Duration::ZERO).build();
        let (mut io, _client) = opened(&drain).await;
        drain.begin();
        let began = Instant::now();
        assert_eq!(io.read(&mut [0]).await.expect("an end of file"), 0);
        let delay = began.elapsed().as_millis();
        assert!((5100..5110).contains(&delay), "{delay}");
        let error = io.write(b"\x81\x00").await.expect_err("no more");
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }

    /// A write is pending between two frames, in another task than the read.
    #[tokio::test(start_paused = true)]
    async fn a_handler_whose_client_does_not_read_ends_after_five_seconds() {
        let drain = Drain::builder().settle(Duration::ZERO).build();
        let (mut io, mut client) = connection(&drain, 64);
        let handler = async move {
            io.read_exact(&mut [0; REQUEST.len()]).await?;
            io.write_all(HEAD).await?;
            let (mut read, mut write) = tokio::io::split(io);
            let writer = tokio::spawn(async move {
                // The first one fills the buffer.
                let frame = [&b"\x82\x3e"[..], &[0; 62]].concat();
                while write.write_all(&frame).await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            });
            read.read_to_end(&mut Vec::new()).await?;
            writer.await.expect("no panic");
            io::Result::Ok(())
        };
        let handler = tokio::spawn(handler);
        client.write_all(REQUEST).await.expect("open");
        assert_eq!(received(&mut client, HEAD.len()).await, HEAD);
        tokio::time::sleep(Duration::from_millis(500)).await;
        drain.begin();
        let began = Instant::now();
        handler.await.expect("no panic").expect("an end of file");
        let delay = began.elapsed().as_millis();
        assert!((5100..5300).contains(&delay), "{delay}");
    }

    /// No read is ever pending.
    #[tokio::test(start_paused = true)]
    async fn a_client_that_always_sends_has_five_seconds_to_answer() {
        let drain = Drain::builder().settle(Duration::ZERO).build();
        let (mut io, mut client) = opened(&drain).await;
        let empty = b"\x81\x80\0\0\0\0";
        client.write_all(&empty.repeat(10_000)).await.expect("open");
        drain.begin();
        let began = Instant::now();
        while io.read(&mut [0; 6]).await.expect("an end of file") > 0 {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let delay = began.elapsed().as_millis();
        assert!((5100..5300).contains(&delay), "{delay}");
    }

    /// One task writes, and reads nothing meanwhile.
    #[tokio::test(start_paused = true)]
    async fn a_handler_that_only_writes_ends_after_five_seconds() {
        let drain = Drain::builder().settle(Duration::ZERO).build();
        let (mut io, mut client) = connection(&drain, 64);
        let handler = tokio::spawn(async move {
            io.read_exact(&mut [0; REQUEST.len()]).await?;
            io.write_all(HEAD).await?;
            // The first one fills the buffer.
            let frame = [&b"\x82\x3e"[..], &[0; 62]].concat();
            while io.write_all(&frame).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            io::Result::Ok(())
        });
        client.write_all(REQUEST).await.expect("open");
        assert_eq!(received(&mut client, HEAD.len()).await, HEAD);
        tokio::time::sleep(Duration::from_millis(500)).await;
        drain.begin();
        let began = Instant::now();
        handler.await.expect("no panic").expect("open");
        let delay = began.elapsed().as_millis();
        assert!((5100..5300).contains(&delay), "{delay}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_closes_by_itself_goes_on() {
        let drain = Drain::builder().settle(Duration::ZERO).build();
        let (mut io, mut client) = opened(&drain).await;
        drain.begin();
        drain.reached(crate::Phase::Draining).await;
        // The other half of its Close frame comes after our moment.
        io.write_all(b"\x88\x02\x03").await.expect("open");
        tokio::time::sleep(Duration::from_millis(101)).await;
        io.write_all(b"\xe8").await.expect("open");
        let expected = [HEAD, b"\x88\x02\x03\xe8"].concat();
        assert_eq!(received(&mut client, expected.len()).await, expected);
        let mut read = task::spawn(io.read_u8());
        assert_pending!(read.poll());
        client.write_all(b"\x88").await.expect("open");
        assert_eq!(assert_ready_ok!(read.poll()), 0x88);
        drop(read);
        drop(io);
        let end = client.read_to_end(&mut Vec::new()).await;
        assert_eq!(end.expect("the end"), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_closes_in_one_write_with_its_head_is_left_alone() {
        let drain = Drain::builder().settle(Duration::ZERO).build();
        let (mut io, mut client) = asked(&drain).await;
        let all = [HEAD, b"\x88\x02\x03\xe8"].concat();
        io.write_all(&all).await.expect("open");
        is_due(&drain).await;
        io.flush().await.expect("open");
        drop(io);
        let mut received = Vec::new();
        client.read_to_end(&mut received).await.expect("the end");
        assert_eq!(received, all);
    }

    #[tokio::test(start_paused = true)]
    async fn other_protocols_are_not_closed() {
        for head in [
            &b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: other\r\n\r\n"[..],
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket2\r\n\r\n",
        ] {
            let drain = Drain::builder().settle(Duration::ZERO).build();
            let (mut io, mut client) = asked(&drain).await;
            io.write_all(head).await.expect("open");
            is_due(&drain).await;
            io.write_all(b"here").await.expect("open");
            let expected = [head, b"here"].concat();
            assert_eq!(received(&mut client, expected.len()).await, expected);
        }
    }

    #[test]
    fn only_codes_that_may_be_sent_are_taken() {
        let takes = |code, reason: &str| {
            std::panic::catch_unwind(|| CloseWebSockets::default().set(code, reason)).is_ok()
        };
        let longest = "x".repeat(123);
        for code in [1000, 1001, 1003, 1007, 1012, 1014, 3000, 4999] {
            assert!(takes(code, &longest), "{code}");
        }
        for code in [0, 999, 1004, 1005, 1006, 1015, 2999, 5000] {
            assert!(!takes(code, ""), "{code}");
        }
        assert!(!takes(1001, &"x".repeat(124)));
    }
}
