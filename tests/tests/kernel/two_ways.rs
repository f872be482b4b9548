//! `underlay.source` names one device, and routes lead out of another one as well: the tunnel keeps the
//! address of the device that was named.

use std::collections::BTreeMap;
use std::net::{IpAddr, UdpSocket};

use control::{IkeSas, Traffic};
use ipnet::IpNet;
use lab::{Addresses, Destination, Interface, Topology};
use overlay_tests::e2e::{
    Ca, InKernel, Numbers, Scene, Site, go_direct, go_direct_after, go_on, on_network_of, until,
};

/// The second device of a node, on a network of its own: its address, and the gateway's.
const SECOND: [(&str, &str, &str); 2] = [
    ("hub", "198.18.100.10/24", "198.18.100.254/24"),
    ("spoke-a", "198.18.101.10/24", "198.18.101.254/24"),
];

/// All that these nodes send goes out of their second device.
fn second_ways(topology: &mut Topology) {
    for (number, (node, address, gateway)) in SECOND.into_iter().enumerate() {
        let link = format!("{node}-2");
        let attach = |address: &str| Interface {
            link: link.clone(),
            address: Addresses::One(address.parse::<IpNet>().unwrap()),
        };
        let gateway_address = gateway.parse::<IpNet>().unwrap().addr();
        let nodes = &mut topology.nodes;
        let at = nodes.get_mut(node).unwrap();
        at.interfaces.insert("second".into(), attach(address));
        at.routes = BTreeMap::from([(Destination::Default, gateway_address)]);
        let internet = nodes.get_mut("internet").unwrap();
        internet.interfaces.insert(format!("second{number}"), attach(gateway));
        topology.links.insert(link, None);
    }
}

#[test]
fn the_address_of_the_device_is_kept_whichever_way_packets_go() {
    let numbers = Numbers::default();
    let ca = Ca::new("Overlay CA");
    let sites = (0..=2).map(|number| Site::new(&ca, number));
    let mut scene = Scene::with("kernel-ways", sites, second_ways);
    scene.start_all();
    scene.all_registered();
    let mut ping = scene.ping("host-a", &numbers.lan(2, 10).addr().to_string(), None, 10);
    go_direct(&mut ping);
    let first = ping.replies().last();
    for (node, own) in [("hub", numbers.underlay(0, 10)), ("spoke-a", numbers.underlay(1, 10))] {
        assert_eq!(InKernel::settled(&scene, node).source, Some(own.addr()));
        let states = scene.run(node, "ip xfrm state");
        assert!(!states.contains("espinudp"), "no address translation: {states}");
        let sas: IkeSas = scene.ask(node, "show ike sa");
        assert!(sas.sas.iter().all(|sa| !sa.nat_local && !sa.nat_remote), "{sas:?}");
    }

    // Now they also come in by the second device.
    let (hub, way) = (numbers.underlay(0, 10).addr(), "198.18.100.10");
    scene.run("internet", &format!("ip route add {hub} via {way}"));
    let mut to_hub = scene.ping("host-a", "172.16.0.1", None, 10);
    go_on(&mut to_hub, 50);
    assert_eq!(to_hub.stop().lost(), 0);
    go_on(&mut ping, 50);
    let replies = ping.replies();
    assert_eq!(replies.between(first..=replies.last()).lost(), 0);

    // IKE to the second device's address is not answered: no SA could be there.
    let to: IpAddr = way.parse().unwrap();
    on_network_of(scene.node("internet"), || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.send_to(&[0; 32], (to, 4500)).unwrap();
    });
    until("it is counted", || {
        let traffic: Traffic = scene.ask("hub", "show nhrp traffic");
        let mut counters = traffic.interfaces.iter().flat_map(|interface| &interface.counters);
        counters.any(|c| c.name == "data plane dropped: other-address" && c.value > 0).then_some(())
    });

    let new = numbers.underlay(1, 77);
    scene.node("spoke-a").renumber("eth0", new).unwrap();
    let last = ping.replies().last();
    go_direct_after(&mut ping, last + 50);
    assert_eq!(InKernel::settled(&scene, "spoke-a").source, Some(new.addr()));
}
