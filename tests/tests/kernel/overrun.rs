//! The kernel tells of more than the daemon's sockets hold, and throws the rest away: what changed meanwhile
//! is found by looking.

use std::net::UdpSocket;

use overlay_tests::e2e::{Ca, InKernel, Scene, Site, go_on, on_network_of, until};

use crate::stream::{resume, signal};

const NODE: &str = "spoke-a";
const PACKETS: u32 = 10_000;
/// Protocols of netlink: what others do to them, thousands of times.
const ROUTE: (&str, &str) = (
    "0",
    "seq 1 6000 | awk '{ printf \"neigh replace 192.168.1.77 lladdr 02:00:00:00:00:%02x nud permanent dev \
     eth1\\n\", $1 % 200 }' | ip -batch -",
);
const XFRM: (&str, &str) = (
    "6",
    "seq 1 6000 | awk '{ print \"xfrm policy update src 10.9.0.0/24 dst 10.9.1.0/24 dir out action allow \
     priority\", $1 }' | ip -batch -",
);

/// Whether the kernel threw away what it had to tell the daemon by a protocol.
fn overrun(scene: &Scene, protocol: &str) -> bool {
    let sockets = scene.run(NODE, "cat /proc/net/netlink");
    sockets.lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.get(1) == Some(&protocol) && words.get(8).is_some_and(|drops| *drops != "0")
    })
}

#[test]
fn what_the_kernel_could_not_tell_is_found() {
    let ca = Ca::new("Overlay CA");
    let more = format!("rekey-packets: {PACKETS}");
    let patient = "{ dead-peer-interval: 600 }";
    let sites = [Site::new(&ca, 0), Site::new(&ca, 1).secure(&more)];
    let mut scene = Scene::new("kernel-overrun", sites.map(|site| site.set("limits", patient)));
    scene.start_all();
    scene.all_registered();
    let whole = InKernel::settled(&scene, NODE);
    let policies = scene.run(NODE, "ip xfrm policy");

    let daemon = scene.daemons[NODE].pid();
    signal("-STOP", &daemon.to_string());
    assert!(!overrun(&scene, "0") && !overrun(&scene, "6"), "they have room");
    for (protocol, changes) in [ROUTE, XFRM] {
        until("its socket is full", || {
            scene.node(NODE).run(["sh", "-c", changes]).unwrap();
            overrun(&scene, protocol).then_some(())
        });
    }
    // The volume of its keys is used up, of which the kernel tells once; and others take away what they can.
    let from = on_network_of(scene.node(NODE), || UdpSocket::bind(("172.16.0.2", 0)).unwrap());
    for _ in 0..PACKETS + 100 {
        from.send_to(&[7; 16], ("172.16.0.1", 9)).unwrap();
    }
    let sent = scene.run(NODE, "ip -s xfrm state");
    assert!(sent.contains(&format!("limit: soft {PACKETS}(packets)")), "{sent}");
    for command in [
        "ip neigh flush dev dmvpn0 nud permanent",
        "ip route flush proto 191",
        "ip route add 10.9.0.0/16 dev dmvpn0 proto 191",
        "ip xfrm policy flush",
    ] {
        scene.run(NODE, command);
    }
    assert_ne!(InKernel::found(&scene, NODE), whole);
    resume(daemon);

    until("all is there again, with new keys", || {
        let found = InKernel::found(&scene, NODE);
        let new = found.spis.is_disjoint(&whole.spis);
        let same = InKernel { spis: whole.spis.clone(), marks: whole.marks.clone(), ..found };
        (new && same == whole && scene.run(NODE, "ip xfrm policy") == policies).then_some(())
    });
    InKernel::settled(&scene, NODE);
    go_on(&mut scene.ping("host-a", "172.16.0.1", None, 20), 10);
}
