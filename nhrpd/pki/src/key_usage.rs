//! Key usage (RFC 5280 §4.2.1.3) as a set of bits, and the mask rule that judges it.

use std::fmt;
use std::str::FromStr;

use crate::Absent;

/// Names and bits in the order of the ASN.1 definition (RFC 5280 §4.2.1.3).
const NAMES: [(u16, &str); 9] = [
    (0x80, "digitalSignature"),
    (0x40, "nonRepudiation"),
    (0x20, "keyEncipherment"),
    (0x10, "dataEncipherment"),
    (0x08, "keyAgreement"),
    (0x04, "keyCertSign"),
    (0x02, "cRLSign"),
    (0x01, "encipherOnly"),
    (0x8000, "decipherOnly"),
];

/// What X.509 calls bit 1 since 2005 (RFC 5280 §4.2.1.3).
const CONTENT_COMMITMENT: (u16, &str) = (0x40, "contentCommitment");

/// Every bit that has a meaning.
const ALL: u16 = 0x80ff;

/// The key-usage bits of a certificate, in OpenSSL's order: 0x80 digitalSignature, 0x40
/// nonRepudiation, 0x20 keyEncipherment, 0x10 dataEncipherment, 0x08 keyAgreement, 0x04
/// keyCertSign, 0x02 cRLSign, 0x01 encipherOnly, 0x8000 decipherOnly.
///
/// Shown as `0xa0 (digitalSignature+keyEncipherment)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyUsage(u16);

impl KeyUsage {
    /// May sign data: what IKE needs.
    pub const DIGITAL_SIGNATURE: Self = Self(0x80);
    /// May sign certificates: a CA.
    pub const KEY_CERT_SIGN: Self = Self(0x04);
    /// May sign revocation lists.
    pub const CRL_SIGN: Self = Self(0x02);

    /// From bits in OpenSSL's order. Bits without a meaning are refused.
    pub fn from_bits(bits: u16) -> Result<Self, KeyUsageError> {
        if bits & !ALL != 0 {
            return Err(KeyUsageError::UnknownBits { bits, unknown: bits & !ALL });
        }
        Ok(Self(bits))
    }

    /// The bits in OpenSSL's order.
    pub fn bits(self) -> u16 {
        self.0
    }

    /// Whether every bit of `other` is set here.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The names of the bits that are set, in ASN.1 order.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        NAMES.iter().filter(move |(bit, _)| self.0 & bit != 0).map(|(_, name)| *name)
    }

    /// From the order of x509-parser, where ASN.1 bit *n* is `1 << n`. OpenSSL keeps each octet of
    /// the BIT STRING as it is encoded, first bit highest, and the second octet above the first.
    pub(crate) fn from_x509_parser(flags: u16) -> Self {
        let first_octet = (flags & 0xff) as u8;
        let decipher_only = if flags & 0x100 != 0 { 0x8000 } else { 0 };
        Self(u16::from(first_octet.reverse_bits()) | decipher_only)
    }
}

impl fmt::Display for KeyUsage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#04x} (", self.0)?;
        if self.0 == 0 {
            f.write_str("none")?;
        }
        for (position, name) in self.names().enumerate() {
            if position > 0 {
                f.write_str("+")?;
            }
            f.write_str(name)?;
        }
        f.write_str(")")
    }
}

impl FromStr for KeyUsage {
    type Err = KeyUsageError;

    /// Names joined by `+`, or hexadecimal with `0x`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        if let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
            let bits = u16::from_str_radix(digits, 16)
                .map_err(|_| KeyUsageError::Hexadecimal(text.to_owned()))?;
            return Self::from_bits(bits);
        }
        let mut bits = 0;
        for name in text.split('+').map(str::trim) {
            let (bit, _) = NAMES
                .iter()
                .chain([&CONTENT_COMMITMENT])
                .find(|(_, known)| known.eq_ignore_ascii_case(name))
                .ok_or_else(|| KeyUsageError::unknown_name(name))?;
            bits |= bit;
        }
        Ok(Self(bits))
    }
}

/// A mask that a certificate satisfies when it has *all* of its bits, whatever else it has. Never
/// empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyUsageMask(KeyUsage);

