//! What an nftables ruleset does with one flow of ours, as `nft -j list ruleset` tells it.
//!
//! A rule matches all packets of the flow, none, or some of them, as far as can be told. Whatever
//! is not known for certain ends in no statement at all.

use std::cmp::Ordering;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde_json::{Map, Value};

/// Chains that call each other; the kernel allows 16.
const DEPTH: u8 = 16;

/// Packets that must pass.
#[derive(Debug, Clone)]
pub(super) struct Flow {
    /// From outside to this node.
    pub(super) inbound: bool,
    /// `udp` or `esp`, and the number of it.
    pub(super) protocol: (&'static str, u8),
    /// Port of ours.
    pub(super) port: u16,
    /// Who is at the other end; nobody: everybody.
    pub(super) remotes: Vec<SocketAddr>,
    /// Device towards them, where it is configured.
    pub(super) device: Option<String>,
    /// This node did not send the first packet of the connection.
    pub(super) called: bool,
}

/// Where a flow ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Drop {
    /// The base chain: `inet filter input`.
    pub(super) chain: String,
    /// The rule that drops: its chain and handle. `None`: the policy of the base chain.
    pub(super) rule: Option<(String, u64)>,
}

/// Every base chain that drops all of a flow for certain.
pub(super) fn drops(ruleset: &Value, flow: &Flow) -> Vec<Drop> {
    let ruleset = Ruleset(ruleset["nftables"].as_array().map(Vec::as_slice).unwrap_or_default());
    let hooks = match flow.inbound {
        true => ["prerouting", "input"],
        false => ["output", "postrouting"],
    };
    let chains = ruleset.all("chain").filter(|chain| {
        hooks.iter().any(|hook| chain["hook"] == *hook) && flow.has_family(&chain["family"])
    });
    chains
        .filter_map(|base| {
            let chain = Chain { ruleset, flow, base };
            let rule = match chain.follow(&base["name"], DEPTH) {
                Outcome::Dropped(chain, handle) => Some((chain, handle)),
                Outcome::Through if base["policy"] == "drop" => None,
                Outcome::Through | Outcome::Accepted | Outcome::Unsure => return None,
            };
            let word = |key: &str| base[key].as_str().unwrap_or_default();
            let name = format!("{} {} {}", word("family"), word("table"), word("name"));
            Some(Drop { chain: name, rule })
        })
        .collect()
}

/// How much of the flow a rule speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Matched {
    All,
    /// Or all of it, or nothing: who knows.
    Some,
    Nothing,
}

impl Matched {
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Nothing, _) | (_, Self::Nothing) => Self::Nothing,
            (Self::All, Self::All) => Self::All,
            _ => Self::Some,
        }
    }
}

/// What a chain does with the flow.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    /// Nothing: it goes on behind.
    Through,
    Accepted,
    /// By this rule of this chain.
    Dropped(String, u64),
    Unsure,
}

#[derive(Debug, Clone, Copy)]
struct Ruleset<'a>(&'a [Value]);

impl<'a> Ruleset<'a> {
    fn all(self, kind: &'static str) -> impl Iterator<Item = &'a Value> {
        self.0.iter().filter_map(move |item| item.get(kind))
    }
}

/// What a base chain calls is in its table.
#[derive(Debug, Clone, Copy)]
struct Chain<'a> {
    ruleset: Ruleset<'a>,
    flow: &'a Flow,
    base: &'a Value,
}

