//! What a spoke with nothing to do costs.

use overlay_tests::e2e::{Ca, Scene, Site, good, release};

/// Resident, all in all.
const RESIDENT_KIB: u64 = 12_000_000 / 1024;
/// Of the program's file.
const FILE: u64 = 8_000_000;

/// A program that was built without optimisation is larger than what is shipped; what it keeps for
/// itself is not.
#[test]
fn an_idle_spoke_is_small() {
    let ca = Ca::new("Overlay CA");
    let mut scene = Scene::new("memory", (0..=1).map(|number| Site::new(&ca, number)));
    scene.start("hub");
    scene.start("spoke-a");
    scene.all_registered();
    let own = scene.memory_kib("spoke-a", "RssAnon");
    println!("idle spoke: {own} KiB of its own");
    assert!(own <= RESIDENT_KIB - FILE / 1024, "{own} KiB");

    let Some(release) = release() else {
        println!("not measured: no target/release/nhrpd (cargo build --release -p nhrpd)");
        return;
    };
    let size = good("look at it", release.metadata()).len();
    scene.stop("spoke-a");
    scene.start_program("spoke-a", &release.to_string_lossy());
    scene.all_registered();
    let resident = scene.memory_kib("spoke-a", "VmRSS");
    println!("release: {size} bytes on disk; idle spoke {resident} KiB resident");
    assert!(size <= FILE, "{size} bytes");
    assert!(resident <= RESIDENT_KIB, "{resident} KiB");
}
