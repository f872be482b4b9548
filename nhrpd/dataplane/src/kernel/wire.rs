//! Netlink messages: one encoder and one decoder for every family that is spoken here.
//!
//! ```text
//!   length (4) | type (2) | flags (2) | sequence (4) | port (4) | family header | attributes
//! ```
//!
//! Numbers are in the byte order of this machine, unless the attribute says otherwise.

use zeroize::Zeroizing;

const HEADER: usize = 16;
/// Attribute types carry two flags in their upper bits.
const TYPE_MASK: u16 = 0x3fff;
const NESTED: u16 = 0x8000;
/// What a request with keys needs at most, so that it never moves in memory.
const ROOM: usize = 1024;

/// A request under way. It may hold keys, and is erased when it is done with.
#[derive(Clone)]
pub(crate) struct Request(Zeroizing<Vec<u8>>);

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Request({} bytes)", self.0.len())
    }
}

impl Request {
    /// A request of this type with these flags beside `NLM_F_REQUEST`.
    pub(crate) fn new(kind: u16, flags: i32) -> Self {
        let mut bytes = Vec::with_capacity(ROOM);
        bytes.extend([0; 4]);
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(((flags | libc::NLM_F_REQUEST) as u16).to_ne_bytes());
        bytes.extend([0; 8]);
        Self(Zeroizing::new(bytes))
    }

    /// Bytes of the family's header.
    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// An attribute.
    pub(crate) fn put(mut self, kind: u16, payload: &[u8]) -> Self {
        self.attribute(kind, payload);
        self
    }

    /// An attribute whose payload comes in pieces.
    pub(crate) fn put_parts(mut self, kind: u16, parts: &[&[u8]]) -> Self {
        let begin = self.begin(kind);
        for part in parts {
            self.0.extend_from_slice(part);
        }
        self.end(begin);
        self
    }

    pub(crate) fn put_u32(self, kind: u16, value: u32) -> Self {
        self.put(kind, &value.to_ne_bytes())
    }

    pub(crate) fn put_be32(self, kind: u16, value: u32) -> Self {
        self.put(kind, &value.to_be_bytes())
    }

    /// A string with its NUL.
    pub(crate) fn put_text(mut self, kind: u16, text: &str) -> Self {
        let begin = self.begin(kind);
        self.0.extend(text.as_bytes());
        self.0.push(0);
        self.end(begin);
        self
    }

    /// An attribute that holds attributes.
    pub(crate) fn nest(mut self, kind: u16, inside: impl FnOnce(Self) -> Self) -> Self {
        let begin = self.begin(kind | NESTED);
        self = inside(self);
        self.end(begin);
        self
    }

    fn attribute(&mut self, kind: u16, payload: &[u8]) {
        let begin = self.begin(kind);
        self.0.extend_from_slice(payload);
        self.end(begin);
    }

    fn begin(&mut self, kind: u16) -> usize {
        let begin = self.0.len();
        self.0.extend([0; 2]);
        self.0.extend(kind.to_ne_bytes());
        begin
    }

    fn end(&mut self, begin: usize) {
        let len = (self.0.len() - begin) as u16;
        self.0[begin..begin + 2].copy_from_slice(&len.to_ne_bytes());
        let padded = self.0.len().next_multiple_of(4);
        self.0.resize(padded, 0);
    }

    /// The bytes to send, with this sequence number.
    pub(crate) fn finish(&mut self, sequence: u32) -> &[u8] {
        let len = self.0.len() as u32;
        self.0[..4].copy_from_slice(&len.to_ne_bytes());
        self.0[8..12].copy_from_slice(&sequence.to_ne_bytes());
        &self.0
    }

    /// Asks for an acknowledgement.
    pub(crate) fn acknowledged(mut self) -> Self {
        self.0[6] |= libc::NLM_F_ACK as u8;
        self
    }
}

/// A message from the kernel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message<'a> {
    pub kind: u16,
    pub sequence: u32,
    /// The socket whose request it answers or tells of; 0 = the kernel's own.
    pub port: u32,
    pub payload: &'a [u8],
}

/// The messages of one datagram.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let len = u32_at(bytes, 0)? as usize;
        let payload = bytes.get(HEADER..len)?;
        let message = Message {
            kind: u16_at(bytes, 4)?,
            sequence: u32_at(bytes, 8)?,
            port: u32_at(bytes, 12)?,
            payload,
        };
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// The attributes in `bytes`, with their types.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & TYPE_MASK;
        let payload = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, payload))
    })
}

/// The first attribute of a type; empty where there is none.
pub(crate) fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(found, _)| *found == kind).map(|(_, payload)| payload)
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

pub(crate) fn be32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes)
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_ne_bytes)
}

pub(crate) fn be64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at + 8)?.try_into().ok().map(u64::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_encoded_is_decoded_and_padded() {
        let mut request = Request::new(28, libc::NLM_F_CREATE)
            .raw(&[1, 2, 3, 4])
            .put(1, &[7])
            .nest(2, |inside| inside.put_text(3, "gre").put_u32(4, 9));
        let bytes = request.finish(5);
        assert_eq!(bytes.len() % 4, 0);
        let [message] = messages(bytes).collect::<Vec<_>>()[..] else { panic!("one message") };
        assert_eq!((message.kind, message.sequence), (28, 5));
        let body = &message.payload[4..];
        assert_eq!(find(body, 1), Some(&[7][..]));
        let inside = find(body, 2).unwrap();
        assert_eq!(find(inside, 3), Some(&b"gre\0"[..]));
        assert_eq!(find(inside, 4).and_then(|value| u32_at(value, 0)), Some(9));
    }

    #[test]
    fn a_request_says_nothing_of_what_is_in_it() {
        assert_eq!(format!("{:?}", Request::new(1, 0).put(1, b"secret")), "Request(28 bytes)");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for message in messages(&bytes) {
                attributes(message.payload).count();
            }
        }
    }
}
