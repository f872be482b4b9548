//! The section `security`.

use pki::Absent;

use super::*;

#[test]
fn security_mode() {
    let clear = file("", "").replace(SECURITY, "mode: none");
    let config = read(&clear).unwrap();
    assert_eq!(config.security, Security::None);
    assert_eq!(config.nhrp.trust, Trust::Any, "implied");
    assert_eq!(
        problems(&format!("{clear}\nnhrp: {{trust: certificate}}\nadvertise: certificate")),
        [
            "nhrp.trust: there are no certificates with security.mode none: expected any",
            "advertise: there is no certificate with security.mode none: list the prefixes"
        ]
    );
    assert_eq!(good("security", "mode: none").security, Security::None);
    for (mode, expected) in
        [("auto", Tunnels::Auto), ("esp", Tunnels::Esp), ("wireguard", Tunnels::WireGuard)]
    {
        let security = good("security", &format!("mode: {mode}")).security;
        assert!(matches!(security, Security::Keyed(tunnels, _) if tunnels == expected), "{mode}");
    }
    bad(
        "security",
        "mode: wiregard",
        "security.mode: expected auto, esp, wireguard or none, found \"wiregard\": did you mean wireguard?",
    );
}

#[test]
fn security_rekey_interval() {
    let config = good("security", "rekey-interval: 5");
    assert_eq!(config.rekey_interval, Duration::from_secs(5));
    bad(
        "security",
        "rekey-interval: 4",
        "security.rekey-interval: expected a number from 5 to 604800, found \"4\"",
    );
}

#[test]
fn security_rekey_packets() {
    assert_eq!(good("security", "rekey-interval: 5").rekey_packets, 3 << 30);
    assert_eq!(good("security", "rekey-packets: 10000").rekey_packets, 10_000);
    bad(
        "security",
        "rekey-packets: 4294967296",
        "security.rekey-packets: expected a number from 10000 to 3221225472, found \"4294967296\"",
    );
}

#[test]
fn security_ike_proposals() {
    let config =
        good("security", "ike-proposals: [aes256gcm16-sha384-ecp384, aes256-sha256-modp2048]");
    let names = ["aes256gcm16-prfsha384-ecp384", "aes256-sha256-modp2048"];
    assert_eq!(config.ike_proposals, ike::Algorithms::parse(&names).unwrap());
    let default = good("security", "rekey-interval: 60").ike_proposals;
    assert_eq!(default, ike::Algorithms::default());
    let reference = include_str!("../../../../../docs/configuration.md");
    let documented: Vec<&str> =
        reference.lines().filter_map(|line| line.strip_prefix("    - aes256")).collect();
    let documented: Vec<_> = documented.iter().map(|rest| format!("aes256{rest}")).collect();
    assert_eq!(default, ike::Algorithms::parse(&documented).unwrap(), "as the reference says");
    bad(
        "security",
        "ike-proposals: [aes256gcm16-md5-x25519]",
        "security.ike-proposals[0]: proposal `aes256gcm16-md5-x25519`: `md5` is not known; known are \
         aes256gcm16, aes128gcm16, chacha20poly1305, aes256, aes128, sha256, sha384, sha512, \
         prfsha256, prfsha384, prfsha512, x25519, ecp256, ecp384, modp2048, ke1_mlkem768",
    );
    bad(
        "security",
        "ike-proposals: []",
        "security.ike-proposals: expected at least one, such as [aes256gcm16-sha384-ecp384]",
    );
    bad(
        "security",
        "ike-proposals: aes256gcm16-sha384-ecp384",
        "security.ike-proposals: expected a list, such as [aes256gcm16-sha384-ecp384], found \
         \"aes256gcm16-sha384-ecp384\"",
    );
}

#[test]
fn security_esp_proposals() {
    let of = |text: &str| good("security", text).esp_proposals;
    let parsed = |text: &str| ike::EspProposal::parse(text).unwrap();
    assert_eq!(
        of("esp-proposals: [aes128gcm16-ecp384, aes256-sha256-modp2048-noesn]"),
        [parsed("aes128gcm16-ecp384"), parsed("aes256-sha256-modp2048-noesn")]
    );
    let default = of("rekey-interval: 60");
    let reference = include_str!("../../../../../docs/configuration.md");
    let documented = reference.lines().filter_map(|line| line.strip_prefix("  esp-proposals: "));
    let documented: Vec<_> = documented.map(|list| of(&format!("esp-proposals: {list}"))).collect();
    assert_eq!(documented, [default], "as the reference says");
    bad(
        "security",
        "esp-proposals: [aes256gcm16-ke1_mlkem768]",
        "security.esp-proposals[0]: proposal `aes256gcm16-ke1_mlkem768`: ML-KEM stands in the \
         proposals for IKE; ESP's keys come from those",
    );
    bad(
        "security",
        "esp-proposals: []",
        "security.esp-proposals: expected at least one, such as [aes256gcm16-ecp384]",
    );
}

#[test]
fn security_key_log() {
    let of = |text: &str| good("security", text).key_log;
    assert_eq!(of("rekey-interval: 60"), None, "off unless asked for by name");
    assert_eq!(of("key-log: keys"), Some(Path::new("/etc/nhrpd/keys").to_owned()));
    bad("security", "key-log: ''", "security.key-log: expected a folder, found \"\"");
}

