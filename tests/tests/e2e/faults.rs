//! What goes wrong in real networks, put into a lab: the tools name the cause in their first lines.

use overlay_tests::e2e::{CONFIG, Ca, Numbers, Scene, Site, days, until};
use pki::authority::Request;

/// Waits until one of the first `lines` lines of what `overlayctl` says on a node has `words`.
#[track_caller]
fn first_lines(scene: &Scene, node: &str, command: &str, lines: usize, words: &str) -> String {
    let what = format!("`overlayctl {command}` on {node} says `{words}` in {lines} lines");
    let last = std::cell::RefCell::new(String::new());
    let arguments = ["sh", "-c", &format!("overlayctl {command} 2>&1 || true")];
    let page = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        until(&what, || {
            let page = scene.node(node).run(arguments).unwrap_or_default();
            let found = page.lines().take(lines).any(|line| line.contains(words));
            last.replace(page.clone());
            found.then_some(page)
        })
    }));
    let page = page.unwrap_or_else(|_| panic!("{what}; it says:\n{}", last.borrow()));
    println!("── {node}# overlayctl {command}\n{page}");
    page
}

fn issued(ca: &Ca, number: u8, change: impl FnOnce(&mut Request)) -> Site {
    let mut request = Site::request(Numbers::default(), number);
    change(&mut request);
    Site::new(ca, number).identified(ca.issue(&request))
}

#[test]
fn trace_names_what_is_wrong_with_certificates_and_configurations() {
    let (ca, other_ca) = (Ca::new("Overlay CA"), Ca::new("Other CA"));
    let hub = Site::new(&ca, 0).set("nhrp", "{ authentication: right }");
    let right = |site: Site| site.set("nhrp", "{ authentication: right }");

    let mut of_other_ca = other_ca.issue(&Site::request(Numbers::default(), 1));
    of_other_ca.ca = hub.identity.ca.clone();
    let wrong_ca = right(Site::new(&ca, 1).identified(of_other_ca));
    let expired = right(issued(&ca, 2, |request| request.validity = days(5, -2)));
    let usage = right(issued(&ca, 3, |request| request.key_usage = "0x40".parse().ok()));
    let key = right(Site::new(&ca, 4))
        .set("tunnel", "{ interface: dmvpn0, address: 172.16.0.5/24, key: 43 }");
    let password = Site::new(&ca, 5).set("nhrp", "{ authentication: wrong }");
    let nowhere =
        right(Site::new(&ca, 6)).set("nhs", "[{ address: 172.16.0.1, nbma: hub.example.invalid }]");
    let sites = [hub, wrong_ca, expired, usage, key, password, nowhere];
    let mut scene = Scene::new("faults", sites);
    scene.start_all();
    let hub = "trace 172.16.0.1";
    for (node, command, words) in [
        ("spoke-a", hub, "was issued by another CA, \"CN=Other CA\""),
        ("spoke-b", hub, "certificate of \"CN=spoke-b\" expired at"),
        ("spoke-c", hub, "certificate has key usage 0x40 (nonRepudiation); needs"),
        ("spoke-d", hub, "compare `tunnel.key` (here 43) with the server's"),
        ("hub", "trace 172.16.0.5", "sends GRE with key 43: `tunnel.key` differs here and there"),
        ("spoke-e", hub, "authentication failure: another password than there"),
        ("hub", "trace 172.16.0.6", "`nhrp.authentication` differs here and there"),
        ("spoke-f", hub, "hub.example.invalid does not resolve"),
    ] {
        first_lines(&scene, node, command, 1, words);
    }
    let page = first_lines(&scene, "hub", "show dmvpn detail", 1000, "sends GRE with key 43");
    assert!(page.contains("CN=spoke-d"), "{page}");
}

