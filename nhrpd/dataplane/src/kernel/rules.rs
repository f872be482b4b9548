//! Our table in nf_tables: what it counts, checks, logs and drops.
//!
//! ```text
//! table inet nhrpd-dmvpn0 {
//!   input (raw):      GRE of this tunnel   drop what came in no SA; mark := SPI of its SA; count by
//!                                          NBMA address
//!   ingress dmvpn0:                        drop unless (mark, source) is allowed; mark := 0
//!   forward:          out = dmvpn0         clamp MSS; log multicast to us, so much in a second
//!                     in = out = dmvpn0    count; log the first packet of each flow to us
//!                     GRE of this tunnel   drop
//!   output:           out = dmvpn0         log multicast to us; no ICMP redirects; clamp MSS
//!                     GRE of this tunnel   drop what no SA is for, and where the receiver is a group;
//!                                          count by NBMA address
//!                     ICMP error about it  drop
//! }
//! ```
//!
//! And while there are peers that share a public address:
//!
//! ```text
//!   alias-in (input, before all): GRE out of the SA of one that has an alias: source := alias
//!   alias-out (output, before all): ESP to an alias: destination := public address, may be fragmented
//! ```
//!
//! `nft list table inet nhrpd-dmvpn0` shows it. Every packet to and from this machine comes by input
//! and output, those in ESP twice: a chain of a hook finds out with two expressions whether it may be
//! about the tunnel, and another chain has the rest.
//!
//! The IPsec policies alone keep unprotected GRE back, while they are there. The drops above do so too
//! when somebody has flushed them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv4Addr;

use ipnet::IpNet;

use super::nft::{
    self, ACCEPT, CONCAT, Count, DROP, DYNAMIC, Element, Hook, IIF, L4PROTO, MARK, NETWORK,
    NFPROTO, NewSet, OIF, R0, R1, RANGES, RETURN, TRANSPORT,
};
use super::socket::Requests;
use super::wire::Request;

/// Changes with the rules below, so that a daemon of another version does not keep the old ones.
const VERSION: u32 = 7;
const RAW: i32 = -300;
const MANGLE: i32 = -150;
/// A flow's redirect is said again after this; an indication may get lost.
const REDIRECT_MS: u64 = 2000;
const FLOWS: u32 = 4096;
/// What a redirect tells of the packet.
const QUOTE: u32 = 128;
/// Multicast and broadcast packets that are copied in a second: every routing protocol has enough with it, and a
/// stream of video of one LAN leaves the daemon time for NHRP and IKE. What is more is counted and goes nowhere.
const COPIED: u64 = 1000;
/// Prefixes of what is logged.
pub(crate) const REDIRECT: &str = "redirect";
pub(crate) const MULTICAST: &str = "multicast";

const IPV4: (u32, u32) = (7, 4);
const IPV6: (u32, u32) = (8, 16);
const MARKS: (u32, u32) = (19, 4);
const DEVICE: (u32, u32) = (20, 4);

/// The sets that we fill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Set {
    /// NBMA addresses, counting what they send.
    Received,
    /// NBMA addresses, counting what they are sent.
    Sent,
    /// Prefixes of the forwarding table, by destination; single addresses apart, because what one
    /// more costs in a set of ranges grows with those that are there.
    To4,
    To6,
    HostTo4,
    HostTo6,
    /// The same by source, of what is forwarded from peer to peer.
    From4,
    From6,
    HostFrom4,
    HostFrom6,
    /// SPIs whose peers may use any source.
    Trusted,
    /// Sources by SPI.
    Source4,
    Source6,
    /// Aliases by SPI.
    AliasIn,
    /// Public addresses by alias.
    AliasOut,
}

