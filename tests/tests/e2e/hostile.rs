//! A million datagrams from somebody on the same network who has recorded everything and can forge
//! any sender.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use control::{Dmvpn, IkeSas, Spi};
use lab::Recorded;
use overlay_tests::e2e::{Ca, Numbers, Scene, Site, go_direct, is_up};
use rand_chacha::ChaCha8Rng;
use rand_core::Rng;

use crate::stranger::{BURST, PORT, Stranger, Told, obey, read_by, settle};

/// Datagrams at each of the two victims.
const DATAGRAMS: u32 = 1_000_000;
const MARGIN_KIB: u64 = 2 << 10;
/// Seen on the way to the victim: sender, payload.
type Seen = (Ipv4Addr, Vec<u8>);

#[test]
fn a_million_hostile_datagrams_cost_neither_memory_nor_sessions() {
    let numbers = Numbers::default();
    let ca = Ca::new("Overlay CA");
    let mut scene =
        Scene::with("hostile", (0..=2).map(|number| Site::new(&ca, number)), |topology| {
            settle(topology, 0, "hub-wan");
            settle(topology, 1, "a-wan");
        });
    let recording = scene.record();
    scene.start_all();
    scene.all_registered();
    scene.direct("host-a", "192.168.2.10");
    let seen = recording.stop(&[]);

    let nodes = ["hub", "spoke-a", "spoke-b"];
    let sas = || nodes.map(|node| spis(&scene.ask(node, "show ike sa")));
    let before = (sas(), nodes.map(|node| scene.memory_kib(node, "VmRSS")));
    let mut ping = scene.ping("host-a", "192.168.2.10", None, 50);
    go_direct(&mut ping);

    std::thread::scope(|scope| {
        for (number, victim) in [(0, "hub"), (1, "spoke-a")] {
            let IpAddr::V4(address) = numbers.underlay(number, 10).addr() else { unreachable!() };
            let (scene, seen) = (&scene, &seen.packets);
            scope.spawn(move || storm(scene, number, victim, address, seen));
        }
    });

    let after = (sas(), nodes.map(|node| scene.memory_kib(node, "VmRSS")));
    println!("resident memory in KiB: {:?} before, {:?} after", before.1, after.1);
    assert_eq!(before.0, after.0, "the same sessions");
    for (node, (before, after)) in nodes.iter().zip(before.1.into_iter().zip(after.1)) {
        assert!(after <= before + MARGIN_KIB, "{node}: {before} KiB, then {after} KiB");
        assert!(!scene.log(node).contains("session down"), "{node}");
    }
    go_direct(&mut ping);
    let replies = ping.stop();
    println!("{} pings meanwhile, {} lost", replies.sent(), replies.lost());
    let hub: Dmvpn = scene.ask("hub", "show dmvpn");
    assert!([1, 2].iter().all(|&spoke| is_up(&hub, numbers.tunnel(spoke).addr())));
    let replies = scene.ping("host-a", "192.168.2.10", Some(50), 10).finish();
    assert_eq!((replies.lost(), replies.over_routers_from(2)), (0, Some(1)));
}

fn spis(sas: &IkeSas) -> Vec<(SocketAddr, Spi, Spi)> {
    let established = sas.sas.iter().filter(|sa| sa.state == control::IkeState::Established);
    established.map(|sa| (sa.remote, sa.initiator_spi, sa.responder_spi)).collect()
}

/// Lets the stranger send, not faster than the victim reads.
fn storm(scene: &Scene, number: u8, victim: &str, address: Ipv4Addr, seen: &[Recorded]) {
    let helper = "hostile::helper_that_sends";
    let knows = on_the_way(seen, address);
    let mut stranger = Stranger::start(scene, (number, victim), helper, &knows);
    let before = read_by(scene, victim);
    for _ in 0..DATAGRAMS / BURST {
        stranger.paced_burst();
    }
    stranger.end();
    let read = read_by(scene, victim) - before;
    println!("{victim} read {read} datagrams, those of its peers among them");
    assert!(read >= u64::from(DATAGRAMS) / 100 * 95, "{victim}: most were lost on the way");
}

