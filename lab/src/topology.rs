//! What a lab looks like: nodes, the links between them, what runs on them. Read from YAML.
//!
//! ```yaml
//! links:
//!   wan: { mtu: 1500 }              # a segment; any number of nodes attach to it
//! setup:
//!   - overlayctl pki init           # run on the host, in the lab's own folder, before the nodes
//! nodes:
//!   hub:
//!     interfaces:
//!       eth0: { link: wan, address: 198.51.100.1/24 }
//!     routes: { default: 198.51.100.254 }
//!     sysctl: { net.ipv4.ip_forward: 1 }
//!     nat: { outside: eth0, ports: preserve }
//!     files: { /etc/nhrpd/nhrpd.yaml: "…", /etc/nhrpd/ca.crt: { copy: ca.crt } }
//!     run: [nhrpd]
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde::Deserialize;

use crate::Error;

/// A whole lab.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Topology {
    /// Name of the lab; default: the file's stem.
    pub name: Option<String>,
    /// Commands run on the host, in the lab's own folder, before any node exists.
    #[serde(default)]
    pub setup: Vec<CommandLine>,
    /// Segments by name.
    #[serde(default)]
    pub links: BTreeMap<String, Option<Link>>,
    /// Nodes by name.
    pub nodes: BTreeMap<String, Node>,
}

/// A segment: a switch with a port for each interface that names it.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Link {
    /// MTU in bytes of every interface on it; default 1500.
    pub mtu: Option<u16>,
    /// One-way delay, as `10ms` (needs netem in the kernel).
    pub delay: Option<Delay>,
    /// Packets lost in percent, each way (needs netem in the kernel).
    pub loss: Option<Percent>,
    /// As behind a network card, segments arrive one by one and the kernel may merge them (GRO; needs
    /// ethtool); otherwise large packets pass as they are.
    #[serde(default)]
    pub gro: bool,
}

/// A machine: network, mount and UTS namespaces of its own.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Node {
    /// Interfaces by device name.
    #[serde(default)]
    pub interfaces: BTreeMap<String, Interface>,
    /// Destination (prefix, or `default`) to gateway.
    #[serde(default)]
    pub routes: BTreeMap<Destination, IpAddr>,
    /// Kernel settings, dotted, set before the interfaces come up.
    #[serde(default)]
    pub sysctl: BTreeMap<String, Scalar>,
    /// Makes the node a NAT router.
    pub nat: Option<Nat>,
    /// Files by absolute path, mode 0600.
    #[serde(default)]
    pub files: BTreeMap<PathBuf, Contents>,
    /// Daemons to start.
    #[serde(default)]
    pub run: Vec<CommandLine>,
}

/// One interface of a node.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Interface {
    /// The link that it is plugged into.
    pub link: String,
    /// Addresses with prefix length: one, or a list.
    #[serde(default)]
    pub address: Addresses,
}

/// One address or a list of them.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "expected an address with prefix length, as 192.0.2.1/24, or a list")]
pub enum Addresses {
    /// The usual case.
    One(IpNet),
    /// Several, both families.
    Many(Vec<IpNet>),
}

impl Default for Addresses {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl Addresses {
    /// All of them.
    pub fn iter(&self) -> std::slice::Iter<'_, IpNet> {
        match self {
            Self::One(one) => std::slice::from_ref(one).iter(),
            Self::Many(many) => many.iter(),
        }
    }
}

/// Source NAT towards one interface.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Nat {
    /// The interface whose address the inside hides behind.
    pub outside: String,
    /// What becomes of the source port.
    #[serde(default)]
    pub ports: NatPorts,
}

/// Source ports of translated flows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NatPorts {
    /// Kept where free: what most home routers do.
    #[default]
    Preserve,
    /// A random one for each flow: another one for each peer ("symmetric NAT").
    Random,
}

/// What a file holds.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "expected the file's text, or `copy: PATH`")]
pub enum Contents {
    /// Text.
    Text(String),
    /// A copy of a file that `setup` made.
    Copy {
        /// Path, relative to the lab's own folder.
        copy: PathBuf,
    },
}

/// A command: one string split at blanks, or a list of words.
#[derive(Debug, Clone, Deserialize)]
#[serde(from = "Words")]
pub struct CommandLine(pub Vec<String>);

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a command: a string, or a list of words")]
enum Words {
    Line(String),
    List(Vec<String>),
}

impl From<Words> for CommandLine {
    fn from(words: Words) -> Self {
        match words {
            Words::Line(line) => Self(line.split_whitespace().map(str::to_owned).collect()),
            Words::List(list) => Self(list),
        }
    }
}

impl fmt::Display for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(" "))
    }
}

/// Value of a kernel setting.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "expected a number or a string")]
pub enum Scalar {
    /// The usual case.
    Number(i64),
    /// Anything else.
    Text(String),
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => text.fmt(f),
        }
    }
}

/// Where a route leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub enum Destination {
    /// Everything, of the gateway's family.
    Default,
    /// A prefix.
    Prefix(IpNet),
}

