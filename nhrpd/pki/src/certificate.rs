//! What a certificate says: who it names, what it allows, how long.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use rustls_pki_types::UnixTime;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::time::ASN1Time;

use crate::address_blocks::{self, AddressBlocks};
use crate::{ExtendedKeyUsage, KeyUsage, name};

/// Larger certificates are refused unread; rustls-webpki takes none above 64 KiB either.
const MAX_OCTETS: usize = 0xffff;

/// Who a certificate names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Subject as text (RFC 4514), most specific part first: `CN=spoke1,O=Example`.
    pub subject: String,
    /// Subject in DER, as IKE's ID_DER_ASN1_DN carries it (RFC 7296 §3.5).
    pub subject_der: Vec<u8>,
    /// The most specific common name of the subject.
    pub common_name: Option<String>,
    /// DNS names of subjectAltName, in lower case.
    pub dns: Vec<String>,
    /// Addresses of subjectAltName.
    pub addresses: Vec<IpAddr>,
    /// E-mail addresses of subjectAltName.
    pub emails: Vec<String>,
}

impl Identity {
    /// Every name by which a configuration may mean this identity: subject, common name, DNS names,
    /// e-mail addresses, addresses.
    pub fn names(&self) -> BTreeSet<String> {
        let mut names = BTreeSet::from([self.subject.clone()]);
        names.extend(self.common_name.clone());
        names.extend(self.dns.iter().cloned());
        names.extend(self.emails.iter().cloned());
        names.extend(self.addresses.iter().map(IpAddr::to_string));
        names
    }
}

/// The subject, or where it is empty (RFC 5280 §4.1.2.6 allows that) the first of the other names.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.addresses.first().map(IpAddr::to_string);
        let others = self.dns.first().or(address.as_ref()).or(self.emails.first());
        f.write_str(match others {
            Some(other) if self.subject.is_empty() => other,
            _ => &self.subject,
        })
    }
}

/// A certificate, read. Whether it can be trusted is the [`crate::Verifier`]'s to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Who it names.
    pub identity: Identity,
    /// Who issued it (RFC 4514).
    pub issuer: String,
    /// Issuer in DER.
    pub issuer_der: Vec<u8>,
    /// Serial number in hexadecimal, as OpenSSL shows it without its colons.
    pub serial: String,
    /// Valid from here, this second included.
    pub not_before: UnixTime,
    /// Valid to here, this second included.
    pub not_after: UnixTime,
    /// Key usage; `None` without the extension.
    pub key_usage: Option<KeyUsage>,
    /// Extended key usage; `None` without the extension.
    pub extended_key_usage: Option<Vec<ExtendedKeyUsage>>,
    /// A CA certificate (basicConstraints, RFC 5280 §4.2.1.9).
    pub is_ca: bool,
    /// RFC 3779 address blocks as they stand in the certificate; `None` without the extension.
    pub address_blocks: Option<AddressBlocks>,
    /// Critical extensions that path validation does not know, by object identifier. With one of
    /// them, [`crate::Verifier`] refuses the certificate (RFC 5280 §4.2).
    pub unknown_critical: Vec<String>,
    /// SHA-256 over the DER.
    pub fingerprint: [u8; 32],
    /// SHA-1 over the public key (SubjectPublicKeyInfo), as IKE names a CA by it (RFC 7296 §3.7).
    pub key_hash: [u8; 20],
    /// What the holder may register and advertise: subjectAltName iPAddress as host prefixes, and
    /// the address blocks. From [`crate::Verifier::verify`], blocks that the certificate inherits are
    /// resolved; from [`Certificate::parse`], they count as nothing.
    pub allowed: BTreeSet<IpNet>,
    pub(crate) prefixes: BTreeSet<IpNet>,
}

