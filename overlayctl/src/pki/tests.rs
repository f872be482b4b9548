use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use clap::Parser;
use pki::{Credential, Policy, Refusal, Verifier};
use serde_json::Value;
use tempfile::TempDir;

use super::*;

/// 2026-11-21 00:00:00 UTC.
const NOW: u64 = 1_795_219_200;
const DAY: u64 = 86_400;

#[derive(Debug, Parser)]
struct Line {
    #[command(subcommand)]
    command: PkiCommand,
}

/// A folder, and commands that work in it.
struct Ca(TempDir);

impl Ca {
    fn empty() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn new() -> Self {
        let ca = Self::empty();
        ca.good("init");
        ca
    }

    fn path(&self, file: &str) -> PathBuf {
        self.0.path().join("pki").join(file)
    }

    fn parse(&self, line: &str) -> Result<PkiCommand, clap::Error> {
        let folder = self.path("");
        let words = ["pki"].into_iter().chain(line.split_whitespace());
        Line::try_parse_from(words.chain(["--dir", folder.to_str().unwrap()]))
            .map(|line| line.command)
    }

    fn at(&self, line: &str, json: bool, now: u64) -> anyhow::Result<String> {
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
        execute(self.parse(line).unwrap(), json, now)
    }

    fn good(&self, line: &str) -> String {
        self.at(line, false, NOW).unwrap()
    }

    fn json(&self, line: &str) -> Value {
        serde_json::from_str(&self.at(line, true, NOW).unwrap()).unwrap()
    }

    /// The one line that the user sees, with the folder left out.
    fn bad(&self, line: &str) -> String {
        let error = format!("{:#}", self.at(line, false, NOW).unwrap_err());
        assert!(!error.contains('\n'), "{error}");
        error.replace(self.path("").to_str().unwrap(), "PKI/")
    }

    /// What clap says to a wrong line; it exits with 2.
    fn wrong(&self, line: &str) -> String {
        let error = self.parse(line).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        error.to_string()
    }

    fn mode(&self, file: &str) -> u32 {
        std::fs::metadata(self.path(file)).unwrap().permissions().mode() & 0o777
    }

    fn read(&self, file: &str) -> Vec<u8> {
        std::fs::read(self.path(file)).unwrap()
    }

    fn verify(&self, name: &str) -> Result<Certificate, Refusal> {
        let certificate = self.read(&format!("issued/{name}.crt"));
        let own = Credential::from_pem(&certificate, &self.read(&format!("issued/{name}.key")));
        let anchors = pki::certificates(&self.read("ca.crt")).unwrap();
        let lists = pki::revocation_lists(&self.read("crl.pem")).unwrap();
        Verifier::new(&anchors, &lists, Policy::default())
            .unwrap()
            .verify(own.unwrap().chain(), UnixTime::since_unix_epoch(Duration::from_secs(NOW)))
    }
}

const HUB: &str = "issue hub1 --address 172.16.0.1 --prefix 192.168.0.0/24 --dns hub1.example.net";

#[test]
fn init_and_issue_make_what_a_node_needs() {
    let ca = Ca::new();
    ca.good(HUB);
    let hub = ca.verify("hub1").unwrap();
    assert_eq!(hub.identity.subject, "CN=hub1");
    assert_eq!(hub.identity.dns, ["hub1.example.net"]);
    let nets = |list: &[&str]| list.iter().map(|net| net.parse().unwrap()).collect();
    assert_eq!(*hub.prefixes(), nets(&["192.168.0.0/24"]));
    assert_eq!(hub.allowed, nets(&["172.16.0.1/32", "192.168.0.0/24"]));
    assert_eq!(hub.not_before.as_secs(), NOW - 3600);
    assert_eq!(hub.not_after.as_secs(), NOW + 825 * DAY);
}