impl TryFrom<String> for Destination {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "default" => Ok(Self::Default),
            _ => text
                .parse()
                .map(Self::Prefix)
                .map_err(|_| format!("`{text}` is neither `default` nor a prefix")),
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Prefix(prefix) => prefix.fmt(f),
        }
    }
}

/// A delay, in the words of `tc`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub struct Delay(String);

impl TryFrom<String> for Delay {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let good = digits.parse::<f64>().is_ok_and(|n| n >= 0.0)
            && matches!(&text[digits.len()..], "us" | "ms" | "s");
        if good { Ok(Self(text)) } else { Err(format!("`{text}` is no delay, as 10ms")) }
    }
}

impl fmt::Display for Delay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A share, as `1.5%`.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub struct Percent(f64);

impl TryFrom<String> for Percent {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.strip_suffix('%')
            .and_then(|number| number.parse().ok())
            .filter(|number| (0.0..=100.0).contains(number))
            .map(Self)
            .ok_or_else(|| format!("`{text}` is no share from 0% to 100%"))
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

/// A topology that cannot be used: where, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct TopologyError {
    /// The file, as it was named.
    pub file: PathBuf,
    /// Line, from 1; the nearest enclosing one that is known.
    pub line: Option<usize>,
    /// Keys from the top, joined by dots; may be empty.
    pub key: String,
    /// What is wrong, and what was expected.
    pub reason: String,
}

impl fmt::Display for TopologyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.reason)
    }
}

impl Topology {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// When it cannot be read, or [`TopologyError`].
    pub fn read(file: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(file)
            .map_err(|source| Error::io(format!("read {}", file.display()), source))?;
        let mut topology = Self::parse(file, &text)?;
        if topology.name.is_none() {
            topology.name = file.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        }
        Ok(topology)
    }

    /// Parses and checks a text; `file` is for messages only.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse(file: &Path, text: &str) -> Result<Self, TopologyError> {
        let topology: Self = serde_yaml::from_str(text).map_err(|error| {
            let line = error.location().map(|location| location.line());
            let message = error.to_string();
            let message = message.split(" at line ").next().unwrap_or(&message);
            let (key, reason) = match message.split_once(": ") {
                Some((key, reason)) if !key.contains([' ', '`']) => (key, reason),
                _ => ("", message),
            };
            TopologyError { file: file.into(), line, key: key.into(), reason: reason.into() }
        })?;
        topology.check().map_err(|(path, reason)| TopologyError {
            file: file.into(),
            line: line_of(text, &path),
            key: path.join("."),
            reason,
        })?;
        Ok(topology)
    }

    fn check(&self) -> Result<(), (Vec<String>, String)> {
        fn at<const N: usize>(path: [&str; N], reason: String) -> (Vec<String>, String) {
            (path.map(str::to_owned).to_vec(), reason)
        }
        if let Some(name) = self.name.as_deref().filter(|name| !is_name(name, LONGEST_NAME)) {
            return Err(at(["name"], bad_name(name, LONGEST_NAME)));
        }
        if let Some(link) = self.links.keys().find(|link| !is_name(link, 15)) {
            return Err(at(["links", link], bad_name(link, 15)));
        }
        if let Some(empty) = self.setup.iter().position(|command| command.0.is_empty()) {
            return Err(at(["setup"], format!("command {} is empty", empty + 1)));
        }
        for (name, node) in &self.nodes {
            if !is_name(name, LONGEST_NAME) {
                return Err(at(["nodes", name], bad_name(name, LONGEST_NAME)));
            }
            for (device, interface) in &node.interfaces {
                let path = ["nodes", name, "interfaces", device];
                if !is_name(device, 15) || device == "lo" {
                    return Err(at(path, bad_name(device, 15)));
                }
                if !self.links.contains_key(&interface.link) {
                    let known = names(self.links.keys());
                    let reason = format!("no link `{}`; there are: {known}", interface.link);
                    return Err(at(["nodes", name, "interfaces", device, "link"], reason));
                }
            }
            for (destination, gateway) in &node.routes {
                let on_link = |net: &IpNet| net.contains(gateway) && net.addr() != *gateway;
                if !node.interfaces.values().any(|i| i.address.iter().any(on_link)) {
                    let reason = format!("gateway {gateway} is on none of this node's subnets");
                    return Err(at(["nodes", name, "routes", &destination.to_string()], reason));
                }
            }
            if let Some(nat) = &node.nat
                && !node.interfaces.contains_key(&nat.outside)
            {
                let known = names(node.interfaces.keys());
                let reason = format!("no interface `{}`; there are: {known}", nat.outside);
                return Err(at(["nodes", name, "nat", "outside"], reason));
            }
            if let Some(path) = node.files.keys().find(|path| !path.is_absolute()) {
                let path = path.to_string_lossy();
                return Err(at(["nodes", name, "files", &path], "must be absolute".into()));
            }
            if let Some(empty) = node.run.iter().position(|command| command.0.is_empty()) {
                return Err(at(["nodes", name, "run"], format!("command {} is empty", empty + 1)));
            }
        }
        Ok(())
    }
}

/// Of a lab or a node, in bytes: a host name's label.
pub(crate) const LONGEST_NAME: usize = 63;

