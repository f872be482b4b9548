//! Between the loss of the IPsec policies and their repair nothing goes out in clear, or comes in.

use std::net::IpAddr;

use lab::decode::{Kind, Packet};
use overlay_tests::e2e::{Numbers, Scene, go_on, until};

const NODE: &str = "spoke-a";
const FLUSHES: u32 = 5;

/// GRE that is not the tunnel's, in clear, from the node's hub to it: another key.
const OTHER: [(&str, &str, &str); 2] =
    [("hub", "198.18.1.10", "10.9.9.1/24"), (NODE, "198.18.0.10", "10.9.9.2/24")];
const OTHER_KEY: [u8; 4] = [0, 0, 0, 77];
/// The node's next hop, which forges.
const ROUTER: &str = "198.18.1.254";

/// The key of GRE in clear behind Ethernet and IPv4 without options.
fn key(frame: &[u8]) -> Option<&[u8]> {
    frame.get(14 + 20 + 4..14 + 20 + 8)
}

#[test]
fn flushed_policies_let_nothing_out_in_clear() {
    let mut scene = Scene::up("kernel-flushed", 2);
    scene.all_registered();
    let other = Numbers::default().lan(2, 10).addr().to_string();
    scene.direct("host-a", &other);
    for (node, remote, address) in OTHER {
        let local = if node == "hub" { "198.18.0.10" } else { "198.18.1.10" };
        scene.run(node, &format!("ip link add gre9 type gre key 77 local {local} remote {remote}"));
        scene.run(node, &format!("ip address add {address} dev gre9"));
        scene.run(node, "ip link set gre9 up");
    }
    let policies = scene.run(NODE, "ip xfrm policy");
    let recording = scene.record();
    let mut inside = scene.ping("host-a", &other, None, 1);
    let mut foreign = scene.ping("hub", "10.9.9.2", None, 20);
    go_on(&mut foreign, 5);
    go_on(&mut inside, 50);
    for _ in 0..FLUSHES {
        scene.run(NODE, "ip xfrm policy flush");
        until("the policies are back", || {
            (scene.run(NODE, "ip xfrm policy") == policies).then_some(())
        });
        go_on(&mut inside, 20);
    }
    // Nobody repairs it now. What somebody else sends in clear is not taken, either.
    scene.kill(NODE);
    scene.run(NODE, "ip xfrm policy flush");
    let router = "internet";
    let forge = format!("ip link add gre8 type gre key 42 local {ROUTER} remote 198.18.1.10");
    scene.run(router, &forge);
    scene.run(router, "ip address add 172.16.0.9/24 dev gre8");
    scene.run(router, "ip link set gre8 up");
    let forged = scene.ping(router, "172.16.0.2", Some(5), 10).finish();
    assert_eq!(forged.received(), 0);
    let before = foreign.replies().last();
    go_on(&mut foreign, 10);
    let replies = foreign.replies();
    assert_eq!(replies.between(before + 1..=replies.last()).lost(), 0, "others are let alone");
    let received = scene.run(NODE, "nft list chain inet nhrpd-dmvpn0 gre-received");
    assert!(!received.contains("counter packets 0 "), "{received}");
    scene.run(router, "ip link delete gre8");
    scene.start(NODE);
    go_on(&mut inside, 20);
    foreign.stop();
    let replies = inside.stop();
    println!("{} of {} pings lost in {FLUSHES} flushes", replies.lost(), replies.sent());

    let seen = recording.stop(&[]);
    let router: IpAddr = ROUTER.parse().unwrap();
    let clear = seen.packets.iter().map(|packet| &packet.bytes).filter(|bytes| {
        let Packet { kind, addresses, .. } = Packet::of(bytes);
        let forged = addresses.is_some_and(|(from, _)| from == router);
        matches!(kind, Kind::Gre(_)) && key(bytes) != Some(&OTHER_KEY) && !forged
    });
    let clear: Vec<String> = clear.map(|bytes| Packet::of(bytes).to_string()).collect();
    assert!(clear.is_empty(), "{} packets, the first: {:?}", clear.len(), clear.first());
    assert!(seen.gre() > 0, "the other tunnel is in clear, and seen");
}
