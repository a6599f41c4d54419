//! Follows a WebSocket: the head of the response that opens it, then the frames of both directions
//! ([RFC 6455](https://www.rfc-editor.org/rfc/rfc6455)).

use super::line::{Line, line_end, value};

/// Follows what may be a WebSocket: the head of the response that opens it, then its frames.
#[derive(Debug)]
pub(in crate::net) struct WebSocket {
    /// Holds the part of a line of the head that was written; `None` once the head has ended.
    head: Option<Box<Line>>,
    /// Says whether the head names this protocol.
    is_websocket: bool,
    pub(in crate::net) client: FrameEnds,
    pub(in crate::net) server: FrameEnds,
}

impl WebSocket {
    /// Begins behind the status 101. `client` has followed what came behind the request.
    pub(super) fn new(client: FrameEnds) -> Self {
        let mut head = Box::new(Line::default());
        head.push(b"HTTP/1.1 101");
        Self {
            head: Some(head),
            is_websocket: false,
            client,
            server: FrameEnds::default(),
        }
    }

    /// Follows bytes of the server that were written.
    pub(in crate::net) fn wrote(&mut self, mut bytes: &[u8]) {
        while let Some(head) = &mut self.head {
            let Some(end) = line_end(bytes) else {
                return head.push(bytes);
            };
            head.push(&bytes[..end]);
            bytes = &bytes[end + 1..];
            let line = std::mem::take(&mut **head);
            let line = line.bytes().trim_ascii_end();
            if let Some(protocol) = value(line, b"upgrade:") {
                self.is_websocket = protocol.trim_ascii().eq_ignore_ascii_case(b"websocket");
            } else if line.is_empty() {
                self.head = None;
            }
        }
        self.server.follow(bytes);
    }

    /// Returns whether the head has ended.
    pub(in crate::net) fn is_open(&self) -> bool {
        self.head.is_none()
    }

    /// Returns whether there is nothing to close: this is another protocol, or the server closes
    /// the WebSocket by itself.
    pub(in crate::net) fn is_left_alone(&self) -> bool {
        self.is_open() && (!self.is_websocket || self.server.closes())
    }
}

/// Follows the frames of one direction ([RFC 6455, section
/// 5.2](https://www.rfc-editor.org/rfc/rfc6455#section-5.2)), as far as needed to find the end of
/// each, and the Close frame.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::net) struct FrameEnds {
    /// Holds the header of the frame, without the mask. The first byte stays after the frame.
    header: [u8; 10],
    /// Counts the bytes of the header that have come. Zero between frames.
    filled: usize,
    /// Counts the bytes that are to come after the header: of the mask and the payload.
    left: u64,
}

/// Names the opcode of a Close frame.
const CLOSE: u8 = 0x8;

impl FrameEnds {
    /// Follows bytes.
    pub(in crate::net) fn follow(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let frame = self.end_frame(bytes);
            bytes = &bytes[frame..];
        }
    }

    /// Follows bytes to the end of a frame. Returns how many bytes that was: all of them, if the
    /// frame does not end.
    pub(in crate::net) fn end_frame(&mut self, bytes: &[u8]) -> usize {
        if self.has_closed() {
            return bytes.len();
        }
        let mut at = 0;
        while at < bytes.len() {
            if self.filled < self.header_length() {
                self.header[self.filled] = bytes[at];
                self.filled += 1;
                at += 1;
                self.left = self.length_behind_header();
            } else {
                let here = bytes.len() - at;
                let skipped = usize::try_from(self.left).map_or(here, |left| left.min(here));
                at += skipped;
                self.left -= skipped as u64;
            }
            if self.filled == self.header_length() && self.left == 0 {
                self.filled = 0;
                break;
            }
        }
        at
    }

    fn header_length(&self) -> usize {
        match self.header[1] & 0x7f {
            126 if self.filled >= 2 => 4,
            127 if self.filled >= 2 => 10,
            _ => 2,
        }
    }

    fn length_behind_header(&self) -> u64 {
        let [_, second, length @ ..] = self.header;
        let payload = match second & 0x7f {
            126 => u16::from_be_bytes([length[0], length[1]]).into(),
            127 => u64::from_be_bytes(length),
            length => length.into(),
        };
        let mask = if second & 0x80 != 0 { 4 } else { 0 };
        payload.saturating_add(mask)
    }

    /// Returns whether the next byte begins a frame.
    pub(in crate::net) fn is_between_frames(&self) -> bool {
        self.filled == 0
    }

    /// Returns whether a Close frame has begun.
    pub(in crate::net) fn closes(&self) -> bool {
        self.header[0] & 0x0f == CLOSE
    }

    /// Returns whether a Close frame has ended. No frame follows it.
    pub(in crate::net) fn has_closed(&self) -> bool {
        self.closes() && self.is_between_frames()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame of that opcode, with a payload of so many bytes that look like headers.
    fn frame(first: u8, length: usize, is_masked: bool) -> Vec<u8> {
        let mask = if is_masked { 0x80 } else { 0 };
        let mut frame = vec![first];
        match length {
            0..126 => frame.push(mask | length as u8),
            126..65536 => {
                frame.push(mask | 126);
                frame.extend((length as u16).to_be_bytes());
            }
            _ => {
                frame.push(mask | 127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        frame.extend(if is_masked { &[0x88; 4][..] } else { &[] });
        frame.resize(frame.len() + length, 0x88);
        frame
    }

    const LENGTHS: [usize; 9] = [0, 1, 2, 125, 126, 127, 65535, 65536, 100_000];

    #[test]
    fn each_frame_ends_where_it_does() {
        for is_masked in [false, true] {
            // A message in two fragments with a Ping in between, compressed and not.
            for first in [0x01, 0x89, 0x80, 0xc1, 0x82] {
                for length in LENGTHS {
                    let whole = frame(first, length, is_masked);
                    let mut frames = FrameEnds::default();
                    for (at, byte) in whole.iter().enumerate() {
                        assert_eq!(frames.is_between_frames(), at == 0, "{first} {length} {at}");
                        frames.follow(&[*byte]);
                    }
                    assert!(frames.is_between_frames(), "{first} {length}");
                    assert!(!frames.closes());
                    // The same at once, and with the next one behind.
                    let mut two = whole.clone();
                    two.extend(frame(0x81, 3, is_masked));
                    assert_eq!(FrameEnds::default().end_frame(&two), whole.len());
                    let mut frames = FrameEnds::default();
                    frames.follow(&two);
                    assert!(frames.is_between_frames());
                    frames.follow(&two[..two.len() - 1]);
                    assert!(!frames.is_between_frames());
                }
            }
        }
    }

    #[test]
    fn nothing_follows_a_close() {
        let mut close = frame(0x81, 126, true);
        close.extend(frame(0x88, 2, true));
        let mut frames = FrameEnds::default();
        for byte in &close {
            assert!(!frames.has_closed());
            frames.follow(&[*byte]);
        }
        assert!(frames.has_closed());
        frames.follow(&[0x81]);
        assert!(frames.has_closed());
        let mut empty = FrameEnds::default();
        empty.follow(&[0x88, 0]);
        assert!(empty.has_closed());
    }

    #[test]
    fn a_length_that_does_not_fit_never_ends() {
        let mut frames = FrameEnds::default();
        frames.follow(&[0x82, 0xff]);
        frames.follow(&[0xff; 8]);
        frames.follow(&[0; 4096]);
        assert!(!frames.is_between_frames());
    }
}
