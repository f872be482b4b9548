//! What a configuration said about its tunnel, and the rules between its values.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use anyhow::bail;
use ipnet::IpNet;
use serde::Serialize;

use super::Given;
use super::draft::{Draft, Limits, NextHopServer, Nhrp, Security, StaticMap, Tunnel, Underlay};

/// A line that could not be carried over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Note {
    /// Its number, from 1; 0 is the file as a whole.
    line: usize,
    /// The last one, where the note is about several.
    last: usize,
    /// The line, without secrets.
    text: String,
    /// Why, and what to do.
    reason: String,
}

/// Goes behind the name of the file.
impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, last, text, reason } = self;
        match (*line, *last) {
            (0, _) => write!(f, ": {reason}"),
            (line, last) if line == last => write!(f, ":{line}: {text}: {reason}"),
            (line, last) => write!(f, ":{line}-{last}: {text}: {reason}"),
        }
    }
}

/// Where a value comes from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line<'a> {
    pub(super) number: usize,
    pub(super) text: &'a str,
}

/// One `nhs`.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) address: IpAddr,
    pub(super) nbma: Option<String>,
    pub(super) priority: u8,
    pub(super) cluster: u8,
}

/// One `multicast`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Member {
    Servers,
    Dynamic,
    Nbma(IpAddr),
}

