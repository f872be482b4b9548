//! Public keys and PKCS#10 requests (RFC 2986): certificates for keys that the CA never sees.

use rcgen::{CertificateParams, DistinguishedName, DnType, PublicKeyData, SignatureAlgorithm};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;
use x509_parser::public_key::PublicKey as Parsed;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::authority::{Error, key_pair};
use crate::{KeyType, LoadError, PrivateKey};

/// The public half of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    /// As in subjectPublicKey.
    bits: Vec<u8>,
    kind: KeyType,
}

impl PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.bits
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        match self.kind {
            KeyType::P256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            KeyType::P384 => &rcgen::PKCS_ECDSA_P384_SHA384,
            KeyType::Ed25519 => &rcgen::PKCS_ED25519,
            KeyType::Rsa => &rcgen::PKCS_RSA_SHA256,
        }
    }
}

impl From<&PrivateKey> for PublicKey {
    fn from(key: &PrivateKey) -> Self {
        Self { bits: key.public().to_vec(), kind: key.kind() }
    }
}

impl PublicKey {
    /// That of a certificate in DER.
    ///
    /// # Errors
    /// When it cannot be read, or the key is of a kind that no node may have.
    pub fn of_certificate(der: &[u8]) -> Result<Self, Error> {
        let (_, x509) = x509_parser::parse_x509_certificate(der)
            .map_err(|error| LoadError::Certificate { position: 1, reason: error.to_string() })?;
        Self::read(x509.public_key())
    }

    fn read(info: &SubjectPublicKeyInfo<'_>) -> Result<Self, Error> {
        let bits = info.subject_public_key.data.to_vec();
        let kind = match info.parsed() {
            Ok(Parsed::EC(point)) if point.key_size() == 256 => KeyType::P256,
            Ok(Parsed::EC(point)) if point.key_size() == 384 => KeyType::P384,
            Ok(Parsed::RSA(key)) if key.key_size() >= 2048 => KeyType::Rsa,
            _ if info.algorithm.algorithm.to_id_string() == "1.3.101.112" => KeyType::Ed25519,
            _ => return Err(Error::KeyKind),
        };
        Ok(Self { bits, kind })
    }
}

/// What a node asks a CA for. Only its name and its key are taken over: what a node may claim is
/// for the CA to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SigningRequest {
    /// Common name, where the subject has one.
    pub common_name: Option<String>,
    /// The key that the sender has shown to have.
    pub public_key: PublicKey,
}

impl SigningRequest {
    /// Reads a request and checks that it is signed by its own key.
    ///
    /// # Errors
    /// When it cannot be read, its signature is wrong, or its key is of no use.
    pub fn from_pem(octets: &[u8]) -> Result<Self, Error> {
        let block = pem::parse_many(octets)
            .unwrap_or_default()
            .into_iter()
            .find(|block| block.tag().ends_with("CERTIFICATE REQUEST"))
            .ok_or(Error::NoRequest)?;
        let (_, request) = X509CertificationRequest::from_der(block.contents())
            .map_err(|error| Error::Request(error.to_string()))?;
        request
            .verify_signature()
            .map_err(|_| Error::Request("its signature is not that of its key".into()))?;
        let info = &request.certification_request_info;
        let mut names = info.subject.iter_common_name();
        let common_name = names.next().and_then(|name| name.as_str().ok()).map(str::to_owned);
        Ok(Self { common_name, public_key: PublicKey::read(&info.subject_pki)? })
    }
}

/// A request in PEM, for a CA of one's own or another's.
///
/// # Errors
/// When the name is empty or the key cannot sign.
pub fn signing_request(common_name: &str, key: &PrivateKey) -> Result<String, Error> {
    if common_name.is_empty() {
        return Err(Error::EmptyName);
    }
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    let request = params.serialize_request(&*key_pair(key)?)?;
    Ok(crate::pem("CERTIFICATE REQUEST", request.der()))
}
