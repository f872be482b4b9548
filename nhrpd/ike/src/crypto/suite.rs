//! The algorithms that we have, and the choice among those that a peer proposes.
//!
//! A new algorithm is a new row; negotiation does not know any of them by name.

use std::fmt;

use aws_lc_rs::{aead, agreement, hmac, kem};
use rand_core::CryptoRng;
use zeroize::Zeroizing;

use crate::wire::{PROTOCOL_IKE, Proposal, Transform, TransformKind};

/// An AEAD for the encrypted payload (RFC 5282, RFC 7634).
#[derive(Debug)]
pub struct Encryption {
    /// Name as in `aes256gcm16-sha256-x25519`.
    pub name: &'static str,
    id: u16,
    key_bits: Option<u16>,
    pub(crate) aead: &'static aead::Algorithm,
}

impl Encryption {
    /// Bytes of keying material: the key, and the salt that begins every nonce.
    pub(crate) fn material_len(&self) -> usize {
        self.aead.key_len() + SALT_LEN
    }
}

pub(crate) const SALT_LEN: usize = 4;

/// A pseudorandom function (RFC 4868).
#[derive(Debug)]
pub struct Prf {
    /// Name as in `aes256gcm16-sha256-x25519`.
    pub name: &'static str,
    id: u16,
    pub(crate) hmac: &'static hmac::Algorithm,
}

/// A key exchange method.
#[derive(Debug)]
pub struct Group {
    /// Name as in `aes256gcm16-sha256-x25519`.
    pub name: &'static str,
    /// IANA number.
    pub id: u16,
    agreement: &'static agreement::Algorithm,
    private_len: usize,
    public_len: usize,
    /// What aws-lc-rs puts before the public value and IKE does not.
    public_prefix: &'static [u8],
}

/// An additional key exchange method that is a key encapsulation mechanism (RFC 9370).
#[derive(Debug)]
pub struct Kem {
    /// Name as in `aes256gcm16-sha256-x25519-ke1_mlkem768`.
    pub name: &'static str,
    /// IANA number, among the key exchange methods.
    pub id: u16,
    algorithm: &'static kem::Algorithm<kem::AlgorithmId>,
}

/// ML-KEM-768 (FIPS 203, draft-ietf-ipsecme-ikev2-mlkem).
pub static ML_KEM_768: Kem = Kem { name: "mlkem768", id: 36, algorithm: &kem::ML_KEM_768 };

pub(crate) type DecapsulationKey = kem::DecapsulationKey<kem::AlgorithmId>;

/// aws-lc-rs takes the randomness for these from its own generator: it offers no other way.
impl Kem {
    /// A fresh key pair, the public key as the KE payload carries it.
    pub(crate) fn generate(&self) -> Result<(DecapsulationKey, Vec<u8>), InvalidPublicValue> {
        let key = DecapsulationKey::generate(self.algorithm).map_err(|_| InvalidPublicValue)?;
        let public = key.encapsulation_key().and_then(|public| public.key_bytes());
        let public = public.map_err(|_| InvalidPublicValue)?.as_ref().to_vec();
        Ok((key, public))
    }

    /// The responder's answer, and the secret that it hides.
    pub(crate) fn encapsulate(
        &self,
        public: &[u8],
    ) -> Result<(Vec<u8>, Zeroizing<Vec<u8>>), InvalidPublicValue> {
        let public = kem::EncapsulationKey::new(self.algorithm, public);
        let encapsulated = public.map_err(|_| InvalidPublicValue)?.encapsulate();
        let (ciphertext, secret) = encapsulated.map_err(|_| InvalidPublicValue)?;
        Ok((ciphertext.as_ref().to_vec(), Zeroizing::new(secret.as_ref().to_vec())))
    }

