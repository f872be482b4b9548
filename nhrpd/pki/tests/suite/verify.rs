//! What [`pki::Verifier`] accepts, and the words with which it refuses.

use crate::common::odd::Signer;
use crate::common::{
    self, DAY, NOW, at, ca, issue, nets, odd, serial, spoke, verifier, verify, year,
};
use pki::authority::{Request, Revoked, Validity};
use pki::{
    Absent, AddressBlocks, CertificateDer, ExtendedKeyUsagePolicy, KeyType, KeyUsage,
    KeyUsagePolicy, LoadError, Policy, Refusal, Verifier,
};
use rcgen::{
    BasicConstraints, CidrSubnet, CustomExtension, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa,
    KeyUsagePurpose, NameConstraints, SanType,
};

const BLOCKS: [u64; 9] = [1, 3, 6, 1, 5, 5, 7, 1, 7];

fn words(result: Result<pki::Certificate, Refusal>) -> String {
    result.unwrap_err().to_string()
}

fn masks(masks: &[&str]) -> Policy {
    let masks = masks.iter().map(|mask| mask.parse().unwrap()).collect();
    Policy { key_usage: KeyUsagePolicy { masks, absent: Absent::Refuse }, ..Policy::default() }
}

fn with_key_usage(bits: Option<u16>) -> Request {
    Request { key_usage: bits.map(|bits| KeyUsage::from_bits(bits).unwrap()), ..spoke() }
}

#[test]
fn a_good_certificate_says_who_and_what_is_allowed() {
    let ca = ca("Overlay CA");
    let issued = issue(&ca, &spoke());
    let certificate = verify(&verifier(&ca), &[issued.certificate]).unwrap();

    let identity = &certificate.identity;
    assert_eq!(identity.subject, "CN=spoke1");
    assert_eq!(pki::distinguished_name(&identity.subject_der).as_deref(), Some("CN=spoke1"));
    assert_eq!(identity.common_name.as_deref(), Some("spoke1"));
    let names = ["172.16.0.2", "CN=spoke1", "fd00::2", "spoke1", "spoke1.example.net"];
    assert!(identity.names().iter().eq(names.iter()), "{:?}", identity.names());
    assert_eq!(certificate.issuer, "CN=Overlay CA");
    assert_eq!(certificate.serial, "41010101010101010101010101010101");
    assert_eq!(certificate.not_after, at(NOW + 355 * DAY));
    assert_eq!(certificate.key_usage, Some(KeyUsage::DIGITAL_SIGNATURE));
    assert_eq!(certificate.extended_key_usage, None);

    assert_eq!(*certificate.prefixes(), nets(&["192.168.2.0/24", "2001:db8:2::/48"]));
    assert_eq!(
        certificate.allowed,
        nets(&["172.16.0.2/32", "192.168.2.0/24", "2001:db8:2::/48", "fd00::2/128"])
    );
    for (prefix, allowed) in [
        ("172.16.0.2/32", true),
        ("192.168.2.128/25", true),
        ("172.16.0.3/32", false),
        ("192.168.0.0/16", false),
        ("0.0.0.0/0", false),
    ] {
        assert_eq!(certificate.allows(&prefix.parse().unwrap()), allowed, "{prefix}");
    }
}

#[test]
fn every_key_type_signs_and_is_certified() {
    for key_type in [KeyType::P256, KeyType::P384, KeyType::Ed25519, KeyType::Rsa] {
        let ca = pki::authority::Authority::create("CA", key_type, year(), serial(0)).unwrap();
        let issued = ca.issue(&spoke(), key_type, serial(1)).unwrap();
        assert_eq!(issued.key.kind(), key_type);
        verify(&verifier(&ca), &[issued.certificate]).unwrap();
    }
}

