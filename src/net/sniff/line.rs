//! Reads the lines of HTTP/1, which may come in parts.

/// Keeps the start and the end of a line, as far as needed.
#[derive(Debug)]
pub(super) struct Line {
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

impl Line {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }

    pub(super) fn push(&mut self, part: &[u8]) {
        for byte in part {
            if self.filled == self.bytes.len() {
                // Between the start and the end, bytes are dropped.
                self.bytes.copy_within(Self::START + 1.., Self::START);
                self.filled -= 1;
            }
            self.bytes[self.filled] = *byte;
            self.filled += 1;
        }
    }
}

/// Finds the first line break.
#[inline]
pub(super) fn line_end(bytes: &[u8]) -> Option<usize> {
    memchr::memchr(b'\n', bytes)
}

/// Returns the value of a header, if the line is that header. The case of its name does not matter.
#[inline]
pub(super) fn value<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (start, value) = line.split_at_checked(name.len())?;
    start.eq_ignore_ascii_case(name).then_some(value)
}
