//! A tunnel device that somebody else made under our name.

use overlay_tests::e2e::{Ca, InKernel, Numbers, Scene, Site, go_direct_after, until};

const NODE: &str = "spoke-a";
const ADDRESSES: [&str; 2] = ["10.7.7.7/24", "fe80::7/64"];

fn scene(name: &str) -> Scene {
    let ca = Ca::new("Overlay CA");
    Scene::new(name, (0..=2).map(|number| Site::new(&ca, number)))
}

#[test]
fn a_device_that_was_there_is_used_and_given_back() {
    let mut scene = scene("kernel-adopt");
    scene.run(NODE, "ip link add dmvpn0 mtu 1300 type gre key 42 local 10.255.0.1 ttl 32 tos 0x10");
    scene.run(NODE, "ip link set dmvpn0 up");
    for address in ADDRESSES {
        scene.run(NODE, &format!("ip address add {address} dev dmvpn0"));
    }
    let device = |scene: &Scene| scene.run(NODE, "ip -d link show dmvpn0");
    let addresses = |scene: &Scene| scene.run(NODE, "ip -o address show dmvpn0");
    let before = device(&scene);
    scene.start_all();
    scene.all_registered();
    let host_b = Numbers::default().lan(2, 10).addr().to_string();
    let mut ping = scene.ping("host-a", &host_b, None, 20);
    go_direct_after(&mut ping, 0);
    let whole = InKernel::settled(&scene, NODE);
    let used = device(&scene);
    assert!(used.contains(" ttl 32 ") && used.contains(" tos 0x10 "), "{used}");

    // All is looked at once more.
    scene.run(NODE, "ip xfrm policy flush");
    until("all is as before", || (InKernel::found(&scene, NODE) == whole).then_some(()));
    let last = ping.replies().last();
    go_direct_after(&mut ping, last + 10);
    let now = addresses(&scene);
    assert!(ADDRESSES.iter().all(|address| now.contains(address)), "{now}");
    ping.stop();

    scene.stop(NODE);
    assert_eq!(device(&scene), before);
    let left = addresses(&scene);
    assert!(ADDRESSES.iter().all(|address| left.contains(address)), "{left}");
    assert!(!left.contains("172.16.0.2"), "{left}");
    scene.run(NODE, "ip link delete dmvpn0");
    InKernel::nothing(&scene, NODE);
}

#[test]
fn a_device_of_ours_has_the_configured_addresses_and_link_local_ones() {
    let mut scene = scene("kernel-own-addresses");
    scene.start_all();
    scene.all_registered();
    for address in ADDRESSES {
        scene.run(NODE, &format!("ip address add {address} dev dmvpn0"));
    }
    scene.run(NODE, "ip xfrm policy flush");
    until("the address that is not configured is gone", || {
        let now = scene.run(NODE, "ip -o address show dmvpn0");
        assert!(now.contains("fe80::7/64"), "{now}");
        (!now.contains("10.7.7.7")).then_some(())
    });
}

#[test]
fn a_device_with_other_parameters_is_refused_in_words() {
    let mut scene = scene("kernel-unfit");
    for (made, said) in [
        ("gre key 42 csum", "it has checksums (csum)"),
        ("gre key 42 seq", "it has sequence numbers (seq)"),
        ("gre key 42 local 198.18.1.10 remote 198.18.0.10", "it has one peer only (remote)"),
        ("gre key 7", "it has key 7, and `tunnel.key` says key 42"),
        ("gre key 42 dev eth0", "it sends by eth0 only (dev), and not by whichever device"),
        ("gre ikey 42 okey 43", "it has another key in than out (ikey, okey)"),
        ("gre external", "it has no parameters of its own (external)"),
    ] {
        scene.run(NODE, &format!("ip link add dmvpn0 type {made}"));
        scene.start(NODE);
        until("the daemon ends", || (!scene.daemons[NODE].running()).then_some(()));
        let log = scene.log(NODE);
        assert!(log.contains("interface dmvpn0 exists already, and cannot be used"), "{log}");
        assert!(log.contains(said) && log.contains("ip link delete dmvpn0"), "{made}: {log}");
        scene.kill(NODE);
        scene.run(NODE, "ip link delete dmvpn0");
    }
    // What the error says to make.
    scene.run(NODE, "ip link add dmvpn0 type gre key 42 ttl 64 nopmtudisc");
    scene.start("hub");
    scene.start(NODE);
    scene.registered(NODE);
}