/// All that readers understand.
#[derive(Debug, Default)]
pub(super) struct Found<'a> {
    pub(super) notes: Vec<Note>,
    pub(super) name: Option<String>,
    pub(super) interface: String,
    pub(super) address: Option<IpNet>,
    pub(super) key: Option<u32>,
    pub(super) mtu: Option<u16>,
    /// Device or address; a device of another system is noted by the reader.
    pub(super) source: Option<String>,
    /// NBMA address of the one peer of a point-to-point tunnel.
    pub(super) destination: Option<String>,
    pub(super) network_id: Option<u32>,
    pub(super) holding_time: Option<u16>,
    pub(super) authentication: Option<String>,
    pub(super) redirect: Option<bool>,
    pub(super) shortcut: Option<bool>,
    pub(super) no_unique: bool,
    pub(super) servers: Vec<(Line<'a>, Server)>,
    pub(super) maps: Vec<(Line<'a>, IpAddr, String)>,
    pub(super) multicast: Vec<(Line<'a>, Member)>,
    pub(super) advertise: Vec<(Line<'a>, IpNet)>,
    pub(super) routes: Vec<(Line<'a>, IpNet)>,
    pub(super) protected: bool,
    pub(super) dead_peer_interval: Option<u16>,
    pub(super) rekey_interval: Option<u32>,
}

/// A configuration that loads, and what goes beside it.
#[derive(Debug)]
pub(super) struct Drafted {
    pub(super) draft: Draft,
    pub(super) notes: Vec<Note>,
    pub(super) next: Vec<String>,
}

impl<'a> Found<'a> {
    pub(super) fn note(&mut self, line: Line<'a>, reason: impl Into<String>) {
        self.notes.push(Note {
            line: line.number,
            last: line.number,
            text: redacted(line.text),
            reason: reason.into(),
        });
    }

    /// About the lines from `first` to `last`, of which the first two words are named.
    pub(super) fn note_lines(&mut self, first: Line<'a>, last: usize, reason: impl Into<String>) {
        let words: Vec<&str> = first.text.split_whitespace().take(2).collect();
        let text = format!("{} …", words.join(" "));
        self.notes.push(Note { line: first.number, last, text, reason: reason.into() });
    }

    fn remark(&mut self, reason: impl Into<String>) {
        let reason = reason.into();
        self.notes.push(Note { line: 0, last: 0, text: String::new(), reason });
    }

    /// The configuration. Fails where it cannot be without what is missing.
    pub(super) fn draft(mut self, given: &Given) -> anyhow::Result<Drafted> {
        let Some(own) = given.address.or(self.address) else {
            bail!("the tunnel has no address of its own: say it with --address 172.16.0.2/24");
        };
        if let Err(reason) = usable(own) {
            bail!("tunnel address {own}: {reason}");
        }
        if !device(&self.interface) {
            let interface = std::mem::replace(&mut self.interface, "dmvpn0".to_owned());
            self.remark(format!("{interface} is no name for a Linux device: written as dmvpn0"));
        }
        let source = self.source(own, given)?;
        let (nhs, map) = self.bindings(own);
        let multicast = self.members(&nhs);
        let advertise = std::mem::take(&mut self.advertise);
        let advertise = self.prefixes(advertise, own);
        let routes = std::mem::take(&mut self.routes);
        let routes = self.prefixes(routes, own);
        let security = self.security(given);
        let next = self.next(own, &advertise, &security);
        let both = !nhs.is_empty() && multicast.iter().any(|member| member == "dynamic");
        let draft = Draft {
            tunnel: Tunnel {
                interface: self.interface.clone(),
                address: own,
                key: given.key.or(self.key),
                mtu: self.mtu,
            },
            underlay: Underlay { source },
            nhrp: Nhrp {
                network_id: self.network_id,
                holding_time: self.holding_time,
                authentication: self.authentication.take(),
                registrations: both.then_some("accept"),
                redirect: self.redirect,
                shortcut: self.shortcut,
                unique: self.no_unique.then_some(false),
            },
            nhs,
            map,
            multicast,
            advertise,
            routes,
            security,
            limits: self.dead_peer_interval.map(|dead_peer_interval| Limits { dead_peer_interval }),
        };
        self.notes.sort_by_key(|note| note.line);
        Ok(Drafted { draft, notes: self.notes, next })
    }

    fn source(&mut self, own: IpNet, given: &Given) -> anyhow::Result<String> {
        let source = match given.source.clone().or(self.source.take()) {
            Some(source) => source,
            None => {
                self.remark("what the tunnel's packets leave from is not said: written as eth0; --source DEVICE writes another");
                "eth0".to_owned()
            }
        };
        match source.parse::<IpAddr>() {
            Ok(address) if own.contains(&address) || usable(address.into()).is_err() => {
                bail!(
                    "{address} cannot be the source of the tunnel {own}: say another with --source"
                )
            }
            Err(_) if !device(&source) || source == self.interface => {
                bail!(
                    "{source} cannot be the device that the tunnel leaves from: say another with --source"
                )
            }
            Err(_) if source.starts_with(|c: char| c.is_ascii_digit()) && source.contains('.') => {
                bail!("{source} is neither a device nor an IP address: say another with --source")
            }
            _ => Ok(source),
        }
    }

    /// Next-hop servers with their NBMA addresses, and the bindings of everybody else.
    fn bindings(&mut self, own: IpNet) -> (Vec<NextHopServer>, Vec<StaticMap>) {
        let mut nhs: Vec<NextHopServer> = Vec::new();
        let mut maps = std::mem::take(&mut self.maps);
        let destination = self.destination.take();
        for (line, server) in std::mem::take(&mut self.servers) {
            let mapped = maps.iter().find(|(_, address, _)| *address == server.address);
            let mapped = mapped.map(|(_, _, nbma)| nbma.clone());
            if let Err(reason) = peer(own, server.address) {
                self.note(line, reason);
            } else if nhs.iter().any(|known| known.address == server.address) {
                self.note(line, "a server has one NBMA address here: use a DNS name with several");
            } else if let Some(nbma) = server.nbma.or(mapped).or(destination.clone()) {
                match underlay(own, &nbma) {
                    Ok(()) => nhs.push(NextHopServer {
                        address: server.address,
                        nbma,
                        priority: server.priority,
                        cluster: server.cluster,
                    }),
                    Err(reason) => self.note(line, reason),
                }
            } else {
                self.note(line, "no line says its NBMA address: add it to nhs in the new file");
            }
        }
        let mut map: Vec<StaticMap> = Vec::new();
        for (line, address, nbma) in maps.drain(..) {
            if let Some(server) = nhs.iter().find(|server| server.address == address) {
                if server.nbma != nbma {
                    self.note(line, format!("the server is at {} already", server.nbma));
                }
                continue;
            }
            let checked = peer(own, address).and_then(|()| underlay(own, &nbma));
            match (checked, nbma.parse()) {
                (Err(reason), _) => self.note(line, reason),
                (Ok(()), Err(_)) => self.note(line, "only next-hop servers may have a DNS name"),
                (Ok(()), Ok(nbma)) => match map.iter().find(|known| known.address == address) {
                    Some(known) if known.nbma == nbma => {}
                    Some(known) => {
                        let reason = format!("{address} is at {} already", known.nbma);
                        self.note(line, reason);
                    }
                    None => map.push(StaticMap { address, nbma }),
                },
            }
        }
        (nhs, map)
    }

    fn members(&mut self, nhs: &[NextHopServer]) -> Vec<String> {
        let mut members: BTreeSet<String> = BTreeSet::new();
        for (line, member) in std::mem::take(&mut self.multicast) {
            match member {
                Member::Dynamic => drop(members.insert("dynamic".to_owned())),
                Member::Servers => drop(members.insert("nhs".to_owned())),
                Member::Nbma(nbma) if nhs.iter().any(|server| server.nbma == nbma.to_string()) => {
                    members.insert("nhs".to_owned());
                }
                Member::Nbma(nbma) => match usable(nbma.into()) {
                    Ok(()) => drop(members.insert(nbma.to_string())),
                    Err(reason) => self.note(line, reason),
                },
            }
        }
        members.into_iter().collect()
    }

    fn prefixes(&mut self, found: Vec<(Line<'a>, IpNet)>, own: IpNet) -> Vec<IpNet> {
        let mut prefixes: Vec<IpNet> = Vec::new();
        for (line, prefix) in found {
            let prefix = prefix.trunc();
            if prefix.addr().is_ipv4() != own.addr().is_ipv4() {
                self.note(
                    line,
                    "a tunnel has one address family: give the other one a tunnel of its own",
                );
            } else if !prefixes.contains(&prefix) {
                prefixes.push(prefix);
            }
        }
        prefixes
    }

    fn security(&mut self, given: &Given) -> Security {
        if given.clear {
            return Security::Clear { mode: "none" };
        }
        if !self.protected {
            self.remark("no tunnel protection: the tunnel was clear GRE, and is encrypted now; --clear keeps it clear");
        }
        let name = self.file_name();
        Security::Certificates {
            certificate: format!("/etc/nhrpd/{name}.crt"),
            private_key: format!("/etc/nhrpd/{name}.key"),
            ca: "/etc/nhrpd/ca.crt",
            rekey_interval: self.rekey_interval,
        }
    }

    /// The node's name where it can be the name of a file.
    fn file_name(&self) -> String {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let name = self.name.as_deref().unwrap_or_default();
        match name.chars().all(plain) && name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
            true => name.to_owned(),
            false => "node".to_owned(),
        }
    }

    fn next(&self, own: IpNet, advertise: &[IpNet], security: &Security) -> Vec<String> {
        let mut next = Vec::new();
        if let Security::Certificates { certificate, private_key, ca, .. } = security {
            let mut issue =
                format!("overlayctl pki issue {} --address {}", self.file_name(), own.addr());
            for prefix in advertise {
                issue += &format!(" --prefix {prefix}");
            }
            next.push(format!("on the machine of the CA: {issue}"));
            next.push(format!("put its files here as {certificate}, {private_key} and {ca}"));
        }
        next.push("nhrpd check --config FILE".to_owned());
        next
    }
}

/// The line without what is secret in it.
fn redacted(text: &str) -> String {
    const SECRET: [&str; 8] = [
        "key",
        "password",
        "secret",
        "pre-shared-key",
        "key-string",
        "authentication-key",
        "md5",
        "cisco-authentication",
    ];
    let words: Vec<&str> = text.split_whitespace().collect();
    let nhrp = words.windows(2).position(|pair| pair == ["nhrp", "authentication"]);
    let secret = words.iter().position(|word| SECRET.contains(word));
    match nhrp.map(|at| at + 1).into_iter().chain(secret).min() {
        Some(at) if at + 1 < words.len() => format!("{} ***", words[..=at].join(" ")),
        _ => words.join(" "),
    }
}

/// What the kernel takes as the name of a device.
fn device(name: &str) -> bool {
    let bad = |c: char| c == '/' || c == ':' || c.is_whitespace();
    (1..=15).contains(&name.len()) && !name.contains(bad) && name != "." && name != ".."
}

/// An address that one machine of its prefix can have.
fn usable(address: IpNet) -> Result<(), String> {
    let (ip, host_bits) = (address.addr(), address.max_prefix_len() - address.prefix_len());
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    if ip.is_unspecified() || ip.is_multicast() || broadcast {
        return Err(format!("{ip} is not the address of one machine"));
    }
    // RFC 3021, RFC 6164: prefixes of two addresses use both.
    let ends =
        host_bits > 1 && (ip == address.network() || (ip.is_ipv4() && ip == address.broadcast()));
    if ends {
        return Err(format!("{ip} is the network or broadcast address of {}", address.trunc()));
    }
    Ok(())
}

fn peer(own: IpNet, address: IpAddr) -> Result<(), String> {
    if address == own.addr() {
        return Err("this is the node itself".to_owned());
    }
    if !own.contains(&address) {
        return Err(format!("{address} is not within the tunnel's prefix {}", own.trunc()));
    }
    usable(IpNet::new_assert(address, own.prefix_len()))
}

/// An address outside of the tunnel, or a DNS name.
fn underlay(own: IpNet, nbma: &str) -> Result<(), String> {
    match nbma.parse::<IpAddr>() {
        Ok(address) if own.contains(&address) => {
            Err(format!("{address} is within the tunnel's prefix {}", own.trunc()))
        }
        Ok(address) => usable(address.into()),
        Err(_) if is_name(nbma) => Ok(()),
        Err(_) => Err(format!("{nbma} is neither an IP address nor a DNS name")),
    }
}

/// RFC 1123 §2.1; the last label is not a number, else it is meant to be an address.
fn is_name(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253
        && text.split('.').all(label)
        && text.rsplit('.').next().is_some_and(|last| !last.chars().all(|c| c.is_ascii_digit()))
}
