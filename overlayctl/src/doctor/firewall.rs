//! nftables on this machine: does it keep IKE and the tunnel out?
//!
//! Only what is certain is said; the probe of the path finds the rest.

use std::net::SocketAddr;

use control::{Dataplane, Dmvpn};
use nhrpd::config::{Config, Security, Source};
use serde_json::Value;

use super::Check;
use super::paths::Server;
use super::ruleset::{Drop, Flow, drops};
use crate::host;

/// Looks at the whole ruleset.
pub(super) fn check(config: &Config, servers: &[Server], told: Option<&Dmvpn>) -> Vec<Check> {
    if config.security == Security::None {
        return Vec::new();
    }
    let ruleset = match host::json("nft", &["-j", "list", "ruleset"]) {
        Ok(ruleset) => ruleset,
        Err(error) => return vec![Check::note("firewall", format!("not looked at: {error:#}"))],
    };
    let interfaces = told.into_iter().flat_map(|dmvpn| &dmvpn.interfaces);
    let kernel = interfaces.into_iter().any(|i| i.dataplane == Dataplane::Kernel);
    let remotes: Vec<SocketAddr> = match config.nhrp.accept_registrations {
        true => Vec::new(),
        false => servers.iter().map(|server| server.endpoint).collect(),
    };
    let found = findings(&ruleset, config, &remotes, kernel);
    match found.is_empty() {
        true => vec![Check::ok("firewall", "no nftables rule of this machine drops IKE")],
        false => found,
    }
}