#[test]
fn key_usage_is_judged_by_mask_and_the_refusal_names_the_bits() {
    let ca = ca("CA");
    let default = verifier(&ca);
    let openvpn = common::with_policy(&ca, masks(&["0xa0", "0x88"]));
    let cases = [
        // bits, by default, as `remote-cert-tls server`
        (Some(0xa0), true, true),
        (Some(0x80), true, false),
        (Some(0x88), true, true),
        (Some(0x08), false, false),
        (Some(0xc0), true, false),
        (Some(0xf8), true, true),
        (Some(0x40), false, false),
        (Some(0x8088), true, true),
        (Some(0x8000), false, false),
        (None, false, false),
    ];
    for (bits, by_default, as_openvpn) in cases {
        let chain = [issue(&ca, &with_key_usage(bits)).certificate];
        assert_eq!(verify(&default, &chain).is_ok(), by_default, "{bits:x?}");
        assert_eq!(verify(&openvpn, &chain).is_ok(), as_openvpn, "{bits:x?}");
    }

    let refused = |bits| words(verify(&openvpn, &[issue(&ca, &with_key_usage(bits)).certificate]));
    assert_eq!(
        refused(Some(0x40)),
        "certificate has key usage 0x40 (nonRepudiation); needs all of 0xa0 \
         (digitalSignature+keyEncipherment) or all of 0x88 (digitalSignature+keyAgreement)"
    );
    assert_eq!(
        refused(None),
        "certificate has no key usage; needs all of 0xa0 (digitalSignature+keyEncipherment) or all \
         of 0x88 (digitalSignature+keyAgreement)"
    );
}

#[test]
fn absent_key_usage_passes_where_configured() {
    let ca = ca("CA");
    let key_usage = KeyUsagePolicy { absent: Absent::Allow, ..KeyUsagePolicy::default() };
    let lenient = common::with_policy(&ca, Policy { key_usage, ..Policy::default() });
    verify(&lenient, &[issue(&ca, &with_key_usage(None)).certificate]).unwrap();
    verify(&lenient, &[issue(&ca, &with_key_usage(Some(0x40))).certificate]).unwrap_err();
}

#[test]
fn extended_key_usage_is_any_of_the_list() {
    let ca = ca("CA");
    let list = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect::<Vec<_>>();
    let policy = |absent| Policy {
        extended_key_usage: ExtendedKeyUsagePolicy {
            any_of: list(&["serverAuth", "ipsecIKE"]),
            absent,
        },
        ..Policy::default()
    };
    let strict = common::with_policy(&ca, policy(Absent::Refuse));
    let lenient = common::with_policy(&ca, policy(Absent::Allow));
    let chain = |names: &[&str]| {
        [issue(&ca, &Request { extended_key_usage: list(names), ..spoke() }).certificate]
    };

    for names in
        [&["ipsecIKE"][..], &["clientAuth", "serverAuth"], &["1.2.3", "1.3.6.1.5.5.7.3.17"]]
    {
        let certificate = verify(&strict, &chain(names)).unwrap();
        assert_eq!(certificate.extended_key_usage.unwrap().len(), names.len());
    }
    verify(&lenient, &chain(&[])).unwrap();
    assert_eq!(
        words(verify(&strict, &chain(&[]))),
        "certificate of \"CN=spoke1\" has no extended key usage; needs serverAuth or ipsecIKE"
    );
    assert_eq!(
        words(verify(&lenient, &chain(&["clientAuth", "1.2.3"]))),
        "certificate of \"CN=spoke1\" has extended key usage clientAuth, 1.2.3; needs serverAuth or \
         ipsecIKE"
    );
    // rustls-webpki has no say in this: by default nothing is asked for.
    verify(&verifier(&ca), &chain(&["codeSigning"])).unwrap();
}

#[test]
fn expired_and_not_yet_valid_say_since_when() {
    let ca = ca("CA");
    let issued = |from, to| {
        let validity = Validity { not_before: at(from), not_after: at(to) };
        [issue(&ca, &Request { validity, ..spoke() }).certificate]
    };
    let verifier = verifier(&ca);
    assert_eq!(
        words(verify(&verifier, &issued(NOW - 9 * DAY, NOW - 3 * DAY))),
        "certificate of \"CN=spoke1\" expired at 2026-11-18 00:00:00 UTC, 3 days ago; issue a new one"
    );
    assert_eq!(
        words(verify(&verifier, &issued(NOW + 3600, NOW + DAY))),
        "certificate of \"CN=spoke1\" is valid from 2026-11-21 01:00:00 UTC on, in 60 minutes; \
         compare the clocks of this node and of the one that issued it"
    );
    // Both ends belong to the validity.
    verify(&verifier, &issued(NOW - DAY, NOW)).unwrap();
    verify(&verifier, &issued(NOW, NOW + DAY)).unwrap();
    assert!(verify(&verifier, &issued(NOW - DAY, NOW - 1)).is_err());
    assert!(verify(&verifier, &issued(NOW + 1, NOW + DAY)).is_err());
}