impl Set {
    pub(crate) const ALL: [Self; 15] = [
        Self::Received,
        Self::Sent,
        Self::To4,
        Self::To6,
        Self::HostTo4,
        Self::HostTo6,
        Self::From4,
        Self::From6,
        Self::HostFrom4,
        Self::HostFrom6,
        Self::Trusted,
        Self::Source4,
        Self::Source6,
        Self::AliasIn,
        Self::AliasOut,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Received => "received",
            Self::Sent => "sent",
            Self::To4 => "to4",
            Self::To6 => "to6",
            Self::HostTo4 => "host-to4",
            Self::HostTo6 => "host-to6",
            Self::From4 => "from4",
            Self::From6 => "from6",
            Self::HostFrom4 => "host-from4",
            Self::HostFrom6 => "host-from6",
            Self::Trusted => "trusted",
            Self::Source4 => "source4",
            Self::Source6 => "source6",
            Self::AliasIn => "alias-in",
            Self::AliasOut => "alias-out",
        }
    }

    fn request(self, table: &str) -> Request {
        let (fields, flags, counting): (&[(u32, u32)], u32, bool) = match self {
            Self::Received | Self::Sent => (&[IPV4], 0, true),
            Self::To4 | Self::From4 => (&[DEVICE, IPV4], RANGES, true),
            Self::To6 | Self::From6 => (&[DEVICE, IPV6], RANGES, true),
            Self::HostTo4 | Self::HostFrom4 => (&[DEVICE, IPV4], CONCAT, true),
            Self::HostTo6 | Self::HostFrom6 => (&[DEVICE, IPV6], CONCAT, true),
            Self::Trusted => (&[MARKS], 0, false),
            Self::Source4 => (&[MARKS, IPV4], RANGES, false),
            Self::Source6 => (&[MARKS, IPV6], RANGES, false),
            Self::AliasIn => (&[MARKS], nft::MAP, false),
            Self::AliasOut => (&[IPV4], nft::MAP, false),
        };
        let data = self.is_map().then_some(IPV4);
        NewSet { name: self.name(), flags, fields, counting, data, dynamic: None }.request(table)
    }

    fn is_map(self) -> bool {
        matches!(self, Self::AliasIn | Self::AliasOut)
    }
}

fn of(set: Set, elements: &BTreeSet<(Set, Element)>) -> impl Iterator<Item = &Element> {
    let first = (set, Element { key: Vec::new(), end: None });
    elements.range(first..).take_while(move |(of, _)| *of == set).map(|(_, element)| element)
}

/// The aliases in use.
pub(crate) fn aliases(elements: &BTreeSet<(Set, Element)>) -> impl Iterator<Item = &Element> {
    of(Set::AliasOut, elements)
}

/// What the rules depend on.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    /// Name of the table.
    pub table: String,
    /// Name of the tunnel device.
    pub interface: String,
    /// Index of the tunnel device.
    pub index: u32,
    /// GRE key.
    pub key: Option<u32>,
    /// Broadcast addresses of the tunnel's prefixes.
    pub broadcast: Vec<Ipv4Addr>,
    /// NFLOG group.
    pub group: u16,
    /// Whoever sends is known by his SA.
    pub secured: bool,
}

impl Rules {
    fn comment(&self) -> String {
        let Self { index, key, broadcast, group, secured, .. } = self;
        let key = key.map_or("-".into(), |key| key.to_string());
        let to_all: String = broadcast.iter().map(|address| format!(" {address}")).collect();
        format!(
            "nhrpd rules {VERSION} device {index} key {key} group {group} secured {secured}{to_all}"
        )
    }

    /// The table is there as it should be, as a former run made it.
    pub(crate) fn present(&self, kernel: &Requests) -> io::Result<bool> {
        Ok(nft::table_comment(kernel, &self.table)? == Some(self.comment()))
    }

    /// Makes the table, in place of one of that name. Who was let in by that one is by this one, too.
    pub(crate) fn install(&self, kernel: &Requests) -> io::Result<()> {
        let there = nft::table_comment(kernel, &self.table)?.is_some();
        let install = |kept: Vec<Request>| {
            let former = there.then(|| nft::delete_table(&self.table));
            kernel.transaction(former.into_iter().chain(self.requests()).chain(kept).collect())
        };
        if !there {
            return install(Vec::new());
        }
        // Another version may have made its sets otherwise.
        install(self.sources_of(kernel)).or_else(|_| install(Vec::new()))
    }

