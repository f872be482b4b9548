//! Signatures in AUTH, over keys from certificates: digital signatures (RFC 7427), and the older
//! methods for peers that do not announce hash algorithms (RFC 7296 §3.8, RFC 4754).
//!
//! A new algorithm is a new row of [`SCHEMES`].

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    self, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RsaEncoding, RsaKeyPair,
    UnparsedPublicKey, VerificationAlgorithm,
};
use x509_parser::asn1_rs::{FromDer, Oid, oid};
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_NIST_HASH_SHA256,
    OID_NIST_HASH_SHA384, OID_NIST_HASH_SHA512, OID_PKCS1_RSAENCRYPTION, OID_PKCS1_RSASSAPSS,
    OID_PKCS1_SHA256WITHRSA, OID_PKCS1_SHA384WITHRSA, OID_PKCS1_SHA512WITHRSA,
    OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ECDSA_WITH_SHA384, OID_SIG_ECDSA_WITH_SHA512,
    OID_SIG_ED25519,
};
use x509_parser::parse_x509_certificate;
use x509_parser::signature_algorithm::RsaSsaPssParams;
use x509_parser::x509::{AlgorithmIdentifier, SubjectPublicKeyInfo};

use crate::Refusal;

/// Hash algorithm of SIGNATURE_HASH_ALGORITHMS (RFC 7427 §7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hash(u16);

impl Hash {
    const SHA2_256: Self = Self(2);
    const SHA2_384: Self = Self(3);
    const SHA2_512: Self = Self(4);
    /// RFC 8420 §2: the algorithm hashes by itself.
    const IDENTITY: Self = Self(5);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    EcdsaP256,
    EcdsaP384,
    Ed25519,
    Rsa,
}

impl Key {
    fn name(self) -> &'static str {
        match self {
            Self::EcdsaP256 => "ECDSA P-256",
            Self::EcdsaP384 => "ECDSA P-384",
            Self::Ed25519 => "Ed25519",
            Self::Rsa => "RSA",
        }
    }

    fn of(spki: &SubjectPublicKeyInfo<'_>) -> Result<Self, Refusal> {
        let algorithm = &spki.algorithm.algorithm;
        if *algorithm == OID_PKCS1_RSAENCRYPTION {
            return Ok(Self::Rsa);
        }
        if *algorithm == OID_SIG_ED25519 {
            return Ok(Self::Ed25519);
        }
        if *algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY {
            let curve = spki.algorithm.parameters.as_ref().and_then(|p| p.as_oid().ok());
            match curve {
                Some(curve) if curve == OID_EC_P256 => return Ok(Self::EcdsaP256),
                Some(curve) if curve == OID_NIST_EC_P384 => return Ok(Self::EcdsaP384),
                _ => {}
            }
        }
        Err(Refusal(format!(
            "certificate has a key of type {algorithm}; we know ECDSA P-256 and P-384, Ed25519 and RSA"
        )))
    }
}

