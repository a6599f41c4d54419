//! HTTP/2, as far as it takes to know which streams are open ([RFC 9113, section
//! 4.1](https://www.rfc-editor.org/rfc/rfc9113#section-4.1)).

const HEADERS: u8 = 0x1;
const DATA: u8 = 0x0;
const RST_STREAM: u8 = 0x3;
const GOAWAY: u8 = 0x7;
const CONTINUATION: u8 = 0x9;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

/// No stream has a higher number; in a first GOAWAY it says "not yet".
const MAX_STREAM: u32 = (1 << 31) - 1;

#[derive(Debug, Default)]
pub(in crate::net) struct Http2 {
    incoming: Frames,
    outgoing: Frames,
    /// The streams that the client has opened and the server has not ended.
    open: Vec<u32>,
    last: u32,
    /// The one whose head the client has begun to send.
    head: Option<u32>,
    /// A GOAWAY was written that says which stream is the last one: the peer knows.
    parted: Option<u32>,
}

/// The frames of one direction.
#[derive(Debug, Default)]
struct Frames {
    /// The frame's header, and the first four bytes of a GOAWAY.
    start: [u8; 13],
    filled: usize,
    /// Of its payload, what is still to come.
    payload: usize,
    /// What it is, once that is known.
    frame: Option<Frame>,
}

#[derive(Clone, Copy, Debug)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    /// Of a GOAWAY.
    last: u32,
}

impl Http2 {
    pub(super) fn read(&mut self, bytes: &[u8]) {
        let (open, last, head) = (&mut self.open, &mut self.last, &mut self.head);
        let served = self.parted.unwrap_or(MAX_STREAM);
        self.incoming.read(bytes, |frame| match frame.kind {
            HEADERS | CONTINUATION => {
                if frame.kind == HEADERS && frame.stream > *last {
                    *last = frame.stream;
                    *head = Some(frame.stream).filter(|stream| *stream <= served);
                }
                if frame.flags & END_HEADERS != 0 {
                    open.extend(head.take());
                }
            }
            RST_STREAM => end(open, frame.stream),
            _ => {}
        });
    }

    pub(super) fn wrote(&mut self, bytes: &[u8]) {
        let (open, parted) = (&mut self.open, &mut self.parted);
        self.outgoing.read(bytes, |frame| match frame.kind {
            RST_STREAM => end(open, frame.stream),
            HEADERS | DATA if frame.flags & END_STREAM != 0 => end(open, frame.stream),
            GOAWAY if frame.last != MAX_STREAM => *parted = Some(frame.last),
            _ => {}
        });
    }

    pub(super) fn has_streams(&self) -> bool {
        !self.open.is_empty()
    }

    /// A part of a head has come.
    pub(super) fn is_reading(&self) -> bool {
        let comes = self
            .incoming
            .frame
            .is_some_and(|frame| frame.kind == HEADERS && frame.stream > self.last);
        comes || self.head.is_some()
    }

    pub(super) fn has_parted(&self) -> bool {
        self.parted.is_some()
    }
}

fn end(open: &mut Vec<u32>, stream: u32) {
    if let Some(at) = open.iter().position(|one| *one == stream) {
        open.swap_remove(at);
    }
}

impl Frames {
    /// How much of a frame is kept: what it is, is known once its header is there.
    fn wanted(&self) -> usize {
        match self.start[3] {
            GOAWAY if self.filled >= 9 => 13,
            _ => 9,
        }
    }

    /// Says of each that it has come, when all of it has.
    fn read(&mut self, mut bytes: &[u8], mut each: impl FnMut(Frame)) {
        loop {
            let taken = self.payload.min(bytes.len());
            self.payload -= taken;
            bytes = &bytes[taken..];
            if self.payload == 0 {
                if let Some(frame) = self.frame.take() {
                    each(frame);
                }
            }
            if bytes.is_empty() {
                return;
            }
            let taken = (self.wanted() - self.filled).min(bytes.len());
            self.start[self.filled..][..taken].copy_from_slice(&bytes[..taken]);
            self.filled += taken;
            bytes = &bytes[taken..];
            if self.filled < self.wanted() {
                continue;
            }
            let [a, b, c, kind, flags, ..] = self.start;
            let number = |at: usize| {
                let [a, b, c, d] = [0, 1, 2, 3].map(|i| self.start[at + i]);
                u32::from_be_bytes([a, b, c, d]) & MAX_STREAM
            };
            self.frame = Some(Frame {
                kind,
                flags,
                stream: number(5),
                last: number(9),
            });
            let length = u32::from_be_bytes([0, a, b, c]) as usize;
            self.payload = length.saturating_sub(self.filled - 9);
            self.filled = 0;
        }
    }
}