#[test]
fn keys_are_for_their_owner_only() {
    let ca = Ca::new();
    ca.good(HUB);
    for file in ["ca.key", "issued/hub1.key"] {
        assert_eq!(ca.mode(file), 0o600, "{file}");
    }
    // A file that others could read is replaced, not written into.
    std::fs::set_permissions(ca.path("issued/hub1.key"), std::fs::Permissions::from_mode(0o644))
        .unwrap();
    ca.good(&format!("{HUB} --force"));
    assert_eq!(ca.mode("issued/hub1.key"), 0o600);
    // Nothing is left beside the files.
    let mut names: Vec<_> = std::fs::read_dir(ca.path("issued"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["hub1.crt", "hub1.key"]);
}

#[test]
fn nothing_is_overwritten_unasked() {
    let ca = Ca::new();
    let before = ca.read("ca.key");
    assert_eq!(ca.bad("init"), "PKI/ca.key is there already; --force replaces it");
    assert_eq!(ca.read("ca.key"), before);
    ca.good(HUB);
    let before = ca.read("issued/hub1.key");
    assert_eq!(ca.bad(HUB), "PKI/issued/hub1.crt is there already; --force replaces it");
    assert_eq!(ca.read("issued/hub1.key"), before);
    ca.good(&format!("{HUB} --force"));
    assert_ne!(ca.read("issued/hub1.key"), before);
    ca.verify("hub1").unwrap();
}

#[test]
fn a_new_ca_begins_anew() {
    let ca = Ca::new();
    ca.good(HUB);
    ca.good("init --force");
    assert!(matches!(ca.verify("hub1"), Err(Refusal::NotSignedByIssuer { .. })));
    assert_eq!(ca.json("show")["issued"], Value::Array(vec![]));
}

#[test]
fn every_option_arrives() {
    let ca = Ca::empty();
    ca.good("init --name Branches --days 100 --key-type ed25519");
    let shown = ca.json(
        "issue s1 --address 172.16.0.2 --address fd00::2 --prefix 10.0.0.0/24 --prefix 10.0.1.0/24 \
         --key-usage 0x88 --extended-key-usage ipsecIKE --days 30 --key-type p384",
    );
    let shown = &shown["certificate"];
    assert_eq!(shown["issuer"], "CN=Branches");
    assert_eq!(shown["addresses"], serde_json::json!(["172.16.0.2", "fd00::2"]));
    assert_eq!(shown["prefixes"], serde_json::json!(["10.0.0.0/23"]));
    assert_eq!(shown["key_usage"]["bits"], "0x88");
    assert_eq!(
        shown["key_usage"]["names"],
        serde_json::json!(["digitalSignature", "keyAgreement"])
    );
    assert_eq!(shown["extended_key_usage"], serde_json::json!(["ipsecIKE"]));
    assert_eq!(shown["not_after"], "2026-12-21T00:00:00Z");
    assert_eq!(shown["seconds_left"], 30 * DAY);
    assert_eq!(shown["ca"], false);
    // No longer than the CA itself.
    let shown = ca.json("issue s2 --days 900 --key-usage none");
    assert_eq!(shown["certificate"]["seconds_left"], 100 * DAY);
    assert_eq!(shown["certificate"]["key_usage"], Value::Null);
    assert!(matches!(ca.verify("s2"), Err(Refusal::KeyUsage { actual: None, .. })));
}

#[test]
fn out_puts_the_files_elsewhere() {
    let ca = Ca::new();
    let out = ca.0.path().join("for/hub");
    ca.good(&format!("{HUB} --out {}", out.display()));
    assert!(out.join("hub1.crt").exists() && out.join("hub1.key").exists());
    assert!(!ca.path("issued").exists());
}

#[test]
fn an_address_has_one_owner() {
    let ca = Ca::new();
    ca.good(HUB);
    let thief = "issue spoke1 --address 172.16.0.9 --address 172.16.0.1";
    assert_eq!(
        ca.bad(thief),
        "172.16.0.1 is hub1's; revoke that certificate first, or use --force"
    );
    ca.good("revoke hub1");
    ca.good(thief);
}

#[test]
fn revoked_nodes_are_refused_by_the_list() {
    let ca = Ca::new();
    ca.good(HUB);
    ca.good("issue spoke1");
    ca.verify("hub1").unwrap();
    let revoked = ca.json("revoke hub1");
    assert_eq!(revoked["revoked"][0]["name"], "hub1");
    assert_eq!(revoked["next_update"], "2027-02-19T00:00:00Z");
    assert!(matches!(ca.verify("hub1"), Err(Refusal::Revoked { .. })));
    ca.verify("spoke1").unwrap();

    // A new certificate of the same name is good; the old one stays revoked.
    let old = ca.read("issued/hub1.crt");
    ca.good(&format!("{HUB} --force"));
    ca.verify("hub1").unwrap();
    ca.good("revoke");
    std::fs::write(ca.path("issued/hub1.crt"), &old).unwrap();
    let serial = ca.json(&format!("show {}", ca.path("issued/hub1.crt").display()));
    let states = ca.json("show");
    assert_eq!(states["issued"][0]["serial"], serial["certificates"][0]["serial"]);
    let states = states["issued"].as_array().unwrap().iter().map(|one| one["state"].clone());
    assert_eq!(states.collect::<Vec<_>>(), ["revoked", "valid", "valid"]);
}

#[test]
fn one_of_two_certificates_is_revoked_by_its_serial_number() {
    let ca = Ca::new();
    let old = ca.json(HUB)["certificate"]["serial"].as_str().unwrap().to_owned();
    ca.good(&format!("{HUB} --force"));
    // As `openssl x509 -text` writes it.
    let colons: Vec<_> =
        old.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap()).collect();
    ca.good(&format!("revoke {}", colons.join(":").to_uppercase()));
    ca.verify("hub1").unwrap();
    assert_eq!(ca.json("show")["issued"][0]["state"], "revoked");
}

