//! Beside a routing daemon: FRR's bgpd and ospfd over the tunnel, as Debian packages them. What they
//! learn through the hub becomes a direct path.

use std::path::Path;

use control::{Reloaded, Shortcut, ShortcutState, Shortcuts};
use overlay_tests::e2e::{
    CONFIG, Ca, Frr, Numbers, Scene, Site, go_direct_after, go_on, good, until,
};

const INTERVAL_MS: u32 = 20;
const HOLDING: u32 = 9;
const LANS: [&str; 3] = ["", "192.168.1.0/24", "192.168.2.0/24"];
const NODES: [&str; 3] = ["hub", "spoke-a", "spoke-b"];

/// A hub and two spokes that have no routes but those that FRR gives them.
fn scene(name: &str, change: fn(Site) -> Site) -> Scene {
    let ca = Ca::new("Overlay CA");
    let nhrp = format!("{{ holding-time: {HOLDING} }}");
    let site = |number| Site::new(&ca, number).set("routes", "[]").set("nhrp", &nhrp);
    let mut scene = Scene::new(name, (0..=2).map(|number| change(site(number))));
    scene.start_all();
    scene.all_registered();
    scene
}

fn start(scene: &Scene, daemon: &str, configuration: impl Fn(usize) -> String) -> [Frr; 3] {
    [0, 1, 2].map(|number| {
        let daemons = [("zebra", String::new()), (daemon, configuration(number))];
        Frr::start(scene, NODES[number], &daemons)
    })
}

/// The route to a prefix, as soon as it is as wished.
#[track_caller]
fn route(scene: &Scene, node: &str, prefix: &str, wish: &str) {
    let show = format!("ip route show {prefix}");
    until(&format!("{node}: {prefix} {wish}"), || {
        scene.run(node, &show).contains(wish).then_some(())
    });
}

fn edit(scene: &Scene, node: &str, from: &str, to: &str) {
    let yaml = scene.run(node, &format!("cat {CONFIG}"));
    assert!(yaml.contains(from), "{from} is not in:\n{yaml}");
    let write = scene.node(node).write_file(Path::new(CONFIG), &yaml.replace(from, to));
    good("write", write);
    let _: Reloaded = scene.ask(node, "reload");
}

/// First by the next hop of a route that the hub passes on, then by a redirect.
#[test]
fn bgp_routes_become_direct_paths() {
    let numbers = Numbers::default();
    // Whom the hub does not redirect finds the direct path by the next hop of his route alone.
    let scene = scene("kernel-bgp", |site| match site.number {
        0 => site.set("nhrp", "{ holding-time: 9, redirect: false }"),
        _ => site,
    });
    let [hub, _a, _b] = start(&scene, "bgpd", |number| match number {
        0 => "router bgp 65000\n\
              \x20bgp router-id 172.16.0.1\n\
              \x20neighbor spokes peer-group\n\
              \x20neighbor spokes remote-as 65000\n\
              \x20bgp listen range 172.16.0.0/24 peer-group spokes\n\
              \x20address-family ipv4 unicast\n\
              \x20 neighbor spokes route-reflector-client\n\
              \x20 redistribute kernel\n"
            .into(),
        spoke => format!(
            "router bgp 65000\n\
             \x20bgp router-id 172.16.0.{id}\n\
             \x20neighbor 172.16.0.1 remote-as 65000\n\
             \x20neighbor 172.16.0.1 timers connect 2\n\
             \x20address-family ipv4 unicast\n\
             \x20 network {lan}\n\
             \x20 redistribute kernel\n",
            id = spoke + 1,
            lan = LANS[spoke]
        ),
    });
    route(&scene, "spoke-a", LANS[2], "via 172.16.0.3 dev dmvpn0 proto bgp");
    route(&scene, "spoke-b", LANS[1], "via 172.16.0.2 dev dmvpn0 proto bgp");

    // The next hop is the other spoke. It is asked for, and stays direct while packets go there.
    let host_b = numbers.lan(2, 10).addr().to_string();
    let mut ping = scene.ping("host-a", &host_b, None, INTERVAL_MS);
    go_direct_after(&mut ping, 2 * HOLDING * 1000 / INTERVAL_MS);
    let direct = ping.replies().over_routers_from(2);
    println!("by the next hop: direct from reply {direct:?} on, {} lost", ping.replies().lost());
    assert!(direct.is_some_and(|from| from < HOLDING * 1000 / INTERVAL_MS), "{direct:?}");
    let shortcuts: Shortcuts = scene.ask("spoke-a", "show nhrp shortcuts");
    let prefixes: Vec<_> = shortcuts.shortcuts.iter().map(|one| one.prefix).collect();
    assert_eq!(prefixes, [numbers.tunnel(2).addr().into()], "its tunnel address, and no more");

    // The hub tells of one prefix and of itself as its next hop, and of redirects.
    edit(&scene, "hub", "redirect: false", "redirect: true");
    let configure = |node: &Frr, lines: &[&str]| {
        let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
        node.show(
            &scene,
            &format!("configure\nrouter bgp 65000\naddress-family ipv4 unicast\n{lines}"),
        );
    };
    configure(&hub, &["aggregate-address 192.168.0.0/16 summary-only"]);
    route(&scene, "spoke-a", "192.168.0.0/16", "via 172.16.0.1 dev dmvpn0 proto bgp");
    until("the longer prefix is withdrawn", || {
        (!scene.run("spoke-a", "ip route show proto bgp").contains(LANS[2])).then_some(())
    });
    let last = go_on(&mut ping, 5);
    let lan = |all: &Shortcuts| {
        let active = |one: &Shortcut| one.state == ShortcutState::Active;
        all.shortcuts.iter().any(|one| one.prefix == numbers.lan(2, 0) && active(one))
    };
    scene.when("spoke-a", "show nhrp shortcuts", "a shortcut to the LAN", lan);
    go_direct_after(&mut ping, last + 50);
    route(&scene, "spoke-a", LANS[2], "via 172.16.0.3 dev dmvpn0 proto nhrp");
}

