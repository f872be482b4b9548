//! INITIAL_CONTACT (RFC 7296 §2.4), and the SAs that a former run left in the kernel.

use std::collections::BTreeSet;

use overlay_tests::e2e::{Numbers, Scene, until};

/// SPIs of the hub's SAs with this spoke.
fn spis(scene: &Scene, spoke: u8) -> BTreeSet<String> {
    let at = Numbers::default().underlay(spoke, 10).addr().to_string();
    let states = scene.run("hub", "ip xfrm state");
    let of_spoke = states.split("src ").filter(|state| {
        state.lines().next().is_some_and(|ends| ends.split(' ').any(|end| end == at))
    });
    let spi = |state: &str| Some(state.split("spi ").nth(1)?.split(' ').next()?.to_owned());
    of_spoke.filter_map(spi).collect()
}

#[test]
fn what_was_left_of_a_peer_goes_when_that_peer_begins_anew_and_what_was_left_of_others_stays() {
    let mut scene = Scene::up("kernel-contact", 2);
    scene.all_registered();
    let left = [1, 2].map(|spoke| spis(&scene, spoke));
    assert!(left.iter().all(|spis| spis.len() >= 2), "{left:?}");
    for spoke in ["spoke-a", "spoke-b"] {
        scene.kill(spoke);
        // As after a crash of the whole machine.
        scene.run(spoke, "ip xfrm state flush");
    }
    scene.kill("hub");
    scene.start("hub");
    scene.when("hub", "show ike sa", "the hub runs", |_: &control::IkeSas| true);
    assert_eq!([1, 2].map(|spoke| spis(&scene, spoke)), left, "inherited");

    scene.start("spoke-a");
    scene.registered("spoke-a");
    until("what was left of spoke-a is gone", || {
        spis(&scene, 1).is_disjoint(&left[0]).then_some(())
    });
    assert!(spis(&scene, 2).is_superset(&left[1]), "nobody has said anything of spoke-b");
    assert!(spis(&scene, 1).len() >= 2, "its successor");
}
