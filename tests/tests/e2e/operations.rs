//! What an operator does, and does wrong.

use std::path::Path;

use control::{Attribute, Cache, EntryKind, PeerState, Shortcuts};
use ipnet::IpNet;
use overlay_tests::e2e::{CONFIG, Ca, Numbers, Scene, Site, go_direct, go_on, good, is_up, peer};

const HOST_B: &str = "192.168.2.10";

/// Does a cache hold anything of this node?
fn holds(cache: &Cache, site: u8) -> bool {
    let numbers = Numbers::default();
    let own: [IpNet; 2] = [numbers.tunnel(site).addr().into(), numbers.lan(site, 0)];
    cache.entries.iter().any(|entry| own.contains(&entry.prefix))
}

#[test]
fn a_clean_stop_leaves_nothing_and_sigkill_only_the_device() {
    let mut scene = Scene::up("stop", 2);
    scene.all_registered();
    scene.direct("host-a", HOST_B);

    scene.stop("spoke-a");
    let cache: Cache = scene.ask("hub", "show nhrp cache");
    assert!(!holds(&cache, 1), "purged at once: {cache:#?}");
    assert!(holds(&cache, 2));
    let cache: Cache = scene.ask("spoke-b", "show nhrp cache");
    assert!(!holds(&cache, 1), "{cache:#?}");
    let links = |node: &str| scene.run(node, "ip link show");
    assert!(!links("spoke-a").contains("dmvpn0"));
    assert_eq!(scene.run("spoke-a", "ip route show proto 191"), "");

    scene.start("spoke-a");
    scene.all_registered();
    scene.direct("host-a", HOST_B);
    scene.kill("spoke-a");
    // What was routed into the tunnel goes nowhere else.
    let route = scene.run("spoke-a", "ip route get 192.168.2.10 from 192.168.1.10 iif eth1");
    assert!(route.contains("dev dmvpn0"), "{route}");
    scene.start("spoke-a");
    scene.all_registered();
    scene.direct("host-a", HOST_B);
    scene.stop("spoke-a");
    assert!(!scene.run("spoke-a", "ip link show").contains("dmvpn0"));
}

#[test]
fn clear_makes_nodes_learn_anew_under_traffic() {
    let numbers = Numbers::default();
    let scene = Scene::up("clear", 2);
    scene.all_registered();
    let mut ping = scene.ping("host-a", HOST_B, None, 10);
    go_direct(&mut ping);

    let active =
        |all: &Shortcuts| all.shortcuts.iter().any(|shortcut| shortcut.prefix == numbers.lan(2, 0));
    for command in ["clear nhrp shortcuts", "clear nhrp cache"] {
        println!("{}", scene.run("spoke-a", &format!("overlayctl {command}")).trim());
        scene.when("spoke-a", "show nhrp shortcuts", "it is learnt anew", active);
        go_direct(&mut ping);
    }
    for command in ["clear nhrp cache", "clear nhrp peer 172.16.0.2"] {
        println!("{}", scene.run("hub", &format!("overlayctl {command}")).trim());
        scene.all_registered();
        scene.dmvpn("hub", "spoke-a is up again", |all| is_up(all, numbers.tunnel(1).addr()));
        go_on(&mut ping, 20);
    }
    let replies = ping.stop();
    println!("{} pings, {} lost", replies.sent(), replies.lost());
    assert_eq!(replies.lost(), 0);
    let none = scene.node("hub").run(["overlayctl", "clear", "nhrp", "peer", "172.16.0.77"]);
    assert!(none.unwrap_err().to_string().contains("knows no peer 172.16.0.77"));
}

#[test]
fn static_maps_need_no_hub() {
    let numbers = Numbers::default();
    let ca = Ca::new("Overlay CA");
    let site = |number, other: u8| {
        let (address, nbma) = (numbers.tunnel(other).addr(), numbers.underlay(other, 10).addr());
        let map = format!("[{{ address: {address}, nbma: {nbma} }}]");
        Site::new(&ca, number).set("map", &map).set("nhs", "[]").set("routes", "[]")
    };
    let mut scene = Scene::new("map", [site(1, 2), site(2, 1)]);
    scene.start_all();
    let other = numbers.tunnel(2).addr();
    let mut ping = scene.ping("spoke-a", &other.to_string(), None, 20);
    go_on(&mut ping, 10);
    let own = scene.dmvpn("spoke-a", "the other is up", |dmvpn| is_up(dmvpn, other));
    let row = peer(&own, other).unwrap();
    assert_eq!(row.attributes, [Attribute::Static]);
    assert_eq!((row.state, row.identity.as_deref()), (PeerState::Up, Some("CN=spoke-b")));

    scene.run("spoke-a", "overlayctl clear nhrp cache");
    let cache: Cache = scene.ask("spoke-a", "show nhrp cache");
    let kept = cache.entries.iter().find(|entry| entry.prefix == other.into());
    assert_eq!(kept.map(|entry| entry.kind), Some(EntryKind::Static));
    go_on(&mut ping, 10);
}