    /// The secret in the responder's answer.
    pub(crate) fn decapsulate(
        &self,
        key: &DecapsulationKey,
        ciphertext: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, InvalidPublicValue> {
        let secret = key.decapsulate(ciphertext.into()).map_err(|_| InvalidPublicValue)?;
        Ok(Zeroizing::new(secret.as_ref().to_vec()))
    }
}

/// AES-256 in Galois/Counter Mode with a tag of 16 bytes (RFC 5282).
pub static AES_256_GCM_16: Encryption =
    Encryption { name: "aes256gcm16", id: 20, key_bits: Some(256), aead: &aead::AES_256_GCM };

/// ChaCha20-Poly1305 (RFC 7634).
pub static CHACHA20_POLY1305: Encryption =
    Encryption { name: "chacha20poly1305", id: 28, key_bits: None, aead: &aead::CHACHA20_POLY1305 };

/// HMAC-SHA2-256 (RFC 4868).
pub static SHA2_256: Prf = Prf { name: "sha256", id: 5, hmac: &hmac::HMAC_SHA256 };

/// X25519 (RFC 8031).
pub static X25519: Group = Group {
    name: "x25519",
    id: 31,
    agreement: &agreement::X25519,
    private_len: 32,
    public_len: 32,
    public_prefix: &[],
};

/// NIST P-256 (RFC 5903); 0x04 marks an uncompressed point outside of IKE.
pub static ECP_256: Group = Group {
    name: "ecp256",
    id: 19,
    agreement: &agreement::ECDH_P256,
    private_len: 32,
    public_len: 64,
    public_prefix: &[0x04],
};

/// Something that cannot be computed with what the peer sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("public value is not valid for the group")]
pub(crate) struct InvalidPublicValue;

impl Group {
    /// A fresh private key of bytes that `rng` gave.
    pub(crate) fn generate(&self, rng: &mut dyn CryptoRng) -> agreement::PrivateKey {
        let mut bytes = Zeroizing::new(vec![0; self.private_len]);
        loop {
            rng.fill_bytes(&mut bytes);
            // A scalar of P-256 is out of range once in 2^32 times.
            if let Ok(key) = self.import(&bytes) {
                return key;
            }
        }
    }

    pub(crate) fn import(&self, bytes: &[u8]) -> Result<agreement::PrivateKey, InvalidPublicValue> {
        agreement::PrivateKey::from_private_key(self.agreement, bytes)
            .map_err(|_| InvalidPublicValue)
    }

    /// The public value as the KE payload carries it.
    pub(crate) fn public(
        &self,
        private: &agreement::PrivateKey,
    ) -> Result<Vec<u8>, InvalidPublicValue> {
        let public = private.compute_public_key().map_err(|_| InvalidPublicValue)?;
        public
            .as_ref()
            .strip_prefix(self.public_prefix)
            .map(<[u8]>::to_vec)
            .ok_or(InvalidPublicValue)
    }

    /// The shared secret; aws-lc-rs refuses points off the curve and the zero result of X25519
    /// (RFC 8031 §3, RFC 6989 §2.3).
    pub(crate) fn agree(
        &self,
        private: &agreement::PrivateKey,
        peer: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, InvalidPublicValue> {
        if peer.len() != self.public_len {
            return Err(InvalidPublicValue);
        }
        let peer = [self.public_prefix, peer].concat();
        let peer = agreement::UnparsedPublicKey::new(self.agreement, peer);
        agreement::agree(private, peer, InvalidPublicValue, |secret| {
            Ok(Zeroizing::new(secret.to_vec()))
        })
    }
}

/// One algorithm of each kind: what an IKE SA works with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Suite {
    pub(crate) encryption: &'static Encryption,
    pub(crate) prf: &'static Prf,
    pub(crate) group: &'static Group,
    /// In IKE_INTERMEDIATE; of a rekeyed SA, that of its first ancestor, from whose SK_d its keys
    /// come.
    pub(crate) additional: Option<&'static Kem>,
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.encryption.name, self.prf.name, self.group.name)?;
        self.additional.map_or(Ok(()), |kem| write!(f, "-ke1_{}", kem.name))
    }
}

