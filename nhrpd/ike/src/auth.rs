//! Who is it: the identification, certificate and AUTH payloads of IKE_AUTH (RFC 7296 §2.15,
//! RFC 7427).

use crate::crypto::signature;
use crate::intermediate::IntAuth;
use crate::sa::Handshake;
use crate::wire::payload::encode_identity;
use crate::wire::{NotifyType, Payload};
use crate::{Credentials, Identity, Refusal};

/// AUTH method "digital signature" (RFC 7427 §3).
const DIGITAL_SIGNATURE: u8 = 14;
/// Certificates that we look at; a path is never that long.
const MAX_CERTIFICATES: usize = 10;
/// With the rest they must be shorter than [`crate::fragment::LONGEST_WHOLE`].
const MAX_CERTIFICATES_LEN: usize = 28 * 1024;

/// Somebody who has proven to be who he says.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) identity: Identity,
    pub(crate) certificates: Vec<Vec<u8>>,
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

    /// ID, CERT and AUTH payloads of ours.
    pub(crate) fn own_proof(
        &self,
        initiator: bool,
        credentials: &dyn Credentials,
    ) -> Result<Vec<Payload>, Refusal> {
        let identity = credentials.identity();
        let certificates = credentials.certificates();
        let leaf = certificates.first().ok_or_else(|| Refusal("we have no certificate".into()))?;
        if certificates.iter().map(Vec::len).sum::<usize>() > MAX_CERTIFICATES_LEN {
            return Err(Refusal("own certificates are longer than 28 KiB".into()));
        }
        let octets = self.signed_octets(initiator, &identity);
        let private_key = credentials.private_key();
        let data = signature::sign(leaf, &private_key, &self.peer_hashes, &octets)?;
        let id = if initiator { Payload::IdInitiator } else { Payload::IdResponder };
        let mut payloads = vec![id(identity)];
        payloads.extend(
            certificates
                .into_iter()
                .map(|data| Payload::Certificate { encoding: Payload::X509_SIGNATURE, data }),
        );
        if initiator {
            payloads.push(any_authority());
        }
        payloads.push(Payload::Authentication { method: DIGITAL_SIGNATURE, data });
        Ok(payloads)
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
        let (method, data) = payloads
            .iter()
            .find_map(|payload| match payload {
                Payload::Authentication { method, data } => Some((*method, data)),
                _ => None,
            })
            .ok_or_else(|| refuse("peer sends no AUTH"))?;
        if method != DIGITAL_SIGNATURE {
            return Err(refuse(&format!(
                "peer authenticates with method {method}; we know digital signatures (14, RFC 7427)"
            )));
        }
        credentials.authenticate(identity, &certificates).map_err(deny)?;
        let octets = self.signed_octets(initiator, identity);
        signature::verify(leaf, data, &octets).map_err(deny)?;
        Ok(Peer { identity: identity.clone(), certificates })
    }
}

/// CERTREQ for X.509, whoever issued it: the certificate that is sent is judged, not asked for.
pub(crate) fn any_authority() -> Payload {
    Payload::CertificateRequest { encoding: Payload::X509_SIGNATURE, authorities: Vec::new() }
}
