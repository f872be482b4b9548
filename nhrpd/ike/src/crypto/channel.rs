//! The encrypted payload (RFC 7296 §3.14): with an AEAD (RFC 5282 §3, RFC 7634 §2), or with AES-CBC
//! and an HMAC over the ciphertext; whole or in fragments (RFC 7383 §2.5).

use aws_lc_rs::aead::{Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::cipher::{
    DecryptionContext, EncryptionContext, PaddedBlockDecryptingKey, PaddedBlockEncryptingKey,
    UnboundCipherKey,
};
use aws_lc_rs::{aead, cipher, constant_time, hmac};
use zeroize::Zeroizing;

use super::algorithm::{Encryption, Integrity, Mode, SALT_LEN};
use super::keys::Secret;
use crate::wire::payload::{ENCRYPTED, ENCRYPTED_FRAGMENT};
use crate::wire::{self, Encrypted, Fragment, Header, PAYLOAD_HEADER_LEN};

const IV_LEN: usize = NONCE_LEN - SALT_LEN;
/// Block of AES.
const BLOCK: usize = 16;

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

/// Keys of one direction, SK_e and SK_a (RFC 7296 §2.14); the latter is empty beside an AEAD.
pub(crate) struct Material<'a> {
    pub(crate) encryption: &'a [u8],
    pub(crate) integrity: &'a [u8],
}

impl Channel {
    pub(crate) fn new(
        encryption: &Encryption,
        integrity: Option<&Integrity>,
        outbound: &Material<'_>,
        inbound: &Material<'_>,
    ) -> Self {
        Self {
            outbound: Direction::new(encryption, integrity, outbound),
            inbound: Direction::new(encryption, integrity, inbound),
            sealed: 0,
        }
    }

    /// Encodes a message with `payloads` in an encrypted payload, however long it is.
    #[cfg(test)]
    pub(crate) fn seal(&mut self, header: Header, payloads: &[wire::Payload]) -> Vec<u8> {
        let (first, chain) = wire::encode_chain(payloads);
        self.seal_chain(header, first, chain)
    }

    /// Like [`Self::seal`] for a chain whose first payload has type `first`.
    pub(crate) fn seal_chain(&mut self, header: Header, first: u8, chain: Vec<u8>) -> Vec<u8> {
        let header = Header { next_payload: ENCRYPTED, ..header };
        self.seal_body(&header, first, None, Zeroizing::new(chain))
    }

    /// Like [`Self::seal_chain`], in as many messages as are needed so that none is longer than
    /// `most` bytes (RFC 7383 §2.5).
    pub(crate) fn seal_fragments(
        &mut self,
        header: Header,
        first: u8,
        chain: Vec<u8>,
        most: usize,
    ) -> Vec<Vec<u8>> {
        let whole = wire::HEADER_LEN + PAYLOAD_HEADER_LEN + self.outbound.sealed_len(chain.len());
        if whole <= most {
            return vec![self.seal_chain(header, first, chain)];
        }
        let chain = Zeroizing::new(chain);
        let fixed = wire::HEADER_LEN + PAYLOAD_HEADER_LEN + Fragment::NUMBERS_LEN;
        let room = self.outbound.room(most.saturating_sub(fixed)).max(1);
        let header = Header { next_payload: ENCRYPTED_FRAGMENT, ..header };
        let pieces = chain.chunks(room);
        let total = pieces.len() as u16;
        pieces
            .zip(1..)
            .map(|(piece, number)| {
                // RFC 7383 §2.5: the type of the first payload stands in the first fragment only.
                let first = if number == 1 { first } else { wire::payload::NO_NEXT };
                let plain = Zeroizing::new(piece.to_vec());
                self.seal_body(&header, first, Some((number, total)), plain)
            })
            .collect()
    }

    fn seal_body(
        &mut self,
        header: &Header,
        first: u8,
        fragment: Option<(u16, u16)>,
        mut plain: Zeroizing<Vec<u8>>,
    ) -> Vec<u8> {
        self.outbound.pad(&mut plain);
        let numbers = fragment.map(|(number, total)| [number.to_be_bytes(), total.to_be_bytes()]);
        let numbers = numbers.as_ref().map_or(&[][..], |numbers| numbers.as_flattened());
        let len = PAYLOAD_HEADER_LEN + numbers.len() + self.outbound.overhead() + plain.len();
        let mut message = header.encode(len);
        message.extend_from_slice(&[first, 0]);
        message.extend_from_slice(&(len as u16).to_be_bytes());
        message.extend_from_slice(numbers);
        self.outbound.seal(self.sealed, &mut message, &mut plain);
        self.sealed += 1;
        message
    }