/// What we propose and accept, the preferred first.
#[derive(Debug, Clone)]
pub struct Algorithms {
    /// Encryption.
    pub encryption: Vec<&'static Encryption>,
    /// Pseudorandom functions.
    pub prf: Vec<&'static Prf>,
    /// Key exchange methods; the first is the one an initiator tries first.
    pub groups: Vec<&'static Group>,
    /// Additional key exchange methods, for peers that have one too; none: never.
    pub additional: Vec<&'static Kem>,
}

impl Default for Algorithms {
    fn default() -> Self {
        Self {
            encryption: vec![&AES_256_GCM_16, &CHACHA20_POLY1305],
            prf: vec![&SHA2_256],
            groups: vec![&X25519, &ECP_256],
            additional: vec![&ML_KEM_768],
        }
    }
}

/// The responder's choice: the proposal to send back, and what it means.
#[derive(Debug)]
pub(crate) struct Choice {
    pub(crate) proposal: Proposal,
    pub(crate) suite: Suite,
}

impl Algorithms {
    /// Our transforms of one kind, the preferred first.
    fn transforms(&self, kind: TransformKind) -> Vec<Transform> {
        match kind {
            TransformKind::ENCRYPTION => {
                self.encryption.iter().map(|a| Transform::new(kind, a.id, a.key_bits)).collect()
            }
            TransformKind::PRF => {
                self.prf.iter().map(|a| Transform::new(kind, a.id, None)).collect()
            }
            TransformKind::KEY_EXCHANGE => {
                self.groups.iter().map(|a| Transform::new(kind, a.id, None)).collect()
            }
            TransformKind::ADDITIONAL_KEY_EXCHANGE_1 => {
                let ours = self.additional.iter().map(|a| Transform::new(kind, a.id, None));
                ours.chain([Transform::new(kind, 0, None)]).collect()
            }
            // RFC 5282 §8: no integrity transform beside an AEAD, or NONE. The same holds for what
            // RFC 9370 adds, and for types that we have never heard of.
            _ => vec![Transform::new(kind, 0, None)],
        }
    }

    /// What an initiator sends: with an additional key exchange, and without for peers that do not
    /// know this type of transform and have to pass over what contains it (RFC 7296 §3.3.6).
    pub(crate) fn proposals(&self) -> Vec<Proposal> {
        let plain = self.proposal();
        if self.additional.is_empty() {
            return vec![plain];
        }
        let mut full = plain.clone();
        let kind = TransformKind::ADDITIONAL_KEY_EXCHANGE_1;
        full.transforms.extend(self.additional.iter().map(|a| Transform::new(kind, a.id, None)));
        vec![full, Proposal { number: 2, ..plain }]
    }

    /// These without additional key exchanges.
    pub(crate) fn without_additional(&self) -> Self {
        Self { additional: Vec::new(), ..self.clone() }
    }

    /// What rekeying sends.
    pub(crate) fn proposal(&self) -> Proposal {
        let kinds = [TransformKind::ENCRYPTION, TransformKind::PRF, TransformKind::KEY_EXCHANGE];
        Proposal {
            number: 1,
            protocol: PROTOCOL_IKE,
            spi: Vec::new(),
            transforms: kinds.into_iter().flat_map(|kind| self.transforms(kind)).collect(),
        }
    }

    /// Takes the first proposal of which every transform type has one that we have too (RFC 7296
    /// §3.3.6). `group` is the method of the peer's KE payload: choosing it saves a round trip.
    pub(crate) fn choose(&self, proposals: &[Proposal], group: u16) -> Option<Choice> {
        proposals.iter().find_map(|proposal| self.choose_from(proposal, group))
    }