/// Hellos are multicast: copied to the hub by the spokes, and by the hub to all of them.
#[test]
fn ospf_routes_become_direct_paths() {
    let numbers = Numbers::default();
    let scene = scene("kernel-ospf", |site| site);
    let [hub, a, _b] = start(&scene, "ospfd", |number| {
        let lan = match number {
            0 => "",
            _ => "interface eth1\n ip ospf area 0\n ip ospf passive\n",
        };
        format!(
            "interface dmvpn0\n\
             \x20ip ospf area 0\n\
             \x20ip ospf network point-to-multipoint\n\
             \x20ip ospf hello-interval 2\n\
             \x20ip ospf dead-interval 8\n\
             {lan}\
             router ospf\n\
             \x20ospf router-id 172.16.0.{}\n\
             \x20redistribute kernel\n",
            number + 1
        )
    });
    hub.when(&scene, "show ip ospf neighbor", |told| told.matches("Full/").count() == 2);
    let neighbours = a.show(&scene, "show ip ospf neighbor");
    assert_eq!(neighbours.matches("Full/").count(), 1, "the hub only:\n{neighbours}");
    route(&scene, "spoke-a", LANS[2], "via 172.16.0.1 dev dmvpn0 proto ospf");
    route(&scene, "spoke-b", LANS[1], "via 172.16.0.1 dev dmvpn0 proto ospf");

    let host_b = numbers.lan(2, 10).addr().to_string();
    let mut ping = scene.ping("host-a", &host_b, None, INTERVAL_MS);
    go_direct_after(&mut ping, 2 * HOLDING * 1000 / INTERVAL_MS);
    let direct = ping.replies().over_routers_from(2);
    println!("direct from reply {direct:?} on");
    assert!(direct.is_some_and(|from| from < HOLDING * 1000 / INTERVAL_MS), "{direct:?}");
    let way = scene.run("spoke-a", &format!("ip route get fibmatch {host_b}"));
    assert!(way.contains("via 172.16.0.3 dev dmvpn0 proto nhrp"), "{way}");
    let external = hub.show(&scene, "show ip ospf database external");
    assert!(!external.contains("192.168"), "redistributed:\n{external}");
    let replies = ping.stop();
    println!("{} pings, {} lost", replies.sent(), replies.lost());
    assert_eq!(replies.lost(), 0, "{:?}", replies.missing());
}
