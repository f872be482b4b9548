//! Nodes whose public address changes, and a hub that is known by name only.

use std::path::Path;

use control::{Dmvpn, NextHopServers, NhsState, PeerState};
use ipnet::IpNet;
use overlay_tests::e2e::{
    Ca, Numbers, Scene, Site, forwarded, go_direct, go_direct_after, go_on, good, is_registered,
    peer,
};

const HOST_B: &str = "192.168.2.10";

#[test]
fn a_spoke_gets_a_new_address_in_mid_ping() {
    let numbers = Numbers::default();
    let ca = Ca::new("Overlay CA");
    let mut scene = Scene::new("moved", (0..=2).map(|number| Site::new(&ca, number)));
    let recording = scene.record();
    scene.start_all();
    scene.all_registered();
    let mut ping = scene.ping("host-a", HOST_B, None, 10);
    go_direct(&mut ping);

    let new = numbers.underlay(2, 77);
    let last = ping.replies().last();
    renumber(&scene, "spoke-b", new);
    go_direct_after(&mut ping, last + 100);
    for node in ["hub", "spoke-a"] {
        let what = format!("{node} knows the new address");
        scene.dmvpn(node, &what, |dmvpn| {
            peer(dmvpn, numbers.tunnel(2).addr()).is_some_and(|peer| {
                let at = (peer.nbma, peer.nbma_seen) == (Some(new.addr()), Some(new.addr()));
                at && peer.state == PeerState::Up
            })
        });
    }
    let replies = ping.stop();
    let moved = replies.between(last + 1..=replies.last());
    println!(
        "{} of {} pings lost, {} ms without a reply",
        moved.lost(),
        moved.sent(),
        moved.longest_gap_ms()
    );
    let counted = forwarded(&scene.ask("hub", "show dmvpn"));
    let replies = scene.ping("host-a", HOST_B, Some(50), 10).finish();
    assert_eq!((replies.lost(), replies.over_routers_from(2)), (0, Some(1)));
    assert_eq!(forwarded(&scene.ask("hub", "show dmvpn")), counted, "direct both ways");
    let own: Dmvpn = scene.ask("spoke-b", "show dmvpn");
    assert_eq!(own.interfaces[0].nbma, Some(new.addr()));
    recording.stop(&scene.inner()).sees_nothing();
}

#[test]
fn a_hub_is_found_by_name_and_found_again() {
    let numbers = Numbers::default();
    let ca = Ca::new("Overlay CA");
    let name = "hub.example.net";
    let hub = numbers.tunnel(0).addr();
    let spoke = Site::new(&ca, 1).set("nhs", &format!("[{{ address: {hub}, nbma: {name} }}]"));
    let mut scene = Scene::new("named", [Site::new(&ca, 0), spoke]);
    let publish = |scene: &Scene, at: IpNet| {
        let hosts = format!("127.0.0.1 localhost\n{} {name}\n", at.addr());
        let written = scene.node("spoke-a").write_file(Path::new("/etc/hosts"), &hosts);
        good("write /etc/hosts", written);
    };
    scene.start_all();
    let unknown = scene.when("spoke-a", "show nhrp nhs", "why", |all: &NextHopServers| {
        all.servers[0].why.as_deref().is_some_and(|why| why.contains("does not resolve"))
    });
    assert_eq!(unknown.servers[0].state, NhsState::Waiting);
    assert_eq!((unknown.servers[0].configured.as_str(), unknown.servers[0].nbma), (name, None));
    assert!(scene.run("spoke-a", "overlayctl show dmvpn detail").contains("does not resolve"));

    publish(&scene, numbers.underlay(0, 10));
    scene.registered("spoke-a");
    let mut ping = scene.ping("host-a", &hub.to_string(), None, 20);
    go_on(&mut ping, 5);

    let new = numbers.underlay(0, 77);
    publish(&scene, new);
    renumber(&scene, "hub", new);
    let last = ping.replies().last();
    let what = "the spoke follows its hub";
    scene.dmvpn("spoke-a", what, |dmvpn| {
        is_registered(dmvpn) && dmvpn.interfaces[0].nhs[0].nbma == Some(new.addr())
    });
    go_on(&mut ping, 5);
    let replies = ping.stop();
    let moved = replies.between(last + 1..=replies.last());
    println!("hub moved: {} ms without a reply", moved.longest_gap_ms());
}

#[track_caller]
fn renumber(scene: &Scene, node: &str, address: IpNet) {
    good("renumber", scene.node(node).renumber("eth0", address));
}
