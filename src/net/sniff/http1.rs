//! Follows HTTP/1, as far as needed to find the end of each request ([RFC 9112, section
//! 6](https://www.rfc-editor.org/rfc/rfc9112#section-6)).

use super::{
    line::{Line, line_end, value},
    websocket::{FrameEnds, WebSocket},
};
use crate::drain::ConnectionState;

/// Follows the requests and responses of an HTTP/1 connection.
#[derive(Debug, Default)]
pub(in crate::net) struct Http1 {
    request: Request,
    response: Response,
    /// Counts the requests to which no response has begun.
    awaited_responses: u32,
    /// Says whether the last request was a CONNECT.
    connect: bool,
    /// Says whether the head of a request has come.
    saw_request: bool,
    /// Follows the bytes behind the last head as frames, if they came before a response. They are
    /// either the next request, or frames of a WebSocket that is not open yet.
    early: Option<FrameEnds>,
}

/// Says that the first line of a connection is not one of HTTP/1.
#[derive(Debug)]
pub(super) struct NotHttp;

/// Locates the next byte of the peer within a request.
#[derive(Debug, Default)]
enum Request {
    /// Precedes the first byte of a request.
    #[default]
    Before,
    Head(Head),
    /// Counts the bytes that are to come: of a body, or of a chunk with the line break after it.
    Body {
        left: u64,
        chunked: bool,
    },
    ChunkSize {
        size: u64,
        /// Says whether the digits of the size have ended.
        digits_end: bool,
    },
    /// Counts the bytes of the two line breaks at the end that have come. hyper takes only `\r\n`
    /// for one here.
    Trailers(usize),
    /// Follows a request line that is not one of HTTP/1. The server answers the requests before it,
    /// rejects this one and closes.
    Invalid,
}

#[derive(Debug, Default)]
struct Head {
    /// Holds the part of a line that has come, if the line has not ended.
    line: Option<Box<Line>>,
    /// Says whether the request line has come.
    headers: bool,
    length: u64,
    chunked: bool,
    connect: bool,
}

/// Locates the next byte of the server within a response. A write may end anywhere.
#[derive(Debug)]
enum Response {
    /// Precedes the end of a status code. Holds what has been written of the status line since the
    /// start of a write.
    Status([u8; 12], usize),
    /// Precedes the end of a head. Says whether the next byte begins a line.
    Head(bool),
}

impl Request {
    /// Precedes a chunk.
    const CHUNK: Self = Self::ChunkSize {
        size: 0,
        digits_end: false,
    };
}

impl Default for Response {
    fn default() -> Self {
        Self::Status([0; 12], 0)
    }
}

impl Http1 {
    pub(super) fn read(&mut self, mut bytes: &[u8]) -> Result<(), NotHttp> {
        if let Some(early) = &mut self.early {
            early.follow(bytes);
        }
        while let Some(first) = bytes.first() {
            bytes = match &mut self.request {
                // A line break before the request line is skipped.
                Request::Before if b"\r\n".contains(first) => &bytes[1..],
                Request::Before => {
                    if self.awaited_responses > 0 {
                        self.early.get_or_insert_default().follow(bytes);
                    }
                    self.request = Request::Head(Head::default());
                    bytes
                }
                Request::Head(head) => {
                    let rest = match head.read(bytes) {
                        Ok(Some(rest)) => rest,
                        Ok(None) => return Ok(()),
                        Err(NotHttp) if self.saw_request => {
                            self.request = Request::Invalid;
                            return Ok(());
                        }
                        Err(NotHttp) => return Err(NotHttp),
                    };
                    self.saw_request = true;
                    self.early = None;
                    self.awaited_responses = self.awaited_responses.saturating_add(1);
                    self.connect = head.connect;
                    self.request = match (head.chunked, head.length) {
                        (true, _) => Request::CHUNK,
                        (false, 0) => Request::Before,
                        (false, left) => Request::Body {
                            left,
                            chunked: false,
                        },
                    };
                    rest
                }
                Request::Body { left, chunked } => {
                    let here = bytes.len();
                    let taken = usize::try_from(*left).map_or(here, |left| left.min(here));
                    *left -= taken as u64;
                    if *left == 0 {
                        self.request = match *chunked {
                            true => Request::CHUNK,
                            false => Request::Before,
                        };
                    }
                    &bytes[taken..]
                }
                Request::ChunkSize { size, digits_end } => {
                    let end = line_end(bytes);
                    for byte in &bytes[..end.unwrap_or(bytes.len())] {
                        match char::from(*byte).to_digit(16) {
                            Some(digit) if !*digits_end => {
                                *size = size.saturating_mul(16).saturating_add(u64::from(digit));
                            }
                            _ => *digits_end = true,
                        }
                    }
                    let Some(end) = end else { return Ok(()) };
                    self.request = match *size {
                        0 => Request::Trailers(2),
                        size => Request::Body {
                            left: size.saturating_add(2),
                            chunked: true,
                        },
                    };
                    &bytes[end + 1..]
                }
                Request::Trailers(matched) => {
                    let end = bytes.iter().position(|byte| {
                        *matched = match *byte == b"\r\n\r\n"[*matched] {
                            true => *matched + 1,
                            false => usize::from(*byte == b'\r'),
                        };
                        *matched == 4
                    });
                    let Some(end) = end else { return Ok(()) };
                    self.request = Request::Before;
                    &bytes[end + 1..]
                }
                Request::Invalid => return Ok(()),
            };
        }
        Ok(())
    }

