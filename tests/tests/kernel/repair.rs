//! What others take away comes back.

use overlay_tests::e2e::{InKernel, Numbers, Scene, go_direct_after, until};

const NODE: &str = "spoke-a";

#[test]
fn what_others_take_away_comes_back() {
    let mut scene = Scene::up("kernel-repair", 2);
    scene.all_registered();
    let mut ping =
        scene.ping("host-a", &Numbers::default().lan(2, 10).addr().to_string(), None, 20);
    go_direct_after(&mut ping, 0);
    let whole = InKernel::settled(&scene, NODE);
    let policies = scene.run(NODE, "ip xfrm policy");
    let rules = || scene.run(NODE, "nft list table inet nhrpd-dmvpn0").matches("oif").count();
    let all_rules = rules();
    for command in [
        "ip neigh flush dev dmvpn0 nud permanent",
        "ip route flush proto 191",
        "ip xfrm policy flush",
        "nft flush chain inet nhrpd-dmvpn0 forward",
        "nft flush set inet nhrpd-dmvpn0 source4",
        "nft delete table inet nhrpd-dmvpn0",
    ] {
        scene.run(NODE, command);
        until(&format!("all is as before `{command}`"), || {
            let same = InKernel::found(&scene, NODE) == whole
                && scene.run(NODE, "ip xfrm policy") == policies
                && rules() == all_rules;
            same.then_some(())
        });
    }

    // Sequence numbers would begin again: new keys.
    scene.run(NODE, "ip xfrm state flush");
    until("all keys are new", || {
        let now = InKernel::found(&scene, NODE);
        (now.spis.len() == whole.spis.len() && now.spis.is_disjoint(&whole.spis)).then_some(())
    });
    InKernel::settled(&scene, NODE);
    let last = ping.replies().last();
    go_direct_after(&mut ping, last + 50);

    // Somebody starts it again, as systemd does.
    scene.run(NODE, "ip link delete dmvpn0");
    until("the daemon ends", || (!scene.daemons[NODE].running()).then_some(()));
    let log = scene.log(NODE);
    assert!(log.contains("interface dmvpn0 was removed"), "{log}");
    scene.kill(NODE);
    scene.start(NODE);
    let last = ping.replies().last();
    go_direct_after(&mut ping, last + 50);
    InKernel::settled(&scene, NODE);
}
