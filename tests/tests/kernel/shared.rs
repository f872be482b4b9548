//! Spokes behind one address translator, at a hub whose packets the kernel carries.

use std::net::UdpSocket;
use std::time::Duration;

use control::{Dmvpn, PeerState};
use lab::NatPorts;
use overlay_tests::e2e::{go_on, on_network_of, peers, until};

use crate::nat;
use crate::stored::{MANAGER, PID};

#[test]
fn peers_behind_one_address_are_told_apart() {
    let starter = ["python3", MANAGER, "/run/manager.sock", PID];
    let mut scene = nat::registered("kernel-shared", NatPorts::Preserve, &starter);
    for node in ["hub", "spoke-a"] {
        assert!(scene.log(node).contains("data plane: kernel (it can do all of it)"), "{node}");
    }
    let neighbours = scene.run("hub", "ip neigh show dev dmvpn0");
    for place in ["172.16.0.2 lladdr 203.0.113.10", "172.16.0.4 lladdr 240.0.0.1"] {
        assert!(neighbours.contains(place), "{neighbours}");
    }

    // Packets of one to the other, and from the hub to both, while the hub's daemon is killed.
    let mut pings = [("host-a", "192.168.3.10"), ("hub", "172.16.0.2"), ("hub", "172.16.0.4")]
        .map(|(from, to)| scene.ping(from, to, None, 20));
    pings.iter_mut().for_each(|ping| _ = go_on(ping, 20));
    let killed = scene.run("hub", &format!("cat {PID}"));
    scene.run("hub", &format!("kill -KILL {killed}"));
    until("another one runs", || (scene.run("hub", &format!("cat {PID}")) != killed).then_some(()));
    let all_up = |dmvpn: &Dmvpn| {
        peers(dmvpn)
            .filter(|peer| peer.state == PeerState::Up && peer.tunnel_address.is_some())
            .count()
            == 3
    };
    scene.dmvpn("hub", "the spokes are back", all_up);
    pings.iter_mut().for_each(|ping| _ = go_on(ping, 50));
    let counted: Dmvpn = scene.ask("hub", "show dmvpn");
    for ping in pings {
        let replies = ping.stop();
        assert_eq!(replies.lost(), 0, "{:?} of {}", replies.missing(), replies.sent());
    }
    for peer in peers(&counted)
        .filter(|peer| peer.nbma_seen.is_some_and(|nbma| nbma.to_string() == "203.0.113.10"))
    {
        let counters = &peer.counters;
        assert!(counters.rx_packets >= 50 && counters.tx_packets >= 50, "{counted:#?}");
    }

    // Large packets on a path that is narrower than it looks.
    scene.run("internet", "ip link set eth1 mtu 1400");
    let from = on_network_of(scene.node("hub"), || UdpSocket::bind(("172.16.0.1", 0)).unwrap());
    for (spoke, address) in [("spoke-a", "172.16.0.2"), ("spoke-c", "172.16.0.4")] {
        let to = on_network_of(scene.node(spoke), || UdpSocket::bind((address, 5555)).unwrap());
        to.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        until(&format!("{spoke} gets a large packet"), || {
            let _ = from.send_to(&[7; 1400], (address, 5555));
            to.recv(&mut [0; 1500]).ok().filter(|&len| len == 1400)
        });
    }

    // With the last of them goes what they needed.
    assert!(scene.run("hub", "nft list table inet nhrpd-dmvpn0").contains("type route"));
    scene.stop("spoke-c");
    until("the alias is gone", || {
        (!scene.run("hub", "nft list table inet nhrpd-dmvpn0").contains("type route")).then_some(())
    });
}
