//! Extended key usage (RFC 5280 §4.2.1.12): object identifiers and the rule over them.

use std::fmt;
use std::str::FromStr;

use crate::Absent;

/// The purposes that have a name here.
const NAMES: [(&str, &str); 12] = [
    ("1.3.6.1.5.5.7.3.1", "serverAuth"),
    ("1.3.6.1.5.5.7.3.2", "clientAuth"),
    ("1.3.6.1.5.5.7.3.3", "codeSigning"),
    ("1.3.6.1.5.5.7.3.4", "emailProtection"),
    ("1.3.6.1.5.5.7.3.5", "ipsecEndSystem"),
    ("1.3.6.1.5.5.7.3.6", "ipsecTunnel"),
    ("1.3.6.1.5.5.7.3.7", "ipsecUser"),
    ("1.3.6.1.5.5.7.3.8", "timeStamping"),
    ("1.3.6.1.5.5.7.3.9", "OCSPSigning"),
    // RFC 4945 §5.1.3.12
    ("1.3.6.1.5.5.7.3.17", "ipsecIKE"),
    ("1.3.6.1.5.5.8.2.2", "ipsecIKEIntermediate"),
    (ANY, "anyExtendedKeyUsage"),
];

const ANY: &str = "2.5.29.37.0";

/// One extended key usage: an object identifier, shown by its name where it has a known one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExtendedKeyUsage(String);

impl ExtendedKeyUsage {
    /// From the dotted form that x509-parser gives.
    pub(crate) fn from_dotted(dotted: String) -> Self {
        Self(dotted)
    }

    /// `anyExtendedKeyUsage`: in a CA certificate, no restriction (RFC 5280 §4.2.1.12).
    pub(crate) fn is_any(&self) -> bool {
        self.0 == ANY
    }

    /// Dotted decimal.
    pub fn oid(&self) -> &str {
        &self.0
    }

    /// The name, where it has one here.
    pub fn name(&self) -> Option<&'static str> {
        NAMES.iter().find(|(oid, _)| *oid == self.0).map(|(_, name)| *name)
    }
}

impl fmt::Display for ExtendedKeyUsage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name().unwrap_or(&self.0))
    }
}

impl FromStr for ExtendedKeyUsage {
    type Err = ExtendedKeyUsageError;

    /// A known name, or an object identifier in dotted decimal.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let named = NAMES.iter().find(|(_, name)| name.eq_ignore_ascii_case(text));
        match named {
            Some((oid, _)) => Ok(Self((*oid).to_owned())),
            None if arcs(text).is_some() => Ok(Self(text.to_owned())),
            None => Err(ExtendedKeyUsageError(text.to_owned())),
        }
    }
}

/// The arcs of an object identifier (X.660: the first is 0 to 2, the second below 40 under 0 and 1).
pub(crate) fn arcs(dotted: &str) -> Option<Vec<u64>> {
    let arcs: Vec<u64> = dotted
        .split('.')
        .map(|arc| {
            let canonical = arc == "0" || !arc.starts_with(['0', '+']);
            if canonical { arc.parse().ok() } else { None }
        })
        .collect::<Option<_>>()?;
    match arcs[..] {
        [0 | 1, second, ..] if second < 40 => Some(arcs),
        [2, second, ..] if second < u64::MAX - 80 => Some(arcs),
        _ => None,
    }
}

/// Neither a known name nor an object identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" is no extended key usage; give an object identifier such as 1.3.6.1.5.5.7.3.17, or one \
     of {names}",
    names = known_names()
)]
pub struct ExtendedKeyUsageError(String);

fn known_names() -> String {
    NAMES.map(|(_, name)| name).join(", ")
}

/// The rule for extended key usage: any of a list. An empty list asks for nothing.
///
/// CA certificates on the path may have the extension too; then it must name one of the list or
/// `anyExtendedKeyUsage`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtendedKeyUsagePolicy {
    /// One of these is enough. Each counts as written: `anyExtendedKeyUsage` in a node's
    /// certificate satisfies only a list that names it.
    pub any_of: Vec<ExtendedKeyUsage>,
    /// What a certificate without the extension gets.
    pub absent: Absent,
}

impl Default for ExtendedKeyUsagePolicy {
    fn default() -> Self {
        Self { any_of: Vec::new(), absent: Absent::Allow }
    }
}

impl ExtendedKeyUsagePolicy {
    /// Judges the extended key usages of a node's certificate; `None` where it has no such
    /// extension.
    pub fn allows(&self, present: Option<&[ExtendedKeyUsage]>) -> bool {
        match present {
            Some(present) => {
                self.any_of.is_empty() || present.iter().any(|usage| self.any_of.contains(usage))
            }
            None => self.absent == Absent::Allow,
        }
    }

    /// Judges a CA certificate on the path.
    pub(crate) fn allows_ca(&self, present: Option<&[ExtendedKeyUsage]>) -> bool {
        let Some(present) = present else { return true };
        present.iter().any(ExtendedKeyUsage::is_any) || self.allows(Some(present))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(names: &[&str]) -> Vec<ExtendedKeyUsage> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    #[test]
    fn names_and_object_identifiers_are_the_same() {
        assert_eq!(list(&["ipsecIKE"]), list(&["1.3.6.1.5.5.7.3.17"]));
        assert_eq!(list(&["SERVERAUTH"])[0].to_string(), "serverAuth");
        assert_eq!(list(&["1.2.3"])[0].to_string(), "1.2.3");
    }

    #[test]
    fn what_is_neither_is_refused() {
        for text in ["", "serverauthh", "1", "3.1", "1.40", "1.2.", "1.02", "1.+2", "1.2.x"] {
            let error = text.parse::<ExtendedKeyUsage>().unwrap_err().to_string();
            assert!(error.contains("ipsecIKE"), "{text}: {error}");
        }
    }

    #[test]
    fn any_of_the_list_is_enough() {
        let policy = ExtendedKeyUsagePolicy {
            any_of: list(&["serverAuth", "ipsecIKE"]),
            absent: Absent::Refuse,
        };
        assert!(policy.allows(Some(&list(&["clientAuth", "ipsecIKE"]))));
        assert!(policy.allows(Some(&list(&["serverAuth"]))));
        assert!(!policy.allows(Some(&list(&["clientAuth"]))));
        assert!(!policy.allows(Some(&list(&["anyExtendedKeyUsage"]))));
        assert!(!policy.allows(None));
        assert!(ExtendedKeyUsagePolicy { absent: Absent::Allow, ..policy }.allows(None));
    }

    #[test]
    fn empty_list_asks_for_nothing() {
        let policy = ExtendedKeyUsagePolicy::default();
        assert!(policy.allows(None));
        assert!(policy.allows(Some(&list(&["codeSigning"]))));
    }

    #[test]
    fn a_ca_is_restricted_only_by_what_it_says() {
        let policy = ExtendedKeyUsagePolicy { any_of: list(&["ipsecIKE"]), absent: Absent::Refuse };
        assert!(policy.allows_ca(None));
        assert!(policy.allows_ca(Some(&list(&["anyExtendedKeyUsage"]))));
        assert!(policy.allows_ca(Some(&list(&["ipsecIKE"]))));
        assert!(!policy.allows_ca(Some(&list(&["clientAuth"]))));
    }
}
