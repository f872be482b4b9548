//! Nothing is allocated for a packet in the steady state, counted by the allocator: of the whole process, all threads.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::alloc::System;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Instant;

use dataplane::userspace::parts::{Esp, Stream, WireGuard};
use overlay::desired::EspCipher;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use support::{Internet, Node, esp_pair, pair, star};
use tokio::sync::Mutex;

#[global_allocator]
static HEAP: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// The allocator counts for all tests of this process.
static ALONE: Mutex<()> = Mutex::const_new(());

const BATCHES: usize = 300;

/// Calls of the allocator in so many batches, after one that may need some.
fn calls(mut batch: impl FnMut()) -> usize {
    batch();
    let region = Region::new(HEAP);
    for _ in 0..BATCHES {
        batch();
    }
    let change = region.change();
    change.allocations + change.reallocations
}

#[test]
fn parts_of_the_packet_path_allocate_nothing() {
    let _alone = ALONE.blocking_lock();
    let esp = Esp::new().unwrap();
    for len in [92, 1_400] {
        let [mut packet, mut out] = [esp.buffer(len), esp.buffer(len)];
        let calls = calls(|| {
            for _ in 0..16 {
                let sealed = esp.seal(&mut packet, len).unwrap();
                assert_eq!(esp.open(&packet[..sealed], &mut out), Some(len));
            }
        });
        assert_eq!(calls, 0, "ESP, {len} bytes");

        let mut wireguard = WireGuard::new(len).unwrap();
        let calls = self::calls(|| {
            for _ in 0..16 {
                assert!(wireguard.seal(len));
                let sent = wireguard.receive().unwrap();
                assert_eq!(wireguard.open(sent), Some(len));
            }
        });
        assert_eq!(calls, 0, "WireGuard, {len} bytes");
    }
    let mut stream = Stream::new(48);
    let calls = calls(|| {
        assert_eq!(stream.cut(), Some(48));
        assert_eq!(stream.join(), Some((1, stream.bytes())));
    });
    assert_eq!(calls, 0, "cutting and joining");
}

/// However small the packets were that came before.
#[test]
fn what_joins_segments_has_room_for_the_largest_packet() {
    let _alone = ALONE.blocking_lock();
    let mut stream = Stream::new(48);
    assert_eq!(stream.cut(), Some(48));
    let region = Region::new(HEAP);
    assert_eq!(stream.join(), Some((1, stream.bytes())));
    let change = region.change();
    assert_eq!((change.allocations, change.reallocations), (0, 0));
}

/// Bytes of a stream before anything is counted, and while it is.
const FIRST: usize = 4 << 20;
const COUNTED: usize = 16 << 20;

/// Carries a TCP stream, in large pieces, and then datagrams; the calls of the allocator
/// meanwhile.
fn calls_for_traffic(from: &Node, to: &Node) -> usize {
    let address = format!("172.16.0.{}:7000", to.n);
    let listener = to.namespace.run(|| TcpListener::bind(&address).unwrap());
    let mut sender = from.namespace.run(|| TcpStream::connect(&address).unwrap());
    let (mut receiver, _) = listener.accept().unwrap();
    let there = to.namespace.udp(&address);
    let here = from.namespace.udp(&format!("172.16.0.{}:0", from.n));
    here.connect(&address).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut buffer = vec![0; 256 << 10];
            for part in [FIRST, COUNTED] {
                let mut left = part;
                while left > 0 {
                    let most = buffer.len().min(left);
                    left -= receiver.read(&mut buffer[..most]).unwrap();
                }
                receiver.write_all(b".").unwrap();
            }
        });
        let data = vec![7; 256 << 10];
        let mut region = Region::new(HEAP);
        for part in [FIRST, COUNTED] {
            region.reset();
            for _ in 0..part / data.len() {
                sender.write_all(&data).unwrap();
            }
            sender.read_exact(&mut [0]).unwrap();
            for len in [64, 1_200].into_iter().cycle().take(500) {
                here.send(&data[..len]).unwrap();
                assert_eq!(there.recv(&mut [0; 1_500]).unwrap(), len);
            }
        }
        let change = region.change();
        change.allocations + change.reallocations
    })
}

#[tokio::test]
async fn a_data_plane_allocates_nothing_for_a_packet() {
    let _alone = ALONE.lock().await;
    let internet = Internet::new();
    let (a, b, _) = esp_pair(&internet, EspCipher::Aes256Gcm16).await;
    assert_eq!(calls_for_traffic(&a, &b), 0, "ESP");
    drop((a, b));
    let internet = Internet::new();
    let (a, b, _) = pair(&internet).await;
    assert_eq!(calls_for_traffic(&a, &b), 0, "WireGuard");
}

/// A hub tells the control plane of a flow that takes a detour, every two seconds; some calls each
/// for two directions.
#[tokio::test]
async fn a_hub_allocates_nothing_for_a_packet_that_it_forwards() {
    let _alone = ALONE.lock().await;
    let internet = Internet::new();
    let [hub, b, c] = star(&internet, |_, _| {}).await;
    let begun = Instant::now();
    let calls = calls_for_traffic(&b, &c);
    let redirects = 2 * (begun.elapsed().as_secs() as usize / 2 + 1);
    assert!(calls <= 3 * redirects, "{calls} calls, {redirects} redirects");
    drop(hub);
}
