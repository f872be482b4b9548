//! Why a peer's certificate is refused, in words that an operator can act on.

use std::fmt;

use ipnet::IpNet;
use rustls_pki_types::UnixTime;

use crate::{ExtendedKeyUsage, KeyUsage, KeyUsageMask, utc};

/// Why a certificate is refused. Shown without a capital and without a full stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The peer sent none.
    NoCertificate,
    /// More certificates than a chain has.
    TooMany {
        /// How many came.
        count: usize,
    },
    /// It cannot be read.
    Malformed {
        /// Place in the chain: 1 is the peer's own.
        position: usize,
        /// What is wrong.
        reason: String,
    },
    /// Its time is over.
    Expired {
        /// Whose.
        subject: String,
        /// The last second of its life.
        not_after: UnixTime,
        /// When it was judged.
        now: UnixTime,
    },
    /// Its time has not come.
    NotYetValid {
        /// Whose.
        subject: String,
        /// The first second of its life.
        not_before: UnixTime,
        /// When it was judged.
        now: UnixTime,
    },
    /// No trust anchor of ours stands at the end of its chain.
    UnknownIssuer {
        /// The last one of the chain that was found.
        subject: String,
        /// Who issued that one.
        issuer: String,
        /// Our trust anchors.
        trusted: Vec<String>,
    },
    /// It names a CA of ours, whose key has not signed it.
    NotSignedByIssuer {
        /// Whose.
        subject: String,
        /// The CA that it names.
        issuer: String,
    },
    /// On the revocation list of its CA.
    Revoked {
        /// The peer's own certificate, which is revoked or stands below one that is.
        subject: String,
        /// Its serial number.
        serial: String,
    },
    /// No mask of the configuration is satisfied.
    KeyUsage {
        /// What the certificate has; `None` without the extension.
        actual: Option<KeyUsage>,
        /// One of these would do.
        needed: Vec<KeyUsageMask>,
    },
    /// No extended key usage of the configuration is there.
    ExtendedKeyUsage {
        /// Whose.
        subject: String,
        /// What the certificate has; `None` without the extension.
        actual: Option<Vec<ExtendedKeyUsage>>,
        /// One of these would do.
        needed: Vec<ExtendedKeyUsage>,
    },
    /// A critical extension that we do not process (RFC 5280 §4.2).
    CriticalExtension {
        /// Whose.
        subject: String,
        /// Object identifier.
        oid: String,
    },
    /// An address block that its issuer does not hold (RFC 3779 §2.3).
    AddressNotHeld {
        /// Whose.
        subject: String,
        /// The first such block.
        prefix: IpNet,
        /// The issuer.
        issuer: String,
    },
    /// A CA of the chain may not sign certificates (keyUsage without keyCertSign).
    CannotSign {
        /// The CA.
        subject: String,
        /// Its key usage.
        actual: KeyUsage,
    },
    /// A rule of RFC 5280 about paths is broken.
    Path {
        /// Whose path.
        subject: String,
        /// Which rule, in words.
        reason: String,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCertificate => {
                f.write_str("the peer sent no certificate; does it authenticate by other means?")
            }
            Self::TooMany { count } => write!(
                f,
                "the peer sent {count} certificates; a chain has at most {}",
                crate::verifier::MAX_CHAIN
            ),
            Self::Malformed { position: 1, reason } => {
                write!(f, "certificate is malformed: {reason}")
            }
            Self::Malformed { position, reason } => {
                write!(f, "certificate {position} of the chain is malformed: {reason}")
            }
            Self::Expired { subject, not_after, now } => write!(
                f,
                "certificate of {} expired at {}, {} ago; issue a new one",
                Quoted(subject),
                utc(*not_after),
                Span(not_after, now)
            ),
            Self::NotYetValid { subject, not_before, now } => write!(
                f,
                "certificate of {} is valid from {} on, in {}; compare the clocks of this node and \
                 of the one that issued it",
                Quoted(subject),
                utc(*not_before),
                Span(now, not_before)
            ),
            Self::UnknownIssuer { subject, issuer, trusted } => {
                write!(
                    f,
                    "certificate of {} was issued by another CA, {}; trusted here: ",
                    Quoted(subject),
                    Quoted(issuer)
                )?;
                list(f, trusted.iter().map(|name| Quoted(name)), ", ")
            }
            Self::NotSignedByIssuer { subject, issuer } => write!(
                f,
                "certificate of {} names the CA {}, but the key of the CA trusted here has not signed \
                 it; was the CA made anew under the same name?",
                Quoted(subject),
                Quoted(issuer)
            ),
            Self::Revoked { subject, serial } => write!(
                f,
                "certificate of {} (serial {serial}), or a CA above it, is revoked",
                Quoted(subject)
            ),
            Self::KeyUsage { actual, needed } => {
                match actual {
                    Some(actual) => write!(f, "certificate has key usage {actual}; needs ")?,
                    None => f.write_str("certificate has no key usage; needs ")?,
                }
                list(f, needed.iter().map(|mask| AllOf(*mask)), " or ")
            }
            Self::ExtendedKeyUsage { subject, actual, needed } => {
                write!(f, "certificate of {} has ", Quoted(subject))?;
                match actual {
                    Some(actual) => {
                        f.write_str("extended key usage ")?;
                        list(f, actual.iter(), ", ")?;
                    }
                    None => f.write_str("no extended key usage")?,
                }
                f.write_str("; needs ")?;
                if needed.is_empty() { f.write_str("any") } else { list(f, needed.iter(), " or ") }
            }
            Self::CriticalExtension { subject, oid } => {
                write!(f, "certificate of {} has critical extension {oid}", Quoted(subject))?;
                if oid == crate::address_blocks::OID {
                    f.write_str(
                        " (address blocks, RFC 3779), which path validation refuses; issue it with \
                         that extension not critical",
                    )
                } else {
                    f.write_str(", which is unknown here; issue it without, or not critical")
                }
            }
            Self::AddressNotHeld { subject, prefix, issuer } => write!(
                f,
                "certificate of {} has address block {prefix}, which its issuer {} does not hold",
                Quoted(subject),
                Quoted(issuer)
            ),
            Self::CannotSign { subject, actual } => write!(
                f,
                "CA certificate of {} has key usage {actual}; needs all of {}",
                Quoted(subject),
                KeyUsage::KEY_CERT_SIGN
            ),
            Self::Path { subject, reason } => {
                write!(f, "certificate of {}: {reason}", Quoted(subject))
            }
        }
    }
}

