//! HTTP/1, as far as it takes to know where a request ends ([RFC 9112, section
//! 6](https://www.rfc-editor.org/rfc/rfc9112#section-6)).

use crate::drain::Activity;
use memchr::memchr;

#[derive(Debug, Default)]
pub(in crate::net) struct Http1 {
    request: Request,
    /// So many requests have come to which no response has begun.
    owed: u32,
    /// The last one was a CONNECT.
    connect: bool,
    /// The head of one has come.
    asked: bool,
    upgraded: bool,
}

/// Its first line is none of HTTP/1.
#[derive(Debug)]
pub(super) struct NotHttp;

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

/// As much of a line as is of interest: how it begins, and how it ends.
#[derive(Debug)]
struct Line {
    bytes: [u8; Line::START + Line::END],
    filled: usize,
}

impl Line {
    const START: usize = 48;
    const END: usize = 16;
}

impl Default for Line {
    fn default() -> Self {
        Self {
            bytes: [0; Line::START + Line::END],
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
    pub(super) fn read(&mut self, mut bytes: &[u8]) -> Result<(), NotHttp> {
        while let Some(first) = bytes.first() {
            bytes = match &mut self.request {
                // One before the request line is skipped.
                Request::Before if b"\r\n".contains(first) => &bytes[1..],
                Request::Before => {
                    self.request = Request::Head(Head::default());
                    bytes
                }
                Request::Head(head) => {
                    let Some(rest) = head.read(bytes)? else {
                        return Ok(());
                    };
                    self.asked = true;
                    self.owed = self.owed.saturating_add(1);
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
        Ok(())
    }

    pub(super) fn wrote(&mut self, mut bytes: &[u8]) {
        // What is written while nothing is owed, or does not begin like one, belongs to the
        // response before.
        while self.owed > 0 && bytes.starts_with(b"HTTP/1.") {
            let switches = bytes.get(9..12) == Some(b"101");
            let class = bytes.get(9).copied();
            if class == Some(b'1') && !switches {
                // Interim. The final one may be right behind it.
                let end = memchr::memmem::find(bytes, b"\r\n\r\n");
                bytes = &bytes[end.map_or(bytes.len(), |at| at + 4)..];
                continue;
            }
            self.owed -= 1;
            self.upgraded = switches || (self.owed == 0 && self.connect && class == Some(b'2'));
            return;
        }
    }

    pub(super) fn activity(&self) -> Activity {
        match self.request {
            _ if self.owed > 0 => Activity::Handling,
            Request::Head(_) => Activity::Reading,
            _ if !self.asked => Activity::Reading,
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
    fn read<'a>(&mut self, mut bytes: &'a [u8]) -> Result<Option<&'a [u8]>, NotHttp> {
        while let Some(at) = memchr(b'\n', bytes) {
            let (line, rest) = (&bytes[..at], &bytes[at + 1..]);
            bytes = rest;
            let ended = if self.line.filled == 0 {
                // The frequent case: it has come in one piece.
                self.end_line(line)?
            } else {
                let mut whole = std::mem::take(&mut self.line);
                whole.push(line);
                self.end_line(&whole.bytes[..whole.filled])?
            };
            if ended {
                return Ok(Some(bytes));
            }
        }
        self.line.push(bytes);
        Ok(None)
    }

    /// True if the head ends with it.
    fn end_line(&mut self, line: &[u8]) -> Result<bool, NotHttp> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            return Ok(true);
        }
        if !self.headers {
            let (_, version) = line.split_last_chunk::<8>().ok_or(NotHttp)?;
            if !version.starts_with(b"HTTP/1.") {
                return Err(NotHttp);
            }
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
        Ok(false)
    }
}

impl Line {
    fn push(&mut self, part: &[u8]) {
        for byte in part {
            if self.filled == self.bytes.len() {
                // What is between the start and the end goes.
                self.bytes.copy_within(Self::START + 1.., Self::START);
                self.filled -= 1;
            }
            self.bytes[self.filled] = *byte;
            self.filled += 1;
        }
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
