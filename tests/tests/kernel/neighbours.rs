//! The kernel's neighbour table holds `gc_thresh3` entries (1,024), of all devices and namespaces together.
//! Peers are apart from that.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;

use overlay_tests::bench::registrations;
use overlay_tests::e2e::{on_network_of, until};
use serde::Deserialize;

const PEERS: u32 = 4200;
const LIMIT: &str = "/proc/sys/net/ipv4/neigh/default/gc_thresh3";
/// Where somebody else has neighbours.
const OTHER: &str = "host-a";

#[derive(Deserialize)]
struct Neighbour {
    dst: IpAddr,
    lladdr: IpAddr,
}

#[test]
fn peers_do_not_fall_out_of_a_full_neighbour_table() {
    let mut scene = registrations::scene("kernel-neighbours");
    scene.start("hub");
    scene.dmvpn("hub", "answers", |_| true);
    let limit: usize = fs::read_to_string(LIMIT).unwrap().trim().parse().unwrap();
    assert!(limit < PEERS as usize, "{limit}");

    // As many as there is room for, and others in their place as soon as the kernel lets them.
    let of_others = || scene.run(OTHER, "ip neigh show dev eth0").lines().count();
    let fill = |net: u8| {
        let all = format!(
            "seq 1 3000 | awk '{{ print \"neigh replace 10.{net}.\" int($1 / 250) \".\" $1 % 250 + 1, \
             \"lladdr 02:00:00:00:00:01 nud stale dev eth0\" }}' | ip -force -batch - 2>&1 || true"
        );
        scene.node(OTHER).run(["sh", "-c", &all]).unwrap()
    };
    let said = fill(1);
    assert!(said.contains("No buffer space available"), "there is room for more: {said}");
    assert!((limit / 2..=limit).contains(&of_others()), "{}", of_others());

    let round = on_network_of(scene.node("spoke-a"), || registrations::register(PEERS).unwrap());
    assert_eq!(round.answered, PEERS, "{round:?}");
    let expected: BTreeMap<_, _> = (0..PEERS).map(registrations::addresses).collect();
    let found = || -> BTreeMap<IpAddr, IpAddr> {
        let told = scene.run("hub", "ip -j neigh show dev dmvpn0 nud permanent");
        let all: Vec<Neighbour> = serde_json::from_str(&told).unwrap();
        all.into_iter().map(|neighbour| (neighbour.dst, neighbour.lladdr)).collect()
    };
    until("all are neighbours", || (found() == expected).then_some(()));

    // The daemon would put back what fell out: nothing does.
    let monitor = scene.node("hub").start(["ip", "monitor", "neigh", "dev", "dmvpn0"]).unwrap();
    for net in [2, 3] {
        until("others have made room for others", || {
            fill(net);
            let now = scene.run(OTHER, "ip neigh show dev eth0");
            now.contains(&format!("10.{net}.")).then_some(())
        });
    }
    scene.run("hub", "ip neigh replace 172.16.0.77 lladdr 198.18.1.77 dev dmvpn0 nud permanent");
    let log =
        until("the monitor hears", || monitor.log().ok().filter(|log| log.contains("172.16.0.77")));
    assert_eq!(log.lines().count(), 1, "{log}");
    scene.run("hub", "ip neigh del 172.16.0.77 dev dmvpn0");
    assert_eq!(found(), expected);
}