#[test]
fn trace_names_a_tunnel_address_that_another_node_has() {
    let ca = Ca::new("Overlay CA");
    // Without this the second one's certificate would not even let it ask: refusals.rs.
    let hub = Site::new(&ca, 0).set("nhrp", "{ trust: any }");
    let copied =
        Site::new(&ca, 2).set("tunnel", "{ interface: dmvpn0, address: 172.16.0.2/24, key: 42 }");
    let mut scene = Scene::new("twice", [hub, Site::new(&ca, 1), copied]);
    scene.start("hub");
    scene.start("spoke-a");
    scene.registered("spoke-a");
    scene.start("spoke-b");
    let words = "registration of 172.16.0.2/32: unique address already registered";
    first_lines(&scene, "spoke-b", "trace 172.16.0.1", 1, words);
    let words = "may not register 172.16.0.2/32: 172.16.0.2 has it, at 198.18.1.10";
    let page = first_lines(&scene, "hub", "show dmvpn detail", 1000, words);
    assert!(page.contains("198.18.2.10:4500 (CN=spoke-b)"), "{page}");
    let page = first_lines(&scene, "spoke-a", "trace 172.16.0.1", 1, "172.16.0.1 goes straight");
    assert!(page.contains("CN=hub at 198.18.0.10:4500"), "{page}");
}

/// Both may have it: the second takes it over, as a node that was moved while it was down, and the
/// first one is told.
#[test]
fn trace_names_a_tunnel_address_that_two_certificates_allow() {
    let ca = Ca::new("Overlay CA");
    // Registrations are renewed every ten seconds.
    let site = |site: Site| site.set("nhrp", "{ holding-time: 30 }");
    let also = issued(&ca, 2, |request| request.addresses = vec![[172, 16, 0, 2].into()]);
    let also = also.set("tunnel", "{ interface: dmvpn0, address: 172.16.0.2/24, key: 42 }");
    let mut scene = Scene::new("copied", [Site::new(&ca, 0), Site::new(&ca, 1), also].map(site));
    scene.start("hub");
    scene.start("spoke-a");
    scene.registered("spoke-a");
    scene.start("spoke-b");
    scene.registered("spoke-b");
    let words = "registration of 172.16.0.2/32: unique address already registered (code 14): another \
                 node has it; the server knows which";
    first_lines(&scene, "spoke-a", "trace 172.16.0.1", 1, words);
    let words = "may not register 172.16.0.2/32: 172.16.0.2 has it, at 198.18.2.10 (CN=spoke-b)";
    let page = first_lines(&scene, "hub", "show dmvpn detail", 1000, words);
    assert!(page.contains("198.18.1.10:4500 (CN=spoke-a)"), "{page}");
}

#[test]
fn doctor_finds_nothing_where_nothing_is_wrong_and_names_a_name() {
    let ca = Ca::new("Overlay CA");
    let lost = Site::new(&ca, 2).set("nhs", "[{ address: 172.16.0.1, nbma: hub.example.invalid }]");
    let mut scene = Scene::new("doctor", [Site::new(&ca, 0), Site::new(&ca, 1), lost]);
    scene.start("hub");
    scene.dmvpn("hub", "it runs", |_| true);
    let doctor = scene.run("spoke-a", "overlayctl doctor");
    assert!(doctor.starts_with("no finding\n"), "without a daemon: {doctor}");
    scene.start("spoke-a");
    scene.registered("spoke-a");
    for node in ["hub", "spoke-a"] {
        let doctor = scene.run(node, "overlayctl doctor");
        assert!(doctor.starts_with("no finding\n"), "{node}: {doctor}");
        println!("── {node}\n{doctor}");
    }
    // Its own daemon does not run: the name is looked up all the same.
    first_lines(&scene, "spoke-b", "doctor", 2, "hub.example.invalid does not resolve");
    let json = scene.node("spoke-b").run(["sh", "-c", "overlayctl --json doctor; echo exit $?"]);
    let json = json.unwrap();
    assert!(json.contains("\"findings\": 1") && json.ends_with("exit 1\n"), "{json}");
}

