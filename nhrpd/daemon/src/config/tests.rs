mod file;
mod schema;
mod security;

use std::path::Path;
use std::time::Duration;

use super::*;

const TUNNEL: &str = "address: 172.16.0.1/24";
const UNDERLAY: &str = "source: eth0";
const SECURITY: &str = "certificate: hub.crt, private-key: hub.key, ca: ca.crt";

/// A small good file with `text` added to `section`; at top level where that is empty.
fn file(section: &str, text: &str) -> String {
    let sections = [("tunnel", TUNNEL), ("underlay", UNDERLAY), ("security", SECURITY)];
    let mut lines: Vec<String> = sections
        .iter()
        .map(|(name, base)| match *name == section {
            true => format!("{name}: {{{base}, {text}}}"),
            false => format!("{name}: {{{base}}}"),
        })
        .collect();
    match section {
        "" => lines.push(text.to_owned()),
        "tunnel" | "underlay" | "security" => {}
        other => lines.push(format!("{other}: {{{text}}}")),
    }
    lines.join("\n")
}

fn read(text: &str) -> Result<Config, ConfigError> {
    parse(text, Path::new("/etc/nhrpd/nhrpd.yaml"))
}

#[track_caller]
fn good(section: &str, text: &str) -> Config {
    read(&file(section, text)).unwrap_or_else(|error| panic!("{error}"))
}

#[track_caller]
fn problems(text: &str) -> Vec<String> {
    match read(text).unwrap_err() {
        ConfigError::Invalid { problems, .. } => problems.iter().map(Problem::to_string).collect(),
        other => panic!("{other}"),
    }
}

#[track_caller]
fn bad(section: &str, text: &str, expected: &str) {
    assert_eq!(problems(&file(section, text)), [expected]);
}

/// A spoke of 172.16.0.0/24 with the next-hop servers `nhs`.
#[track_caller]
fn bad_nhs(nhs: &str, expected: &str) {
    bad("", &format!("nhs: [{nhs}]"), expected);
}

