//! Proposals by the names that people know: strongSwan's keywords, joined by `-`.
//!
//! `aes256gcm16-sha384-ecp384-ke1_mlkem768`: of each kind one or more, the preferred first. A hash
//! (`sha384`) is the integrity of a cipher that has none, and the pseudorandom function unless that
//! is named (`prfsha384`).

use super::algorithm::{ENCRYPTION, Encryption, HMAC_SHA2_256_128, INTEGRITY, Integrity, PRF, Prf};
use super::group::{ECP_256, ECP_384, GROUPS, Group, KEMS, Kem, X25519};
use super::suite::{Algorithms, Combination};
use crate::EspCipher;

/// Other names of the same.
const ALIASES: [(&str, &str); 14] = [
    ("aes128gcm", "aes128gcm16"),
    ("aes256gcm", "aes256gcm16"),
    ("aes128gcm128", "aes128gcm16"),
    ("aes256gcm128", "aes256gcm16"),
    ("aes", "aes128"),
    ("sha2_256", "sha256"),
    ("sha2_384", "sha384"),
    ("sha2_512", "sha512"),
    ("prfsha2_256", "prfsha256"),
    ("prfsha2_384", "prfsha384"),
    ("prfsha2_512", "prfsha512"),
    ("curve25519", "x25519"),
    ("ecp_256", "ecp256"),
    ("ecp_384", "ecp384"),
];

/// Why words are no proposal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposalError {
    /// A word that is no algorithm of ours.
    #[error("proposal `{proposal}`: `{word}` is not known; known are {}", known())]
    Unknown {
        /// The whole.
        proposal: String,
        /// The word.
        word: String,
    },
    /// Something is missing, or does not belong together.
    #[error("proposal `{proposal}`: {what}")]
    Incomplete {
        /// The whole.
        proposal: String,
        /// Words.
        what: &'static str,
    },
    /// No proposal at all.
    #[error("no proposal is named")]
    Empty,
}

