//! Spokes that only address translators show to the world.

use std::path::Path;

use control::{Attribute, Dmvpn, PeerState};
use lab::{Contents, NatPorts};
use overlay_tests::e2e::{Scene, dataplane, go_direct, peers};

const TOPOLOGY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../configs/lab/nat.yaml");

/// Everybody is registered, and the hub shows where it sees them and what they claim; `starter`: with
/// what the hub's daemon is started.
pub(crate) fn registered(name: &str, ports: NatPorts, starter: &[&str]) -> Scene {
    // The kernel is chosen where it is there.
    let plane = if dataplane() == "kernel" { "auto" } else { dataplane() };
    let mut scene = Scene::of(name, Path::new(TOPOLOGY), |topology| {
        for node in topology.nodes.values_mut() {
            node.nat.iter_mut().for_each(|nat| nat.ports = ports);
            for contents in node.files.values_mut() {
                if let Contents::Text(text) = contents {
                    *text = text.replace("userspace", plane);
                }
            }
        }
    });
    let spokes = [
        ("spoke-a", "10.0.1.20", "203.0.113.10"),
        ("spoke-b", "10.0.2.30", "192.0.2.10"),
        ("spoke-c", "10.0.1.40", "203.0.113.10"),
    ];
    scene.start_by("hub", starter);
    scene.dmvpn("hub", "it runs", |_| true);
    for (spoke, ..) in spokes {
        scene.start(spoke);
        let own = scene.registered(spoke);
        assert!(own.interfaces[0].nhs[0].seen_as.is_some(), "{spoke}: {own:#?}");
    }
    for (spoke, claimed, seen) in spokes {
        let is = |dmvpn: &Dmvpn| {
            peers(dmvpn).any(|peer| {
                peer.identity.as_deref() == Some(&format!("CN={spoke}"))
                    && peer.nbma.is_some_and(|nbma| nbma.to_string() == claimed)
                    && peer.nbma_seen.is_some_and(|nbma| nbma.to_string() == seen)
                    && peer.attributes.contains(&Attribute::Nated)
                    && peer.state == PeerState::Up
            })
        };
        scene.dmvpn("hub", &format!("{spoke} is up, with both addresses"), is);
        let page = scene.run("hub", "overlayctl show dmvpn detail");
        assert!(page.contains(&format!("seen at {seen}")), "{page}");
        assert!(page.contains(&format!("claims {claimed}")), "{page}");
    }
    scene
}

#[test]
fn translators_that_keep_the_port_allow_the_direct_path() {
    let scene = registered("nat", NatPorts::Preserve, &[]);
    // Each spoke opens the way for the other.
    let mut ping = scene.ping("host-a", "192.168.2.10", None, 10);
    go_direct(&mut ping);
    let replies = ping.stop();
    assert_eq!(replies.lost(), 0);
    println!("direct from reply {:?} on", replies.over_routers_from(2));

    // Behind the same translator: it passes nothing from its outside to its outside.
    let replies = scene.ping("host-a", "192.168.3.10", Some(100), 10).finish();
    assert_eq!((replies.lost(), replies.over_routers_from(3)), (0, Some(1)));
}

#[test]
fn translators_that_choose_a_port_for_each_flow_leave_the_way_through_the_hub() {
    let scene = registered("nat-random", NatPorts::Random, &[]);
    let replies = scene.ping("host-a", "192.168.2.10", Some(200), 10).finish();
    assert_eq!((replies.lost(), replies.over_routers_from(3)), (0, Some(1)));
}
