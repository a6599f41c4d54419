//! Follows HTTP/2, as far as needed to know which streams are open ([RFC 9113, section
//! 4.1](https://www.rfc-editor.org/rfc/rfc9113#section-4.1)).

use super::header_block::HeaderBlocks;

const HEADERS: u8 = 0x1;
const DATA: u8 = 0x0;
const RST_STREAM: u8 = 0x3;
const SETTINGS: u8 = 0x4;
const GOAWAY: u8 = 0x7;
const CONTINUATION: u8 = 0x9;
const ACK: u8 = 0x1;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// Announces extended CONNECT: SETTINGS_ENABLE_CONNECT_PROTOCOL ([RFC 8441, section
/// 3](https://www.rfc-editor.org/rfc/rfc8441#section-3)), with the value 1.
const CONNECT_PROTOCOL: [u8; 6] = [0, 8, 0, 0, 0, 1];

/// Limits the numbers of streams. A first GOAWAY with it names no last stream yet.
const MAX_STREAM: u32 = (1 << 31) - 1;

/// Follows the streams of an HTTP/2 connection.
#[derive(Debug, Default)]
pub(in crate::net) struct Http2 {
    incoming: Frames,
    outgoing: Frames,
    /// Lists the streams that the client has opened and the server has not ended.
    open: Vec<u32>,
    last: u32,
    /// Names the stream whose head the client has begun to send.
    head: Option<u32>,
    /// Names the last stream that is served, once a GOAWAY that names it was written.
    goaway_sent: Option<u32>,
    /// Holds the server's latest setting, and how many bytes of it were written.
    setting: ([u8; 6], usize),
    /// Follows the tunnels; `None` until the server has announced extended CONNECT in its SETTINGS.
    tunnels: Option<Box<Tunnels>>,
}

/// Follows the streams that an extended CONNECT has opened, such as WebSockets ([RFC
/// 8441](https://www.rfc-editor.org/rfc/rfc8441)).
#[derive(Debug, Default)]
struct Tunnels {
    blocks: HeaderBlocks,
    /// Says whether the current header block is read.
    reads: bool,
    /// Lists the open tunnels, and whether their response has begun.
    open: Vec<(u32, bool)>,
}

/// Splits the bytes of one direction into frames.
#[derive(Debug, Default)]
struct Frames {
    /// Holds the frame's header; for a GOAWAY, also the first four bytes of its payload.
    start: [u8; 13],
    filled: u8,
    /// Counts the bytes of the payload that are to come.
    payload: u32,
}

/// Describes a frame by its header.
#[derive(Clone, Copy, Debug)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    /// Names the last stream that is served, for a GOAWAY.
    last: u32,
}

impl Http2 {
    pub(super) fn read(&mut self, bytes: &[u8]) {
        let (open, last, head) = (&mut self.open, &mut self.last, &mut self.head);
        let served = self.goaway_sent.unwrap_or(MAX_STREAM);
        let tunnels = &mut self.tunnels;
        self.incoming.read(bytes, |frame, part| {
            let has_block = matches!(frame.kind, HEADERS | CONTINUATION);
            if let (true, Some(tunnels)) = (has_block, tunnels.as_deref_mut()) {
                tunnels.read(frame, part);
            }
            if part.is_some() {
                return;
            }
            match frame.kind {
                HEADERS | CONTINUATION => {
                    if frame.kind == HEADERS && frame.stream > *last {
                        *last = frame.stream;
                        *head = Some(frame.stream).filter(|stream| *stream <= served);
                    }
                    if frame.flags & END_HEADERS != 0 {
                        let opened = head.take();
                        open.extend(opened);
                        if let Some(tunnels) = tunnels {
                            tunnels.end_block(opened);
                        }
                    }
                }
                RST_STREAM => {
                    // hyper accepts it after a head without its end, if it has rejected that head.
                    head.take_if(|stream| *stream == frame.stream);
                    end(open, tunnels, frame.stream);
                }
                _ => {}
            }
        });
    }

    pub(super) fn wrote(&mut self, bytes: &[u8]) {
        let (open, goaway_sent) = (&mut self.open, &mut self.goaway_sent);
        let head = &mut self.head;
        let (setting, tunnels) = (&mut self.setting, &mut self.tunnels);
        self.outgoing
            .read(bytes, |frame, part| match (frame.kind, part) {
                (SETTINGS, Some(part)) if frame.flags & ACK == 0 => {
                    for byte in part {
                        setting.0[setting.1] = *byte;
                        setting.1 = (setting.1 + 1) % setting.0.len();
                        if setting.1 == 0 && setting.0 == CONNECT_PROTOCOL {
                            tunnels.get_or_insert_default();
                        }
                    }
                }
                (RST_STREAM, None) => {
                    // The server may reject a head before it has ended.
                    head.take_if(|stream| *stream == frame.stream);
                    end(open, tunnels, frame.stream);
                }
                (HEADERS | DATA, None) if frame.flags & END_STREAM != 0 => {
                    end(open, tunnels, frame.stream);
                }
                (HEADERS, None) => {
                    if let Some(tunnels) = tunnels {
                        tunnels.answered(frame.stream);
                    }
                }
                (GOAWAY, None) if frame.last != MAX_STREAM => *goaway_sent = Some(frame.last),
                _ => {}
            });
    }

