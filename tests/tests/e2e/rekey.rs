//! New keys for everything every few seconds, under a TCP stream and a ping.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use overlay_tests::e2e::{Ca, Numbers, Scene, Site, dataplane, go_direct, go_on, good};

const TIME: Duration = Duration::from_secs(60);
const PORT: u16 = 5001;
const INTERVAL_MS: u32 = 1;
/// To record everything would slow it all down: the router in the middle counts.
const BARE_GRE: &str = "add table inet seen; \
    add chain inet seen bare { type filter hook forward priority 0; }; \
    add rule inet seen bare meta l4proto gre counter";

/// Bytes of the stream for every ten pings: as much as leaves the ping its share of the processor,
/// of which the machine with the kernel data plane has little.
fn burst() -> usize {
    if dataplane() == "kernel" { 16 << 10 } else { 128 << 10 }
}

/// A socket in the network of a node.
fn on<T: Send>(scene: &Scene, node: &str, make: impl FnOnce() -> T + Send) -> T {
    let inhabitant = good("start a process", scene.node(node).start(["sleep", "1000"]));
    let there = good("open", File::open(format!("/proc/{}/ns/net", inhabitant.pid())));
    std::thread::scope(|scope| {
        let made = scope.spawn(move || {
            good("enter a network", setns(there, CloneFlags::CLONE_NEWNET));
            make()
        });
        made.join().unwrap_or_else(|_| panic!("no socket on {node}"))
    })
}

pub(crate) fn nothing_is_lost(name: &str, mode: &str) {
    let ca = Ca::new("Overlay CA");
    let more = format!("mode: {mode}, rekey-interval: 5");
    let sites = (0..=2).map(|number| Site::new(&ca, number).secure(&more));
    let mut scene = Scene::new(name, sites);
    good("count", scene.node("internet").run(["nft", BARE_GRE]));
    scene.start_all();
    scene.all_registered();
    let to = Numbers::default().lan(2, 10).addr();
    let mut ping = scene.ping("host-a", &to.to_string(), None, INTERVAL_MS);
    go_direct(&mut ping);
    let begun = ping.replies().last();

    let listener = on(&scene, "host-b", || good("listen", TcpListener::bind((to, PORT))));
    let mut stream = on(&scene, "host-a", || good("connect", TcpStream::connect((to, PORT))));
    let (mut arriving, _) = good("accept", listener.accept());
    let reader = std::thread::spawn(move || {
        let (mut buffer, mut count) = (vec![0; 1 << 16], 0);
        loop {
            match good("read", arriving.read(&mut buffer)) {
                0 => return count,
                length => count += length,
            }
        }
    });
    let (end, chunk, mut sent) = (Instant::now() + TIME, vec![0x5a; burst()], 0);
    while Instant::now() < end {
        go_on(&mut ping, 10);
        good("write", stream.write_all(&chunk));
        sent += chunk.len();
    }
    drop(stream);
    assert_eq!(reader.join().ok(), Some(sent), "bytes of the stream");

    let replies = ping.stop();
    let keys = scene.log("spoke-a").matches("new keys with").count();
    eprintln!(
        "{} pings, {} lost; {sent} bytes; new keys {keys} times",
        replies.sent(),
        replies.lost()
    );
    if replies.lost() > 0 {
        eprintln!("lost: {:?}; direct before {begun}", replies.missing());
        for node in ["hub", "spoke-a", "spoke-b"] {
            let counted =
                ["sh", "-c", "grep -v '[[:space:]]0$' /proc/net/xfrm_stat; nft list ruleset"];
            eprintln!("{node}: {}", scene.node(node).run(counted).unwrap_or_default());
        }
    }
    assert_eq!(replies.lost(), 0);
    assert_eq!(replies.between(begun..=replies.last()).over_routers_from(2), Some(1), "direct");
    // With two peers, each at most every 5 s.
    assert!(keys >= 20, "new keys {keys} times");
    let bare = scene.run("internet", "nft list table inet seen");
    assert!(bare.contains("gre counter packets 0 "), "in clear: {bare}");
}

#[test]
fn esp_keys_every_five_seconds() {
    nothing_is_lost("rekey-esp", "esp");
}