    fn choose_from(&self, proposal: &Proposal, group: u16) -> Option<Choice> {
        if proposal.protocol != PROTOCOL_IKE || !proposal.spi.is_empty() {
            return None;
        }
        let mut kinds: Vec<_> = proposal.transforms.iter().map(|t| t.kind).collect();
        kinds.sort_unstable();
        kinds.dedup();
        let mut transforms = Vec::new();
        for kind in kinds {
            let mut ours = self.transforms(kind);
            if kind == TransformKind::KEY_EXCHANGE {
                ours.sort_by_key(|transform| transform.id != group);
            }
            transforms.push(ours.into_iter().find(|ours| proposal.transforms.contains(ours))?);
        }
        let suite = self.suite(&transforms)?;
        let proposal = Proposal {
            number: proposal.number,
            protocol: PROTOCOL_IKE,
            spi: Vec::new(),
            transforms,
        };
        Some(Choice { proposal, suite })
    }

    fn suite(&self, transforms: &[Transform]) -> Option<Suite> {
        let chosen = |kind| transforms.iter().find(move |t| t.kind == kind);
        let encryption = chosen(TransformKind::ENCRYPTION)?;
        let prf = chosen(TransformKind::PRF)?;
        let group = chosen(TransformKind::KEY_EXCHANGE)?;
        Some(Suite {
            encryption: self
                .encryption
                .iter()
                .find(|a| a.id == encryption.id && a.key_bits == encryption.key_length())?,
            prf: self.prf.iter().find(|a| a.id == prf.id)?,
            group: self.group(group.id)?,
            additional: chosen(TransformKind::ADDITIONAL_KEY_EXCHANGE_1)
                .and_then(|chosen| self.additional.iter().copied().find(|a| a.id == chosen.id)),
        })
    }

    /// Checks what a responder chose of our proposal: one transform of each type (RFC 7296 §2.7).
    pub(crate) fn accept(&self, chosen: &[Proposal], group: u16) -> Option<Suite> {
        let [proposal] = chosen else { return None };
        let choice = self.choose_from(proposal, group)?;
        let same = choice.proposal.transforms.len() == proposal.transforms.len()
            && choice.suite.group.id == group;
        same.then_some(choice.suite)
    }

    pub(crate) fn group(&self, id: u16) -> Option<&'static Group> {
        self.groups.iter().copied().find(|group| group.id == id)
    }
}

/// Proposals in words, for an operator who compares two configurations; one that only lacks
/// something of another says nothing new.
pub(crate) fn describe(proposals: &[Proposal]) -> String {
    let one = |proposal: &Proposal| {
        let names: Vec<_> = proposal.transforms.iter().map(transform_name).collect();
        names.join(" ")
    };
    let lacks = |less: &Proposal, more: &Proposal| {
        less.transforms.len() < more.transforms.len()
            && less.transforms.iter().all(|transform| more.transforms.contains(transform))
    };
    let news = proposals.iter().filter(|one| !proposals.iter().any(|other| lacks(one, other)));
    news.map(one).collect::<Vec<_>>().join(" or ")
}

