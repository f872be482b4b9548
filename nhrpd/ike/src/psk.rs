//! Pre-shared keys (RFC 7296 §2.15): which peer has which, and which are too weak.
//!
//! ```text
//! # identity          key
//! spoke1.example.net  0x3f0a5c…        octets in hexadecimal
//! 192.0.2.7           0sPwpc…          octets in Base64
//! *                   a long text that nobody guesses
//! ```
//!
//! A key that many share proves no more than that a peer is one of them: each can say that it is
//! another, but nobody whose name has a key of its own, or stands in the subject of a certificate.

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use zeroize::Zeroizing;

use crate::Identity;
use crate::crypto::algorithm::Prf;
use crate::crypto::keys::Secret;

/// Shortest key, octets (RFC 7296 §2.15 wants as much unpredictability as the strongest key that is
/// negotiated; this is 160 bits of it at best).
pub const SHORTEST: usize = 20;

/// Least estimate of a key's unpredictability, bits.
const LEAST_BITS: f64 = 64.0;

/// RFC 7296 §2.15.
const PAD: &[u8] = b"Key Pad for IKEv2";

/// AUTH with a shared key: `prf(prf(key, "Key Pad for IKEv2"), octets)`.
pub(crate) fn authentication(prf: &Prf, key: &[u8], octets: &[u8]) -> Secret {
    prf.compute(&prf.compute(key, &[PAD]), &[octets])
}

/// The keys of one node.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SharedKeys(Vec<(Peer, Zeroizing<Vec<u8>>)>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Peer {
    Any,
    Is(Identity),
    /// A distinguished name, as [`Identity`] is displayed.
    Named(String),
}

impl Peer {
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Is(one), Self::Is(other)) => one.is(other),
            (one, other) => one == other,
        }
    }
}

impl std::fmt::Debug for SharedKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(peer, _)| peer)).finish()
    }
}

/// What is wrong with a file of keys; no key is in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct KeyFileError {
    /// Counted from 1.
    pub line: usize,
    /// Words.
    pub what: String,
}

impl SharedKeys {
    /// Reads a file: an identity and its key in each line; empty lines and `#` in front are left
    /// out. `allow_weak` takes keys that can be guessed.
    ///
    /// # Errors
    /// The first line that is not good.
    pub fn parse(text: &str, allow_weak: bool) -> Result<Self, KeyFileError> {
        let mut keys: Vec<(Peer, Zeroizing<Vec<u8>>)> = Vec::new();
        for (line, text) in (1..).zip(text.lines()) {
            let text = text.trim();
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let fault = |what: String| KeyFileError { line, what };
            let (peer, key) = split(text)
                .ok_or_else(|| fault("expected an identity and, behind a space, its key".into()))?;
            let peer = peer_of(peer).map_err(fault)?;
            if keys.iter().any(|(other, _)| other.is(&peer)) {
                return Err(fault("this identity has a key already".into()));
            }
            let key = octets(key.trim())
                .ok_or_else(|| fault("key is no good hexadecimal (0x…) or Base64 (0s…)".into()))?;
            match weakness(&key).filter(|_| !allow_weak) {
                Some(weakness) => {
                    let words = "`security.psk-allow-weak: true` takes it nevertheless";
                    return Err(fault(format!("pre-shared key is weak: {weakness}; {words}")));
                }
                None => keys.push((peer, key)),
            }
        }
        if keys.is_empty() {
            return Err(KeyFileError { line: 1, what: "there is no key in this file".into() });
        }
        Ok(Self(keys))
    }

    /// The key shared with a peer that says it is `identity`: that with its name, else that for
    /// everybody. Not for a distinguished name: a certificate proves that, and who has a key that
    /// many share must not pass for somebody with a certificate.
    pub fn of(&self, identity: &Identity) -> Option<&Zeroizing<Vec<u8>>> {
        let anybody = identity.kind != Identity::DISTINGUISHED_NAME;
        self.named(identity).or_else(|| self.find(|peer| anybody && *peer == Peer::Any))
    }

    /// The key of exactly this peer.
    pub fn named(&self, identity: &Identity) -> Option<&Zeroizing<Vec<u8>>> {
        self.find(|peer| match peer {
            Peer::Any => false,
            Peer::Is(known) => known.is(identity),
            Peer::Named(name) => {
                identity.kind == Identity::DISTINGUISHED_NAME
                    && normal(&identity.to_string()) == *name
            }
        })
    }

