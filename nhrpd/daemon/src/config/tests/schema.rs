//! `configs/nhrpd.schema.json` and the reference say what the daemon reads: no key more or less.

use std::collections::BTreeMap;

use boon::{Compiler, SchemaIndex, Schemas};
use serde_json::Value;

use super::super::raw::SECTIONS;
use super::*;

const SCHEMA: &str = include_str!("../../../../../configs/nhrpd.schema.json");
const REFERENCE: &str = include_str!("../../../../../docs/configuration.md");

/// Sections of the file, and where the schema and the reference have them.
const PLACES: [(&str, &str, &str); 10] = [
    ("Raw", "", ""),
    ("Tunnel", "/properties/tunnel", "tunnel"),
    ("Underlay", "/properties/underlay", "underlay"),
    ("Nhrp", "/properties/nhrp", "nhrp"),
    ("NextHopServer", "/properties/nhs/items", "nhs"),
    ("StaticMap", "/properties/map/items", "map"),
    ("Accept", "/properties/accept/items", "accept"),
    ("Security", "/properties/security", "security"),
    ("Limits", "/properties/limits", "limits"),
    ("Metrics", "/properties/metrics", "metrics"),
];

fn sections() -> BTreeMap<&'static str, Vec<String>> {
    let sections = SECTIONS.iter().map(|(name, keys)| {
        let mut keys: Vec<_> = keys.iter().map(|key| key.replace('_', "-")).collect();
        keys.sort();
        (*name, keys)
    });
    sections.collect()
}

fn schema() -> (Schemas, SchemaIndex) {
    let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
    let document = serde_json::from_str(SCHEMA).unwrap();
    compiler.add_resource("https://nhrpd.invalid/schema.json", document).unwrap();
    let index = compiler.compile("https://nhrpd.invalid/schema.json", &mut schemas).unwrap();
    (schemas, index)
}

fn validate(text: &str) -> Result<(), String> {
    let (schemas, index) = schema();
    let value: Value = serde_yaml::from_str(text).unwrap();
    schemas.validate(&value, index).map_err(|error| error.to_string())
}

#[test]
fn the_schema_has_every_key() {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let sections = sections();
    assert_eq!(sections.len(), PLACES.len());
    for (section, place, _) in PLACES {
        let object = schema.pointer(place).unwrap();
        let mut keys: Vec<_> = object["properties"].as_object().unwrap().keys().cloned().collect();
        keys.sort();
        assert_eq!(keys, sections[section], "{section}");
        assert_eq!(object["additionalProperties"], false, "{section}");
    }
}

#[test]
fn the_reference_has_every_key() {
    let sections = sections();
    let headings = |heading: &str| REFERENCE.split(&format!("\n{heading}\n")).nth(1);
    for key in &sections["Raw"] {
        assert!(headings(&format!("### `{key}`")).is_some(), "{key}");
    }
    for (section, _, key) in PLACES.into_iter().skip(1) {
        let text = headings(&format!("### `{key}`")).unwrap().split("\n### ").next().unwrap();
        let rows = text.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
        let mut keys: Vec<_> = rows.map(str::to_owned).collect();
        keys.sort();
        assert_eq!(keys, sections[section], "{section}");
    }
}

#[test]
fn every_example_validates() {
    let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
    let mut seen = 0;
    let files = ["hub.yaml", "spoke.yaml"].map(|name| configs.join(name));
    let files = files.iter().map(|path| std::fs::read_to_string(path).unwrap());
    let examples = REFERENCE.split("```yaml\n").skip(1);
    let examples = examples.map(|rest| rest.split("```").next().unwrap_or_default().to_owned());
    for text in files.chain(examples) {
        validate(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        seen += 1;
    }
    assert!(seen >= 7);
}

/// What the schema refuses, the daemon refuses too.
#[test]
fn the_schema_refuses_what_is_wrong() {
    for (section, text) in [
        ("tunnel", "mtu: 99"),
        ("tunnel", "interfac: x"),
        ("tunnel", "key: pink"),
        ("tunnel", "interface: a-name-too-long-for-it"),
        ("underlay", "port: 0"),
        ("nhrp", "holding-time: 1"),
        ("nhrp", "registrations: maybe"),
        ("nhrp", "authentication: ninebytes"),
        ("", "nhs: [{address: 172.16.0.2}]"),
        ("", "nhs: [{address: 172.16.0.2, nbma: 192.0.2.1, priority: 256}]"),
        ("", "routes: all"),
        ("", "advertise: everything"),
        ("", "multicast: [all]"),
        ("", "limits: {peers: 0}"),
        ("", "accept: [{identity: x, prefixes: []}]"),
        ("", "log: loud"),
        ("metrics", "listen: 9730"),
        ("metrics", "allow-remote: perhaps"),
        ("security", "key-usage: []"),
        ("security", "mode: ipsec"),
    ] {
        let text = file(section, text);
        assert!(validate(&text).is_err(), "{text}");
        assert!(read(&text).is_err(), "{text}");
    }
    let text = "tunnel: {address: 172.16.0.1/24}\nunderlay: {source: eth0}\nsecurity: {ca: x}\n";
    assert!(validate(text).is_err() && read(text).is_err(), "{text}");
}

/// And what the daemon takes in other ways of writing, the schema takes.
#[test]
fn the_schema_takes_what_is_right() {
    for (section, text) in [
        ("tunnel", "mtu: 1400, key: 0xffffffff"),
        ("nhrp", "authentication: 12345678, redirect: false, trust: any"),
        ("", "nhs: [{address: 172.16.0.2, nbma: \"[2001:db8::1]:4501\"}]"),
        ("", "multicast: [nhs, dynamic, 192.0.2.1]"),
        ("", "advertise: [192.168.0.0/24, 10.0.0.1]"),
        ("security", "key-usage: [0xa0, digitalSignature+keyAgreement]"),
    ] {
        let text = file(section, text);
        validate(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        read(&text).unwrap_or_else(|error| panic!("{error}"));
    }
}