#[test]
fn revoking_an_unknown_name_changes_nothing() {
    let ca = Ca::new();
    ca.good("issue spoke1");
    let before = (ca.read("index.json"), ca.read("crl.pem"));
    assert_eq!(
        ca.bad("revoke spoke1 spoke7"),
        "this CA has issued no certificate with the name or serial number spoke7"
    );
    assert_eq!((ca.read("index.json"), ca.read("crl.pem")), before);
}

#[test]
fn without_a_ca_the_words_say_what_to_do() {
    let ca = Ca::empty();
    let expected = "there is no CA in PKI/; make one with pki init, or name its folder with --dir";
    for line in [HUB, "revoke", "show"] {
        assert_eq!(ca.bad(line), expected);
    }
}

#[test]
fn broken_files_are_named() {
    let ca = Ca::new();
    std::fs::write(ca.path("index.json"), "{").unwrap();
    assert!(ca.bad("show").starts_with("PKI/index.json: EOF while parsing"));
    std::fs::write(ca.path("ca.key"), "").unwrap();
    assert_eq!(
        ca.bad("revoke"),
        "PKI/ca.crt with PKI/ca.key: no PRIVATE KEY block; the file has no PEM block at all"
    );
    assert!(ca.bad("show nowhere.crt").starts_with("cannot read nowhere.crt: No such file"));
    let key = ca.path("ca.key");
    assert!(ca.bad(&format!("show {}", key.display())).contains("no CERTIFICATE block"));
}

#[test]
fn an_expired_ca_issues_nothing() {
    let ca = Ca::new();
    let error = ca.at(HUB, false, NOW + 4000 * DAY).unwrap_err().to_string();
    assert_eq!(error, "the CA expired at 2036-11-18 00:00:00 UTC; make a new one with pki init");
}

#[test]
fn wrong_usage_is_refused_before_anything_is_done() {
    let ca = Ca::empty();
    for (line, expected) in [
        ("issue", "<NAME>"),
        ("issue ../../etc/passwd", "it names files too"),
        ("issue .hidden", "it names files too"),
        ("issue x --prefix 192.168.1.1/24", "192.168.1.0/24 is meant?"),
        ("issue x --prefix 192.168.1.0", "such as 192.168.1.0/24"),
        ("issue x --address 172.16.0.300", "invalid IP address"),
        ("issue x --key-usage a0", "hexadecimal is written 0xa0"),
        ("issue x --key-usage sign", "known are digitalSignature"),
        ("issue x --key-type dsa", "known are p256"),
        ("issue x --extended-key-usage tls", "is no extended key usage"),
        ("issue x --days 0", "0 is not in 1..=36500"),
        ("init --name=", "a value is required"),
    ] {
        let error = ca.wrong(line);
        assert!(error.contains(expected), "{line}: {error}");
    }
    assert!(!ca.path("").exists());
}

