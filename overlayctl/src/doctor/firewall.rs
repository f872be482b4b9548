//! nftables on this machine: is there a rule that keeps IKE and the tunnel out?
//!
//! Only what can be said for certain is said: a rule that drops the port by name, or a chain that
//! drops by default and accepts neither the port nor established flows. The probe of the path
//! finds the rest.

use nhrpd::config::{Config, Security};
use serde_json::Value;

use super::Check;
use crate::host;

/// Looks at the whole ruleset.
pub(super) fn check(config: &Config) -> Vec<Check> {
    if config.security == Security::None {
        return Vec::new();
    }
    let ruleset = match host::json("nft", &["-j", "list", "ruleset"]) {
        Ok(ruleset) => ruleset,
        Err(error) => return vec![Check::note("firewall", format!("not looked at: {error:#}"))],
    };
    let ports = [500, config.underlay.port];
    let server = config.nhrp.accept_registrations;
    let found = drops(&ruleset, ports, server);
    if found.is_empty() {
        return vec![Check::ok("firewall", "no nftables rule of this machine drops IKE")];
    }
    found
        .into_iter()
        .map(|(found, chain)| {
            let port = config.underlay.port;
            Check::finding(
                "firewall",
                found,
                format!("nft insert rule {chain} udp dport {port} accept"),
            )
        })
        .collect()
}

/// What drops one of the ports, and the chain where it does.
fn drops(ruleset: &Value, ports: [u16; 2], server: bool) -> Vec<(String, String)> {
    let items = || ruleset["nftables"].as_array().into_iter().flatten();
    let mut found = Vec::new();
    for chain in items().filter_map(|item| item.get("chain")) {
        let hook = chain["hook"].as_str().unwrap_or_default();
        if !matches!(hook, "input" | "output" | "prerouting" | "postrouting") {
            continue;
        }
        let word = |key: &str| chain[key].as_str().unwrap_or_default().to_owned();
        let name = format!("{} {} {}", word("family"), word("table"), word("name"));
        let rules: Vec<&Value> = items()
            .filter_map(|item| item.get("rule"))
            .filter(|rule| {
                ["family", "table"].iter().all(|key| rule[key] == chain[key])
                    && rule["chain"] == chain["name"]
            })
            .collect();
        let mut accepted = false;
        let mut dropped = false;
        for rule in rules {
            let all: Vec<&Value> = rule["expr"].as_array().into_iter().flatten().collect();
            let has = |verdict: &str| all.iter().any(|expr| expr.get(verdict).is_some());
            let matched = matches(&all, ports);
            if has("accept") && (matched != Matched::Other || (established(&all) && !server)) {
                accepted = true;
            }
            // Jumps and verdict maps lead elsewhere: nothing can be said for certain.
            if has("jump") || has("goto") || has("vmap") {
                accepted = true;
            }
            let drops = has("drop") || has("reject");
            if drops && !accepted && matched != Matched::Other {
                let handle = &rule["handle"];
                found.push((
                    format!(
                        "nftables chain `{name}` drops UDP {} (rule handle {handle})",
                        ports[1]
                    ),
                    name.clone(),
                ));
                dropped = true;
                break;
            }
        }
        if !accepted && !dropped && chain["policy"] == "drop" {
            found.push((
                format!(
                    "nftables chain `{name}` drops all by default and accepts no UDP {}",
                    ports[1]
                ),
                name,
            ));
        }
    }
    found
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Matched {
    /// Every packet, or every one over UDP to our port.
    Ours,
    /// Something narrower, or something else.
    Other,
}

/// What the matches of one rule let through.
fn matches(all: &[&Value], ports: [u16; 2]) -> Matched {
    let mut every = true;
    for expr in all.iter().filter_map(|expr| expr.get("match")) {
        let left = &expr["left"];
        let protocol = left["meta"]["key"] == "l4proto" || left["payload"]["field"] == "protocol";
        let port = left["payload"]["field"] == "dport" || left["payload"]["field"] == "sport";
        let right = &expr["right"];
        let fits = (protocol && contains(right, |v| v == "udp" || *v == 17))
            || (port
                && left["payload"]["protocol"] != "tcp"
                && contains(right, |v| ports.iter().any(|port| *v == *port)));
        every &= fits && (expr["op"] == "==" || expr["op"] == "in");
    }
    if every { Matched::Ours } else { Matched::Other }
}

fn contains(right: &Value, wanted: impl Fn(&Value) -> bool) -> bool {
    let range = |value: &Value| {
        let ends = value["range"].as_array()?;
        Some(ends.first()?.as_u64()?..=ends.get(1)?.as_u64()?)
    };
    let one = |value: &Value| {
        wanted(value)
            || range(value).is_some_and(|mut all| all.any(|port| wanted(&Value::from(port))))
    };
    match right["set"].as_array() {
        Some(set) => set.iter().any(one),
        None => one(right),
    }
}

fn established(all: &[&Value]) -> bool {
    let states = all.iter().filter_map(|expr| expr.get("match"));
    let mut states = states.filter(|expr| expr["left"]["ct"]["key"] == "state");
    states.any(|expr| expr["right"].to_string().contains("established"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ruleset(policy: &str, rules: &[Value]) -> Value {
        let mut all = vec![json!({ "chain": {
            "family": "inet", "table": "filter", "name": "input", "hook": "input", "policy": policy
        }})];
        all.extend(rules.iter().map(|expr| {
            json!({ "rule": {
                "family": "inet", "table": "filter", "chain": "input", "handle": 7, "expr": expr
            }})
        }));
        json!({ "nftables": all })
    }

    fn dport(right: &Value, verdict: &str) -> Value {
        let left = json!({ "payload": { "protocol": "udp", "field": "dport" } });
        json!([{ "match": { "op": "==", "left": left, "right": right } }, { verdict: null }])
    }

    fn found(policy: &str, rules: &[Value], server: bool) -> Vec<String> {
        let all = drops(&ruleset(policy, rules), [500, 4500], server);
        all.into_iter().map(|(found, _)| found).collect()
    }

    #[test]
    fn a_rule_that_drops_the_port_is_named() {
        for right in [json!(4500), json!({ "set": [53, 4500] }), json!({ "range": [4000, 5000] })] {
            let said = found("accept", &[dport(&right, "drop")], false);
            assert_eq!(said, ["nftables chain `inet filter input` drops UDP 4500 (rule handle 7)"]);
        }
        assert!(found("accept", &[dport(&json!(53), "drop")], false).is_empty());
        let before = [dport(&json!(4500), "accept"), dport(&json!(4500), "drop")];
        assert!(found("accept", &before, false).is_empty());
    }

    #[test]
    fn a_closed_chain_needs_the_port_or_established_flows() {
        let words =
            "nftables chain `inet filter input` drops all by default and accepts no UDP 4500";
        assert_eq!(found("drop", &[], false), [words]);
        let left = json!({ "ct": { "key": "state" } });
        let state = json!({ "op": "in", "left": left, "right": ["established", "related"] });
        let established = json!([{ "match": state }, { "accept": null }]);
        assert!(found("drop", std::slice::from_ref(&established), false).is_empty());
        assert_eq!(found("drop", &[established], true), [words], "a hub is called first");
        assert!(found("drop", &[dport(&json!(4500), "accept")], true).is_empty());
        let chain = json!([{ "jump": { "target": "elsewhere" } }]);
        assert!(found("drop", &[chain], true).is_empty(), "nothing is certain");
    }
}
