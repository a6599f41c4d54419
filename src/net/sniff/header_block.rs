//! Reads the header blocks of an HTTP/2 client, as far as needed to find an extended CONNECT ([RFC
//! 8441](https://www.rfc-editor.org/rfc/rfc8441)): a request with the field `:protocol`.
//!
//! This steps through the field representations of HPACK ([RFC 7541, section
//! 6](https://www.rfc-editor.org/rfc/rfc7541#section-6)) once their block has ended. It needs no
//! dynamic table: an entry's index is 62 plus the number of insertions after it. So insertions are
//! counted from the first `:protocol` on. An evicted entry does no harm, as no later field refers
//! to it.

/// Indexes the newest entry of the dynamic table.
const NEWEST: u32 = 62;
const RAW: &[u8] = b":protocol";
/// Spells the same name in the Huffman code of RFC 7541, appendix B.
const HUFFMAN: &[u8] = &[0xb9, 0x5d, 0x87, 0x49, 0xc8, 0x7a, 0x3f];
/// Limits how many table entries that are a `:protocol` are remembered.
const MOST: usize = 4;
/// Limits the length of a block. By default, hyper rejects requests whose fields take 16 KiB, which
/// is less in any encoding.
const LONGEST: usize = 1 << 16;
/// Limits how many bytes of memory are kept from one block to the next.
const KEPT: usize = 1 << 12;

/// Finds `:protocol` in the header blocks of one connection.
#[derive(Debug, Default)]
pub(super) struct HeaderBlocks {
    /// Holds the part of the current block that has come.
    block: Vec<u8>,
    /// Says whether the current block is too long to be read.
    too_long: bool,
    /// Says whether a block was invalid. Nothing more is found on this connection then.
    invalid: bool,
    /// Counts the entries that were inserted, without gaps from the first `:protocol` on.
    inserted: u32,
    /// Lists the numbers of the entries that are a `:protocol`.
    protocols: Vec<u32>,
}

impl HeaderBlocks {
    /// Returns whether every block has to be read, and not only those that may be an extended
    /// CONNECT.
    pub(super) fn counts(&self) -> bool {
        !self.protocols.is_empty()
    }

    /// Reads a part of a block.
    pub(super) fn read(&mut self, bytes: &[u8]) {
        self.too_long |= self.block.len() + bytes.len() > LONGEST;
        if !self.too_long && !self.invalid {
            self.block.extend_from_slice(bytes);
        }
    }

    /// Removes what surrounds a block in its first frame: the padding with its length, and `before`
    /// bytes of other fields.
    pub(super) fn strip(&mut self, is_padded: bool, before: usize) {
        let length = self.block.len();
        let (start, padding) = match self.block.first() {
            Some(padding) if is_padded => (1 + before, usize::from(*padding)),
            _ => (before, 0),
        };
        self.block.truncate(length.saturating_sub(padding));
        self.block.drain(..start.min(self.block.len()));
    }

    /// Ends a block. Returns whether it is that of an extended CONNECT.
    pub(super) fn end(&mut self) -> bool {
        let mut block = std::mem::take(&mut self.block);
        let found = match std::mem::take(&mut self.too_long) {
            _ if self.invalid => None,
            // Its insertions are not known. Before the first `:protocol` they do not matter.
            true => (!self.counts()).then_some(false),
            false => self.read_fields(&block),
        };
        self.invalid |= found.is_none();
        // The memory is kept for the next block.
        block.clear();
        block.shrink_to(KEPT);
        self.block = block;
        found == Some(true)
    }

    /// Returns whether a block has a `:protocol`. Returns `None` if the block is invalid.
    fn read_fields(&mut self, mut bytes: &[u8]) -> Option<bool> {
        let mut found = false;
        while let Some(first) = bytes.first() {
            let (inserts, bits) = match first {
                0x80.. => {
                    let index = integer(&mut bytes, 7)?;
                    found |= self.is_protocol(index);
                    continue;
                }
                0x40.. => (true, 6),
                0x20.. => {
                    // A new size of the dynamic table.
                    integer(&mut bytes, 5)?;
                    continue;
                }
                _ => (false, 4),
            };
            let is_protocol = match integer(&mut bytes, bits)? {
                0 => match string(&mut bytes)? {
                    (_, []) => return None,
                    (huffman, name) => name == if huffman { HUFFMAN } else { RAW },
                },
                index => self.is_protocol(index),
            };
            string(&mut bytes)?;
            found |= is_protocol;
            if inserts {
                self.inserted = self.inserted.wrapping_add(1);
            }
            if inserts && is_protocol {
                if self.protocols.len() == MOST {
                    self.protocols.remove(0);
                }
                self.protocols.push(self.inserted);
            }
        }
        Some(found)
    }

    /// Returns whether the entry with this index is a `:protocol`.
    fn is_protocol(&self, index: u32) -> bool {
        let since = index.checked_sub(NEWEST);
        since.is_some_and(|since| self.protocols.contains(&self.inserted.wrapping_sub(since)))
    }
}

/// Takes an integer that begins in the last bits of the first byte ([RFC 7541, section
/// 5.1](https://www.rfc-editor.org/rfc/rfc7541#section-5.1)). Returns `None` if it does not end, or
/// has more than three further bytes.
fn integer(bytes: &mut &[u8], bits: u8) -> Option<u32> {
    let (first, mut rest) = bytes.split_first()?;
    let most = (1 << bits) - 1;
    let mut value = u32::from(*first) & most;
    let mut more = value == most;
    for shift in [0, 7, 14] {
        if !more {
            break;
        }
        let (next, after) = rest.split_first()?;
        value += u32::from(next & 0x7f) << shift;
        more = next & 0x80 != 0;
        rest = after;
    }
    *bytes = rest;
    (!more).then_some(value)
}

/// Takes a string. Returns whether it is in Huffman code, and its bytes.
fn string<'a>(bytes: &mut &'a [u8]) -> Option<(bool, &'a [u8])> {
    let is_huffman = bytes.first()? & 0x80 != 0;
    let length = integer(bytes, 7)?;
    let (string, rest) = bytes.split_at_checked(length as usize)?;
    *bytes = rest;
    Some((is_huffman, string))
}