    /// The key for a peer that has not said who it is: that for everybody, or the only one.
    pub fn of_stranger(&self) -> Option<&Zeroizing<Vec<u8>>> {
        match &self.0[..] {
            [(_, key)] => Some(key),
            _ => self.find(|peer| *peer == Peer::Any),
        }
    }

    /// No key at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn find(&self, fits: impl Fn(&Peer) -> bool) -> Option<&Zeroizing<Vec<u8>>> {
        self.0.iter().find(|(peer, _)| fits(peer)).map(|(_, key)| key)
    }
}

/// Identity and key; a distinguished name, which has spaces, stands in quotation marks.
fn split(line: &str) -> Option<(&str, &str)> {
    match line.strip_prefix('"') {
        Some(rest) => rest.split_once('"').map(|(name, key)| (name, key.trim_start())),
        None => line.split_once(char::is_whitespace),
    }
    .filter(|(_, key)| !key.trim().is_empty())
}

fn peer_of(text: &str) -> Result<Peer, String> {
    match text {
        "*" => Ok(Peer::Any),
        name if name.contains('=') => Ok(Peer::Named(normal(name))),
        name => name.parse().map(Peer::Is).map_err(|error: crate::NotAnIdentity| error.to_string()),
    }
}

/// A distinguished name without the spaces that writers differ in.
fn normal(name: &str) -> String {
    let parts = name.split(',').map(|part| {
        let (kind, value) = part.split_once('=').unwrap_or((part, ""));
        format!("{}={}", kind.trim(), value.trim())
    });
    parts.collect::<Vec<_>>().join(",")
}

fn octets(key: &str) -> Option<Zeroizing<Vec<u8>>> {
    if let Some(digits) = key.strip_prefix("0x") {
        return hex(digits);
    }
    if let Some(text) = key.strip_prefix("0s") {
        return base64(text);
    }
    Some(Zeroizing::new(key.as_bytes().to_vec()))
}

/// `None` unless these are pairs of hexadecimal digits.
pub(crate) fn hex(digits: &str) -> Option<Zeroizing<Vec<u8>>> {
    let (pairs, []) = digits.as_bytes().as_chunks::<2>() else { return None };
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let octet = |&[high, low]: &[u8; 2]| Some((digit(high)? * 16 + digit(low)?) as u8);
    pairs.iter().map(octet).collect::<Option<Vec<u8>>>().map(Zeroizing::new)
}

/// RFC 4648 §4, with or without padding.
fn base64(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let config =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let engine = GeneralPurpose::new(&base64::alphabet::STANDARD, config);
    engine.decode(text).ok().map(Zeroizing::new)
}

