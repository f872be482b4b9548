//! Digital signatures in AUTH (RFC 7427), over keys from certificates.
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
    OID_PKCS1_RSAENCRYPTION, OID_PKCS1_RSASSAPSS, OID_PKCS1_SHA256WITHRSA,
    OID_SIG_ECDSA_WITH_SHA256, OID_SIG_ECDSA_WITH_SHA384, OID_SIG_ED25519,
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
    signing: Signing,
}

enum Signing {
    Ecdsa(&'static EcdsaSigningAlgorithm),
    Ed25519,
    Rsa(&'static dyn RsaEncoding),
}

/// The preferred first.
static SCHEMES: [Scheme; 5] = [
    Scheme {
        name: "ECDSA P-256 with SHA2-256",
        key: Key::EcdsaP256,
        hash: Hash::SHA2_256,
        identifier: &[0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02],
        matches: |id| plain(id, &OID_SIG_ECDSA_WITH_SHA256),
        verification: &signature::ECDSA_P256_SHA256_ASN1,
        signing: Signing::Ecdsa(&signature::ECDSA_P256_SHA256_ASN1_SIGNING),
    },
    Scheme {
        name: "ECDSA P-384 with SHA2-384",
        key: Key::EcdsaP384,
        hash: Hash::SHA2_384,
        identifier: &[0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03],
        matches: |id| plain(id, &OID_SIG_ECDSA_WITH_SHA384),
        verification: &signature::ECDSA_P384_SHA384_ASN1,
        signing: Signing::Ecdsa(&signature::ECDSA_P384_SHA384_ASN1_SIGNING),
    },
    Scheme {
        name: "Ed25519",
        key: Key::Ed25519,
        hash: Hash::IDENTITY,
        identifier: &[0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70],
        matches: |id| plain(id, &OID_SIG_ED25519),
        verification: &signature::ED25519,
        signing: Signing::Ed25519,
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
        matches: is_pss_sha256,
        verification: &signature::RSA_PSS_2048_8192_SHA256,
        signing: Signing::Rsa(&signature::RSA_PSS_SHA256),
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
        signing: Signing::Rsa(&signature::RSA_PKCS1_SHA256),
    },
];

/// The algorithm without parameters, or with NULL as some write it.
fn plain(id: &AlgorithmIdentifier<'_>, algorithm: &Oid<'_>) -> bool {
    let empty = id.parameters.as_ref().is_none_or(|parameters| parameters.as_null().is_ok());
    id.algorithm == *algorithm && empty
}

/// RFC 7427 appendix A.4.3; encoders differ in what they leave out.
fn is_pss_sha256(id: &AlgorithmIdentifier<'_>) -> bool {
    let mgf1 = oid!(1.2.840.113549.1.1.8);
    let Some(Ok(parameters)) = id.parameters.as_ref().map(RsaSsaPssParams::try_from) else {
        return false;
    };
    let mask = parameters.mask_gen_algorithm();
    id.algorithm == OID_PKCS1_RSASSAPSS
        && *parameters.hash_algorithm_oid() == OID_NIST_HASH_SHA256
        && mask.is_ok_and(|mask| mask.mgf == mgf1 && mask.hash == OID_NIST_HASH_SHA256)
        && parameters.salt_length() == 32
        && parameters.trailer_field() == 1
}

/// Data of our SIGNATURE_HASH_ALGORITHMS notify (RFC 7427 §4).
pub(crate) fn hash_algorithms() -> Vec<u8> {
    let hashes = [Hash::SHA2_256, Hash::SHA2_384, Hash::IDENTITY];
    hashes.iter().flat_map(|hash| hash.0.to_be_bytes()).collect()
}

/// Signs `octets`: data of an AUTH payload with method 14 (RFC 7427 §3). `peer_hashes` is the
/// data of the peer's SIGNATURE_HASH_ALGORITHMS.
pub(crate) fn sign(
    certificate: &[u8],
    private_key: &[u8],
    peer_hashes: &[u8],
    octets: &[u8],
) -> Result<Vec<u8>, Refusal> {
    let (_, certificate) = parse_x509_certificate(certificate)
        .map_err(|_| Refusal("own certificate is not valid DER".into()))?;
    let spki = certificate.public_key();
    let key = Key::of(spki).map_err(|refusal| Refusal(format!("own {refusal}")))?;
    let (peer_hashes, _) = peer_hashes.as_chunks();
    let scheme = SCHEMES
        .iter()
        .find(|scheme| scheme.key == key && peer_hashes.contains(&scheme.hash.0.to_be_bytes()))
        .ok_or_else(|| {
            Refusal(format!(
                "peer accepts no signature that our {} key can make (its hash algorithms: {})",
                key.name(),
                hash_names(peer_hashes)
            ))
        })?;
    let signature = scheme.signing.sign(private_key, &spki.subject_public_key.data, octets)?;
    Ok([&[scheme.identifier.len() as u8], scheme.identifier, &signature].concat())
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

/// Checks the data of an AUTH payload with method 14 against the key of `certificate`.
pub(crate) fn verify(certificate: &[u8], data: &[u8], octets: &[u8]) -> Result<(), Refusal> {
    let refuse = |words: &str| Refusal(words.to_owned());
    let (_, certificate) =
        parse_x509_certificate(certificate).map_err(|_| refuse("certificate is not valid DER"))?;
    let spki = certificate.public_key();
    let key = Key::of(spki)?;
    let (&len, rest) = data.split_first().ok_or_else(|| refuse("signature is empty"))?;
    let (identifier, signature) =
        rest.split_at_checked(len.into()).ok_or_else(|| refuse("signature is cut short"))?;
    let (trailing, identifier) = AlgorithmIdentifier::from_der(identifier)
        .map_err(|_| refuse("signature has no valid AlgorithmIdentifier"))?;
    let scheme = SCHEMES
        .iter()
        .find(|scheme| trailing.is_empty() && (scheme.matches)(&identifier))
        .ok_or_else(|| {
            Refusal(format!(
                "signature algorithm {} with parameters that we did not announce",
                identifier.algorithm
            ))
        })?;
    if scheme.key != key {
        return Err(Refusal(format!(
            "signature is {}, but the certificate has a key for {}",
            scheme.name,
            key.name()
        )));
    }
    UnparsedPublicKey::new(scheme.verification, spki.raw)
        .verify(octets, signature)
        .map_err(|_| refuse("signature was not made with the certificate's key"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::hex;
    use crate::support::{Authority, KeyKind};

    const KINDS: [KeyKind; 4] = [KeyKind::P256, KeyKind::P384, KeyKind::Ed25519, KeyKind::Rsa];

    fn refusal(certificate: &[u8], data: &[u8]) -> String {
        verify(certificate, data, b"octets").unwrap_err().0
    }

    #[test]
    fn rfc7427_3_signatures_verify_only_over_the_same_octets_and_key() {
        let authority = Authority::new();
        for kind in KINDS {
            let own = authority.issue("a", kind);
            let data =
                sign(&own.chain[0], &own.private_key, &hash_algorithms(), b"octets").unwrap();
            assert_eq!(verify(&own.chain[0], &data, b"octets"), Ok(()), "{kind:?}");
            assert!(verify(&own.chain[0], &data, b"others").is_err());
            let other = authority.issue("a", kind);
            assert!(refusal(&other.chain[0], &data).contains("certificate's key"), "{kind:?}");
            for len in 0..data.len() {
                assert!(verify(&own.chain[0], &data[..len], b"octets").is_err());
            }
        }
    }

    #[test]
    fn rfc7427_3_algorithm_identifier_must_fit_the_key_in_the_certificate() {
        let authority = Authority::new();
        for signer in KINDS {
            for presented in KINDS.into_iter().filter(|kind| *kind != signer) {
                let own = authority.issue("a", signer);
                let data =
                    sign(&own.chain[0], &own.private_key, &hash_algorithms(), b"octets").unwrap();
                let words = refusal(&authority.issue("a", presented).chain[0], &data);
                assert!(words.contains("but the certificate has a key for"), "{words}");
            }
        }
    }

    #[test]
    fn rfc7427_4_only_announced_hashes_are_used() {
        let own = Authority::new().issue("a", KeyKind::P384);
        let refused =
            |hashes: &[u8]| sign(&own.chain[0], &own.private_key, hashes, b"octets").unwrap_err().0;
        assert!(refused(&[0, 2]).contains("SHA2-256"));
        assert!(refused(&[]).contains("cannot do RFC 7427"));
        assert!(sign(&own.chain[0], &own.private_key, &[0, 9, 0, 3], b"octets").is_ok());
        // ECDSA with SHA-1, and with SHA2-512, neither of which we announce.
        for identifier in ["3009 06072a8648ce3d0401", "300a 06082a8648ce3d040304"] {
            let identifier = hex(identifier);
            let data = [&[identifier.len() as u8], &identifier[..], &[0; 64]].concat();
            assert!(refusal(&own.chain[0], &data).contains("did not announce"));
        }
    }

    #[test]
    fn rfc7427_appendix_a_4_3_pss_parameters_in_the_encodings_that_are_about() {
        let own = Authority::new().issue("a", KeyKind::Rsa);
        let ours = sign(&own.chain[0], &own.private_key, &[0, 2], b"octets").unwrap();
        let signature = &ours[1 + SCHEMES[3].identifier.len()..];
        let with = |identifier: &str| {
            let identifier = hex(identifier);
            verify(
                &own.chain[0],
                &[&[identifier.len() as u8], &identifier[..], signature].concat(),
                b"octets",
            )
        };
        // As in the RFC, with the trailer field written out.
        let rfc = "3046 06092a864886f70d01010a 3039 a00f300d06096086480165030402010500
                   a11c301a06092a864886f70d010108300d06096086480165030402010500
                   a203020120 a303020101";
        assert_eq!(with(rfc), Ok(()));
        // Without NULL in the hash algorithms.
        let bare = "303d 06092a864886f70d01010a 3030 a00d300b0609608648016503040201
                    a11a301806092a864886f70d010108300b0609608648016503040201 a203020120";
        assert_eq!(with(bare), Ok(()));
        // A salt of 20 bytes, and SHA-1 by default.
        let salt = "303d 06092a864886f70d01010a 3030 a00d300b0609608648016503040201
                    a11a301806092a864886f70d010108300b0609608648016503040201 a203020114";
        assert!(with(salt).is_err());
        assert!(with("300d 06092a864886f70d01010a 3000").is_err());
        assert!(with("300b 06092a864886f70d01010a").is_err());
    }

    #[test]
    fn rfc7427_appendix_a_1_pkcs1_signatures_are_accepted() {
        let own = Authority::new().issue("a", KeyKind::Rsa);
        let pair = RsaKeyPair::from_pkcs8(&own.private_key).unwrap();
        let mut signature = vec![0; pair.public_modulus_len()];
        pair.sign(&signature::RSA_PKCS1_SHA256, &SystemRandom::new(), b"octets", &mut signature)
            .unwrap();
        let identifier = SCHEMES[4].identifier;
        let data = [&[identifier.len() as u8], identifier, &signature].concat();
        assert_eq!(verify(&own.chain[0], &data, b"octets"), Ok(()));
    }
}