#[test]
fn an_expired_ca_vouches_for_nobody() {
    let ca = ca("CA");
    let forever = Validity { not_after: at(NOW + 4000 * DAY), ..year() };
    let chain = [issue(&ca, &Request { validity: forever, ..spoke() }).certificate];
    let refused = verifier(&ca).verify(&chain, at(NOW + 400 * DAY)).unwrap_err();
    assert!(
        matches!(&refused, Refusal::Expired { subject, .. } if subject == "CN=CA"),
        "{refused}"
    );
}

#[test]
fn another_ca_is_named() {
    let (ours, theirs) = (ca("Our CA"), ca("Their CA"));
    let chain = [issue(&theirs, &spoke()).certificate];
    assert_eq!(
        words(verify(&verifier(&ours), &chain)),
        "certificate of \"CN=spoke1\" was issued by another CA, \"CN=Their CA\"; trusted here: \
         \"CN=Our CA\""
    );
    // Sending the other root along does not help.
    let chain = [chain[0].clone(), theirs.certificate_der().clone()];
    assert!(matches!(verify(&verifier(&ours), &chain), Err(Refusal::UnknownIssuer { .. })));
}

#[test]
fn another_ca_of_the_same_name_is_told_apart() {
    let (ours, namesake) = (ca("CA"), ca("CA"));
    let chain = [issue(&namesake, &spoke()).certificate];
    assert_eq!(
        words(verify(&verifier(&ours), &chain)),
        "certificate of \"CN=spoke1\" names the CA \"CN=CA\", but the key of the CA trusted here has \
         not signed it; was the CA made anew under the same name?"
    );
    // With both trusted, each vouches for its own.
    let anchors = [ours.certificate_der().clone(), namesake.certificate_der().clone()];
    let both = Verifier::new(&anchors, &[], Policy::default()).unwrap();
    verify(&both, &chain).unwrap();
    verify(&both, &[issue(&ours, &spoke()).certificate]).unwrap();
}

#[test]
fn a_forged_certificate_is_refused() {
    let ca = ca("CA");
    let issued = issue(&ca, &spoke());
    let mut forged = issued.certificate.to_vec();
    let address = forged.windows(4).position(|octets| octets == [172, 16, 0, 2]).unwrap();
    forged[address + 3] = 1;
    let refused = verify(&verifier(&ca), &[CertificateDer::from(forged)]).unwrap_err();
    assert!(matches!(refused, Refusal::NotSignedByIssuer { .. }), "{refused}");
}

#[test]
fn revoked_certificates_are_refused() {
    let ca = ca("CA");
    let good = ca.issue(&spoke(), KeyType::P256, serial(1)).unwrap().certificate;
    let bad = ca.issue(&spoke(), KeyType::P256, serial(2)).unwrap().certificate;
    let revoked = [Revoked { serial: "42".to_owned() + &"02".repeat(15), at: at(NOW - DAY) }];
    let list = ca.revocation_list(&revoked, 1, at(NOW - DAY), at(NOW + DAY)).unwrap();
    let verifier = common::with_list(&ca, list);
    verify(&verifier, &[good]).unwrap();
    assert_eq!(
        words(verify(&verifier, std::slice::from_ref(&bad))),
        "certificate of \"CN=spoke1\" (serial 42020202020202020202020202020202), or a CA above it, is \
         revoked"
    );
    // An overdue list still says what is revoked, and shows that it is overdue.
    let later = at(NOW + 9 * DAY);
    assert!(matches!(verifier.verify(&[bad], later), Err(Refusal::Revoked { .. })));
    assert_eq!(verifier.revocation_lists()[0].next_update, Some(at(NOW + DAY)));
    assert_eq!(verifier.revocation_lists()[0].issuer, "CN=CA");
}

