//! New keys for ESP by volume, under traffic.

use std::net::UdpSocket;

use overlay_tests::e2e::{Ca, Scene, Site, go_on, on_network_of};

/// The least that can be set.
const PACKETS: u32 = 10_000;
const TIMES: usize = 2;
/// Discarded by whoever gets it.
const PORT: u16 = 9;

/// Sends datagrams, few at a time, while a ping goes on, until the keys were renewed by their volume.
#[test]
fn keys_are_renewed_after_so_many_packets() {
    let ca = Ca::new("Overlay CA");
    let more = format!("mode: esp, rekey-packets: {PACKETS}");
    let sites = [Site::new(&ca, 0), Site::new(&ca, 1).secure(&more)];
    let mut scene = Scene::new("volume", sites);
    scene.start_all();
    scene.all_registered();
    let renewed = || scene.log("spoke-a").matches("new keys with").count();
    let before = renewed();
    let from = on_network_of(scene.node("spoke-a"), || UdpSocket::bind(("172.16.0.2", 0)).unwrap());
    let mut ping = scene.ping("host-a", "172.16.0.1", None, 1);
    let mut sent = 0;
    while renewed() < before + TIMES {
        for _ in 0..50 {
            from.send_to(&[7; 64], ("172.16.0.1", PORT)).unwrap();
        }
        sent += 50;
        go_on(&mut ping, 1);
    }
    let replies = ping.stop();
    let all = sent + replies.sent();
    println!("{} pings, {sent} datagrams, new keys {TIMES} times", replies.sent());
    assert_eq!(replies.lost(), 0, "{:?} of {}", replies.missing(), replies.sent());
    // NHRP counts, too, and keys are in use until there are others.
    let least = TIMES as u32 * (PACKETS - 100);
    assert!((least..=2 * least).contains(&all), "{all} packets");
}