impl<'a> Chain<'a> {
    fn of_table(self, kind: &'static str) -> impl Iterator<Item = &'a Value> {
        let base = self.base;
        let same =
            move |item: &&Value| ["family", "table"].iter().all(|key| item[key] == base[key]);
        self.ruleset.all(kind).filter(same)
    }

    fn follow(self, name: &Value, depth: u8) -> Outcome {
        if depth == 0 {
            return Outcome::Unsure;
        }
        for rule in self.of_table("rule").filter(|rule| rule["chain"] == *name) {
            let mut matched = Matched::All;
            for expression in rule["expr"].as_array().into_iter().flatten() {
                let Some((key, value)) = expression.as_object().and_then(|all| all.iter().next())
                else {
                    continue;
                };
                let verdict = match key.as_str() {
                    "match" => {
                        matched = matched.and(self.matches(value));
                        None
                    }
                    "vmap" => self.mapped(matched, rule, value, depth),
                    "counter" | "log" | "mangle" | "notrack" | "comment" => None,
                    "accept" | "drop" | "reject" | "return" | "jump" | "goto" => {
                        self.verdict(matched, rule, key, value, depth)
                    }
                    // As `limit` and what iptables brought along.
                    _ => {
                        matched = matched.and(Matched::Some);
                        None
                    }
                };
                if let Some(outcome) = verdict {
                    return outcome;
                }
                if matched == Matched::Nothing {
                    break;
                }
            }
        }
        Outcome::Through
    }

    /// What comes of a verdict; `None`: the next expression or rule decides.
    fn verdict(
        self,
        matched: Matched,
        rule: &Value,
        verdict: &str,
        value: &Value,
        depth: u8,
    ) -> Option<Outcome> {
        let (outcome, ends) = match verdict {
            "accept" => (Outcome::Accepted, true),
            "drop" | "reject" => {
                let chain = rule["chain"].as_str().unwrap_or_default().to_owned();
                (Outcome::Dropped(chain, rule["handle"].as_u64().unwrap_or_default()), true)
            }
            "return" => (Outcome::Through, true),
            "jump" => (self.follow(&value["target"], depth - 1), false),
            "goto" => (self.follow(&value["target"], depth - 1), true),
            _ => return None,
        };
        match (matched, outcome) {
            (Matched::Nothing, _) => None,
            (Matched::All, Outcome::Through) => ends.then_some(Outcome::Through),
            (Matched::All, outcome) => Some(outcome),
            // What is dropped of it here will not pass later either.
            (Matched::Some, Outcome::Dropped(..)) => None,
            (Matched::Some, Outcome::Through) => ends.then_some(Outcome::Unsure),
            (Matched::Some, Outcome::Accepted | Outcome::Unsure) => Some(Outcome::Unsure),
        }
    }

    fn mapped(self, matched: Matched, rule: &Value, map: &Value, depth: u8) -> Option<Outcome> {
        let pairs = match map["data"].as_str().and_then(|data| data.strip_prefix('@')) {
            Some(name) => &self.of_table("map").find(|map| map["name"] == name)?["elem"],
            None => &map["data"]["set"],
        };
        for pair in pairs.as_array().into_iter().flatten() {
            let hit = matched.and(self.compare(&map["key"], &pair[0]));
            let Some((verdict, value)) = pair[1].as_object().and_then(|all| all.iter().next())
            else {
                continue;
            };
            if let Some(outcome) = self.verdict(hit, rule, verdict, value, depth) {
                return Some(outcome);
            }
            if hit == Matched::All {
                break;
            }
        }
        None
    }

    fn matches(self, expression: &Value) -> Matched {
        let matched = self.compare(&expression["left"], &expression["right"]);
        match (expression["op"].as_str(), self.flow.field(&expression["left"])) {
            (Some("==" | "in"), _) | (_, Field::Absent) => matched,
            (Some("!="), _) => match matched {
                Matched::All => Matched::Nothing,
                Matched::Some => Matched::Some,
                Matched::Nothing => Matched::All,
            },
            _ => Matched::Some,
        }
    }

    fn compare(self, left: &Value, right: &Value) -> Matched {
        let values = match self.flow.field(left) {
            Field::Absent => return Matched::Nothing,
            // No peer is at the other end of the loopback device.
            Field::Device if *right == "lo" => return Matched::Nothing,
            Field::Device | Field::Unknown => return Matched::Some,
            Field::Values(values) => values,
        };
        let right = match right.as_str().and_then(|name| name.strip_prefix('@')) {
            Some(name) => match self.of_table("set").find(|set| set["name"] == name) {
                Some(set) => &set["elem"],
                None => return Matched::Some,
            },
            None => right,
        };
        match values.iter().filter(|value| contains(right, value)).count() {
            0 => Matched::Nothing,
            all if all == values.len() => Matched::All,
            _ => Matched::Some,
        }
    }
}

/// What a packet of the flow has where a rule looks.
#[derive(Debug)]
enum Field {
    /// One of these.
    Values(Vec<Value>),
    /// No such thing, as the port of TCP.
    Absent,
    /// Some device.
    Device,
    Unknown,
}

impl Flow {
    fn has_family(&self, family: &Value) -> bool {
        let any =
            |is: fn(&SocketAddr) -> bool| self.remotes.is_empty() || self.remotes.iter().any(is);
        match family.as_str() {
            Some("ip") => any(SocketAddr::is_ipv4),
            Some("ip6") => any(SocketAddr::is_ipv6),
            Some("inet") => true,
            _ => false,
        }
    }

