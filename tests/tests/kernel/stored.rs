//! ESP in UDP needs a socket: who holds it open while the daemon is dead loses nothing.

use control::Dmvpn;
use overlay_tests::e2e::{Ca, Numbers, Scene, Site, go_on, is_up, until};

pub(crate) const MANAGER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kernel/manager.py");
pub(crate) const PID: &str = "/run/nhrpd.pid";
const HUB: &str = "172.16.0.1";

#[test]
fn esp_in_udp_survives_the_daemon() {
    let ca = Ca::new("Overlay CA");
    let mut scene = Scene::new(
        "kernel-stored",
        (0..=1).map(|number| match Site::new(&ca, number) {
            spoke if number == 1 => spoke.set("dataplane", "userspace").secure("mode: esp"),
            hub => hub,
        }),
    );
    scene.start_by("hub", &["python3", MANAGER, "/run/manager.sock", PID]);
    scene.dmvpn("hub", "it runs", |_| true);
    scene.start("spoke-a");
    scene.all_registered();
    assert!(scene.run("hub", "ip xfrm state").contains("espinudp"), "userspace has no other");
    let mut ping = scene.ping("spoke-a", HUB, None, 10);
    go_on(&mut ping, 50);

    for _ in 0..2 {
        let killed = scene.run("hub", &format!("cat {PID}"));
        scene.run("hub", &format!("kill -KILL {killed}"));
        until("another one runs", || {
            (scene.run("hub", &format!("cat {PID}")) != killed).then_some(())
        });
        let spoke = Numbers::default().tunnel(1).addr();
        scene.dmvpn("hub", "the spoke is back", |dmvpn: &Dmvpn| is_up(dmvpn, spoke));
        scene.all_registered();
        go_on(&mut ping, 100);
    }
    let replies = ping.stop();
    assert_eq!(replies.lost(), 0, "of {}", replies.sent());
}
