//! Judging a peer's chain: path and validity by rustls-webpki, what it leaves out by us.

use std::cell::RefCell;
use std::collections::BTreeSet;

use ipnet::IpNet;
use rustls_pki_types::{
    CertificateDer, CertificateRevocationListDer, SignatureVerificationAlgorithm, TrustAnchor,
    UnixTime,
};
use webpki::{
    CertRevocationList, EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeIdIter,
    OwnedCertRevocationList, RevocationOptionsBuilder, UnknownStatusPolicy, VerifiedPath,
    aws_lc_rs,
};
use x509_parser::error::X509Error;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use crate::address_blocks;
use crate::certificate::unix_time;
use crate::{
    Certificate, ExtendedKeyUsagePolicy, KeyUsage, KeyUsagePolicy, LoadError, Refusal, name,
};

/// Certificates that a peer may send: its own, six CAs below the root (rustls-webpki's limit), and
/// the root.
pub(crate) const MAX_CHAIN: usize = 8;

/// Signatures in certificates and revocation lists.
static ALGORITHMS: &[&dyn SignatureVerificationAlgorithm] = &[
    aws_lc_rs::ECDSA_P256_SHA256,
    aws_lc_rs::ECDSA_P256_SHA384,
    aws_lc_rs::ECDSA_P256_SHA512,
    aws_lc_rs::ECDSA_P384_SHA256,
    aws_lc_rs::ECDSA_P384_SHA384,
    aws_lc_rs::ECDSA_P384_SHA512,
    aws_lc_rs::ED25519,
    aws_lc_rs::RSA_PKCS1_2048_8192_SHA256,
    aws_lc_rs::RSA_PKCS1_2048_8192_SHA384,
    aws_lc_rs::RSA_PKCS1_2048_8192_SHA512,
    aws_lc_rs::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
    aws_lc_rs::RSA_PSS_2048_8192_SHA384_LEGACY_KEY,
    aws_lc_rs::RSA_PSS_2048_8192_SHA512_LEGACY_KEY,
];

/// What a peer's certificate has to say of the use of its key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// Key usage; by default `digitalSignature`.
    pub key_usage: KeyUsagePolicy,
    /// Extended key usage; by default nothing is asked for.
    pub extended_key_usage: ExtendedKeyUsagePolicy,
}

/// A revocation list that is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevocationList {
    /// The CA (RFC 4514).
    pub issuer: String,
    /// When it was made.
    pub this_update: UnixTime,
    /// When its successor is due. A list that is overdue still counts; only warn of it.
    pub next_update: Option<UnixTime>,
}

/// Judges chains against trust anchors, revocation lists and a [`Policy`]. Has no clock: the time is
/// an argument.
#[derive(Debug)]
pub struct Verifier {
    trust: Vec<TrustAnchor<'static>>,
    /// The same trust anchors, read.
    anchors: Vec<Certificate>,
    crls: Vec<CertRevocationList<'static>>,
    revocation_lists: Vec<RevocationList>,
    policy: Policy,
}