pub(crate) fn is_name(name: &str, longest: usize) -> bool {
    (1..=longest).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
}

fn bad_name(name: &str, longest: usize) -> String {
    format!("`{name}` is no name: 1 to {longest} letters, digits, - and _ are")
}

fn names<'a>(names: impl Iterator<Item = &'a String>) -> String {
    let names: Vec<_> = names.map(String::as_str).collect();
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

/// The line of a key in block-style YAML, or of its nearest ancestor.
fn line_of(text: &str, path: &[String]) -> Option<usize> {
    let lines: Vec<&str> = text.lines().collect();
    let indent = |line: &str| line.len() - line.trim_start().len();
    let blank = |line: &str| line.trim_start().is_empty() || line.trim_start().starts_with('#');
    let mut found = None;
    let mut range = 0..lines.len();
    for key in path {
        let children = lines[range.clone()].iter().find(|line| !blank(line)).map(|l| indent(l));
        let at = range.clone().find(|&index| {
            let line = lines[index];
            let bare = line.trim_start().trim_start_matches(['"', '\'']);
            let rest = bare.strip_prefix(key.as_str()).map(|r| r.trim_start_matches(['"', '\'']));
            Some(indent(line)) == children && rest.is_some_and(|rest| rest.starts_with(':'))
        });
        let Some(at) = at else { break };
        found = Some(at + 1);
        let end = (at + 1..range.end)
            .find(|&index| !blank(lines[index]) && indent(lines[index]) <= indent(lines[at]))
            .unwrap_or(range.end);
        range = at + 1..end;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        Topology::parse(Path::new("t.yaml"), text).unwrap_err().to_string()
    }

    const HUB: &str = "links: { wan: }\nnodes:\n  hub:\n    interfaces:\n      eth0: { link: wan, \
                       address: 198.51.100.1/24 }\n";

    #[test]
    fn whole_topology() {
        let text = format!(
            "{HUB}    routes: {{ default: 198.51.100.254, 2001:db8::/32: 198.51.100.3 }}\n    \
             nat: {{ outside: eth0, ports: random }}\n    run:\n      - nhrpd --config x\n      - \
             [sh, -c, a b]\n"
        );
        let topology = Topology::parse(Path::new("t.yaml"), &text).unwrap();
        let hub = &topology.nodes["hub"];
        assert_eq!(hub.run[0].0, ["nhrpd", "--config", "x"]);
        assert_eq!(hub.run[1].0, ["sh", "-c", "a b"]);
        assert_eq!(hub.nat.as_ref().unwrap().ports, NatPorts::Random);
        assert_eq!(hub.routes.len(), 2);
    }

    #[test]
    fn unknown_key() {
        assert_eq!(
            refused(&HUB.replace("address", "adress")),
            "t.yaml:5: nodes.hub.interfaces.eth0: unknown field `adress`, expected `link` or \
             `address`"
        );
    }

    #[test]
    fn bad_address() {
        assert_eq!(
            refused(&HUB.replace("/24", "")),
            "t.yaml:5: nodes.hub.interfaces.eth0: expected an address with prefix length, \
             as 192.0.2.1/24, or a list"
        );
    }

    #[test]
    fn unknown_link() {
        assert_eq!(
            refused(&HUB.replace("link: wan", "link: wam")),
            "t.yaml:5: nodes.hub.interfaces.eth0.link: no link `wam`; there are: wan"
        );
    }

    #[test]
    fn gateway_out_of_reach() {
        assert_eq!(
            refused(&format!("{HUB}    routes:\n      default: 192.0.2.1\n")),
            "t.yaml:7: nodes.hub.routes.default: gateway 192.0.2.1 is on none of this node's \
             subnets"
        );
    }

    #[test]
    fn nat_needs_its_interface() {
        assert_eq!(
            refused(&format!("{HUB}    nat:\n      # the public side\n      outside: eth9\n")),
            "t.yaml:8: nodes.hub.nat.outside: no interface `eth9`; there are: eth0"
        );
    }

    #[test]
    fn names_fit_the_kernel() {
        assert_eq!(
            refused("links:\n  a-very-long-link-name:\nnodes: {}\n"),
            "t.yaml:2: links.a-very-long-link-name: `a-very-long-link-name` is no name: 1 to 15 \
             letters, digits, - and _ are"
        );
    }

    #[test]
    fn relative_file() {
        assert_eq!(
            refused(&format!("{HUB}    files:\n      etc/x: y\n")),
            "t.yaml:7: nodes.hub.files.etc/x: must be absolute"
        );
    }

    #[test]
    fn delay_and_loss_are_checked() {
        assert_eq!(
            refused("links:\n  wan: { delay: 10 ms }\nnodes: {}\n"),
            "t.yaml:2: links.wan: `10 ms` is no delay, as 10ms"
        );
        assert_eq!(
            refused("links:\n  wan: { loss: 101% }\nnodes: {}\n"),
            "t.yaml:2: links.wan: `101%` is no share from 0% to 100%"
        );
    }

    #[test]
    fn not_yaml() {
        assert!(refused("nodes: [").starts_with("t.yaml:1: "));
    }
}
