//! A CA with fixed times, and certificates that are wrong in one way each.

use std::collections::BTreeSet;
use std::time::Duration;

use ipnet::IpNet;
use pki::authority::{Authority, Issued, Request, Serial, Validity};
use pki::{
    Certificate, CertificateDer, CertificateRevocationListDer, KeyType, Policy, Refusal, UnixTime,
    Verifier,
};

pub(crate) const DAY: u64 = 86_400;
/// 2026-11-21 00:00:00 UTC.
pub(crate) const NOW: u64 = 1_795_219_200;

pub(crate) fn at(seconds: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

/// From ten days ago for a year.
pub(crate) fn year() -> Validity {
    Validity { not_before: at(NOW - 10 * DAY), not_after: at(NOW + 355 * DAY) }
}

pub(crate) fn serial(number: u8) -> Serial {
    Serial::new([number; 16])
}

pub(crate) fn ca(name: &str) -> Authority {
    Authority::create(name, KeyType::P256, year(), serial(0)).unwrap()
}

pub(crate) fn spoke() -> Request {
    Request {
        addresses: vec!["172.16.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
        prefixes: nets(&["192.168.2.0/24", "2001:db8:2::/48"]),
        dns: vec!["Spoke1.Example.net".to_owned()],
        ..Request::new("spoke1", year())
    }
}

pub(crate) fn nets(prefixes: &[&str]) -> BTreeSet<IpNet> {
    prefixes.iter().map(|prefix| prefix.parse().unwrap()).collect()
}

pub(crate) fn issue(ca: &Authority, request: &Request) -> Issued {
    ca.issue(request, KeyType::P256, serial(1)).unwrap()
}

pub(crate) fn verifier(ca: &Authority) -> Verifier {
    with_policy(ca, Policy::default())
}

pub(crate) fn with_policy(ca: &Authority, policy: Policy) -> Verifier {
    Verifier::new(&[ca.certificate_der().clone()], &[], policy).unwrap()
}

pub(crate) fn with_list(ca: &Authority, list: CertificateRevocationListDer<'_>) -> Verifier {
    Verifier::new(&[ca.certificate_der().clone()], &[list], Policy::default()).unwrap()
}

pub(crate) fn verify(
    verifier: &Verifier,
    chain: &[CertificateDer<'_>],
) -> Result<Certificate, Refusal> {
    verifier.verify(chain, at(NOW))
}

/// Certificates that [`Authority`] does not make: CAs below the root, odd extensions.
pub(crate) mod odd {
    use pki::authority::Authority;
    use pki::{CertificateDer, UnixTime};
    use rcgen::{
        BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    };

    /// A certificate and a key that may sign others.
    pub(crate) struct Signer {
        pub(crate) certificate: CertificateDer<'static>,
        pub(crate) key: KeyPair,
    }

    impl Signer {
        pub(crate) fn root(ca: &Authority) -> Self {
            let key = KeyPair::try_from(&rcgen_key(ca)).unwrap();
            Self { certificate: ca.certificate_der().clone(), key }
        }

        pub(crate) fn sign(&self, params: &CertificateParams) -> Self {
            let key = KeyPair::generate().unwrap();
            let issuer = Issuer::from_ca_cert_der(&self.certificate, &self.key).unwrap();
            Self { certificate: params.signed_by(&key, &issuer).unwrap().into(), key }
        }

        pub(crate) fn authority(&self) -> Authority {
            let key = pem(&self.key);
            Authority::from_pem(pki::certificate_pem(&self.certificate).as_bytes(), key.as_bytes())
                .unwrap()
        }
    }

    fn pem(key: &KeyPair) -> String {
        let key = pki::PrivateKey::from_pkcs8(key.serialize_der().into()).unwrap();
        key.to_pem().to_string()
    }

    fn rcgen_key(ca: &Authority) -> rustls_pki_types::PrivatePkcs8KeyDer<'_> {
        ca.key().pkcs8().as_slice().into()
    }

    pub(crate) fn node(name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        let moment = |time: UnixTime| {
            let seconds = i64::try_from(time.as_secs()).unwrap();
            x509_parser::time::ASN1Time::from_timestamp(seconds).unwrap().to_datetime()
        };
        params.not_before = moment(super::year().not_before);
        params.not_after = moment(super::year().not_after);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params
    }

    pub(crate) fn ca(name: &str) -> CertificateParams {
        let mut params = node(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
    }
}