#[test]
fn security_files() {
    let with = |security: &str| read(&file("", "").replace(SECURITY, security));
    let config = with("certificate: /a/b.crt, private-key: ../b.key, ca: ca, crl: crl.pem");
    let Security::Keyed(_, peers) = config.unwrap().security else { panic!("clear") };
    let files = peers.certificates.unwrap();
    assert_eq!(files.certificate, Path::new("/a/b.crt"));
    assert_eq!(files.private_key, Path::new("/etc/nhrpd/../b.key"));
    assert_eq!(files.crl.as_deref(), Some(Path::new("/etc/nhrpd/crl.pem")));
    let missing = |security: &str| problems(&file("", "").replace(SECURITY, security));
    assert_eq!(
        missing(""),
        [
            "security: missing: expected certificate, private-key and ca, or psk-file, or mode: none \
             for clear GRE"
        ]
    );
    assert_eq!(
        missing("ca: ca.crt"),
        [
            "security.certificate: missing: expected the file of the own certificate chain, in PEM",
            "security.private-key: missing: expected the file of the own private key, in PEM"
        ]
    );
    assert_eq!(
        missing("certificate: c, private-key: k, crl: ''"),
        [
            "security.ca: missing: expected the file of the trust anchors, in PEM",
            "security.crl: expected a file, found \"\""
        ]
    );
}

#[test]
fn security_pre_shared_keys() {
    let with = |security: &str| read(&file("", "").replace(SECURITY, security));
    let keyed = |security: &str| match with(security).unwrap().security {
        Security::Keyed(_, peers) => *peers,
        Security::None => panic!("clear"),
    };
    let alone = keyed("psk-file: psk, identity: hub.example.net");
    let path = Path::new("/etc/nhrpd/psk").to_owned();
    assert_eq!(alone.keys, Some(KeyFile { path, allow_weak: false }));
    assert_eq!((alone.certificates, alone.identity.unwrap().kind), (None, 2));
    let files = format!("{SECURITY}, psk-file: /k, psk-allow-weak: true");
    let both = keyed(&files);
    assert!(both.certificates.is_some() && both.keys.unwrap().allow_weak);
    assert_eq!(both.identity, None);
    let identity =
        |text: &str| keyed(&format!("psk-file: k, identity: '{text}'")).identity.unwrap();
    assert_eq!(identity("192.0.2.1").kind, 1);
    assert_eq!(identity("keyid:office-7").data, b"office-7");
    let wrong = |security: &str| problems(&file("", "").replace(SECURITY, security));
    assert_eq!(
        wrong("psk-file: psk"),
        ["security.identity: missing: expected who this node is for its peers, such as \
             spoke7.example.net; without a certificate nothing else says it"]
    );
    assert_eq!(
        wrong("psk-file: psk, identity: CN=hub"),
        ["security.identity: expected a DNS name, an IP address, user@domain or keyid:TEXT, \
             found \"CN=hub\""]
    );
    assert_eq!(
        wrong(&format!("{SECURITY}, psk-allow-weak: true")),
        ["security.psk-allow-weak: there is no psk-file: remove it"]
    );
}

fn certificates(text: &str) -> Certificates {
    match good("security", text).security {
        Security::Keyed(_, peers) => peers.certificates.unwrap(),
        Security::None => panic!("clear"),
    }
}

#[test]
fn security_key_usage() {
    let policy = certificates(
        "key-usage: [digitalSignature+keyEncipherment, 0x88], key-usage-absent: allow",
    )
    .key_usage;
    let masks = ["0xa0", "digitalSignature+keyAgreement"].map(|mask| mask.parse().unwrap());
    assert_eq!(policy, KeyUsagePolicy { masks: masks.to_vec(), absent: Absent::Allow });
    bad(
        "security",
        "key-usage: [digitalSignatur]",
        "security.key-usage[0]: unknown key usage \"digitalSignatur\"; known are digitalSignature, \
         nonRepudiation, keyEncipherment, dataEncipherment, keyAgreement, keyCertSign, cRLSign, \
         encipherOnly, decipherOnly",
    );
    bad(
        "security",
        "key-usage: []",
        "security.key-usage: no certificate satisfies an empty list: expected [digitalSignature] \
         or [0xa0, 0x88]",
    );
    bad("security", "key-usage: 0x80", "security.key-usage: expected a list, found integer `128`");
    bad(
        "security",
        "key-usage-absent: ignore",
        "security.key-usage-absent: expected refuse or allow, found \"ignore\"",
    );
}

#[test]
fn security_extended_key_usage() {
    let policy = certificates(
        "extended-key-usage: [ipsecIKE, 1.3.6.1.5.5.7.3.1], extended-key-usage-absent: refuse",
    )
    .extended_key_usage;
    let any_of = ["1.3.6.1.5.5.7.3.17", "serverAuth"].map(|usage| usage.parse().unwrap());
    assert_eq!(policy, ExtendedKeyUsagePolicy { any_of: any_of.to_vec(), absent: Absent::Refuse });
    let [problem] = &problems(&file("security", "extended-key-usage: [serverAut]"))[..] else {
        panic!("one problem")
    };
    assert!(
        problem.starts_with("security.extended-key-usage[0]: \"serverAut\" is no extended key")
    );
    bad(
        "security",
        "extended-key-usage-absent: true",
        "security.extended-key-usage-absent: expected refuse or allow, found \"true\"",
    );
}
