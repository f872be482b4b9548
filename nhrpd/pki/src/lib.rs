//! Certificates: path building, the key-usage mask rule, extended key usage, identity, and the
//! tunnel addresses and prefixes that a certificate allows. [`authority`] is a small CA.
//!
//! Pure: octets and the time come in as arguments. [`Verifier`] judges a peer's chain and gives a
//! [`Certificate`] or a [`Refusal`]; [`Credential`] is a node's own chain and key.

mod address_blocks;
pub mod authority;
mod certificate;
mod der;
mod extended_key_usage;
mod key_usage;
mod load;
mod name;
mod refusal;
mod request;
mod verifier;

use std::fmt::Write as _;

pub use address_blocks::{AddressBlocks, AddressBlocksError, Addresses, MAX_PREFIXES};
pub use certificate::{Certificate, Identity, Malformed};
pub use der::Error as DerError;
pub use extended_key_usage::{ExtendedKeyUsage, ExtendedKeyUsageError, ExtendedKeyUsagePolicy};
pub use key_usage::{KeyUsage, KeyUsageError, KeyUsageMask, KeyUsagePolicy};
pub use load::{Credential, KeyType, LoadError, PrivateKey, certificates, revocation_lists};
pub use name::distinguished_name;
pub use refusal::Refusal;
pub use request::{PublicKey, SigningRequest, signing_request};
pub use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
pub use verifier::{Policy, RevocationList, Verifier};

/// What a certificate gets that lacks an extension which a rule asks about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Absent {
    /// It passes that rule.
    Allow,
    /// It is refused.
    #[default]
    Refuse,
}

/// A time as people read it: `2026-11-21 20:10:05 UTC`.
pub fn utc(time: UnixTime) -> String {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    let Ok(time) = x509_parser::time::ASN1Time::from_timestamp(seconds) else {
        return format!("{seconds} seconds after 1970");
    };
    let time = time.to_datetime();
    let (date, clock) = (time.to_calendar_date(), time.to_hms());
    format!(
        "{:04}-{:02}-{:02} {:02}:{:02}:{:02} UTC",
        date.0,
        u8::from(date.1),
        date.2,
        clock.0,
        clock.1,
        clock.2
    )
}

fn hex(octets: &[u8]) -> String {
    octets.iter().fold(String::with_capacity(2 * octets.len()), |mut text, octet| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{octet:02x}");
        text
    })
}

/// A certificate in PEM.
pub fn certificate_pem(der: &CertificateDer<'_>) -> String {
    pem("CERTIFICATE", der)
}

/// A revocation list in PEM.
pub fn revocation_list_pem(der: &CertificateRevocationListDer<'_>) -> String {
    pem("X509 CRL", der)
}

fn pem(label: &str, der: &[u8]) -> String {
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new(label, der), config)
}
