//! The MTU of the tunnel follows that of the underlay, and narrow routers on the way are learnt of.

use overlay_tests::e2e::{InKernel, Numbers, Scene, until};

/// ESP in UDP and GRE around a packet, by the configuration of these scenes.
const AROUND: u64 = 70;

#[test]
fn the_tunnel_follows_the_underlay() {
    let scene = Scene::up("kernel-mtu", 1);
    scene.all_registered();
    for mtu in [1400, 1500] {
        scene.run("spoke-a", &format!("ip link set eth0 mtu {mtu}"));
        until(&format!("the tunnel fits into {mtu} octets"), || {
            let now = scene.run("spoke-a", "cat /sys/class/net/dmvpn0/mtu");
            (now.trim() == (mtu - AROUND).to_string()).then_some(())
        });
        assert_eq!(
            InKernel::settled(&scene, "spoke-a").mtu,
            mtu - AROUND,
            "the daemon says so, too"
        );
    }
}

#[test]
fn a_narrow_router_is_learnt_of() {
    let scene = Scene::up("kernel-narrow", 2);
    scene.all_registered();
    let to = Numbers::default().lan(2, 10).addr().to_string();
    scene.direct("host-a", &to);
    let large = ["ping", "-c", "1", "-W", "1", "-M", "do", "-s", "1372", "172.16.0.3"];
    until("a large packet passes", || scene.node("spoke-a").run(large).ok());

    // Only of the router in the middle, in front of spoke-b.
    scene.run("internet", "ip link set eth2 mtu 1300");
    until("a sender hears that it is too large", || {
        let said = scene.node("spoke-a").run(large).err()?.to_string();
        (said.contains("message too long") || said.contains("Message too long")).then_some(())
    });
    let way = scene.run("spoke-a", "ip route get 172.16.0.3");
    let mtu = way.split_once(" mtu ").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
    let mtu: u64 = mtu.unwrap_or_else(|| panic!("{way}"));
    assert!((1200..=1300 - 28).contains(&mtu), "{way}");
    let other = scene.run("spoke-a", "ip route get 172.16.0.1");
    assert!(!other.contains(" mtu "), "of the others nothing is known: {other}");

    // A stream of segments that were too large at first.
    let server = scene.node("host-b").start(["iperf3", "-s"]).unwrap();
    until("iperf3 listens", || scene.run("host-b", "ss -Htln").contains(":5201").then_some(()));
    // The sender's end ends both: what is in buffers then, of which -w leaves little, is not counted.
    let said = scene.run("host-a", &format!("iperf3 -J -c {to} -w 128K -n 3M"));
    drop(server);
    let report: serde_json::Value = serde_json::from_str(&said).unwrap();
    let received = report["end"]["sum_received"]["bytes"].as_u64().unwrap_or_default();
    assert!(received > 2 << 20, "{received} octets arrived");
    println!("mtu {mtu}, {received} octets");
}
