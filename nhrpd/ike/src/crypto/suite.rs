//! The choice among the algorithms that a peer proposes.

use std::fmt;

use super::algorithm::{
    AES_128_CBC, AES_128_GCM_16, AES_256_CBC, AES_256_GCM_16, CHACHA20_POLY1305, Encryption,
    HMAC_SHA2_256_128, HMAC_SHA2_384_192, HMAC_SHA2_512_256, Integrity, Prf, SHA2_256, SHA2_384,
    SHA2_512,
};
use super::group::{ECP_256, ECP_384, Group, Kem, ML_KEM_768, X25519};
use crate::wire::{PROTOCOL_IKE, Proposal, Transform, TransformKind};

/// One algorithm of each kind: what an IKE SA works with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Suite {
    pub(crate) encryption: &'static Encryption,
    /// None beside an AEAD.
    pub(crate) integrity: Option<&'static Integrity>,
    pub(crate) prf: &'static Prf,
    pub(crate) group: &'static Group,
    /// In IKE_INTERMEDIATE; of a rekeyed SA, that of its first ancestor, from whose SK_d its keys
    /// come.
    pub(crate) additional: Option<&'static Kem>,
}

/// As an operator would configure it.
impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-", self.encryption.name)?;
        if let Some(integrity) = self.integrity {
            write!(f, "{}-", integrity.name)?;
        }
        if self.integrity.is_none_or(|integrity| integrity.name != self.prf.name) {
            write!(f, "prf{}-", self.prf.name)?;
        }
        f.write_str(self.group.name)?;
        self.additional.map_or(Ok(()), |kem| write!(f, "-ke1_{}", kem.name))
    }
}

/// Algorithms of which each may be combined with each, the preferred first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Combination {
    /// Encryption: AEADs, or ciphers that want one of `integrity` beside them.
    pub encryption: Vec<&'static Encryption>,
    /// Integrity; none beside AEADs.
    pub integrity: Vec<&'static Integrity>,
    /// Pseudorandom functions.
    pub prf: Vec<&'static Prf>,
    /// Key exchange methods.
    pub groups: Vec<&'static Group>,
    /// Additional key exchange methods in IKE_INTERMEDIATE, one of which must be used.
    pub additional: Vec<&'static Kem>,
}

/// What we propose and accept, the preferred first; never empty. The first group of the first is
/// the one that an initiator tries first. Made of keywords by [`Self::parse`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Algorithms(Vec<Combination>);

/// AES-256-GCM with X25519 and ML-KEM-768 first; for other peers all that we have but for the
/// MODP group, which has to be asked for by name.
impl Default for Algorithms {
    fn default() -> Self {
        let hybrid = Combination {
            encryption: vec![&AES_256_GCM_16, &CHACHA20_POLY1305],
            integrity: Vec::new(),
            prf: vec![&SHA2_256, &SHA2_384, &SHA2_512],
            groups: vec![&X25519, &ECP_384, &ECP_256],
            additional: vec![&ML_KEM_768],
        };
        let plain = Combination {
            encryption: vec![&AES_256_GCM_16, &CHACHA20_POLY1305, &AES_128_GCM_16],
            additional: Vec::new(),
            ..hybrid.clone()
        };
        let older = Combination {
            encryption: vec![&AES_256_CBC, &AES_128_CBC],
            integrity: vec![&HMAC_SHA2_256_128, &HMAC_SHA2_384_192, &HMAC_SHA2_512_256],
            ..plain.clone()
        };
        Self(vec![hybrid, plain, older])
    }
}

/// The responder's choice: the proposal to send back, and what it means.
#[derive(Debug)]
pub(crate) struct Choice {
    pub(crate) proposal: Proposal,
    pub(crate) suite: Suite,
}

