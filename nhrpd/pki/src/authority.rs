//! A small CA: a self-signed root that issues node certificates and a revocation list.
//!
//! Pure but for one thing: key pairs come from the random generator of aws-lc-rs, which cannot be
//! given another. Time and serial numbers are arguments.

use std::collections::BTreeSet;
use std::net::IpAddr;

use aws_lc_rs::signature::Ed25519KeyPair;
use ipnet::IpNet;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CustomExtension, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, RsaKeySize, SanType, SerialNumber,
};
use rustls_pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivatePkcs8KeyDer, UnixTime,
};
use x509_parser::time::ASN1Time;
use zeroize::Zeroizing;

use crate::address_blocks::{self, AddressBlocks, MAX_PREFIXES};
use crate::extended_key_usage::arcs;
use crate::request::PublicKey;
use crate::{Certificate, Credential, ExtendedKeyUsage, KeyType, KeyUsage, LoadError, PrivateKey};

/// From when to when, both seconds included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// The first second.
    pub not_before: UnixTime,
    /// The last second.
    pub not_after: UnixTime,
}

/// A serial number: 16 octets, best random. Its first two bits become 01, so that it is positive and
/// always of one length (RFC 5280 §4.1.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Serial([u8; 16]);

impl Serial {
    /// From random octets.
    pub fn new(mut octets: [u8; 16]) -> Self {
        octets[0] = octets[0] & 0x3f | 0x40;
        Self(octets)
    }
}

/// What a node's certificate shall say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Common name: the whole subject.
    pub common_name: String,
    /// Tunnel addresses (subjectAltName iPAddress).
    pub addresses: Vec<IpAddr>,
    /// Prefixes behind the node (RFC 3779, not critical). Neighbours are merged, as the RFC demands.
    pub prefixes: BTreeSet<IpNet>,
    /// DNS names (subjectAltName).
    pub dns: Vec<String>,
    /// Key usage (critical); `None` or no bit for a certificate without the extension.
    pub key_usage: Option<KeyUsage>,
    /// Extended key usage; empty for a certificate without the extension.
    pub extended_key_usage: Vec<ExtendedKeyUsage>,
    /// From when to when.
    pub validity: Validity,
}

impl Request {
    /// A certificate with this common name for `digitalSignature`, and nothing else.
    pub fn new(common_name: impl Into<String>, validity: Validity) -> Self {
        Self {
            common_name: common_name.into(),
            addresses: Vec::new(),
            prefixes: BTreeSet::new(),
            dns: Vec::new(),
            key_usage: Some(KeyUsage::DIGITAL_SIGNATURE),
            extended_key_usage: Vec::new(),
            validity,
        }
    }
}

/// A fresh certificate and its key.
#[derive(Debug, Clone)]
pub struct Issued {
    /// DER; see [`crate::certificate_pem`].
    pub certificate: CertificateDer<'static>,
    /// Its key.
    pub key: PrivateKey,
}

/// A certificate on a revocation list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revoked {
    /// Serial number, as [`Certificate::serial`] shows it.
    pub serial: String,
    /// Since when.
    pub at: UnixTime,
}

/// Why the CA cannot do what it is asked to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its own certificate or key cannot be used.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The certificate is of a node, or its key usage forbids signing.
    #[error("\"{0}\" is not the certificate of a CA that may sign certificates")]
    NotACa(String),
    /// A subject without a name.
    #[error("the common name is empty")]
    EmptyName,
    /// A file without a request.
    #[error("there is no PEM block CERTIFICATE REQUEST")]
    NoRequest,
    /// A request that is malformed or not signed by its own key.
    #[error("the request is no good: {0}")]
    Request(String),
    /// A key that IKE has no signature for, or that is too short.
    #[error("the key is none of P-256, P-384, Ed25519 and RSA from 2048 bits")]
    KeyKind,
    /// A DNS name with characters outside of ASCII.
    #[error("\"{0}\" is no DNS name")]
    Dns(String),
    /// More than a certificate holds.
    #[error("{0} prefixes; a certificate holds at most {MAX_PREFIXES}")]
    TooManyPrefixes(usize),
    /// An object identifier that cannot be encoded.
    #[error("extended key usage {0} cannot be encoded")]
    ExtendedKeyUsage(ExtendedKeyUsage),
    /// A time that X.509 cannot express, or an end before the beginning.
    #[error("the validity ends before it begins, or lies beyond what a certificate can say")]
    Validity,
    /// A serial number that is not hexadecimal.
    #[error("\"{0}\" is no serial number in hexadecimal")]
    Serial(String),
    /// The CA's own name does not survive being read and written.
    #[error(
        "the CA's name \"{0}\" repeats an attribute, which this small CA cannot write; issue with the \
         tools that made that CA"
    )]
    Name(String),
    /// rcgen failed.
    #[error("making the certificate failed: {0}")]
    Rcgen(rcgen::Error),
}

