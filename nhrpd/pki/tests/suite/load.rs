//! Certificates and keys from files, good and bad.

use pki::authority::{Authority, Error, Request, Validity};
use pki::{Credential, KeyType, LoadError, PrivateKey};

use crate::common::{DAY, NOW, at, ca, issue, nets, serial, spoke, verifier, verify, year};

fn refused<T>(result: Result<T, LoadError>) -> String {
    result.err().unwrap().to_string()
}

#[test]
fn a_pair_survives_pem() {
    let ca = ca("CA");
    for key_type in [KeyType::P256, KeyType::P384, KeyType::Ed25519, KeyType::Rsa] {
        let issued = ca.issue(&spoke(), key_type, serial(1)).unwrap();
        let pem = pki::certificate_pem(&issued.certificate);
        let credential =
            Credential::from_pem(pem.as_bytes(), issued.key.to_pem().as_bytes()).unwrap();
        assert_eq!(credential.chain(), [issued.certificate]);
        assert_eq!(credential.key().pkcs8(), issued.key.pkcs8());
        assert_eq!(credential.key().kind(), key_type);
        assert_eq!(*credential.certificate().prefixes(), spoke().prefixes);
    }
}

#[test]
fn one_file_may_hold_both_and_a_chain() {
    let ca = ca("CA");
    let issued = issue(&ca, &spoke());
    let both = [
        "Bag Attributes: from some other tool\n",
        &issued.key.to_pem(),
        &pki::certificate_pem(&issued.certificate),
        &pki::certificate_pem(ca.certificate_der()),
    ]
    .concat();
    let credential = Credential::from_pem(both.as_bytes(), both.as_bytes()).unwrap();
    assert_eq!(credential.chain(), [issued.certificate, ca.certificate_der().clone()]);
}

#[test]
fn der_is_read_too() {
    let ca = ca("CA");
    let der = ca.certificate_der();
    assert_eq!(pki::certificates(der).unwrap(), std::slice::from_ref(der));
    let list = ca.revocation_list(&[], 1, at(NOW), at(NOW + DAY)).unwrap();
    assert_eq!(pki::revocation_lists(&list).unwrap(), std::slice::from_ref(&list));
    let pem = pki::revocation_list_pem(&list);
    assert_eq!(pki::revocation_lists(pem.as_bytes()).unwrap(), [list]);
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let ca = ca("CA");
    let (one, other) = (issue(&ca, &spoke()), issue(&ca, &spoke()));
    let chain = pki::certificate_pem(&one.certificate);
    let load = |chain: &str, key: &PrivateKey| {
        refused(Credential::from_pem(chain.as_bytes(), key.to_pem().as_bytes()))
    };
    assert_eq!(
        load(&chain, &other.key),
        "the private key does not belong to certificate 1, \"CN=spoke1\""
    );
    let reversed = pki::certificate_pem(ca.certificate_der()) + &chain;
    assert_eq!(
        load(&reversed, &one.key),
        "the private key does not belong to certificate 1, \"CN=CA\"; it belongs to certificate 2: \
         the node's own must be the first"
    );
}

#[test]
fn bad_files_say_which_block() {
    let ca = ca("CA");
    let issued = issue(&ca, &spoke());
    let good = pki::certificate_pem(&issued.certificate);
    let key = issued.key.to_pem();
    let certificates = |pem: &str| refused(pki::certificates(pem.as_bytes()));
    let private_key = |pem: &str| refused(PrivateKey::from_pem(pem.as_bytes()));

    assert_eq!(certificates(""), "no CERTIFICATE block; the file has no PEM block at all");
    assert_eq!(certificates(&key), "no CERTIFICATE block; found PRIVATE KEY");
    assert_eq!(private_key(&good), "no PRIVATE KEY block; found CERTIFICATE");
    assert_eq!(
        certificates(&(good.clone() + &good.replace("MII", "M?I"))),
        "block 2 is not good PEM: base64 decode error"
    );
    let cut = &good[..good.len() / 2];
    assert_eq!(certificates(&(good.clone() + cut)), "block 2 is not good PEM: incomplete PEM");
    let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert!(certificates(&(good + garbage)).starts_with("certificate 2 is malformed: "));

    assert_eq!(private_key(&(key.to_string() + &key)), "2 private keys; one is needed");
    assert!(private_key(&garbage.replace("CERTIFICATE", "PRIVATE KEY")).contains("damaged"));
    let relabelled = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    assert!(private_key(&relabelled).starts_with("block 1 is ENCRYPTED PRIVATE KEY; "));
}

#[test]
fn private_keys_are_not_shown() {
    let issued = issue(&ca("CA"), &spoke());
    let shown = format!("{issued:?}");
    assert!(shown.contains("PrivateKey(p256, …)"), "{shown}");
}

#[test]
fn an_authority_survives_pem() {
    let made = ca("CA");
    let loaded = Authority::from_pem(
        pki::certificate_pem(made.certificate_der()).as_bytes(),
        made.key().to_pem().as_bytes(),
    )
    .unwrap();
    verify(&verifier(&made), &[issue(&loaded, &spoke()).certificate]).unwrap();
}

#[test]
fn a_node_is_no_authority() {
    let issued = issue(&ca("CA"), &spoke());
    let certificate = pki::certificate_pem(&issued.certificate);
    let result = Authority::from_pem(certificate.as_bytes(), issued.key.to_pem().as_bytes());
    assert!(matches!(result, Err(Error::NotACa(subject)) if subject == "CN=spoke1"));
}

#[test]
fn bad_requests_are_refused() {
    let ca = ca("CA");
    let refused =
        |request: Request| ca.issue(&request, KeyType::P256, serial(1)).unwrap_err().to_string();
    assert_eq!(
        refused(Request { common_name: String::new(), ..spoke() }),
        "the common name is empty"
    );
    assert_eq!(
        refused(Request { dns: vec!["bücher.example".to_owned()], ..spoke() }),
        "\"bücher.example\" is no DNS name"
    );
    let backwards = Validity { not_before: at(NOW), not_after: at(NOW - 1) };
    assert!(refused(Request { validity: backwards, ..spoke() }).starts_with("the validity ends"));
    let endless = Validity { not_after: at(u64::MAX), ..year() };
    assert!(refused(Request { validity: endless, ..spoke() }).starts_with("the validity ends"));
    let many = (0..2000u16).map(|i| format!("10.{}.{}.0/24", i >> 8, i & 0xff)).collect::<Vec<_>>();
    let many = nets(&many.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(refused(Request { prefixes: many, ..spoke() }).starts_with("2000 prefixes"));
}
