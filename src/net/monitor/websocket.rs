//! Closes the WebSocket that a connection has become.

use super::{
    super::{closing_handshake::ClosingHandshake, sniff::WebSocket},
    Monitor,
};
use crate::drain::{Role, Stage};
use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};
use tokio::io::AsyncWrite;

impl Monitor {
    /// Follows bytes that were written, until the server closes its WebSocket by itself.
    #[inline]
    pub(super) fn follow_written(&mut self, bytes: &[u8]) {
        if let Some(handshake) = &mut self.closing_handshake {
            handshake.wrote(bytes);
            if handshake.is_closed_by_server() {
                self.closing_handshake = None;
            }
        } else if let Some(websocket) = self.sniffer.wrote(bytes) {
            self.opened(websocket);
        }
    }

    #[cold]
    fn opened(&mut self, websocket: WebSocket) {
        if let (Some(settings), false) = (&self.close_websockets, websocket.server.closes()) {
            let handshake = ClosingHandshake::new(settings.clone(), websocket);
            self.closing_handshake = Some(Box::new(handshake));
        }
    }

    /// Returns whether the drain closes this connection's WebSocket.
    #[inline]
    pub(in crate::net) fn closes_websocket(&self, stage: Stage) -> bool {
        self.closing_handshake.is_some() && stage >= Stage::LastRead
    }

    /// Writes the Close frame of a WebSocket once it is due. Returns whether it has begun: then
    /// nothing else is written.
    #[cold]
    pub(in crate::net) fn close_websocket<T: AsyncWrite>(
        &mut self,
        io: Pin<&mut T>,
        role: Role,
        cx: &mut Context<'_>,
    ) -> bool {
        let Some(handshake) = &mut self.closing_handshake else {
            return false;
        };
        let connection = self.registered.handle();
        // Before the write: the task wakes when the socket takes more.
        let last = match role {
            Role::Reads => &mut self.reader,
            _ => &mut self.writer,
        };
        connection.wakers.register(role, cx.waker(), last);
        let has_begun = handshake.advance(io, &connection);
        // Here, too: a client that always sends leaves no read pending.
        self.ended |= handshake.has_closed() || handshake.is_overdue();
        if has_begun {
            (self.stalled, self.unflushed) = (false, false);
            self.publish_changes(connection.stage());
        }
        has_begun
    }

    /// Writes bytes of a WebSocket's server: up to the end of its frame if the Close frame is due.
    #[cold]
    pub(in crate::net) fn poll_write_websocket<T: AsyncWrite>(
        &mut self,
        mut io: Pin<&mut T>,
        cx: &mut Context<'_>,
        bytes: &[u8],
        stage: Stage,
    ) -> Poll<io::Result<usize>> {
        let has_begun = self.close_websocket(io.as_mut(), Role::Writes, cx);
        let connection = self.registered.connection();
        let bytes = match &self.closing_handshake {
            Some(handshake) if has_begun => return handshake.poll_discard(bytes, cx),
            Some(handshake) => handshake.limit_write(bytes, connection),
            None => bytes,
        };
        let result = io.as_mut().poll_write(cx, bytes);
        let result = self.saw_write(result, [bytes], stage, cx);
        // The frame may have ended.
        self.close_websocket(io, Role::Writes, cx);
        result
    }
}