fn prefixes(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn defaults() {
    let config = good("", "");
    assert_eq!(config.tunnel.interface, "dmvpn0");
    assert_eq!(config.tunnel.address, "172.16.0.1/24".parse().unwrap());
    assert_eq!(config.tunnel.key, None);
    assert_eq!(config.tunnel.mtu, Mtu::Auto);
    assert_eq!(config.underlay, Underlay { source: Source::Device("eth0".into()), port: 4500 });
    let nhrp = Nhrp {
        network_id: 1,
        holding_time: Duration::from_secs(600),
        authentication: None,
        accept_registrations: true,
        redirect: true,
        shortcut: true,
        unique: true,
        trust: Trust::Certificate,
    };
    assert_eq!(config.nhrp, nhrp);
    assert_eq!((config.nhs, config.map, config.accept), (vec![], vec![], vec![]));
    assert_eq!(config.multicast, [Multicast::Dynamic]);
    assert_eq!(config.advertise, Advertise::Prefixes(vec![]));
    assert_eq!(config.routes, []);
    assert_eq!(config.dataplane, Dataplane::Auto);
    assert_eq!(config.log, LogLevel::Info);
    let limits = Limits {
        peers: 4096,
        cache_entries: 16384,
        packets_per_peer: 100,
        half_open: 256,
        half_open_per_source: 16,
        dead_peer_interval: Duration::from_secs(30),
    };
    assert_eq!(config.limits, limits);
    let certificates = Certificates {
        certificate: "/etc/nhrpd/hub.crt".into(),
        private_key: "/etc/nhrpd/hub.key".into(),
        ca: "/etc/nhrpd/ca.crt".into(),
        crl: None,
        key_usage: KeyUsagePolicy::default(),
        extended_key_usage: ExtendedKeyUsagePolicy::default(),
    };
    let authentication =
        Authentication { identity: None, certificates: Some(certificates), keys: None };
    assert_eq!(config.security, Security::Keyed(Tunnels::Auto, Box::new(authentication)));
    assert_eq!(config.rekey_interval, Duration::from_secs(14_400));
}

#[test]
fn next_hop_servers_make_a_spoke() {
    let config = good("", "nhs: [{address: 172.16.0.254, nbma: 198.51.100.1}]");
    assert!(!config.nhrp.accept_registrations);
    assert!(!config.nhrp.redirect);
    assert!(config.nhrp.shortcut);
    assert_eq!(config.multicast, [Multicast::Nhs]);
}

#[test]
fn tunnel_interface() {
    assert_eq!(good("tunnel", "interface: Tunnel0").tunnel.interface, "Tunnel0");
    bad(
        "tunnel",
        "interface: sixteen-bytes-xx",
        "tunnel.interface: expected a device name of 1 to 15 bytes without space, slash or colon, \
         found \"sixteen-bytes-xx\"",
    );
}

#[test]
fn tunnel_address() {
    let with = |address: &str| file("", "").replace(TUNNEL, &format!("address: '{address}'"));
    for address in ["fd00::1/64", "10.0.0.0/31", "10.0.0.1/31", "10.0.0.1/32", "fd00::/127"] {
        let config = read(&with(address)).unwrap_or_else(|error| panic!("{address}: {error}"));
        assert_eq!(config.tunnel.address, address.parse().unwrap());
    }
    let what = "the own tunnel address with the tunnel's prefix length, such as 172.16.0.1/24";
    for (address, expected) in [
        ("172.16.0.0/24", "172.16.0.0 is the network address of 172.16.0.0/24".to_owned()),
        ("172.16.0.255/24", "172.16.0.255 is the broadcast address of 172.16.0.0/24".to_owned()),
        ("fd00::/64", "fd00:: is the network address of fd00::/64".to_owned()),
        ("224.0.0.5/24", "expected the address of one machine, found \"224.0.0.5\"".to_owned()),
        ("0.0.0.0/0", "expected the address of one machine, found \"0.0.0.0\"".to_owned()),
        ("172.16.0.1", format!("expected {what}, found \"172.16.0.1\"")),
        ("172.16.0.1/33", format!("expected {what}, found \"172.16.0.1/33\"")),
    ] {
        assert_eq!(problems(&with(address)), [format!("tunnel.address: {expected}")]);
    }
    assert_eq!(
        problems(&file("", "").replace(TUNNEL, "")),
        [format!("tunnel.address: missing: expected {what}")]
    );
}

#[test]
fn tunnel_key() {
    assert_eq!(good("tunnel", "key: 4294967295").tunnel.key, Some(u32::MAX));
    assert_eq!(good("tunnel", "key: 0x2a").tunnel.key, Some(42));
    let problem = "tunnel.key: expected a number from 0 to 4294967295, found \"4294967296\"";
    bad("tunnel", "key: 4294967296", problem);
}

#[test]
fn tunnel_mtu() {
    assert_eq!(good("tunnel", "mtu: auto").tunnel.mtu, Mtu::Auto);
    assert_eq!(good("tunnel", "mtu: 576").tunnel.mtu, Mtu::Fixed(576));
    let problem = "tunnel.mtu: expected auto or a number from 576 to 65535, found \"575\"";
    bad("tunnel", "mtu: 575", problem);
}

#[test]
fn underlay_source() {
    let with = |source: &str| file("", "").replace(UNDERLAY, &format!("source: '{source}'"));
    assert_eq!(
        read(&with("2001:db8::1")).unwrap().underlay.source,
        Source::Address("2001:db8::1".parse().unwrap())
    );
    assert_eq!(read(&with("eth0.10")).unwrap().underlay.source, Source::Device("eth0.10".into()));
    for (source, expected) in [
        ("198.51.100", "expected a device name or an IP address, found \"198.51.100\""),
        ("dmvpn0", "dmvpn0 is the tunnel itself"),
        (
            "172.16.0.9",
            "172.16.0.9 is within the tunnel's prefix 172.16.0.0/24: expected an address of the \
             underlay",
        ),
        ("255.255.255.255", "expected the address of one machine, found \"255.255.255.255\""),
    ] {
        assert_eq!(problems(&with(source)), [format!("underlay.source: {expected}")]);
    }
    assert_eq!(
        problems(&file("", "").replace(UNDERLAY, "")),
        ["underlay.source: missing: expected the device or IP address that the tunnel's packets \
          leave from"]
    );
}

#[test]
fn underlay_port() {
    assert_eq!(good("underlay", "port: 4501").underlay.port, 4501);
    bad("underlay", "port: 0", "underlay.port: expected a number from 1 to 65535, found \"0\"");
}

#[test]
fn nhrp_network_id() {
    assert_eq!(good("nhrp", "network-id: 99").nhrp.network_id, 99);
    let problem = "nhrp.network-id: expected a number from 1 to 4294967295, found \"0\"";
    bad("nhrp", "network-id: 0", problem);
}

#[test]
fn nhrp_holding_time() {
    assert_eq!(good("nhrp", "holding-time: 3").nhrp.holding_time, Duration::from_secs(3));
    let problem = "nhrp.holding-time: expected a number from 3 to 65535, found \"10m\"";
    bad("nhrp", "holding-time: 10m", problem);
}

#[test]
fn nhrp_authentication() {
    let config = good("nhrp", "authentication: NHRPAUTH");
    assert_eq!(config.nhrp.authentication, Some(Password(b"NHRPAUTH".to_vec())));
    assert!(!format!("{config:?}").contains("NHRPAUTH"));
    let number = good("nhrp", "authentication: 0123").nhrp.authentication;
    assert_eq!(number, Some(Password(b"0123".to_vec())));
    let problem = "nhrp.authentication: expected 1 to 8 bytes, found 9";
    bad("nhrp", "authentication: NHRPAUTHX", problem);
    bad("nhrp", "authentication: ''", "nhrp.authentication: expected 1 to 8 bytes, found 0");
}

#[test]
fn nhrp_registrations() {
    let config = good("nhrp", "registrations: refuse");
    assert!(!config.nhrp.accept_registrations);
    assert!(!config.nhrp.redirect, "redirect follows");
    let problem =
        "nhrp.registrations: expected accept or refuse, found \"acept\": did you mean accept?";
    bad("nhrp", "registrations: acept", problem);
}

#[test]
fn nhrp_switches() {
    let config = good("nhrp", "redirect: false, shortcut: false, unique: false");
    assert!(config.nhrp.accept_registrations);
    assert!(!config.nhrp.redirect && !config.nhrp.shortcut && !config.nhrp.unique);
    bad("nhrp", "redirect: yes", "nhrp.redirect: expected true or false, found \"yes\"");
    bad("nhrp", "shortcut: 1", "nhrp.shortcut: expected true or false, found \"1\"");
    let problem = "nhrp.unique: expected true or false, found \"ture\": did you mean true?";
    bad("nhrp", "unique: ture", problem);
}

#[test]
fn nhrp_trust() {
    assert_eq!(good("nhrp", "trust: any").nhrp.trust, Trust::Any);
    bad("nhrp", "trust: all", "nhrp.trust: expected certificate or any, found \"all\"");
}

#[test]
fn nhs() {
    let config = good(
        "",
        "nhs:\n- {address: 172.16.0.2, nbma: 198.51.100.1, priority: 5, cluster: 1}\n\
         - {address: 172.16.0.3, nbma: 'hub.example.net:4501'}\n\
         - {address: 172.16.0.4, nbma: '[2001:db8::1]:500'}\n\
         - {address: 172.16.0.5, nbma: hub}",
    );
    let shown: Vec<_> = config.nhs.iter().map(|nhs| nhs.nbma.to_string()).collect();
    assert_eq!(shown, ["198.51.100.1", "hub.example.net:4501", "[2001:db8::1]:500", "hub"]);
    assert_eq!((config.nhs[0].priority, config.nhs[0].cluster), (5, 1));
    assert_eq!((config.nhs[1].priority, config.nhs[1].cluster), (0, 0));
    assert_eq!(config.nhs[1].nbma.port, Some(4501));
}

#[test]
fn nhs_address() {
    bad_nhs(
        "{address: 172.16.0.1, nbma: hub}",
        "nhs[0].address: 172.16.0.1 is this node's own tunnel address",
    );
    bad_nhs(
        "{address: 172.16.1.2, nbma: hub}",
        "nhs[0].address: 172.16.1.2 is not within the tunnel's prefix 172.16.0.0/24",
    );
    bad_nhs(
        "{address: 172.16.0.255, nbma: hub}",
        "nhs[0].address: 172.16.0.255 is the broadcast address of 172.16.0.0/24",
    );
    bad_nhs(
        "{address: 172.16.0.2/24, nbma: hub}",
        "nhs[0].address: expected an IP address without prefix length, found \"172.16.0.2/24\"",
    );
    bad_nhs(
        "{nbma: hub}",
        "nhs[0].address: missing: expected the tunnel address of the next-hop server",
    );
    // The faulty first one does not shift the numbers of those behind it.
    let twice = "{address: 172.16.0.2, nbma: hub}, {address: 172.16.0.2, nbma: hub2}";
    assert_eq!(
        problems(&file("", &format!("nhs: [{{address: x, nbma: hub}}, {twice}]"))),
        [
            "nhs[0].address: expected an IP address without prefix length, found \"x\"",
            "nhs[2].address: 172.16.0.2 is in the list twice"
        ]
    );
}

#[test]
fn nhs_nbma() {
    let expected = "expected an IP address or DNS name, if need be with :port, found";
    for nbma in ["300.1.1.1", "-hub.example.net", "hub example", ""] {
        let problem = format!("nhs[0].nbma: {expected} \"{nbma}\"");
        bad_nhs(&format!("{{address: 172.16.0.2, nbma: '{nbma}'}}"), &problem);
    }
    bad_nhs(
        "{address: 172.16.0.2, nbma: 'hub:70000'}",
        "nhs[0].nbma: expected a number from 1 to 65535, found \"70000\"",
    );
    bad_nhs(
        "{address: 172.16.0.2, nbma: 172.16.0.2}",
        "nhs[0].nbma: 172.16.0.2 is within the tunnel's prefix 172.16.0.0/24: expected an address \
         of the underlay",
    );
    bad_nhs(
        "{address: 172.16.0.2}",
        "nhs[0].nbma: missing: expected the NBMA address or DNS name of the next-hop server",
    );
}

#[test]
fn nhs_priority_and_cluster() {
    bad_nhs(
        "{address: 172.16.0.2, nbma: hub, priority: 256}",
        "nhs[0].priority: expected a number from 0 to 255, found \"256\"",
    );
    bad_nhs(
        "{address: 172.16.0.2, nbma: hub, cluster: -1}",
        "nhs[0].cluster: expected a number from 0 to 255, found \"-1\"",
    );
}

#[test]
fn map() {
    let config = good("", "map: [{address: 172.16.0.9, nbma: '203.0.113.9:4501'}]");
    let entry = StaticMap {
        address: "172.16.0.9".parse().unwrap(),
        nbma: "203.0.113.9".parse().unwrap(),
        port: Some(4501),
    };
    assert_eq!(config.map, [entry]);
    for (map, expected) in [
        ("{address: 172.16.0.9}", "map[0].nbma: missing: expected the NBMA address of the node"),
        ("{nbma: 203.0.113.9}", "map[0].address: missing: expected the tunnel address of the node"),
        (
            "{address: 172.16.0.9, nbma: node.example.net}",
            "map[0].nbma: expected an IP address, if need be with :port, found \"node.example.net\"",
        ),
        (
            "{address: 10.0.0.9, nbma: 203.0.113.9}",
            "map[0].address: 10.0.0.9 is not within the tunnel's prefix 172.16.0.0/24",
        ),
    ] {
        bad("", &format!("map: [{map}]"), expected);
    }
    bad(
        "",
        "map: [{address: 172.16.0.2, nbma: 203.0.113.9}]\n\
         nhs: [{address: 172.16.0.2, nbma: 203.0.113.9}]",
        "map[0].address: 172.16.0.2 is a next-hop server: its NBMA address stands in nhs",
    );
}

#[test]
fn multicast() {
    let config = good("", "multicast: [nhs, dynamic, 203.0.113.9]");
    let nbma = Multicast::Nbma("203.0.113.9".parse().unwrap());
    assert_eq!(config.multicast, [Multicast::Nhs, Multicast::Dynamic, nbma]);
    assert_eq!(good("", "multicast: []").multicast, []);
    let problem = "multicast[0]: expected nhs, dynamic or an NBMA address, found \"all\"";
    bad("", "multicast: [all]", problem);
    bad("", "multicast: nhs", "multicast: expected a list, such as [nhs], found \"nhs\"");
}

#[test]
fn advertise() {
    assert_eq!(good("", "advertise: certificate").advertise, Advertise::Certificate);
    assert_eq!(
        good("", "advertise: [192.168.1.0/24, 192.168.2.7]").advertise,
        Advertise::Prefixes(prefixes(&["192.168.1.0/24", "192.168.2.7/32"]))
    );
    bad(
        "",
        "advertise: [192.168.1.1/24]",
        "advertise[0]: 192.168.1.1/24 has host bits set: write 192.168.1.0/24, or 192.168.1.1/32 \
         for this address alone",
    );
    bad(
        "",
        "advertise: [192.168.1.0/24, 192.168.1.0/24]",
        "advertise[1]: 192.168.1.0/24 is in the list twice",
    );
    bad(
        "",
        "advertise: ['fd00::/64']",
        "advertise[0]: expected an IPv4 prefix, as tunnel.address is IPv4, found \"fd00::/64\"",
    );
    bad(
        "",
        "advertise: certificates",
        "advertise: expected a list, such as [192.168.1.0/24], or the word certificate, found \
         \"certificates\"",
    );
}

#[test]
fn routes() {
    assert_eq!(good("", "routes: [0.0.0.0/0]").routes, prefixes(&["0.0.0.0/0"]));
    let problem = "routes[0]: expected a prefix, such as 192.168.1.0/24, found \"192.168/16\"";
    bad("", "routes: [192.168/16]", problem);
}

#[test]
fn accept() {
    let config = good("", "accept: [{identity: '*', prefixes: [172.16.0.7, 192.168.7.0/24]}]");
    let prefixes = prefixes(&["172.16.0.7/32", "192.168.7.0/24"]);
    assert_eq!(config.accept, [Accept { identity: "*".into(), prefixes }]);
    bad(
        "",
        "accept: [{prefixes: [10.0.0.0/8]}]",
        "accept[0].identity: missing: expected a certificate's subject CN or DNS name, or *",
    );
    bad(
        "",
        "accept: [{identity: a}]",
        "accept[0].prefixes: missing: expected what it may claim, such as [172.16.0.7/32, \
         192.168.7.0/24]",
    );
    bad(
        "",
        "accept: [{identity: a, prefixes: [10.0.0.1/8]}]",
        "accept[0].prefixes[0]: 10.0.0.1/8 has host bits set: write 10.0.0.0/8, or 10.0.0.1/32 for \
         this address alone",
    );
    bad(
        "",
        "accept: [{identity: a, prefixes: [10.0.0.0/8]}, {identity: a, prefixes: [10.0.0.0/8]}]",
        "accept[1].identity: a is in the list twice",
    );
    bad(
        "",
        "nhrp: {registrations: refuse}\naccept: [{identity: a, prefixes: [10.0.0.0/8]}]",
        "accept: this node takes no registrations: remove it, or set nhrp.registrations to accept",
    );
}

#[test]
fn dataplane() {
    assert_eq!(good("", "dataplane: userspace").dataplane, Dataplane::Userspace);
    assert_eq!(good("", "dataplane: kernel").dataplane, Dataplane::Kernel);
    bad("", "dataplane: fast", "dataplane: expected auto, kernel or userspace, found \"fast\"");
}

#[test]
fn limits() {
    let limits = good(
        "limits",
        "peers: 1, cache-entries: 2, packets-per-peer: 3, half-open: 4, half-open-per-source: 5, \
         dead-peer-interval: 6",
    )
    .limits;
    let expected = Limits {
        peers: 1,
        cache_entries: 2,
        packets_per_peer: 3,
        half_open: 4,
        half_open_per_source: 5,
        dead_peer_interval: Duration::from_secs(6),
    };
    assert_eq!(limits, expected);
    for key in ["peers", "cache-entries", "packets-per-peer", "half-open", "half-open-per-source"] {
        let problem = format!("limits.{key}: expected a number from 1 to 1000000, found \"0\"");
        bad("limits", &format!("{key}: 0"), &problem);
    }
    bad(
        "limits",
        "dead-peer-interval: 3601",
        "limits.dead-peer-interval: expected a number from 1 to 3600, found \"3601\"",
    );
}

#[test]
fn log() {
    let words = ["error", "warn", "info", "debug", "trace"];
    for word in words {
        assert_eq!(good("", &format!("log: {word}")).log.as_str(), word);
    }
    bad("", "log: verbose", "log: expected error, warn, info, debug or trace, found \"verbose\"");
}

#[test]
fn metrics() {
    assert_eq!(good("", "").metrics, None);
    let listen = |text: &str| good("metrics", &format!("listen: {text}")).metrics.unwrap();
    assert_eq!(listen("unix:/run/nhrpd/m.sock"), Listen::Unix("/run/nhrpd/m.sock".into()));
    for address in ["127.0.0.1:9730", "\"[::1]:9730\""] {
        assert_eq!(listen(address), Listen::Tcp(address.trim_matches('"').parse().unwrap()));
    }
    for wrong in ["9730", "localhost:9730", "127.0.0.1", "127.0.0.1:0", "unix:m.sock"] {
        let expected = "metrics.listen: expected unix:/PATH or ADDRESS:PORT, found";
        bad("metrics", &format!("listen: \"{wrong}\""), &format!("{expected} \"{wrong}\""));
    }
    let text = "metrics.listen: 0.0.0.0:9730 is reached from other machines, without a password: \
                listen on 127.0.0.1:9730, or add allow-remote: true";
    bad("metrics", "listen: 0.0.0.0:9730", text);
    let allowed = good("metrics", "listen: 0.0.0.0:9730, allow-remote: true").metrics;
    assert_eq!(allowed, Some(Listen::Tcp("0.0.0.0:9730".parse().unwrap())));
}