impl Verifier {
    /// [`Certificate::key_hash`] of every trust anchor.
    pub fn key_hashes(&self) -> impl Iterator<Item = [u8; 20]> + '_ {
        self.anchors.iter().map(|anchor| anchor.key_hash)
    }

    /// With trust anchors (at least one, each a CA) and revocation lists (none: nothing is revoked).
    ///
    /// Of two lists by one CA the newer counts. A list by a CA with the name of a trust anchor must
    /// be signed by it.
    pub fn new(
        anchors: &[CertificateDer<'_>],
        revocation_lists: &[CertificateRevocationListDer<'_>],
        policy: Policy,
    ) -> Result<Self, LoadError> {
        if anchors.is_empty() {
            return Err(LoadError::NoAnchor);
        }
        let mut verifier = Self {
            trust: Vec::new(),
            anchors: Vec::new(),
            crls: Vec::new(),
            revocation_lists: Vec::new(),
            policy,
        };
        for (der, position) in anchors.iter().zip(1..) {
            let malformed = |reason| LoadError::Certificate { position, reason };
            let certificate = Certificate::parse(der).map_err(|error| malformed(error.0))?;
            let trust = webpki::anchor_from_trusted_cert(der)
                .map_err(|error| malformed(error.to_string()))?
                .to_owned();
            if !certificate.is_ca {
                return Err(LoadError::NotACa { position, subject: certificate.identity.subject });
            }
            verifier.trust.push(trust);
            verifier.anchors.push(certificate);
        }
        verifier.add_revocation_lists(anchors, revocation_lists)?;
        Ok(verifier)
    }

    fn add_revocation_lists(
        &mut self,
        anchors: &[CertificateDer<'_>],
        revocation_lists: &[CertificateRevocationListDer<'_>],
    ) -> Result<(), LoadError> {
        let mut read = Vec::new();
        for (der, position) in revocation_lists.iter().zip(1..) {
            let malformed = |reason| LoadError::RevocationList { position, reason };
            let (_, list) = CertificateRevocationList::from_der(der)
                .map_err(|error| malformed(X509Error::from(error).to_string()))?;
            if !signed_by_namesake(&list, anchors) {
                return Err(malformed(format!(
                    "not signed by the key of the trusted CA \"{}\"",
                    name::rfc4514(list.issuer())
                )));
            }
            let owned = OwnedCertRevocationList::from_der(der)
                .map_err(|error| malformed(error.to_string()))?;
            let summary = RevocationList {
                issuer: name::rfc4514(list.issuer()),
                this_update: unix_time(list.last_update()),
                next_update: list.next_update().map(unix_time),
            };
            read.push((summary, CertRevocationList::from(owned)));
        }
        // rustls-webpki asks the first list that fits.
        read.sort_by_key(|(summary, _)| std::cmp::Reverse(summary.this_update));
        (self.revocation_lists, self.crls) = read.into_iter().unzip();
        Ok(())
    }

    /// The trust anchors.
    pub fn anchors(&self) -> &[Certificate] {
        &self.anchors
    }

    /// The revocation lists.
    pub fn revocation_lists(&self) -> &[RevocationList] {
        &self.revocation_lists
    }

    /// Judges a chain in DER: the peer's own certificate first, CAs after it in any order.
    ///
    /// Proves that a CA of ours vouches for the certificate; that the peer has its key is for the
    /// caller to prove.
    pub fn verify<C: AsRef<[u8]>>(
        &self,
        chain: &[C],
        now: UnixTime,
    ) -> Result<Certificate, Refusal> {
        if chain.is_empty() {
            return Err(Refusal::NoCertificate);
        }
        if chain.len() > MAX_CHAIN {
            return Err(Refusal::TooMany { count: chain.len() });
        }
        let read = chain
            .iter()
            .zip(1..)
            .map(|(der, position)| {
                Certificate::parse(der.as_ref())
                    .map_err(|error| Refusal::Malformed { position, reason: error.0 })
            })
            .collect::<Result<Vec<_>, _>>()?;
        let ders: Vec<_> = chain.iter().map(|der| CertificateDer::from(der.as_ref())).collect();

        let explain = |error| self.explain(&error, &read, now);
        let end_entity = EndEntityCert::try_from(&ders[0]).map_err(explain)?;
        let crls: Vec<_> = self.crls.iter().collect();
        let revocation = RevocationOptionsBuilder::new(&crls)
            .ok()
            .map(|builder| builder.with_status_policy(UnknownStatusPolicy::Allow).build());
        // Our own judgement of a path that rustls-webpki finds good. When it is bad, the search
        // goes on, since another path may be better.
        let judgement = RefCell::new(None);
        let judge = |path: &VerifiedPath<'_>| {
            let judged = self.judge_path(path, &read, now);
            let result = if judged.is_ok() { Ok(()) } else { Err(webpki::Error::UnknownIssuer) };
            judgement.replace(Some(judged));
            result
        };
        let found = end_entity
            .verify_for_usage(
                ALGORITHMS,
                &self.trust,
                &ders[1..],
                now,
                LeaveToPolicy,
                revocation,
                Some(&judge),
            )
            .map(|_| ());
        let held_by_issuer = match (judgement.into_inner(), found) {
            (Some(judged), _) => judged?,
            (None, Err(error)) => return Err(explain(error)),
            // Every path that rustls-webpki accepts has been judged.
            (None, Ok(())) => return Err(explain(webpki::Error::UnknownIssuer)),
        };

        let mut certificate = read.into_iter().next().ok_or(Refusal::NoCertificate)?;
        certificate.resolve(&held_by_issuer.unwrap_or_default());
        self.judge_usage(&certificate)?;
        Ok(certificate)
    }

    fn judge_usage(&self, certificate: &Certificate) -> Result<(), Refusal> {
        let Policy { key_usage, extended_key_usage } = &self.policy;
        if !key_usage.allows(certificate.key_usage) {
            return Err(Refusal::KeyUsage {
                actual: certificate.key_usage,
                needed: key_usage.masks.clone(),
            });
        }
        if !extended_key_usage.allows(certificate.extended_key_usage.as_deref()) {
            return Err(self.extended_key_usage_refusal(certificate));
        }
        Ok(())
    }

    fn extended_key_usage_refusal(&self, certificate: &Certificate) -> Refusal {
        Refusal::ExtendedKeyUsage {
            subject: certificate.identity.subject.clone(),
            actual: certificate.extended_key_usage.clone(),
            needed: self.policy.extended_key_usage.any_of.clone(),
        }
    }

    /// What rustls-webpki leaves out: the validity of the trust anchor, key usage and extended key
    /// usage of CAs, and address blocks. Gives the blocks that the issuer of the end entity holds;
    /// `None` where no CA above it says.
    fn judge_path(
        &self,
        path: &VerifiedPath<'_>,
        chain: &[Certificate],
        now: UnixTime,
    ) -> Result<Option<BTreeSet<IpNet>>, Refusal> {
        let mut anchors = self.trust.iter().zip(&self.anchors);
        let Some((_, anchor)) = anchors.find(|(trust, _)| *trust == path.anchor()) else {
            return Err(self.unknown_issuer(chain));
        };
        check_validity(anchor, now)?;
        check_can_sign(anchor)?;
        let mut issuer = anchor.clone();
        let mut held = narrow(&issuer, &issuer, None)?;
        for ca in path.intermediate_certificates().rev() {
            let ca = Certificate::parse(&ca.der()).map_err(|error| Refusal::Path {
                subject: chain[0].identity.subject.clone(),
                reason: format!("a CA certificate of its chain is malformed: {error}"),
            })?;
            check_can_sign(&ca)?;
            if !self.policy.extended_key_usage.allows_ca(ca.extended_key_usage.as_deref()) {
                return Err(self.extended_key_usage_refusal(&ca));
            }
            held = narrow(&ca, &issuer, held)?;
            issuer = ca;
        }
        narrow(&chain[0], &issuer, held.clone())?;
        Ok(held)
    }

    /// Our words for an error of rustls-webpki, which does not say whose certificate it means.
    fn explain(&self, error: &webpki::Error, chain: &[Certificate], now: UnixTime) -> Refusal {
        use webpki::Error;
        let subject = chain[0].identity.subject.clone();
        let out_of_date =
            || chain.iter().find_map(|certificate| check_validity(certificate, now).err());
        let path =
            |reason: &str| Refusal::Path { subject: subject.clone(), reason: reason.to_owned() };
        let malformed = || Refusal::Malformed { position: 1, reason: error.to_string() };
        match error {
            Error::CertExpired { .. } | Error::CertNotValidYet { .. } => {
                out_of_date().unwrap_or_else(malformed)
            }
            Error::UnknownIssuer => self.unknown_issuer(chain),
            Error::InvalidSignatureForPublicKey => {
                let top = self.top(chain);
                Refusal::NotSignedByIssuer {
                    subject: top.identity.subject.clone(),
                    issuer: top.issuer.clone(),
                }
            }
            Error::CertRevoked => Refusal::Revoked { subject, serial: chain[0].serial.clone() },
            Error::UnsupportedCriticalExtension => chain
                .iter()
                .find_map(|certificate| {
                    Some(Refusal::CriticalExtension {
                        subject: certificate.identity.subject.clone(),
                        oid: certificate.unknown_critical.first()?.clone(),
                    })
                })
                .unwrap_or_else(malformed),
            Error::CaUsedAsEndEntity => {
                path("it is the certificate of a CA; a node needs one that is not (CA:FALSE)")
            }
            Error::EndEntityUsedAsCa => {
                path("the certificate that signed it is not the certificate of a CA (CA:TRUE)")
            }
            Error::PathLenConstraintViolated => {
                path("a CA above it may not have this many CAs below (path length)")
            }
            Error::NameConstraintViolation => path(
                "it has a name or an address that a CA above it may not give (name constraints)",
            ),
            Error::InvalidCrlSignatureForPublicKey => {
                path("the revocation list of a CA above it is not signed by that CA's key")
            }
            Error::IssuerNotCrlSigner => {
                path("the key usage of a CA above it does not allow its revocation list (cRLSign)")
            }
            Error::UnsupportedSignatureAlgorithmContext(_)
            | Error::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => path(
                "it, or a CA above it, is signed with an algorithm that is not accepted here; use \
                 ECDSA with P-256 or P-384, Ed25519, or RSA of 2048 bits or more, with SHA-2",
            ),
            Error::MaximumPathDepthExceeded
            | Error::MaximumPathBuildCallsExceeded
            | Error::MaximumSignatureChecksExceeded
            | Error::MaximumNameConstraintComparisonsExceeded => {
                path("its chain is too long or too tangled")
            }
            _ => malformed(),
        }
    }

    fn unknown_issuer(&self, chain: &[Certificate]) -> Refusal {
        let top = self.top(chain);
        Refusal::UnknownIssuer {
            subject: top.identity.subject.clone(),
            issuer: top.issuer.clone(),
            trusted: self.anchors.iter().map(|anchor| anchor.identity.subject.clone()).collect(),
        }
    }

    /// Follows the names upwards, to a certificate that names a trust anchor or nobody of the chain.
    fn top<'c>(&self, chain: &'c [Certificate]) -> &'c Certificate {
        let mut top = &chain[0];
        for _ in chain {
            let trusted = self.anchors.iter().any(|anchor| anchor.identity.subject == top.issuer);
            let above = chain.iter().find(|above| above.identity.subject == top.issuer);
            match above {
                Some(above) if !trusted => top = above,
                _ => break,
            }
        }
        top
    }
}

