//! First messages of key exchanges from addresses that do not exist, at a real hub, while real spokes
//! come in. `FLOOD=1000000` lets a million of them come; the optimised program is taken where it has
//! been built (`cargo build --release -p nhrpd`).

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use control::Traffic;
use ike::{Algorithms, Config, Engine, Output};
use overlay_tests::e2e::ipsec::Credentials;
use overlay_tests::e2e::{Ca, Scene, Site, is_registered, release};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use crate::stranger::{BURST, PORT, Stranger, Told, obey, settle};

const DATAGRAMS: u32 = 200_000;
/// What the hub may hold beyond what it held before and three spokes: 256 half-open key exchanges at
/// most, of 8 KiB, and what the allocator makes of it.
const MARGIN_KIB: u64 = 4 << 10;

#[test]
fn a_flood_of_forged_key_exchanges_keeps_nobody_out() {
    let datagrams = std::env::var("FLOOD").map_or(DATAGRAMS, |number| number.parse().unwrap());
    let ca = Ca::new("Overlay CA");
    let sites: Vec<Site> =
        (0..=3).map(|number| Site::new(&ca, number).set("log", "info")).collect();
    let init = first_message(&ca, sites[0].nbma.addr());
    let mut scene = Scene::with("flood", sites, |topology| settle(topology, 0, "hub-wan"));
    let program = release().map_or("nhrpd".into(), |path| path.to_string_lossy().into_owned());
    println!("hub: {program}");
    scene.start_program("hub", &program);
    scene.when("hub", "show nhrp traffic", "the hub answers", |_: &Traffic| true);

    let before = Spent::of(&scene);
    let memory = scene.memory_kib("hub", "VmRSS");
    for spoke in ["spoke-a", "spoke-b", "spoke-c"] {
        scene.start(spoke);
    }
    let mut stranger = Stranger::start(&scene, (0, "hub"), "flood::helper_that_floods", &init);
    let (mut sent, mut joined, mut most) = (0, None, memory);
    let begun = Instant::now();
    while sent < datagrams || joined.is_none() {
        assert!(begun.elapsed() < Duration::from_secs(120), "no spoke came in");
        for _ in 0..20 {
            stranger.paced_burst();
        }
        sent += 20 * BURST;
        most = most.max(scene.memory_kib("hub", "VmRSS"));
        let all = ["spoke-a", "spoke-b", "spoke-c"]
            .iter()
            .all(|spoke| is_registered(&scene.ask(spoke, "show dmvpn")));
        if all && joined.is_none() {
            joined = Some(());
            println!("three spokes are registered after {sent}, {:?}", begun.elapsed());
        }
    }
    stranger.end();
    let took = begun.elapsed();
    let spent = Spent::of(&scene).since(&before);
    let refused = spent.asked + spent.dropped;
    println!(
        "{sent} forged IKE_SA_INITs in {:.1} s: {} asked for a cookie, {} dropped unread; {:.1} µs of \
         the hub's CPU for each",
        took.as_secs_f64(),
        spent.asked,
        spent.dropped,
        spent.cpu.as_secs_f64() * 1e6 / refused as f64,
    );
    println!("the hub's resident memory: {memory} KiB before, {most} KiB at most");
    assert!(refused >= u64::from(sent) / 100 * 95, "most were lost on the way");
    assert!(most <= memory + MARGIN_KIB);
}

/// What the hub has spent, and on what.
struct Spent {
    cpu: Duration,
    /// Asked for a cookie.
    asked: u64,
    /// Not even read by IKE, because there were too many.
    dropped: u64,
}

impl Spent {
    fn of(scene: &Scene) -> Self {
        let traffic: Traffic = scene.ask("hub", "show nhrp traffic");
        let counted = |name: &str| {
            let counters = traffic.interfaces.iter().flat_map(|interface| &interface.counters);
            counters.filter(|counter| counter.name == name).map(|counter| counter.value).sum()
        };
        Self {
            cpu: scene.cpu("hub"),
            asked: counted("IKE dropped: cookie"),
            dropped: counted("data plane dropped: ike-rate"),
        }
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            cpu: self.cpu - before.cpu,
            asked: self.asked - before.asked,
            dropped: self.dropped - before.dropped,
        }
    }
}

/// The first message of one of our own nodes, as it is on the wire.
fn first_message(ca: &Ca, hub: std::net::IpAddr) -> Vec<u8> {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let config = Config { algorithms: Algorithms::default(), ..Config::default() };
    let mut engine = Engine::new(config);
    let credentials = Credentials::new(&ca.issue(&Site::request(Default::default(), 9)));
    engine.initiate(Instant::now(), SocketAddr::new(hub, PORT), &credentials, &mut rng);
    let Some(Output::Transmit { datagram, .. }) = engine.poll_output() else { unreachable!() };
    [&[0; 4][..], &datagram].concat()
}

/// Not a test by itself: what the stranger does.
#[test]
fn helper_that_floods() {
    obey(|Told { knows: init, .. }| {
        move |rng| {
            let mut message = init.clone();
            rng.fill_bytes(&mut message[4..12]);
            // Nowhere near the networks of the lab.
            let source = Ipv4Addr::from(0x0b00_0000 | rng.next_u32() & 0x00ff_ffff);
            ((source, rng.next_u32() as u16 | 1).into(), message)
        }
    });
}