#[test]
fn what_a_spoke_advertises() {
    let numbers = Numbers::default();
    let ca = Ca::new("Overlay CA");
    let listed = Site::new(&ca, 2).set("advertise", "[192.168.2.0/24, 10.99.0.0/16]");
    let mut scene = Scene::new("advertise", [Site::new(&ca, 0), Site::new(&ca, 1), listed]);
    scene.start_all();
    scene.all_registered();
    let cache = scene.when("hub", "show nhrp cache", "what may be announced", |cache: &Cache| {
        [1, 2].iter().all(|&spoke| {
            let lan = |entry: &control::CacheEntry| entry.prefix == numbers.lan(spoke, 0);
            cache.entries.iter().any(lan)
        })
    });
    let stolen: IpNet = "10.99.0.0/16".parse().unwrap();
    assert!(!cache.entries.iter().any(|entry| entry.prefix == stolen), "{cache:#?}");
    assert!(!scene.run("hub", "ip route show proto 191").contains("10.99"));
    for node in ["hub", "spoke-b"] {
        let what = format!("{node} says that 10.99.0.0/16 is refused");
        scene.dmvpn(node, &what, |dmvpn| {
            let refusals = &dmvpn.interfaces[0].refusals;
            refusals.iter().any(|refusal| {
                refusal.reason.contains("10.99.0.0/16") && refusal.reason.contains("allows only")
            })
        });
    }
}

#[test]
fn errors_at_start_say_what_to_do() {
    let mut scene = Scene::up("errors", 1);
    scene.registered("spoke-a");
    let spoke = scene.node("spoke-a");
    let fails = |arguments: &[&str]| {
        let result = spoke.run([&["nhrpd"], arguments].concat());
        let error = result.unwrap_err().to_string();
        assert!(error.contains("exit status: 1"), "{error}");
        println!("{}", error.lines().last().unwrap_or_default());
        error
    };
    let write = |file: &str, text: &str| good("write", spoke.write_file(Path::new(file), text));

    // The same once more; then with a socket of its own; then with a port of its own.
    let error = fails(&["--config", CONFIG, "--socket", "/run/nhrpd/nhrpd.sock"]);
    assert!(error.contains("/run/nhrpd/nhrpd.sock"), "{error}");
    let error = fails(&["--config", CONFIG, "--socket", "/run/other.sock"]);
    assert!(error.contains("UDP port 4500 is in use"), "{error}");
    let yaml = spoke.run(["cat", CONFIG]).unwrap();
    let other = yaml.replace("{ source: eth0 }", "{ source: eth0, port: 4501 }");
    write("/etc/nhrpd/other.yaml", &other);
    let error = fails(&["--config", "/etc/nhrpd/other.yaml", "--socket", "/run/other.sock"]);
    assert!(error.contains("interface dmvpn0 exists already"), "{error}");

    write("/etc/nhrpd/bad.yaml", &yaml.replace("key: 42", "kye: 42"));
    for command in [&["--config"][..], &["check", "--config"]] {
        let error = fails(&[command, &["/etc/nhrpd/bad.yaml"]].concat());
        assert!(error.contains("/etc/nhrpd/bad.yaml:"), "{error}");
        assert!(error.contains("tunnel.kye: unknown key: did you mean key?"), "{error}");
    }
    let said = spoke.run(["nhrpd", "check", "--config", CONFIG]).unwrap();
    assert!(said.contains(&format!("{CONFIG}: good")), "{said}");

    // All that did not disturb the one that runs.
    assert!(scene.daemons["spoke-a"].running());
    scene.registered("spoke-a");
    scene.stop("spoke-a");
}