    fn sources_of(&self, kernel: &Requests) -> Vec<Request> {
        let sets = [Set::Trusted, Set::Source4, Set::Source6].into_iter();
        let add = |set: Set| {
            let elements = self.read(kernel, set).unwrap_or_default();
            nft::add_elements(
                &self.table,
                (set.name(), nft::KEY_END),
                &elements.keys().collect::<Vec<_>>(),
            )
        };
        sets.flat_map(add).collect()
    }

    /// Makes the table and takes it away in one transaction, so that no packet meets its rules.
    pub(crate) fn try_install(&self, kernel: &Requests) -> io::Result<()> {
        let mut requests = self.requests();
        requests.push(nft::delete_table(&self.table));
        kernel.transaction(requests)
    }

    pub(crate) fn remove(&self, kernel: &Requests) -> io::Result<()> {
        kernel.transaction(vec![nft::delete_table(&self.table)])
    }

    /// Adds what of these elements is not there, and removes what is, in one transaction; and with the
    /// first alias the chains that need it, which go with the last one.
    pub(crate) fn update(
        &self,
        kernel: &Requests,
        there: &BTreeSet<(Set, Element)>,
        keys: &BTreeSet<(Set, Element)>,
    ) -> io::Result<()> {
        let (removed, added): (BTreeSet<_>, BTreeSet<_>) =
            keys.iter().cloned().partition(|key| there.contains(key));
        let mut requests = Vec::new();
        let had = aliases(there).count();
        let have = had + aliases(&added).count() - aliases(&removed).count();
        match (had > 0, have > 0) {
            (false, true) => self.aliases(&mut requests),
            (true, false) => {
                let chains = [Set::AliasIn, Set::AliasOut];
                requests.extend(chains.map(|set| nft::delete_chain(&self.table, set.name())));
            }
            _ => {}
        }
        for set in Set::ALL {
            let end = if set.is_map() { nft::DATA } else { nft::KEY_END };
            let (table, all) = (&self.table, (set.name(), end));
            let gone: Vec<_> = of(set, &removed).collect();
            requests.extend(nft::remove_elements(table, all, &gone));
            let new: Vec<_> = of(set, &added).collect();
            requests.extend(nft::add_elements(table, all, &new));
        }
        if requests.is_empty() { Ok(()) } else { kernel.transaction(requests) }
    }

    /// What a set has.
    pub(crate) fn read(&self, kernel: &Requests, set: Set) -> io::Result<BTreeMap<Element, Count>> {
        nft::read_set(kernel, &self.table, set.name())
    }

    fn requests(&self) -> Vec<Request> {
        let table = self.table.as_str();
        let mut all = vec![nft::new_table(table, &self.comment())];
        all.extend(Set::ALL.map(|set| set.request(table)));
        for (name, field) in [("flows4", IPV4), ("flows6", IPV6)] {
            let dynamic = Some((FLOWS, REDIRECT_MS));
            let fields = &[field, field];
            all.push(
                NewSet { name, flags: DYNAMIC, fields, counting: false, data: None, dynamic }
                    .request(table),
            );
        }
        let chains = [
            ("input", Hook::Input, RAW),
            ("forward", Hook::Forward, MANGLE),
            ("output", Hook::Output, MANGLE),
        ];
        for (chain, hook, priority) in chains {
            all.push(nft::new_chain(table, chain, Some((hook, priority))));
        }
        self.outer(&mut all);
        if self.secured {
            self.sources(&mut all);
        }
        self.inner(&mut all);
        all
    }

    /// Of what is GRE: that with our key, and no checksum or sequence number. `nft list` (1.0.6) does not
    /// know GRE's header, and ends where a rule says before that there should be one.
    fn ours(&self, rule: Request) -> Request {
        self.gre(ipv4(rule), 0)
    }

    /// The same at an offset behind the IP header.
    fn gre(&self, rule: Request, at: u32) -> Request {
        let rule = rule.header(TRANSPORT, at, 2, R0).mask(R0, &[0xb0, 0]);
        match self.key {
            Some(key) => rule
                .equal(R0, &[0x20, 0])
                .header(TRANSPORT, at + 4, 4, R0)
                .equal(R0, &key.to_be_bytes()),
            None => rule.equal(R0, &[0, 0]),
        }
    }

