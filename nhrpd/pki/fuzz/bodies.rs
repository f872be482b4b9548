//! What each fuzz target does with its bytes. The same bodies run as ordinary, bounded tests in
//! `tests/suite/fuzz_bodies.rs`.
#![allow(unreachable_pub, clippy::unwrap_used)]

use std::sync::LazyLock;
use std::time::Duration;

use pki::authority::{Authority, Request, Serial, Validity};
use pki::{
    AddressBlocks, Certificate, CertificateRevocationListDer, KeyType, MAX_PREFIXES, Policy,
    SigningRequest, UnixTime, Verifier,
};

pub const NOW: u64 = 1_795_219_200;

fn at(seconds: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

/// From the day before [`NOW`] to the day after it.
pub fn validity() -> Validity {
    Validity { not_before: at(NOW - 86_400), not_after: at(NOW + 86_400) }
}

pub static CA: LazyLock<Authority> = LazyLock::new(|| {
    Authority::create("Fuzz CA", KeyType::Ed25519, validity(), Serial::new([0; 16])).unwrap()
});

/// A certificate of the CA, in DER.
pub fn issued() -> Vec<u8> {
    let request = Request {
        addresses: vec!["172.16.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
        prefixes: ["192.168.2.0/24", "2001:db8:2::/48"].map(|p| p.parse().unwrap()).into(),
        dns: vec!["spoke.example.net".to_owned()],
        ..Request::new("spoke", validity())
    };
    CA.issue(&request, KeyType::Ed25519, Serial::new([1; 16])).unwrap().certificate.to_vec()
}

/// What a peer sends as its certificate, alone and with the real CA behind it.
pub fn certificate(bytes: &[u8]) {
    if let Ok(certificate) = Certificate::parse(bytes) {
        assert!(certificate.prefixes().len() <= MAX_PREFIXES);
    }
    let ca = CA.certificate_der();
    let verifier = Verifier::new(std::slice::from_ref(ca), &[], Policy::default()).unwrap();
    for chain in [&[bytes][..], &[bytes, ca], &[ca, bytes]] {
        if let Err(refusal) = verifier.verify(chain, at(NOW)) {
            assert!(!refusal.to_string().is_empty());
        }
    }
}

/// The value of the extension of RFC 3779.
pub fn address_blocks(bytes: &[u8]) {
    if let Ok(blocks) = AddressBlocks::decode(bytes) {
        let prefixes = blocks.prefixes();
        assert!(prefixes.len() <= MAX_PREFIXES);
        let again = AddressBlocks::decode(&AddressBlocks::encode(&prefixes)).unwrap();
        assert_eq!(
            again.prefixes().len(),
            ipnet::IpNet::aggregate(&Vec::from_iter(prefixes)).len()
        );
    }
}

/// A revocation list in DER.
pub fn revocation_list(bytes: &[u8]) {
    let list = CertificateRevocationListDer::from(bytes);
    let ca = std::slice::from_ref(CA.certificate_der());
    if let Ok(verifier) = Verifier::new(ca, &[list], Policy::default()) {
        let _ = verifier.verify(&[issued()], at(NOW));
    }
}

/// Files: certificates, revocation lists, keys, requests.
pub fn files(bytes: &[u8]) {
    let _ = pki::certificates(bytes);
    let _ = pki::revocation_lists(bytes);
    let _ = pki::PrivateKey::from_pem(bytes);
    let _ = SigningRequest::from_pem(bytes);
    let _ = pki::distinguished_name(bytes);
}