/// What was seen on the way to the victim: sender, length, payload.
fn on_the_way(seen: &[Recorded], victim: Ipv4Addr) -> Vec<u8> {
    let mut bytes = Vec::new();
    for Recorded { bytes: frame, .. } in seen {
        // Ethernet, IPv4 without options, UDP.
        if frame.get(12..15) == Some(&[8, 0, 0x45])
            && frame.get(23) == Some(&17)
            && frame.get(30..34) == Some(&victim.octets())
        {
            let length = u16::from_be_bytes([frame[38], frame[39]]).saturating_sub(8);
            let payload = &frame[42..][..length.into()];
            bytes.extend(&frame[26..30]);
            bytes.extend(length.to_be_bytes());
            bytes.extend(payload);
        }
    }
    bytes
}

fn read_seen(mut rest: &[u8]) -> Vec<Seen> {
    let mut seen = Vec::new();
    while let [a, b, c, d, high, low, more @ ..] = rest {
        let (payload, after) = more.split_at(u16::from_be_bytes([*high, *low]).into());
        seen.push((Ipv4Addr::new(*a, *b, *c, *d), payload.to_vec()));
        rest = after;
    }
    seen
}

/// Not a test by itself: what the stranger does.
#[test]
fn helper_that_sends() {
    obey(|Told { own, knows, .. }| {
        let seen = read_seen(&knows);
        let is_esp = |payload: &[u8]| payload.len() > 64 && payload[1..4] != [0; 3];
        assert!(seen.iter().any(|(_, payload)| is_esp(payload)));
        move |rng| {
            let (from, payload) = hostile(rng, own, &seen);
            let port = if rng.next_u32().is_multiple_of(2) { PORT } else { rng.next_u32() as u16 };
            ((from, port).into(), payload)
        }
    });
}

/// The next datagram and whom it pretends to be from.
fn hostile(rng: &mut ChaCha8Rng, own: Ipv4Addr, seen: &[Seen]) -> Seen {
    let pick = |rng: &mut ChaCha8Rng| seen[rng.next_u32() as usize % seen.len()].clone();
    let random = |rng: &mut ChaCha8Rng, length: usize| {
        let mut bytes = vec![0; length];
        rng.fill_bytes(&mut bytes);
        bytes
    };
    let length = rng.next_u32() as usize % 1400;
    match rng.next_u32() % 10 {
        0 => (own, random(rng, length)),
        // As WireGuard's four messages, with the right lengths.
        1 => {
            let (kind, length) =
                [(1, 148), (2, 92), (3, 64), (4, 32 + length / 16 * 16)][length % 4];
            (own, [&[kind, 0, 0, 0][..], &random(rng, length - 4)].concat())
        }
        // As IKEv2: marker, random SPIs, a first payload, version 2, some exchange, true length.
        2 => {
            let mut message = random(rng, 28 + length);
            message[16..18].copy_from_slice(&[33 + (length % 16) as u8, 0x20]);
            message[18] = 34 + (length % 5) as u8;
            let total = message.len() as u32;
            message[24..28].copy_from_slice(&total.to_be_bytes());
            (own, [&[0; 4][..], &message].concat())
        }
        // As GRE with a key, IPv4 or NHRP inside.
        3 => {
            let inside = [[8, 0], [0x20, 1]][length % 2];
            let header = [&[0x20, 0], &inside[..], &[0, 0, 0, 42]].concat();
            (own, [header, random(rng, length)].concat())
        }
        // What was seen, again, as its sender or as somebody else.
        4 => pick(rng),
        5 => (own, pick(rng).1),
        // Cut short.
        6 => {
            let (from, mut payload) = pick(rng);
            payload.truncate(length % (payload.len() + 1));
            (from, payload)
        }
        // One bit is another one.
        7 => {
            let (from, mut payload) = pick(rng);
            if let Some(byte) = payload.get_mut(length) {
                *byte ^= 1 << (length % 8);
            }
            (from, payload)
        }
        // A first message of IKE that is good but for its SPI, as if somebody began anew.
        kind => {
            let (from, mut payload) = pick(rng);
            if payload.starts_with(&[0; 4]) && payload.len() > 32 {
                rng.fill_bytes(&mut payload[4..12]);
            }
            (if kind == 8 { from } else { own }, payload)
        }
    }
}