fn transform_name(transform: &Transform) -> String {
    let name = match (transform.kind, transform.id) {
        (TransformKind::ENCRYPTION, 3) => "3des",
        (TransformKind::ENCRYPTION, 12) => "aescbc",
        (TransformKind::ENCRYPTION, 13) => "aesctr",
        (TransformKind::ENCRYPTION, 18) => "aesgcm8",
        (TransformKind::ENCRYPTION, 19) => "aesgcm12",
        (TransformKind::ENCRYPTION, 20) => "aesgcm16",
        (TransformKind::ENCRYPTION, 28) => "chacha20poly1305",
        (TransformKind::PRF, 2) => "prf-sha1",
        (TransformKind::PRF, 5) => "prf-sha256",
        (TransformKind::PRF, 6) => "prf-sha384",
        (TransformKind::PRF, 7) => "prf-sha512",
        (TransformKind::INTEGRITY, 0) => "integrity-none",
        (TransformKind::INTEGRITY, 2) => "hmac-sha1-96",
        (TransformKind::INTEGRITY, 12) => "hmac-sha256-128",
        (TransformKind::INTEGRITY, 13) => "hmac-sha384-192",
        (TransformKind::INTEGRITY, 14) => "hmac-sha512-256",
        (TransformKind::SEQUENCE_NUMBERS, 0) => "noesn",
        (TransformKind::SEQUENCE_NUMBERS, 1) => "esn",
        (TransformKind::KEY_EXCHANGE, 0) => "no-pfs",
        (TransformKind::KEY_EXCHANGE, 2) => "modp1024",
        (TransformKind::KEY_EXCHANGE, 5) => "modp1536",
        (TransformKind::KEY_EXCHANGE, 14) => "modp2048",
        (TransformKind::KEY_EXCHANGE, 15) => "modp3072",
        (TransformKind::KEY_EXCHANGE, 16) => "modp4096",
        (TransformKind::KEY_EXCHANGE, 19) => "ecp256",
        (TransformKind::KEY_EXCHANGE, 20) => "ecp384",
        (TransformKind::KEY_EXCHANGE, 21) => "ecp521",
        (TransformKind::KEY_EXCHANGE, 31) => "x25519",
        (TransformKind::KEY_EXCHANGE, 32) => "x448",
        (TransformKind::ADDITIONAL_KEY_EXCHANGE_1, 0) => "ke1_none",
        (TransformKind::ADDITIONAL_KEY_EXCHANGE_1, 35) => "ke1_mlkem512",
        (TransformKind::ADDITIONAL_KEY_EXCHANGE_1, 36) => "ke1_mlkem768",
        (TransformKind::ADDITIONAL_KEY_EXCHANGE_1, 37) => "ke1_mlkem1024",
        (kind, id) => return format!("transform-{}/{id}", kind.0),
    };
    match transform.key_length() {
        Some(bits) => format!("{name}-{bits}"),
        None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::hex;
    use crate::wire::Attribute;
    use rand_core::SeedableRng;

    fn offer(transforms: &[(TransformKind, u16, Option<u16>)]) -> Proposal {
        Proposal {
            number: 1,
            protocol: PROTOCOL_IKE,
            spi: Vec::new(),
            transforms: transforms
                .iter()
                .map(|&(k, id, bits)| Transform::new(k, id, bits))
                .collect(),
        }
    }

    const ENCR: TransformKind = TransformKind::ENCRYPTION;
    const PRF: TransformKind = TransformKind::PRF;
    const INTEG: TransformKind = TransformKind::INTEGRITY;
    const KE: TransformKind = TransformKind::KEY_EXCHANGE;

    #[test]
    fn rfc7296_3_3_6_first_acceptable_proposal_is_chosen() {
        let cbc =
            offer(&[(ENCR, 12, Some(256)), (PRF, 5, None), (INTEG, 12, None), (KE, 14, None)]);
        let mut gcm =
            offer(&[(ENCR, 20, Some(256)), (PRF, 5, None), (KE, 19, None), (KE, 31, None)]);
        gcm.number = 2;
        let choice = Algorithms::default().choose(&[cbc, gcm], 19).unwrap();
        assert_eq!(choice.suite.to_string(), "aes256gcm16-sha256-ecp256");
        assert_eq!(choice.proposal.number, 2);
        assert_eq!(choice.proposal.transforms.len(), 3);
    }

    #[test]
    fn rfc5282_8_integrity_none_is_accepted_beside_an_aead_and_another_is_not() {
        let with =
            |id| offer(&[(ENCR, 28, None), (PRF, 5, None), (INTEG, id, None), (KE, 31, None)]);
        let choice = Algorithms::default().choose(&[with(0)], 31).unwrap();
        assert_eq!(choice.proposal.transforms.len(), 4);
        assert!(Algorithms::default().choose(&[with(12)], 31).is_none());
    }

    #[test]
    fn rfc7296_3_3_6_unknown_transform_type_or_attribute_makes_the_proposal_unacceptable() {
        let base = [(ENCR, 20, Some(256)), (PRF, 5, None), (KE, 31, None)];
        let mut unknown_type = offer(&base);
        unknown_type.transforms.push(Transform::new(TransformKind(99), 7, None));
        assert!(Algorithms::default().choose(&[unknown_type], 31).is_none());
        let mut unknown_attribute = offer(&base);
        unknown_attribute.transforms[1].attributes.push(Attribute::Short(99, 1));
        assert!(Algorithms::default().choose(&[unknown_attribute], 31).is_none());
        assert!(Algorithms::default().choose(&[offer(&base)], 31).is_some());
    }

    #[test]
    fn rfc7296_3_3_5_key_length_must_match() {
        let aes128 = offer(&[(ENCR, 20, Some(128)), (PRF, 5, None), (KE, 31, None)]);
        assert!(Algorithms::default().choose(&[aes128], 31).is_none());
    }

    #[test]
    fn rfc7296_2_7_a_responder_must_choose_exactly_one_of_each_type() {
        let ours = Algorithms::default();
        assert!(ours.accept(&[ours.proposal()], 31).is_none(), "it chose everything");
        let chosen = ours.choose(&[ours.proposal()], 31).unwrap().proposal;
        assert!(ours.accept(&[chosen.clone(), chosen.clone()], 31).is_none());
        assert!(ours.accept(std::slice::from_ref(&chosen), 19).is_none(), "another group than KE");
        assert!(ours.accept(&[chosen], 31).is_some());
    }

    #[test]
    fn both_sides_agree_in_every_group_and_refuse_bad_points() {
        let mut rng = rand_chacha::ChaCha20Rng::seed_from_u64(1);
        for group in Algorithms::default().groups {
            let (a, b) = (group.generate(&mut rng), group.generate(&mut rng));
            let (public_a, public_b) = (group.public(&a).unwrap(), group.public(&b).unwrap());
            assert_eq!(public_a.len(), group.public_len);
            assert_eq!(group.agree(&a, &public_b), group.agree(&b, &public_a));
            assert_eq!(group.agree(&a, &public_b[1..]), Err(InvalidPublicValue));
            assert_eq!(group.agree(&a, &vec![0; group.public_len]), Err(InvalidPublicValue));
        }
    }

    #[test]
    fn rfc7748_6_1_x25519_known_answer() {
        known_answer(
            &X25519,
            "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
            "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a",
            "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
            "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742",
        );
    }

    #[test]
    fn rfc5903_8_1_p256_known_answer() {
        known_answer(
            &ECP_256,
            "C88F01F510D9AC3F70A292DAA2316DE544E9AAB8AFE84049C62A9C57862D1433",
            "DAD0B65394221CF9B051E1FECA5787D098DFE637FC90B9EF945D0C3772581180
             5271A0461CDB8252D61F1C456FA3E59AB1F45B33ACCF5F58389E0577B8990BB3",
            "C6EF9C5D78AE012A011164ACB397CE2088685D8F06BF9BE0B283AB46476BEE53",
            "D6840F6B42F6EDAFD13116E0E12565202FEF8E9ECE7DCE03812464D04B9442DE",
        );
    }

    fn known_answer(group: &Group, private: &str, public: &str, peer: &str, shared: &str) {
        let key =
            |text| agreement::PrivateKey::from_private_key(group.agreement, &hex(text)).unwrap();
        let (private, peer) = (key(private), key(peer));
        assert_eq!(group.public(&private).unwrap(), hex(public));
        assert_eq!(*group.agree(&peer, &hex(public)).unwrap(), hex(shared));
        assert_eq!(*group.agree(&private, &group.public(&peer).unwrap()).unwrap(), hex(shared));
    }
}