impl From<rcgen::Error> for Error {
    fn from(error: rcgen::Error) -> Self {
        Self::Rcgen(error)
    }
}

/// A CA: certificate and private key.
#[derive(Debug)]
pub struct Authority {
    credential: Credential,
}

impl Authority {
    /// A new self-signed root. It holds all addresses in the sense of RFC 3779 §2.3, without which
    /// OpenSSL refuses the address blocks of the certificates below it.
    pub fn create(
        common_name: &str,
        key_type: KeyType,
        validity: Validity,
        serial: Serial,
    ) -> Result<Self, Error> {
        let mut params = params(common_name, validity, serial)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let everything = [IpNet::from(ipnet::Ipv4Net::default()), ipnet::Ipv6Net::default().into()];
        params.custom_extensions = vec![address_blocks_extension(&everything.into())?];
        let key = generate_key(key_type)?;
        let certificate = params.self_signed(&*key_pair(&key)?)?;
        Ok(Self { credential: Credential::new(vec![certificate.into()], key)? })
    }

    /// From the octets of its two PEM files.
    pub fn from_pem(certificate: &[u8], key: &[u8]) -> Result<Self, Error> {
        let credential = Credential::from_pem(certificate, key)?;
        let Certificate { is_ca, key_usage, identity, .. } = credential.certificate();
        if !is_ca || key_usage.is_some_and(|usage| !usage.contains(KeyUsage::KEY_CERT_SIGN)) {
            return Err(Error::NotACa(identity.subject.clone()));
        }
        Ok(Self { credential })
    }

    /// Its own certificate in DER: the trust anchor of every node.
    pub fn certificate_der(&self) -> &CertificateDer<'static> {
        &self.credential.chain()[0]
    }

    /// Its own certificate, read.
    pub fn certificate(&self) -> &Certificate {
        self.credential.certificate()
    }

    /// Its private key.
    pub fn key(&self) -> &PrivateKey {
        self.credential.key()
    }

    /// A certificate as asked for, with a fresh key.
    pub fn issue(
        &self,
        request: &Request,
        key_type: KeyType,
        serial: Serial,
    ) -> Result<Issued, Error> {
        let key = generate_key(key_type)?;
        let certificate = self.certify(request, &PublicKey::from(&key), serial)?;
        Ok(Issued { certificate, key })
    }

    /// A certificate as asked for, for a key of which only the public half is here.
    pub fn certify(
        &self,
        request: &Request,
        key: &PublicKey,
        serial: Serial,
    ) -> Result<CertificateDer<'static>, Error> {
        let mut params = params(&request.common_name, request.validity, serial)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        for dns in &request.dns {
            let name = dns.as_str().try_into().map_err(|_| Error::Dns(dns.clone()))?;
            params.subject_alt_names.push(SanType::DnsName(name));
        }
        params.subject_alt_names.extend(request.addresses.iter().copied().map(SanType::IpAddress));
        params.key_usages = request.key_usage.map_or_else(Vec::new, purposes);
        for usage in &request.extended_key_usage {
            let arcs = arcs(usage.oid()).ok_or_else(|| Error::ExtendedKeyUsage(usage.clone()))?;
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::Other(arcs));
        }
        if !request.prefixes.is_empty() {
            params.custom_extensions.push(address_blocks_extension(&request.prefixes)?);
        }
        let signing = key_pair(self.key())?;
        let issuer = Issuer::from_ca_cert_der(self.certificate_der(), &*signing)?;
        let certificate = CertificateDer::from(params.signed_by(key, &issuer)?);
        let written = Certificate::parse(&certificate)
            .map_err(|error| LoadError::Certificate { position: 1, reason: error.0 })?;
        let own = self.certificate();
        if written.issuer_der != own.identity.subject_der {
            return Err(Error::Name(own.identity.subject.clone()));
        }
        Ok(certificate)
    }

    /// A revocation list. `number` must grow from list to list (RFC 5280 §5.2.3).
    pub fn revocation_list(
        &self,
        revoked: &[Revoked],
        number: u64,
        this_update: UnixTime,
        next_update: UnixTime,
    ) -> Result<CertificateRevocationListDer<'static>, Error> {
        let revoked_certs = revoked
            .iter()
            .map(|entry| {
                Ok(RevokedCertParams {
                    serial_number: SerialNumber::from_slice(&octets(&entry.serial)?),
                    revocation_time: asn1_time(entry.at)?.to_datetime(),
                    reason_code: None,
                    invalidity_date: None,
                })
            })
            .collect::<Result<_, Error>>()?;
        let list = CertificateRevocationListParams {
            this_update: asn1_time(this_update)?.to_datetime(),
            next_update: asn1_time(next_update)?.to_datetime(),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let signing = key_pair(self.key())?;
        let issuer = Issuer::from_ca_cert_der(self.certificate_der(), &*signing)?;
        Ok(list.signed_by(&issuer)?.into())
    }
}

