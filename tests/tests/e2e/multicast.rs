//! Multicast: from a spoke to its hub, from the hub to every spoke.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use lab::Scalar;
use overlay_tests::e2e::{Ca, Scene, Site, on_network_of, until};

#[test]
fn multicast_goes_to_the_hub_and_from_it_to_all() {
    let ca = Ca::new("Overlay CA");
    let sites = (0..=2).map(|number| Site::new(&ca, number));
    let mut scene = Scene::with("multicast", sites, |topology| {
        for node in topology.nodes.values_mut() {
            // So that who hears a ping to "all hosts" answers it.
            let key = "net.ipv4.icmp_echo_ignore_broadcasts".to_owned();
            node.sysctl.insert(key, Scalar::Number(0));
        }
    });
    scene.start_all();
    scene.all_registered();
    let heard_from = |from: &str, own: &str| {
        let ping = ["ping", "-n", "-c", "3", "-i", "0.2", "-W", "1", "-I", "dmvpn0", "224.0.0.1"];
        let said = scene.node(from).run(ping).unwrap_or_else(|error| error.to_string());
        let mut all = vec!["172.16.0.1", "172.16.0.2", "172.16.0.3"];
        all.retain(|other| *other != own && said.contains(&format!("from {other}:")));
        all
    };
    until("both spokes hear the hub", || {
        (heard_from("hub", "172.16.0.1") == ["172.16.0.2", "172.16.0.3"]).then_some(())
    });
    assert_eq!(heard_from("spoke-a", "172.16.0.2"), ["172.16.0.1"], "the hub only");

    // A checksum is more than ping has: a datagram that the hub itself sends.
    let group = Ipv4Addr::new(239, 1, 1, 1);
    for node in ["hub", "spoke-a", "spoke-b"] {
        scene.run(node, "ip route add 239.0.0.0/8 dev dmvpn0");
    }
    let from = on_network_of(scene.node("hub"), || UdpSocket::bind(("172.16.0.1", 0)).unwrap());
    for (spoke, own) in [("spoke-a", [172, 16, 0, 2]), ("spoke-b", [172, 16, 0, 3])] {
        let heard = on_network_of(scene.node(spoke), || {
            let socket = UdpSocket::bind((group, 5555)).unwrap();
            socket.join_multicast_v4(&group, &own.into()).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            socket
        });
        until(&format!("a datagram to a group, on {spoke}"), || {
            from.send_to(b"to all", (group, 5555)).unwrap();
            let mut buffer = [0; 16];
            heard.recv(&mut buffer).ok().filter(|&len| &buffer[..len] == b"to all")
        });
    }
    let page = scene.run("hub", "overlayctl show multicast");
    assert!(page.contains("172.16.0.2") && page.contains("172.16.0.3"), "{page}");
}