    /// Follows bytes that were written. Returns `Some` if they leave HTTP, with what may be a
    /// WebSocket if they switch protocols.
    #[inline]
    pub(super) fn wrote(&mut self, bytes: &[u8], all: bool) -> Option<Option<WebSocket>> {
        if self.awaited_responses > 0 || matches!(self.response, Response::Head(_)) {
            return self.wrote_response(bytes, all);
        }
        None
    }

    fn wrote_response(&mut self, mut bytes: &[u8], all: bool) -> Option<Option<WebSocket>> {
        while !bytes.is_empty() {
            match &mut self.response {
                // While no response is awaited, all bytes belong to the previous one.
                Response::Status(..) if self.awaited_responses == 0 => return None,
                Response::Status(line, filled) => {
                    let (part, rest) = bytes.split_at(bytes.len().min(line.len() - *filled));
                    line[*filled..][..part.len()].copy_from_slice(part);
                    let before = std::mem::replace(filled, *filled + part.len());
                    let version = (*filled).min(7);
                    if line[..version] != b"HTTP/1."[..version] {
                        // Bytes that do not begin like a response belong to the previous one. The
                        // previous write may have ended with a byte that does.
                        *filled = 0;
                        if before == 0 {
                            return None;
                        }
                        continue;
                    }
                    if *filled < line.len() {
                        return None;
                    }
                    bytes = rest;
                    let (status, class) = (&line[9..], line[9]);
                    let switches = status == b"101";
                    let is_interim = class == b'1' && !switches;
                    self.response = Response::Head(false);
                    if is_interim {
                        continue;
                    }
                    self.awaited_responses -= 1;
                    let is_last = self.awaited_responses == 0;
                    if switches {
                        let client = self.early.take().unwrap_or_default();
                        let mut websocket = WebSocket::new(client);
                        websocket.wrote(bytes);
                        return Some(Some(websocket));
                    }
                    if is_last && self.connect && class == b'2' {
                        return Some(None);
                    }
                    // The frequent case. hyper writes a head at once, so these bytes have its end,
                    // which need not be found.
                    if is_last && all {
                        self.response = Response::default();
                        return None;
                    }
                }
                Response::Head(begins) => {
                    // The next response may follow in the same write.
                    let end = bytes.iter().position(|byte| {
                        let ends = *begins && *byte == b'\n';
                        *begins = *byte == b'\n' || (*begins && *byte == b'\r');
                        ends
                    });
                    bytes = &bytes[end? + 1..];
                    self.response = Response::default();
                }
            }
        }
        None
    }

    pub(super) fn activity(&self) -> ConnectionState {
        match self.request {
            _ if self.awaited_responses > 0 => ConnectionState::Handling,
            Request::Head(_) | Request::Invalid => ConnectionState::Reading,
            _ if !self.saw_request => ConnectionState::Reading,
            _ => ConnectionState::Streaming,
        }
    }

    pub(super) fn saw_request(&self) -> bool {
        self.saw_request
    }

    pub(super) fn is_mid_request(&self) -> bool {
        !matches!(self.request, Request::Before)
    }
}

impl Head {
    /// Returns the bytes after the head, once its end has come.
    fn read<'a>(&mut self, bytes: &'a [u8]) -> Result<Option<&'a [u8]>, NotHttp> {
        let mut rest = bytes;
        while let Some(at) = line_end(rest) {
            let line = &rest[..at];
            rest = &rest[at + 1..];
            let ended = match self.line.take() {
                // The frequent cases: the line has come as a whole, and is no header of interest.
                None if self.headers
                    && !matches!(line.first(), None | Some(b'\r' | b'C' | b'c' | b'T' | b't')) =>
                {
                    continue;
                }
                None => self.end_line(line)?,
                Some(mut whole) => {
                    whole.push(line);
                    self.end_line(whole.bytes())?
                }
            };
            if ended {
                return Ok(Some(rest));
            }
        }
        if !rest.is_empty() {
            self.line.get_or_insert_default().push(rest);
        }
        Ok(None)
    }

    /// Reads a whole line. Returns whether it ends the head.
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
            // The last coding of a request can only be `chunked`.
            self.chunked = true;
        }
        Ok(false)
    }
}
