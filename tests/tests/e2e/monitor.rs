//! Events as they happen.

use control::{Event, EventKind};
use lab::Daemon;
use overlay_tests::e2e::{Ca, Numbers, Scene, Site, days, good, until};

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

#[test]
fn a_certificate_that_ends_soon_is_told_of_at_start_and_at_a_reload() {
    let ca = Ca::new("Overlay CA");
    let mut request = Site::request(Numbers::default(), 1);
    request.validity = days(5, 10);
    let soon = Site::new(&ca, 1).identified(ca.issue(&request));
    let mut scene = Scene::new("ends", [Site::new(&ca, 0), soon]);
    scene.start_all();
    scene.all_registered();
    let words = "our certificate (CN=spoke-a) ends at";
    assert_eq!(scene.log("spoke-a").matches(words).count(), 1, "{}", scene.log("spoke-a"));
    assert!(!scene.log("hub").contains("ends at"), "its own lasts, and so does the CA's");
    let page = scene.run("spoke-a", "overlayctl show dmvpn detail");
    assert!(page.contains("\n Certificate: ends at "), "{page}");

    let monitor = monitor(&scene, "spoke-a");
    let said = scene.run("spoke-a", "overlayctl reload");
    assert!(said.contains("warning: ") && said.contains(words), "{said}");
    let event = told(&monitor, "it ends", |event| event.kind == EventKind::CertificateEnds);
    assert_eq!(event.identity.as_deref(), Some("CN=spoke-a"));
    assert!(event.message.contains("renew it (overlayctl pki renew)"), "{event:?}");
}