/// What one keyword stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    Encryption(&'static Encryption),
    /// The integrity algorithm and the pseudorandom function with one hash.
    Hash(&'static Integrity, &'static Prf),
    Prf(&'static Prf),
    Group(&'static Group),
    Kem(&'static Kem),
    /// Extended sequence numbers of ESP, wanted or not.
    Sequence(bool),
    /// No key exchange.
    None,
}

/// A proposal as its words say, the hashes still in both places.
#[derive(Debug, Default)]
struct Found {
    algorithms: Combination,
    sequence: Vec<bool>,
    none: bool,
}

fn known() -> String {
    let encryption = ENCRYPTION.iter().map(|a| a.name.to_owned());
    let hashes = INTEGRITY.iter().map(|a| a.name.to_owned());
    let prf = PRF.iter().map(|a| format!("prf{}", a.name));
    let groups = GROUPS.iter().map(|a| a.name.to_owned());
    let kems = KEMS.iter().map(|a| format!("ke1_{}", a.name));
    let all: Vec<String> = encryption.chain(hashes).chain(prf).chain(groups).chain(kems).collect();
    all.join(", ")
}

fn word(text: &str) -> Option<Word> {
    let text = text.to_ascii_lowercase();
    let name = ALIASES.iter().find(|(alias, _)| *alias == text).map_or(&text[..], |(_, name)| name);
    let prf = |name: &str| PRF.into_iter().find(|a| a.name == name);
    if let Some(name) = name.strip_prefix("prf") {
        return prf(name).map(Word::Prf);
    }
    if let Some(name) = name.strip_prefix("ke1_") {
        return KEMS.into_iter().find(|a| a.name == name).map(Word::Kem);
    }
    match name {
        "esn" => return Some(Word::Sequence(true)),
        "noesn" => return Some(Word::Sequence(false)),
        "none" => return Some(Word::None),
        _ => {}
    }
    let encryption = ENCRYPTION.into_iter().find(|a| a.name == name).map(Word::Encryption);
    let integrity = INTEGRITY.into_iter().find(|a| a.name == name);
    let hash = integrity.zip(prf(name)).map(|(integrity, prf)| Word::Hash(integrity, prf));
    let group = GROUPS.into_iter().find(|a| a.name == name).map(Word::Group);
    encryption.or(hash).or(group)
}

fn words(proposal: &str) -> Result<Vec<Word>, ProposalError> {
    let unknown = |word: &str| ProposalError::Unknown {
        proposal: proposal.to_owned(),
        word: word.to_owned(),
    };
    proposal.split('-').map(|text| word(text).ok_or_else(|| unknown(text))).collect()
}

fn collect(words: &[Word]) -> Found {
    let mut found = Found::default();
    let mut hashed = Vec::new();
    let algorithms = &mut found.algorithms;
    for word in words {
        match *word {
            Word::Encryption(encryption) => algorithms.encryption.push(encryption),
            Word::Hash(integrity, prf) => {
                algorithms.integrity.push(integrity);
                hashed.push(prf);
            }
            Word::Prf(prf) => algorithms.prf.push(prf),
            Word::Group(group) => algorithms.groups.push(group),
            Word::Kem(kem) => algorithms.additional.push(kem),
            Word::Sequence(extended) => found.sequence.push(extended),
            Word::None => found.none = true,
        }
    }
    if algorithms.prf.is_empty() {
        algorithms.prf = hashed;
    }
    if algorithms.encryption.iter().all(|encryption| encryption.is_aead()) {
        algorithms.integrity.clear();
    }
    found
}

/// What IKE and ESP have in common.
fn check(proposal: &str, found: &Combination) -> Result<(), ProposalError> {
    let incomplete = |what| Err(ProposalError::Incomplete { proposal: proposal.to_owned(), what });
    let aeads = found.encryption.iter().filter(|encryption| encryption.is_aead()).count();
    if found.encryption.is_empty() {
        return incomplete("it names no encryption (like aes256gcm16)");
    }
    if aeads != 0 && aeads != found.encryption.len() {
        return incomplete("ciphers with and without integrity of their own go into two proposals");
    }
    if aeads == 0 && found.integrity.is_empty() {
        return incomplete("this encryption wants a hash for integrity beside it (like sha256)");
    }
    Ok(())
}

impl Combination {
    /// One proposal for IKE.
    ///
    /// # Errors
    /// The word that is not known, or what is missing.
    pub fn parse(proposal: &str) -> Result<Self, ProposalError> {
        let incomplete =
            |what| Err(ProposalError::Incomplete { proposal: proposal.to_owned(), what });
        let Found { algorithms: found, sequence, none } = collect(&words(proposal)?);
        check(proposal, &found)?;
        if found.prf.is_empty() {
            return incomplete("it names no hash for the keys (like sha256 or prfsha256)");
        }
        if found.groups.is_empty() {
            return incomplete("it names no key exchange (like x25519)");
        }
        if !sequence.is_empty() || none {
            return incomplete("`esn`, `noesn` and `none` are for ESP");
        }
        Ok(found)
    }
}

impl Algorithms {
    /// Proposals for IKE, the preferred first.
    ///
    /// # Errors
    /// See [`Combination::parse`]; and none at all.
    pub fn parse<T: AsRef<str>>(proposals: &[T]) -> Result<Self, ProposalError> {
        let parsed: Result<Vec<Combination>, ProposalError> =
            proposals.iter().map(|proposal| Combination::parse(proposal.as_ref())).collect();
        Self::new(parsed?).ok_or(ProposalError::Empty)
    }
}

/// One proposal for ESP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EspProposal {
    /// Ciphers, the preferred first.
    pub ciphers: Vec<EspCipher>,
    /// Key exchanges of CREATE_CHILD_SA, the preferred first; `None` is to do without perfect
    /// forward secrecy. IKE_AUTH, which has no room for one, takes no notice.
    pub groups: Vec<Option<&'static Group>>,
    /// Extended sequence numbers, the preferred first.
    pub extended_sequence: Vec<bool>,
}

impl EspProposal {
    /// Reads one: `aes256gcm16-ecp384`. Without `esn` and `noesn` it is both; without key exchange
    /// there is no perfect forward secrecy, and with `none` beside one the peer may do without.
    ///
    /// # Errors
    /// The word that is not known, or what is missing or out of place.
    pub fn parse(proposal: &str) -> Result<Self, ProposalError> {
        let incomplete =
            |what| Err(ProposalError::Incomplete { proposal: proposal.to_owned(), what });
        let words = words(proposal)?;
        if words.iter().any(|word| matches!(word, Word::Prf(_))) {
            return incomplete("ESP has no pseudorandom function of its own");
        }
        if words.iter().any(|word| matches!(word, Word::Kem(_))) {
            return incomplete(
                "ML-KEM stands in the proposals for IKE; ESP's keys come from those",
            );
        }
        let found = collect(&words);
        check(proposal, &found.algorithms)?;
        let Combination { encryption, integrity, .. } = &found.algorithms;
        if integrity.iter().any(|&integrity| *integrity != HMAC_SHA2_256_128) {
            return incomplete("beside AES-CBC, ESP has sha256 for integrity and no other");
        }
        let cipher =
            |name| EspCipher::ALL.into_iter().find(|cipher| cipher.encryption_name() == name);
        let mut groups: Vec<_> = found.algorithms.groups.iter().copied().map(Some).collect();
        if groups.is_empty() || found.none {
            groups.push(None);
        }
        Ok(Self {
            ciphers: encryption.iter().filter_map(|encryption| cipher(encryption.name)).collect(),
            groups,
            extended_sequence: match found.sequence.is_empty() {
                true => vec![true, false],
                false => found.sequence,
            },
        })
    }

    /// What is left of it where only these ciphers can be had; `None` where that is nothing.
    pub fn with_ciphers(mut self, known: &[EspCipher]) -> Option<Self> {
        self.ciphers.retain(|cipher| known.contains(cipher));
        (!self.ciphers.is_empty()).then_some(self)
    }

    /// AEADs first, with perfect forward secrecy unless the peer wants none.
    pub fn defaults() -> Vec<Self> {
        let groups = vec![Some(&X25519), Some(&ECP_384), Some(&ECP_256), None];
        let (aeads, others) = EspCipher::ALL.into_iter().partition(|cipher| cipher.is_aead());
        let with = |ciphers| Self {
            ciphers,
            groups: groups.clone(),
            extended_sequence: vec![true, false],
        };
        vec![with(aeads), with(others)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::suite::describe;

    fn ike(text: &str) -> String {
        let algorithms = Algorithms::parse(&[text]).unwrap();
        let proposals = algorithms.proposals();
        let group = algorithms.first_group().id;
        algorithms.choose(&proposals, group).unwrap().suite.to_string()
    }

    #[test]
    fn words_that_people_know_say_what_they_mean() {
        for (text, suite) in [
            ("aes256gcm16-sha384-ecp384", "aes256gcm16-prfsha384-ecp384"),
            ("AES256GCM-prfsha384-ecp384", "aes256gcm16-prfsha384-ecp384"),
            (
                "aes256gcm16-prfsha384-ecp384-ke1_mlkem768",
                "aes256gcm16-prfsha384-ecp384-ke1_mlkem768",
            ),
            ("aes256-sha256-modp2048", "aes256-sha256-modp2048"),
            ("aes128-sha256-prfsha512-curve25519", "aes128-sha256-prfsha512-x25519"),
            ("chacha20poly1305-prfsha256-x25519", "chacha20poly1305-prfsha256-x25519"),
            ("aes256-aes128-sha512-sha256-x25519-ecp256", "aes256-sha512-x25519"),
        ] {
            assert_eq!(ike(text), suite);
            assert_eq!(ike(suite), suite, "what is shown can be configured");
        }
    }

    #[test]
    fn errors_name_the_word_and_what_is_known() {
        let words = |text: &str| Combination::parse(text).unwrap_err().to_string();
        let unknown = words("aes256gcm16-md5-modp1024");
        assert!(unknown.starts_with("proposal `aes256gcm16-md5-modp1024`: `md5` is not known"));
        for known in ["aes128gcm16", "sha384", "prfsha512", "modp2048", "ke1_mlkem768"] {
            assert!(unknown.contains(known), "{unknown}");
        }
        assert!(words("aes256gcm16-sha256--x25519").contains("`` is not known"));
        for (text, what) in [
            ("aes256gcm16-x25519", "no hash for the keys"),
            ("aes256-prfsha256-x25519", "wants a hash for integrity"),
            ("aes256-aes256gcm16-sha256-x25519", "two proposals"),
            ("aes256gcm16-sha256", "no key exchange"),
            ("sha256-x25519", "no encryption"),
            ("aes256gcm16-sha256-x25519-esn", "for ESP"),
        ] {
            assert!(words(text).contains(what), "{}", words(text));
        }
        assert_eq!(Algorithms::parse::<&str>(&[]), Err(ProposalError::Empty));
    }

    #[test]
    fn proposals_for_esp() {
        let parse = |text: &str| EspProposal::parse(text);
        let gcm = parse("aes256gcm16-aes128gcm16-x25519").unwrap();
        assert_eq!(gcm.ciphers, [EspCipher::Aes256Gcm16, EspCipher::Aes128Gcm16]);
        assert_eq!(gcm.groups, [Some(&X25519)]);
        assert_eq!(gcm.extended_sequence, [true, false]);
        let cbc = parse("aes256-sha256-noesn").unwrap();
        assert_eq!(cbc.ciphers, [EspCipher::Aes256CbcSha256]);
        assert_eq!((&cbc.groups[..], &cbc.extended_sequence[..]), (&[None][..], &[false][..]));
        assert_eq!(parse("aes128gcm-none-ecp384").unwrap().groups, [Some(&ECP_384), None]);
        for default in EspProposal::defaults() {
            let integrity = if default.ciphers[0].is_aead() { "" } else { "-sha256" };
            let names: Vec<_> = default.ciphers.iter().map(|c| c.encryption_name()).collect();
            let text = format!("{}{integrity}-x25519-ecp384-ecp256-none", names.join("-"));
            assert_eq!(parse(&text).unwrap(), default);
        }
        for (text, what) in [
            ("aes256gcm16-prfsha256", "no pseudorandom function"),
            ("aes256gcm16-ke1_mlkem768", "proposals for IKE"),
            ("aes256", "wants a hash"),
            ("aes256-sha512", "sha256"),
            ("x25519", "no encryption"),
        ] {
            assert!(parse(text).unwrap_err().to_string().contains(what), "{text}");
        }
    }

    #[test]
    fn default_offers_ml_kem_first_and_the_modp_group_never() {
        let ours = Algorithms::default();
        let proposals = ours.proposals();
        assert_eq!(
            ours.choose(&proposals, 31).unwrap().suite.to_string(),
            "aes256gcm16-prfsha256-x25519-ke1_mlkem768"
        );
        assert!(!describe(&proposals).contains("modp"));
    }
}
