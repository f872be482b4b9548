use std::path::Path;
use std::time::Duration;

use clap::Parser as _;
use nhrpd::config::{Config, Multicast, Security, Source};
use proptest::prelude::*;

use super::*;

const HUB: &str = include_str!("samples/ios-hub.cfg");
const SPOKE: &str = include_str!("samples/ios-spoke.cfg");
const RICH: &str = include_str!("samples/ios-rich.cfg");
const FRR: &str = include_str!("samples/frr.conf");
const OPENNHRP: &str = include_str!("samples/opennhrp.conf");

#[derive(Debug, clap::Parser)]
struct Arguments {
    #[command(subcommand)]
    command: ImportCommand,
}

fn import(arguments: &str, text: &str) -> anyhow::Result<Imported> {
    let arguments = Arguments::try_parse_from(["import"].into_iter().chain(arguments.split(' ')))?;
    convert(&arguments.command, text)
}

fn load(imported: &Imported) -> Config {
    nhrpd::config::parse(&imported.configuration, Path::new("/etc/nhrpd/nhrpd.yaml"))
        .unwrap_or_else(|error| panic!("{error}\n{}", imported.configuration))
}

/// As the user sees it; the configuration loads.
fn seen(arguments: &str, text: &str) -> String {
    let imported = import(arguments, text).unwrap();
    load(&imported);
    let notes = imported.notes.iter().map(|note| format!("FILE{note}"));
    let next = imported.next.iter().map(|step| format!("next: {step}"));
    let beside: Vec<String> = notes.chain(next).collect();
    let shown = format!("{}---\n{}\n", imported.configuration, beside.join("\n"));
    assert!(!shown.contains("NEVERSHOWTHIS"), "{shown}");
    shown
}

#[test]
fn the_seed_hub_carries_over() {
    insta::assert_snapshot!(seen("ios -", HUB));
    let config = load(&import("ios -", HUB).unwrap());
    assert_eq!(config.tunnel.address.to_string(), "172.16.0.1/24");
    assert_eq!(config.tunnel.key, Some(42));
    assert_eq!(config.nhrp.network_id, 1);
    assert_eq!(config.nhrp.holding_time, Duration::from_secs(300));
    assert_eq!(config.nhrp.authentication.map(|password| password.0), Some(b"DMVPN".to_vec()));
    assert_eq!(config.multicast, [Multicast::Dynamic]);
    assert!(config.nhrp.accept_registrations && config.nhrp.redirect);
    assert_eq!(config.limits.dead_peer_interval, Duration::from_secs(10));
    assert!(matches!(config.security, Security::Keyed(..)));
}

#[test]
fn the_seed_spoke_carries_over() {
    insta::assert_snapshot!(seen("ios - --source wan0", SPOKE));
    let config = load(&import("ios - --source wan0", SPOKE).unwrap());
    assert_eq!(config.underlay.source, Source::Device("wan0".to_owned()));
    assert_eq!(config.nhs.len(), 1);
    assert_eq!(config.nhs[0].nbma.to_string(), "198.51.100.1");
    assert_eq!(config.multicast, [Multicast::Nhs]);
    assert_eq!(config.map.len(), 1, "172.16.0.9, which is no server");
    assert_eq!(config.routes, ["192.168.0.0/16".parse().unwrap()]);
    assert!(config.nhrp.shortcut);
}

#[test]
fn several_servers_and_ikev2() {
    insta::assert_snapshot!(seen("ios - --interface Tunnel100", RICH));
    let config = load(&import("ios - --interface Tunnel100", RICH).unwrap());
    let servers: Vec<_> = config
        .nhs
        .iter()
        .map(|nhs| (nhs.address.to_string(), nhs.nbma.to_string(), nhs.priority, nhs.cluster))
        .collect();
    let server = |a: &str, n: &str, p, c| (a.to_owned(), n.to_owned(), p, c);
    assert_eq!(
        servers,
        [
            server("10.255.0.1", "198.51.100.1", 1, 1),
            server("10.255.0.2", "hub2.example.net", 2, 1),
            server("10.255.0.3", "198.51.100.3", 5, 0),
        ]
    );
    assert!(!config.nhrp.unique);
    assert_eq!(config.limits.dead_peer_interval, Duration::from_secs(20));
    let imported = import("ios - --interface Tunnel100", RICH).unwrap();
    assert!(imported.configuration.contains("rekey-interval: 7200"), "its lifetime of an SA");
}

#[test]
fn frr() {
    insta::assert_snapshot!(seen("frr - --address 172.16.0.3/24 --key 42", FRR));
}

