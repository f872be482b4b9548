//! What others take away comes back, and what they add in our name goes.

use overlay_tests::e2e::{InKernel, Numbers, Scene, go_direct_after, go_on, until};

const NODE: &str = "spoke-a";
/// How often a table is made anew.
const TABLES: u32 = 10;

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
        "ip route add 10.9.0.0/16 dev dmvpn0 proto 191",
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

/// The kernel fills a new set a moment after the new rules hold; 8 pings for each table are lost where
/// the set is filled by a second transaction.
#[test]
fn a_table_made_anew_costs_three_packets_at_most() {
    let scene = Scene::up("kernel-anew", 1);
    scene.all_registered();
    // Its first line has its handle, which no other table has.
    let table = || {
        let listed = scene.run(NODE, "nft -a --terse list table inet nhrpd-dmvpn0");
        listed.lines().next().unwrap().to_owned()
    };
    assert!(table().contains("# handle"), "{}", table());
    let mut ping = scene.ping(NODE, "172.16.0.1", None, 1);
    go_on(&mut ping, 50);
    for _ in 0..TABLES {
        let former = table();
        scene.run(NODE, "nft flush chain inet nhrpd-dmvpn0 through4");
        until("there is another table", || (table() != former).then_some(()));
        go_on(&mut ping, 50);
    }
    let replies = ping.stop();
    println!("{} of {} pings lost", replies.lost(), replies.sent());
    assert!(replies.lost() <= 3 * TABLES, "{} lost", replies.lost());
}