/// What rustls-webpki processes itself: key usage, subjectAltName, basicConstraints,
/// nameConstraints, cRLDistributionPoints, extended key usage.
const KNOWN_TO_PATH_VALIDATION: [&str; 6] =
    ["2.5.29.15", "2.5.29.17", "2.5.29.19", "2.5.29.30", "2.5.29.31", "2.5.29.37"];

/// Why a certificate cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub String);

impl Certificate {
    /// Reads a certificate in DER. Total: any octets give a value or an error.
    pub fn parse(der: &[u8]) -> Result<Self, Malformed> {
        if der.len() > MAX_OCTETS {
            return Err(Malformed(format!("{} octets long; at most {MAX_OCTETS}", der.len())));
        }
        let (rest, x509) = x509_parser::parse_x509_certificate(der)
            .map_err(|error| Malformed(x509_parser::error::X509Error::from(error).to_string()))?;
        if !rest.is_empty() {
            return Err(Malformed(format!("{} octets after its end", rest.len())));
        }
        let identity = identity(&x509)?;
        let address_blocks = blocks(&x509)?;
        let unknown_critical = x509
            .extensions()
            .iter()
            .filter(|extension| extension.critical)
            .map(|extension| name::dotted(&extension.oid))
            .filter(|oid| !KNOWN_TO_PATH_VALIDATION.contains(&oid.as_str()))
            .collect();
        let key_usage = x509
            .key_usage()
            .map_err(|error| in_extension("keyUsage", &error))?
            .map(|extension| KeyUsage::from_x509_parser(extension.value.flags));
        let is_ca = x509
            .basic_constraints()
            .map_err(|error| in_extension("basicConstraints", &error))?
            .is_some_and(|extension| extension.value.ca);
        let mut certificate = Self {
            issuer: name::rfc4514(x509.issuer()),
            issuer_der: x509.issuer().as_raw().to_vec(),
            serial: serial(x509.raw_serial()),
            not_before: unix_time(x509.validity().not_before),
            not_after: unix_time(x509.validity().not_after),
            key_usage,
            extended_key_usage: extended_key_usage(&x509)?,
            is_ca,
            unknown_critical,
            fingerprint: sha256(der),
            key_hash: sha1(x509.public_key().raw),
            prefixes: BTreeSet::new(),
            allowed: BTreeSet::new(),
            address_blocks,
            identity,
        };
        certificate.resolve(&BTreeSet::new());
        Ok(certificate)
    }

    /// The RFC 3779 address blocks alone: what a spoke advertises.
    pub fn prefixes(&self) -> &BTreeSet<IpNet> {
        &self.prefixes
    }

    /// Whether the holder may register or advertise all of `prefix`.
    pub fn allows(&self, prefix: &IpNet) -> bool {
        address_blocks::not_covered(&self.allowed, &BTreeSet::from([*prefix])).is_none()
    }

    /// Computes what is allowed, with the blocks of the `issuer` where this certificate inherits.
    pub(crate) fn resolve(&mut self, issuer: &BTreeSet<IpNet>) {
        self.prefixes =
            self.address_blocks.as_ref().map_or_else(BTreeSet::new, |b| b.resolve(issuer));
        self.allowed = self.prefixes.clone();
        self.allowed.extend(self.identity.addresses.iter().copied().map(IpNet::from));
    }
}

/// Any fault of an extension, in words.
fn in_extension(extension: &str, error: &dyn std::fmt::Display) -> Malformed {
    Malformed(format!("{extension}: {error}"))
}

fn identity(x509: &X509Certificate<'_>) -> Result<Identity, Malformed> {
    let mut identity = Identity {
        subject: name::rfc4514(x509.subject()),
        subject_der: x509.subject().as_raw().to_vec(),
        common_name: name::common_name(x509.subject()),
        dns: Vec::new(),
        addresses: Vec::new(),
        emails: Vec::new(),
    };
    let alternative =
        x509.subject_alternative_name().map_err(|error| in_extension("subjectAltName", &error))?;
    for name in alternative.iter().flat_map(|extension| &extension.value.general_names) {
        match *name {
            GeneralName::DNSName(dns) => identity.dns.push(printable(dns)?.to_ascii_lowercase()),
            GeneralName::RFC822Name(email) => identity.emails.push(printable(email)?.to_owned()),
            GeneralName::IPAddress(octets) => identity.addresses.push(ip_address(octets)?),
            GeneralName::Invalid(..) => {
                return Err(in_extension("subjectAltName", &"a name that cannot be read"));
            }
            _ => {}
        }
    }
    Ok(identity)
}

