//! Certificates and keys from the octets of files. Reading the files is the shell's.

use std::fmt;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair as _, RsaKeyPair,
};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::pem::Pem;
use zeroize::Zeroizing;

use crate::Certificate;

const CERTIFICATE: &str = "CERTIFICATE";

/// Why certificates, keys or revocation lists cannot be used. Blocks are PEM blocks of one file,
/// counted from 1; positions count certificates or lists.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// Nothing of the wanted kind is in the file.
    #[error("no {wanted} block; {}", found_words(.found))]
    NoBlock {
        /// Label of the wanted block.
        wanted: &'static str,
        /// Labels of those found.
        found: Vec<String>,
    },
    /// PEM that cannot be decoded.
    #[error("block {block} is not good PEM: {reason}")]
    Pem {
        /// Which block.
        block: usize,
        /// What is wrong.
        reason: String,
    },
    /// A certificate that cannot be read.
    #[error("certificate {position} is malformed: {reason}")]
    Certificate {
        /// Which certificate.
        position: usize,
        /// What is wrong.
        reason: String,
    },
    /// A trust anchor that is no CA.
    #[error(
        "certificate {position}, \"{subject}\", is not the certificate of a CA (CA:TRUE is missing); \
         put the certificate of the CA that issued it here"
    )]
    NotACa {
        /// Which certificate.
        position: usize,
        /// Its subject.
        subject: String,
    },
    /// No trust anchor at all.
    #[error("no CA certificate; at least one is needed")]
    NoAnchor,
    /// A revocation list that cannot be used.
    #[error("revocation list {position} cannot be used: {reason}")]
    RevocationList {
        /// Which list.
        position: usize,
        /// What is wrong.
        reason: String,
    },
    /// A private key in a form that is not read here.
    #[error("block {block} is {label}; {advice}")]
    KeyForm {
        /// Which block.
        block: usize,
        /// Its label.
        label: String,
        /// What to do.
        advice: &'static str,
    },
    /// A private key of another kind, or damaged.
    #[error(
        "the private key is damaged or none of ECDSA P-256, ECDSA P-384, Ed25519, RSA from 2048 bits"
    )]
    Key,
    /// Two private keys in one file.
    #[error("{0} private keys; one is needed")]
    SeveralKeys(usize),
    /// Key and certificate are not a pair.
    #[error("the private key does not belong to certificate 1, \"{subject}\"{}", mismatch_words(*.belongs_to))]
    KeyMismatch {
        /// Whose certificate.
        subject: String,
        /// The certificate of the chain that it does belong to.
        belongs_to: Option<usize>,
    },
}

fn found_words(found: &[String]) -> String {
    if found.is_empty() {
        "the file has no PEM block at all".to_owned()
    } else {
        format!("found {}", found.join(", "))
    }
}

fn mismatch_words(belongs_to: Option<usize>) -> String {
    belongs_to.map_or_else(String::new, |position| {
        format!("; it belongs to certificate {position}: the node's own must be the first")
    })
}

/// The kind of a key pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyType {
    /// ECDSA on P-256.
    P256,
    /// ECDSA on P-384.
    P384,
    /// Ed25519.
    Ed25519,
    /// RSA; 3072 bits where it is made here.
    Rsa,
}

impl fmt::Display for KeyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::P256 => "p256",
            Self::P384 => "p384",
            Self::Ed25519 => "ed25519",
            Self::Rsa => "rsa",
        })
    }
}

impl std::str::FromStr for KeyType {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::P256, Self::P384, Self::Ed25519, Self::Rsa]
            .into_iter()
            .find(|kind| kind.to_string().eq_ignore_ascii_case(text))
            .ok_or_else(|| {
                format!("unknown key type \"{text}\"; known are p256, p384, ed25519, rsa")
            })
    }
}

/// A private key, erased from memory when dropped and never shown.
#[derive(Clone)]
pub struct PrivateKey {
    pkcs8: Zeroizing<Vec<u8>>,
    kind: KeyType,
    /// As in subjectPublicKey of a certificate.
    public: Vec<u8>,
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({}, …)", self.kind)
    }
}

impl PrivateKey {
    /// From a file with one PEM block `PRIVATE KEY` (PKCS#8); certificates beside it do not matter.
    pub fn from_pem(pem: &[u8]) -> Result<Self, LoadError> {
        let mut found = Vec::new();
        let mut keys = Vec::new();
        for (block, Pem { label, contents }) in (1..).zip(blocks(pem)?) {
            let contents = Zeroizing::new(contents);
            let advice = match label.as_str() {
                "PRIVATE KEY" => {
                    keys.push(contents);
                    continue;
                }
                "ENCRYPTED PRIVATE KEY" => {
                    "a daemon has nobody to ask for the password: openssl pkcs8 -in KEY -out NEWKEY"
                }
                "EC PRIVATE KEY" | "RSA PRIVATE KEY" => {
                    "PKCS#8 is needed: openssl pkcs8 -topk8 -nocrypt -in KEY -out NEWKEY"
                }
                _ => {
                    found.push(label);
                    continue;
                }
            };
            return Err(LoadError::KeyForm { block, label, advice });
        }
        if keys.len() > 1 {
            return Err(LoadError::SeveralKeys(keys.len()));
        }
        let pkcs8 = keys.pop().ok_or(LoadError::NoBlock { wanted: "PRIVATE KEY", found })?;
        Self::from_pkcs8(pkcs8)
    }