    /// Returns whether all open streams are tunnels with a response.
    pub(super) fn is_upgraded(&self) -> bool {
        let Some(tunnels) = &self.tunnels else {
            return false;
        };
        let upgraded = tunnels.open.iter().filter(|(_, answered)| *answered);
        self.has_streams() && upgraded.count() == self.open.len()
    }

    pub(super) fn has_streams(&self) -> bool {
        !self.open.is_empty()
    }

    /// Returns whether a part of a head has come.
    pub(super) fn is_reading(&self) -> bool {
        let comes = self
            .incoming
            .frame()
            .is_some_and(|frame| frame.kind == HEADERS && frame.stream > self.last);
        comes || self.head.is_some()
    }
}

fn end(open: &mut Vec<u32>, tunnels: &mut Option<Box<Tunnels>>, stream: u32) {
    if let Some(at) = open.iter().position(|one| *one == stream) {
        open.swap_remove(at);
    }
    if let Some(tunnels) = tunnels {
        tunnels.open.retain(|(one, _)| *one != stream);
    }
}

impl Tunnels {
    /// Reads a part of a client's frame that carries a header block; see [`Frames::read`].
    fn read(&mut self, frame: Frame, part: Option<&[u8]>) {
        let is_first = frame.kind == HEADERS;
        match part {
            // An extended CONNECT does not end its stream.
            Some([]) if is_first => {
                if self.reads {
                    // The server has rejected the block before, in the middle.
                    self.blocks.end();
                }
                self.reads = self.blocks.counts() || frame.flags & END_STREAM == 0;
            }
            Some(bytes) if self.reads => self.blocks.read(bytes),
            None if self.reads && is_first => {
                let has = |flag| frame.flags & flag != 0;
                self.blocks
                    .strip(has(PADDED), if has(PRIORITY) { 5 } else { 0 });
            }
            _ => {}
        }
    }

    /// Ends a header block, which may have opened a stream.
    fn end_block(&mut self, opened: Option<u32>) {
        if std::mem::take(&mut self.reads) && self.blocks.end() {
            self.open.extend(opened.map(|stream| (stream, false)));
        }
    }

    fn answered(&mut self, stream: u32) {
        for (one, answered) in &mut self.open {
            *answered |= *one == stream;
        }
    }
}

impl Frames {
    /// Returns how many bytes of a frame are kept: 9 until its header has come, and tells its kind.
    fn wanted(&self) -> u8 {
        match self.start[3] {
            GOAWAY if self.filled >= 9 => 13,
            _ => 9,
        }
    }

    /// Describes the current frame, once its header has come.
    fn frame(&self) -> Option<Frame> {
        let number = |at: usize| {
            let [a, b, c, d] = [0, 1, 2, 3].map(|i| self.start[at + i]);
            u32::from_be_bytes([a, b, c, d]) & MAX_STREAM
        };
        (self.filled == self.wanted()).then(|| Frame {
            kind: self.start[3],
            flags: self.start[4],
            stream: number(5),
            last: number(9),
        })
    }

    /// Splits bytes into frames. Of each frame, passes an empty part to `each`, then the parts of its
    /// payload, and `None` at its end.
    fn read(&mut self, mut bytes: &[u8], mut each: impl FnMut(Frame, Option<&[u8]>)) {
        loop {
            if let Some(frame) = self.frame() {
                let (part, rest) = bytes.split_at(bytes.len().min(self.payload as usize));
                self.payload -= part.len() as u32;
                bytes = rest;
                if !part.is_empty() {
                    each(frame, Some(part));
                }
                if self.payload == 0 {
                    self.filled = 0;
                    each(frame, None);
                }
            }
            if bytes.is_empty() {
                return;
            }
            let filled = usize::from(self.filled);
            let taken = (usize::from(self.wanted()) - filled).min(bytes.len());
            self.start[filled..][..taken].copy_from_slice(&bytes[..taken]);
            self.filled += taken as u8;
            bytes = &bytes[taken..];
            if let Some(frame) = self.frame() {
                let [a, b, c, ..] = self.start;
                let length = u32::from_be_bytes([0, a, b, c]);
                self.payload = length.saturating_sub(u32::from(self.filled) - 9);
                each(frame, Some(&[]));
            }
        }
    }
}
