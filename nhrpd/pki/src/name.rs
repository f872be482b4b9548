//! Distinguished names as text (RFC 4514).

use std::fmt::Write as _;

use x509_parser::asn1_rs::{Oid, Tag};
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

use crate::der;

/// Attribute types with a registered short name (RFC 4514 §3, RFC 4519, RFC 2985).
const ATTRIBUTES: [(&str, &str); 14] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.4", "SN"),
    ("2.5.4.5", "serialNumber"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "STREET"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.12", "title"),
    ("2.5.4.42", "givenName"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
];

/// Longer object identifiers are not written out in decimal: that takes quadratic time, and the
/// name may come from anybody.
const LONGEST_OID: usize = 32;

/// An object identifier in dotted decimal.
pub(crate) fn dotted(oid: &Oid<'_>) -> String {
    let octets = oid.as_bytes();
    if octets.len() > LONGEST_OID {
        return format!("(object identifier of {} octets)", octets.len());
    }
    oid.to_id_string()
}

/// A distinguished name in DER as text (RFC 4514), such as IKE's ID_DER_ASN1_DN carries (RFC 7296
/// §3.5): `CN=spoke1,O=Example`. `None` where it cannot be read.
pub fn distinguished_name(der: &[u8]) -> Option<String> {
    match X509Name::from_der(der) {
        Ok(([], name)) => Some(rfc4514(&name)),
        _ => None,
    }
}

/// The whole name: the last relative name first (RFC 4514 §2.1).
pub(crate) fn rfc4514(name: &X509Name<'_>) -> String {
    let relative: Vec<String> =
        name.iter().map(|rdn| rdn.iter().map(attribute).collect::<Vec<_>>().join("+")).collect();
    relative.into_iter().rev().collect::<Vec<_>>().join(",")
}

/// The most specific common name.
pub(crate) fn common_name(name: &X509Name<'_>) -> Option<String> {
    name.iter_common_name().last().and_then(text)
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let oid = dotted(attribute.attr_type());
    let short = ATTRIBUTES.iter().find(|(known, _)| *known == oid).map(|(_, short)| short);
    match (short, text(attribute)) {
        (Some(short), Some(text)) => format!("{short}={}", escape(&text)),
        _ => {
            // RFC 4514 §2.4: otherwise the encoding in hexadecimal.
            let value = attribute.attr_value();
            let encoding = der::encode(value.tag().0 as u8, value.data);
            format!("{}=#{}", short.map_or(oid.as_str(), |short| short), crate::hex(&encoding))
        }
    }
}

fn text(attribute: &AttributeTypeAndValue<'_>) -> Option<String> {
    let value = attribute.attr_value();
    if value.tag() == Tag::BmpString {
        let units: Vec<u16> = value
            .data
            .chunks(2)
            .map(|unit| unit.iter().fold(0, |all, octet| all << 8 | u16::from(*octet)))
            .collect();
        return String::from_utf16(&units).ok();
    }
    attribute.as_str().ok().map(str::to_owned)
}

/// RFC 4514 §2.4; control characters as well, so that a name cannot write into a terminal.
fn escape(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    let last = value.chars().count().saturating_sub(1);
    for (position, character) in value.chars().enumerate() {
        match character {
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' => {
                escaped.push('\\');
                escaped.push(character);
            }
            ' ' if position == 0 || position == last => escaped.push_str("\\ "),
            '#' if position == 0 => escaped.push_str("\\#"),
            _ if character.is_control() => {
                let mut octets = [0; 4];
                for octet in character.encode_utf8(&mut octets).bytes() {
                    // Writing to a String cannot fail.
                    let _ = write!(escaped, "\\{octet:02x}");
                }
            }
            _ => escaped.push(character),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_characters_are_escaped() {
        assert_eq!(escape("plain"), "plain");
        assert_eq!(escape("Sue, Grabbit and Runn"), "Sue\\, Grabbit and Runn");
        assert_eq!(escape("#1 + <2>"), "\\#1 \\+ \\<2\\>");
        assert_eq!(escape(" x "), "\\ x\\ ");
        assert_eq!(escape("a\u{1b}[2J\u{85}"), "a\\1b[2J\\c2\\85");
        assert_eq!(escape("Lučić"), "Lučić");
    }
}
