//! HTTP/1, as far as it takes to know where a request ends ([RFC 9112, section
//! 6](https://www.rfc-editor.org/rfc/rfc9112#section-6)).

use crate::drain::ConnectionState;

#[derive(Debug, Default)]
pub(in crate::net) struct Http1 {
    request: Request,
    /// So many requests have come to which no response has begun.
    awaited_response: u32,
    /// The last one was a CONNECT.
    connect: bool,
    /// The head of one has come.
    saw_request: bool,
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
                    self.saw_request = true;
                    self.awaited_response = self.awaited_response.saturating_add(1);
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

    #[inline]
    pub(super) fn wrote(&mut self, bytes: &[u8]) {
        if self.awaited_response > 0 {
            self.wrote_response(bytes);
        }
    }

    fn wrote_response(&mut self, mut bytes: &[u8]) {
        // What is written while no response is awaited, or does not begin like one, belongs to the
        // response before.
        while self.awaited_response > 0 && bytes.starts_with(b"HTTP/1.") {
            let switches = bytes.get(9..12) == Some(b"101");
            let class = bytes.get(9).copied();
            if class == Some(b'1') && !switches {
                // Interim. The final one may be right behind it.
                let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
                bytes = &bytes[end.map_or(bytes.len(), |at| at + 4)..];
                continue;
            }
            self.awaited_response -= 1;
            self.upgraded =
                switches || (self.awaited_response == 0 && self.connect && class == Some(b'2'));
            return;
        }
    }

    pub(super) fn activity(&self) -> ConnectionState {
        match self.request {
            _ if self.awaited_response > 0 => ConnectionState::Handling,
            Request::Head(_) => ConnectionState::Reading,
            _ if !self.saw_request => ConnectionState::Reading,
            _ => ConnectionState::Streaming,
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
    fn read<'a>(&mut self, bytes: &'a [u8]) -> Result<Option<&'a [u8]>, NotHttp> {
        let mut rest = bytes;
        while let Some(at) = line_end(rest) {
            let line = &rest[..at];
            rest = &rest[at + 1..];
            // The frequent cases: it has come in one piece, and is of no interest.
            let ended = if self.line.filled == 0 {
                if self.headers
                    && !matches!(line.first(), None | Some(b'\r' | b'C' | b'c' | b'T' | b't'))
                {
                    continue;
                }
                self.end_line(line)?
            } else {
                let mut whole = std::mem::take(&mut self.line);
                whole.push(line);
                self.end_line(&whole.bytes[..whole.filled])?
            };
            if ended {
                return Ok(Some(rest));
            }
        }
        self.line.push(rest);
        Ok(None)
    }

    /// True if the head ends with it.
    #[inline]
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
                let end = line_end(bytes);
                for byte in &bytes[..end.unwrap_or(bytes.len())] {
                    match char::from(*byte).to_digit(16) {
                        Some(digit) if !*digits_end => {
                            *size = size.saturating_mul(16).saturating_add(u64::from(digit));
                        }
                        _ => *digits_end = true,
                    }
                }
                let Some(at) = end else {
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
                let Some(at) = line_end(bytes) else {
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

/// Where the first line ends, eight bytes at a time: lines are too short for a search that has more
/// to set up to be worth it.
#[inline]
fn line_end(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::MAX / 0xff;
    let eights = bytes.chunks_exact(8);
    let rest = eights.remainder();
    for (index, eight) in eights.enumerate() {
        // A byte that is a line break is 0 in this, and the lowest one that is 0 is found so.
        let other = u64::from_le_bytes(eight.try_into().expect("eight")) ^ (ONES * b'\n' as u64);
        let found = other.wrapping_sub(ONES) & !other & (ONES << 7);
        if found != 0 {
            return Some(index * 8 + found.trailing_zeros() as usize / 8);
        }
    }
    let at = rest.iter().position(|byte| *byte == b'\n')?;
    Some(bytes.len() - rest.len() + at)
}

/// What comes after so many bytes, and whether they have all come.
fn skip<'a>(left: &mut u64, bytes: &'a [u8]) -> (&'a [u8], bool) {
    let taken = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
    *left -= taken as u64;
    (&bytes[taken..], *left == 0)
}

/// A header's value, if the line is that header. (A name is ASCII; its case does not matter.)
#[inline]
fn value<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (start, value) = line.split_at_checked(name.len())?;
    start.eq_ignore_ascii_case(name).then_some(value)
}