impl KeyUsageMask {
    /// `digitalSignature`: what a signature in IKE_AUTH needs.
    pub const DIGITAL_SIGNATURE: Self = Self(KeyUsage::DIGITAL_SIGNATURE);

    /// Whether `usage & mask == mask`. Never equality: more bits than the mask asks for are fine.
    pub fn satisfied_by(self, usage: KeyUsage) -> bool {
        usage.contains(self.0)
    }

    /// The bits that are asked for.
    pub fn key_usage(self) -> KeyUsage {
        self.0
    }
}

impl TryFrom<KeyUsage> for KeyUsageMask {
    type Error = KeyUsageError;

    fn try_from(bits: KeyUsage) -> Result<Self, Self::Error> {
        if bits.0 == 0 { Err(KeyUsageError::EmptyMask) } else { Ok(Self(bits)) }
    }
}

impl FromStr for KeyUsageMask {
    type Err = KeyUsageError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<KeyUsage>()?.try_into()
    }
}

impl fmt::Display for KeyUsageMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why a key usage or a mask cannot be read. Worded for the person who wrote it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyUsageError {
    /// No such name.
    #[error("unknown key usage \"{name}\"; known are {}{hint}", known_names())]
    UnknownName {
        /// As written.
        name: String,
        /// What was probably meant; empty or `; for …`.
        hint: String,
    },
    /// Not a number of up to four hexadecimal digits.
    #[error(
        "\"{0}\" is not a key usage in hexadecimal; 0x80 is digitalSignature, 0x8000 decipherOnly"
    )]
    Hexadecimal(String),
    /// Bits that RFC 5280 does not define.
    #[error(
        "key usage {bits:#x} has bits without a meaning: {unknown:#x}; the known bits are 0x80ff"
    )]
    UnknownBits {
        /// As written.
        bits: u16,
        /// Those without a meaning.
        unknown: u16,
    },
    /// Every certificate would satisfy it.
    #[error("a key usage mask needs at least one bit; every certificate would satisfy this one")]
    EmptyMask,
}

impl KeyUsageError {
    fn unknown_name(name: &str) -> Self {
        let hexadecimal = !name.is_empty() && name.bytes().all(|b| b.is_ascii_hexdigit());
        let hint =
            if hexadecimal { format!("; hexadecimal is written 0x{name}") } else { String::new() };
        Self::UnknownName { name: name.to_owned(), hint }
    }
}

fn known_names() -> String {
    NAMES.map(|(_, name)| name).join(", ")
}

/// The rule for key usage: one satisfied mask is enough.
///
/// No mask at all is satisfied by nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyUsagePolicy {
    /// Any of these.
    pub masks: Vec<KeyUsageMask>,
    /// What a certificate without the extension gets.
    pub absent: Absent,
}

impl Default for KeyUsagePolicy {
    fn default() -> Self {
        Self { masks: vec![KeyUsageMask::DIGITAL_SIGNATURE], absent: Absent::Refuse }
    }
}

