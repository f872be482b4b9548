//! What is in the kernel: gone after a clean stop, closed without a daemon.

use overlay_tests::e2e::{Ca, Numbers, Scene, Site, until};

fn settle(scene: &Scene) {
    scene.all_registered();
    scene.direct("host-a", &Numbers::default().lan(2, 10).addr().to_string());
}

#[test]
fn nothing_is_left_after_a_clean_stop() {
    let mut scene = Scene::up("kernel-stop", 2);
    settle(&scene);
    scene.run("spoke-a", "ip route add 10.99.0.0/16 dev eth1 proto 191");
    scene.stop("spoke-a");
    assert!(!scene.run("spoke-a", "ip link show type gre").contains("dmvpn0"));
    assert_eq!(scene.run("spoke-a", "ip xfrm state").trim(), "");
    assert_eq!(scene.run("spoke-a", "ip xfrm policy").trim(), "");
    assert_eq!(scene.run("spoke-a", "nft list tables").trim(), "");
    let routes = scene.run("spoke-a", "ip route show proto 191");
    assert_eq!(routes.trim(), "10.99.0.0/16 dev eth1 scope link", "a stranger's stays");
}

/// The policies stand before the device does, and stay when the daemon is killed.
#[test]
fn without_a_daemon_nothing_goes_in_clear() {
    let mut scene = Scene::up("kernel-closed", 1);
    scene.registered("spoke-a");
    let recording = scene.record();
    scene.kill("spoke-a");
    scene.run("spoke-a", "ip xfrm state flush");
    let lonely = scene.ping("host-a", "172.16.0.1", Some(20), 20).finish();
    assert_eq!(lonely.received(), 0);
    let seen = recording.stop(&scene.inner());
    assert_eq!(seen.gre(), 0, "{:#?}", seen.kinds);
    assert!(seen.leaks.is_empty(), "{:#?}", seen.leaks);
}

/// A packet may have got the former SA when its successor comes, and is still to go through it.
#[test]
fn an_sa_that_sends_outlives_the_coming_of_its_successor() {
    let ca = Ca::new("Overlay CA");
    let sites = (0..=1).map(|number| Site::new(&ca, number).secure("rekey-interval: 10"));
    let mut scene = Scene::new("kernel-successor", sites);
    scene.start_all();
    scene.all_registered();
    let hub = Numbers::default().underlay(0, 10).addr();
    let sending = || {
        let states = scene.run("spoke-a", "ip xfrm state");
        states.lines().filter(|line| line.ends_with(&format!(" dst {hub}"))).count()
    };
    until("one sends", || (sending() == 1).then_some(()));
    until("both are there", || (sending() == 2).then_some(()));
    until("the former one is gone", || (sending() == 1).then_some(()));
}