    /// Of what is ICMP: errors (all but echo, and what quotes nothing) about GRE of this tunnel, which they
    /// quote.
    fn quoted(&self, rule: Request) -> Request {
        const ICMP: u32 = 8;
        const IP: u32 = 20;
        let about = ipv4(rule).header(TRANSPORT, ICMP + 9, 1, R0);
        let about = about.equal(R0, &[libc::IPPROTO_GRE as u8]);
        let kind = self.gre(about, ICMP + IP).header(TRANSPORT, 0, 1, R0);
        kind.differ(R0, &[8]).differ(R0, &[0])
    }

    fn outer(&self, all: &mut Vec<Request>) {
        let table = self.table.as_str();
        for chain in ["gre-in", "gre-received", "gre-counted", "gre-out", "gre-sent"] {
            all.push(nft::new_chain(table, chain, None));
        }
        let gre = |r: Request| r.meta(L4PROTO, R0).equal(R0, &[libc::IPPROTO_GRE as u8]);
        for (hook, any, ours) in
            [("input", "gre-in", "gre-received"), ("output", "gre-out", "gre-sent")]
        {
            all.push(nft::rule(table, hook, |r| gre(r).go_to(any)));
            all.push(nft::rule(table, any, |r| self.ours(r).go_to(ours)));
        }
        if self.secured {
            let known = |r: Request| r.inbound_spi(R0).set_mark(R0).go_to("gre-counted");
            all.push(nft::rule(table, "gre-received", known));
            all.push(nft::rule(table, "gre-received", |r| r.counter().verdict(DROP)));
            let bare = |r: Request| r.outbound_sa(R0).equal(R0, &[0]).counter().verdict(DROP);
            all.push(nft::rule(table, "gre-sent", bare));
            // What came in ESP and finds no device, or is for a former address of this node, as while the
            // source address changes, would be passed on or quoted in clear: GRO decrypts before there is a
            // route.
            all.push(nft::new_chain(table, "gre-through", None));
            all.push(nft::rule(table, "gre-through", |r| self.ours(r).counter().verdict(DROP)));
            all.push(nft::rule(table, "forward", |r| gre(r).jump("gre-through")));
            all.push(nft::new_chain(table, "icmp-out", None));
            all.push(nft::rule(table, "icmp-out", |r| self.quoted(r).verdict(DROP)));
            let icmp = |r: Request| r.meta(L4PROTO, R0).equal(R0, &[libc::IPPROTO_ICMP as u8]);
            all.push(nft::rule(table, "output", |r| icmp(r).jump("icmp-out")));
        } else {
            all.push(nft::rule(table, "gre-received", |r| r.go_to("gre-counted")));
        }
        let source =
            |r: Request| ipv4(r).header(NETWORK, 12, 4, R0).lookup(Set::Received.name(), R0);
        all.push(nft::rule(table, "gre-counted", source));
        // The kernel has one neighbour for a group: the group. We copy to the members instead.
        for (mask, group) in [([0xf0, 0, 0, 0], [224, 0, 0, 0]), ([255; 4], [255; 4])] {
            let group = |r: Request| {
                ipv4(r).header(NETWORK, 16, 4, R0).mask(R0, &mask).equal(R0, &group).verdict(DROP)
            };
            all.push(nft::rule(table, "gre-sent", group));
        }
        let receiver = |r: Request| ipv4(r).header(NETWORK, 16, 4, R0).lookup(Set::Sent.name(), R0);
        all.push(nft::rule(table, "gre-sent", receiver));
    }

