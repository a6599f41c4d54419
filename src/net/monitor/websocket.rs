//! Closes the WebSocket that a connection has become.

use super::{
    super::{closing_handshake::ClosingHandshake, sniff::WebSocket},
    Monitor,
};
use crate::drain::Stage;
use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};
use tokio::io::AsyncWrite;

impl Monitor {
    /// Follows bytes that were written, until the server closes its WebSocket by itself. `all` says
    /// that they are all that the server had in one buffer.
    #[inline]
    pub(super) fn follow_written(&mut self, bytes: &[u8], all: bool) {
        match &mut self.closing_handshake {
            Some(handshake) => handshake.websocket.wrote(bytes),
            None => match self.sniffer.wrote(bytes, all) {
                Some(websocket) => self.switched(websocket),
                None => return,
            },
        }
        self.closing_handshake
            .take_if(|handshake| handshake.websocket.is_left_alone());
    }

    #[cold]
    fn switched(&mut self, websocket: WebSocket) {
        self.closing_handshake = self.close_websockets.clone().map(|settings| {
            let connection = self.registered.handle();
            Box::new(ClosingHandshake::new(settings, websocket, connection))
        });
    }

    /// Returns whether the drain closes this connection's WebSocket.
    #[inline]
    pub(in crate::net) fn closes_websocket(&self, stage: Stage) -> bool {
        let handshake = self.closing_handshake.as_ref();
        stage >= Stage::LastRead && handshake.is_some_and(|handshake| handshake.websocket.is_open())
    }

    /// Writes the Close frame of a WebSocket once it is due. Returns whether it has begun: then
    /// nothing else is written. The task has to be registered before, to wake when the socket takes
    /// more.
    #[cold]
    pub(in crate::net) fn close_websocket<T: AsyncWrite>(&mut self, io: Pin<&mut T>) -> bool {
        let Some(handshake) = &mut self.closing_handshake else {
            return false;
        };
        let has_begun = handshake.advance(io);
        // After its Close frame, the client waits for the server to close the connection, and some
        // libraries of servers wait for the client. A client that always sends leaves no read
        // pending, so its limit is looked at here, too.
        self.ended |= handshake.has_closed() || handshake.is_overdue();
        if has_begun {
            (self.stalled, self.unflushed) = (false, false);
            self.publish_changes(self.registered.connection().stage());
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
        self.register_writer(cx);
        let has_begun = self.close_websocket(io.as_mut());
        let bytes = match &self.closing_handshake {
            Some(handshake) if has_begun => return handshake.poll_discard(bytes, cx),
            Some(handshake) => handshake.limit_write(bytes),
            None => bytes,
        };
        let result = io.as_mut().poll_write(cx, bytes);
        let result = self.saw_write(result, [bytes], stage, cx);
        // The frame may have ended.
        self.close_websocket(io);
        result
    }
}
