//! What a daemon has put into its node's kernel, as `ip` and `nft` show it, beside what it says of itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Instant;

use control::{Dmvpn, IkeSas, PeerState};
use ipnet::IpNet;
use serde_json::Value;

use super::{Numbers, PATIENCE, Scene, good, peers};

const DEVICE: &str = "dmvpn0";
const TABLE: &str = "nhrpd-dmvpn0";

/// What is in the kernel, or should be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InKernel {
    /// NBMA addresses by tunnel address.
    pub neighbours: BTreeMap<IpAddr, IpAddr>,
    /// Next hops by prefix.
    pub routes: BTreeMap<IpNet, Option<IpAddr>>,
    /// SPIs of all SAs.
    pub spis: BTreeSet<u32>,
    /// Sender and receiver of all SAs; a sender of our own is left open.
    pub ends: BTreeSet<(IpAddr, IpAddr)>,
    /// SPIs that nftables knows.
    pub marks: BTreeSet<u32>,
    /// NBMA addresses that nftables counts.
    pub counted: BTreeSet<IpAddr>,
    /// Source address of the device.
    pub source: Option<IpAddr>,
    /// MTU of the device in bytes.
    pub mtu: u64,
    /// IPsec policies.
    pub policies: usize,
}

/// Out and in, for both address families.
const POLICIES: usize = 4;

fn spi(text: &str) -> u32 {
    good("read an SPI", u32::from_str_radix(text.trim_start_matches("0x"), 16))
}

fn parse<T: std::str::FromStr<Err: std::fmt::Display>>(text: &Value) -> T {
    let text = text.as_str().unwrap_or_default();
    good(&format!("read `{text}`"), text.parse())
}

fn prefix(text: &Value) -> IpNet {
    match text.as_str().and_then(|text| text.parse::<IpAddr>().ok()) {
        Some(host) => host.into(),
        None => parse(text),
    }
}

fn json(scene: &Scene, node: &str, command: &str) -> Vec<Value> {
    let text = scene.run(node, command);
    match serde_json::from_str(text.trim()) {
        Ok(Value::Array(all)) => all,
        Ok(other) => vec![other],
        Err(_) => Vec::new(),
    }
}

/// The elements of one of the sets, without what they count.
fn elements(scene: &Scene, node: &str, set: &str) -> Vec<Value> {
    let listed = json(scene, node, &format!("nft -j list set inet {TABLE} {set}"));
    let all = listed.iter().filter_map(|all| all["nftables"].as_array()).flatten();
    let all = all.filter_map(|object| object["set"]["elem"].as_array()).flatten();
    all.map(|element| match &element["elem"]["val"] {
        Value::Null => element.clone(),
        value => value.clone(),
    })
    .collect()
}

impl InKernel {
    /// What is in the kernel.
    #[track_caller]
    pub fn found(scene: &Scene, node: &str) -> Self {
        let neighbours = json(scene, node, &format!("ip -j neigh show dev {DEVICE} nud permanent"));
        let routes = ["-4", "-6"].map(|family| {
            json(scene, node, &format!("ip {family} -j route show dev {DEVICE} proto 191"))
        });
        let states = scene.run(node, "ip xfrm state");
        let words: Vec<&str> = states.split_whitespace().collect();
        let (mut spis, mut ends) = (BTreeSet::new(), BTreeSet::new());
        for part in words.windows(4) {
            match part {
                ["spi", number, ..] => _ = spis.insert(spi(number)),
                ["src", from, "dst", to] if !from.contains('/') => {
                    let address = |text: &str| good("read an address", text.parse());
                    ends.insert((address(from), address(to)));
                }
                _ => {}
            }
        }
        let mut marks = BTreeSet::new();
        for set in ["trusted", "source4"] {
            for element in elements(scene, node, set) {
                let mark = element["concat"].get(0).unwrap_or(&element);
                marks.extend(mark.as_u64().and_then(|mark| u32::try_from(mark).ok()));
            }
        }
        let counted = |set| elements(scene, node, set).iter().map(parse).collect::<BTreeSet<_>>();
        let device = json(scene, node, &format!("ip -j -d link show dev {DEVICE}"));
        let device = device.first().unwrap_or(&Value::Null);
        let received = counted("received");
        assert_eq!(received, counted("sent"), "on {node}");
        Self {
            neighbours: neighbours
                .iter()
                .map(|n| (parse(&n["dst"]), parse(&n["lladdr"])))
                .collect(),
            routes: routes
                .iter()
                .flatten()
                .map(|route| (prefix(&route["dst"]), route.get("gateway").map(parse)))
                .collect(),
            spis,
            ends,
            marks,
            counted: received,
            source: Some(parse(&device["linkinfo"]["info_data"]["local"])),
            mtu: device["mtu"].as_u64().unwrap_or_default(),
            policies: scene.run(node, "ip xfrm policy").matches("tmpl").count(),
        }
    }

    /// What should be there by what the daemon says; `lans`: the route of its configuration.
    #[track_caller]
    pub fn told(scene: &Scene, node: &str, lans: IpNet) -> Self {
        let dmvpn: Dmvpn = scene.ask(node, "show dmvpn");
        let sas: IkeSas = scene.ask(node, "show ike sa");
        let mut told = Self { policies: POLICIES, ..Self::default() };
        for interface in &dmvpn.interfaces {
            (told.source, told.mtu) = (interface.nbma, interface.mtu.into());
        }
        let servers = dmvpn.interfaces.iter().flat_map(|interface| &interface.nhs);
        told.routes.insert(lans, servers.map(|nhs| nhs.address).next());
        for peer in peers(&dmvpn).filter(|peer| peer.state == PeerState::Up) {
            told.neighbours.extend(peer.tunnel_address.zip(peer.nbma_seen));
            told.counted.extend(peer.nbma_seen);
            told.routes.extend(peer.prefixes.iter().map(|&prefix| (prefix, peer.tunnel_address)));
        }
        for (sa, esp) in sas.sas.iter().flat_map(|sa| sa.ipsec.iter().map(move |esp| (sa, esp))) {
            told.spis.extend([spi(&esp.inbound_spi), spi(&esp.outbound_spi)]);
            told.marks.insert(spi(&esp.inbound_spi));
            let peer = sa.remote.ip();
            told.ends.insert((IpAddr::from([0; 4]), peer));
            told.ends.extend(told.source.map(|own| (peer, own)));
        }
        told
    }

    /// Waits until what is there is what the daemon says should be.
    #[track_caller]
    pub fn settled(scene: &Scene, node: &str) -> Self {
        let lans = Numbers::default().lans();
        let give_up = Instant::now() + PATIENCE;
        loop {
            let (found, told) = (Self::found(scene, node), Self::told(scene, node, lans));
            if found == told {
                return found;
            }
            if Instant::now() > give_up {
                assert_eq!(found, told, "in the kernel of {node}, and as its daemon says");
            }
        }
    }

    /// Nothing of ours is on a node, and nothing keeps GRE back.
    #[track_caller]
    pub fn nothing(scene: &Scene, node: &str) {
        assert!(!scene.run(node, "ip link show").contains(DEVICE), "{node}");
        for command in [
            "ip xfrm state",
            "ip xfrm policy",
            "nft list tables",
            "ip route show table all proto 191",
            "ip -6 route show table all proto 191",
            "ip neigh show nud permanent",
            "ls -A /run/nhrpd",
        ] {
            assert_eq!(scene.run(node, command).trim(), "", "{command} on {node}");
        }
        // Where no daemon ever ran.
        assert_eq!(scene.run(node, "ip rule"), scene.run("internet", "ip rule"), "{node}");
    }
}