/// RFC 5280 §4.2.1.6: these names are IA5 strings; and what is logged must not steer a terminal.
fn printable(name: &str) -> Result<&str, Malformed> {
    if name.bytes().all(|octet| octet.is_ascii_graphic() || octet == b' ') {
        Ok(name)
    } else {
        Err(in_extension(
            "subjectAltName",
            &format!("{name:?} has characters outside of ASCII text"),
        ))
    }
}

fn ip_address(octets: &[u8]) -> Result<IpAddr, Malformed> {
    match octets.len() {
        4 => <[u8; 4]>::try_from(octets).map(IpAddr::from).ok(),
        16 => <[u8; 16]>::try_from(octets).map(IpAddr::from).ok(),
        _ => None,
    }
    .ok_or_else(|| in_extension("subjectAltName", &format!("iPAddress of {} octets", octets.len())))
}

fn extended_key_usage(
    x509: &X509Certificate<'_>,
) -> Result<Option<Vec<ExtendedKeyUsage>>, Malformed> {
    let extension =
        x509.extended_key_usage().map_err(|error| in_extension("extendedKeyUsage", &error))?;
    Ok(extension.map(|extension| {
        let usage = extension.value;
        // x509-parser takes these out of the list.
        let named = [
            (usage.any, "2.5.29.37.0"),
            (usage.server_auth, "1.3.6.1.5.5.7.3.1"),
            (usage.client_auth, "1.3.6.1.5.5.7.3.2"),
            (usage.code_signing, "1.3.6.1.5.5.7.3.3"),
            (usage.email_protection, "1.3.6.1.5.5.7.3.4"),
            (usage.time_stamping, "1.3.6.1.5.5.7.3.8"),
            (usage.ocsp_signing, "1.3.6.1.5.5.7.3.9"),
        ];
        let named = named.into_iter().filter(|(set, _)| *set).map(|(_, oid)| oid.to_owned());
        named
            .chain(usage.other.iter().map(name::dotted))
            .map(ExtendedKeyUsage::from_dotted)
            .collect()
    }))
}

fn blocks(x509: &X509Certificate<'_>) -> Result<Option<AddressBlocks>, Malformed> {
    let mut found = x509
        .extensions()
        .iter()
        .filter(|extension| name::dotted(&extension.oid) == address_blocks::OID);
    let Some(extension) = found.next() else { return Ok(None) };
    if found.next().is_some() {
        return Err(in_extension("address blocks (RFC 3779)", &"there twice"));
    }
    AddressBlocks::decode(extension.value)
        .map(Some)
        .map_err(|error| in_extension("address blocks (RFC 3779)", &error))
}

/// Without the sign octet of a DER INTEGER.
fn serial(raw: &[u8]) -> String {
    match raw {
        [0, number @ ..] if !number.is_empty() => crate::hex(number),
        _ => crate::hex(raw),
    }
}

/// Before 1970 counts as 1970.
pub(crate) fn unix_time(time: ASN1Time) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(time.timestamp().try_into().unwrap_or(0)))
}

/// It names, it protects nothing.
fn sha1(bytes: &[u8]) -> [u8; 20] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, bytes);
    let mut hash = [0; 20];
    hash.copy_from_slice(digest.as_ref());
    hash
}

fn sha256(octets: &[u8]) -> [u8; 32] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, octets);
    let mut fingerprint = [0; 32];
    fingerprint.copy_from_slice(digest.as_ref());
    fingerprint
}
