//! Who is it: the identification, certificate and AUTH payloads of IKE_AUTH (RFC 7296 §2.15,
//! RFC 7427), with certificates or a pre-shared key.
//!
//! An initiator proves itself with the key that it shares with the peer, if there is one for that
//! address or no certificate, else with its certificate. A responder answers a shared key with
//! the same key, and a certificate with its own.

use aws_lc_rs::constant_time;

use crate::crypto::signature::{self, Signed};
use crate::intermediate::IntAuth;
use crate::psk;
use crate::sa::Handshake;
use crate::wire::payload::encode_identity;
use crate::wire::{NotifyType, Payload};
use crate::{Credentials, Identity, Refusal};

/// AUTH method "shared key message integrity code" (RFC 7296 §3.8).
const SHARED_KEY: u8 = 2;
/// How that is called.
const SHARED_KEY_NAME: &str = "pre-shared key";
/// Certificates that we look at; a path is never that long.
const MAX_CERTIFICATES: usize = 10;
/// With the rest they must be shorter than [`crate::fragment::LONGEST_WHOLE`].
const MAX_CERTIFICATES_LEN: usize = 28 * 1024;

/// Somebody who has proven to be who he says.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) identity: Identity,
    /// None where it has a pre-shared key.
    pub(crate) certificates: Vec<Vec<u8>>,
    /// How it has proven it.
    pub(crate) method: &'static str,
}

impl Peer {
    fn has_shared_key(&self) -> bool {
        self.certificates.is_empty()
    }
}

/// Our own ID, CERT and AUTH payloads.
pub(crate) struct Proof {
    pub(crate) payloads: Vec<Payload>,
    /// How we prove it.
    pub(crate) method: &'static str,
}

/// Why IKE_AUTH failed: what the peer is told, and whom it said to be.
#[derive(Debug)]
pub(crate) struct Denial {
    pub(crate) notify: NotifyType,
    pub(crate) data: Vec<u8>,
    pub(crate) identity: Option<Identity>,
    pub(crate) reason: Refusal,
    /// The fault is ours: the peer needs no details.
    pub(crate) own_fault: bool,
}

impl Denial {
    pub(crate) fn new(notify: NotifyType, identity: Option<Identity>, reason: Refusal) -> Self {
        Self { notify, data: Vec::new(), identity, reason, own_fault: false }
    }
}

impl Handshake {
    /// What the AUTH of one side covers (RFC 7296 §2.15): its IKE_SA_INIT message, the other's
    /// nonce, its identity under a key that only the two know, and IKE_INTERMEDIATE (RFC 9242 §3.3.2).
    fn signed_octets(&self, initiator: bool, identity: &Identity) -> Vec<u8> {
        let (message, nonce, key) = if initiator {
            (&self.init_request, &self.responder_nonce, &self.sk_pi)
        } else {
            (&self.init_response, &self.initiator_nonce, &self.sk_pr)
        };
        let identity = self.suite.prf.compute(key, &[&encode_identity(identity)]);
        let int_auth = self.int_auth.as_ref().map(IntAuth::octets).unwrap_or_default();
        [&message[..], nonce, &identity, &int_auth].concat()
    }