impl Combination {
    /// Our transforms of one kind, the preferred first.
    fn transforms(&self, kind: TransformKind) -> Vec<Transform> {
        let plain = |id| Transform::new(kind, id, None);
        let ours: Vec<Transform> = match kind {
            TransformKind::ENCRYPTION => {
                self.encryption.iter().map(|a| Transform::new(kind, a.id, a.key_bits)).collect()
            }
            TransformKind::PRF => self.prf.iter().map(|a| plain(a.id)).collect(),
            TransformKind::INTEGRITY => self.integrity.iter().map(|a| plain(a.id)).collect(),
            TransformKind::KEY_EXCHANGE => self.groups.iter().map(|a| plain(a.id)).collect(),
            TransformKind::ADDITIONAL_KEY_EXCHANGE_1 => {
                self.additional.iter().map(|a| plain(a.id)).collect()
            }
            _ => Vec::new(),
        };
        // RFC 5282 §8: no integrity transform beside an AEAD, or NONE. The same holds for what
        // RFC 9370 adds, and for types that we have never heard of.
        if ours.is_empty() { vec![plain(0)] } else { ours }
    }

    fn proposal(&self, number: u8) -> Proposal {
        let optional = [
            (TransformKind::INTEGRITY, self.integrity.is_empty()),
            (TransformKind::ADDITIONAL_KEY_EXCHANGE_1, self.additional.is_empty()),
        ];
        let absent = |kind: &TransformKind| optional.contains(&(*kind, true));
        let kinds = [
            TransformKind::ENCRYPTION,
            TransformKind::PRF,
            TransformKind::INTEGRITY,
            TransformKind::KEY_EXCHANGE,
            TransformKind::ADDITIONAL_KEY_EXCHANGE_1,
        ];
        let kinds = kinds.into_iter().filter(|kind| !absent(kind));
        Proposal {
            number,
            protocol: PROTOCOL_IKE,
            spi: Vec::new(),
            transforms: kinds.flat_map(|kind| self.transforms(kind)).collect(),
        }
    }

    /// `group` is the method of the peer's KE payload.
    fn choose(&self, proposal: &Proposal, group: u16) -> Option<Choice> {
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
        let integrity = chosen(TransformKind::INTEGRITY)
            .and_then(|chosen| self.integrity.iter().copied().find(|a| a.id == chosen.id));
        let additional = chosen(TransformKind::ADDITIONAL_KEY_EXCHANGE_1)
            .and_then(|chosen| self.additional.iter().copied().find(|a| a.id == chosen.id));
        let complete = integrity.is_some() != self.integrity.is_empty()
            && additional.is_some() != self.additional.is_empty();
        complete.then_some(Suite {
            encryption: self
                .encryption
                .iter()
                .find(|a| a.id == encryption.id && a.key_bits == encryption.key_length())?,
            integrity,
            prf: self.prf.iter().find(|a| a.id == prf.id)?,
            group: self.groups.iter().find(|a| a.id == group.id)?,
            additional,
        })
    }
}

impl Algorithms {
    /// `None` for none at all.
    pub fn new(combinations: Vec<Combination>) -> Option<Self> {
        let usable = |c: &Combination| !c.groups.is_empty();
        combinations.iter().any(usable).then_some(Self(combinations))
    }

    /// What an initiator sends; the additional key exchanges stand in proposals of their own,
    /// because a peer that does not know this type of transform has to pass over what contains it
    /// (RFC 7296 §3.3.6).
    pub(crate) fn proposals(&self) -> Vec<Proposal> {
        self.0.iter().zip(1..).map(|(combination, number)| combination.proposal(number)).collect()
    }

    /// For a successor, which has the additional key exchange of its ancestor in its keys.
    pub(crate) fn for_rekeying(&self) -> Self {
        let bare = |combination| Combination { additional: Vec::new(), ..combination };
        let mut bare: Vec<_> = self.0.iter().cloned().map(bare).collect();
        bare.dedup();
        Self(bare)
    }

    pub(crate) fn has_additional(&self) -> bool {
        self.0.iter().any(|combination| !combination.additional.is_empty())
    }