#[test]
fn of_two_revocation_lists_the_newer_counts() {
    let ca = ca("CA");
    let issued = issue(&ca, &spoke()).certificate;
    let revoked = [Revoked { serial: "41".to_owned() + &"01".repeat(15), at: at(NOW - DAY) }];
    let old = ca.revocation_list(&[], 1, at(NOW - 2 * DAY), at(NOW + DAY)).unwrap();
    let new = ca.revocation_list(&revoked, 2, at(NOW - DAY), at(NOW + DAY)).unwrap();
    let anchors = [ca.certificate_der().clone()];
    for lists in [[old.clone(), new.clone()], [new, old]] {
        let verifier = Verifier::new(&anchors, &lists, Policy::default()).unwrap();
        let result = verify(&verifier, std::slice::from_ref(&issued));
        assert!(matches!(result, Err(Refusal::Revoked { .. })));
    }
}

#[test]
fn a_revocation_list_by_an_impostor_is_not_loaded() {
    let (ours, namesake) = (ca("CA"), ca("CA"));
    let list = namesake.revocation_list(&[], 1, at(NOW), at(NOW + DAY)).unwrap();
    let result = Verifier::new(&[ours.certificate_der().clone()], &[list], Policy::default());
    assert_eq!(
        result.unwrap_err().to_string(),
        "revocation list 1 cannot be used: not signed by the key of the trusted CA \"CN=CA\""
    );
}

#[test]
fn chains_over_intermediates_in_any_order() {
    let root = ca("Root");
    let upper = Signer::root(&root).sign(&odd::ca("Upper"));
    let lower = upper.sign(&odd::ca("Lower"));
    let leaf = issue(&lower.authority(), &spoke()).certificate;
    let verifier = verifier(&root);
    let (upper, lower) = (upper.certificate, lower.certificate);
    verify(&verifier, &[leaf.clone(), lower.clone(), upper.clone()]).unwrap();
    verify(&verifier, &[leaf.clone(), upper.clone(), lower.clone()]).unwrap();
    let with_root = [leaf.clone(), lower.clone(), upper.clone(), root.certificate_der().clone()];
    verify(&verifier, &with_root).unwrap();

    assert_eq!(
        words(verify(&verifier, &[leaf.clone(), upper])),
        "certificate of \"CN=spoke1\" was issued by another CA, \"CN=Lower\"; trusted here: \
         \"CN=Root\""
    );
    assert_eq!(
        words(verify(&verifier, &[leaf, lower])),
        "certificate of \"CN=Lower\" was issued by another CA, \"CN=Upper\"; trusted here: \
         \"CN=Root\""
    );
}

#[test]
fn a_revoked_intermediate_takes_its_certificates_along() {
    let root = ca("Root");
    let mut params = odd::ca("Sub");
    params.serial_number = Some(vec![0x55].into());
    let sub = Signer::root(&root).sign(&params);
    let chain = [issue(&sub.authority(), &spoke()).certificate, sub.certificate];
    let revoked = [Revoked { serial: "55".to_owned(), at: at(NOW - DAY) }];
    let list = root.revocation_list(&revoked, 1, at(NOW - DAY), at(NOW + DAY)).unwrap();
    verify(&verifier(&root), &chain).unwrap();
    let result = verify(&common::with_list(&root, list), &chain);
    assert!(matches!(result, Err(Refusal::Revoked { .. })));
}

#[test]
fn a_node_cannot_act_as_a_ca() {
    let root = ca("Root");
    // basicConstraints says no.
    let mut params = odd::ca("Impostor");
    params.is_ca = IsCa::ExplicitNoCa;
    let impostor = Signer::root(&root).sign(&params);
    let leaf = impostor.sign(&odd::node("hub")).certificate;
    let result = verify(&verifier(&root), &[leaf, impostor.certificate]);
    assert!(words(result).contains("not the certificate of a CA"));

    // Key usage says no (RFC 5280 §6.1.4 (n)), which rustls-webpki does not look at.
    let mut params = odd::ca("Impostor");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let impostor = Signer::root(&root).sign(&params);
    let leaf = impostor.sign(&odd::node("hub")).certificate;
    assert_eq!(
        words(verify(&verifier(&root), &[leaf, impostor.certificate])),
        "CA certificate of \"CN=Impostor\" has key usage 0x80 (digitalSignature); needs all of 0x04 \
         (keyCertSign)"
    );
}

