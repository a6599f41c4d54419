//! Reads the header blocks of an HTTP/2 client, as far as needed to find an extended CONNECT ([RFC
//! 8441](https://www.rfc-editor.org/rfc/rfc8441)): a request with the field `:protocol`.
//!
//! This steps through the field representations of HPACK ([RFC 7541, section
//! 6](https://www.rfc-editor.org/rfc/rfc7541#section-6)) and keeps none of them. It needs no
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

/// Finds `:protocol` in the header blocks of one connection.
#[derive(Debug, Default)]
pub(super) struct HeaderBlocks {
    at: At,
    /// Says whether the current block has a `:protocol`.
    found: bool,
    /// Says whether a block was invalid. Nothing more is found on this connection then.
    invalid: bool,
    /// Counts the entries that were inserted, without gaps from the first `:protocol` on.
    inserted: u32,
    /// Lists the numbers of the entries that are a `:protocol`.
    protocols: Vec<u32>,
}

/// Locates the next byte within a field representation.
#[derive(Clone, Copy, Debug, Default)]
enum At {
    #[default]
    Start,
    /// Continues an integer that did not fit into its first byte.
    Integer {
        of: Of,
        value: u32,
        shift: u8,
    },
    NameLength {
        inserts: bool,
    },
    Name {
        inserts: bool,
        /// Holds the rest of the name that is looked for; empty if the name is another one.
        expected: &'static [u8],
        left: u32,
    },
    ValueLength,
    Value {
        left: u32,
    },
}

/// Names what an integer stands for.
#[derive(Clone, Copy, Debug)]
enum Of {
    Indexed,
    LiteralName { inserts: bool },
    TableSize,
    NameLength { inserts: bool, huffman: bool },
    ValueLength,
}

impl HeaderBlocks {
    /// Returns whether every block has to be read, and not only those that may be an extended
    /// CONNECT.
    pub(super) fn counts(&self) -> bool {
        !self.protocols.is_empty()
    }

    /// Reads a part of a block.
    pub(super) fn read(&mut self, mut bytes: &[u8]) {
        while let (false, Some((&first, rest))) = (self.invalid, bytes.split_first()) {
            bytes = match self.at {
                At::Start => {
                    let (of, bits) = match first {
                        0x80.. => (Of::Indexed, 7),
                        0x40.. => (Of::LiteralName { inserts: true }, 6),
                        0x20.. => (Of::TableSize, 5),
                        _ => (Of::LiteralName { inserts: false }, 4),
                    };
                    self.begin_integer(of, first, bits);
                    rest
                }
                At::Integer { of, value, shift } => {
                    let value = value + (u32::from(first & 0x7f) << shift);
                    if first & 0x80 == 0 {
                        self.end_integer(of, value);
                    } else if shift < 14 {
                        let shift = shift + 7;
                        self.at = At::Integer { of, value, shift };
                    } else {
                        self.invalid = true;
                    }
                    rest
                }
                At::NameLength { inserts } => {
                    let huffman = first & 0x80 != 0;
                    self.begin_integer(Of::NameLength { inserts, huffman }, first, 7);
                    rest
                }
                At::Name {
                    inserts,
                    expected,
                    left,
                } => {
                    let (part, rest) = split(bytes, left);
                    let left = left - part.len() as u32;
                    let expected = expected.strip_prefix(part);
                    if left == 0 {
                        self.named(inserts, expected == Some(&[]));
                    } else {
                        let expected = expected.unwrap_or_default();
                        self.at = At::Name {
                            inserts,
                            expected,
                            left,
                        };
                    }
                    rest
                }
                At::ValueLength => {
                    self.begin_integer(Of::ValueLength, first, 7);
                    rest
                }
                At::Value { left } => {
                    let (part, rest) = split(bytes, left);
                    self.skip_value(left - part.len() as u32);
                    rest
                }
            };
        }
    }

    /// Ends a block. Returns whether it is that of an extended CONNECT.
    pub(super) fn end(&mut self) -> bool {
        self.invalid |= !matches!(self.at, At::Start);
        std::mem::take(&mut self.found) && !self.invalid
    }

    fn begin_integer(&mut self, of: Of, first: u8, bits: u8) {
        let most = (1 << bits) - 1;
        let value = u32::from(first) & most;
        if value < most {
            self.end_integer(of, value);
        } else {
            let shift = 0;
            self.at = At::Integer { of, value, shift };
        }
    }

    fn end_integer(&mut self, of: Of, value: u32) {
        match of {
            Of::TableSize => self.at = At::Start,
            Of::Indexed => {
                self.found |= self.is_protocol(value);
                self.at = At::Start;
            }
            Of::LiteralName { inserts } if value == 0 => self.at = At::NameLength { inserts },
            Of::LiteralName { inserts } => {
                let is_protocol = self.is_protocol(value);
                self.named(inserts, is_protocol);
            }
            Of::NameLength { .. } if value == 0 => self.invalid = true,
            Of::NameLength { inserts, huffman } => {
                let name = if huffman { HUFFMAN } else { RAW };
                self.at = At::Name {
                    inserts,
                    expected: if value as usize == name.len() {
                        name
                    } else {
                        &[]
                    },
                    left: value,
                };
            }
            Of::ValueLength => self.skip_value(value),
        }
    }

    /// Ends the name of a literal. Its value is next.
    fn named(&mut self, inserts: bool, is_protocol: bool) {
        if inserts {
            self.inserted = self.inserted.wrapping_add(1);
        }
        if is_protocol {
            self.found = true;
            if inserts {
                if self.protocols.len() == MOST {
                    self.protocols.remove(0);
                }
                self.protocols.push(self.inserted);
            }
        }
        self.at = At::ValueLength;
    }

    fn skip_value(&mut self, left: u32) {
        self.at = match left {
            0 => At::Start,
            left => At::Value { left },
        };
    }

    /// Returns whether the entry with this index is a `:protocol`.
    fn is_protocol(&self, index: u32) -> bool {
        let since = index.checked_sub(NEWEST);
        since.is_some_and(|since| self.protocols.contains(&self.inserted.wrapping_sub(since)))
    }
}

fn split(bytes: &[u8], at: u32) -> (&[u8], &[u8]) {
    bytes.split_at(bytes.len().min(at as usize))
}
