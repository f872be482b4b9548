//! Where a packet goes: an immutable snapshot that the control plane swaps.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use ipnet::IpNet;
use overlay::desired::PeerId;
use prefix_trie::joint::JointPrefixMap;

use super::counters::Reason;

/// An entry of the forwarding table.
#[derive(Debug)]
pub(crate) enum Entry<P> {
    /// The kernel has a route for it that does not lead into the tunnel: it lies behind this
    /// node.
    Local,
    /// It lies behind a peer.
    Via(Via<P>),
}

/// The way to a peer.
#[derive(Debug)]
pub(crate) struct Via<P> {
    pub peer: PeerId,
    pub path: P,
    /// Packets that took this entry.
    pub packets: Arc<AtomicU64>,
}

/// What becomes of a packet that came out of the tunnel.
#[derive(Debug)]
pub(crate) enum Arrival<'a, P> {
    /// It goes to the kernel.
    Kernel,
    /// It goes on to another peer.
    Forward(&'a Via<P>),
    /// It goes nowhere.
    Drop(Reason),
}

/// What becomes of a packet that the kernel sent into the tunnel.
#[derive(Debug)]
pub(crate) enum Departure<'a, P> {
    /// It takes this way.
    Via(&'a Via<P>),
    /// A copy for each member.
    Multicast,
    /// There is no path.
    Unroutable,
}

/// The forwarding table.
pub(crate) struct Forwarding<P> {
    own: BTreeSet<IpAddr>,
    broadcast: BTreeSet<Ipv4Addr>,
    entries: JointPrefixMap<IpNet, Entry<P>>,
}

impl<P> Forwarding<P> {
    /// An empty table of a node with these tunnel addresses.
    pub(crate) fn new(addresses: &[IpNet]) -> Self {
        let broadcast = addresses.iter().filter_map(|net| match net {
            // RFC 3021: a /31 has no broadcast address.
            IpNet::V4(net) if net.prefix_len() < 31 => Some(net.broadcast()),
            _ => None,
        });
        Self {
            own: addresses.iter().map(IpNet::addr).collect(),
            broadcast: broadcast.collect(),
            entries: JointPrefixMap::new(),
        }
    }

    pub(crate) fn insert(&mut self, prefix: IpNet, entry: Entry<P>) {
        self.entries.insert(prefix.trunc(), entry);
    }

    fn lookup(&self, address: IpAddr) -> Option<&Entry<P>> {
        self.entries.get_lpm(&IpNet::from(address)).map(|(_, entry)| entry)
    }

    /// Packets that took the entry for exactly this prefix.
    pub(crate) fn packets(&self, prefix: IpNet) -> Option<u64> {
        match self.entries.get(&prefix.trunc())? {
            Entry::Local => None,
            Entry::Via(via) => Some(via.packets.load(Relaxed)),
        }
    }

    fn for_many(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(a) => a.is_multicast() || a.is_broadcast() || self.broadcast.contains(&a),
            IpAddr::V6(a) => a.is_multicast(),
        }
    }

    /// Decides on a packet that came through the path of `ingress`. `sources`: the inner source
    /// addresses that this path may use; `None` = any.
    ///
    /// A hub does not copy a multicast on to its other members: its kernel gets it, as with
    /// Cisco's multipoint GRE, and a multicast router there sends it on where it should go.
    pub(crate) fn arrival(
        &self,
        ingress: Option<PeerId>,
        sources: Option<&[IpNet]>,
        source: IpAddr,
        destination: IpAddr,
    ) -> Arrival<'_, P> {
        if !may_use(sources, source) || self.own.contains(&source) {
            return Arrival::Drop(Reason::SpoofedSource);
        }
        if self.own.contains(&destination) || self.for_many(destination) || link_local(destination)
        {
            return Arrival::Kernel;
        }
        match self.lookup(destination) {
            None | Some(Entry::Local) => Arrival::Kernel,
            Some(Entry::Via(via)) if Some(via.peer) == ingress => Arrival::Drop(Reason::SameWay),
            // RFC 4291 §2.5.6: a router does not forward a link-local source.
            Some(Entry::Via(_)) if link_local(source) => Arrival::Drop(Reason::SpoofedSource),
            Some(Entry::Via(via)) => Arrival::Forward(via),
        }
    }

    /// Decides on a packet that the kernel sent into the tunnel.
    pub(crate) fn departure(&self, destination: IpAddr) -> Departure<'_, P> {
        if self.for_many(destination) {
            return Departure::Multicast;
        }
        match self.lookup(destination) {
            Some(Entry::Via(via)) => Departure::Via(via),
            None | Some(Entry::Local) => Departure::Unroutable,
        }
    }
}

fn may_use(sources: Option<&[IpNet]>, source: IpAddr) -> bool {
    let Some(sources) = sources else { return true };
    link_local(source)
        || source.is_unspecified()
        || sources.iter().any(|prefix| prefix.contains(&source))
}

