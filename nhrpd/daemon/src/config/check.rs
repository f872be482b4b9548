//! From text to meaning: every value, every rule between values, all problems at once.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use ike::{Algorithms, Combination, EspProposal, ProposalError};
use ipnet::IpNet;
use pki::{Absent, ExtendedKeyUsagePolicy, KeyUsageMask, KeyUsagePolicy};

use super::error::Problem;
use super::raw::{self, List, Raw};
use super::value::{
    Parsed, address, boolean, choice, device, endpoint, expected, listen, nbma, number, path_in,
    prefix, source, unicast,
};
use super::{
    Accept, Advertise, Authentication, Certificates, Config, Dataplane, Host, KeyFile, Limits,
    Listen, LogLevel, Mtu, Multicast, NextHopServer, Nhrp, Password, Security, Source, StaticMap,
    Trust, Tunnel, Tunnels, Underlay,
};

type Text = Option<String>;

pub(super) fn check(raw: Raw, folder: &Path) -> Result<Config, Vec<Problem>> {
    let mut check = Check { problems: Vec::new() };
    let config = check.config(raw, folder);
    config.filter(|_| check.problems.is_empty()).ok_or(check.problems)
}

/// Every method gives a value to go on with, and notes what was wrong.
struct Check {
    problems: Vec<Problem>,
}

impl Check {
    fn problem(&mut self, key: &str, text: impl Into<String>) {
        self.problems.push(Problem { location: None, key: key.to_owned(), text: text.into() });
    }

    fn take<T>(&mut self, key: &str, parsed: Parsed<T>) -> Option<T> {
        parsed.map_err(|text| self.problem(key, text)).ok()
    }

    fn optional<T>(
        &mut self,
        key: &str,
        text: Text,
        parse: impl Fn(&str) -> Parsed<T>,
    ) -> Option<T> {
        text.and_then(|text| self.take(key, parse(&text)))
    }

    fn or<T>(&mut self, key: &str, text: Text, default: T, parse: impl Fn(&str) -> Parsed<T>) -> T {
        self.optional(key, text, parse).unwrap_or(default)
    }

    fn required<T>(
        &mut self,
        key: &str,
        text: Text,
        what: &str,
        parse: impl Fn(&str) -> Parsed<T>,
    ) -> Option<T> {
        if text.is_none() {
            self.problem(key, format!("missing: expected {what}"));
        }
        self.optional(key, text, parse)
    }