#[test]
fn a_ca_cannot_act_as_a_node() {
    let root = ca("Root");
    let sub = Signer::root(&root).sign(&odd::ca("Sub"));
    assert!(words(verify(&verifier(&root), &[sub.certificate])).contains("certificate of a CA"));
}

#[test]
fn constraints_of_cas_hold() {
    let root = ca("Root");
    let mut params = odd::ca("Last");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let last = Signer::root(&root).sign(&params);
    let below = last.sign(&odd::ca("Below"));
    let leaf = below.sign(&odd::node("spoke1")).certificate;
    let result = verify(&verifier(&root), &[leaf, below.certificate, last.certificate]);
    assert!(words(result).contains("path length"));

    let mut params = odd::ca("Branch");
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::IpAddress(CidrSubnet::V4(
            [172, 16, 1, 0],
            [255, 255, 255, 0],
        ))],
        excluded_subtrees: vec![],
    });
    let branch = Signer::root(&root).sign(&params);
    for (address, good) in [([172, 16, 1, 9], true), ([172, 16, 0, 1], false)] {
        let mut params = odd::node("spoke1");
        params.subject_alt_names = vec![SanType::IpAddress(address.into())];
        let leaf = branch.sign(&params).certificate;
        let result = verify(&verifier(&root), &[leaf, branch.certificate.clone()]);
        assert_eq!(result.is_ok(), good);
        if !good {
            assert!(words(result).contains("name constraints"));
        }
    }
}

#[test]
fn extended_key_usage_of_a_ca_restricts_what_is_below() {
    let root = ca("Root");
    let any_of = vec!["ipsecIKE".parse().unwrap()];
    let extended_key_usage = ExtendedKeyUsagePolicy { any_of, absent: Absent::Allow };
    let verifier = common::with_policy(&root, Policy { extended_key_usage, ..Policy::default() });
    for (purpose, good) in
        [(ExtendedKeyUsagePurpose::ClientAuth, false), (ExtendedKeyUsagePurpose::Any, true)]
    {
        let mut params = odd::ca("Sub");
        params.extended_key_usages = vec![purpose];
        let sub = Signer::root(&root).sign(&params);
        let leaf = sub.sign(&odd::node("spoke1")).certificate;
        let result = verify(&verifier, &[leaf, sub.certificate]);
        assert_eq!(result.is_ok(), good);
        if !good {
            assert!(words(result).starts_with("certificate of \"CN=Sub\" has extended key usage"));
        }
    }
}

fn blocks(value: Vec<u8>, critical: bool) -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(&BLOCKS, value);
    extension.set_criticality(critical);
    extension
}

#[test]
fn critical_extensions_are_refused_by_name() {
    let root = ca("Root");
    let signer = Signer::root(&root);
    let mut params = odd::node("spoke1");
    params.custom_extensions =
        vec![blocks(AddressBlocks::encode(&nets(&["192.168.2.0/24"])), true)];
    assert_eq!(
        words(verify(&verifier(&root), &[signer.sign(&params).certificate])),
        "certificate of \"CN=spoke1\" has critical extension 1.3.6.1.5.5.7.1.7 (address blocks, RFC \
         3779), which path validation refuses; issue it with that extension not critical"
    );
    let mut unknown = CustomExtension::from_oid_content(&[1, 2, 3], vec![5, 0]);
    unknown.set_criticality(true);
    params.custom_extensions = vec![unknown];
    assert!(
        words(verify(&verifier(&root), &[signer.sign(&params).certificate]))
            .contains("critical extension 1.2.3, which is unknown here")
    );
}

