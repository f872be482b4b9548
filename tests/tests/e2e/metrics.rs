//! What Prometheus reads of real daemons, and that dashboard and alerts ask for nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use overlay_tests::e2e::{Ca, Scene, Site, go_direct, until};
use serde_json::{Value, json};

/// Samples by name and labels, as they stand in the line.
struct Scrape {
    text: String,
    kinds: BTreeMap<String, String>,
    samples: BTreeMap<String, f64>,
}

impl Scrape {
    fn of(scene: &Scene, node: &str) -> Self {
        let pid = scene.daemons[node].pid();
        let mut stream =
            UnixStream::connect(format!("/proc/{pid}/root/run/nhrpd/metrics.sock")).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).unwrap();
        let (head, text) = reply.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(head.contains("application/openmetrics-text; version=1.0.0"), "{head}");
        Self { text: text.to_owned(), ..Self::parse(text) }
    }

    /// OpenMetrics 1.0: every sample belongs to a family with TYPE and HELP, its suffix is the
    /// type's, no sample is there twice, and EOF ends it.
    fn parse(text: &str) -> Self {
        let (mut kinds, mut helped) = (BTreeMap::new(), BTreeSet::new());
        let mut samples = BTreeMap::new();
        let body = text.strip_suffix("# EOF\n").expect("it ends with EOF");
        for line in body.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap();
                assert!(help.ends_with('.'), "{line}");
                assert!(helped.insert(name.to_owned()), "{line}");
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert!(kinds.insert(name.to_owned(), kind.to_owned()).is_none(), "{line}");
            } else {
                let (series, value) = line.rsplit_once(' ').unwrap();
                let name = series.split('{').next().unwrap();
                let suffixes: &[&str] = &["_total", "_info", "_bucket", "_sum", "_count", ""];
                let family = suffixes.iter().find_map(|suffix| {
                    let family = name.strip_suffix(suffix)?;
                    kinds.get(family).map(|kind: &String| (family, kind.as_str(), *suffix))
                });
                let (family, kind, suffix) = family.unwrap_or_else(|| panic!("no TYPE: {line}"));
                assert!(family.starts_with("nhrpd_") && helped.contains(family), "{line}");
                let fits = match kind {
                    "counter" => suffix == "_total",
                    "gauge" => suffix.is_empty(),
                    "info" => suffix == "_info",
                    "histogram" => ["_bucket", "_sum", "_count"].contains(&suffix),
                    other => panic!("{other}"),
                };
                assert!(fits, "{line}");
                assert!(series.contains("interface=\"dmvpn0\""), "{line}");
                let value: f64 = value.parse().unwrap();
                assert!(samples.insert(series.to_owned(), value).is_none(), "twice: {line}");
            }
        }
        Self { text: String::new(), kinds, samples }
    }

    /// The one sample of this name whose labels are, among others, these.
    #[track_caller]
    fn value(&self, name: &str, labels: &[&str]) -> f64 {
        let fits = |series: &&String| {
            series.split('{').next() == Some(name) && labels.iter().all(|l| series.contains(l))
        };
        let found: Vec<_> = self.samples.keys().filter(fits).collect();
        let [series] = &found[..] else { panic!("{name} {labels:?}: {found:?}") };
        self.samples[*series]
    }

    fn names(&self) -> BTreeSet<String> {
        self.samples.keys().map(|series| series.split('{').next().unwrap().to_owned()).collect()
    }
}

fn scene(name: &str) -> Scene {
    let ca = Ca::new("Overlay CA");
    let listen = "{ listen: unix:/run/nhrpd/metrics.sock }";
    let list = ca.revoke(&Site::new(&ca, 9).identity);
    let site = |number| {
        let site = Site::new(&ca, number).set("metrics", listen).secure("crl: crl.pem");
        site.file("crl.pem", list.clone())
    };
    let mut scene = Scene::new(name, (0..=2).map(site));
    scene.start_all();
    scene.all_registered();
    scene
}