    /// Peers that share a public address. Before conntrack, which sees public addresses outside ESP and
    /// aliases inside.
    fn aliases(&self, all: &mut Vec<Request>) {
        let table = self.table.as_str();
        let [received, sent] = [Set::AliasIn.name(), Set::AliasOut.name()];
        let before = RAW - 1;
        all.push(nft::base_chain(table, received, (Hook::Input, before), "filter"));
        all.push(nft::base_chain(table, sent, (Hook::Output, before), "route"));
        let gre = [libc::IPPROTO_GRE as u8];
        all.push(nft::rule(table, received, |r| {
            let gre = ipv4(r).meta(L4PROTO, R0).equal(R0, &gre);
            gre.inbound_spi(R0).translate(received, R0).write_header(12, 4, R0)
        }));
        all.push(nft::rule(table, sent, |r| {
            let esp = ipv4(r).meta(L4PROTO, R0).differ(R0, &gre);
            let esp = esp.header(NETWORK, 16, 4, R0).translate(sent, R0).write_header(16, 4, R0);
            // The kernel takes what it learns of the path's MTU for that of the public address, and
            // would ask none of the senders inside for smaller packets.
            esp.load(R0, &[0; 2]).write_header(6, 2, R0)
        }));
    }

    fn device(&self, rule: Request, which: u32) -> Request {
        rule.meta(which, R0).equal(R0, &self.index.to_ne_bytes())
    }

    /// A peer sends from what it may claim, or from an address that no router forwards.
    fn sources(&self, all: &mut Vec<Request>) {
        let table = self.table.as_str();
        all.push(nft::new_chain(table, "verified", None));
        all.push(nft::new_ingress(table, "source", &self.interface, RAW));
        let clear = |r: Request| r.load(R0, &[0; 4]).set_mark(R0).verdict(ACCEPT);
        all.push(nft::rule(table, "verified", clear));
        let mut allow = |inside: &dyn Fn(Request) -> Request| {
            all.push(nft::rule(table, "source", |r| inside(r).go_to("verified")));
        };
        allow(&|r| r.meta(MARK, R0).lookup(Set::Trusted.name(), R0));
        allow(&|r| {
            ipv4(r).meta(MARK, R0).header(NETWORK, 12, 4, R1).lookup(Set::Source4.name(), R0)
        });
        allow(&|r| {
            ipv6(r).meta(MARK, R0).header(NETWORK, 8, 16, R1).lookup(Set::Source6.name(), R0)
        });
        allow(&|r| ipv4(r).header(NETWORK, 12, 2, R0).equal(R0, &[169, 254]));
        allow(&|r| ipv4(r).header(NETWORK, 12, 4, R0).equal(R0, &[0; 4]));
        allow(&|r| {
            ipv6(r).header(NETWORK, 8, 2, R0).mask(R0, &[0xff, 0xc0]).equal(R0, &[0xfe, 0x80])
        });
        allow(&|r| ipv6(r).header(NETWORK, 8, 16, R0).equal(R0, &[0; 16]));
        all.push(nft::rule(table, "source", |r| r.counter().verdict(DROP)));
    }

    /// What goes into the tunnel, from here or from elsewhere.
    fn inner(&self, all: &mut Vec<Request>) {
        let table = self.table.as_str();
        for chain in ["to-tunnel", "to-tunnel4", "to-tunnel6", "to-all", "through4", "through6"] {
            all.push(nft::new_chain(table, chain, None));
        }
        for hook in ["output", "forward"] {
            all.push(nft::rule(table, hook, |r| self.device(r, OIF).jump("to-tunnel")));
        }
        for (family, chain) in [(ipv4 as Family, "to-tunnel4"), (ipv6, "to-tunnel6")] {
            all.push(nft::rule(table, "to-tunnel", |r| family(r).go_to(chain)));
        }
        self.to_tunnel(all);
        for (family, chain) in [(ipv4 as Family, "through4"), (ipv6, "through6")] {
            let through = |r| family(self.device(self.device(r, IIF), OIF)).go_to(chain);
            all.push(nft::rule(table, "forward", through));
        }
        self.through(all);
    }