#[test]
fn text_is_for_people() {
    let ca = Ca::new();
    ca.good(&format!("{HUB} --key-usage 0xa0 --extended-key-usage serverAuth"));
    let text = ca.good(&format!("show {}", ca.path("issued/hub1.crt").display()));
    let changing = |line: &&str| !line.starts_with("Serial") && !line.starts_with("SHA-256");
    let steady: Vec<_> = text.lines().filter(changing).collect();
    insta::assert_snapshot!(steady.join("\n"), @r"
    Subject             CN=hub1
    Issuer              CN=Overlay CA
    Addresses           172.16.0.1
    Prefixes            192.168.0.0/24
    DNS names           hub1.example.net
    Key usage           0xa0 (digitalSignature+keyEncipherment)
    Extended key usage  serverAuth
    Validity            2026-11-20 23:00:00 UTC to 2029-02-23 00:00:00 UTC (825 days left)
    ");
}

#[test]
fn expiry_is_shown() {
    let ca = Ca::new();
    ca.good("issue hub1 --days 10");
    let show = format!("show {}", ca.path("issued/hub1.crt").display());
    let shown = |now| ca.at(&show, false, now).unwrap();
    assert!(shown(NOW).contains("(10 days left)"));
    assert!(shown(NOW + 9 * DAY).contains("(1 day left)"));
    assert!(shown(NOW + 13 * DAY).contains("(expired 3 days ago)"));
    assert!(shown(NOW - 2 * DAY).contains("(not valid for another 1 day)"));
    let later: Value = serde_json::from_str(&ca.at("show", true, NOW + 13 * DAY).unwrap()).unwrap();
    assert_eq!(later["issued"][0]["state"], "expired");
}

#[test]
fn the_overview_lists_what_was_issued() {
    let ca = Ca::new();
    ca.good(HUB);
    let text = ca.good("show");
    assert!(text.contains("Subject             CN=Overlay CA\n"), "{text}");
    let (_, list) = text.split_once("\nIssued: 1 certificate\n").unwrap();
    let row: Vec<_> = list.lines().last().unwrap().split_whitespace().collect();
    assert_eq!(
        [row[0], row[1], row[2], row[4]],
        ["hub1", "valid", "2029-02-23T00:00:00Z", "172.16.0.1"]
    );
}

/// Two runs at once: neither is lost.
#[test]
fn runs_wait_for_one_another() {
    let ca = Ca::new();
    std::thread::scope(|scope| {
        for name in 0..8 {
            let ca = &ca;
            scope.spawn(move || ca.good(&format!("issue node{name}")));
        }
    });
    assert_eq!(ca.json("show")["issued"].as_array().unwrap().len(), 8);
}

#[test]
fn a_link_in_the_place_of_a_key_is_not_followed() {
    let ca = Ca::new();
    let elsewhere = ca.0.path().join("elsewhere");
    std::fs::create_dir(ca.path("issued")).unwrap();
    std::os::unix::fs::symlink(&elsewhere, ca.path("issued/hub1.key")).unwrap();
    assert!(ca.bad(HUB).contains("hub1.key is there already"));
    ca.good(&format!("{HUB} --force"));
    assert!(!Path::new(&elsewhere).exists());
    assert_eq!(ca.mode("issued/hub1.key"), 0o600);
}

#[test]
fn renewal_keeps_key_and_claims() {
    let ca = Ca::new();
    ca.good(HUB);
    let (key, before) = (ca.read("issued/hub1.key"), ca.verify("hub1").unwrap());
    let soon = NOW + 800 * DAY;
    let due = ca.at("show", false, soon).unwrap();
    assert!(due.contains("hub1 ends at") && due.contains("pki renew hub1"), "{due}");
    assert!(!ca.good("show").contains("pki renew"));
    ca.at("renew hub1", false, soon).unwrap();
    assert_eq!(ca.read("issued/hub1.key"), key);
    let chain = pki::certificates(&ca.read("issued/hub1.crt")).unwrap();
    let after = Certificate::parse(&chain[0]).unwrap();
    assert_eq!(after.allowed, before.allowed);
    assert_eq!((&after.identity, after.key_usage), (&before.identity, before.key_usage));
    assert_eq!(after.not_after.as_secs(), soon + 825 * DAY);
    assert_ne!(after.serial, before.serial);
    assert!(Credential::from_pem(&ca.read("issued/hub1.crt"), &key).is_ok());
    assert!(!ca.at("show", false, soon).unwrap().contains("pki renew"));
    ca.good("revoke hub1");
    assert!(ca.bad("renew hub1").contains("is revoked"));
}

#[test]
fn a_key_that_never_leaves_its_node_gets_a_certificate() {
    let ca = Ca::new();
    let here = ca.0.path().join("branch");
    let out = here.to_str().unwrap();
    for kind in ["p256", "p384", "ed25519", "rsa"] {
        let name = format!("branch-{kind}");
        // It needs no CA, so it takes no folder of one.
        let words = ["pki", "request", &name, "--out", out, "--key-type", kind];
        let Line { command } = Line::try_parse_from(words).unwrap();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(NOW));
        execute(command, false, now).unwrap();
        let mode =
            std::fs::metadata(here.join(format!("{name}.key"))).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let last = kind.len();
        ca.good(&format!(
            "sign {out}/{name}.csr --address 172.16.0.{last} --prefix 10.{last}.0.0/16 --force"
        ));
        let certificate = ca.read(&format!("issued/{name}.crt"));
        let own = Credential::from_pem(
            &certificate,
            &std::fs::read(here.join(format!("{name}.key"))).unwrap(),
        );
        let own = own.unwrap();
        assert_eq!(own.certificate().identity.subject, format!("CN={name}"));
        assert!(own.certificate().allows(&format!("10.{last}.0.0/16").parse().unwrap()));
    }
    // One that another key has signed is nobody's.
    let forged = here.join("forged.csr");
    let mut pem = std::fs::read_to_string(here.join("branch-p256.csr")).unwrap();
    let letter = |at: &usize| pem.as_bytes()[*at].is_ascii_alphanumeric();
    let at = (pem.len() - 80..pem.len()).find(letter).unwrap();
    let other = if pem.as_bytes()[at] == b'A' { "B" } else { "A" };
    pem.replace_range(at..=at, other);
    std::fs::write(&forged, pem).unwrap();
    assert!(ca.bad(&format!("sign {out}/forged.csr --name x")).contains("the request is no good"));
    assert!(ca.bad("sign /dev/null --name x").contains("no PEM block CERTIFICATE REQUEST"));
}