impl KeyUsagePolicy {
    /// Judges the key usage of a certificate; `None` where it has no such extension.
    pub fn allows(&self, usage: Option<KeyUsage>) -> bool {
        match usage {
            Some(usage) => self.masks.iter().any(|mask| mask.satisfied_by(usage)),
            None => self.absent == Absent::Allow,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(masks: &[&str]) -> KeyUsagePolicy {
        KeyUsagePolicy {
            masks: masks.iter().map(|mask| mask.parse().unwrap()).collect(),
            absent: Absent::Refuse,
        }
    }

    fn accepted(masks: &[&str], candidates: &[u16]) -> Vec<u16> {
        let policy = policy(masks);
        let allows = |bits: &u16| policy.allows(Some(KeyUsage::from_bits(*bits).unwrap()));
        candidates.iter().copied().filter(allows).collect()
    }

    const CANDIDATES: [u16; 9] = [0xa0, 0x80, 0x88, 0x08, 0xc0, 0xf8, 0x40, 0x8088, 0x00];

    #[test]
    fn default_asks_for_digital_signature_only() {
        let masks = ["digitalSignature"];
        assert_eq!(KeyUsagePolicy::default(), policy(&masks));
        assert_eq!(accepted(&masks, &CANDIDATES), [0xa0, 0x80, 0x88, 0xc0, 0xf8, 0x8088]);
    }

    #[test]
    fn list_of_remote_cert_tls_server() {
        let masks = ["digitalSignature+keyEncipherment", "digitalSignature+keyAgreement"];
        assert_eq!(accepted(&masks, &CANDIDATES), [0xa0, 0x88, 0xf8, 0x8088]);
        assert_eq!(accepted(&["0xa0", "0x88"], &CANDIDATES), [0xa0, 0x88, 0xf8, 0x8088]);
    }

    #[test]
    fn ninth_bit_is_a_bit_like_any_other() {
        assert_eq!(accepted(&["decipherOnly+keyAgreement"], &CANDIDATES), [0x8088]);
        assert_eq!(accepted(&["0x8008"], &CANDIDATES), [0x8088]);
    }

    #[test]
    fn absent_is_refused_unless_allowed() {
        assert!(!KeyUsagePolicy::default().allows(None));
        assert!(KeyUsagePolicy { absent: Absent::Allow, ..Default::default() }.allows(None));
    }

    #[test]
    fn no_mask_is_satisfied_by_nothing() {
        assert_eq!(accepted(&[], &CANDIDATES), [0u16; 0]);
    }

    #[test]
    fn x509_parser_has_the_bits_reversed() {
        let one_by_one = NAMES.map(|(bit, _)| bit);
        for (position, expected) in one_by_one.into_iter().enumerate() {
            assert_eq!(KeyUsage::from_x509_parser(1 << position).bits(), expected);
        }
        assert_eq!(KeyUsage::from_x509_parser(0b0_0000_0101).bits(), 0xa0);
        assert_eq!(KeyUsage::from_x509_parser(0b1_0001_0001).bits(), 0x8088);
        // Beyond the nine bits that RFC 5280 defines.
        assert_eq!(KeyUsage::from_x509_parser(0xfe00).bits(), 0);
    }

    #[test]
    fn display_has_hexadecimal_and_names() {
        let shown = |bits| KeyUsage::from_bits(bits).unwrap().to_string();
        assert_eq!(shown(0xa0), "0xa0 (digitalSignature+keyEncipherment)");
        assert_eq!(shown(0x08), "0x08 (keyAgreement)");
        assert_eq!(shown(0x8008), "0x8008 (keyAgreement+decipherOnly)");
        assert_eq!(shown(0), "0x00 (none)");
    }

    #[test]
    fn masks_are_read_by_name_and_in_hexadecimal() {
        let bits = |text: &str| text.parse::<KeyUsageMask>().unwrap().key_usage().bits();
        assert_eq!(bits("digitalSignature"), 0x80);
        assert_eq!(bits(" digitalsignature + KEYAGREEMENT "), 0x88);
        assert_eq!(bits("contentCommitment"), 0x40);
        assert_eq!(bits("nonRepudiation"), 0x40);
        assert_eq!(bits("0xa0"), 0xa0);
        assert_eq!(bits("0XA0"), 0xa0);
        assert_eq!(bits("0x8000"), 0x8000);
        for (bit, name) in NAMES {
            assert_eq!(bits(name), bit);
        }
    }

    #[test]
    fn bad_masks_say_what_was_expected() {
        let error = |text: &str| text.parse::<KeyUsageMask>().unwrap_err().to_string();
        assert_eq!(
            error("digitalSignature+keyEncryption"),
            "unknown key usage \"keyEncryption\"; known are digitalSignature, nonRepudiation, \
             keyEncipherment, dataEncipherment, keyAgreement, keyCertSign, cRLSign, encipherOnly, \
             decipherOnly"
        );
        assert!(error("a0").ends_with("; hexadecimal is written 0xa0"));
        assert!(error("").starts_with("unknown key usage \"\""));
        assert!(error("0x").contains("is not a key usage in hexadecimal"));
        assert!(error("0x12345").contains("is not a key usage in hexadecimal"));
        assert_eq!(
            error("0x1a0"),
            "key usage 0x1a0 has bits without a meaning: 0x100; the known bits are 0x80ff"
        );
        assert!(error("0x0").contains("at least one bit"));
    }
}