    /// Checks and decrypts: the chain inside.
    pub(crate) fn open(&self, encrypted: &Encrypted<'_>) -> Result<Secret, NotAuthentic> {
        let mut plain = self.inbound.open(encrypted.associated, encrypted.body)?;
        let padding = usize::from(*plain.last().ok_or(NotAuthentic)?) + 1;
        let len = plain.len().checked_sub(padding).ok_or(NotAuthentic)?;
        plain.truncate(len);
        Ok(plain)
    }
}

enum Direction {
    Aead(Aead),
    Cbc(Box<Cbc>),
}

impl Direction {
    /// `material` is as long as the algorithms say: an AEAD's key is followed by the salt (RFC
    /// 5282 §7.1).
    fn new(
        encryption: &Encryption,
        integrity: Option<&Integrity>,
        material: &Material<'_>,
    ) -> Self {
        match encryption.mode {
            Mode::Aead(algorithm) => {
                let (key, rest) = material.encryption.split_at(algorithm.key_len());
                let mut salt = [0; SALT_LEN];
                salt.copy_from_slice(rest);
                Self::Aead(Aead { algorithm, key: Zeroizing::new(key.to_vec()), salt })
            }
            Mode::Cbc(algorithm) => Self::Cbc(Box::new(Cbc::new(algorithm, integrity, material))),
        }
    }

    /// Bytes of IV and check value.
    fn overhead(&self) -> usize {
        match self {
            Self::Aead(aead) => IV_LEN + aead.algorithm.tag_len(),
            Self::Cbc(cbc) => BLOCK + cbc.tag_len,
        }
    }

    /// Bytes of what a chain of `len` bytes becomes, behind the payload's header.
    fn sealed_len(&self, len: usize) -> usize {
        let padded = match self {
            Self::Aead(_) => len + 1,
            Self::Cbc(_) => (len + 1).next_multiple_of(BLOCK),
        };
        self.overhead() + padded
    }

    /// The longest piece of a chain that becomes no more than `len` bytes.
    fn room(&self, len: usize) -> usize {
        let len = len.saturating_sub(self.overhead());
        let len = match self {
            Self::Aead(_) => len,
            Self::Cbc(_) => len - len % BLOCK,
        };
        len.saturating_sub(1)
    }

    /// Appends padding, and Pad Length.
    fn pad(&self, plain: &mut Vec<u8>) {
        let padding = match self {
            Self::Aead(_) => 0,
            Self::Cbc(_) => (plain.len() + 1).next_multiple_of(BLOCK) - plain.len() - 1,
        };
        plain.resize(plain.len() + padding, 0);
        plain.push(padding as u8);
    }

    /// Appends IV, ciphertext and check value to `message`, which they cover. `counter` must be
    /// another each time.
    fn seal(&self, counter: u64, message: &mut Vec<u8>, plain: &mut Vec<u8>) {
        match self {
            Self::Aead(aead) => {
                let iv = counter.to_be_bytes();
                #[allow(clippy::expect_used, reason = "fails only for more than 64 GiB")]
                aead.key()
                    .seal_in_place_append_tag(nonce(aead.salt, iv), Aad::from(&message[..]), plain)
                    .expect("a datagram is not too long");
                message.extend_from_slice(&iv);
                message.extend_from_slice(plain);
            }
            Self::Cbc(cbc) => {
                let iv = cbc.iv(counter);
                cbc.encrypt(iv, plain);
                message.extend_from_slice(&iv);
                message.extend_from_slice(plain);
                let tag = hmac::sign(&cbc.integrity, message);
                message.extend_from_slice(&tag.as_ref()[..cbc.tag_len]);
            }
        }
    }

