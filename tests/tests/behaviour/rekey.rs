//! New keys under traffic.

use overlay::Notice;
use overlay_tests::sim::{Domain, Weather};

use crate::common::*;

/// Every pair renews its keys every few seconds.
#[test]
fn rekeying_under_traffic_loses_nothing_and_stays_direct() {
    for (seed, delay) in [(1, 10), (2, 100)] {
        let domain = Domain { rekey_interval: secs(5), ..domain() };
        let (mut sim, nodes) = settled_in(&domain, seed, Weather::fair(ms(delay)), 2);
        let (a, b) = (nodes.spokes[0], nodes.spokes[1]);
        let flow = pings(&mut sim, a, b, 6000);
        sim.run_for(secs(30));
        let spis = |sim: &overlay_tests::sim::Sim| {
            let sas = sim.overlay(a).ike().sas();
            sas.map(|sa| sa.initiator_spi).collect::<std::collections::BTreeSet<u64>>()
        };
        let before = spis(&sim);
        sim.run_for(secs(35));
        assert!(before.is_disjoint(&spis(&sim)), "all keys were renewed");
        assert_nothing_lost(&sim);
        let detours = sim.flow_fates(flow).skip(300).filter(|fate| !fate.direct()).count();
        assert_eq!(detours, 0);
        assert!(is_direct(&sim, a, b) && is_direct(&sim, b, a));
        let told = |fits: fn(&Notice) -> bool| count(&sim, a, fits);
        assert!(told(|n| matches!(n, Notice::PeerRekeyed { .. })) >= 20, "hub and b, each 5 s");
        assert_eq!(told(|n| matches!(n, Notice::PeerUp { .. })), 2, "they were never down");
        assert_eq!(told(|n| matches!(n, Notice::PeerDown { .. })), 0);
        assert_eq!(told(|n| matches!(n, Notice::Direct { .. })), 2, "its LAN and its address");
        assert_eq!(told(|n| matches!(n, Notice::Indirect { .. })), 0);
    }
}

/// Every pair renews the keys of ESP after so many packets: the path is never without, the old one goes.
#[test]
fn rekeying_by_volume_loses_nothing_and_leaves_nothing() {
    for (seed, delay) in [(1, 10), (2, 100)] {
        let domain = Domain { rekey_packets: 500, ..domain() };
        let (mut sim, nodes) = settled_in(&domain, seed, Weather::fair(ms(delay)), 2);
        let (a, b) = (nodes.spokes[0], nodes.spokes[1]);
        let spis = |sim: &overlay_tests::sim::Sim, node| {
            let sas = sim.overlay(node).ike().sas();
            sas.map(|sa| sa.initiator_spi).collect::<std::collections::BTreeSet<u64>>()
        };
        let flow = pings(&mut sim, a, b, 6000);
        sim.run_for(secs(10));
        let before = spis(&sim, a);
        sim.run_for(secs(55));
        assert_eq!(before, spis(&sim, a), "the key exchanges live on");
        assert_nothing_lost(&sim);
        let detours = sim.flow_fates(flow).skip(300).filter(|fate| !fate.direct()).count();
        assert_eq!(detours, 0);
        let told = |fits: fn(&Notice) -> bool| count(&sim, a, fits);
        let renewed = told(|n| matches!(n, Notice::PeerRekeyed { .. }));
        // WireGuard has a limit of its own.
        let least = if crate::KIND == ike::TunnelKind::Esp { 10 } else { 0 };
        assert!((least..=2 * least).contains(&renewed), "6,000 packets, 500 with each: {renewed}");
        assert_eq!(told(|n| matches!(n, Notice::PeerDown { .. })), 0);
        assert_eq!(told(|n| matches!(n, Notice::Indirect { .. })), 0);
        for node in [a, b] {
            assert_eq!(sim.overlay(node).desired().peers.len(), 2, "one path to each");
        }
    }
}
