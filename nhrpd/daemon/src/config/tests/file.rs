//! Whole files: shape, places of problems, the samples and the documentation.

use super::*;

#[test]
fn sample_files_load() {
    let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
    let hub = load(&configs.join("hub.yaml")).unwrap_or_else(|error| panic!("{error}"));
    assert!(hub.nhrp.accept_registrations && hub.nhrp.redirect);
    let spoke = load(&configs.join("spoke.yaml")).unwrap_or_else(|error| panic!("{error}"));
    assert!(!spoke.nhrp.accept_registrations && !spoke.nhrp.redirect);
    assert_eq!(spoke.advertise, Advertise::Certificate);
    assert_eq!(spoke.nhs.len(), 1);
}

#[test]
fn documented_examples_load() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
    let document = std::fs::read_to_string(path).unwrap();
    let examples: Vec<_> = document
        .split("```yaml\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap_or_default())
        .collect();
    assert!(examples.len() >= 5);
    for example in examples {
        read(example).unwrap_or_else(|error| panic!("{error}\n{example}"));
    }
    // The two samples are shown as they are, but for their comments.
    for sample in ["hub.yaml", "spoke.yaml"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs").join(sample);
        let shown = document.split("```yaml\n").any(|rest| {
            let example = rest.split("```").next().unwrap_or_default();
            read(example).ok() == load(&path).ok()
        });
        assert!(shown, "{sample}");
    }
}

#[test]
fn every_problem_has_its_place() {
    let text = "\
# A spoke, all wrong.
tunnel:
  address: 172.16.0.0/24
  mtu: 99
underlay: {}
nhs:
  - address: 172.16.0.1
    nbma: hub.example.net
  - nbma: hub2.example.net
routes:
  - 10.0.0.0/8
  - 192.168.1.1/16
security:
  mode: none
";
    assert_eq!(
        read(text).unwrap_err().to_string(),
        "\
/etc/nhrpd/nhrpd.yaml:3:12: tunnel.address: 172.16.0.0 is the network address of 172.16.0.0/24
/etc/nhrpd/nhrpd.yaml:4:8: tunnel.mtu: expected auto or a number from 576 to 65535, found \"99\"
/etc/nhrpd/nhrpd.yaml:5:11: underlay.source: missing: expected the device or IP address that the \
tunnel's packets leave from
/etc/nhrpd/nhrpd.yaml:9:5: nhs[1].address: missing: expected the tunnel address of the next-hop server
/etc/nhrpd/nhrpd.yaml:12:5: routes[1]: 192.168.1.1/16 has host bits set: write 192.168.0.0/16, or \
192.168.1.1/32 for this address alone"
    );
}

#[test]
fn shape() {
    for (text, expected) in [
        ("tunnel:\n  interfac: x", "2:3: tunnel.interfac: unknown key: did you mean interface?"),
        ("nhs:\n- adress: x", "2:3: nhs[0].adress: unknown key: did you mean address?"),
        ("limit: {peers: 1}", "1:1: limit: unknown key: did you mean limits?"),
        (
            "limits: {x: 1}",
            "1:10: limits.x: unknown key: expected peers, cache-entries, \
          packets-per-peer, half-open, half-open-per-source, dead-peer-interval",
        ),
        ("tunnel:\n  key: 1\n  key: 2", "2:3: tunnel.key: given twice"),
        ("tunnel: 5", "1:9: tunnel: expected keys and values, found integer `5`"),
        ("tunnel:\n  address: [1]", "2:12: tunnel.address: expected a single value, found a list"),
        ("nhs: hub", "1:6: nhs: expected a list, found string \"hub\""),
        ("- x", "1:1: expected keys and values, found a list"),
        (
            "nhrp:\n  authentication: [SECRET]",
            "2:19: nhrp.authentication: expected a single value, \
          found a list",
        ),
        ("tunnel: {\n  key: ]", "2:8: did not find expected node content"),
    ] {
        let error = read(text).unwrap_err().to_string();
        assert_eq!(error, format!("/etc/nhrpd/nhrpd.yaml:{expected}"), "{text}");
    }
}

#[test]
fn empty_files_say_what_is_needed() {
    for text in ["", "# nothing yet\n", "tunnel:\nunderlay:\nsecurity:\n"] {
        let problems = problems(text);
        let keys: Vec<_> = problems.iter().filter_map(|text| text.split(": ").next()).collect();
        assert_eq!(keys.len(), 3, "{problems:?}");
        for key in ["tunnel.address", "underlay.source", "security"] {
            assert!(keys.contains(&key), "{key}: {problems:?}");
        }
    }
}

#[test]
fn a_missing_file_is_named() {
    let error = load(Path::new("/nonexistent/nhrpd.yaml")).unwrap_err().to_string();
    assert_eq!(
        error,
        "cannot read /nonexistent/nhrpd.yaml: No such file or directory (os error 2)"
    );
}