    fn to_tunnel(&self, all: &mut Vec<Request>) {
        let table = self.table.as_str();
        let burst = COPIED as u32;
        let over = |r: Request| r.more_than(COPIED, burst).counter().verdict(RETURN);
        all.push(nft::rule(table, "to-all", over));
        all.push(nft::rule(table, "to-all", |r| r.log(self.group, MULTICAST, 0)));
        // NHRP tells of better ways; ICMP redirects would do so behind its back.
        let redirect = |r: Request| {
            r.meta(L4PROTO, R0)
                .equal(R0, &[libc::IPPROTO_ICMP as u8])
                .header(TRANSPORT, 0, 1, R0)
                .equal(R0, &[5])
                .meta(IIF, R0)
                .equal(R0, &[0; 4])
                .verdict(DROP)
        };
        let group4 = |r: Request| {
            let group = ipv4(r).header(NETWORK, 16, 1, R0).mask(R0, &[0xf0]).equal(R0, &[224]);
            group.jump("to-all")
        };
        let group6 =
            |r: Request| ipv6(r).header(NETWORK, 24, 1, R0).equal(R0, &[0xff]).jump("to-all");
        let segments = |r: Request| {
            r.meta(L4PROTO, R0)
                .equal(R0, &[libc::IPPROTO_TCP as u8])
                .header(TRANSPORT, 13, 1, R0)
                .mask(R0, &[6])
                .equal(R0, &[2])
                .clamp_segment_size()
        };
        all.push(nft::rule(table, "to-tunnel4", redirect));
        all.push(nft::rule(table, "to-tunnel4", group4));
        for address in self.broadcast.iter().chain([&Ipv4Addr::BROADCAST]) {
            let receiver = |r: Request| ipv4(r).header(NETWORK, 16, 4, R0);
            let to_all = |r| receiver(r).equal(R0, &address.octets()).jump("to-all");
            all.push(nft::rule(table, "to-tunnel4", to_all));
            // The device has no address for everybody, and the sender would be told EINVAL. A group has one, that
            // of the group, and goes no further than "gre-sent".
            let to_group = |r: Request| r.load(R0, &[224, 0, 0, 1]).write_header(16, 4, R0);
            let elsewhere = |r| to_group(receiver(r).equal(R0, &address.octets()));
            all.push(nft::rule(table, "to-tunnel4", elsewhere));
        }
        all.push(nft::rule(table, "to-tunnel6", group6));
        for (chain, family, place, len, sets) in [
            ("to-tunnel4", ipv4 as Family, 16, 4, [Set::HostTo4, Set::To4]),
            ("to-tunnel6", ipv6, 24, 16, [Set::HostTo6, Set::To6]),
        ] {
            all.push(nft::rule(table, chain, segments));
            for set in sets {
                let count = |r| {
                    family(r).meta(OIF, R0).header(NETWORK, place, len, R1).lookup(set.name(), R0)
                };
                all.push(nft::rule(table, chain, count));
            }
        }
    }

    /// What goes from peer to peer.
    fn through(&self, all: &mut Vec<Request>) {
        let table = self.table.as_str();
        for (chain, family, source, len, sets, flows) in [
            ("through4", ipv4 as Family, 12, 4, [Set::HostFrom4, Set::From4], "flows4"),
            ("through6", ipv6, 8, 16, [Set::HostFrom6, Set::From6], "flows6"),
        ] {
            for set in sets {
                let count = |r| {
                    family(r).meta(IIF, R0).header(NETWORK, source, len, R1).lookup(set.name(), R0)
                };
                all.push(nft::rule(table, chain, count));
            }
            let flow = |r| family(r).header(NETWORK, source, 2 * len, R0);
            all.push(nft::rule(table, chain, |r| flow(r).lookup(flows, R0).verdict(ACCEPT)));
            let fresh = |r| flow(r).remember(flows, R0).log(self.group, REDIRECT, QUOTE);
            all.push(nft::rule(table, chain, fresh));
        }
    }
}

/// The broadcast addresses of prefixes; RFC 3021: a /31 has none.
pub(crate) fn broadcast(addresses: &[IpNet]) -> Vec<Ipv4Addr> {
    let nets = addresses.iter().filter_map(|net| match net {
        IpNet::V4(net) if net.prefix_len() < 31 => Some(net.broadcast()),
        _ => None,
    });
    nets.collect()
}

type Family = fn(Request) -> Request;

fn ipv4(rule: Request) -> Request {
    rule.meta(NFPROTO, R0).equal(R0, &[libc::NFPROTO_IPV4 as u8])
}

fn ipv6(rule: Request) -> Request {
    rule.meta(NFPROTO, R0).equal(R0, &[libc::NFPROTO_IPV6 as u8])
}
