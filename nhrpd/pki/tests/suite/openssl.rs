//! OpenSSL as the second opinion: it reads what we make, and we read what it makes. These tests say so
//! and do nothing where there is no `openssl` with RFC 3779 (`openssl version -f`).

use std::path::Path;
use std::process::Command;

use pki::authority::{Authority, Error, Request, Revoked};
use pki::{Credential, KeyType, Policy, PrivateKey, Verifier};
use tempfile::TempDir;

use crate::common::{DAY, NOW, at, ca, issue, nets, serial, spoke};

struct OpenSsl(TempDir);

impl OpenSsl {
    fn find() -> Option<Self> {
        let version = Command::new("openssl").args(["version"]).output();
        if !version.is_ok_and(|output| output.status.success()) {
            eprintln!("skipped: there is no openssl");
            return None;
        }
        Some(Self(tempfile::tempdir().unwrap()))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path().join(name), text).unwrap();
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path().join(name)).unwrap()
    }

    /// Standard output and error, and whether it went well.
    fn run(&self, arguments: &str) -> (bool, String) {
        let output = Command::new("openssl")
            .args(arguments.split_whitespace())
            .current_dir(self.path())
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    fn good(&self, arguments: &str) -> String {
        let (good, text) = self.run(arguments);
        assert!(good, "openssl {arguments}: {text}");
        text
    }
}