fn link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => a.is_link_local(),
        IpAddr::V6(a) => a.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HUB: PeerId = PeerId(1);
    const B: PeerId = PeerId(2);

    fn net(s: &str) -> IpNet {
        s.parse().unwrap()
    }

    fn ip(s: &str) -> IpAddr {
        s.parse().unwrap()
    }

    fn table(addresses: &[&str], entries: &[(&str, Option<PeerId>)]) -> Forwarding<()> {
        let addresses: Vec<_> = addresses.iter().map(|a| net(a)).collect();
        let mut table = Forwarding::new(&addresses);
        for &(prefix, peer) in entries {
            let entry = match peer {
                None => Entry::Local,
                Some(peer) => Entry::Via(Via { peer, path: (), packets: Arc::default() }),
            };
            table.insert(net(prefix), entry);
        }
        table
    }

    /// A spoke with LAN 192.168.2.0/24, and a shortcut to 192.168.3.0/24.
    fn spoke() -> Forwarding<()> {
        table(
            &["172.16.0.2/24", "fd00::2/64"],
            &[
                ("172.16.0.0/24", Some(HUB)),
                ("192.168.0.0/16", Some(HUB)),
                ("192.168.2.0/24", None),
                ("172.16.0.3/32", Some(B)),
                ("192.168.3.0/24", Some(B)),
                ("fd00::/64", Some(HUB)),
            ],
        )
    }

    fn arrives(table: &Forwarding<()>, from: Option<PeerId>, src: &str, dst: &str) -> String {
        match table.arrival(from, None, ip(src), ip(dst)) {
            Arrival::Kernel => "kernel".into(),
            Arrival::Forward(via) => format!("forward {}", via.peer.0),
            Arrival::Drop(reason) => format!("{reason:?}"),
        }
    }

    fn departs(table: &Forwarding<()>, dst: &str) -> String {
        match table.departure(ip(dst)) {
            Departure::Via(via) => format!("via {}", via.peer.0),
            Departure::Multicast => "multicast".into(),
            Departure::Unroutable => "unroutable".into(),
        }
    }

    #[test]
    fn the_longest_prefix_wins() {
        let table = spoke();
        assert_eq!(departs(&table, "192.168.3.9"), "via 2");
        assert_eq!(departs(&table, "192.168.4.9"), "via 1");
        assert_eq!(departs(&table, "172.16.0.3"), "via 2");
        assert_eq!(departs(&table, "172.16.0.4"), "via 1");
        assert_eq!(departs(&table, "fd00::7"), "via 1");
        assert_eq!(departs(&table, "10.0.0.1"), "unroutable");
    }

    #[test]
    fn what_lies_behind_this_node_goes_to_the_kernel_whichever_path_brought_it() {
        let table = spoke();
        for peer in [HUB, B] {
            assert_eq!(arrives(&table, Some(peer), "192.168.3.9", "192.168.2.1"), "kernel");
            assert_eq!(arrives(&table, Some(peer), "192.168.3.9", "172.16.0.2"), "kernel");
        }
        assert_eq!(arrives(&table, Some(HUB), "192.168.3.9", "8.8.8.8"), "kernel");
    }

    #[test]
    fn nothing_goes_back_the_way_it_came() {
        assert_eq!(arrives(&spoke(), Some(HUB), "192.168.3.9", "192.168.9.1"), "SameWay");
        assert_eq!(arrives(&spoke(), Some(B), "192.168.3.9", "192.168.9.1"), "forward 1");
        assert_eq!(arrives(&spoke(), None, "192.168.3.9", "192.168.9.1"), "forward 1");
    }

    #[test]
    fn multicast_and_broadcast_go_to_all_and_from_the_tunnel_to_the_kernel_only() {
        let table = spoke();
        for group in ["224.0.0.5", "255.255.255.255", "172.16.0.255", "ff02::5"] {
            assert_eq!(departs(&table, group), "multicast");
            assert_eq!(arrives(&table, Some(B), "172.16.0.3", group), "kernel");
        }
    }

    #[test]
    fn a_path_carries_only_the_sources_that_it_may_use() {
        let table = spoke();
        let sources = [net("172.16.0.3/32"), net("192.168.3.0/24")];
        let check = |src: &str| {
            matches!(
                table.arrival(Some(B), Some(&sources), ip(src), ip("192.168.2.1")),
                Arrival::Kernel
            )
        };
        assert!(check("192.168.3.9") && check("172.16.0.3") && check("169.254.0.1"));
        assert!(!check("192.168.4.9") && !check("172.16.0.1"));
    }

    #[test]
    fn nobody_speaks_with_our_own_address() {
        assert_eq!(arrives(&spoke(), Some(HUB), "172.16.0.2", "192.168.2.1"), "SpoofedSource");
    }
}