    fn list<T: PartialEq>(
        &mut self,
        key: &str,
        list: List,
        example: &str,
        parse: impl Fn(&str) -> Parsed<T>,
    ) -> Vec<T> {
        let items = match list {
            List::Items(items) => items,
            List::Word(word) => {
                self.problem(key, format!("expected a list, such as {example}, found \"{word}\""));
                return Vec::new();
            }
        };
        let mut values = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let key = format!("{key}[{index}]");
            match self.take(&key, parse(item)) {
                Some(value) if values.contains(&value) => {
                    self.problem(&key, format!("{item} is in the list twice"));
                }
                value => values.extend(value),
            }
        }
        values
    }

    /// Every item of the section `key`, in its place; `None` where it is not good.
    fn each<R, T>(
        &mut self,
        key: &str,
        items: Vec<R>,
        read: impl Fn(&mut Self, &str, R) -> Option<T>,
    ) -> Vec<Option<T>> {
        let items = items.into_iter().enumerate();
        items.map(|(index, item)| read(self, &format!("{key}[{index}]"), item)).collect()
    }

    /// The good items of the section `key`, each address once.
    fn once<T>(
        &mut self,
        key: &str,
        items: Vec<Option<T>>,
        address: impl Fn(&T) -> IpAddr,
    ) -> Vec<T> {
        let mut good: Vec<T> = Vec::new();
        for (index, item) in items.into_iter().enumerate() {
            let Some(item) = item else { continue };
            if good.iter().any(|known| address(known) == address(&item)) {
                let text = format!("{} is in the list twice", address(&item));
                self.problem(&format!("{key}[{index}].address"), text);
            }
            good.push(item);
        }
        good
    }

    fn config(&mut self, mut raw: Raw, folder: &Path) -> Option<Config> {
        let tunnel = self.tunnel(raw.tunnel);
        let underlay = self.underlay(raw.underlay, tunnel.as_ref());
        let own = tunnel.as_ref().map(|tunnel| tunnel.address);
        let hub = raw.nhs.is_empty();
        let nhs = self.each("nhs", raw.nhs, |check, key, nhs| check.next_hop_server(key, nhs, own));
        let nhs = self.once("nhs", nhs, |nhs| nhs.address);
        let map = self.each("map", raw.map, |check, key, map| {
            check.static_map(key, map, own).filter(|map| {
                let server = nhs.iter().any(|nhs| nhs.address == map.address);
                if server {
                    let text = "a next-hop server: its NBMA address stands in nhs";
                    check.problem(&format!("{key}.address"), format!("{} is {text}", map.address));
                }
                !server
            })
        });
        let map = self.once("map", map, |map| map.address);
        let rekey_interval = self.or(
            "security.rekey-interval",
            raw.security.rekey_interval.clone(),
            4 * 3600,
            number(5..=7 * 24 * 3600),
        );
        // Without extended sequence numbers they end at 2^32.
        let most = dataplane::Config::default().rekey_packets;
        let rekey_packets = self.or(
            "security.rekey-packets",
            raw.security.rekey_packets.clone(),
            most,
            number(10_000..=most),
        );
        let ike_proposals = self.ike_proposals(raw.security.ike_proposals.take());
        let key_log = self.optional(
            "security.key-log",
            raw.security.key_log.take(),
            path_in("a folder", folder),
        );
        let esp_proposals = self.esp_proposals(raw.security.esp_proposals.take());
        let security = self.security(raw.security, folder);
        let clear = matches!(security, Some(Security::None));
        let nhrp = self.nhrp(raw.nhrp, hub, clear);
        let keys = matches!(&security, Some(Security::Keyed(_, peers)) if peers.keys.is_some());
        let accept = self.accept(raw.accept, own, nhrp.accept_registrations || keys);
        let multicast = match raw.multicast {
            Some(list) => self.list("multicast", list, "[nhs]", multicast),
            None if nhs.is_empty() => vec![Multicast::Dynamic],
            None => vec![Multicast::Nhs],
        };
        Some(Config {
            nhrp,
            nhs,
            map,
            multicast,
            advertise: self.advertise(raw.advertise, own, clear),
            routes: match raw.routes {
                Some(list) => self.list("routes", list, "[192.168.0.0/16]", prefix_like(own)),
                None => Vec::new(),
            },
            accept,
            dataplane: self.or("dataplane", raw.dataplane, Dataplane::Auto, choice(DATAPLANES)),
            limits: self.limits(raw.limits),
            metrics: self.metrics(raw.metrics),
            log: self.or("log", raw.log, LogLevel::Info, choice(&LOG_LEVELS)),
            tunnel: tunnel?,
            underlay: underlay?,
            security: security?,
            rekey_interval: Duration::from_secs(rekey_interval),
            rekey_packets,
            ike_proposals: ike_proposals?,
            esp_proposals,
            key_log,
        })
    }

    fn tunnel(&mut self, raw: raw::Tunnel) -> Option<Tunnel> {
        let what = "the own tunnel address with the tunnel's prefix length, such as 172.16.0.1/24";
        let interface = self.or("tunnel.interface", raw.interface, "dmvpn0".to_owned(), device);
        let key = self.optional("tunnel.key", raw.key, number(0..=u32::MAX.into()));
        let mtu = self.or("tunnel.mtu", raw.mtu, Mtu::Auto, mtu);
        let address = self.required("tunnel.address", raw.address, what, |text| {
            let Ok(address) = text.parse::<IpNet>() else { return expected(what, text) };
            own_address(address)
        })?;
        Some(Tunnel { interface, address, key, mtu })
    }

    fn underlay(&mut self, raw: raw::Underlay, tunnel: Option<&Tunnel>) -> Option<Underlay> {
        let port = self.or("underlay.port", raw.port, 4500, number(1..=65535));
        let what = "the device or IP address that the tunnel's packets leave from";
        let source = self.required("underlay.source", raw.source, what, source)?;
        match (&source, tunnel) {
            (Source::Device(device), Some(tunnel)) if *device == tunnel.interface => {
                self.problem("underlay.source", format!("{device} is the tunnel itself"));
            }
            (Source::Address(address), Some(tunnel)) => {
                self.take("underlay.source", outside(Some(tunnel.address), *address));
            }
            _ => {}
        }
        Some(Underlay { source, port })
    }

    fn nhrp(&mut self, raw: raw::Nhrp, hub: bool, clear: bool) -> Nhrp {
        let words = [("accept", true), ("refuse", false)];
        let accept = self.or("nhrp.registrations", raw.registrations, hub, choice(&words));
        let trust = self.optional(
            "nhrp.trust",
            raw.trust,
            choice(&[("certificate", Trust::Certificate), ("any", Trust::Any)]),
        );
        if clear && trust == Some(Trust::Certificate) {
            self.problem(
                "nhrp.trust",
                "there are no certificates with security.mode none: expected any",
            );
        }
        let holding_time =
            self.or("nhrp.holding-time", raw.holding_time, 600, number(3..=u16::MAX.into()));
        Nhrp {
            network_id: self.or("nhrp.network-id", raw.network_id, 1, number(1..=u32::MAX.into())),
            holding_time: Duration::from_secs(holding_time),
            authentication: self.optional("nhrp.authentication", raw.authentication, password),
            accept_registrations: accept,
            redirect: self.or("nhrp.redirect", raw.redirect, accept, boolean),
            shortcut: self.or("nhrp.shortcut", raw.shortcut, true, boolean),
            unique: self.or("nhrp.unique", raw.unique, true, boolean),
            trust: trust.unwrap_or(if clear { Trust::Any } else { Trust::Certificate }),
        }
    }

    fn next_hop_server(
        &mut self,
        key: &str,
        raw: raw::NextHopServer,
        own: Option<IpNet>,
    ) -> Option<NextHopServer> {
        let sub = |name: &str| format!("{key}.{name}");
        let priority = self.or(&sub("priority"), raw.priority, 0, number(0..=u8::MAX.into()));
        let cluster = self.or(&sub("cluster"), raw.cluster, 0, number(0..=u8::MAX.into()));
        let what = "the NBMA address or DNS name of the next-hop server";
        let nbma = self.required(&sub("nbma"), raw.nbma, what, |text| {
            let endpoint = endpoint(text)?;
            if let Host::Address(address) = endpoint.host {
                outside(own, address)?;
            }
            Ok(endpoint)
        });
        let what = "the tunnel address of the next-hop server";
        let address = self.required(&sub("address"), raw.address, what, peer_address(own));
        Some(NextHopServer { address: address?, nbma: nbma?, priority, cluster })
    }

    fn static_map(
        &mut self,
        key: &str,
        raw: raw::StaticMap,
        own: Option<IpNet>,
    ) -> Option<StaticMap> {
        let sub = |name: &str| format!("{key}.{name}");
        let at = self.required(&sub("nbma"), raw.nbma, "the NBMA address of the node", |text| {
            let (address, port) = nbma(text)?;
            Ok((outside(own, address)?, port))
        });
        let what = "the tunnel address of the node";
        let address = self.required(&sub("address"), raw.address, what, peer_address(own));
        let (nbma, port) = at?;
        Some(StaticMap { address: address?, nbma, port })
    }

    fn advertise(&mut self, raw: Option<List>, own: Option<IpNet>, clear: bool) -> Advertise {
        match raw {
            None => Advertise::Prefixes(Vec::new()),
            Some(List::Word(word)) if word == "certificate" => {
                if clear {
                    let text = "there is no certificate with security.mode none: list the prefixes";
                    self.problem("advertise", text);
                }
                Advertise::Certificate
            }
            Some(list) => {
                let example = "[192.168.1.0/24], or the word certificate";
                Advertise::Prefixes(self.list("advertise", list, example, prefix_like(own)))
            }
        }
    }

    fn accept(&mut self, raw: Vec<raw::Accept>, own: Option<IpNet>, hub: bool) -> Vec<Accept> {
        if !hub && !raw.is_empty() {
            let text =
                "this node takes no registrations: remove it, or set nhrp.registrations to accept";
            self.problem("accept", text);
        }
        let mut accept: Vec<Accept> = Vec::new();
        for (index, raw) in raw.into_iter().enumerate() {
            let sub = |name: &str| format!("accept[{index}].{name}");
            let what = "a certificate's subject CN or DNS name, or *";
            let identity = self.required(&sub("identity"), raw.identity, what, |text| match text {
                "" => expected(what, text),
                _ => Ok(text.to_owned()),
            });
            let example = "[172.16.0.7/32, 192.168.7.0/24]";
            let list = raw.prefixes.unwrap_or(List::Items(Vec::new()));
            if matches!(&list, List::Items(items) if items.is_empty()) {
                let text = format!("missing: expected what it may claim, such as {example}");
                self.problem(&sub("prefixes"), text);
            }
            let prefixes = self.list(&sub("prefixes"), list, example, prefix_like(own));
            let Some(identity) = identity else { continue };
            if accept.iter().any(|known| known.identity == identity) {
                self.problem(&sub("identity"), format!("{identity} is in the list twice"));
            }
            accept.push(Accept { identity, prefixes });
        }
        accept
    }

    fn security(&mut self, raw: raw::Security, folder: &Path) -> Option<Security> {
        let key_usage = self.key_usage(raw.key_usage, raw.key_usage_absent);
        let extended_key_usage =
            self.extended_key_usage(raw.extended_key_usage, raw.extended_key_usage_absent);
        let words = [
            ("auto", Some(Tunnels::Auto)),
            ("esp", Some(Tunnels::Esp)),
            ("wireguard", Some(Tunnels::WireGuard)),
            ("none", None),
        ];
        let mode = self.or("security.mode", raw.mode, Some(Tunnels::Auto), choice(&words));
        let Some(tunnels) = mode else { return Some(Security::None) };
        let file = path_in("a file", folder);
        let named = raw.identity.is_some();
        let identity = self.optional("security.identity", raw.identity, |text| {
            text.parse::<ike::Identity>().map_err(|error| error.to_string())
        });
        let allow_weak = raw.psk_allow_weak.is_some();
        let weak = self.or("security.psk-allow-weak", raw.psk_allow_weak, false, boolean);
        let keys = self.optional("security.psk-file", raw.psk_file, file);
        if allow_weak && keys.is_none() {
            self.problem("security.psk-allow-weak", "there is no psk-file: remove it");
        }
        let keys = keys.map(|path| KeyFile { path, allow_weak: weak });
        if raw.certificate.is_none() && raw.private_key.is_none() && raw.ca.is_none() {
            if keys.is_none() {
                let text = "missing: expected certificate, private-key and ca, or psk-file, or \
                            mode: none for clear GRE";
                self.problem("security", text);
                return None;
            }
            if !named {
                let text = "missing: expected who this node is for its peers, such as \
                            spoke7.example.net; without a certificate nothing else says it";
                self.problem("security.identity", text);
            }
            identity.as_ref()?;
            let peers = Authentication { identity, certificates: None, keys };
            return Some(Security::Keyed(tunnels, Box::new(peers)));
        }
        let certificate = self.required(
            "security.certificate",
            raw.certificate,
            "the file of the own certificate chain, in PEM",
            file,
        );
        let what = "the file of the own private key, in PEM";
        let private_key = self.required("security.private-key", raw.private_key, what, file);
        let what = "the file of the trust anchors, in PEM";
        let ca = self.required("security.ca", raw.ca, what, file);
        let crl = self.optional("security.crl", raw.crl, file);
        let certificates = Some(Certificates {
            certificate: certificate?,
            private_key: private_key?,
            ca: ca?,
            crl,
            key_usage,
            extended_key_usage,
        });
        let peers = Authentication { identity, certificates, keys };
        Some(Security::Keyed(tunnels, Box::new(peers)))
    }

    fn ike_proposals(&mut self, raw: Option<List>) -> Option<Algorithms> {
        let Some(list) = raw else { return Some(Algorithms::default()) };
        let (key, example) = ("security.ike-proposals", "[aes256gcm16-sha384-ecp384]");
        Algorithms::new(self.proposals(key, list, example, Combination::parse))
    }

    fn esp_proposals(&mut self, raw: Option<List>) -> Vec<EspProposal> {
        let Some(list) = raw else { return EspProposal::defaults() };
        let (key, example) = ("security.esp-proposals", "[aes256gcm16-ecp384]");
        self.proposals(key, list, example, EspProposal::parse)
    }

    fn proposals<T: PartialEq>(
        &mut self,
        key: &str,
        list: List,
        example: &str,
        parse: impl Fn(&str) -> Result<T, ProposalError>,
    ) -> Vec<T> {
        let before = self.problems.len();
        let proposals =
            self.list(key, list, example, |text| parse(text).map_err(|error| error.to_string()));
        if proposals.is_empty() && self.problems.len() == before {
            self.problem(key, format!("expected at least one, such as {example}"));
        }
        proposals
    }

    fn key_usage(&mut self, raw: Option<List>, absent: Text) -> KeyUsagePolicy {
        let default = KeyUsagePolicy::default();
        let absent = self.or("security.key-usage-absent", absent, default.absent, when_absent);
        let Some(list) = raw else { return KeyUsagePolicy { absent, ..default } };
        let example = "[digitalSignature] or [0xa0, 0x88]";
        if matches!(&list, List::Items(items) if items.is_empty()) {
            let text = format!("no certificate satisfies an empty list: expected {example}");
            self.problem("security.key-usage", text);
        }
        let masks = self.list("security.key-usage", list, example, |text| {
            text.parse::<KeyUsageMask>().map_err(|error| error.to_string())
        });
        KeyUsagePolicy { masks, absent }
    }

    fn extended_key_usage(&mut self, raw: Option<List>, absent: Text) -> ExtendedKeyUsagePolicy {
        let default = ExtendedKeyUsagePolicy::default();
        let key = "security.extended-key-usage-absent";
        let absent = self.or(key, absent, default.absent, when_absent);
        let Some(list) = raw else { return ExtendedKeyUsagePolicy { absent, ..default } };
        let any_of = self.list("security.extended-key-usage", list, "[serverAuth]", |text| {
            text.parse::<pki::ExtendedKeyUsage>().map_err(|error| error.to_string())
        });
        ExtendedKeyUsagePolicy { any_of, absent }
    }

    fn metrics(&mut self, raw: raw::Metrics) -> Option<Listen> {
        let remote = self.or("metrics.allow-remote", raw.allow_remote, false, boolean);
        self.optional("metrics.listen", raw.listen, listen(remote))
    }

    fn limits(&mut self, raw: raw::Limits) -> Limits {
        const MILLION: u64 = 1_000_000;
        let interval =
            self.or("limits.dead-peer-interval", raw.dead_peer_interval, 30, number(1..=3600));
        Limits {
            peers: self.or("limits.peers", raw.peers, 4096, number(1..=MILLION)),
            cache_entries: self.or(
                "limits.cache-entries",
                raw.cache_entries,
                16384,
                number(1..=MILLION),
            ),
            packets_per_peer: self.or(
                "limits.packets-per-peer",
                raw.packets_per_peer,
                100,
                number(1..=MILLION),
            ),
            half_open: self.or("limits.half-open", raw.half_open, 256, number(1..=MILLION)),
            half_open_per_source: self.or(
                "limits.half-open-per-source",
                raw.half_open_per_source,
                16,
                number(1..=MILLION),
            ),
            dead_peer_interval: Duration::from_secs(interval),
        }
    }
}