/// Why a key can be guessed, in words that tell nothing of it; `None` where it cannot. What a
/// dictionary knows is not noticed.
pub fn weakness(key: &[u8]) -> Option<String> {
    if key.len() < SHORTEST {
        return Some(format!(
            "it has {} octets, and at least {SHORTEST} are wanted: `openssl rand -base64 32` makes one",
            key.len()
        ));
    }
    let period = (1..=key.len() / 2)
        .find(|&period| key.iter().zip(&key[period..]).all(|(a, b)| a == b))
        .unwrap_or(key.len());
    let once = &key[..period];
    let steps = once.windows(2).filter(|pair| pair[1].wrapping_sub(pair[0]) <= 1).count();
    let mut counts = [0u32; 256];
    for &octet in once {
        counts[usize::from(octet)] += 1;
    }
    let total = once.len() as f64;
    let entropy: f64 = counts
        .iter()
        .filter(|&&count| count > 0)
        .map(|&count| f64::from(count) / total)
        .map(|share| -share * share.log2())
        .sum();
    // A step from one letter to the next one, or to the same, is no news.
    let news = total - steps as f64;
    (entropy * news < LEAST_BITS).then(|| {
        "it repeats itself too much, or counts up: `openssl rand -base64 32` makes a good one"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::algorithm::{SHA2_256, SHA2_384};

    /// Computed with Python's hmac module.
    #[test]
    fn rfc7296_2_15_auth_with_a_shared_key() {
        let octets: Vec<u8> = (0..100).collect();
        let answer = |prf| authentication(prf, b"a key that is shared by two", &octets).to_vec();
        assert_eq!(answer(&SHA2_256), crate::crypto::hex(ANSWERS[0]));
        assert_eq!(answer(&SHA2_384), crate::crypto::hex(ANSWERS[1]));
    }

    const ANSWERS: [&str; 2] = [
        "8b543217ca80a849734a5b23388bd4a7b811185bb580b2231937070fe1d57043",
        "07b3cf4287ba21922852b45d98091fafe9038491e9177b978b137b86c1dc86894defafffdfd09653d4c63a71714608bc",
    ];

    const LONG: &str = "0x3f0a5c917be28d4466d1c0ffeeb2a19384756a5b";

    fn keys(text: &str) -> SharedKeys {
        SharedKeys::parse(text, false).unwrap()
    }

    fn id(text: &str) -> Identity {
        text.parse().unwrap()
    }

    #[test]
    fn a_peer_has_the_key_with_its_name_else_that_for_everybody() {
        let all = keys(&format!(
            "# comment\n\n spoke1.example.net {LONG}\n192.0.2.7\t0sPwpckXvijURm0cD/7rKhk4R1als=\n\
             \"C=CH, CN=spoke 9\" another text which is long enough, #and not a comment\n\
             *  a text that is long enough to be good\n"
        ));
        let octets = |text: &str| all.of(&id(text)).unwrap().to_vec();
        assert_eq!(octets("Spoke1.example.net"), crate::crypto::hex(&LONG[2..]));
        assert_eq!(octets("192.0.2.7"), crate::crypto::hex(&LONG[2..]));
        assert_eq!(octets("spoke2.example.net"), b"a text that is long enough to be good");
        assert_eq!(all.named(&id("spoke2.example.net")), None);
        assert_eq!(**all.of_stranger().unwrap(), *b"a text that is long enough to be good");
        let mut name = rcgen::DistinguishedName::new();
        name.push(rcgen::DnType::CountryName, "CH");
        name.push(rcgen::DnType::CommonName, "spoke 9");
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = name;
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let (_, certificate) = x509_parser::parse_x509_certificate(certificate.der()).unwrap();
        let named = Identity { kind: 9, data: certificate.subject().as_raw().to_vec() };
        assert!(all.of(&named).unwrap().starts_with(b"another text"), "{named}");
        let anybody = keys("* a text that is long enough to be good");
        assert!(anybody.of(&named).is_none(), "that takes a certificate");
        let one = keys(&format!("spoke1.example.net {LONG}"));
        assert!(one.of(&id("spoke2.example.net")).is_none());
        assert!(one.of_stranger().is_some(), "there is no other");
        let two = keys(&format!("a {LONG}\nb {LONG}"));
        assert!(two.of_stranger().is_none());
    }

    #[test]
    fn errors_name_the_line_and_never_the_key() {
        for (text, line, what) in [
            ("", 1, "no key"),
            ("# only\n", 1, "no key"),
            ("\nspoke1", 2, "behind a space"),
            ("\"CN=a b\"", 1, "behind a space"),
            ("* secret-but-short", 1, "has 16 octets"),
            ("a 0x3f0a5c917be28d4466d1c0ffeeb2a19384756a5", 1, "hexadecimal"),
            ("a 0sPwpckXvijURm0cD/7rKhk4R1al!=", 1, "hexadecimal"),
            ("a! 0x3f0a5c917be28d4466d1c0ffeeb2a19384756a5b", 1, "expected a DNS name"),
            ("* passwordpasswordpasswordpassword", 1, "repeats itself"),
            (
                "a 0x3f0a5c917be28d4466d1c0ffeeb2a19384756a5b\nA 0x3f0a5c917be28d4466d1c0ffeeb2a19384756a5c",
                2,
                "has a key already",
            ),
        ] {
            let error = SharedKeys::parse(text, false).unwrap_err();
            assert_eq!(error.line, line, "{text}");
            let words = error.to_string();
            assert!(words.contains(what), "{words}");
            assert!(!words.contains("secret-but") && !words.contains("3f0a"), "{words}");
        }
        assert!(SharedKeys::parse("* short", true).is_ok(), "forced");
        assert_eq!(format!("{:?}", keys(&format!("* {LONG}"))), "[Any]");
    }

    #[test]
    fn weak_keys_are_those_that_are_short_repeat_themselves_or_count() {
        for weak in [
            &b"nineteen octets 123"[..],
            b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            b"secretsecretsecretsecret",
            b"12345678901234567890",
            b"abcdefghijklmnopqrstuvwxyz",
            &[0; 64],
        ] {
            assert!(weakness(weak).is_some(), "{weak:?}");
        }
        for strong in [
            &crate::crypto::hex(&LONG[2..])[..],
            b"correct horse battery staple",
            b"q3Vw0ZrT7mJxL2pB9yNc",
            b"8f14e45fceea167a5a36dedd",
        ] {
            assert_eq!(weakness(strong), None, "{strong:?}");
        }
    }
}
