//! What has to be let in: UDP port 500, where other implementations begin, may be taken; ESP may be blocked.

use std::net::UdpSocket;

use overlay_tests::e2e::{CONFIG, Ca, Scene, Site, on_network_of, until};

const TAKEN: &str = "Address already in use (os error 98)";

#[test]
fn where_port_500_is_taken_port_4500_is_enough() {
    let ca = Ca::new("Overlay CA");
    let mut scene = Scene::new("kernel-ports", (0..=1).map(|number| Site::new(&ca, number)));
    let check = |scene: &Scene| scene.run("hub", &format!("nhrpd check --config {CONFIG}"));
    let said = check(&scene);
    assert!(said.contains("IKE on UDP port 500: yes"), "{said}");
    let other = on_network_of(scene.node("hub"), || UdpSocket::bind("0.0.0.0:500").unwrap());
    let said = check(&scene);
    assert!(said.contains(&format!("IKE on UDP port 500: no: {TAKEN}")), "{said}");
    scene.start_all();
    scene.all_registered();
    for (node, taken) in [("hub", true), ("spoke-a", false)] {
        let log = scene.log(node);
        assert_eq!(log.contains(&format!("UDP port 500: {TAKEN}")), taken, "{node}: {log}");
    }
    drop(other);
}

/// A firewall that knows of UDP 4500 only.
#[test]
fn esp_that_is_blocked_is_named() {
    let ca = Ca::new("Overlay CA");
    let mut scene = Scene::new("kernel-no-esp", (0..=1).map(|number| Site::new(&ca, number)));
    for command in [
        "nft add table inet onway",
        "nft add chain inet onway forward { type filter hook forward priority 0 ; }",
        "nft add rule inet onway forward meta l4proto esp drop",
    ] {
        scene.run("internet", command);
    }
    scene.start_all();
    let words = "came through the session: does ESP (IP protocol 50) pass both ways";
    // Not before it listens.
    let trace = || scene.node("spoke-a").run(["overlayctl", "trace", "172.16.0.1"]);
    until("what does not pass is named", || {
        trace().unwrap_or_default().contains(words).then_some(())
    });
    scene.run("internet", "nft delete table inet onway");
    scene.registered("spoke-a");
}
