//! The encrypted payload with an AEAD (RFC 7296 §3.14, RFC 5282 §3, RFC 7634 §2).

use aws_lc_rs::aead::{Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::Zeroizing;

use super::suite::{Encryption, SALT_LEN};
use crate::wire::{self, Encrypted, Header, PAYLOAD_HEADER_LEN, Payload};

const IV_LEN: usize = NONCE_LEN - SALT_LEN;

/// Protects the messages of one IKE SA in both directions.
pub(crate) struct Channel {
    outbound: Direction,
    inbound: Direction,
    /// Messages sealed so far: the IV of the next one, so that none is used twice.
    sealed: u64,
}

/// The message was not made with our keys, or was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotAuthentic;

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Channel(…)")
    }
}

impl Channel {
    pub(crate) fn new(encryption: &Encryption, outbound: &[u8], inbound: &[u8]) -> Self {
        Self {
            outbound: Direction::new(encryption, outbound),
            inbound: Direction::new(encryption, inbound),
            sealed: 0,
        }
    }

    /// Encodes a message with `payloads` in an encrypted payload.
    pub(crate) fn seal(&mut self, header: Header, payloads: &[Payload]) -> Vec<u8> {
        let (first, chain) = wire::encode_chain(payloads);
        self.seal_chain(header, first, chain)
    }

    /// Like [`Self::seal`] for a chain whose first payload has type `first`.
    pub(crate) fn seal_chain(&mut self, mut header: Header, first: u8, chain: Vec<u8>) -> Vec<u8> {
        let mut plain = Zeroizing::new(chain);
        plain.push(0); // Pad Length: an AEAD needs no padding.
        header.next_payload = wire::payload::ENCRYPTED;
        let len =
            PAYLOAD_HEADER_LEN + IV_LEN + plain.len() + self.outbound.key.algorithm().tag_len();
        let mut message = header.encode(len);
        message.extend_from_slice(&[first, 0]);
        message.extend_from_slice(&(len as u16).to_be_bytes());
        let iv = self.sealed.to_be_bytes();
        self.sealed += 1;
        self.outbound.seal(iv, &message, &mut plain);
        message.extend_from_slice(&iv);
        message.extend_from_slice(&plain);
        message
    }

    /// Checks and decrypts: the chain inside.
    pub(crate) fn open(
        &self,
        encrypted: &Encrypted<'_>,
    ) -> Result<Zeroizing<Vec<u8>>, NotAuthentic> {
        let (iv, sealed) = encrypted.body.split_first_chunk().ok_or(NotAuthentic)?;
        let mut plain = Zeroizing::new(sealed.to_vec());
        let len = self.inbound.open(*iv, encrypted.associated, &mut plain)?;
        plain.truncate(len);
        let padding = usize::from(*plain.last().ok_or(NotAuthentic)?) + 1;
        let len = plain.len().checked_sub(padding).ok_or(NotAuthentic)?;
        plain.truncate(len);
        Ok(plain)
    }
}

struct Direction {
    key: LessSafeKey,
    salt: [u8; SALT_LEN],
}

impl Direction {
    /// `material` is the key followed by the salt (RFC 5282 §7.1), as long as `encryption` says.
    fn new(encryption: &Encryption, material: &[u8]) -> Self {
        let (key, rest) = material.split_at(encryption.aead.key_len());
        let mut salt = [0; SALT_LEN];
        salt.copy_from_slice(rest);
        #[allow(clippy::expect_used, reason = "fails only for another length than key_len")]
        let key = UnboundKey::new(encryption.aead, key).expect("a key of the algorithm's length");
        Self { key: LessSafeKey::new(key), salt }
    }

    fn nonce(&self, iv: [u8; IV_LEN]) -> Nonce {
        let mut nonce = [0; NONCE_LEN];
        nonce[..SALT_LEN].copy_from_slice(&self.salt);
        nonce[SALT_LEN..].copy_from_slice(&iv);
        Nonce::assume_unique_for_key(nonce)
    }

    /// Encrypts in place and appends the tag.
    fn seal(&self, iv: [u8; IV_LEN], associated: &[u8], data: &mut Vec<u8>) {
        #[allow(clippy::expect_used, reason = "fails only for more than 64 GiB")]
        self.key
            .seal_in_place_append_tag(self.nonce(iv), Aad::from(associated), data)
            .expect("a datagram is not too long");
    }