#[test]
fn a_scrape_tells_what_happened() {
    let scene = scene("metrics");
    let mut ping = scene.ping("host-a", "192.168.2.10", None, 10);
    go_direct(&mut ping);
    let replies = ping.stop();

    let spoke = Scrape::of(&scene, "spoke-a");
    assert_eq!(spoke.value("nhrpd_peers", &["state=\"up\""]), 2.0);
    assert_eq!(spoke.value("nhrpd_next_hop_server_up", &["server=\"172.16.0.1\""]), 1.0);
    assert_eq!(spoke.value("nhrpd_ike_sas", &["state=\"established\""]), 2.0);
    assert!(spoke.value("nhrpd_shortcuts", &["state=\"active\""]) >= 1.0);
    for histogram in ["registration", "resolution", "ike_key_exchange"] {
        let count = spoke.value(&format!("nhrpd_{histogram}_seconds_count"), &[]);
        let sum = spoke.value(&format!("nhrpd_{histogram}_seconds_sum"), &[]);
        assert!(count >= 1.0 && sum > 0.0 && sum < 10.0 * count, "{histogram}: {count}, {sum}");
    }
    let to_b = ["peer=\"CN=spoke-b\""];
    let sent = spoke.value("nhrpd_peer_transmitted_packets_total", &to_b);
    assert!(sent >= 5.0 && sent <= f64::from(replies.sent()) + 10.0, "{sent}");
    assert!(spoke.value("nhrpd_peer_received_bytes_total", &to_b) > 84.0 * 5.0);
    let year = 365.0 * 86_400.0;
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    let expiry = ["role=\"own\"", "subject=\"CN=spoke-a\""];
    let left = spoke.value("nhrpd_certificate_expiry_timestamp_seconds", &expiry) - now;
    assert!(left > 0.0 && left < 2.0 * year, "{left}");

    let hub = Scrape::of(&scene, "hub");
    assert_eq!(hub.value("nhrpd_registrations", &[]), 4.0);
    let registered = ["direction=\"received\"", "type=\"registration_request\""];
    assert!(hub.value("nhrpd_nhrp_packets_total", &registered) >= 4.0);
    assert_eq!(hub.value("nhrpd_events_total", &["kind=\"registered\""]), 4.0);
    assert_eq!(hub.value("nhrpd_events_total", &["kind=\"refused\""]), 0.0);

    // Keys change: the path is another one, the counters of the peer go on.
    scene.run("hub", "overlayctl clear nhrp peer 172.16.0.2");
    scene.all_registered();
    let rises = |series: &(&String, &f64)| {
        let kind = hub.kinds.iter().find(|(name, _)| series.0.starts_with(name.as_str()));
        kind.is_some_and(|(_, kind)| kind == "counter")
    };
    let again = Scrape::of(&scene, "hub");
    for (series, value) in hub.samples.iter().filter(rises) {
        assert!(
            again.samples[series] >= *value,
            "{series}: {value}, then {}",
            again.samples[series]
        );
    }
    assert!(again.value("nhrpd_events_total", &["kind=\"peer_down\""]) >= 1.0);
}

/// Words of a query that are names of metrics.
fn asked_for(query: &str) -> impl Iterator<Item = String> {
    let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("nhrpd_")).map(str::to_owned)
}

/// Labels of a query that must have one of some values, each with each of them.
fn labels(query: &str) -> impl Iterator<Item = (&str, &str)> {
    let conditions = query.split(['{', ',']).filter_map(|part| {
        let (label, rest) = part.split_once("=\"").or_else(|| part.split_once("=~\""))?;
        let (values, _) = rest.split_once('"')?;
        let ours = ["kind", "reason", "state"].contains(&label);
        ours.then_some((label, values))
    });
    conditions.flat_map(|(label, values)| values.split('|').map(move |value| (label, value)))
}

