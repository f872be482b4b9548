//! Events as they happen.

use control::{Event, EventKind};
use lab::Daemon;
use overlay_tests::e2e::{Numbers, Scene, good, until};

/// `overlayctl monitor` on a node, told of every event from now on.
fn monitor(scene: &Scene, node: &str) -> Daemon {
    let monitor = scene.node(node).start(["overlayctl", "--json", "monitor"]).unwrap();
    until("it is told of events", || monitor.log().unwrap().contains("from now on").then_some(()));
    monitor
}

/// Waits for an event.
#[track_caller]
fn told(monitor: &Daemon, what: &str, fits: impl Fn(&Event) -> bool) -> Event {
    until(what, || {
        let log = good("read what it printed", monitor.log());
        let mut events = log.lines().filter_map(|line| serde_json::from_str::<Event>(line).ok());
        events.find(&fits)
    })
}

#[test]
fn registrations_shortcuts_and_peers_are_told_as_they_come_and_go() {
    let numbers = Numbers::default();
    let mut scene = Scene::up("monitor", 2);
    scene.all_registered();
    let [at_hub, at_b] = ["hub", "spoke-b"].map(|node| monitor(&scene, node));
    let [a, b] = [1, 2].map(|site| numbers.lan(site, 0));
    scene.direct("host-a", "192.168.2.10");
    let up = told(&at_b, "spoke-b has a shortcut", |event| {
        event.kind == EventKind::ShortcutUp && event.prefix == Some(a)
    });
    assert_eq!(up.interface, "dmvpn0");
    let peer = told(&at_b, "spoke-a is up", |event| event.kind == EventKind::PeerUp);
    assert_eq!(peer.identity.as_deref(), Some("CN=spoke-a"));
    assert_eq!(peer.peer, up.peer);

    scene.stop("spoke-a");
    let gone = told(&at_hub, "the hub forgets spoke-a", |event| {
        event.kind == EventKind::Unregistered && event.prefix == Some(a)
    });
    assert!(gone.reason.is_some() && gone.message.contains("192.168.1.0/24"), "{gone:?}");
    for monitor in [&at_hub, &at_b] {
        let down = told(monitor, "spoke-a is down", |event| event.kind == EventKind::PeerDown);
        assert_eq!(down.identity.as_deref(), Some("CN=spoke-a"));
        assert!(down.reason.is_some());
    }
    told(&at_b, "spoke-b has no shortcut", |event| event.kind == EventKind::ShortcutDown);

    scene.start("spoke-a");
    told(&at_hub, "spoke-a registers", |event| {
        event.kind == EventKind::Registered && event.prefix == Some(a)
    });
    assert!(!good("read", at_hub.log()).contains(&b.to_string()), "nothing happened to spoke-b");
}
