//! HTTP/1, as far as it takes to know where a request ends ([RFC 9112, section
//! 6](https://www.rfc-editor.org/rfc/rfc9112#section-6)).

use crate::drain::Activity;
use memchr::memchr;

#[derive(Debug, Default)]
pub(in crate::net) struct Http1 {
    request: Request,
    /// A request has come to which no response has begun.
    owes: bool,
    /// The last request was a CONNECT.
    connect: bool,
    upgraded: bool,
}

/// Where the peer is in what it sends.
#[derive(Debug, Default)]
enum Request {
    /// Before the first byte of one.
    #[default]
    Before,
    Head(Head),
    /// So many bytes are to come.
    Body(u64),
    Chunked(Chunked),
}

#[derive(Debug, Default)]
struct Head {
    /// The beginning of a line of which a part has come.
    line: Line,
    /// The request line has come.
    headers: bool,
    length: u64,
    chunked: bool,
    connect: bool,
}

/// As much of a line as is of interest.
#[derive(Debug)]
struct Line {
    bytes: [u8; 48],
    filled: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self {
            bytes: [0; 48],
            filled: 0,
        }
    }
}

#[derive(Debug)]
enum Chunked {
    Size {
        size: u64,
        /// Its digits have ended.
        digits_end: bool,
    },
    /// So many bytes are to come, the line break after them included.
    Data(u64),
    /// `true` where a line begins.
    Trailers(bool),
}

impl Http1 {
    pub(super) fn read(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            bytes = match &mut self.request {
                Request::Before => {
                    self.request = Request::Head(Head::default());
                    bytes
                }
                Request::Head(head) => {
                    let Some(rest) = head.read(bytes) else { return };
                    self.owes = true;
                    self.connect = head.connect;
                    self.request = match (head.chunked, head.length) {
                        (true, _) => Request::Chunked(Chunked::start()),
                        (false, 0) => Request::Before,
                        (false, length) => Request::Body(length),
                    };
                    rest
                }
                Request::Body(left) => {
                    let (rest, ended) = skip(left, bytes);
                    if ended {
                        self.request = Request::Before;
                    }
                    rest
                }
                Request::Chunked(chunked) => {
                    let (rest, ended) = chunked.read(bytes);
                    if ended {
                        self.request = Request::Before;
                    }
                    rest
                }
            };
        }
    }

    pub(super) fn wrote(&mut self, mut bytes: &[u8]) {
        // What is written while nothing is owed, or does not begin like one, belongs to the
        // response before.
        while self.owes && bytes.starts_with(b"HTTP/1.") {
            let switches = bytes.get(9..12) == Some(b"101");
            let class = bytes.get(9).copied();
            if class == Some(b'1') && !switches {
                // Interim. The final one may be right behind it.
                let end = memchr::memmem::find(bytes, b"\r\n\r\n");
                bytes = &bytes[end.map_or(bytes.len(), |at| at + 4)..];
                continue;
            }
            self.owes = false;
            self.upgraded = switches || (self.connect && class == Some(b'2'));
        }
    }

    pub(super) fn activity(&self) -> Activity {
        match self.request {
            _ if self.owes => Activity::Handling,
            Request::Head(_) => Activity::Reading,
            _ => Activity::Streaming,
        }
    }

    pub(super) fn is_upgraded(&self) -> bool {
        self.upgraded
    }

    pub(super) fn is_mid_request(&self) -> bool {
        !matches!(self.request, Request::Before)
    }
}

impl Head {
    /// What comes after it, if its end has come.
    fn read<'a>(&mut self, mut bytes: &'a [u8]) -> Option<&'a [u8]> {
        while let Some(at) = memchr(b'\n', bytes) {
            let (line, rest) = (&bytes[..at], &bytes[at + 1..]);
            bytes = rest;
            let ended = if self.line.filled == 0 {
                // The frequent case: it has come in one piece.
                self.end_line(line)
            } else {
                let mut whole = std::mem::take(&mut self.line);
                whole.push(line);
                self.end_line(&whole.bytes[..whole.filled])
            };
            if ended {
                return Some(bytes);
            }
        }
        self.line.push(bytes);
        None
    }

    /// True if the head ends with it.
    fn end_line(&mut self, line: &[u8]) -> bool {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            // One before the request line is skipped.
            return self.headers;
        }
        if !self.headers {
            self.headers = true;
            self.connect = line.starts_with(b"CONNECT ");
        } else if let Some(length) = value(line, b"content-length:") {
            self.length = length
                .iter()
                .skip_while(|byte| !byte.is_ascii_digit())
                .take_while(|byte| byte.is_ascii_digit())
                .fold(0, |sum: u64, digit| {
                    sum.saturating_mul(10)
                        .saturating_add(u64::from(digit - b'0'))
                });
        } else if value(line, b"transfer-encoding:").is_some() {
            // In a request nothing else may be the last one.
            self.chunked = true;
        }
        false
    }
}

impl Line {
    fn push(&mut self, part: &[u8]) {
        let room = &mut self.bytes[self.filled..];
        let taken = part.len().min(room.len());
        room[..taken].copy_from_slice(&part[..taken]);
        self.filled += taken;
    }
}

impl Chunked {
    fn start() -> Self {
        Self::Size {
            size: 0,
            digits_end: false,
        }
    }

    /// What comes after these bytes, and whether the body has ended.
    fn read<'a>(&mut self, bytes: &'a [u8]) -> (&'a [u8], bool) {
        match self {
            Self::Size { size, digits_end } => {
                let line_end = memchr(b'\n', bytes);
                for byte in &bytes[..line_end.unwrap_or(bytes.len())] {
                    match char::from(*byte).to_digit(16) {
                        Some(digit) if !*digits_end => {
                            *size = size.saturating_mul(16).saturating_add(u64::from(digit));
                        }
                        _ => *digits_end = true,
                    }
                }
                let Some(at) = line_end else {
                    return (&[], false);
                };
                *self = match *size {
                    0 => Self::Trailers(true),
                    size => Self::Data(size.saturating_add(2)),
                };
                (&bytes[at + 1..], false)
            }
            Self::Data(left) => {
                let (rest, ended) = skip(left, bytes);
                if ended {
                    *self = Self::start();
                }
                (rest, false)
            }
            Self::Trailers(begins) => {
                let Some(at) = memchr(b'\n', bytes) else {
                    *begins &= bytes == b"\r";
                    return (&[], false);
                };
                let ended = *begins && matches!(&bytes[..at], b"" | b"\r");
                *begins = true;
                (&bytes[at + 1..], ended)
            }
        }
    }
}

/// What comes after so many bytes, and whether they have all come.
fn skip<'a>(left: &mut u64, bytes: &'a [u8]) -> (&'a [u8], bool) {
    let taken = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
    *left -= taken as u64;
    (&bytes[taken..], *left == 0)
}

/// A header's value, if the line is that header. (A name is ASCII; its case does not matter.)
fn value<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (start, value) = line.split_at_checked(name.len())?;
    start.eq_ignore_ascii_case(name).then_some(value)
}
