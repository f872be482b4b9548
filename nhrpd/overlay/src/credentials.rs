//! Own credentials and the judgement of others': where IKEv2 meets certificates and pre-shared
//! keys.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use ike::psk::SharedKeys;
use ike::{Identity, Refusal};
use ipnet::IpNet;
use nhrp::engine::{Authorization, Nbma};
use pki::{Certificate, Credential, UnixTime, Verifier};
use zeroize::Zeroizing;

use crate::config::{Config, Trust};
use crate::forwarding;
use crate::session::{self, Proof, Sessions};

/// What proves us, and what others are judged by: certificates, pre-shared keys or both.
#[derive(Debug)]
pub struct Credentials {
    certificates: Option<Certificates>,
    keys: SharedKeys,
    /// Of ours, instead of the certificate's first.
    identity: Option<Identity>,
}

#[derive(Debug)]
struct Certificates {
    own: Credential,
    verifier: Verifier,
}

impl Credentials {
    /// Own certificate chain and key, and what others' are judged by.
    pub fn new(own: Credential, verifier: Verifier) -> Self {
        let certificates = Some(Certificates { own, verifier });
        Self { certificates, keys: SharedKeys::default(), identity: None }
    }

    /// Pre-shared keys only.
    pub fn shared(identity: Identity, keys: SharedKeys) -> Self {
        Self { certificates: None, keys, identity: Some(identity) }
    }

    /// These keys, too.
    pub fn with_keys(self, keys: SharedKeys) -> Self {
        Self { keys, ..self }
    }

    /// This name of the certificate instead of its first.
    ///
    /// # Errors
    /// The certificate does not have it.
    pub fn with_identity(self, identity: Identity) -> Result<Self, Refusal> {
        if let Some(certificate) = self.certificate()
            && !names(&certificate.identity).iter().any(|name| name.is(&identity))
        {
            return Err(Refusal(format!(
                "our certificate is for {} and does not name {identity}",
                certificate.identity
            )));
        }
        Ok(Self { identity: Some(identity), ..self })
    }

    /// Own certificate.
    pub fn certificate(&self) -> Option<&Certificate> {
        self.certificates.as_ref().map(|certificates| certificates.own.certificate())
    }

    /// What others' certificates are judged by.
    pub fn verifier(&self) -> Option<&Verifier> {
        self.certificates.as_ref().map(|certificates| &certificates.verifier)
    }

    /// Who we say we are.
    pub fn identity(&self) -> Identity {
        let named = || self.certificate().map(|own| names(&own.identity).swap_remove(0));
        let nobody = || Identity { kind: Identity::KEY_ID, data: Vec::new() };
        self.identity.clone().or_else(named).unwrap_or_else(nobody)
    }

    /// Who we say we are, in words.
    pub fn name(&self) -> String {
        match self.certificate().filter(|_| self.identity.is_none()) {
            Some(certificate) => certificate.identity.to_string(),
            None => self.identity().to_string(),
        }
    }

    /// Whether the own certificate and what leads from it to the CA are the same, and the own name.
    pub(crate) fn same_chain(&self, other: &Self) -> bool {
        self.chain() == other.chain() && self.identity == other.identity
    }

    fn chain(&self) -> Vec<Vec<u8>> {
        let chain = self.certificates.iter().flat_map(|certificates| certificates.own.chain());
        chain.map(|der| der.to_vec()).collect()
    }

    /// What a peer with the same rules would say of our own certificate.
    pub fn verify_own(&self, wall: SystemTime) -> Result<(), pki::Refusal> {
        match &self.certificates {
            Some(Certificates { own, verifier }) => {
                verifier.verify(own.chain(), unix_time(wall)).map(drop)
            }
            None => Ok(()),
        }
    }

    /// Name of a peer whose chain is good, or that has proven a pre-shared key, and what it may
    /// claim; or why its chain is not good.
    pub(crate) fn claims(
        &self,
        identity: &Identity,
        chain: &[Vec<u8>],
        config: &Config,
        wall: SystemTime,
    ) -> Result<(String, Authorization), String> {
        if chain.is_empty() {
            if self.keys.of(identity).is_none() {
                return Err(format!("there is no pre-shared key for {identity} any more"));
            }
            let name = identity.to_string();
            let authorization = grant(BTreeSet::new(), &[name.as_str()], config);
            return Ok((name, authorization));
        }
        let certificate = self.verify(chain, wall)?;
        Ok((certificate.identity.to_string(), authorization(&certificate, config)))
    }

    fn verify(&self, chain: &[Vec<u8>], wall: SystemTime) -> Result<Certificate, String> {
        let certificates = self.certificates.as_ref().ok_or(
            "has a certificate, but there are pre-shared keys only here: no `ca` is configured",
        )?;
        let verdict = certificates.verifier.verify(chain, unix_time(wall));
        verdict.map_err(|refusal| refusal.to_string())
    }

    /// What our own certificate allows us, in words.
    pub(crate) fn allowance(&self, config: &Config) -> String {
        match self.certificate() {
            Some(certificate) => {
                session::allowance(&authorization(certificate, config), Proof::Certificate)
            }
            None => format!("we are {}; the server's `accept` has to name us", self.name()),
        }
    }
}

/// What a certificate and the configuration allow together.
fn authorization(certificate: &Certificate, config: &Config) -> Authorization {
    let names = certificate.identity.names();
    let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
    grant(certificate.allowed.clone(), &names, config)
}