const LOG_LEVELS: [(&str, LogLevel); 5] = [
    ("error", LogLevel::Error),
    ("warn", LogLevel::Warn),
    ("info", LogLevel::Info),
    ("debug", LogLevel::Debug),
    ("trace", LogLevel::Trace),
];

fn mtu(text: &str) -> Parsed<Mtu> {
    match text {
        "auto" => Ok(Mtu::Auto),
        _ => number(576..=65535)(text)
            .map(Mtu::Fixed)
            .map_err(|problem| problem.replace("expected", "expected auto or")),
    }
}

const DATAPLANES: &[(&str, Dataplane)] = &[
    ("auto", Dataplane::Auto),
    ("kernel", Dataplane::Kernel),
    ("userspace", Dataplane::Userspace),
];

fn multicast(text: &str) -> Parsed<Multicast> {
    match (text, text.parse()) {
        ("nhs", _) => Ok(Multicast::Nhs),
        ("dynamic", _) => Ok(Multicast::Dynamic),
        (_, Ok(address)) => unicast(address).map(Multicast::Nbma),
        _ => expected("nhs, dynamic or an NBMA address", text),
    }
}

fn when_absent(text: &str) -> Parsed<Absent> {
    choice(&[("refuse", Absent::Refuse), ("allow", Absent::Allow)])(text)
}