fn squeeze(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn openssl_reads_our_certificates() {
    let Some(openssl) = OpenSsl::find() else { return };
    let request = Request {
        prefixes: nets(&["192.168.1.0/24", "192.168.2.0/24", "10.0.0.0/8", "2001:db8:2::/48"]),
        key_usage: Some("0x8088".parse().unwrap()),
        extended_key_usage: vec!["ipsecIKE".parse().unwrap(), "serverAuth".parse().unwrap()],
        ..spoke()
    };
    let issued = issue(&ca("Overlay CA"), &request);
    openssl.write("spoke.crt", &pki::certificate_pem(&issued.certificate));
    let text = squeeze(&openssl.good("x509 -in spoke.crt -noout -text"));
    for expected in [
        "Issuer: CN = Overlay CA",
        "Subject: CN = spoke1",
        "sbgp-ipAddrBlock: IPv4: 10.0.0.0/8 192.168.1.0-192.168.2.255 IPv6: 2001:db8:2::/48",
        "X509v3 Key Usage: critical Digital Signature, Key Agreement, Decipher Only",
        "X509v3 Extended Key Usage: ipsec Internet Key Exchange, TLS Web Server Authentication",
        "X509v3 Basic Constraints: critical CA:FALSE",
        "DNS:Spoke1.Example.net, IP Address:172.16.0.2, IP Address:FD00:0:0:0:0:0:0:2",
        "Serial Number: 41:01:01:01:01:01:01:01:01:01:01:01:01:01:01:01",
    ] {
        assert!(text.contains(expected), "{expected} is not in {text}");
    }
    let fingerprint = openssl.good("x509 -in spoke.crt -noout -fingerprint -sha256");
    let ours = pki::Certificate::parse(&issued.certificate).unwrap().fingerprint;
    let ours = ours.map(|octet| format!("{octet:02X}")).join(":");
    assert!(fingerprint.contains(&ours));
}

/// With the path rules of RFC 3779 as well, for which the root must hold all addresses.
#[test]
fn openssl_verifies_our_paths_and_revocations() {
    let Some(openssl) = OpenSsl::find() else { return };
    for key_type in [KeyType::P256, KeyType::P384, KeyType::Ed25519, KeyType::Rsa] {
        let ca = Authority::create("CA", key_type, crate::common::year(), serial(0)).unwrap();
        let good = ca.issue(&spoke(), key_type, serial(1)).unwrap();
        let bad = ca.issue(&spoke(), key_type, serial(2)).unwrap();
        let revoked = [Revoked {
            serial: pki::Certificate::parse(&bad.certificate).unwrap().serial,
            at: at(NOW - DAY),
        }];
        let list = ca.revocation_list(&revoked, 1, at(NOW - DAY), at(NOW + DAY)).unwrap();
        openssl.write("ca.crt", &pki::certificate_pem(ca.certificate_der()));
        openssl.write("good.crt", &pki::certificate_pem(&good.certificate));
        openssl.write("good.key", &good.key.to_pem());
        openssl.write("bad.crt", &pki::certificate_pem(&bad.certificate));
        openssl.write("crl.pem", &pki::revocation_list_pem(&list));
        let verify =
            format!("verify -x509_strict -attime {NOW} -CAfile ca.crt -CRLfile crl.pem -crl_check");
        openssl.good(&format!("{verify} good.crt"));
        let (good, text) = openssl.run(&format!("{verify} bad.crt"));
        assert!(!good && text.contains("certificate revoked"), "{text}");
        openssl.good("pkey -in good.key -check -noout");
    }
}

/// As docs/certificates.md says.
const EXTENSIONS: &str = "
[node]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature, keyEncipherment
extendedKeyUsage = 1.3.6.1.5.5.7.3.17
subjectAltName = IP:172.16.0.2, DNS:spoke1.example.net, email:noc@example.net
sbgp-ipAddrBlock = @blocks
[blocks]
IPv4.0 = 192.168.2.0/24
IPv4.1 = 10.1.0.0-10.1.2.255
IPv6.0 = 2001:db8:2::/48
";

fn openssl_ca(openssl: &OpenSsl, key: &str, subject: &str) {
    openssl.write("extensions.cnf", EXTENSIONS);
    openssl.good(&format!("genpkey {key} -out ca.key"));
    openssl.good(&format!(
        "req -x509 -new -key ca.key -subj {subject} -days 30 -out ca.crt \
         -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign"
    ));
}

#[test]
fn we_accept_what_openssl_makes() {
    let Some(openssl) = OpenSsl::find() else { return };
    for (key, kind) in [
        ("-algorithm EC -pkeyopt ec_paramgen_curve:P-256", KeyType::P256),
        ("-algorithm EC -pkeyopt ec_paramgen_curve:P-384", KeyType::P384),
        ("-algorithm ED25519", KeyType::Ed25519),
        ("-algorithm RSA -pkeyopt rsa_keygen_bits:2048", KeyType::Rsa),
    ] {
        openssl_ca(&openssl, key, "/DC=net/DC=example/O=Example,Ltd/CN=Our\\+CA");
        openssl.good(&format!("genpkey {key} -out spoke.key"));
        openssl.good("req -new -key spoke.key -subj /O=Example/CN=spoke1 -out spoke.csr");
        openssl.good(
            "x509 -req -in spoke.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 \
             -extfile extensions.cnf -extensions node -out spoke.crt",
        );
        let own =
            Credential::from_pem(&openssl.read("spoke.crt"), &openssl.read("spoke.key")).unwrap();
        assert_eq!(own.key().kind(), kind);
        let anchors = pki::certificates(&openssl.read("ca.crt")).unwrap();
        let verifier = Verifier::new(&anchors, &[], Policy::default()).unwrap();
        let now = own.certificate().not_before;
        let certificate = verifier.verify(own.chain(), now).unwrap();

        assert_eq!(certificate.identity.subject, "CN=spoke1,O=Example");
        assert_eq!(certificate.issuer, "CN=Our\\+CA,O=Example\\,Ltd,DC=example,DC=net");
        assert_eq!(certificate.key_usage.unwrap().bits(), 0xa0);
        assert_eq!(certificate.identity.emails, ["noc@example.net"]);
        let prefixes = nets(&["192.168.2.0/24", "10.1.0.0/23", "10.1.2.0/24", "2001:db8:2::/48"]);
        assert_eq!(*certificate.prefixes(), prefixes);
        assert!(certificate.allows(&"172.16.0.2/32".parse().unwrap()));
        let subject = openssl.good("x509 -in ca.crt -noout -subject -nameopt RFC2253");
        assert_eq!(subject.trim(), format!("subject={}", certificate.issuer));
    }
}

#[test]
fn the_small_ca_works_on_a_root_of_openssl() {
    let Some(openssl) = OpenSsl::find() else { return };
    let issue = |openssl: &OpenSsl| {
        let ca = Authority::from_pem(&openssl.read("ca.crt"), &openssl.read("ca.key")).unwrap();
        let validity = pki::authority::Validity {
            not_before: ca.certificate().not_before,
            not_after: ca.certificate().not_after,
        };
        let request = Request { validity, ..spoke() };
        (ca.issue(&request, KeyType::P256, serial(1)), validity.not_before)
    };
    openssl_ca(&openssl, "-algorithm EC -pkeyopt ec_paramgen_curve:P-256", "/O=Example/CN=CA");
    let (issued, now) = issue(&openssl);
    let anchors = pki::certificates(&openssl.read("ca.crt")).unwrap();
    let verifier = Verifier::new(&anchors, &[], Policy::default()).unwrap();
    verifier.verify(&[issued.unwrap().certificate], now).unwrap();

    // rcgen keeps only one of two attributes of a kind: better no certificate than one without a
    // path.
    openssl_ca(
        &openssl,
        "-algorithm EC -pkeyopt ec_paramgen_curve:P-256",
        "/DC=net/DC=example/CN=CA",
    );
    let (issued, _) = issue(&openssl);
    assert!(matches!(issued, Err(Error::Name(name)) if name == "CN=CA,DC=example,DC=net"));
}

#[test]
fn other_forms_of_keys_are_refused_with_advice_that_works() {
    let Some(openssl) = OpenSsl::find() else { return };
    openssl.good("ecparam -name prime256v1 -genkey -out KEY");
    let refused = PrivateKey::from_pem(&openssl.read("KEY")).unwrap_err().to_string();
    let (why, advice) = refused.split_once(": openssl ").unwrap();
    assert_eq!(why, "block 2 is EC PRIVATE KEY; PKCS#8 is needed");
    openssl.good(advice);
    let key = PrivateKey::from_pem(&openssl.read("NEWKEY")).unwrap();
    assert_eq!(key.kind(), KeyType::P256);

    // Curves that IKE here does not sign with.
    openssl.good("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:secp256k1 -out KEY");
    assert!(PrivateKey::from_pem(&openssl.read("KEY")).is_err());
}