/// Prometheus' own tool, which must be content.
fn promtool(arguments: &[&str]) {
    let output = Command::new("promtool").args(arguments).output();
    let output = output.expect("promtool; tests/run fetches it (lab/setup.sh: unpacked)");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    println!("promtool {}\n{said}", arguments.join(" "));
    assert!(output.status.success(), "promtool {}: {said}", arguments.join(" "));
}

/// With its parser of OpenMetrics, which wants a time in each line.
#[test]
fn prometheus_takes_the_page() {
    let scene = scene("promtool");
    let folder = tempfile::tempdir().unwrap();
    for node in ["hub", "spoke-a"] {
        let lines = Scrape::of(&scene, node).text;
        let timed = lines.lines().map(|line| match line.starts_with('#') {
            true => format!("{line}\n"),
            false => format!("{line} 1800000000\n"),
        });
        let file = folder.path().join(node);
        std::fs::write(&file, timed.collect::<String>()).unwrap();
        let (file, into) = (file.to_str().unwrap(), folder.path().join("blocks"));
        promtool(&["tsdb", "create-blocks-from", "openmetrics", file, into.to_str().unwrap()]);
    }
}

/// The dashboard's queries are checked as if they were rules.
#[test]
fn prometheus_takes_alerts_and_queries() {
    let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/monitoring");
    promtool(&["check", "rules", configs.join("alerts.yaml").to_str().unwrap()]);
    let dashboard = std::fs::read_to_string(configs.join("dashboard.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let mut queries = Vec::new();
    strings(&dashboard, "expr", &mut queries);
    let rules = queries.iter().zip(1..).map(|(query, number)| {
        let query = query.replace("$__rate_interval", "5m");
        json!({ "record": format!("dashboard:query:{number}"), "expr": query })
    });
    let rules = json!({ "groups": [{ "name": "dashboard", "rules": rules.collect::<Vec<_>>() }] });
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("queries.yaml");
    std::fs::write(&file, rules.to_string()).unwrap();
    promtool(&["check", "rules", file.to_str().unwrap()]);
}

/// Every string under this key, however deep.
fn strings<'a>(value: &'a Value, key: &str, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                if name == key {
                    found.extend(value.as_str());
                }
                strings(value, key, found);
            }
        }
        Value::Array(all) => all.iter().for_each(|value| strings(value, key, found)),
        _ => {}
    }
}

#[test]
fn dashboard_and_alerts_ask_for_what_there_is() {
    let scene = scene("dashboard");
    // A metric of the other side may be missing here: the hub has no server.
    let (names, texts) = until("everything is there", || {
        let all = ["hub", "spoke-a"].map(|node| Scrape::of(&scene, node));
        let names: BTreeSet<String> = all.iter().flat_map(Scrape::names).collect();
        let found = names.contains("nhrpd_peer_transmitted_bytes_total");
        found.then(|| (names, all.map(|scrape| scrape.text)))
    });
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/monitoring");
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let dashboard: Value = serde_json::from_str(&read("dashboard.json")).unwrap();
    let rules: Value = serde_yaml::from_str(&read("alerts.yaml")).unwrap();
    let mut queries = Vec::new();
    for (file, least) in [(&dashboard, 12), (&rules, 8)] {
        let before = queries.len();
        strings(file, "expr", &mut queries);
        assert!(queries.len() - before >= least);
    }
    for query in queries {
        let asked: Vec<String> = asked_for(query).collect();
        assert!(!asked.is_empty(), "{query}");
        for name in asked {
            assert!(names.contains(&name), "{name} in: {query}");
        }
        for (label, value) in labels(query) {
            let found = texts.iter().any(|text| text.contains(&format!("{label}=\"{value}\"")));
            assert!(found, "{label}=\"{value}\" in: {query}");
        }
    }
    for alert in rules["groups"][0]["rules"].as_array().unwrap() {
        let words =
            [&alert["alert"], &alert["annotations"]["summary"], &alert["annotations"]["action"]];
        assert!(words.iter().all(|word| word.is_string()), "{alert}");
    }
}