fn findings(ruleset: &Value, config: &Config, remotes: &[SocketAddr], kernel: bool) -> Vec<Check> {
    let port = config.underlay.port;
    let device = match &config.underlay.source {
        Source::Device(name) => Some(name.clone()),
        Source::Address(_) => None,
    };
    let mut protocols = vec![("udp", 17)];
    if kernel {
        protocols.push(("esp", 50));
    }
    let mut found = Vec::new();
    for protocol in protocols {
        for inbound in [true, false] {
            let (name, rule) = match (protocol.0, inbound) {
                ("udp", true) => (format!("UDP {port}"), format!("udp dport {port}")),
                ("udp", false) => (format!("UDP {port}"), format!("udp sport {port}")),
                _ => ("ESP (IP protocol 50)".to_owned(), "meta l4proto esp".to_owned()),
            };
            let flow = Flow {
                inbound,
                protocol,
                port,
                remotes: remotes.to_vec(),
                device: device.clone(),
                called: config.nhrp.accept_registrations,
            };
            for Drop { chain, rule: by } in drops(ruleset, &flow) {
                let words = match by {
                    Some((inner, handle)) if chain.ends_with(&format!(" {inner}")) => {
                        format!("nftables chain `{chain}` drops {name} (rule handle {handle})")
                    }
                    Some((inner, handle)) => format!(
                        "nftables chain `{chain}` drops {name}, in its chain `{inner}` (rule \
                         handle {handle})"
                    ),
                    None => format!(
                        "nftables chain `{chain}` drops all by default and accepts no {name}"
                    ),
                };
                let mend = format!("nft insert rule {chain} {rule} accept");
                found.push(Check::finding("firewall", words, mend));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use super::*;

    const SPOKE: &str = "nhs: [{ address: 172.16.0.1, nbma: 198.51.100.1 }]";
    const HUB: &str = "nhrp: { registrations: accept }";

    /// What doctor says of a table with these chains. The ruleset is what nft itself makes of it,
    /// in a network namespace of its own.
    fn said(chains: &str, role: &str) -> Vec<String> {
        let yaml = format!(
            "tunnel: {{ interface: dmvpn0, address: 172.16.0.2/24 }}\nunderlay: {{ source: eth0 }}\n\
             security: {{ certificate: a, private-key: b, ca: c }}\n{role}\n"
        );
        let config = nhrpd::config::parse(&yaml, Path::new("nhrpd.yaml")).unwrap();
        let remotes: Vec<SocketAddr> = match config.nhrp.accept_registrations {
            true => Vec::new(),
            false => vec!["198.51.100.1:4500".parse().unwrap()],
        };
        findings(&listed(chains), &config, &remotes, true)
            .into_iter()
            .map(|check| check.found)
            .filter(|found| !found.contains("ESP") || chains.contains("esp"))
            .collect()
    }

    fn listed(chains: &str) -> Value {
        let script = "nft \"table inet filter { $0 }\" && nft -j list ruleset";
        let output = Command::new("unshare")
            .args(["--user", "--map-root-user", "--net", "sh", "-c", script, chains])
            .output()
            .unwrap();
        assert!(output.status.success(), "{chains}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn input(policy: &str, rules: &str) -> String {
        let hook = "type filter hook input priority filter";
        format!("chain input {{ {hook}; policy {policy};\n{rules}\n}}\n")
    }

    const CLOSED: &str =
        "nftables chain `inet filter input` drops all by default and accepts no UDP 4500";

    #[test]
    fn a_rule_that_drops_the_port_is_named() {
        for rule in [
            "udp dport 4500 drop",
            "udp dport { 53, 4000-4600 } drop",
            "meta l4proto udp drop",
            "ip protocol udp reject",
            "th dport 4500 drop",
            "iifname \"eth*\" udp dport != 53 drop",
            "ip saddr { 198.51.100.0/24 } counter drop",
            "udp dport vmap { 22: accept, 4500: drop }",
        ] {
            let said = said(&input("accept", rule), SPOKE);
            assert_eq!(said.len(), 1, "{rule}: {said:?}");
            let words = "nftables chain `inet filter input` drops UDP 4500 (rule handle ";
            assert!(said[0].starts_with(words), "{rule}: {said:?}");
        }
        for rule in [
            "udp dport 53 drop",
            "tcp dport 4500 drop",
            "tcp dport != 22 drop",
            "tcp flags & (fin|syn) == fin drop",
            "ct state invalid drop",
            "iif lo drop",
            "iifname eth1 drop",
            "ip saddr 203.0.113.0/24 drop",
            "udp dport 4500 limit rate over 100/second drop",
            "udp dport 4500 accept\nudp dport 4500 drop",
            "fib daddr type local accept\nudp dport 4500 drop",
        ] {
            assert_eq!(said(&input("accept", rule), SPOKE), [""; 0], "{rule}");
        }
        let out = "chain out { type filter hook output priority 0; udp sport 4500 drop\n}\n";
        assert!(said(out, SPOKE)[0].contains("`inet filter out` drops UDP 4500"));
    }

    #[test]
    fn a_closed_chain_needs_the_port_or_established_flows() {
        assert_eq!(said(&input("drop", ""), SPOKE), [CLOSED]);
        for rule in [
            "iif lo accept",
            "tcp dport 22 accept",
            "udp dport 53 accept",
            "ip protocol icmp accept",
            "ip6 nexthdr icmpv6 accept",
            "icmp type echo-request accept",
            "ct state invalid drop",
            "ct state new tcp dport 22 accept",
            "ip saddr 203.0.113.7 accept",
        ] {
            assert_eq!(said(&input("drop", rule), SPOKE), [CLOSED], "{rule}");
        }
        for rule in [
            "ct state established,related accept",
            "ct state vmap { established: accept, related: accept, invalid: drop }",
        ] {
            assert!(said(&input("drop", rule), SPOKE).is_empty(), "{rule}");
            assert_eq!(said(&input("drop", rule), HUB), [CLOSED], "a hub is called first: {rule}");
        }
        for rule in [
            "udp dport 4500 accept",
            "udp dport { 500, 4500 } ct state new accept",
            "ct state invalid drop\nmeta l4proto { tcp, udp } th dport 4500 accept",
            "ip saddr 198.51.100.0/24 udp dport 4500 accept",
        ] {
            assert!(said(&input("drop", rule), HUB).is_empty(), "{rule}");
        }
    }

    #[test]
    fn chains_and_maps_are_followed() {
        let udp = "chain udp_in {\nudp dport 53 accept\nudp dport 4500 drop\n}\n";
        let words =
            "nftables chain `inet filter input` drops UDP 4500, in its chain `udp_in` (rule";
        for way in [
            "jump udp_in",
            "ip protocol udp goto udp_in",
            "meta l4proto vmap { tcp: accept, udp: jump udp_in }",
            "iifname vmap { \"lo\": accept, \"eth0\": goto udp_in }",
        ] {
            let said = said(&format!("{udp}{}", input("accept", way)), SPOKE);
            assert!(said.len() == 1 && said[0].starts_with(words), "{way}: {said:?}");
        }
        // What comes back from a chain goes on behind the jump, but not behind a goto.
        let open = "chain udp_in {\nudp dport 53 accept\nreturn\nudp dport 4500 accept\n}\n";
        let jump = "jump udp_in\nudp dport 4500 accept";
        assert!(said(&format!("{open}{}", input("drop", jump)), SPOKE).is_empty());
        let goto = "goto udp_in\nudp dport 4500 accept";
        assert_eq!(said(&format!("{open}{}", input("drop", goto)), SPOKE), [CLOSED]);

        let sets = "set ports { type inet_service; flags interval; elements = { 500, 4500 }\n}\n\
                    map ways { type inet_service : verdict; elements = { 4500 : accept }\n}\n";
        for way in ["udp dport @ports accept", "udp dport vmap @ways"] {
            assert!(said(&format!("{sets}{}", input("drop", way)), SPOKE).is_empty(), "{way}");
        }
        let drops = "udp dport @ports drop";
        assert_eq!(said(&format!("{sets}{}", input("accept", drops)), SPOKE).len(), 1);
    }

    #[test]
    fn esp_must_pass_where_the_kernel_makes_it() {
        let closed = input("drop", "udp dport 4500 accept\ntcp dport 22 accept # esp");
        let words = "nftables chain `inet filter input` drops all by default and accepts no ESP \
                     (IP protocol 50)";
        assert_eq!(said(&closed, SPOKE), [words]);
        let open = input("drop", "meta l4proto { udp, esp } accept");
        assert!(said(&open, SPOKE).is_empty());
    }
}