/// Extended key usage is judged by [`ExtendedKeyUsagePolicy`], which knows lists; rustls-webpki
/// knows one purpose.
///
/// [`ExtendedKeyUsagePolicy`]: crate::ExtendedKeyUsagePolicy
struct LeaveToPolicy;

impl ExtendedKeyUsageValidator for LeaveToPolicy {
    fn validate(&self, _: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        Ok(())
    }
}

fn check_validity(certificate: &Certificate, now: UnixTime) -> Result<(), Refusal> {
    let Certificate { not_before, not_after, .. } = *certificate;
    let subject = || certificate.identity.subject.clone();
    if now > not_after {
        return Err(Refusal::Expired { subject: subject(), not_after, now });
    }
    if now < not_before {
        return Err(Refusal::NotYetValid { subject: subject(), not_before, now });
    }
    Ok(())
}

/// RFC 5280 §6.1.4 (n).
fn check_can_sign(ca: &Certificate) -> Result<(), Refusal> {
    match ca.key_usage {
        Some(actual) if !actual.contains(KeyUsage::KEY_CERT_SIGN) => {
            Err(Refusal::CannotSign { subject: ca.identity.subject.clone(), actual })
        }
        _ => Ok(()),
    }
}

/// RFC 3779 §2.3, one step down a path: what `certificate` holds when those above it hold `held`.
/// A CA without the extension limits nothing, and passes on what stands above it.
fn narrow(
    certificate: &Certificate,
    issuer: &Certificate,
    held: Option<BTreeSet<IpNet>>,
) -> Result<Option<BTreeSet<IpNet>>, Refusal> {
    let Some(blocks) = &certificate.address_blocks else { return Ok(held) };
    let Some(held) = held else { return Ok(Some(blocks.prefixes())) };
    let own = blocks.resolve(&held);
    if let Some(prefix) = address_blocks::not_covered(&held, &own) {
        return Err(Refusal::AddressNotHeld {
            subject: certificate.identity.subject.clone(),
            prefix,
            issuer: issuer.identity.subject.clone(),
        });
    }
    Ok(Some(own))
}

/// False where a trust anchor has the name of the list's issuer, and none with that name signed it.
fn signed_by_namesake(
    list: &CertificateRevocationList<'_>,
    anchors: &[CertificateDer<'_>],
) -> bool {
    let namesakes: Vec<_> = anchors
        .iter()
        .filter_map(|der| x509_parser::parse_x509_certificate(der).ok())
        .filter(|(_, anchor)| anchor.subject().as_raw() == list.issuer().as_raw())
        .map(|(_, anchor)| list.verify_signature(anchor.public_key()))
        .collect();
    // An algorithm that x509-parser does not know is left to rustls-webpki.
    namesakes.is_empty()
        || namesakes.iter().any(|verified| *verified != Err(X509Error::SignatureVerificationError))
}
