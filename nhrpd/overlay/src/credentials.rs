//! Own credentials and the judgement of others': where IKEv2 meets the certificates.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use ike::{Identity, Refusal};
use nhrp::engine::{Authorization, Nbma};
use pki::{Certificate, Credential, UnixTime, Verifier};
use zeroize::Zeroizing;

use crate::config::{Config, Trust};
use crate::forwarding;
use crate::session::{self, Sessions};

/// ID_IPV4_ADDR (RFC 7296 §3.5).
const ID_IPV4_ADDR: u8 = 1;
/// ID_FQDN.
const ID_FQDN: u8 = 2;
/// ID_IPV6_ADDR.
const ID_IPV6_ADDR: u8 = 5;
/// ID_DER_ASN1_DN.
const ID_DER_ASN1_DN: u8 = 9;

/// Own certificate chain and key, and what others' are judged by.
#[derive(Debug)]
pub struct Credentials {
    own: Credential,
    verifier: Verifier,
}

impl Credentials {
    /// Joins them.
    pub fn new(own: Credential, verifier: Verifier) -> Self {
        Self { own, verifier }
    }

    /// Own certificate.
    pub fn certificate(&self) -> &Certificate {
        self.own.certificate()
    }

    /// What others are judged by.
    pub fn verifier(&self) -> &Verifier {
        &self.verifier
    }

    /// Whether the own certificate and what leads from it to the CA are the same.
    pub(crate) fn same_chain(&self, other: &Self) -> bool {
        self.own.chain() == other.own.chain()
    }

    /// What a peer with the same rules would say of our own certificate.
    pub fn verify_own(&self, wall: SystemTime) -> Result<(), pki::Refusal> {
        self.verifier.verify(self.own.chain(), unix_time(wall)).map(drop)
    }

    /// Subject of a chain that is good, and what it may claim; or why it is not good.
    pub(crate) fn claims(
        &self,
        chain: &[Vec<u8>],
        config: &Config,
        wall: SystemTime,
    ) -> Result<(String, Authorization), String> {
        let certificate =
            self.verifier.verify(chain, unix_time(wall)).map_err(|refusal| refusal.to_string())?;
        Ok((certificate.identity.to_string(), authorization(&certificate, config)))
    }

    /// What our own certificate allows us, in words.
    pub(crate) fn allowance(&self, config: &Config) -> String {
        session::allowance(&authorization(self.own.certificate(), config))
    }
}

/// What a certificate and the configuration allow together.
fn authorization(certificate: &Certificate, config: &Config) -> Authorization {
    if config.trust == Trust::Any {
        return Authorization::Any;
    }
    let names = certificate.identity.names();
    let mut allowed = certificate.allowed.clone();
    for accept in &config.accept {
        if accept.identity == "*" || names.contains(&accept.identity) {
            allowed.extend(accept.prefixes.iter().copied());
        }
    }
    Authorization::Within(allowed)
}