    /// Decrypts in place: length of the plain text.
    fn open(
        &self,
        iv: [u8; IV_LEN],
        associated: &[u8],
        data: &mut [u8],
    ) -> Result<usize, NotAuthentic> {
        self.key
            .open_in_place(self.nonce(iv), Aad::from(associated), data)
            .map(|plain| plain.len())
            .map_err(|_| NotAuthentic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::hex;
    use crate::crypto::suite::{AES_256_GCM_16, CHACHA20_POLY1305};
    use crate::wire::{Exchange, Notify, NotifyType};

    #[test]
    fn rfc7634_appendix_b_informational_known_answer() {
        let key: Vec<u8> = (0x80..=0x9f).chain(0xa0..=0xa3).collect();
        let direction = Direction::new(&CHACHA20_POLY1305, &key);
        let message = hex("c0c1c2c3c4c5c6c7 d0d1d2d3d4d5d6d7 2e202500 00000009 00000045 29000029
             1011121314151617 610394701f8d017f7c12924889 6b71bfe25236efd7cdc67066906315b2");
        let header = Header::decode(&message).unwrap();
        let encrypted = Encrypted::decode(&header, &message).unwrap();
        let channel = Channel {
            outbound: Direction::new(&CHACHA20_POLY1305, &key),
            inbound: direction,
            sealed: 0x1011_1213_1415_1617,
        };
        let mut channel = channel;
        let plain = channel.open(&encrypted).unwrap();
        assert_eq!(*plain, hex("0000000c000040010000000a"));
        let payloads = wire::decode_chain(encrypted.first, &plain).unwrap();
        let window = Notify::new(NotifyType(16385), hex("0000000a"));
        assert_eq!(payloads, [Payload::Notify(window)]);
        assert_eq!(channel.seal(header, &payloads), message, "and sealing gives the same bytes");
    }

    #[test]
    fn rfc5282_3_nonce_is_salt_and_iv_gcm_known_answer() {
        // Test case 16 of the GCM specification, its IV cut into salt and IV.
        let key = hex("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308 cafebabe");
        let direction = Direction::new(&AES_256_GCM_16, &key);
        let iv = hex("facedbaddecaf888").try_into().unwrap();
        let associated = hex("feedfacedeadbeeffeedfacedeadbeefabaddad2");
        let plain = hex("d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72
             1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39");
        let mut data = plain.clone();
        direction.seal(iv, &associated, &mut data);
        assert_eq!(
            data,
            hex("522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa
                 8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662
                 76fc6ece0f4e1768cddf8853bb2d551b")
        );
        assert_eq!(direction.open(iv, &associated, &mut data), Ok(plain.len()));
    }

    fn header() -> Header {
        Header {
            initiator_spi: 1,
            responder_spi: 2,
            next_payload: 0,
            version: Header::VERSION,
            exchange: Exchange::INFORMATIONAL,
            from_initiator: true,
            response: false,
            message_id: 3,
        }
    }

    #[test]
    fn every_changed_bit_and_every_cut_is_noticed() {
        let material = [7; 36];
        for encryption in [&AES_256_GCM_16, &CHACHA20_POLY1305] {
            let mut channel = Channel::new(encryption, &material, &material);
            let message = channel.seal(header(), &[Payload::VendorId(vec![1, 2, 3])]);
            let open = |bytes: &[u8]| {
                let header = Header::decode(bytes).map_err(|_| NotAuthentic)?;
                let encrypted = Encrypted::decode(&header, bytes).map_err(|_| NotAuthentic)?;
                channel.open(&encrypted)
            };
            assert!(open(&message).is_ok());
            for bit in 0..message.len() * 8 {
                let mut changed = message.clone();
                changed[bit / 8] ^= 1 << (bit % 8);
                assert!(open(&changed).is_err(), "bit {bit}");
            }
            for len in 0..message.len() {
                assert!(open(&message[..len]).is_err(), "cut to {len}");
            }
        }
    }

    #[test]
    fn rfc5282_3_1_no_iv_is_used_twice() {
        let mut channel = Channel::new(&AES_256_GCM_16, &[7; 36], &[7; 36]);
        let iv = |message: &[u8]| message[32..40].to_vec();
        let (first, second) = (channel.seal(header(), &[]), channel.seal(header(), &[]));
        assert_ne!(iv(&first), iv(&second));
    }
}
