//! What IKEv2 does with cryptography; the primitives are aws-lc-rs's.

pub(crate) mod algorithm;
pub(crate) mod channel;
pub(crate) mod group;
pub(crate) mod keys;
pub(crate) mod keyword;
pub(crate) mod signature;
pub(crate) mod suite;

#[cfg(test)]
pub(crate) fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}