/// Cisco's limit. The password itself never stands in an error.
fn password(text: &str) -> Parsed<Password> {
    match text.len() {
        1..=8 => Ok(Password(text.as_bytes().to_vec())),
        length => Err(format!("expected 1 to 8 bytes, found {length}")),
    }
}

/// An address of this node within a prefix that has room for others.
fn own_address(address: IpNet) -> Parsed<IpNet> {
    unicast(address.addr())?;
    let last_bits = address.max_prefix_len() - address.prefix_len();
    // RFC 3021, RFC 6164: prefixes of two addresses use both.
    if last_bits > 1 && address.addr() == address.network() {
        return Err(format!("{} is the network address of {}", address.addr(), address.trunc()));
    }
    let v4 = address.addr().is_ipv4();
    if v4 && last_bits > 1 && address.addr() == address.broadcast() {
        return Err(format!("{} is the broadcast address of {}", address.addr(), address.trunc()));
    }
    Ok(address)
}

/// The tunnel address of another node.
fn peer_address(own: Option<IpNet>) -> impl Fn(&str) -> Parsed<IpAddr> {
    move |text| {
        let address = address(text)?;
        let Some(own) = own else { return Ok(address) };
        if address == own.addr() {
            return Err(format!("{address} is this node's own tunnel address"));
        }
        if !own.contains(&address) {
            return Err(format!("{address} is not within the tunnel's prefix {}", own.trunc()));
        }
        own_address(IpNet::new_assert(address, own.prefix_len())).map(|address| address.addr())
    }
}

/// An underlay address: its packets do not go into the tunnel.
fn outside(own: Option<IpNet>, address: IpAddr) -> Parsed<IpAddr> {
    match own {
        Some(own) if own.contains(&address) => Err(format!(
            "{address} is within the tunnel's prefix {}: expected an address of the underlay",
            own.trunc()
        )),
        _ => Ok(address),
    }
}

/// A prefix of the tunnel's address family.
fn prefix_like(own: Option<IpNet>) -> impl Fn(&str) -> Parsed<IpNet> {
    move |text| {
        let prefix = prefix(text)?;
        match own {
            Some(own) if own.addr().is_ipv4() != prefix.addr().is_ipv4() => {
                let family = if own.addr().is_ipv4() { "IPv4" } else { "IPv6" };
                expected(&format!("an {family} prefix, as tunnel.address is {family}"), text)
            }
            _ => Ok(prefix),
        }
    }
}