#[test]
fn udp_that_is_blocked_on_the_way_or_by_this_machine() {
    let ca = Ca::new("Overlay CA");
    let mut scene =
        Scene::new("blocked", [Site::new(&ca, 0), Site::new(&ca, 1), Site::new(&ca, 2)]);
    scene.run("internet", "nft add table inet onway");
    scene.run(
        "internet",
        "nft add chain inet onway forward { type filter hook forward priority 0 ; }",
    );
    let rule = "nft add rule inet onway forward ip saddr 198.18.1.10 udp dport 4500 drop";
    scene.run("internet", rule);
    scene.run("spoke-b", "nft add table inet filter");
    let chain =
        "nft add chain inet filter input { type filter hook input priority 0 ; policy drop ; }";
    scene.run("spoke-b", chain);
    scene.run("spoke-b", "nft add rule inet filter input icmp type echo-reply accept");
    scene.start_all();
    for spoke in ["spoke-a", "spoke-b"] {
        let words = "no answer from 198.18.0.10:4500 to IKE_SA_INIT, sent 6 times";
        first_lines(&scene, spoke, "trace 172.16.0.1", 1, words);
        let words = "UDP 4500 is blocked on the way to 198.18.0.10, which answers to ping";
        first_lines(&scene, spoke, "doctor", 4, words);
    }
    let words = "nftables chain `inet filter input` drops all by default and accepts no UDP 4500";
    let page = first_lines(&scene, "spoke-b", "doctor", 4, words);
    let mend = page.lines().find_map(|line| line.strip_prefix("   mend: nft ")).unwrap();
    scene.run("spoke-b", &format!("nft {mend}"));
    scene.registered("spoke-b");
    assert!(scene.run("spoke-b", "overlayctl doctor").starts_with("no finding"));
}

#[test]
fn a_path_that_swallows_large_packets() {
    let ca = Ca::new("Overlay CA");
    let mut scene = Scene::new("mtu", [Site::new(&ca, 0), Site::new(&ca, 1)]);
    // The router's link to the hub is smaller, and nobody hears of it.
    scene.run("internet", "ip link set eth0 mtu 1420");
    scene.run("internet", "nft add table ip quiet");
    scene.run("internet", "nft add chain ip quiet output { type filter hook output priority 0 ; }");
    scene.run("internet", "nft add rule ip quiet output icmp type destination-unreachable drop");
    scene.start_all();
    scene.registered("spoke-a");
    let ping = |size: &str| {
        let argv = ["ping", "-c", "1", "-W", "1", "-M", "do", "-s", size, "172.16.0.1"];
        scene.node("spoke-a").run(argv).is_ok()
    };
    assert!(ping("1000") && !ping("1380"), "only large packets vanish");
    let words = "packets of 1500 bytes get lost on the way to 198.18.0.10:4500, those \
                 of 1420 pass";
    let page = first_lines(&scene, "spoke-a", "doctor", 2, words);
    assert!(page.contains("mend: set `tunnel: { mtu: 1332 }` on all nodes"), "{page}");
    // What it advises holds.
    assert!(ping("1304"), "1332 bytes with their headers");
}

/// libfaketime gives one daemon another time of day; its monotonic clock, the tools and everything
/// else on the machine run as before.
#[test]
fn a_clock_a_day_behind() {
    let ca = Ca::new("Overlay CA");
    let hub = issued(&ca, 0, |request| request.validity = days(0, 50));
    let mut scene = Scene::new("clock", [hub, Site::new(&ca, 1)]);
    scene.start("hub");
    let script = format!(
        "LD_PRELOAD=$(echo /usr/lib/*/faketime/libfaketime.so.1) FAKETIME=-1d \
         FAKETIME_DONT_FAKE_MONOTONIC=1 exec nhrpd --config {CONFIG}"
    );
    let daemon = scene.node("spoke-a").start(["sh", "-c", &script]).unwrap();
    scene.daemons.insert("spoke-a".into(), daemon);
    let words = "in 23 hours; compare the clocks of this node and of the one that issued it";
    first_lines(&scene, "spoke-a", "trace 172.16.0.1", 1, words);
    let page = first_lines(&scene, "spoke-a", "doctor", 4, words);
    assert!(page.contains("clock: wrong here or at 198.18.0.10:4500"), "{page}");
    first_lines(&scene, "hub", "show dmvpn detail", 1000, words);
}