#[test]
fn a_ca_gives_no_more_addresses_than_it_holds() {
    let root = ca("Root");
    let mut params = odd::ca("Branch");
    params.custom_extensions =
        vec![blocks(AddressBlocks::encode(&nets(&["192.168.0.0/16"])), false)];
    let branch = Signer::root(&root).sign(&params);
    let verifier = verifier(&root);
    let judged = |value: Vec<u8>| {
        let mut params = odd::node("spoke1");
        params.custom_extensions = vec![blocks(value, false)];
        verify(&verifier, &[branch.sign(&params).certificate, branch.certificate.clone()])
    };

    let within = judged(AddressBlocks::encode(&nets(&["192.168.2.0/24"]))).unwrap();
    assert_eq!(within.allowed, nets(&["192.168.2.0/24"]));
    assert_eq!(
        words(judged(AddressBlocks::encode(&nets(&["10.0.0.0/8", "192.168.2.0/24"])))),
        "certificate of \"CN=spoke1\" has address block 10.0.0.0/8, which its issuer \"CN=Branch\" \
         does not hold"
    );
    // A family that the CA does not hold at all.
    judged(AddressBlocks::encode(&nets(&["2001:db8::/32"]))).unwrap_err();
    // IPv4 and IPv6 inherited (RFC 3779 §2.2.3.5).
    let inherit = b"\x30\x10\x30\x06\x04\x02\x00\x01\x05\x00\x30\x06\x04\x02\x00\x02\x05\x00";
    assert_eq!(judged(inherit.to_vec()).unwrap().allowed, nets(&["192.168.0.0/16"]));
}

#[test]
fn what_cannot_be_read_is_malformed() {
    let ca = ca("CA");
    let verifier = verifier(&ca);
    let good = issue(&ca, &spoke()).certificate;
    assert_eq!(verifier.verify::<Vec<u8>>(&[], at(NOW)).unwrap_err(), Refusal::NoCertificate);
    assert_eq!(
        verifier.verify(&vec![good.clone(); 9], at(NOW)).unwrap_err(),
        Refusal::TooMany { count: 9 }
    );
    let malformed = |octets: &[u8]| words(verifier.verify(&[octets], at(NOW)));
    assert!(malformed(b"").starts_with("certificate is malformed: "));
    assert!(malformed(b"garbage").starts_with("certificate is malformed: "));
    assert!(malformed(&[&good[..], b"x"].concat()).ends_with("1 octets after its end"));
    assert!(malformed(&[0x30; 70_000]).contains("70000 octets long"));
    let second = verifier.verify(&[&good[..], b"garbage"], at(NOW)).unwrap_err();
    assert!(second.to_string().starts_with("certificate 2 of the chain is malformed: "));

    let signer = Signer::root(&ca);
    let mut params = odd::node("spoke1");
    params.custom_extensions = vec![blocks(vec![0x30, 0x05, 0x30], false)];
    assert_eq!(
        words(verify(&verifier, &[signer.sign(&params).certificate])),
        "certificate is malformed: address blocks (RFC 3779): truncated"
    );
}

#[test]
fn every_truncation_and_every_changed_octet_is_refused() {
    let ca = ca("CA");
    let verifier = verifier(&ca);
    let good = issue(&ca, &spoke()).certificate.to_vec();
    for end in 0..good.len() {
        assert!(verifier.verify(&[&good[..end]], at(NOW)).is_err());
    }
    for position in 0..good.len() {
        let mut bad = good.clone();
        bad[position] ^= 0x15;
        assert!(verifier.verify(&[bad], at(NOW)).is_err(), "octet {position}");
    }
}

#[test]
fn long_names_do_not_flood_the_log() {
    let ours = ca("CA");
    let request = Request { common_name: "x\u{1b}".repeat(5000), ..spoke() };
    let refused = words(verify(&verifier(&ours), &[issue(&ca("Other"), &request).certificate]));
    assert!(refused.len() < 400 && refused.contains("x\\1bx"), "{refused}");
}

#[test]
fn trust_anchors_must_be_cas() {
    let ca = ca("CA");
    assert_eq!(Verifier::new(&[], &[], Policy::default()).unwrap_err(), LoadError::NoAnchor);
    let anchors = [ca.certificate_der().clone(), issue(&ca, &spoke()).certificate];
    assert_eq!(
        Verifier::new(&anchors, &[], Policy::default()).unwrap_err().to_string(),
        "certificate 2, \"CN=spoke1\", is not the certificate of a CA (CA:TRUE is missing); put the \
         certificate of the CA that issued it here"
    );
}