/// One way to sign.
struct Scheme {
    name: &'static str,
    key: Key,
    hash: Hash,
    /// DER, as sent in AUTH (RFC 7427 appendix A, RFC 8420 appendix A).
    identifier: &'static [u8],
    matches: fn(&AlgorithmIdentifier<'_>) -> bool,
    verification: &'static dyn VerificationAlgorithm,
    /// `None`: peers may, we do not.
    signing: Option<Signing>,
}

enum Signing {
    Ecdsa(&'static EcdsaSigningAlgorithm),
    Ed25519,
    Rsa(&'static dyn RsaEncoding),
}

/// The preferred first.
static SCHEMES: [Scheme; 13] = [
    Scheme {
        name: "ECDSA P-256 with SHA2-256",
        key: Key::EcdsaP256,
        hash: Hash::SHA2_256,
        identifier: &[0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02],
        matches: |id| plain(id, &OID_SIG_ECDSA_WITH_SHA256),
        verification: &signature::ECDSA_P256_SHA256_ASN1,
        signing: Some(Signing::Ecdsa(&signature::ECDSA_P256_SHA256_ASN1_SIGNING)),
    },
    Scheme {
        name: "ECDSA P-384 with SHA2-384",
        key: Key::EcdsaP384,
        hash: Hash::SHA2_384,
        identifier: &[0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03],
        matches: |id| plain(id, &OID_SIG_ECDSA_WITH_SHA384),
        verification: &signature::ECDSA_P384_SHA384_ASN1,
        signing: Some(Signing::Ecdsa(&signature::ECDSA_P384_SHA384_ASN1_SIGNING)),
    },
    Scheme {
        name: "Ed25519",
        key: Key::Ed25519,
        hash: Hash::IDENTITY,
        identifier: &[0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70],
        matches: |id| plain(id, &OID_SIG_ED25519),
        verification: &signature::ED25519,
        signing: Some(Signing::Ed25519),
    },
    Scheme {
        name: "RSASSA-PSS with SHA2-256",
        key: Key::Rsa,
        hash: Hash::SHA2_256,
        identifier: &[
            0x30, 0x41, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a, 0x30,
            0x34, 0xa0, 0x0f, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04,
            0x02, 0x01, 0x05, 0x00, 0xa1, 0x1c, 0x30, 0x1a, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86,
            0xf7, 0x0d, 0x01, 0x01, 0x08, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65,
            0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0xa2, 0x03, 0x02, 0x01, 0x20,
        ],
        matches: |id| is_pss(id, &OID_NIST_HASH_SHA256, 32),
        verification: &signature::RSA_PSS_2048_8192_SHA256,
        signing: Some(Signing::Rsa(&signature::RSA_PSS_SHA256)),
    },
    Scheme {
        name: "RSASSA-PKCS1-v1_5 with SHA2-256",
        key: Key::Rsa,
        hash: Hash::SHA2_256,
        identifier: &[
            0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b, 0x05,
            0x00,
        ],
        matches: |id| plain(id, &OID_PKCS1_SHA256WITHRSA),
        verification: &signature::RSA_PKCS1_2048_8192_SHA256,
        signing: Some(Signing::Rsa(&signature::RSA_PKCS1_SHA256)),
    },
    Scheme {
        name: "ECDSA P-256 with SHA2-384",
        key: Key::EcdsaP256,
        hash: Hash::SHA2_384,
        identifier: &[0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03],
        matches: |id| plain(id, &OID_SIG_ECDSA_WITH_SHA384),
        verification: &signature::ECDSA_P256_SHA384_ASN1,
        signing: None,
    },
    Scheme {
        name: "ECDSA P-256 with SHA2-512",
        key: Key::EcdsaP256,
        hash: Hash::SHA2_512,
        identifier: &[0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x04],
        matches: |id| plain(id, &OID_SIG_ECDSA_WITH_SHA512),
        verification: &signature::ECDSA_P256_SHA512_ASN1,
        signing: None,
    },
    Scheme {
        name: "ECDSA P-384 with SHA2-256",
        key: Key::EcdsaP384,
        hash: Hash::SHA2_256,
        identifier: &[0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02],
        matches: |id| plain(id, &OID_SIG_ECDSA_WITH_SHA256),
        verification: &signature::ECDSA_P384_SHA256_ASN1,
        signing: None,
    },
    Scheme {
        name: "ECDSA P-384 with SHA2-512",
        key: Key::EcdsaP384,
        hash: Hash::SHA2_512,
        identifier: &[0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x04],
        matches: |id| plain(id, &OID_SIG_ECDSA_WITH_SHA512),
        verification: &signature::ECDSA_P384_SHA512_ASN1,
        signing: None,
    },
    Scheme {
        name: "RSASSA-PSS with SHA2-384",
        key: Key::Rsa,
        hash: Hash::SHA2_384,
        identifier: &[
            0x30, 0x41, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a, 0x30,
            0x34, 0xa0, 0x0f, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04,
            0x02, 0x02, 0x05, 0x00, 0xa1, 0x1c, 0x30, 0x1a, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86,
            0xf7, 0x0d, 0x01, 0x01, 0x08, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65,
            0x03, 0x04, 0x02, 0x02, 0x05, 0x00, 0xa2, 0x03, 0x02, 0x01, 0x30,
        ],
        matches: |id| is_pss(id, &OID_NIST_HASH_SHA384, 48),
        verification: &signature::RSA_PSS_2048_8192_SHA384,
        signing: Some(Signing::Rsa(&signature::RSA_PSS_SHA384)),
    },
    Scheme {
        name: "RSASSA-PKCS1-v1_5 with SHA2-384",
        key: Key::Rsa,
        hash: Hash::SHA2_384,
        identifier: &[
            0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0c, 0x05,
            0x00,
        ],
        matches: |id| plain(id, &OID_PKCS1_SHA384WITHRSA),
        verification: &signature::RSA_PKCS1_2048_8192_SHA384,
        signing: Some(Signing::Rsa(&signature::RSA_PKCS1_SHA384)),
    },
    Scheme {
        name: "RSASSA-PSS with SHA2-512",
        key: Key::Rsa,
        hash: Hash::SHA2_512,
        identifier: &[
            0x30, 0x41, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a, 0x30,
            0x34, 0xa0, 0x0f, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04,
            0x02, 0x03, 0x05, 0x00, 0xa1, 0x1c, 0x30, 0x1a, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86,
            0xf7, 0x0d, 0x01, 0x01, 0x08, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65,
            0x03, 0x04, 0x02, 0x03, 0x05, 0x00, 0xa2, 0x03, 0x02, 0x01, 0x40,
        ],
        matches: |id| is_pss(id, &OID_NIST_HASH_SHA512, 64),
        verification: &signature::RSA_PSS_2048_8192_SHA512,
        signing: Some(Signing::Rsa(&signature::RSA_PSS_SHA512)),
    },
    Scheme {
        name: "RSASSA-PKCS1-v1_5 with SHA2-512",
        key: Key::Rsa,
        hash: Hash::SHA2_512,
        identifier: &[
            0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0d, 0x05,
            0x00,
        ],
        matches: |id| plain(id, &OID_PKCS1_SHA512WITHRSA),
        verification: &signature::RSA_PKCS1_2048_8192_SHA512,
        signing: Some(Signing::Rsa(&signature::RSA_PKCS1_SHA512)),
    },
];

/// The algorithm without parameters, or with NULL as some write it.
fn plain(id: &AlgorithmIdentifier<'_>, algorithm: &Oid<'_>) -> bool {
    let empty = id.parameters.as_ref().is_none_or(|parameters| parameters.as_null().is_ok());
    id.algorithm == *algorithm && empty
}

/// RFC 7427 appendix A.4.3; encoders differ in what they leave out.
fn is_pss(id: &AlgorithmIdentifier<'_>, hash: &Oid<'_>, salt: u32) -> bool {
    let mgf1 = oid!(1.2.840.113549.1.1.8);
    let Some(Ok(parameters)) = id.parameters.as_ref().map(RsaSsaPssParams::try_from) else {
        return false;
    };
    let mask = parameters.mask_gen_algorithm();
    id.algorithm == OID_PKCS1_RSASSAPSS
        && parameters.hash_algorithm_oid() == hash
        && mask.is_ok_and(|mask| mask.mgf == mgf1 && mask.hash == *hash)
        && parameters.salt_length() == salt
        && parameters.trailer_field() == 1
}

/// Data of our SIGNATURE_HASH_ALGORITHMS notify (RFC 7427 §4).
pub(crate) fn hash_algorithms() -> Vec<u8> {
    let hashes = [Hash::SHA2_256, Hash::SHA2_384, Hash::SHA2_512, Hash::IDENTITY];
    hashes.iter().flat_map(|hash| hash.0.to_be_bytes()).collect()
}

/// An AUTH payload, and the name of how it was made.
#[derive(Debug)]
pub(crate) struct Signed {
    pub(crate) method: u8,
    pub(crate) data: Vec<u8>,
    pub(crate) name: &'static str,
}

/// AUTH method "digital signature" (RFC 7427 §3).
pub(crate) const DIGITAL_SIGNATURE: u8 = 14;

/// A way to sign that has an AUTH method of its own, from before RFC 7427.
struct Classic {
    method: u8,
    name: &'static str,
    key: Key,
    /// Which of these it was does not stand in AUTH; we sign with the first.
    verification: &'static [&'static dyn VerificationAlgorithm],
    signing: Signing,
}

/// Method 1 says nothing of the hash; RFC 7296 §3.8 has SHA-1 in mind, which RFC 8247 §3.2 forbids.
static CLASSIC: [Classic; 3] = [
    Classic {
        method: 1,
        name: "RSA (method 1) with SHA2",
        key: Key::Rsa,
        verification: &[
            &signature::RSA_PKCS1_2048_8192_SHA256,
            &signature::RSA_PKCS1_2048_8192_SHA384,
            &signature::RSA_PKCS1_2048_8192_SHA512,
        ],
        signing: Signing::Rsa(&signature::RSA_PKCS1_SHA256),
    },
    Classic {
        method: 9,
        name: "ECDSA P-256 (method 9)",
        key: Key::EcdsaP256,
        verification: &[&signature::ECDSA_P256_SHA256_FIXED],
        signing: Signing::Ecdsa(&signature::ECDSA_P256_SHA256_FIXED_SIGNING),
    },
    Classic {
        method: 10,
        name: "ECDSA P-384 (method 10)",
        key: Key::EcdsaP384,
        verification: &[&signature::ECDSA_P384_SHA384_FIXED],
        signing: Signing::Ecdsa(&signature::ECDSA_P384_SHA384_FIXED_SIGNING),
    },
];

/// The AUTH methods that [`verify`] knows.
pub(crate) fn knows(method: u8) -> bool {
    method == DIGITAL_SIGNATURE || CLASSIC.iter().any(|classic| classic.method == method)
}

/// Signs `octets`. `peer_hashes` is the data of the peer's SIGNATURE_HASH_ALGORITHMS; empty where it
/// sent none, and wants one of the older methods.
pub(crate) fn sign(
    certificate: &[u8],
    private_key: &[u8],
    peer_hashes: &[u8],
    octets: &[u8],
) -> Result<Signed, Refusal> {
    let (_, certificate) = parse_x509_certificate(certificate)
        .map_err(|_| Refusal("own certificate is not valid DER".into()))?;
    let spki = certificate.public_key();
    let public_key = &spki.subject_public_key.data;
    let key = Key::of(spki).map_err(|refusal| Refusal(format!("own {refusal}")))?;
    let (peer_hashes, _) = peer_hashes.as_chunks();
    if peer_hashes.is_empty()
        && let Some(classic) = CLASSIC.iter().find(|classic| classic.key == key)
    {
        let data = classic.signing.sign(private_key, public_key, octets)?;
        return Ok(Signed { method: classic.method, data, name: classic.name });
    }
    let usable =
        |scheme: &&Scheme| scheme.key == key && peer_hashes.contains(&scheme.hash.0.to_be_bytes());
    let (scheme, signing) = SCHEMES
        .iter()
        .filter(usable)
        .find_map(|scheme| Some((scheme, scheme.signing.as_ref()?)))
        .ok_or_else(|| {
            Refusal(format!(
                "peer accepts no signature that our {} key can make (its hash algorithms: {})",
                key.name(),
                hash_names(peer_hashes)
            ))
        })?;
    let signature = signing.sign(private_key, public_key, octets)?;
    let data = [&[scheme.identifier.len() as u8], scheme.identifier, &signature].concat();
    Ok(Signed { method: DIGITAL_SIGNATURE, data, name: scheme.name })
}

fn hash_names(hashes: &[[u8; 2]]) -> String {
    if hashes.is_empty() {
        return "none, it cannot do RFC 7427".into();
    }
    let name = |hash: &[u8; 2]| match u16::from_be_bytes(*hash) {
        1 => "SHA1".into(),
        2 => "SHA2-256".into(),
        3 => "SHA2-384".into(),
        4 => "SHA2-512".into(),
        5 => "identity".into(),
        other => format!("{other}"),
    };
    hashes.iter().map(name).collect::<Vec<String>>().join(", ")
}

impl Signing {
    /// `public_key` is what the certificate holds: a key that does not fit would give a signature
    /// that every peer refuses.
    fn sign(&self, pkcs8: &[u8], public_key: &[u8], octets: &[u8]) -> Result<Vec<u8>, Refusal> {
        let unusable = || Refusal("own private key does not belong to own certificate".into());
        let failed = |_| Refusal("own private key failed to sign".into());
        let fits = |key: &[u8]| if key == public_key { Ok(()) } else { Err(unusable()) };
        match self {
            Self::Ecdsa(algorithm) => {
                let pair = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8).map_err(|_| unusable())?;
                fits(pair.public_key().as_ref())?;
                let signature = pair.sign(&SystemRandom::new(), octets).map_err(failed)?;
                Ok(signature.as_ref().to_vec())
            }
            Self::Ed25519 => {
                let pair = Ed25519KeyPair::from_pkcs8(pkcs8).map_err(|_| unusable())?;
                fits(pair.public_key().as_ref())?;
                Ok(pair.try_sign(octets).map_err(failed)?.as_ref().to_vec())
            }
            Self::Rsa(encoding) => {
                let pair = RsaKeyPair::from_pkcs8(pkcs8).map_err(|_| unusable())?;
                fits(pair.public_key().as_ref())?;
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(*encoding, &SystemRandom::new(), octets, &mut signature)
                    .map_err(failed)?;
                Ok(signature)
            }
        }
    }
}

/// Checks an AUTH payload against the key of `certificate`; gives the name of how it was made.
pub(crate) fn verify(
    certificate: &[u8],
    method: u8,
    data: &[u8],
    octets: &[u8],
) -> Result<&'static str, Refusal> {
    let refuse = |words: &str| Refusal(words.to_owned());
    let (_, certificate) =
        parse_x509_certificate(certificate).map_err(|_| refuse("certificate is not valid DER"))?;
    let spki = certificate.public_key();
    let key = Key::of(spki)?;
    let verifies = |algorithm, signature| {
        UnparsedPublicKey::new(algorithm, spki.raw).verify(octets, signature).is_ok()
    };
    let mismatch = |name| {
        let key = key.name();
        Refusal(format!("signature is {name}, but the certificate has a key for {key}"))
    };
    let forged = || refuse("signature was not made with the certificate's key");
    if let Some(classic) = CLASSIC.iter().find(|classic| classic.method == method) {
        if classic.key != key {
            return Err(mismatch(classic.name));
        }
        let good = classic.verification.iter().any(|&algorithm| verifies(algorithm, data));
        let advice = if key == Key::Rsa { ", or with SHA-1, which we do not accept" } else { "" };
        return if good { Ok(classic.name) } else { Err(Refusal(forged().0 + advice)) };
    }
    let (&len, rest) = data.split_first().ok_or_else(|| refuse("signature is empty"))?;
    let (identifier, signature) =
        rest.split_at_checked(len.into()).ok_or_else(|| refuse("signature is cut short"))?;
    let (trailing, identifier) = AlgorithmIdentifier::from_der(identifier)
        .map_err(|_| refuse("signature has no valid AlgorithmIdentifier"))?;
    let named = SCHEMES.iter().filter(|s| trailing.is_empty() && (s.matches)(&identifier));
    let named: Vec<&Scheme> = named.collect();
    let Some(first) = named.first() else {
        return Err(Refusal(format!(
            "signature algorithm {} with parameters that we did not announce",
            identifier.algorithm
        )));
    };
    // With ECDSA the identifier names the hash only.
    let scheme = named.iter().find(|scheme| scheme.key == key);
    let scheme = scheme.ok_or_else(|| mismatch(first.name))?;
    if verifies(scheme.verification, signature) { Ok(scheme.name) } else { Err(forged()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::hex;
    use crate::support::{Authority, KeyKind};

    const KINDS: [KeyKind; 4] = [KeyKind::P256, KeyKind::P384, KeyKind::Ed25519, KeyKind::Rsa];

    fn refusal(certificate: &[u8], data: &[u8]) -> String {
        verify(certificate, DIGITAL_SIGNATURE, data, b"octets").unwrap_err().0
    }

    #[test]
    fn rfc7427_3_signatures_verify_only_over_the_same_octets_and_key() {
        let authority = Authority::new();
        for kind in KINDS {
            let own = authority.issue("a", kind);
            let data =
                sign(&own.chain[0], &own.private_key, &hash_algorithms(), b"octets").unwrap();
            let Signed { method, data, name } = data;
            assert_eq!(method, DIGITAL_SIGNATURE);
            let check = |data: &[u8], octets| verify(&own.chain[0], method, data, octets);
            assert_eq!(check(&data, b"octets"), Ok(name), "{kind:?}");
            assert!(check(&data, b"others").is_err());
            let other = authority.issue("a", kind);
            assert!(refusal(&other.chain[0], &data).contains("certificate's key"), "{kind:?}");
            for len in 0..data.len() {
                assert!(check(&data[..len], b"octets").is_err());
            }
        }
    }

    #[test]
    fn rfc7427_3_algorithm_identifier_must_fit_the_key_in_the_certificate() {
        let authority = Authority::new();
        for signer in KINDS {
            for presented in KINDS.into_iter().filter(|kind| *kind != signer) {
                let own = authority.issue("a", signer);
                let data = sign(&own.chain[0], &own.private_key, &hash_algorithms(), b"octets")
                    .unwrap()
                    .data;
                let words = refusal(&authority.issue("a", presented).chain[0], &data);
                let curves = [KeyKind::P256, KeyKind::P384];
                let told = if curves.contains(&signer) && curves.contains(&presented) {
                    "not made with the certificate's key"
                } else {
                    "but the certificate has a key for"
                };
                assert!(words.contains(told), "{words}");
            }
        }
    }

    #[test]
    fn rfc7427_4_only_announced_hashes_are_used() {
        let own = Authority::new().issue("a", KeyKind::P384);
        let refused =
            |hashes: &[u8]| sign(&own.chain[0], &own.private_key, hashes, b"octets").unwrap_err().0;
        assert!(refused(&[0, 2]).contains("SHA2-256"));
        assert!(sign(&own.chain[0], &own.private_key, &[0, 9, 0, 3], b"octets").is_ok());
        // ECDSA with SHA-1, and with SHA2-224, neither of which we announce.
        for identifier in ["3009 06072a8648ce3d0401", "300a 06082a8648ce3d040301"] {
            let identifier = hex(identifier);
            let data = [&[identifier.len() as u8], &identifier[..], &[0; 64]].concat();
            assert!(refusal(&own.chain[0], &data).contains("did not announce"));
        }
    }

    #[test]
    fn rfc7427_appendix_a_4_3_pss_parameters_in_the_encodings_that_are_about() {
        let own = Authority::new().issue("a", KeyKind::Rsa);
        let ours = sign(&own.chain[0], &own.private_key, &[0, 2], b"octets").unwrap().data;
        let signature = &ours[1 + SCHEMES[3].identifier.len()..];
        let with = |identifier: &str| {
            let identifier = hex(identifier);
            let data = [&[identifier.len() as u8], &identifier[..], signature].concat();
            verify(&own.chain[0], DIGITAL_SIGNATURE, &data, b"octets")
        };
        // As in the RFC, with the trailer field written out.
        let rfc = "3046 06092a864886f70d01010a 3039 a00f300d06096086480165030402010500
                   a11c301a06092a864886f70d010108300d06096086480165030402010500
                   a203020120 a303020101";
        assert_eq!(with(rfc), Ok("RSASSA-PSS with SHA2-256"));
        // Without NULL in the hash algorithms.
        let bare = "303d 06092a864886f70d01010a 3030 a00d300b0609608648016503040201
                    a11a301806092a864886f70d010108300b0609608648016503040201 a203020120";
        assert_eq!(with(bare), Ok("RSASSA-PSS with SHA2-256"));
        // A salt of 20 bytes, and SHA-1 by default.
        let salt = "303d 06092a864886f70d01010a 3030 a00d300b0609608648016503040201
                    a11a301806092a864886f70d010108300b0609608648016503040201 a203020114";
        assert!(with(salt).is_err());
        assert!(with("300d 06092a864886f70d01010a 3000").is_err());
        assert!(with("300b 06092a864886f70d01010a").is_err());
    }

    #[test]
    fn rfc7427_appendix_a_every_scheme_for_rsa_and_what_peers_sign_with() {
        let own = Authority::new().issue("a", KeyKind::Rsa);
        let pair = RsaKeyPair::from_pkcs8(&own.private_key).unwrap();
        for scheme in SCHEMES.iter().filter(|scheme| scheme.key == Key::Rsa) {
            let Some(Signing::Rsa(encoding)) = scheme.signing else { panic!("{}", scheme.name) };
            let mut signature = vec![0; pair.public_modulus_len()];
            pair.sign(encoding, &SystemRandom::new(), b"octets", &mut signature).unwrap();
            let identifier = scheme.identifier;
            let data = [&[identifier.len() as u8], identifier, &signature].concat();
            let verdict = verify(&own.chain[0], DIGITAL_SIGNATURE, &data, b"octets");
            assert_eq!(verdict, Ok(scheme.name));
        }
        // Who announces one hash only gets a signature with it.
        for (hash, name) in [(3, "RSASSA-PSS with SHA2-384"), (4, "RSASSA-PSS with SHA2-512")] {
            let signed = sign(&own.chain[0], &own.private_key, &[0, hash], b"octets").unwrap();
            assert_eq!(signed.name, name);
        }
    }

    #[test]
    fn rfc7296_3_8_and_rfc4754_older_methods_for_peers_that_announce_no_hashes() {
        let authority = Authority::new();
        for (kind, method) in [(KeyKind::Rsa, 1), (KeyKind::P256, 9), (KeyKind::P384, 10)] {
            let own = authority.issue("a", kind);
            let signed = sign(&own.chain[0], &own.private_key, &[], b"octets").unwrap();
            assert_eq!(signed.method, method);
            assert!(knows(method));
            let check = |method, octets| verify(&own.chain[0], method, &signed.data, octets);
            assert_eq!(check(method, b"octets"), Ok(signed.name));
            assert!(check(method, b"others").unwrap_err().0.contains("certificate's key"));
            // RFC 4754 §7: the two numbers, each as long as the curve's order.
            match kind {
                KeyKind::P256 => assert_eq!(signed.data.len(), 64),
                KeyKind::P384 => assert_eq!(signed.data.len(), 96),
                _ => assert!(check(1, b"others").unwrap_err().0.contains("SHA-1")),
            }
            for other in [1, 9, 10].into_iter().filter(|other| *other != method) {
                assert!(check(other, b"octets").unwrap_err().0.contains("has a key for"));
            }
        }
        let own = authority.issue("a", KeyKind::Ed25519);
        let refusal = sign(&own.chain[0], &own.private_key, &[], b"octets").unwrap_err();
        assert!(refusal.0.contains("cannot do RFC 7427"), "{refusal}");
        assert!(!knows(2) && !knows(3));
    }
}