    /// The group that an initiator tries first.
    pub(crate) fn first_group(&self) -> &'static Group {
        self.0.iter().flat_map(|combination| &combination.groups).next().copied().unwrap_or(&X25519)
    }

    /// Takes the first proposal of which every transform type has one that we have too (RFC 7296
    /// §3.3.6). `group` is the method of the peer's KE payload: choosing it saves a round trip.
    pub(crate) fn choose(&self, proposals: &[Proposal], group: u16) -> Option<Choice> {
        self.choose_for(proposals, group, true)
    }

    /// The same for a peer that has IKE_INTERMEDIATE, without which there is no additional key
    /// exchange (RFC 9370 §2.2.1), or has it not.
    pub(crate) fn choose_for(
        &self,
        proposals: &[Proposal],
        group: u16,
        intermediate: bool,
    ) -> Option<Choice> {
        let usable = |ours: &&Combination| intermediate || ours.additional.is_empty();
        proposals.iter().find_map(|proposal| {
            self.0.iter().filter(usable).find_map(|ours| ours.choose(proposal, group))
        })
    }

    /// Checks what a responder chose of our proposal: one transform of each type (RFC 7296 §2.7).
    pub(crate) fn accept(&self, chosen: &[Proposal], group: u16) -> Option<Suite> {
        let [proposal] = chosen else { return None };
        let choice = self.choose(chosen, group)?;
        let same = choice.proposal.transforms.len() == proposal.transforms.len()
            && choice.suite.group.id == group;
        same.then_some(choice.suite)
    }

    pub(crate) fn group(&self, id: u16) -> Option<&'static Group> {
        self.0
            .iter()
            .flat_map(|combination| &combination.groups)
            .copied()
            .find(|group| group.id == id)
    }
}

/// Proposals by their keywords, for an operator who compares two configurations; one that only
/// lacks something of another says nothing new.
pub(crate) fn describe(proposals: &[Proposal]) -> String {
    let one = |proposal: &Proposal| {
        let names: Vec<_> = proposal.transforms.iter().map(keyword).collect();
        names.join("-")
    };
    let lacks = |less: &Proposal, more: &Proposal| {
        less.transforms.len() < more.transforms.len()
            && less.transforms.iter().all(|transform| more.transforms.contains(transform))
    };
    let news = proposals.iter().filter(|one| !proposals.iter().any(|other| lacks(one, other)));
    news.map(one).collect::<Vec<_>>().join(" or ")
}

