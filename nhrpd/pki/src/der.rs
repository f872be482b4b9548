//! As much of DER (X.690) as the RFC 3779 extension needs.

pub(crate) const BIT_STRING: u8 = 0x03;
pub(crate) const OCTET_STRING: u8 = 0x04;
pub(crate) const NULL: u8 = 0x05;
pub(crate) const SEQUENCE: u8 = 0x30;

/// Why octets are not the DER that was expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The octets end inside an element.
    #[error("truncated")]
    Truncated,
    /// Octets remain after the last element.
    #[error("octets after the end")]
    Trailing,
    /// Another type than expected.
    #[error("element of another type than expected")]
    Tag,
    /// Indefinite, not minimal, or beyond 65,535.
    #[error("bad length")]
    Length,
    /// Contents that the type does not allow.
    #[error("bad contents")]
    Value,
}

/// Reads elements one after another.
#[derive(Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(octets: &'a [u8]) -> Self {
        Self(octets)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The tag of the next element.
    pub(crate) fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    pub(crate) fn end(self) -> Result<(), Error> {
        if self.0.is_empty() { Ok(()) } else { Err(Error::Trailing) }
    }

    /// The contents of the next element, which has this tag.
    pub(crate) fn value(&mut self, tag: u8) -> Result<&'a [u8], Error> {
        let (&found, rest) = self.0.split_first().ok_or(Error::Truncated)?;
        if found != tag {
            return Err(Error::Tag);
        }
        // X.690 §8.1.3 and §10.1: definite, in the fewest octets.
        let (length, rest) = match *rest {
            [] => return Err(Error::Truncated),
            [length @ 0..=0x7f, ref rest @ ..] => (usize::from(length), rest),
            [0x81, length @ 0x80..=0xff, ref rest @ ..] => (usize::from(length), rest),
            [0x82, high @ 1..=0xff, low, ref rest @ ..] => {
                (usize::from(u16::from_be_bytes([high, low])), rest)
            }
            _ => return Err(Error::Length),
        };
        let (value, rest) = rest.split_at_checked(length).ok_or(Error::Truncated)?;
        self.0 = rest;
        Ok(value)
    }

    /// A reader of the contents of the next element, which has this tag.
    pub(crate) fn nested(&mut self, tag: u8) -> Result<Self, Error> {
        self.value(tag).map(Self)
    }
}

/// One element. The callers' contents are far below the 65,535 octets that fit.
pub(crate) fn encode(tag: u8, contents: &[u8]) -> Vec<u8> {
    let length = (contents.len() as u16).to_be_bytes();
    let mut element = vec![tag];
    match length {
        [0, low @ 0..=0x7f] => element.push(low),
        [0, low] => element.extend([0x81, low]),
        [high, low] => element.extend([0x82, high, low]),
    }
    element.extend_from_slice(contents);
    element
}