#[test]
fn opennhrp() {
    insta::assert_snapshot!(seen("opennhrp - --address 10.255.0.5/16 --source eth0", OPENNHRP));
}

#[test]
fn what_cannot_be_guessed_is_asked_for() {
    for (arguments, text, expected) in [
        ("ios -", RICH, "several interfaces speak NHRP (Tunnel100, Tunnel200)"),
        ("ios - --interface Tunnel1", RICH, "there is no interface Tunnel1"),
        ("ios -", "interface Loopback0\n ip address 10.0.0.1 255.255.255.255\n", "no interface"),
        ("ios -", "interface Tunnel0\n ip nhrp network-id 1\n", "--address"),
        ("opennhrp -", OPENNHRP, "--address"),
        ("ios - --source a/b", SPOKE, "--source"),
    ] {
        let error = import(arguments, text).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_point_to_point_spoke_stays_one() {
    let text = "\
interface Tunnel0
 ip address 172.16.0.2 255.255.255.0
 ip nhrp network-id 1
 ip nhrp nhs 172.16.0.1
 tunnel source 203.0.113.2
 tunnel destination 198.51.100.1
";
    let config = load(&import("ios -", text).unwrap());
    assert_eq!(config.nhs[0].nbma.to_string(), "198.51.100.1");
    assert!(!config.nhrp.shortcut);
    assert!(matches!(config.security, Security::Keyed(..)), "clear must be asked for by name");
    let config = load(&import("ios - --clear", text).unwrap());
    assert_eq!(config.security, Security::None);
}

#[test]
fn ipv6_inside() {
    let text = "\
interface Tunnel0
 ipv6 address 2001:db8:1::2/64
 ipv6 nhrp network-id 1
 ipv6 nhrp nhs 2001:db8:1::1 nbma 198.51.100.1 multicast
 ip nhrp network-id 7
 tunnel source 203.0.113.2
";
    let imported = import("ios -", text).unwrap();
    let config = load(&imported);
    assert_eq!(config.nhs[0].address.to_string(), "2001:db8:1::1");
    assert_eq!(config.nhrp.network_id, 1);
    assert!(imported.notes.iter().any(|note| note.to_string().contains("one address family")));
}

/// Every line of the tunnel that is not in the new file is named.
#[test]
fn nothing_is_lost_silently() {
    for (line, carried) in [
        (" ip nhrp nhs 172.16.0.1 nbma 198.51.100.1 priority 999", false),
        (" ip nhrp map 172.16.9.9 198.51.100.1", false),
        (" ip nhrp map multicast hub.example.net", false),
        (" ip nhrp holdtime 1", false),
        (" ip nhrp frobnicate", false),
        (" tunnel key pink", false),
        (" ip mtu 100", false),
        (" ip nhrp authentication toolongforcisco", false),
        (" keepalive 10 3", false),
        (" tunnel key 7", true),
    ] {
        let text = format!(
            "interface Tunnel0\n ip address 172.16.0.2 255.255.255.0\n ip nhrp network-id 1\n \
             tunnel source 203.0.113.2\n tunnel protection ipsec profile X\n{line}\n"
        );
        let imported = import("ios -", &text).unwrap();
        load(&imported);
        assert_eq!(imported.notes.is_empty(), carried, "{line}: {:?}", imported.notes);
        if !carried {
            assert!(imported.notes[0].to_string().starts_with(":6: "), "{}", imported.notes[0]);
        }
        assert!(!format!("{:?}", imported.notes).contains("toolong"));
    }
}

proptest! {
    /// Whatever lines are missing, doubled, cut or moved: a refusal, or a file that loads.
    #[test]
    fn what_is_written_loads(
        picks in prop::collection::vec((0..5_usize, any::<prop::sample::Index>(), 0..60_usize), 1..60),
        dialect in prop::sample::select(vec!["ios", "frr", "opennhrp"]),
    ) {
        let samples = [HUB, SPOKE, RICH, FRR, OPENNHRP];
        let mut text = String::from("interface gre1\n ip address 172.16.0.2 255.255.255.0\n ip nhrp shortcut\n");
        for (sample, index, cut) in picks {
            let lines: Vec<&str> = samples[sample].lines().collect();
            let line = lines[index.index(lines.len())];
            // Half of the lines as they are.
            let line = if cut < 30 { line.get(..cut + 5).unwrap_or(line) } else { line };
            text += line;
            text.push('\n');
        }
        let arguments = format!("{dialect} - --interface gre1");
        if let Ok(imported) = import(&arguments, &text) {
            load(&imported);
        }
        if let Ok(imported) = import(&format!("{arguments} --address 172.16.0.2/24"), &text) {
            load(&imported);
        }
    }
}