fn unix_time(wall: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(wall.duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// Every identification that a certificate bears out, the one that we send ourselves first: the
/// subject, or without one the first name of subjectAltName. Two nodes with one name would take
/// each other's place.
fn names(identity: &pki::Identity) -> Vec<Identity> {
    let subject = Identity { kind: ID_DER_ASN1_DN, data: identity.subject_der.clone() };
    let dns = identity.dns.iter().map(|dns| Identity { kind: ID_FQDN, data: dns.clone().into() });
    let addresses = identity.addresses.iter().map(|address| match address {
        IpAddr::V4(address) => Identity { kind: ID_IPV4_ADDR, data: address.octets().into() },
        IpAddr::V6(address) => Identity { kind: ID_IPV6_ADDR, data: address.octets().into() },
    });
    let mut names: Vec<Identity> = dns.chain(addresses).collect();
    let place = if identity.subject.is_empty() { names.len() } else { 0 };
    names.insert(place, subject);
    names
}

/// DNS names have no case.
fn canonical(identity: &Identity) -> Identity {
    let mut canonical = identity.clone();
    if identity.kind == ID_FQDN {
        canonical.data.make_ascii_lowercase();
    }
    canonical
}

/// An identification payload in words.
pub(crate) fn describe(identity: &Identity) -> String {
    match identity.kind {
        ID_DER_ASN1_DN => pki::distinguished_name(&identity.data)
            .unwrap_or_else(|| "an unreadable distinguished name".to_owned()),
        kind => {
            format!("{} (ID type {kind})", String::from_utf8_lossy(&identity.data).escape_default())
        }
    }
}

/// Credentials at one moment, as IKE asks for them when it talks with `nbma`.
pub(crate) struct Judge<'a> {
    pub credentials: &'a Credentials,
    pub config: &'a Config,
    pub servers: &'a BTreeMap<IpAddr, Nbma>,
    pub sessions: &'a Sessions,
    pub nbma: Nbma,
    pub wall: SystemTime,
}

impl ike::Credentials for Judge<'_> {
    fn identity(&self) -> Identity {
        names(&self.credentials.own.certificate().identity).swap_remove(0)
    }

    fn certificates(&self) -> Vec<Vec<u8>> {
        self.credentials.own.chain().iter().map(|der| der.to_vec()).collect()
    }

    fn private_key(&self) -> Zeroizing<Vec<u8>> {
        self.credentials.own.key().pkcs8().clone()
    }

    /// The identity must be one that the certificate names (RFC 7296 §4, RFC 4945 §3.1); at the
    /// address of a next-hop server nobody else may stand; and there must be room.
    fn authenticate(&self, identity: &Identity, chain: &[Vec<u8>]) -> Result<(), Refusal> {
        let certificate = self
            .credentials
            .verifier
            .verify(chain, unix_time(self.wall))
            .map_err(|refusal| Refusal(refusal.to_string()))?;
        if !names(&certificate.identity).contains(&canonical(identity)) {
            return Err(Refusal(format!(
                "says it is {}, but its certificate is for {}",
                describe(identity),
                certificate.identity
            )));
        }
        let name = certificate.identity.to_string();
        let authorization = authorization(&certificate, self.config);
        if let Some(reason) = forwarding::impersonates(self.servers, self.nbma, &authorization) {
            return Err(Refusal(format!("{name} {reason}")));
        }
        // Who has a session may have another: the successor comes before the end of the first.
        let known = || self.sessions.iter().any(|(_, s)| s.identity.as_ref() == Some(&name));
        if self.sessions.len() >= self.config.sessions && !known() {
            let most = self.config.sessions;
            return Err(Refusal(format!("there are {most} sessions already, and no more allowed")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(subject: &str, dns: &[&str], addresses: &[&str]) -> pki::Identity {
        pki::Identity {
            subject: subject.to_owned(),
            subject_der: subject.as_bytes().to_vec(),
            common_name: None,
            dns: dns.iter().map(|dns| (*dns).to_owned()).collect(),
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            emails: Vec::new(),
        }
    }

    #[test]
    fn subject_names_a_node_and_without_one_its_first_other_name() {
        let named = identity("CN=spoke1", &["spoke1.example.net"], &["172.16.0.2"]);
        assert_eq!(names(&named)[0].kind, ID_DER_ASN1_DN);
        assert_eq!(named.to_string(), "CN=spoke1");
        let unnamed = identity("", &["spoke1.example.net"], &["172.16.0.2"]);
        assert_eq!(names(&unnamed)[0].kind, ID_FQDN);
        assert_eq!(unnamed.to_string(), "spoke1.example.net");
        let bare = identity("", &[], &["172.16.0.2"]);
        assert_eq!(names(&bare)[0], Identity { kind: ID_IPV4_ADDR, data: vec![172, 16, 0, 2] });
        assert_eq!(bare.to_string(), "172.16.0.2");
    }

    #[test]
    fn certificate_bears_out_its_own_names_only() {
        let named = identity("CN=spoke1", &["spoke1.example.net"], &[]);
        let says = |kind, data: &[u8]| canonical(&Identity { kind, data: data.to_vec() });
        assert!(names(&named).contains(&says(ID_FQDN, b"Spoke1.Example.NET")));
        assert!(!names(&named).contains(&says(ID_FQDN, b"spoke2.example.net")));
        assert!(!names(&named).contains(&says(ID_IPV4_ADDR, &[172, 16, 0, 2])));
    }
}
