//! The language of Cisco IOS, which FRR speaks as well: blocks of a line and indented lines.

mod crypto;
mod routing;

use std::net::{IpAddr, Ipv4Addr};

use anyhow::bail;
use ipnet::{IpNet, Ipv4Net};

use super::Given;
use super::found::{Found, Line, Member, Server};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    Ios,
    Frr,
}

/// A line at the margin with the indented lines below it.
#[derive(Debug)]
pub(super) struct Block<'a> {
    head: Line<'a>,
    body: Vec<Line<'a>>,
}

impl<'a> Block<'a> {
    /// The name of the interface, if it is one.
    fn interface(&self) -> Option<&'a str> {
        // `interface tunnel 0` and `interface Tunnel0 point-to-point` are not what is shown.
        self.head.text.strip_prefix("interface ").map(str::trim)
    }

    fn last(&self) -> usize {
        self.body.last().unwrap_or(&self.head).number
    }

    fn about_nhrp(&self) -> bool {
        self.body.iter().any(|line| words(line.text).get(1) == Some(&"nhrp"))
    }
}

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

pub(super) fn read<'a>(
    text: &'a str,
    dialect: Dialect,
    given: &Given,
) -> anyhow::Result<Found<'a>> {
    let blocks = blocks(text);
    let tunnel = choose(&blocks, given)?;
    let mut found =
        Found { interface: tunnel.interface().unwrap_or_default().to_owned(), ..Found::default() };
    let v4 = tunnel.body.iter().any(|line| line.text.starts_with("ip address "));
    let mut reader = Reader { found: &mut found, dialect, family: if v4 { "ip" } else { "ipv6" } };
    for line in &tunnel.body {
        reader.tunnel(*line, given);
    }
    let own = given.address.or(found.address);
    for block in &blocks {
        if std::ptr::eq(block, tunnel) {
            continue;
        }
        let first: Vec<&str> = words(block.head.text);
        match first[..] {
            ["hostname", name] => found.name = Some(name.to_owned()),
            ["version" | "end" | "exit" | "frr", ..] | ["Building" | "Current", ..] => {}
            ["crypto", ..] => crypto::read(&mut found, block),
            ["router", ..] => routing::router(&mut found, block, &blocks, tunnel),
            ["ip" | "ipv6", "route", ..] => routing::route(&mut found, block.head, own),
            ["ip" | "ipv6", "nhrp", ..] | ["nhrp", ..] => found.note(
                block.head,
                "traffic is seen by the data plane itself: no netfilter groups are needed",
            ),
            ["interface", ..] if block.about_nhrp() => found.note_lines(
                block.head,
                block.last(),
                "another tunnel: import it with --interface, for an nhrpd of its own",
            ),
            _ => found.note_lines(
                block.head,
                block.last(),
                "not about the tunnel: left to the system",
            ),
        }
    }
    Ok(found)
}

/// Comments and free text left out.
fn blocks(text: &str) -> Vec<Block<'_>> {
    let mut blocks: Vec<Block<'_>> = Vec::new();
    let mut lines = text.lines().enumerate().map(|(index, text)| (index + 1, text));
    while let Some((number, raw)) = lines.next() {
        let text = raw.trim();
        if text.is_empty() || text.starts_with(['!', '#']) {
            continue;
        }
        let line = Line { number, text };
        if raw.starts_with([' ', '\t']) && !blocks.is_empty() {
            let closing = matches!(text, "exit" | "exit-address-family" | "quit");
            if let (false, Some(block)) = (closing, blocks.last_mut()) {
                block.body.push(line);
            }
            continue;
        }
        blocks.push(Block { head: line, body: Vec::new() });
        // The text of a banner ends where its delimiter comes again.
        if let ["banner", _, rest, ..] = words(text)[..] {
            let delimiter = match rest.strip_prefix('^').and_then(|rest| rest.chars().next()) {
                Some(control) => format!("^{control}"),
                None => rest.chars().take(1).collect(),
            };
            if text.matches(&delimiter).count() < 2 {
                let _ = lines.find(|(_, text)| text.contains(&delimiter));
            }
        }
    }
    blocks
}

/// The one tunnel that speaks NHRP.
fn choose<'b, 'a>(blocks: &'b [Block<'a>], given: &Given) -> anyhow::Result<&'b Block<'a>> {
    if let Some(name) = &given.interface {
        let named = blocks.iter().find(|block| block.interface() == Some(name));
        let Some(block) = named else { bail!("there is no interface {name}") };
        return Ok(block);
    }
    let tunnels: Vec<&Block<'_>> =
        blocks.iter().filter(|block| block.interface().is_some() && block.about_nhrp()).collect();
    match tunnels[..] {
        [tunnel] => Ok(tunnel),
        [] => bail!("no interface speaks NHRP"),
        _ => {
            let names: Vec<&str> = tunnels.iter().filter_map(|block| block.interface()).collect();
            bail!(
                "several interfaces speak NHRP ({}): choose with --interface; each gets an nhrpd \
                 of its own",
                names.join(", ")
            )
        }
    }
}

