//! Cisco's own example, imported and started: what its users have carries over.

use std::path::Path;

use control::Cache;
use ipnet::IpNet;
use overlay_tests::e2e::{CONFIG, Ca, Scene, days, go_direct, good, until};
use pki::authority::Request;

const HUB: &str = include_str!("../../../overlayctl/src/import/samples/ios-hub.cfg");
const SPOKE: &str = include_str!("../../../overlayctl/src/import/samples/ios-spoke.cfg");

/// Imports a configuration on a node and puts the certificate there that the import asks for.
/// What `nhrpd check` says then.
fn carry_over(scene: &Scene, ca: &Ca, node: &str, text: &str, claims: [&str; 2]) -> String {
    let at = scene.node(node);
    let write = |file: &str, text: &str| good("write", at.write_file(Path::new(file), text));
    write("/etc/nhrpd/running-config", text);
    let import = "overlayctl import ios /etc/nhrpd/running-config --source eth0 --output";
    scene.run(node, &format!("{import} {CONFIG}"));
    let name = text.lines().find_map(|line| line.strip_prefix("hostname ")).unwrap();
    let mut request = Request::new(name, days(1, 90));
    request.addresses.push(claims[0].parse().unwrap());
    request.prefixes.insert(claims[1].parse().unwrap());
    let identity = ca.issue(&request);
    write(&format!("/etc/nhrpd/{name}.crt"), &identity.certificate);
    write(&format!("/etc/nhrpd/{name}.key"), &identity.private_key);
    write("/etc/nhrpd/ca.crt", &identity.ca);
    let said = scene.run(node, &format!("nhrpd check --config {CONFIG}"));
    println!("── {node}\n{said}");
    said
}

#[test]
fn hub_and_spokes_of_a_cisco_network_work_as_imported() {
    let topology = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/seed.yaml");
    let mut scene = Scene::of("seed", &topology, |_| {});
    let ca = Ca::new("Overlay CA");
    let ninth = SPOKE
        .replace("hostname Spoke1", "hostname Spoke9")
        .replace("ip address 172.16.0.2 ", "ip address 172.16.0.9 ")
        .replace("ip nhrp map 172.16.0.9 203.0.113.9", "ip nhrp map 172.16.0.2 192.0.2.2")
        .replace("192.168.2.", "192.168.9.");
    let said = carry_over(&scene, &ca, "hub", HUB, ["172.16.0.1", "192.168.0.0/24"]);
    // Cisco's line has no such list.
    assert!(said.contains("routes is empty"), "{said}");
    carry_over(&scene, &ca, "spoke-1", SPOKE, ["172.16.0.2", "192.168.2.0/24"]);
    carry_over(&scene, &ca, "spoke-9", &ninth, ["172.16.0.9", "192.168.9.0/24"]);
    for node in ["hub", "spoke-1", "spoke-9"] {
        scene.start(node);
    }
    for (spoke, lan) in [("spoke-1", "192.168.2.0/24"), ("spoke-9", "192.168.9.0/24")] {
        scene.registered(spoke);
        let lan: IpNet = lan.parse().unwrap();
        scene.when("hub", "show nhrp cache", "the hub knows what is behind it", |cache: &Cache| {
            cache.entries.iter().any(|entry| entry.prefix == lan)
        });
        // The userspace data plane sets routes a moment later, and this hub has a default route.
        until("the hub leads it into the tunnel", || {
            let route = scene.run("hub", &format!("ip route show {lan}"));
            route.contains("Tunnel0").then_some(())
        });
    }
    // Cisco's own example loses the first of five here.
    for (host, to) in [("host-1", "192.168.0.10"), ("host-hub", "192.168.9.10")] {
        let replies = scene.ping(host, to, Some(5), 20).finish();
        assert_eq!((replies.sent(), replies.received()), (5, 5), "{host} to {to}");
    }
    let mut ping = scene.ping("host-1", "192.168.9.10", None, 20);
    go_direct(&mut ping);
    assert_eq!(ping.stop().lost(), 0, "spoke to spoke, from the first packet on");
    println!("{}", scene.run("spoke-1", "overlayctl show dmvpn"));
    let doctor = scene.run("spoke-1", "overlayctl doctor");
    assert!(doctor.starts_with("no finding"), "{doctor}");
    let trace = scene.run("spoke-1", "overlayctl trace 192.168.9.10");
    assert!(trace.starts_with("192.168.9.10 goes straight to 172.16.0.9, CN=Spoke9"), "{trace}");
}