    /// Checks and decrypts.
    fn open(&self, associated: &[u8], body: &[u8]) -> Result<Secret, NotAuthentic> {
        match self {
            Self::Aead(aead) => {
                let (iv, sealed) = body.split_first_chunk().ok_or(NotAuthentic)?;
                let mut plain = Zeroizing::new(sealed.to_vec());
                let len = aead
                    .key()
                    .open_in_place(nonce(aead.salt, *iv), Aad::from(associated), &mut plain)
                    .map_err(|_| NotAuthentic)?
                    .len();
                plain.truncate(len);
                Ok(plain)
            }
            Self::Cbc(cbc) => {
                let len = body.len().checked_sub(cbc.tag_len).ok_or(NotAuthentic)?;
                let (sealed, tag) = body.split_at(len);
                let mut context = hmac::Context::with_key(&cbc.integrity);
                context.update(associated);
                context.update(sealed);
                let ours = context.sign();
                constant_time::verify_slices_are_equal(&ours.as_ref()[..cbc.tag_len], tag)
                    .map_err(|_| NotAuthentic)?;
                let (iv, sealed) = sealed.split_first_chunk().ok_or(NotAuthentic)?;
                cbc.decrypt(*iv, sealed)
            }
        }
    }
}

fn nonce(salt: [u8; SALT_LEN], iv: [u8; IV_LEN]) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[..SALT_LEN].copy_from_slice(&salt);
    nonce[SALT_LEN..].copy_from_slice(&iv);
    Nonce::assume_unique_for_key(nonce)
}

/// The key itself: made ready for use it takes twenty times the room, and an SA is silent for nearly
/// all of its life.
struct Aead {
    algorithm: &'static aead::Algorithm,
    key: Secret,
    salt: [u8; SALT_LEN],
}

impl Aead {
    fn key(&self) -> LessSafeKey {
        #[allow(clippy::expect_used, reason = "fails only for another length than key_len")]
        let key = UnboundKey::new(self.algorithm, &self.key).expect("a key of the right length");
        LessSafeKey::new(key)
    }
}

/// AES-CBC (RFC 3602) and HMAC. aws-lc-rs has CBC with the padding of PKCS #7 only, and IKE's
/// padding is another: of what it encrypts, the block of padding at the end is cut off, and one
/// is put there before it decrypts.
struct Cbc {
    encrypting: PaddedBlockEncryptingKey,
    decrypting: PaddedBlockDecryptingKey,
    integrity: hmac::Key,
    tag_len: usize,
}

impl Cbc {
    fn new(
        algorithm: &'static cipher::Algorithm,
        integrity: Option<&Integrity>,
        material: &Material<'_>,
    ) -> Self {
        #[allow(clippy::expect_used, reason = "fails only for another length than key_len")]
        let key = || {
            UnboundCipherKey::new(algorithm, material.encryption)
                .expect("a key of the algorithm's length")
        };
        #[allow(clippy::expect_used, reason = "AES has this mode")]
        let (encrypting, decrypting) = (
            PaddedBlockEncryptingKey::cbc_pkcs7(key()).expect("CBC"),
            PaddedBlockDecryptingKey::cbc_pkcs7(key()).expect("CBC"),
        );
        // `Combination` never has this mode without an integrity algorithm.
        let hmac = integrity.map_or(hmac::HMAC_SHA256, |integrity| *integrity.hmac);
        Self {
            encrypting,
            decrypting,
            integrity: hmac::Key::new(hmac, material.integrity),
            tag_len: integrity.map_or(hmac.tag_len(), |integrity| integrity.tag_len),
        }
    }

