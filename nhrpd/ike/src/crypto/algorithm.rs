//! The ciphers and hashes that we have, each a row of a table.
//!
//! A new algorithm is a new row; negotiation does not know any of them by name.

use aws_lc_rs::{aead, cipher, hmac};

/// Bytes of the salt that begins every nonce of an AEAD (RFC 5282 §4, RFC 7634 §2).
pub(crate) const SALT_LEN: usize = 4;

/// Encryption in the encrypted payload.
#[derive(Debug)]
pub struct Encryption {
    /// Keyword, as strongSwan writes it: `aes256gcm16`.
    pub name: &'static str,
    pub(crate) id: u16,
    pub(crate) key_bits: Option<u16>,
    pub(crate) mode: Mode,
}

#[derive(Debug)]
pub(crate) enum Mode {
    /// Protects integrity, too (RFC 5282, RFC 7634).
    Aead(&'static aead::Algorithm),
    /// Cipher block chaining (RFC 3602); wants an [`Integrity`] beside it.
    Cbc(&'static cipher::Algorithm),
}

impl Encryption {
    /// Bytes of keying material: the key, and of an AEAD the salt behind it.
    pub(crate) fn material_len(&self) -> usize {
        match self.mode {
            Mode::Aead(algorithm) => algorithm.key_len() + SALT_LEN,
            Mode::Cbc(_) => usize::from(self.key_bits.unwrap_or_default() / 8),
        }
    }

    /// It needs no integrity algorithm beside it.
    pub fn is_aead(&self) -> bool {
        matches!(self.mode, Mode::Aead(_))
    }
}

/// Integrity beside a cipher that has none (RFC 4868).
#[derive(Debug)]
pub struct Integrity {
    /// Keyword: `sha256`.
    pub name: &'static str,
    pub(crate) id: u16,
    pub(crate) hmac: &'static hmac::Algorithm,
    /// Bytes of the check value.
    pub(crate) tag_len: usize,
}

impl Integrity {
    /// RFC 4868 §2.1.1: as long as the hash.
    pub(crate) fn key_len(&self) -> usize {
        self.hmac.tag_len()
    }
}

/// A pseudorandom function (RFC 4868).
#[derive(Debug)]
pub struct Prf {
    /// Name of its hash, as in the keyword `prfsha256`.
    pub name: &'static str,
    pub(crate) id: u16,
    pub(crate) hmac: &'static hmac::Algorithm,
}

macro_rules! compared_by_name {
    ($($type:ty),*) => {
        $(impl PartialEq for $type {
            fn eq(&self, other: &Self) -> bool {
                self.name == other.name
            }
        }
        impl Eq for $type {})*
    };
}
pub(crate) use compared_by_name;

compared_by_name!(Encryption, Integrity, Prf);

/// AES-256 in Galois/Counter Mode with a tag of 16 bytes (RFC 5282).
pub static AES_256_GCM_16: Encryption = Encryption {
    name: "aes256gcm16",
    id: 20,
    key_bits: Some(256),
    mode: Mode::Aead(&aead::AES_256_GCM),
};

/// AES-128 in Galois/Counter Mode with a tag of 16 bytes (RFC 5282).
pub static AES_128_GCM_16: Encryption = Encryption {
    name: "aes128gcm16",
    id: 20,
    key_bits: Some(128),
    mode: Mode::Aead(&aead::AES_128_GCM),
};

/// ChaCha20-Poly1305 (RFC 7634).
pub static CHACHA20_POLY1305: Encryption = Encryption {
    name: "chacha20poly1305",
    id: 28,
    key_bits: None,
    mode: Mode::Aead(&aead::CHACHA20_POLY1305),
};

/// AES-256 in CBC mode (RFC 3602).
pub static AES_256_CBC: Encryption =
    Encryption { name: "aes256", id: 12, key_bits: Some(256), mode: Mode::Cbc(&cipher::AES_256) };

/// AES-128 in CBC mode (RFC 3602).
pub static AES_128_CBC: Encryption =
    Encryption { name: "aes128", id: 12, key_bits: Some(128), mode: Mode::Cbc(&cipher::AES_128) };

/// HMAC-SHA2-256-128 (RFC 4868).
pub static HMAC_SHA2_256_128: Integrity =
    Integrity { name: "sha256", id: 12, hmac: &hmac::HMAC_SHA256, tag_len: 16 };

/// HMAC-SHA2-384-192 (RFC 4868).
pub static HMAC_SHA2_384_192: Integrity =
    Integrity { name: "sha384", id: 13, hmac: &hmac::HMAC_SHA384, tag_len: 24 };

/// HMAC-SHA2-512-256 (RFC 4868).
pub static HMAC_SHA2_512_256: Integrity =
    Integrity { name: "sha512", id: 14, hmac: &hmac::HMAC_SHA512, tag_len: 32 };

/// HMAC-SHA2-256 (RFC 4868).
pub static SHA2_256: Prf = Prf { name: "sha256", id: 5, hmac: &hmac::HMAC_SHA256 };

/// HMAC-SHA2-384 (RFC 4868).
pub static SHA2_384: Prf = Prf { name: "sha384", id: 6, hmac: &hmac::HMAC_SHA384 };

/// HMAC-SHA2-512 (RFC 4868).
pub static SHA2_512: Prf = Prf { name: "sha512", id: 7, hmac: &hmac::HMAC_SHA512 };

pub(crate) static ENCRYPTION: [&Encryption; 5] =
    [&AES_256_GCM_16, &AES_128_GCM_16, &CHACHA20_POLY1305, &AES_256_CBC, &AES_128_CBC];
pub(crate) static INTEGRITY: [&Integrity; 3] =
    [&HMAC_SHA2_256_128, &HMAC_SHA2_384_192, &HMAC_SHA2_512_256];
pub(crate) static PRF: [&Prf; 3] = [&SHA2_256, &SHA2_384, &SHA2_512];
