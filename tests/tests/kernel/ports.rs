//! UDP port 500, where other implementations begin, may be taken.

use std::net::UdpSocket;

use overlay_tests::e2e::{CONFIG, Ca, Scene, Site, on_network_of};

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
