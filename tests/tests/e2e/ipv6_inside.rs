//! IPv6 inside.

use overlay_tests::e2e::{Ca, Numbers, Scene, Site, is_up};

pub(crate) fn cold_start(name: &str, numbers: Numbers) {
    let ca = Ca::new("Overlay CA");
    let mut scene = Scene::new(name, (0..=2).map(|number| Site::numbered(&ca, number, numbers)));
    let recording = scene.record();
    scene.start_all();
    scene.all_registered();
    let host_b = numbers.lan(2, 10).addr().to_string();
    let replies = scene.ping("host-a", &host_b, Some(200), 10).finish();
    assert_eq!(replies.lost(), 0);
    let Some(direct) = replies.over_routers_from(2) else { panic!("none came directly") };
    println!("{name}: direct from reply {direct} on");
    let other = numbers.tunnel(2).addr();
    let own = scene.dmvpn("spoke-a", "the other spoke is up", |dmvpn| is_up(dmvpn, other));
    assert_eq!(own.interfaces[0].nbma, Some(numbers.underlay(1, 10).addr()));
    recording.stop(&scene.inner()).sees_nothing();
}

#[test]
fn ipv6_inside() {
    cold_start("ipv6-inside", Numbers { overlay_v6: true, ..Numbers::default() });
}
