//! Own credentials and the judgement of others': where IKEv2 meets the certificates.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use ike::{Identity, Refusal};
use nhrp::engine::{Authorization, Nbma};
use pki::{Certificate, Credential, UnixTime, Verifier};
use zeroize::Zeroizing;

use crate::config::{Config, Trust};
use crate::{forwarding, session};

/// ID_FQDN (RFC 7296 §3.5).
const ID_FQDN: u8 = 2;
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
        Ok((certificate.identity.subject.clone(), authorization(&certificate, config)))
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
    pub nbma: Nbma,
    pub wall: SystemTime,
}

impl ike::Credentials for Judge<'_> {
    fn identity(&self) -> Identity {
        let data = self.credentials.own.certificate().identity.subject_der.clone();
        Identity { kind: ID_DER_ASN1_DN, data }
    }

    fn certificates(&self) -> Vec<Vec<u8>> {
        self.credentials.own.chain().iter().map(|der| der.to_vec()).collect()
    }

    fn private_key(&self) -> Zeroizing<Vec<u8>> {
        self.credentials.own.key().pkcs8().clone()
    }

    /// The identity must be one that the certificate names (RFC 7296 §4, RFC 4945 §3.1), and at
    /// the address of a next-hop server nobody else may stand.
    fn authenticate(&self, identity: &Identity, chain: &[Vec<u8>]) -> Result<(), Refusal> {
        let certificate = self
            .credentials
            .verifier
            .verify(chain, unix_time(self.wall))
            .map_err(|refusal| Refusal(refusal.to_string()))?;
        let named = match identity.kind {
            ID_DER_ASN1_DN => identity.data == certificate.identity.subject_der,
            ID_FQDN => certificate
                .identity
                .dns
                .iter()
                .any(|dns| dns.as_bytes().eq_ignore_ascii_case(&identity.data)),
            _ => false,
        };
        if !named {
            return Err(Refusal(format!(
                "says it is {}, but its certificate is for {}",
                describe(identity),
                certificate.identity.subject
            )));
        }
        let authorization = authorization(&certificate, self.config);
        match forwarding::impersonates(self.servers, self.nbma, &authorization) {
            Some(reason) => Err(Refusal(format!("{} {reason}", certificate.identity.subject))),
            None => Ok(()),
        }
    }
}
