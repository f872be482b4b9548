//! IPv6 below, and all over.

use overlay_tests::e2e::{CONFIG, Ca, Numbers, Scene, Site};

use crate::ipv6_inside::cold_start;

#[test]
fn ipv6_below() {
    cold_start("ipv6-below", Numbers { underlay_v6: true, ..Numbers::default() });
}

#[test]
fn ipv6_all_over() {
    cold_start("ipv6-all", Numbers { underlay_v6: true, overlay_v6: true });
}

/// The address is that of a device, which only the kernel knows.
#[test]
fn check_says_what_the_daemon_will_do_over_ipv6() {
    let ca = Ca::new("Overlay CA");
    let numbers = Numbers { underlay_v6: true, ..Numbers::default() };
    let site = Site::numbered(&ca, 1, numbers).set("dataplane", "auto");
    let scene = Scene::new("ipv6-check", [Site::numbered(&ca, 0, numbers), site]);
    let said = scene.run("spoke-a", &format!("nhrpd check --config {CONFIG}"));
    let why = "data plane: userspace (not the kernel: Linux has no multipoint GRE over IPv6";
    assert!(said.contains(why), "{said}");
}