    /// An IV that nobody can foresee: the counter, encrypted (NIST SP 800-38A appendix C).
    fn iv(&self, counter: u64) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        block[..8].copy_from_slice(&counter.to_be_bytes());
        let mut block = block.to_vec();
        self.encrypt([0; BLOCK], &mut block);
        block.try_into().unwrap_or_default()
    }

    /// Whole blocks, in place.
    fn encrypt(&self, iv: [u8; BLOCK], blocks: &mut Vec<u8>) {
        let len = blocks.len();
        let context = EncryptionContext::Iv128((&iv).into());
        #[allow(clippy::expect_used, reason = "fails only for a context of another mode")]
        self.encrypting.less_safe_encrypt(blocks, context).expect("CBC takes an IV");
        blocks.truncate(len);
    }

    /// Whole blocks.
    fn decrypt(&self, iv: [u8; BLOCK], sealed: &[u8]) -> Result<Secret, NotAuthentic> {
        if sealed.is_empty() || !sealed.len().is_multiple_of(BLOCK) {
            return Err(NotAuthentic);
        }
        let last = *sealed.last_chunk().ok_or(NotAuthentic)?;
        let mut padding = Vec::new();
        #[allow(clippy::expect_used, reason = "fails only for a context of another mode")]
        self.encrypting
            .less_safe_encrypt(&mut padding, EncryptionContext::Iv128((&last).into()))
            .expect("CBC takes an IV");
        let mut plain = Zeroizing::new([sealed, &padding].concat());
        let context = DecryptionContext::Iv128((&iv).into());
        self.decrypting.decrypt(&mut plain, context).map_err(|_| NotAuthentic)?;
        plain.truncate(sealed.len());
        Ok(plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::algorithm::{
        AES_128_CBC, AES_128_GCM_16, AES_256_CBC, AES_256_GCM_16, CHACHA20_POLY1305, ENCRYPTION,
        HMAC_SHA2_256_128, INTEGRITY,
    };
    use crate::crypto::hex;
    use crate::wire::{Exchange, Notify, NotifyType, Payload};

    fn aead(encryption: &Encryption, key: &[u8]) -> Direction {
        Direction::new(encryption, None, &Material { encryption: key, integrity: &[] })
    }

    /// Every pair that can be agreed on, with the same key in both directions.
    fn channels() -> Vec<Channel> {
        let bytes = [7; 64];
        let channel = |encryption: &Encryption, integrity: Option<&'static Integrity>| {
            let material = Material {
                encryption: &bytes[..encryption.material_len()],
                integrity: &bytes[..integrity.map_or(0, Integrity::key_len)],
            };
            Channel::new(encryption, integrity, &material, &material)
        };
        let (aeads, others): (Vec<&Encryption>, Vec<&Encryption>) =
            ENCRYPTION.into_iter().partition(|e| e.is_aead());
        let mut channels: Vec<_> =
            aeads.iter().map(|encryption| channel(encryption, None)).collect();
        for encryption in others {
            channels.extend(
                INTEGRITY.into_iter().map(|integrity| channel(encryption, Some(integrity))),
            );
        }
        channels
    }

    #[test]
    fn rfc7634_appendix_b_informational_known_answer() {
        let key: Vec<u8> = (0x80..=0x9f).chain(0xa0..=0xa3).collect();
        let message = hex("c0c1c2c3c4c5c6c7 d0d1d2d3d4d5d6d7 2e202500 00000009 00000045 29000029
             1011121314151617 610394701f8d017f7c12924889 6b71bfe25236efd7cdc67066906315b2");
        let header = Header::decode(&message).unwrap();
        let encrypted = Encrypted::decode(&header, &message).unwrap();
        let mut channel = Channel {
            outbound: aead(&CHACHA20_POLY1305, &key),
            inbound: aead(&CHACHA20_POLY1305, &key),
            sealed: 0x1011_1213_1415_1617,
        };
        let plain = channel.open(&encrypted).unwrap();
        assert_eq!(*plain, hex("0000000c000040010000000a"));
        let payloads = wire::decode_chain(encrypted.first, &plain).unwrap();
        let window = Notify::new(NotifyType(16385), hex("0000000a"));
        assert_eq!(payloads, [Payload::Notify(window)]);
        assert_eq!(channel.seal(header, &payloads), message, "and sealing gives the same bytes");
    }

    #[test]
    fn rfc5282_3_nonce_is_salt_and_iv_gcm_known_answer() {
        // Test cases 4 and 16 of the GCM specification, their IV cut into salt and IV.
        let cases = [
            (
                &AES_128_GCM_16,
                "feffe9928665731c6d6a8f9467308308 cafebabe",
                "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e
                 21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091
                 5bc94fbc3221a5db94fae95ae7121a47",
            ),
            (
                &AES_256_GCM_16,
                "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308 cafebabe",
                "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa
                 8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662
                 76fc6ece0f4e1768cddf8853bb2d551b",
            ),
        ];
        for (encryption, key, sealed) in cases {
            let direction = aead(encryption, &hex(key));
            let associated = hex("feedfacedeadbeeffeedfacedeadbeefabaddad2");
            let plain = hex("d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72
                 1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39");
            let mut message = associated.clone();
            direction.seal(0xface_dbad_deca_f888, &mut message, &mut plain.clone());
            let iv = hex("facedbaddecaf888");
            assert_eq!(message, [&associated[..], &iv, &hex(sealed)].concat());
            let body = &message[associated.len()..];
            assert_eq!(*direction.open(&associated, body).unwrap(), plain);
        }
    }

    #[test]
    fn nist_sp800_38a_f_2_cbc_known_answers() {
        let plain = hex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51");
        let iv: [u8; 16] = std::array::from_fn(|i| i as u8);
        for (encryption, key, sealed) in [
            (
                &AES_128_CBC,
                "2b7e151628aed2a6abf7158809cf4f3c",
                "7649abac8119b246cee98e9b12e9197d5086cb9b507219ee95db113a917678b2",
            ),
            (
                &AES_256_CBC,
                "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4",
                "f58c4c04d6e5f1ba779eabfb5f7bfbd69cfc4e967edb808d679f777bc6702c7d",
            ),
        ] {
            let material = Material { encryption: &hex(key), integrity: &[1; 32] };
            let Direction::Cbc(cbc) =
                Direction::new(encryption, Some(&HMAC_SHA2_256_128), &material)
            else {
                panic!()
            };
            let mut data = plain.clone();
            cbc.encrypt(iv, &mut data);
            assert_eq!(data, hex(sealed));
            assert_eq!(*cbc.decrypt(iv, &data).unwrap(), plain);
        }
    }

    #[test]
    fn rfc7296_3_14_the_check_value_covers_header_iv_and_ciphertext_and_padding_may_be_anything() {
        let material = Material { encryption: &[2; 32], integrity: &[3; 32] };
        let mut channel =
            Channel::new(&AES_256_CBC, Some(&HMAC_SHA2_256_128), &material, &material);
        let message = channel.seal(header(), &[Payload::VendorId(vec![1, 2, 3])]);
        let (covered, tag) = message.split_at(message.len() - 16);
        let key = hmac::Key::new(hmac::HMAC_SHA256, &[3; 32]);
        assert_eq!(hmac::sign(&key, covered).as_ref()[..16], *tag);
        // A peer that pads with more than is needed, and with other bytes.
        let Direction::Cbc(cbc) = &channel.outbound else { panic!() };
        let mut blocks = [&[0, 0, 0, 7, 1, 2, 3][..], &[0xab; 24], &[24]].concat();
        cbc.encrypt([9; 16], &mut blocks);
        let mut theirs = Header { next_payload: ENCRYPTED, ..header() }.encode(4 + 16 + 32 + 16);
        theirs.extend([43, 0, 0, 4 + 16 + 32 + 16]);
        theirs.extend([9; 16]);
        theirs.extend(&blocks);
        theirs.extend(&hmac::sign(&key, &theirs).as_ref()[..16]);
        let header = Header::decode(&theirs).unwrap();
        let plain = channel.open(&Encrypted::decode(&header, &theirs).unwrap()).unwrap();
        assert_eq!(*plain, [0, 0, 0, 7, 1, 2, 3]);
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
        for mut channel in channels() {
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
        for mut channel in channels() {
            let iv = |message: &[u8]| message[32..40].to_vec();
            let (first, second) = (channel.seal(header(), &[]), channel.seal(header(), &[]));
            assert_ne!(iv(&first), iv(&second));
        }
    }

    #[test]
    fn rfc7383_2_5_fragments_are_no_longer_than_allowed_and_hold_the_whole() {
        let chain: Vec<u8> = (0..3000u32).map(|i| i as u8).collect();
        for mut channel in channels() {
            for most in [576 - 28, 1200, 1280] {
                let messages = channel.seal_fragments(header(), 43, chain.clone(), most);
                let mut whole = Vec::new();
                for (message, number) in messages.iter().zip(1..) {
                    assert!(message.len() <= most && message.len() + 64 > most.min(message.len()));
                    let header = Header::decode(message).unwrap();
                    assert_eq!(header.next_payload, ENCRYPTED_FRAGMENT);
                    let encrypted = Encrypted::decode(&header, message).unwrap();
                    let total = messages.len() as u16;
                    assert_eq!(encrypted.fragment, Some(Fragment { number, total }));
                    assert_eq!(encrypted.first, if number == 1 { 43 } else { 0 });
                    whole.extend_from_slice(&channel.open(&encrypted).unwrap());
                }
                assert_eq!(whole, chain);
                assert!((messages.len() - 1) * (most - 28 - 8 - 16 - 32 - 16) < chain.len());
            }
            let [whole] = &channel.seal_fragments(header(), 43, vec![0; 100], 1200)[..] else {
                panic!("what fits is not cut")
            };
            assert_eq!(Header::decode(whole).unwrap().next_payload, ENCRYPTED);
        }
    }
}
