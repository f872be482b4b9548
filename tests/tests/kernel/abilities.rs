//! What this kernel can do, and what the daemon may.

use overlay_tests::e2e::{CONFIG, Ca, Scene, Site};

/// Without CAP_NET_RAW there are no packet sockets.
const WITHOUT: &str = "setpriv --bounding-set -net_raw";

#[test]
fn where_something_is_lacking_auto_takes_userspace_and_says_why() {
    let ca = Ca::new("Overlay CA");
    let sites = (0..=1).map(|number| Site::new(&ca, number).set("dataplane", "auto"));
    let mut scene = Scene::new("kernel-abilities", sites);
    let check = |by: &str| scene.run("spoke-a", &format!("{by}nhrpd check --config {CONFIG}"));
    let whole = check("");
    for there in [
        "data plane: kernel (it can do all of it)",
        "alternative names of devices: yes",
        "packet sockets: yes",
        "marks in packet sockets (SO_RCVMARK): yes",
        "IPsec by netlink (xfrm): yes",
        "ESP over IPv6 (used by no tunnel): yes",
    ] {
        assert!(whole.contains(there), "{there}: {whole}");
    }
    let partly = check(&format!("{WITHOUT} "));
    let why = "data plane: userspace (not the kernel: packet sockets: no: permission denied: run as root or \
               give CAP_NET_ADMIN and CAP_NET_RAW)";
    assert!(partly.contains(why), "{partly}");

    scene.start("hub");
    scene.start_by("spoke-a", &WITHOUT.split(' ').collect::<Vec<_>>());
    scene.registered("spoke-a");
    let log = scene.log("spoke-a");
    assert!(
        log.contains("this kernel has: multipoint GRE, alternative names of devices, nftables"),
        "{log}"
    );
    assert!(log.contains("; lacking: packet sockets (permission denied: run as root"), "{log}");
    assert!(log.contains("not the kernel: packet sockets: no"), "{log}");
}