    fn field(&self, left: &Value) -> Field {
        let Some((kind, of)) =
            left.as_object().and_then(|all: &Map<String, Value>| all.iter().next())
        else {
            return Field::Unknown;
        };
        let word = |key: &str| of[key].as_str().unwrap_or_default();
        match kind.as_str() {
            "meta" => self.meta(word("key")),
            "payload" => self.payload(word("protocol"), word("field")),
            "ct" if word("key") == "state" => {
                let first = self.called == self.inbound;
                Field::Values(vec![if first { "new" } else { "established" }.into()])
            }
            // Bits of a field, fields in a row: absent when one of them is.
            "&" | "concat" => {
                let mut parts = of.as_array().into_iter().flatten();
                match parts.any(|part| matches!(self.field(part), Field::Absent)) {
                    true => Field::Absent,
                    false => Field::Unknown,
                }
            }
            _ => Field::Unknown,
        }
    }

    fn meta(&self, key: &str) -> Field {
        match (key, self.inbound) {
            ("l4proto", _) => self.protocol(),
            ("iif" | "iifname", true) | ("oif" | "oifname", false) => match &self.device {
                Some(device) => Field::Values(vec![device.as_str().into()]),
                None => Field::Device,
            },
            ("nfproto", _) if !self.remotes.is_empty() => {
                let family = |at: &SocketAddr| if at.is_ipv4() { "ipv4" } else { "ipv6" }.into();
                Field::Values(self.remotes.iter().map(family).collect())
            }
            _ => Field::Unknown,
        }
    }

    fn payload(&self, protocol: &str, field: &str) -> Field {
        let from = field == "sport" || field == "saddr";
        let own = from != self.inbound;
        let remotes = |value: fn(&SocketAddr) -> Value| match self.remotes.is_empty() {
            true => Field::Unknown,
            false => Field::Values(self.remotes.iter().map(value).collect()),
        };
        match (protocol, field) {
            ("ip", "protocol") | ("ip6", "nexthdr") => self.protocol(),
            ("ip" | "ip6", "saddr" | "daddr") if !own => remotes(|at| at.ip().to_string().into()),
            ("udp" | "th", "sport" | "dport") if self.protocol.0 == "udp" => match own {
                true => Field::Values(vec![self.port.into()]),
                false => remotes(|at| at.port().into()),
            },
            ("ip" | "ip6" | "ether" | "vlan", _) => Field::Unknown,
            (other, _) if other == self.protocol.0 => Field::Unknown,
            _ => Field::Absent,
        }
    }

    fn protocol(&self) -> Field {
        Field::Values(vec![self.protocol.0.into()])
    }
}

/// Is a value the one on the right, or one of those?
fn contains(right: &Value, value: &Value) -> bool {
    if let Some(all) = right.as_array().or_else(|| right["set"].as_array()) {
        return all.iter().any(|one| contains(one, value));
    }
    if let Some(element) = right.get("elem") {
        return contains(&element["val"], value);
    }
    if let Some(ends) = right["range"].as_array() {
        let beside = |end: usize| ends.get(end).and_then(|end| order(value, end));
        return beside(0).is_some_and(Ordering::is_ge) && beside(1).is_some_and(Ordering::is_le);
    }
    if let Some(prefix) = right.get("prefix") {
        let network = prefix["addr"].as_str().and_then(|addr| addr.parse::<IpAddr>().ok());
        let length = prefix["len"].as_u64().and_then(|length| u8::try_from(length).ok());
        let network = network.zip(length).and_then(|(addr, length)| IpNet::new(addr, length).ok());
        return network.zip(address(value)).is_some_and(|(net, address)| net.contains(&address));
    }
    if let (Some(pattern), Some(name)) =
        (right.as_str().and_then(|r| r.strip_suffix('*')), value.as_str())
    {
        return name.starts_with(pattern);
    }
    right == value || number(value).is_some_and(|number| *right == number)
}

/// Protocols stand by name or by number.
fn number(value: &Value) -> Option<u8> {
    match value.as_str()? {
        "udp" => Some(17),
        "esp" => Some(50),
        _ => None,
    }
}

fn order(value: &Value, end: &Value) -> Option<Ordering> {
    match (value.as_u64(), end.as_u64()) {
        (Some(value), Some(end)) => Some(value.cmp(&end)),
        _ => Some(address(value)?.cmp(&address(end)?)),
    }
}

fn address(value: &Value) -> Option<IpAddr> {
    value.as_str()?.parse().ok()
}