/// Also of what we do not have, as long as peers may still propose it.
fn keyword(transform: &Transform) -> String {
    let name = match (transform.kind, transform.id, transform.key_length()) {
        (TransformKind::ENCRYPTION, 3, _) => "3des",
        (TransformKind::ENCRYPTION, 28, _) => "chacha20poly1305",
        (TransformKind::ENCRYPTION, id, Some(bits)) => {
            return match id {
                12 => format!("aes{bits}"),
                13 => format!("aes{bits}ctr"),
                18 => format!("aes{bits}gcm8"),
                19 => format!("aes{bits}gcm12"),
                20 => format!("aes{bits}gcm16"),
                23 => format!("camellia{bits}"),
                id => format!("encryption{id}_{bits}"),
            };
        }
        (TransformKind::PRF, 1, _) => "prfmd5",
        (TransformKind::PRF, 2, _) => "prfsha1",
        (TransformKind::PRF, 4, _) => "prfaesxcbc",
        (TransformKind::PRF, 5, _) => "prfsha256",
        (TransformKind::PRF, 6, _) => "prfsha384",
        (TransformKind::PRF, 7, _) => "prfsha512",
        (TransformKind::INTEGRITY, 0, _) => "none",
        (TransformKind::INTEGRITY, 1, _) => "md5",
        (TransformKind::INTEGRITY, 2, _) => "sha1",
        (TransformKind::INTEGRITY, 5, _) => "aesxcbc",
        (TransformKind::INTEGRITY, 12, _) => "sha256",
        (TransformKind::INTEGRITY, 13, _) => "sha384",
        (TransformKind::INTEGRITY, 14, _) => "sha512",
        (TransformKind::SEQUENCE_NUMBERS, 0, _) => "noesn",
        (TransformKind::SEQUENCE_NUMBERS, 1, _) => "esn",
        (TransformKind::KEY_EXCHANGE, 0, _) => "no-pfs",
        (TransformKind::KEY_EXCHANGE, 2, _) => "modp1024",
        (TransformKind::KEY_EXCHANGE, 5, _) => "modp1536",
        (TransformKind::KEY_EXCHANGE, 14, _) => "modp2048",
        (TransformKind::KEY_EXCHANGE, 15, _) => "modp3072",
        (TransformKind::KEY_EXCHANGE, 16, _) => "modp4096",
        (TransformKind::KEY_EXCHANGE, 17, _) => "modp6144",
        (TransformKind::KEY_EXCHANGE, 18, _) => "modp8192",
        (TransformKind::KEY_EXCHANGE, 19, _) => "ecp256",
        (TransformKind::KEY_EXCHANGE, 20, _) => "ecp384",
        (TransformKind::KEY_EXCHANGE, 21, _) => "ecp521",
        (TransformKind::KEY_EXCHANGE, 28, _) => "ecp256bp",
        (TransformKind::KEY_EXCHANGE, 29, _) => "ecp384bp",
        (TransformKind::KEY_EXCHANGE, 30, _) => "ecp512bp",
        (TransformKind::KEY_EXCHANGE, 31, _) => "x25519",
        (TransformKind::KEY_EXCHANGE, 32, _) => "x448",
        (TransformKind::ADDITIONAL_KEY_EXCHANGE_1, 0, _) => "ke1_none",
        (TransformKind::ADDITIONAL_KEY_EXCHANGE_1, 35, _) => "ke1_mlkem512",
        (TransformKind::ADDITIONAL_KEY_EXCHANGE_1, 36, _) => "ke1_mlkem768",
        (TransformKind::ADDITIONAL_KEY_EXCHANGE_1, 37, _) => "ke1_mlkem1024",
        (kind, id, _) => return format!("transform{}_{id}", kind.0),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Attribute;

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
        assert_eq!(choice.suite.to_string(), "aes256gcm16-prfsha256-ecp256");
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
        let aes192 = offer(&[(ENCR, 20, Some(192)), (PRF, 5, None), (KE, 31, None)]);
        assert!(Algorithms::default().choose(&[aes192], 31).is_none());
    }

    #[test]
    fn rfc7296_2_7_a_responder_must_choose_exactly_one_of_each_type() {
        let ours = Algorithms::default();
        assert!(ours.accept(&ours.proposals()[..1], 31).is_none(), "it chose everything");
        let chosen = ours.choose(&ours.proposals(), 31).unwrap().proposal;
        assert!(ours.accept(&[chosen.clone(), chosen.clone()], 31).is_none());
        assert!(ours.accept(std::slice::from_ref(&chosen), 19).is_none(), "another group than KE");
        assert!(ours.accept(&[chosen], 31).is_some());
    }

    #[test]
    fn rfc9370_2_2_1_an_additional_exchange_that_is_demanded_is_not_done_without() {
        let hybrid = Algorithms::parse(&["aes256gcm16-sha256-x25519-ke1_mlkem768"]).unwrap();
        let plain = Algorithms::parse(&["aes256gcm16-sha256-x25519"]).unwrap();
        assert!(hybrid.choose(&plain.proposals(), 31).is_none());
        assert!(plain.choose(&hybrid.proposals(), 31).is_none());
        assert!(hybrid.choose_for(&hybrid.proposals(), 31, false).is_none());
        let successor = hybrid.for_rekeying();
        assert!(successor.choose(&plain.proposals(), 31).is_some());
        assert_eq!(successor.proposals(), plain.proposals());
    }

    #[test]
    fn rfc7296_3_3_3_a_cipher_without_integrity_of_its_own_wants_it_beside() {
        let base = [(ENCR, 12, Some(256)), (PRF, 5, None), (KE, 31, None)];
        assert!(Algorithms::default().choose(&[offer(&base)], 31).is_none());
        let none = offer(&[base[0], base[1], base[2], (INTEG, 0, None)]);
        assert!(Algorithms::default().choose(&[none], 31).is_none());
        let with = offer(&[base[0], base[1], base[2], (INTEG, 13, None)]);
        let choice = Algorithms::default().choose(&[with], 31).unwrap();
        assert_eq!(choice.suite.to_string(), "aes256-sha384-prfsha256-x25519");
    }
}
