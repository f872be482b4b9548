//! TCP streams. Their segments go through ESP together, and every one arrives, also while one daemon after
//! the other is killed and started again with a fast ping beside it.
//!
//! There segments are counted where they leave and where they arrive. Those that are sent again would tell
//! nothing: on a busy machine TCP does that without a loss, whoever is killed. Window and rate are
//! bounded so that no queue on the way overflows.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use overlay_tests::e2e::{Numbers, Scene, go_on, until};

const ROUTERS: [&str; 3] = ["hub", "spoke-a", "spoke-b"];

/// Of the connections at one end.
struct Counted {
    sent: u64,
    received: u64,
    again: u64,
    /// Octets that are not acknowledged yet.
    waiting: u64,
}

impl Counted {
    fn at(scene: &Scene, host: &str, end: &str) -> Self {
        let told = scene.run(host, &format!("ss -tinHO {end} = :5201"));
        let sum = |name: &str| {
            let values = told.split_whitespace().filter_map(|word| word.strip_prefix(name));
            values.filter_map(|value| value.rsplit('/').next()?.parse::<u64>().ok()).sum()
        };
        let column = |line: &str| line.split_whitespace().nth(2)?.parse::<u64>().ok();
        Self {
            sent: sum("segs_out:"),
            received: sum("segs_in:"),
            again: sum("retrans:"),
            waiting: told.lines().filter_map(column).sum(),
        }
    }

    fn ends(scene: &Scene) -> [Self; 2] {
        [Self::at(scene, "host-a", "dport"), Self::at(scene, "host-b", "sport")]
    }
}

pub(crate) fn signal(name: &str, process: &str) {
    let sent = Command::new("kill").args([name, process]).status();
    assert!(sent.unwrap().success());
}

/// The one that started the sender in its namespaces stops with it, and has it go on.
pub(crate) fn resume(sender: i32) {
    let status = fs::read_to_string(format!("/proc/{sender}/status")).unwrap();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap();
    for process in [parent.trim(), &sender.to_string()] {
        signal("-CONT", process);
    }
}

/// Stops the sender. How many segments of either direction were sent and have not arrived, when nothing
/// is on its way any more.
fn missing(scene: &Scene, sender: i32) -> [i64; 2] {
    signal("-STOP", &sender.to_string());
    let before = Cell::new(None);
    until("what was written has arrived", || {
        let [a, b] = Counted::ends(scene);
        let missing = [(a.sent, b.received), (b.sent, a.received)]
            .map(|(sent, received)| sent as i64 - received as i64);
        let same = before.replace(Some(missing)) == Some(missing);
        (same && a.waiting + b.waiting == 0).then_some(missing)
    })
}

/// What a router did not pass on, by reason; reasons without any packet are left out.
fn dropped(scene: &Scene, node: &str) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for line in scene.run(node, "cat /proc/net/xfrm_stat").lines() {
        let mut words = line.split_whitespace().map(str::to_owned);
        all.extend(words.next().zip(words.next().and_then(|word| word.parse().ok())));
    }
    let mut chain = "";
    let rules = scene.run(node, "nft list table inet nhrpd-dmvpn0");
    for line in rules.lines() {
        if line.contains("chain ") {
            chain = line.trim();
        } else if line.contains("drop")
            && let Some((_, counted)) = line.split_once("counter packets ")
        {
            let count = counted.split(' ').next().and_then(|count| count.parse().ok());
            all.insert(chain.to_owned(), count.unwrap_or(0));
        }
    }
    // Not of the tunnel device: what is for a daemon that is dead is dropped there.
    for line in scene.run(node, "cat /proc/net/dev").lines().filter(|line| line.contains("eth")) {
        let (device, numbers) = line.split_once(':').unwrap();
        let numbers: Vec<u64> = numbers.split_whitespace().flat_map(str::parse).collect();
        // Errors and drops, of what came in and of what was to go out.
        let lost = [2, 3, 10, 11].map(|place| numbers[place]);
        all.insert(device.trim().to_owned(), lost.iter().sum());
    }
    all.retain(|_, count| *count > 0);
    all
}

/// Packets and octets that came out of a node's tunnel.
fn received(scene: &Scene, node: &str) -> [u64; 2] {
    ["packets", "bytes"].map(|what| {
        let path = format!("/sys/class/net/dmvpn0/statistics/rx_{what}");
        scene.run(node, &format!("cat {path}")).trim().parse().unwrap()
    })
}

#[test]
fn segments_pass_esp_together() {
    // More than the tunnel's MTU, by far.
    const LARGE: u64 = 6000;
    let scene = Scene::up("kernel-segments", 2);
    scene.all_registered();
    let to = Numbers::default().lan(2, 10).addr().to_string();
    scene.direct("host-a", &to);
    let server = scene.node("host-b").start(["iperf3", "-s"]).unwrap();
    until("iperf3 listens", || scene.run("host-b", "ss -Htln").contains(":5201").then_some(()));
    let before = received(&scene, "spoke-b");
    // The sender's end ends both: what is in buffers then, of which -w leaves little, does not arrive.
    scene.run("host-a", &format!("iperf3 -c {to} -w 128K -n 20M"));
    let after = received(&scene, "spoke-b");
    drop(server);
    let [packets, octets] = [0, 1].map(|at| after[at] - before[at]);
    println!("{octets} octets in {packets} packets");
    assert!(octets > 19 << 20, "{octets} octets");
    assert!(octets / packets > LARGE, "{octets} octets in {packets} packets");
}

#[test]
fn killed_daemons_cost_a_stream_no_segment() {
    let mut scene = Scene::up("kernel-stream", 2);
    scene.all_registered();
    let to = Numbers::default().lan(2, 10).addr().to_string();
    scene.direct("host-a", &to);
    let before = ROUTERS.map(|node| dropped(&scene, node));

    let server = scene.node("host-b").start(["iperf3", "-s"]).unwrap();
    until("iperf3 listens", || scene.run("host-b", "ss -Htln").contains(":5201").then_some(()));
    let load = ["iperf3", "-c", &to, "-w", "128K", "-l", "8K", "--fq-rate", "4M", "-t", "1000"];
    let client = scene.node("host-a").start(load).unwrap();
    let mut ping = scene.ping("host-a", &to, None, 5);
    go_on(&mut ping, 100);
    // Of the handshake one end counts more.
    let handshake = missing(&scene, client.pid());
    let [first, _] = Counted::ends(&scene);
    resume(client.pid());
    for node in ROUTERS {
        scene.kill(node);
        let [_, before] = Counted::ends(&scene);
        go_on(&mut ping, 50);
        let [_, now] = Counted::ends(&scene);
        assert!(now.received > before.received, "it goes on while the daemon of {node} is dead");
        scene.start(node);
        scene.all_registered();
        go_on(&mut ping, 100);
    }
    let replies = ping.stop();
    let missing = missing(&scene, client.pid());
    let [last, _] = Counted::ends(&scene);
    let [sent, again] = [last.sent - first.sent, last.again - first.again];
    println!("{sent} segments, {again} of them again; {} pings", replies.sent());
    resume(client.pid());
    client.kill().unwrap();
    drop(server);
    let after = ROUTERS.map(|node| dropped(&scene, node));
    println!("dropped: {before:?}, then {after:?}");
    assert_eq!(missing, handshake, "of the stream, and of its answers");
    assert_eq!(after, before, "dropped on the way");
    assert_eq!(replies.lost(), 0, "of {}: {:?}", replies.sent(), replies.missing());
}
