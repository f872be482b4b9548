//! Identification payloads (RFC 7296 §3.5), and how people write them.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use x509_parser::prelude::FromDer;
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

use crate::private;

/// Identification payload (RFC 7296 §3.5): ID type and data.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    /// ID type: 1 IPv4, 2 FQDN, 3 RFC 822, 5 IPv6, 9 DER distinguished name, 11 key id.
    pub kind: u8,
    /// Its data.
    pub data: Vec<u8>,
}

impl Identity {
    /// ID_IPV4_ADDR.
    pub const IPV4: u8 = 1;
    /// ID_FQDN.
    pub const FQDN: u8 = 2;
    /// ID_RFC822_ADDR.
    pub const RFC822: u8 = 3;
    /// ID_IPV6_ADDR.
    pub const IPV6: u8 = 5;
    /// ID_DER_ASN1_DN.
    pub const DISTINGUISHED_NAME: u8 = 9;
    /// ID_KEY_ID.
    pub const KEY_ID: u8 = 11;

    /// Of an address.
    pub fn address(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self { kind: Self::IPV4, data: address.octets().into() },
            IpAddr::V6(address) => Self { kind: Self::IPV6, data: address.octets().into() },
        }
    }

    /// Whether both name the same: DNS names and distinguished names have no case, and the latter
    /// can be encoded in several ways (RFC 5280 §7.1).
    pub fn is(&self, other: &Self) -> bool {
        let (a, b) = (&self.data, &other.data);
        let same = match self.kind {
            Self::FQDN | Self::RFC822 => a.eq_ignore_ascii_case(b),
            Self::DISTINGUISHED_NAME => {
                a == b || attributes(a).is_some_and(|n| Some(n) == attributes(b))
            }
            _ => a == b,
        };
        same && self.kind == other.kind
    }
}

/// One attribute: its type, and its value without case and superfluous space where it is text.
type Attribute = (String, Vec<u8>);

/// The sets of attributes that a distinguished name is made of.
fn attributes(name: &[u8]) -> Option<Vec<BTreeSet<Attribute>>> {
    let (rest, name) = X509Name::from_der(name).ok()?;
    let comparable = |attribute: &AttributeTypeAndValue<'_>| {
        let value = match attribute.as_str() {
            Ok(text) => {
                let words: Vec<&str> = text.split_whitespace().collect();
                words.join(" ").to_lowercase().into_bytes()
            }
            Err(_) => attribute.as_slice().to_vec(),
        };
        (attribute.attr_type().to_id_string(), value)
    };
    let sets = name.iter_rdn().map(|set| set.iter().map(comparable).collect());
    rest.is_empty().then(|| sets.collect())
}

/// Before the octets of a key id.
const KEY_ID: &str = "keyid:";
/// And where those are no text.
const HEX: &str = "0x";

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.kind, &self.data[..]) {
            (Self::IPV4, &[a, b, c, d]) => Ipv4Addr::new(a, b, c, d).fmt(f),
            (Self::IPV6, data) if data.len() == 16 => {
                let mut octets = [0; 16];
                octets.copy_from_slice(data);
                Ipv6Addr::from(octets).fmt(f)
            }
            (Self::FQDN | Self::RFC822, data) => f.write_str(&private::printable(data)),
            (Self::DISTINGUISHED_NAME, data) => match X509Name::from_der(data) {
                Ok((_, name)) => f.write_str(&private::printable(name.to_string().as_bytes())),
                Err(_) => write!(f, "a distinguished name of {} bytes", data.len()),
            },
            (kind, data) => {
                if kind == Self::KEY_ID {
                    f.write_str(KEY_ID)?;
                } else {
                    write!(f, "ID type {kind} ")?;
                }
                let plain = data.iter().all(u8::is_ascii_graphic) && !data.starts_with(b"0x");
                if kind == Self::KEY_ID && plain {
                    return f.write_str(&private::printable(data));
                }
                f.write_str(HEX)?;
                data.iter().take(private::MAX_REASON).try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    }
}