/// `A.B.C.D M.M.M.M` or a prefix.
fn prefix(words: &[&str]) -> Option<IpNet> {
    match words {
        [prefix] => prefix.parse().ok(),
        [address, mask] => {
            let (address, mask) = (address.parse().ok()?, mask.parse().ok()?);
            Ipv4Net::with_netmask(address, mask).ok().map(IpNet::V4)
        }
        _ => None,
    }
}

struct Reader<'f, 'a> {
    found: &'f mut Found<'a>,
    dialect: Dialect,
    /// The word that lines of the tunnel's address family begin with.
    family: &'static str,
}

const ROUTING: &str =
    "for a routing protocol: run one (FRR) over the tunnel, or use advertise and routes";
const ONE_FAMILY: &str = "a tunnel has one address family: give the other one a tunnel of its own";
const GROUPS: &str = "NHRP groups (quality of service for each spoke) are not in this version";
const UNKNOWN: &str = "nhrpd has no equivalent";

impl<'a> Reader<'_, 'a> {
    fn note(&mut self, line: Line<'a>, reason: impl Into<String>) {
        self.found.note(line, reason);
    }

    /// Keeps a value, or says why it cannot be kept.
    fn set<T>(
        &mut self,
        line: Line<'a>,
        value: Option<T>,
        what: &str,
        slot: impl for<'s> FnOnce(&'s mut Found<'a>) -> &'s mut Option<T>,
    ) {
        match value {
            Some(value) => *slot(self.found) = Some(value),
            None => self.note(line, format!("expected {what}")),
        }
    }

    /// One line of the tunnel interface.
    fn tunnel(&mut self, line: Line<'a>, given: &Given) {
        match words(line.text)[..] {
            [family @ ("ip" | "ipv6"), "nhrp", ref rest @ ..] => match family == self.family {
                true => self.nhrp(line, rest),
                false => self.note(line, ONE_FAMILY),
            },
            ["no", "ip" | "ipv6", "nhrp", "shortcut"] => self.found.shortcut = Some(false),
            ["no", "ip" | "ipv6", "nhrp", "redirect"] => self.found.redirect = Some(false),
            [family @ ("ip" | "ipv6"), "address", ref rest @ ..] => match prefix(rest) {
                _ if family != self.family => self.note(line, ONE_FAMILY),
                Some(address) if self.found.address.is_none() => self.found.address = Some(address),
                Some(_) => self.note(line, "a tunnel has one address here"),
                None => self.note(line, "not an address of this node with its prefix length"),
            },
            ["ip" | "ipv6", "mtu", mtu] => {
                let mtu = mtu.parse().ok().filter(|mtu| (576..=65535).contains(mtu));
                self.set(line, mtu, "576 to 65535 bytes", |found| &mut found.mtu);
            }
            ["ip" | "ipv6", "tcp", "adjust-mss", ..] => self.note(
                line,
                "packets that are too big are answered, so it is seldom needed; if it is: nft add \
                 rule inet filter forward tcp flags syn tcp option maxseg size set rt mtu",
            ),
            [
                "ip" | "ipv6",
                "ospf" | "ospf6" | "pim" | "igmp" | "rip" | "bandwidth-percent",
                ..,
            ]
            | ["no", "ip", "split-horizon" | "next-hop-self", ..]
            | ["ip", "hello-interval" | "hold-time" | "summary-address", ..]
            | ["bandwidth" | "delay", ..] => self.note(line, ROUTING),
            ["tunnel", ref rest @ ..] => self.tunnel_mode(line, rest, given),
            ["nhrp", "group", ..] => self.note(line, GROUPS),
            ["description", ..] | ["no", "shutdown"] | ["no", "ip" | "ipv6", "redirects"] => {}
            ["shutdown"] => {
                self.note(line, "nhrpd runs when it is started: leave the service disabled");
            }
            ["vrf" | "ip", "forwarding", ..] | ["ip", "vrf", ..] | ["vrf", ..] => {
                self.note(line, "VRFs are not in this version: run nhrpd in a network namespace");
            }
            _ => self.note(line, UNKNOWN),
        }
    }

    fn tunnel_mode(&mut self, line: Line<'a>, rest: &[&'a str], given: &Given) {
        match *rest {
            ["source", source] => {
                let known = self.dialect == Dialect::Frr || source.parse::<IpAddr>().is_ok();
                if known {
                    self.found.source = Some(source.to_owned());
                } else if given.source.is_none() {
                    self.found.source = Some("eth0".to_owned());
                    self.note(
                        line,
                        "Linux has other names for its devices: written as eth0; --source DEVICE \
                         writes another",
                    );
                }
            }
            ["mode", "gre", "multipoint", ..] | ["path-mtu-discovery", ..] => {}
            ["mode", "gre", "ip"] => self.found.shortcut = Some(false),
            ["destination", nbma] => {
                self.found.destination = Some(nbma.to_owned());
                self.found.shortcut = Some(false);
                self.note(
                    line,
                    "a point-to-point tunnel (phase 1): carried over as the address of the server; \
                     nhrp.shortcut is false, set it to true for direct paths",
                );
            }
            ["key", key] => {
                self.set(line, key.parse().ok(), "a GRE key, 0 to 4294967295", |found| {
                    &mut found.key
                });
            }
            ["protection", ..] => self.found.protected = true,
            ["vrf", ..] => {
                self.note(line, "VRFs are not in this version: run nhrpd in a network namespace");
            }
            _ => self.note(line, UNKNOWN),
        }
    }

    /// What follows `ip nhrp`.
    fn nhrp(&mut self, line: Line<'a>, rest: &[&'a str]) {
        match *rest {
            ["authentication", password] => {
                let password = (1..=8).contains(&password.len()).then(|| password.to_owned());
                self.set(line, password, "1 to 8 bytes", |found| &mut found.authentication);
            }
            ["authentication", ..] => {
                self.note(line, "the password is encrypted: write nhrp.authentication yourself");
            }
            ["network-id", id] => {
                let id = id.parse().ok().filter(|id| *id != 0);
                self.set(line, id, "1 to 4294967295", |found| &mut found.network_id);
            }
            // Before IOS 12.4 the same for negative answers stood behind it.
            ["holdtime", seconds, ..] => {
                let seconds = seconds.parse().ok().filter(|seconds| *seconds >= 3);
                self.set(line, seconds, "3 to 65535 seconds", |found| &mut found.holding_time);
            }
            ["map", "multicast", member] => self.member(line, member),
            ["map", "group", ..] | ["group", ..] => self.note(line, GROUPS),
            ["map", address, "local"] if address.parse::<IpAddr>().is_ok() => {
                self.note(line, "a node knows its own address: not needed");
            }
            ["map", address, nbma] => self.map(line, address, nbma),
            ["map", address, mask, nbma] => match mask.parse() {
                Ok(Ipv4Addr::BROADCAST) => self.map(line, address, nbma),
                _ => self
                    .note(line, "only single addresses are mapped; a prefix behind a node: routes"),
            },
            ["nhs", "cluster", ..] => {
                self.note(
                    line,
                    "a node registers with all its servers, and uses the first by priority",
                );
            }
            ["nhs", "dynamic", ..] => self.note(
                line,
                "the server's tunnel address must be said: add it to nhs in the new file",
            ),
            ["nhs", "fallback", ..] => self.note(line, UNKNOWN),
            ["nhs", address, ref options @ ..] => self.server(line, address, options),
            ["registration", "no-unique"] => self.found.no_unique = true,
            ["registration", "unique"] => {}
            ["registration", ..] => {
                self.note(line, "a node registers again after a third of the holding time");
            }
            ["redirect", ..] => self.found.redirect = Some(true),
            ["shortcut"] => self.found.shortcut = Some(true),
            ["server-only", ..] => self.found.shortcut = Some(false),
            _ => self.note(line, UNKNOWN),
        }
    }

    fn member(&mut self, line: Line<'a>, member: &str) {
        let member = match (member, member.parse()) {
            ("dynamic", _) => Member::Dynamic,
            ("nhs", _) => Member::Servers,
            (_, Ok(nbma)) => Member::Nbma(nbma),
            _ => return self.note(line, "expected dynamic or an NBMA address"),
        };
        self.found.multicast.push((line, member));
    }

    fn map(&mut self, line: Line<'a>, address: &str, nbma: &str) {
        match address.parse() {
            Ok(address) => self.found.maps.push((line, address, nbma.to_owned())),
            Err(_) => self.note(line, format!("{address} is not an IP address")),
        }
    }

    /// `ip nhrp nhs ADDRESS [nbma NBMA] [multicast] [priority N] [cluster N]`
    fn server(&mut self, line: Line<'a>, address: &str, options: &[&str]) {
        let Ok(address) = address.parse() else {
            return self.note(line, format!("{address} is not an IP address"));
        };
        let mut server = Server { address, nbma: None, priority: 0, cluster: 0 };
        let mut rest = options;
        loop {
            rest = match *rest {
                [] => break,
                ["nbma", nbma, ref rest @ ..] => {
                    server.nbma = Some(nbma.to_owned());
                    rest
                }
                ["multicast", ref rest @ ..] => {
                    self.found.multicast.push((line, Member::Servers));
                    rest
                }
                [what @ ("priority" | "cluster"), number, ref rest @ ..] => {
                    let Ok(number) = number.parse() else {
                        return self.note(line, format!("expected {what} 0 to 255"));
                    };
                    match what {
                        "priority" => server.priority = number,
                        _ => server.cluster = number,
                    }
                    rest
                }
                _ => return self.note(line, UNKNOWN),
            };
        }
        self.found.servers.push((line, server));
    }
}