#[test]
fn a_bundle_is_all_that_a_branch_needs() {
    let ca = Ca::new();
    ca.good("issue branch7 --address 172.16.0.7 --prefix 192.168.7.0/24");
    let file = ca.0.path().join("branch7.tar");
    let line = format!(
        "bundle branch7 --nhs 172.16.0.1=hub.example.net --route 192.168.0.0/16 --key 42 --out {}",
        file.display()
    );
    ca.good(&line);
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let folder = tempfile::tempdir().unwrap();
    let mut archive = tar::Archive::new(std::fs::File::open(&file).unwrap());
    archive.set_preserve_permissions(true);
    archive.unpack(folder.path()).unwrap();
    let config = nhrpd::config::load(&folder.path().join("nhrpd.yaml")).unwrap();
    assert_eq!(config.tunnel.address, "172.16.0.7/24".parse().unwrap());
    assert_eq!((config.tunnel.key, config.nhs.len(), config.routes.len()), (Some(42), 1, 1));
    // Keys open to others, or certificates that do not fit, would be errors here.
    assert!(nhrpd::doubts(&config).is_ok());
    assert!(ca.bad(&line).contains("is there already"));
    ca.good("issue nobody");
    assert!(ca.bad("bundle nobody --out /nowhere").contains("has no tunnel address"));
}
