//! A certificate as people read it, and as JSON.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::Path;

use anyhow::Context as _;
use ipnet::IpNet;
use pki::{Addresses, Certificate, UnixTime};
use serde::Serialize;

use super::store;

/// What a certificate says.
#[derive(Debug, Serialize)]
pub(super) struct Description {
    subject: String,
    issuer: String,
    serial: String,
    dns: Vec<String>,
    addresses: Vec<IpAddr>,
    emails: Vec<String>,
    /// RFC 3779 address blocks.
    prefixes: Vec<IpNet>,
    /// Address families whose blocks are the issuer's (RFC 3779 `inherit`).
    inherited_prefixes: Vec<&'static str>,
    /// `null` without the extension.
    key_usage: Option<KeyUsage>,
    /// `null` without the extension.
    extended_key_usage: Option<Vec<String>>,
    ca: bool,
    /// Critical extensions for which nhrpd refuses the certificate.
    refused_critical_extensions: Vec<String>,
    not_before: String,
    not_after: String,
    /// Negative: expired since.
    seconds_left: i64,
    sha256: String,
    #[serde(skip)]
    validity: String,
}

#[derive(Debug, Serialize)]
struct KeyUsage {
    bits: String,
    names: Vec<&'static str>,
    #[serde(skip)]
    text: String,
}

impl Description {
    pub(super) fn new(certificate: &Certificate, now: UnixTime) -> Self {
        let identity = &certificate.identity;
        let blocks = certificate.address_blocks.clone().unwrap_or_default();
        let inherited = [("ipv4", blocks.ipv4), ("ipv6", blocks.ipv6)];
        Self {
            subject: identity.subject.clone(),
            issuer: certificate.issuer.clone(),
            serial: certificate.serial.clone(),
            dns: identity.dns.clone(),
            addresses: identity.addresses.clone(),
            emails: identity.emails.clone(),
            prefixes: certificate.prefixes().iter().copied().collect(),
            inherited_prefixes: inherited
                .into_iter()
                .filter(|(_, addresses)| *addresses == Some(Addresses::Inherit))
                .map(|(family, _)| family)
                .collect(),
            key_usage: certificate.key_usage.map(|usage| KeyUsage {
                bits: format!("{:#04x}", usage.bits()),
                names: usage.names().collect(),
                text: usage.to_string(),
            }),
            extended_key_usage: certificate
                .extended_key_usage
                .as_ref()
                .map(|usages| usages.iter().map(ToString::to_string).collect()),
            ca: certificate.is_ca,
            refused_critical_extensions: certificate.unknown_critical.clone(),
            not_before: instant(certificate.not_before),
            not_after: instant(certificate.not_after),
            seconds_left: seconds(certificate.not_after) - seconds(now),
            sha256: certificate.fingerprint.map(|octet| format!("{octet:02X}")).join(":"),
            validity: validity(certificate, now),
        }
    }

    pub(super) fn text(&self) -> String {
        let words = |list: &[String]| list.join(", ");
        let addresses: Vec<_> = self.addresses.iter().map(ToString::to_string).collect();
        let mut prefixes: Vec<_> = self.prefixes.iter().map(ToString::to_string).collect();
        prefixes
            .extend(self.inherited_prefixes.iter().map(|family| format!("{family} of the issuer")));
        let key_usage = match &self.key_usage {
            Some(usage) => usage.text.clone(),
            None if self.ca => "none".to_owned(),
            None => "none: nhrpd refuses it by default".to_owned(),
        };
        let rows = [
            ("Subject", Some(self.subject.clone())),
            ("Issuer", Some(self.issuer.clone())),
            ("CA", self.ca.then(|| "yes".to_owned())),
            ("Addresses", present(words(&addresses))),
            ("Prefixes", present(words(&prefixes))),
            ("DNS names", present(words(&self.dns))),
            ("E-mail", present(words(&self.emails))),
            ("Key usage", Some(key_usage)),
            ("Extended key usage", self.extended_key_usage.as_deref().map(words)),
            (
                "Refused for",
                present(words(&self.refused_critical_extensions))
                    .map(|extensions| format!("critical extension {extensions}")),
            ),
            ("Validity", Some(self.validity.clone())),
            ("Serial", Some(self.serial.clone())),
            ("SHA-256", Some(self.sha256.clone())),
        ];
        rows.into_iter().fold(String::new(), |mut text, (key, value)| {
            if let Some(value) = value {
                // Writing to a String cannot fail.
                let _ = writeln!(text, "{key:<19} {value}");
            }
            text
        })
    }
}

fn present(text: String) -> Option<String> {
    if text.is_empty() { None } else { Some(text) }
}

/// The certificates in a file.
pub(super) fn file(path: &Path, now: UnixTime) -> anyhow::Result<Vec<Description>> {
    let name = || path.display().to_string();
    let ders = pki::certificates(&store::read(path)?).with_context(name)?;
    ders.iter()
        .map(|der| {
            let certificate = Certificate::parse(der).with_context(name)?;
            Ok(Description::new(&certificate, now))
        })
        .collect()
}

/// RFC 3339: `2026-11-21T20:10:05Z`.
pub(super) fn instant(time: UnixTime) -> String {
    pki::utc(time).replacen(' ', "T", 1).replace(" UTC", "Z")
}

fn validity(certificate: &Certificate, now: UnixTime) -> String {
    let (from, to) = (certificate.not_before, certificate.not_after);
    let days = |from: UnixTime, to: UnixTime| {
        let days = to.as_secs().saturating_sub(from.as_secs()) / 86_400;
        format!("{days} day{}", if days == 1 { "" } else { "s" })
    };
    let state = if now > to {
        format!("expired {} ago", days(to, now))
    } else if now < from {
        format!("not valid for another {}", days(now, from))
    } else {
        format!("{} left", days(now, to))
    };
    format!("{} to {} ({state})", pki::utc(from), pki::utc(to))
}

fn seconds(time: UnixTime) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}