    /// From PKCS#8 in DER.
    pub fn from_pkcs8(pkcs8: Zeroizing<Vec<u8>>) -> Result<Self, LoadError> {
        let ecdsa = |algorithm| {
            EcdsaKeyPair::from_pkcs8(algorithm, &pkcs8)
                .map(|pair| pair.public_key().as_ref().to_vec())
        };
        let (kind, public) = if let Ok(public) = ecdsa(&ECDSA_P256_SHA256_ASN1_SIGNING) {
            (KeyType::P256, public)
        } else if let Ok(public) = ecdsa(&ECDSA_P384_SHA384_ASN1_SIGNING) {
            (KeyType::P384, public)
        } else if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&pkcs8) {
            (KeyType::Ed25519, pair.public_key().as_ref().to_vec())
        } else if let Ok(pair) = RsaKeyPair::from_pkcs8(&pkcs8) {
            (KeyType::Rsa, pair.public_key().as_ref().to_vec())
        } else {
            return Err(LoadError::Key);
        };
        Ok(Self { pkcs8, kind, public })
    }

    /// PKCS#8 in DER.
    pub fn pkcs8(&self) -> &Zeroizing<Vec<u8>> {
        &self.pkcs8
    }

    /// PEM, `PRIVATE KEY`.
    pub fn to_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(crate::pem("PRIVATE KEY", &self.pkcs8))
    }

    pub(crate) fn public(&self) -> &[u8] {
        &self.public
    }

    /// Its kind.
    pub fn kind(&self) -> KeyType {
        self.kind
    }

    /// Whether a certificate in DER is about this key.
    pub fn belongs_to(&self, certificate: &[u8]) -> bool {
        x509_parser::parse_x509_certificate(certificate).is_ok_and(|(_, x509)| {
            x509.public_key().subject_public_key.data.as_ref() == self.public
        })
    }
}

/// A node's own chain and private key, which are known to be a pair.
#[derive(Debug, Clone)]
pub struct Credential {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKey,
    certificate: Certificate,
}

impl Credential {
    /// From the octets of two files: certificates (the node's own first, CAs below the root after
    /// it) and private key.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, LoadError> {
        Self::new(certificates(chain)?, PrivateKey::from_pem(key)?)
    }

    /// From a chain (at least one certificate, the node's own first) and a key.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKey) -> Result<Self, LoadError> {
        let own = chain.first().ok_or(LoadError::NoBlock { wanted: CERTIFICATE, found: vec![] })?;
        let certificate = Certificate::parse(own)
            .map_err(|error| LoadError::Certificate { position: 1, reason: error.0 })?;
        let belongs_to = chain.iter().position(|certificate| key.belongs_to(certificate));
        if belongs_to != Some(0) {
            return Err(LoadError::KeyMismatch {
                subject: certificate.identity.subject,
                belongs_to: belongs_to.map(|index| index + 1),
            });
        }
        Ok(Self { chain, key, certificate })
    }

    /// The chain in DER, the node's own certificate first; never empty.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The private key.
    pub fn key(&self) -> &PrivateKey {
        &self.key
    }

    /// The node's own certificate, read but not judged.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }
}

/// Certificates from PEM (a chain or a bundle; other blocks are passed over), or one in DER. At
/// least one, each readable.
pub fn certificates(octets: &[u8]) -> Result<Vec<CertificateDer<'static>>, LoadError> {
    let ders = contents(octets, CERTIFICATE)?;
    for (der, position) in ders.iter().zip(1..) {
        Certificate::parse(der)
            .map_err(|error| LoadError::Certificate { position, reason: error.0 })?;
    }
    Ok(ders.into_iter().map(CertificateDer::from).collect())
}

/// Revocation lists from PEM, or one in DER. At least one.
pub fn revocation_lists(
    octets: &[u8],
) -> Result<Vec<CertificateRevocationListDer<'static>>, LoadError> {
    let ders = contents(octets, "X509 CRL")?;
    Ok(ders.into_iter().map(CertificateRevocationListDer::from).collect())
}

fn contents(octets: &[u8], wanted: &'static str) -> Result<Vec<Vec<u8>>, LoadError> {
    // DER begins with 0x30, an ASCII zero, which no PEM file does.
    if octets.first() == Some(&crate::der::SEQUENCE) {
        return Ok(vec![octets.to_vec()]);
    }
    let (wanted_blocks, others): (Vec<_>, Vec<_>) =
        blocks(octets)?.into_iter().partition(|block| block.label == wanted);
    if wanted_blocks.is_empty() {
        let found = others.into_iter().map(|block| block.label).collect();
        return Err(LoadError::NoBlock { wanted, found });
    }
    Ok(wanted_blocks.into_iter().map(|block| block.contents).collect())
}

fn blocks(pem: &[u8]) -> Result<Vec<Pem>, LoadError> {
    Pem::iter_from_buffer(pem)
        .zip(1..)
        .map(|(block, number)| {
            block.map_err(|error| LoadError::Pem { block: number, reason: error.to_string() })
        })
        .collect()
}
