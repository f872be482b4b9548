//! Several threads for each direction.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};

use overlay::desired::{EspCipher, Event, Peer, PeerId};
use quinn_udp::{Transmit, UdpSocketState};
use support::{Internet, Node, esp_keys, join_with, keys, star};

const FLOWS: u32 = 32;

/// Two nodes with four threads for each direction.
async fn wide_pair(internet: &Internet, esp: bool) -> (Node, Node, PeerId) {
    let mut a = internet.node(1, |config| config.workers = Some(4)).await;
    let mut b = internet.node(2, |config| config.workers = Some(4)).await;
    let keys = if esp { esp_keys(EspCipher::Aes256Gcm16, 77) } else { keys(1) };
    let id = join_with(&mut a, &mut b, 1, keys);
    for node in [&mut a, &mut b] {
        node.route("172.16.0.0/24", id);
        node.apply();
    }
    assert_eq!(a.ping("172.16.0.2", 1), 1);
    (a, b, id)
}

/// Sends `each` numbered datagrams in every flow, one flow after the other in turn; all must come,
/// each flow in its order.
fn flows_keep_their_order(from: &Node, to: &Node, each: u32) {
    // As many are under way as no queue refuses.
    const WINDOW: u32 = 128;
    let address = format!("172.16.0.{}:5000", to.n);
    let receiver = to.namespace.udp(&address);
    let own = format!("172.16.0.{}:0", from.n);
    let senders: Vec<UdpSocket> = (0..FLOWS).map(|_| from.namespace.udp(&own)).collect();
    let arrived = AtomicU32::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut sent = 0;
            for n in 0..each {
                for sender in &senders {
                    while sent > arrived.load(SeqCst).saturating_add(WINDOW) {
                        std::thread::yield_now();
                    }
                    sender.send_to(&n.to_be_bytes(), &address).unwrap();
                    sent += 1;
                }
            }
        });
        let mut next = BTreeMap::new();
        let mut buffer = [0; 4];
        for _ in 0..each * FLOWS {
            let received = receiver.recv_from(&mut buffer);
            arrived.fetch_add(1, SeqCst);
            let Ok((_, flow)) = received else {
                arrived.store(u32::MAX, SeqCst);
                panic!("lost: {next:?}");
            };
            let expected: &mut u32 = next.entry(flow).or_default();
            assert_eq!(u32::from_be_bytes(buffer), *expected, "{flow}");
            *expected += 1;
        }
    });
}

#[tokio::test]
async fn every_flow_keeps_its_order_through_four_threads() {
    for esp in [true, false] {
        let internet = Internet::new();
        let (a, b, _) = wide_pair(&internet, esp).await;
        flows_keep_their_order(&a, &b, 500);
        flows_keep_their_order(&b, &a, 500);
    }
}

#[tokio::test]
async fn a_hub_with_four_threads_forwards_every_flow_in_its_order() {
    let internet = Internet::new();
    let [hub, b, c] = star(&internet, |_, config| config.workers = Some(4)).await;
    std::thread::scope(|scope| {
        scope.spawn(|| flows_keep_their_order(&b, &c, 300));
        scope.spawn(|| flows_keep_their_order(&c, &hub, 300));
        flows_keep_their_order(&hub, &b, 300);
    });
}

/// Each address is another sender to the kernel, and comes to another thread.
#[tokio::test]
async fn a_peer_is_followed_from_thread_to_thread() {
    for esp in [true, false] {
        let internet = Internet::new();
        let (a, mut b, id) = wide_pair(&internet, esp).await;
        for host in 70..78 {
            a.namespace.ip("addr flush dev eth0");
            a.namespace.ip(&format!("addr add 10.9.1.{host}/24 dev eth0"));
            a.namespace.ip("route replace default via 10.9.1.1");
            a.plane.set_underlay(format!("10.9.1.{host}").parse().ok(), 1500).await;
            assert_eq!(a.ping("172.16.0.2", 10), 10);
            assert_eq!(b.ping("172.16.0.1", 10), 10);
            let endpoint = format!("10.9.1.{host}:4500").parse().unwrap();
            b.wait(|event| (*event == Event::Moved { peer: id, endpoint }).then_some(())).await;
        }
        // One for each move: what comes late does not undo it.
        while let Ok(event) = b.events.try_recv() {
            b.seen.push(event);
        }
        let again = b.seen.iter().filter(|event| matches!(event, Event::Moved { .. })).count();
        assert_eq!(again, 0, "{:?}", b.seen);
    }
}