/// Why words are no identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a DNS name, an IP address, user@domain or keyid:TEXT, found \"{0}\"")]
pub struct NotAnIdentity(pub String);

/// `hub.example.net`, `192.0.2.1`, `2001:db8::1`, `user@example.net`, `keyid:office-7`,
/// `keyid:0x00ff`. A distinguished name comes from a certificate and is not written here.
impl FromStr for Identity {
    type Err = NotAnIdentity;

    fn from_str(text: &str) -> Result<Self, NotAnIdentity> {
        let refuse = || NotAnIdentity(text.to_owned());
        if let Ok(address) = text.parse() {
            return Ok(Self::address(address));
        }
        if let Some(id) = text.strip_prefix(KEY_ID) {
            let data = match id.strip_prefix(HEX) {
                Some(digits) => crate::psk::hex(digits).ok_or_else(refuse)?.to_vec(),
                None => id.into(),
            };
            return if data.is_empty() {
                Err(refuse())
            } else {
                Ok(Self { kind: Self::KEY_ID, data })
            };
        }
        let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        let (user, host) = match text.split_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, text),
        };
        let bad_user = user.is_some_and(|user| !user.chars().all(|c| c.is_ascii_graphic()));
        if host.is_empty() || !host.chars().all(word) || user == Some("") || bad_user {
            return Err(refuse());
        }
        let kind = if user.is_some() { Self::RFC822 } else { Self::FQDN };
        Ok(Self { kind, data: text.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc7296_3_5_identities_as_people_write_them() {
        for (text, kind, data) in [
            ("hub.example.net", 2, &b"hub.example.net"[..]),
            ("192.0.2.1", 1, &[192, 0, 2, 1]),
            ("::1", 5, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
            ("me@example.net", 3, b"me@example.net"),
            ("keyid:office-7", 11, b"office-7"),
            ("keyid:0x00ff", 11, &[0, 0xff]),
        ] {
            let identity: Identity = text.parse().unwrap();
            assert_eq!((identity.kind, &identity.data[..]), (kind, data), "{text}");
            assert_eq!(identity.to_string(), text);
        }
        for text in ["", "CN=hub", "a b", "keyid:", "keyid:0x0", "@x", "x@", "keyid:0xzz"] {
            assert_eq!(text.parse::<Identity>(), Err(NotAnIdentity(text.into())));
        }
    }

    #[test]
    fn rfc5280_7_1_distinguished_names_are_compared_by_what_they_say() {
        // CN=…, as UTF8String (12) or PrintableString (19).
        let name = |kind: u8, text: &str| {
            let value = [&[kind, text.len() as u8], text.as_bytes()].concat();
            let attribute = [&[6, 3, 0x55, 4, 3][..], &value].concat();
            let sequence = [&[0x30, attribute.len() as u8][..], &attribute].concat();
            let set = [&[0x31, sequence.len() as u8][..], &sequence].concat();
            let data = [&[0x30, set.len() as u8][..], &set].concat();
            Identity { kind: Identity::DISTINGUISHED_NAME, data }
        };
        let hub = name(12, "Hub of Example");
        assert_eq!(hub.to_string(), "CN=Hub of Example");
        assert!(hub.is(&name(19, "Hub of Example")));
        assert!(hub.is(&name(12, " hub  OF example ")));
        assert!(!hub.is(&name(12, "Hub of Examples")));
        assert!(!hub.is(&name(12, "HubofExample")));
        let broken = |octets: &[u8]| Identity { kind: 9, data: octets.to_vec() };
        assert!(!broken(b"a").is(&broken(b"A")) && broken(b"a").is(&broken(b"a")));
    }

    #[test]
    fn names_have_no_case_and_other_identities_do() {
        let parse = |text: &str| text.parse::<Identity>().unwrap();
        assert!(parse("Hub.Example.NET").is(&parse("hub.example.net")));
        assert!(!parse("keyid:A").is(&parse("keyid:a")));
        assert!(!parse("192.0.2.1").is(&Identity { kind: 2, data: b"192.0.2.1".into() }));
    }
}
