//! SIGKILL for one node after the other, under a running ping and under the eyes of an onlooker.

use std::time::Instant;

use control::Dmvpn;
use lab::ping::Ping;
use overlay_tests::e2e::{
    Ca, Numbers, Onlooker, Scene, Site, dataplane, go_direct, go_direct_after, go_on, is_up,
};

const HOST_B: &str = "192.168.2.10";
const INTERVAL_MS: u32 = 10;

/// The same story with protection and without: what could be seen, and which addresses were inside.
fn story(name: &str, protect: fn(Site) -> Site) -> Onlooker {
    let ca = Ca::new("Overlay CA");
    let mut scene = Scene::new(name, (0..=2).map(|number| protect(Site::new(&ca, number))));
    let recording = scene.record();
    scene.start("hub");
    scene.start("spoke-a");
    scene.registered("spoke-a");
    // The hub cannot know yet where this is to go.
    let lonely = scene.ping("host-a", HOST_B, Some(20), INTERVAL_MS).finish();
    assert_eq!(lonely.received(), 0);
    scene.start("spoke-b");
    scene.all_registered();
    let mut ping = scene.ping("host-a", HOST_B, None, INTERVAL_MS);
    go_direct(&mut ping);

    scene.kill("hub");
    let dead = ping.replies().last();
    let alive = go_on(&mut ping, 200);
    let orphaned = ping.replies().between(dead + 1..=alive);
    assert_eq!(orphaned.lost(), 0, "the direct path needs no hub");
    assert_eq!(orphaned.over_routers_from(2), Some(1));
    println!("{name}: hub dead for {} pings, none lost", orphaned.sent());
    scene.start("hub");
    whole(&scene, "hub");

    for spoke in ["spoke-a", "spoke-b"] {
        let last = ping.replies().last();
        scene.kill(spoke);
        scene.start(spoke);
        back(&mut ping, last);
        let replies = ping.replies();
        let outage = replies.between(last + 1..=replies.last());
        println!(
            "{name}: {spoke} killed: {} pings lost, {} ms without a reply, then direct again",
            outage.lost(),
            outage.longest_gap_ms()
        );
        if dataplane() == "kernel" {
            assert_eq!(outage.lost(), 0, "the kernel carries what a dead daemon has left");
        }
        whole(&scene, spoke);
    }
    ping.stop();
    recording.stop(&scene.inner())
}

/// Waits for direct replies a second after the last one of before.
fn back(ping: &mut Ping, last: u32) {
    go_direct_after(ping, last + 1000 / INTERVAL_MS);
}

/// Everybody knows everybody again.
fn whole(scene: &Scene, killed: &str) {
    let begun = Instant::now();
    let tunnel = |number| Numbers::default().tunnel(number).addr();
    scene.all_registered();
    let all = |dmvpn: &Dmvpn| is_up(dmvpn, tunnel(1)) && is_up(dmvpn, tunnel(2));
    scene.dmvpn("hub", "both spokes are up again", all);
    println!("{killed} is back for all others after {:.1} s", begun.elapsed().as_secs_f32());
}

#[test]
fn killed_nodes_come_back_and_an_onlooker_learns_nothing() {
    story("killed", |site| site).sees_nothing();
}

/// The proof that the onlooker above has eyes.
#[test]
fn without_protection_the_same_onlooker_sees_all() {
    // Without sessions the hub's restart is noticed at the next registration only.
    let clear = |site: Site| site.clear().set("nhrp", "{ holding-time: 15 }");
    let seen = story("killed-clear", clear);
    assert!(seen.gre() > 1000, "{:#?}", seen.kinds);
    for address in [Numbers::default().tunnel(1), Numbers::default().lan(1, 10)] {
        assert!(seen.leaks.contains_key(&address.addr()), "{:#?}", seen.leaks);
    }
}