/// CPU time of the packet threads, ns, by their names.
fn packet_threads() -> BTreeMap<String, u64> {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let threads = tasks.filter_map(|task| {
        let task = task.unwrap().path();
        // A thread may end meanwhile.
        let name = fs::read_to_string(task.join("comm")).ok()?.trim().to_owned();
        let time = fs::read_to_string(task.join("schedstat")).ok()?;
        let time = time.split_whitespace().next()?.parse().ok()?;
        name.starts_with("dp-").then_some((name, time))
    });
    threads.collect()
}

/// One node that flows leave, and that many senders send to.
#[tokio::test]
async fn threads_share_the_work_and_end_with_the_data_plane() {
    let internet = Internet::new();
    let mut a = internet.node(1, |config| config.workers = Some(2)).await;
    let outside = internet.attach(2);
    let id = PeerId(1);
    let [to_outside, _] = esp_keys(EspCipher::Aes256Gcm16, 77);
    a.desired.peers.insert(id, Peer::new("10.9.2.2:4500".parse().unwrap(), to_outside));
    a.route("172.16.0.0/24", id);
    a.apply();
    let names = ["dp-egress-0", "dp-egress-1", "dp-ingress-0", "dp-ingress-1"];
    let before = packet_threads();
    assert_eq!(before.keys().collect::<Vec<_>>(), names);

    let flows: Vec<_> = (0..FLOWS).map(|_| a.namespace.udp("172.16.0.1:0")).collect();
    let strangers: Vec<_> = (0..FLOWS).map(|_| outside.udp("10.9.2.2:0")).collect();
    for _ in 0..500 {
        for (flow, stranger) in flows.iter().zip(&strangers) {
            flow.send_to(&[0; 1000], "172.16.0.3:5000").unwrap();
            stranger.send_to(&[1; 100], "10.9.1.2:4500").unwrap();
        }
    }
    let after = packet_threads();
    for [one, other] in [[0, 1], [2, 3]] {
        let [one, other] = [one, other].map(|n: usize| after[names[n]] - before[names[n]]);
        assert!(one.min(other) * 5 > one.max(other), "{before:?} {after:?}");
    }
    a.plane.stop().await;
    assert_eq!(packet_threads(), BTreeMap::new());
}

/// Datagrams that the sockets on the underlay had no room for.
fn overrun(node: &Node) -> u64 {
    let read = || fs::read_to_string("/proc/thread-self/net/udp").unwrap();
    let text = node.namespace.run(read);
    text.lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().last()?.parse::<u64>().ok())
        .sum()
}

/// Sends what no session knows, dozens in one system call, until it is told to stop.
fn flood(socket: &UdpSocket, stop: &AtomicBool) {
    let state = UdpSocketState::new(socket.into()).unwrap();
    // As large as a ping below: the kernel has room for a small one where a large one did not fit.
    let contents = [0x55; 64 * 20];
    let transmit = Transmit {
        destination: "10.9.1.2:4500".parse().unwrap(),
        ecn: None,
        contents: &contents,
        segment_size: Some(20),
        src_ip: None,
    };
    // Bounded: some ten times of what the pings take.
    for _ in 0..500_000 {
        let _ = state.try_send(socket.into(), &transmit);
        if stop.load(SeqCst) {
            return;
        }
    }
}

/// One sender on the underlay sends more than a node can look at; who comes to another socket is
/// not lost. One in eight senders comes to the same socket.
#[tokio::test]
async fn a_flood_from_the_underlay_leaves_room_for_others() {
    let internet = Internet::new();
    let [hub, b, _c] = star(&internet, |_, config| config.workers = Some(1)).await;
    let outside = internet.attach(4);
    let mut answered = Vec::new();
    let well = |answered: &[u32]| answered.iter().filter(|n| **n >= 49).count();
    while well(&answered) < 4 {
        let source = outside.udp("10.9.4.2:0");
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let stranger = std::thread::spawn(move || flood(&source, &told));
        let before = overrun(&hub);
        while overrun(&hub) == before && !stranger.is_finished() {
            std::thread::yield_now();
        }
        answered.push(b.ping("-W 5 -s 1300 172.16.0.1", 50));
        stop.store(true, SeqCst);
        stranger.join().unwrap();
        assert!(overrun(&hub) > before + 1000, "it was no flood");
        assert!(answered.len() < 12, "{answered:?} of 50");
    }
}