impl std::error::Error for Refusal {}

fn list<T: fmt::Display>(
    f: &mut fmt::Formatter<'_>,
    items: impl Iterator<Item = T>,
    between: &str,
) -> fmt::Result {
    let mut none = true;
    for item in items {
        if !none {
            f.write_str(between)?;
        }
        none = false;
        item.fmt(f)?;
    }
    if none { f.write_str("none") } else { Ok(()) }
}

struct AllOf(KeyUsageMask);

impl fmt::Display for AllOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "all of {}", self.0)
    }
}

/// A name from a certificate: anybody can write a long one.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LONGEST: usize = 200;
        match self.0.char_indices().nth(LONGEST) {
            None => write!(f, "\"{}\"", self.0),
            Some((end, _)) => write!(f, "\"{}…\"", &self.0[..end]),
        }
    }
}

/// A time span as a person says it.
struct Span<'a>(&'a UnixTime, &'a UnixTime);

impl fmt::Display for Span<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.1.as_secs().saturating_sub(self.0.as_secs());
        let (count, unit) = match seconds {
            0..120 => (seconds, "second"),
            120..7_200 => (seconds / 60, "minute"),
            7_200..172_800 => (seconds / 3_600, "hour"),
            _ => (seconds / 86_400, "day"),
        };
        write!(f, "{count} {unit}{}", if count == 1 { "" } else { "s" })
    }
}