/// A fresh private key.
pub fn generate_key(key_type: KeyType) -> Result<PrivateKey, Error> {
    let pair = match key_type {
        KeyType::P256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256),
        KeyType::P384 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384),
        // OpenSSL 3.0 reads only the first version of PKCS#8, rcgen writes the second.
        KeyType::Ed25519 => {
            let pkcs8 = Ed25519KeyPair::generate().and_then(|pair| pair.to_pkcs8v1());
            let pkcs8 = pkcs8.map_err(|_| rcgen::Error::RingUnspecified)?;
            return Ok(PrivateKey::from_pkcs8(pkcs8.as_ref().to_vec().into())?);
        }
        KeyType::Rsa => KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_3072),
    };
    let pair = Zeroizing::new(pair?);
    Ok(PrivateKey::from_pkcs8(pair.serialize_der().into())?)
}

pub(crate) fn key_pair(key: &PrivateKey) -> Result<Zeroizing<KeyPair>, rcgen::Error> {
    KeyPair::try_from(&PrivatePkcs8KeyDer::from(key.pkcs8().as_slice())).map(Zeroizing::new)
}

fn params(
    common_name: &str,
    validity: Validity,
    Serial(serial): Serial,
) -> Result<CertificateParams, Error> {
    if common_name.is_empty() {
        return Err(Error::EmptyName);
    }
    if validity.not_after < validity.not_before {
        return Err(Error::Validity);
    }
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = asn1_time(validity.not_before)?.to_datetime();
    params.not_after = asn1_time(validity.not_after)?.to_datetime();
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

/// RFC 5280 §4.1.2.5 ends with the year 9999.
fn asn1_time(time: UnixTime) -> Result<ASN1Time, Error> {
    let seconds = i64::try_from(time.as_secs()).map_err(|_| Error::Validity)?;
    ASN1Time::from_timestamp(seconds).map_err(|_| Error::Validity)
}

fn purposes(usage: KeyUsage) -> Vec<KeyUsagePurpose> {
    let known = [
        (0x80, KeyUsagePurpose::DigitalSignature),
        (0x40, KeyUsagePurpose::ContentCommitment),
        (0x20, KeyUsagePurpose::KeyEncipherment),
        (0x10, KeyUsagePurpose::DataEncipherment),
        (0x08, KeyUsagePurpose::KeyAgreement),
        (0x04, KeyUsagePurpose::KeyCertSign),
        (0x02, KeyUsagePurpose::CrlSign),
        (0x01, KeyUsagePurpose::EncipherOnly),
        (0x8000, KeyUsagePurpose::DecipherOnly),
    ];
    known
        .into_iter()
        .filter(|(bit, _)| usage.bits() & bit != 0)
        .map(|(_, purpose)| purpose)
        .collect()
}

/// Not critical, against RFC 3779 §2.2.1: rustls-webpki and many others refuse critical extensions
/// that they do not know.
fn address_blocks_extension(prefixes: &BTreeSet<IpNet>) -> Result<CustomExtension, Error> {
    if prefixes.len() > MAX_PREFIXES {
        return Err(Error::TooManyPrefixes(prefixes.len()));
    }
    let oid = arcs(address_blocks::OID).unwrap_or_default();
    Ok(CustomExtension::from_oid_content(&oid, AddressBlocks::encode(prefixes)))
}

fn octets(hexadecimal: &str) -> Result<Vec<u8>, Error> {
    let bad = || Error::Serial(hexadecimal.to_owned());
    if hexadecimal.is_empty() || !hexadecimal.len().is_multiple_of(2) || !hexadecimal.is_ascii() {
        return Err(bad());
    }
    (0..hexadecimal.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hexadecimal[at..at + 2], 16).map_err(|_| bad()))
        .collect()
}