    /// Proves who we are; to `peer`, of a responder.
    pub(crate) fn own_proof(
        &self,
        credentials: &dyn Credentials,
        peer: Option<&Peer>,
    ) -> Result<Proof, Refusal> {
        let initiator = peer.is_none();
        let identity = credentials.identity();
        let octets = self.signed_octets(initiator, &identity);
        let certificates = credentials.certificates();
        let key = match peer {
            None => credentials.shared_key(None),
            Some(peer) if peer.has_shared_key() || certificates.is_empty() => {
                credentials.shared_key(Some(&peer.identity))
            }
            Some(_) => None,
        };
        let id = if initiator { Payload::IdInitiator } else { Payload::IdResponder };
        let mut payloads = vec![id(identity)];
        if let Some(key) = key {
            let data = psk::authentication(self.suite.prf, &key, &octets).to_vec();
            payloads.push(Payload::Authentication { method: SHARED_KEY, data });
            return Ok(Proof { payloads, method: SHARED_KEY_NAME });
        }
        let leaf = certificates.first().ok_or_else(|| {
            Refusal("we have no certificate, and no key that we share with this peer".into())
        })?;
        if certificates.iter().map(Vec::len).sum::<usize>() > MAX_CERTIFICATES_LEN {
            return Err(Refusal("own certificates are longer than 28 KiB".into()));
        }
        let private_key = credentials.private_key();
        let signed = signature::sign(leaf, &private_key, &self.peer_hashes, &octets)?;
        payloads.extend(
            certificates
                .into_iter()
                .map(|data| Payload::Certificate { encoding: Payload::X509_SIGNATURE, data }),
        );
        if initiator {
            payloads.extend(request_certificate(credentials));
        }
        let Signed { method, data, name } = signed;
        payloads.push(Payload::Authentication { method, data });
        Ok(Proof { payloads, method: name })
    }

    /// Judges the peer; `initiator` if the peer is it.
    pub(crate) fn check_proof(
        &self,
        initiator: bool,
        payloads: &[Payload],
        credentials: &dyn Credentials,
    ) -> Result<Peer, Denial> {
        let identity = payloads.iter().find_map(|payload| match payload {
            Payload::IdInitiator(identity) if initiator => Some(identity),
            Payload::IdResponder(identity) if !initiator => Some(identity),
            _ => None,
        });
        let deny = |reason: Refusal| {
            Denial::new(NotifyType::AUTHENTICATION_FAILED, identity.cloned(), reason)
        };
        let refuse = |words: &str| deny(Refusal(words.to_owned()));
        let identity = identity.ok_or_else(|| refuse("peer names no identity"))?;
        let (method, data) = payloads
            .iter()
            .find_map(|payload| match payload {
                Payload::Authentication { method, data } => Some((*method, data)),
                _ => None,
            })
            .ok_or_else(|| refuse("peer sends no AUTH"))?;
        let octets = self.signed_octets(initiator, identity);
        if method == SHARED_KEY {
            let right = credentials.shared_key(Some(identity)).is_some_and(|key| {
                let ours = psk::authentication(self.suite.prf, &key, &octets);
                constant_time::verify_slices_are_equal(&ours, data).is_ok()
            });
            if !right {
                // The same words for both: nobody finds out who has a key.
                return Err(deny(Refusal(format!(
                    "no pre-shared key is configured for {identity}, or it is another there"
                ))));
            }
            credentials.authenticate(identity, &[]).map_err(deny)?;
            let (identity, certificates) = (identity.clone(), Vec::new());
            return Ok(Peer { identity, certificates, method: SHARED_KEY_NAME });
        }
        if !signature::knows(method) {
            return Err(refuse(&format!(
                "peer authenticates with method {method}; we know digital signatures (14, RFC \
                 7427), RSA (1), ECDSA (9, 10) and pre-shared keys (2)"
            )));
        }
        let certificates: Vec<Vec<u8>> = payloads
            .iter()
            .filter_map(|payload| match payload {
                Payload::Certificate { encoding: Payload::X509_SIGNATURE, data } => Some(data),
                _ => None,
            })
            .take(MAX_CERTIFICATES)
            .cloned()
            .collect();
        let leaf = certificates.first().ok_or_else(|| refuse("peer sends no certificate"))?;
        credentials.authenticate(identity, &certificates).map_err(deny)?;
        let method = signature::verify(leaf, method, data, &octets).map_err(deny)?;
        Ok(Peer { identity: identity.clone(), certificates, method })
    }
}

/// CERTREQ for X.509 (RFC 7296 §3.7): the keys of our trust anchors by their hashes, so that a peer
/// with several certificates knows which to send. `None` where we take none.
pub(crate) fn request_certificate(credentials: &dyn Credentials) -> Option<Payload> {
    let authorities = credentials.authorities()?.concat();
    Some(Payload::CertificateRequest { encoding: Payload::X509_SIGNATURE, authorities })
}