/// What somebody with these names may claim beyond `allowed`.
fn grant(mut allowed: BTreeSet<IpNet>, names: &[&str], config: &Config) -> Authorization {
    if config.trust == Trust::Any {
        return Authorization::Any;
    }
    for accept in &config.accept {
        if accept.identity == "*" || names.contains(&accept.identity.as_str()) {
            allowed.extend(accept.prefixes.iter().copied());
        }
    }
    Authorization::Within(allowed.into_iter().collect())
}

fn unix_time(wall: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(wall.duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// Every identification that a certificate bears out, the one that we send ourselves first: the
/// subject, or without one the first name of subjectAltName. Two nodes with one name would take
/// each other's place.
fn names(identity: &pki::Identity) -> Vec<Identity> {
    let subject =
        Identity { kind: Identity::DISTINGUISHED_NAME, data: identity.subject_der.clone() };
    let dns =
        identity.dns.iter().map(|dns| Identity { kind: Identity::FQDN, data: dns.clone().into() });
    let addresses = identity.addresses.iter().map(|&address| Identity::address(address));
    let emails = identity
        .emails
        .iter()
        .map(|email| Identity { kind: Identity::RFC822, data: email.clone().into() });
    let mut names: Vec<Identity> = dns.chain(addresses).chain(emails).collect();
    let place = if identity.subject.is_empty() { names.len() } else { 0 };
    names.insert(place, subject);
    names
}

/// An identification payload in words.
pub(crate) fn describe(identity: &Identity) -> String {
    if identity.kind == Identity::DISTINGUISHED_NAME {
        return pki::distinguished_name(&identity.data)
            .unwrap_or_else(|| "an unreadable distinguished name".to_owned());
    }
    identity.to_string()
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
        self.credentials.identity()
    }

    fn certificates(&self) -> Vec<Vec<u8>> {
        self.credentials.chain()
    }

    fn private_key(&self) -> Zeroizing<Vec<u8>> {
        let own = self.credentials.certificates.as_ref();
        own.map(|certificates| certificates.own.key().pkcs8().clone()).unwrap_or_default()
    }

    /// A peer that has not said who it is gets the key with its address, if there is one; without
    /// a certificate of our own also that for everybody.
    fn shared_key(&self, peer: Option<&Identity>) -> Option<Zeroizing<Vec<u8>>> {
        let keys = &self.credentials.keys;
        let stranger = || {
            let alone = self.credentials.certificates.is_none();
            keys.named(&Identity::address(self.nbma.address))
                .or_else(|| keys.of_stranger().filter(|_| alone))
        };
        peer.map_or_else(stranger, |peer| keys.of(peer)).cloned()
    }

    fn authorities(&self) -> Option<Vec<[u8; 20]>> {
        let certificates = self.credentials.certificates.as_ref()?;
        Some(certificates.verifier.key_hashes().collect())
    }

    /// The identity must be one that the certificate names (RFC 7296 §4, RFC 4945 §3.1); at the
    /// address of a next-hop server nobody else may stand; and there must be room.
    fn authenticate(&self, identity: &Identity, chain: &[Vec<u8>]) -> Result<(), Refusal> {
        if !chain.is_empty() {
            let certificate = self.credentials.verify(chain, self.wall).map_err(Refusal)?;
            if !names(&certificate.identity).iter().any(|name| name.is(identity)) {
                return Err(Refusal(format!(
                    "says it is {}, but its certificate is for {}",
                    describe(identity),
                    certificate.identity
                )));
            }
        }
        let (name, authorization) =
            self.credentials.claims(identity, chain, self.config, self.wall).map_err(Refusal)?;
        let proof = Proof::of(chain);
        let impersonates = forwarding::impersonates(self.servers, self.nbma, &authorization, proof);
        if let Some(reason) = impersonates {
            return Err(Refusal(format!("{name} {reason}")));
        }
        // Who has a session may have another: the successor comes before the end of the first.
        let known = || self.sessions.named(&name).next().is_some();
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
        assert_eq!(names(&named)[0].kind, Identity::DISTINGUISHED_NAME);
        assert_eq!(named.to_string(), "CN=spoke1");
        let unnamed = identity("", &["spoke1.example.net"], &["172.16.0.2"]);
        assert_eq!(names(&unnamed)[0].kind, Identity::FQDN);
        assert_eq!(unnamed.to_string(), "spoke1.example.net");
        let bare = identity("", &[], &["172.16.0.2"]);
        assert_eq!(names(&bare)[0], Identity { kind: Identity::IPV4, data: vec![172, 16, 0, 2] });
        assert_eq!(bare.to_string(), "172.16.0.2");
    }

    #[test]
    fn certificate_bears_out_its_own_names_only() {
        let named = identity("CN=spoke1", &["spoke1.example.net"], &[]);
        let bears_out = |kind, data: &[u8]| {
            let said = Identity { kind, data: data.to_vec() };
            names(&named).iter().any(|name| name.is(&said))
        };
        assert!(bears_out(Identity::FQDN, b"Spoke1.Example.NET"));
        assert!(!bears_out(Identity::FQDN, b"spoke2.example.net"));
        assert!(!bears_out(Identity::IPV4, &[172, 16, 0, 2]));
    }
}
