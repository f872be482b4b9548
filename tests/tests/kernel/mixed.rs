//! A spoke in userspace at a hub in the kernel: what one seals the other opens.

use std::collections::BTreeSet;

use control::IkeSas;
use overlay_tests::e2e::{Ca, Numbers, Scene, Site, go_direct, go_on};

/// Outbound SPIs of all ESP SAs that a node has.
fn spis(all: &IkeSas) -> BTreeSet<String> {
    all.sas.iter().flat_map(|sa| &sa.ipsec).map(|sa| sa.outbound_spi.clone()).collect()
}

/// The other ends are the hub and a spoke, both in the kernel.
#[test]
fn a_userspace_spoke_renews_its_keys_with_the_kernel_and_loses_nothing() {
    let numbers = Numbers::default();
    let ca = Ca::new("Overlay CA");
    let mut scene = Scene::new(
        "kernel-mixed",
        (0..=2).map(|number| match Site::new(&ca, number) {
            spoke if number == 1 => {
                spoke.set("dataplane", "userspace").secure("mode: esp, rekey-interval: 10")
            }
            other => other,
        }),
    );
    let recording = scene.record();
    // Loading the kernel's modules takes its time.
    for node in ["hub", "spoke-b", "spoke-a"] {
        scene.start(node);
        scene.dmvpn(node, "it runs", |_| true);
    }
    scene.all_registered();
    assert!(scene.run("spoke-a", "ip -d link show dmvpn0").contains("tun"));
    assert_eq!(scene.run("spoke-a", "ip xfrm state").trim(), "");
    let hub = scene.run("hub", "ip xfrm state");
    assert!(hub.contains("espinudp"), "the spoke takes no other: {hub}");

    let mut to_hub = scene.ping("spoke-a", "172.16.0.1", None, 100);
    let mut to_other = scene.ping("host-a", &numbers.lan(2, 10).addr().to_string(), None, 100);
    go_direct(&mut to_other);
    let first = spis(&scene.ask("spoke-a", "show ike sa"));
    assert!(first.len() >= 2, "hub and spoke-b: {first:?}");
    scene.when("spoke-a", "show ike sa", "all keys are new", |all| {
        let now = spis(all);
        now.len() >= 2 && now.is_disjoint(&first)
    });
    go_on(&mut to_hub, 20);
    go_on(&mut to_other, 20);
    for replies in [to_hub.stop(), to_other.stop()] {
        assert_eq!(replies.lost(), 0);
    }
    // No search for inner addresses: the kernel decrypts what came by UDP GSO where it lies, in pages
    // that a recording in the same kernel has yet to read.
    let seen = recording.stop(&scene.inner());
    assert_eq!(seen.gre(), 0, "{:#?}", seen.kinds);
}
