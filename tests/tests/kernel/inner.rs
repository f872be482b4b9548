//! What is inside the tunnel, of either family: neighbours, routes, sizes and sources.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};

use nix::sys::socket::{getsockopt, sockopt::TcpMaxSeg};
use overlay_tests::e2e::{Ca, Numbers, Scene, Site, good, on_network_of};

const MTU: usize = 1430;
/// TCP's header, and its timestamps.
const TCP: usize = 20 + 12;

fn direct(name: &str, numbers: Numbers) -> Scene {
    let ca = Ca::new("Overlay CA");
    let mut scene = Scene::new(name, (0..=2).map(|number| Site::numbered(&ca, number, numbers)));
    scene.start_all();
    scene.all_registered();
    scene.direct("host-a", &numbers.lan(2, 10).addr().to_string());
    scene
}

/// Who listens knows of nothing but Ethernet, and both ends agree on segments that fit.
fn stream(scene: &Scene, numbers: Numbers) {
    let at = SocketAddr::new(numbers.lan(2, 10).addr(), 5001);
    let listener = on_network_of(scene.node("host-b"), || good("listen", TcpListener::bind(at)));
    let mut from = on_network_of(scene.node("host-a"), || good("connect", TcpStream::connect(at)));
    let (mut to, _) = good("accept", listener.accept());
    let header = if at.is_ipv6() { 40 } else { 20 };
    for end in [&from, &to] {
        let segment = good("ask", getsockopt(end, TcpMaxSeg)) as usize;
        assert_eq!(segment, MTU - header - TCP);
    }
    let sent = vec![7; 100_000];
    let sender = std::thread::spawn(move || from.write_all(&sent).map(|()| sent));
    let mut received = Vec::new();
    good("receive", to.read_to_end(&mut received));
    assert_eq!(received, good("send", sender.join().unwrap()));
}

/// Whether segments that come out of the tunnel are merged again, as `ethtool -k dmvpn0` says.
fn merges(scene: &Scene, node: &str) -> bool {
    const ASK: &str = "import array, fcntl, socket, struct\n\
        SIOCETHTOOL, ETHTOOL_GGRO = 0x8946, 0x2b\n\
        value = array.array('I', [ETHTOOL_GGRO, 0])\n\
        request = struct.pack('16sP16x', b'dmvpn0', value.buffer_info()[0])\n\
        fcntl.ioctl(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), SIOCETHTOOL, request)\n\
        print(value[1])";
    let told = good("ask", scene.node(node).run(["python3", "-c", ASK]));
    told.trim() != "0"
}

/// The hub hears a spoke from its own network, and not from that of another one.
fn sources(scene: &Scene, numbers: Numbers) {
    let hub = numbers.tunnel(0).addr();
    scene.run("hub", "nft add table inet watch");
    scene.run("hub", "nft add chain inet watch in { type filter hook input priority 0 ; }");
    let heard = |from: IpAddr| {
        let family = if from.is_ipv6() { "ip6" } else { "ip" };
        scene.run("hub", "nft flush chain inet watch in");
        scene.run("hub", &format!("nft add rule inet watch in {family} saddr {from} counter"));
        scene.run("spoke-a", &format!("ip addr add {from} dev lo"));
        // Nobody answers the other one's.
        let ping = format!("ping -c 5 -i 0.05 -W 1 -I {from} {hub}");
        let _ = scene.node("spoke-a").run(ping.split(' '));
        scene.run("spoke-a", &format!("ip addr del {from} dev lo"));
        let rules = scene.run("hub", "nft list chain inet watch in");
        let count = rules.split("packets ").nth(1).and_then(|rest| rest.split(' ').next());
        count.unwrap_or_else(|| panic!("{rules}")).parse::<u32>().unwrap()
    };
    assert_eq!(heard(numbers.lan(1, 77).addr()), 5);
    assert_eq!(heard(numbers.lan(2, 77).addr()), 0);
}

#[test]
fn ipv6_is_carried_as_ipv4_is() {
    let numbers = Numbers { overlay_v6: true, ..Numbers::default() };
    let scene = direct("kernel-inner6", numbers);
    let neighbours = scene.run("spoke-a", "ip -6 neigh show dev dmvpn0");
    for (address, nbma) in [("fd00::1", "198.18.0.10"), ("fd00::3", "198.18.2.10")] {
        let line = format!("{address} lladdr {nbma} extern_learn  PERMANENT");
        let line = line.replace("  ", " ");
        assert!(neighbours.replace("  ", " ").contains(&line), "{neighbours}");
    }
    let routes = scene.run("spoke-a", "ip -6 route show proto 191");
    assert!(routes.contains("fd00:2::/64 via fd00::3 dev dmvpn0"), "{routes}");
    stream(&scene, numbers);
    sources(&scene, numbers);
}

#[test]
fn ipv4_fits_and_comes_from_whom_it_says() {
    let numbers = Numbers::default();
    let scene = direct("kernel-inner4", numbers);
    stream(&scene, numbers);
    assert!(!merges(&scene, "spoke-b"));
    sources(&scene, numbers);
}
