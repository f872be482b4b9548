//! Side by side with FRR's nhrpd, as Debian packages it: our spokes at its hub, its spokes at ours.
//!
//! GRE in clear, key 42, as FRR without IPsec has it; and in the ESP of stock strongSwan, which knows
//! nothing of FRR: a trap policy for all GRE keeps it in, and makes the key exchange begin. With `GOLDEN=FOLDER` the NHRP packets that pass the
//! hub's cable are kept there (in the virtual machine: a folder given with `--write`).

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use control::{Cache, ShortcutState, Shortcuts};
use lab::ping::Replies;
use overlay_tests::e2e::ipsec::{Connection, Foreign, Secret};
use overlay_tests::e2e::nhrp::{self, Seen, keep};
use overlay_tests::e2e::{Ca, Frr, Numbers, PATIENCE, Scene, Site, good, is_up, until};
use overlay_tests::matrix::Peer;

const REGISTRATION_REQUEST: u8 = 3;
const REGISTRATION_REPLY: u8 = 4;
const RESOLUTION_REQUEST: u8 = 1;
const RESOLUTION_REPLY: u8 = 2;
const PURGE_REQUEST: u8 = 5;
const PURGE_REPLY: u8 = 6;
const TRAFFIC_INDICATION: u8 = 8;

/// Renewals come after a third of it.
const HOLDING: &str = "15";

/// FRR tells of redirects what netfilter tells it, and nobody but the operator makes such a rule.
const REDIRECT: &str = "add table ip overlay; \
    add chain ip overlay forward { type filter hook forward priority 0; }; \
    add rule ip overlay forward iifname gre1 oifname gre1 limit rate 20/second log group 1 snaplen 128";

fn outer(number: u8) -> Ipv4Addr {
    v4(Numbers::default().underlay(number, 10).addr())
}

fn inner(number: u8) -> Ipv4Addr {
    v4(Numbers::default().tunnel(number).addr())
}

fn v4(address: IpAddr) -> Ipv4Addr {
    match address {
        IpAddr::V4(address) => address,
        IpAddr::V6(address) => panic!("{address} in a scene with IPv4"),
    }
}

/// A hub and three spokes; which of them are ours, the test says by starting them.
fn scene(name: &str, plane: &str) -> Scene {
    let ca = Ca::new("unused");
    let nhrp = format!("{{ holding-time: {HOLDING} }}");
    let site = |number| Site::new(&ca, number).clear().set("dataplane", plane).set("nhrp", &nhrp);
    Scene::new(name, (0..=3).map(site))
}

fn frr_spoke(scene: &Scene, number: u8) -> Frr {
    let nhs = format!("ip nhrp nhs {} nbma {}", inner(0), outer(0));
    let holdtime = format!("ip nhrp holdtime {HOLDING}");
    let nhrp = [
        "ip nhrp network-id 1",
        &nhs,
        &holdtime,
        "ip nhrp registration no-unique",
        "ip nhrp shortcut",
    ];
    // It answers a resolution request only if it has a route to who asks.
    let routes = ["172.16.0.0/24", "192.168.0.0/16"].map(|to| format!("{to} {} gre1", inner(0)));
    Frr::nhrpd(scene, spoke(number), number, &nhrp, &routes.each_ref().map(String::as_str))
}

fn frr_hub(scene: &Scene) -> Frr {
    let holdtime = format!("ip nhrp holdtime {HOLDING}");
    let nhrp = ["ip nhrp network-id 1", &holdtime, "ip nhrp redirect"];
    // What is behind a spoke it learns from a routing daemon or by hand, never by NHRP.
    let lan = |number| format!("{} {} gre1", Numbers::default().lan(number, 0), inner(number));
    let routes = [1, 2, 3].map(lan);
    let hub = Frr::nhrpd(scene, "hub", 0, &nhrp, &routes.each_ref().map(String::as_str));
    good("make the redirect rule", scene.node("hub").run(["nft", REDIRECT]));
    hub
}

fn spoke(number: u8) -> &'static str {
    ["hub", "spoke-a", "spoke-b", "spoke-c"][usize::from(number)]
}

/// Pings until the replies come over `routers` routers, and a little longer.
#[track_caller]
fn direct(scene: &Scene, from: &str, to: IpAddr, routers: u8) -> Replies {
    let mut ping = scene.ping(from, &to.to_string(), None, 50);
    let steady = |replies: &Replies| {
        replies.over_routers_from(routers).is_some_and(|from| replies.last() >= from + 20)
    };
    good("ping", ping.until(&format!("direct replies from {to} to {from}"), PATIENCE, steady));
    let replies = ping.stop();
    let since = replies.over_routers_from(routers).unwrap_or_default();
    println!("{from} → {to}: direct from reply {since} on, {} lost", replies.lost());
    replies
}

/// FRR has this spoke in its cache, or has it no more.
#[track_caller]
fn in_cache(scene: &Scene, frr: &Frr, number: u8, wanted: bool) {
    let (address, nbma) = (inner(number).to_string(), outer(number).to_string());
    frr.when(scene, "show ip nhrp cache", |told| {
        let line = told.lines().find(|line| line.contains(&format!(" {address} ")));
        line.is_some_and(|line| line.contains("dynamic") && line.contains(&nbma)) == wanted
    });
}

#[track_caller]
fn passed<'a, 'b>(seen: &'b [Seen<'a>], from: u8, to: u8, kind: u8) -> &'b Seen<'a> {
    let found = seen.iter().find(|seen| seen.is(outer(from), outer(to), kind));
    found.unwrap_or_else(|| panic!("no NHRP packet of type {kind} from site {from} to site {to}"))
}

fn our_spokes_at_frrs_hub(plane: &str) {
    const HUB: u8 = 0;
    const A: u8 = 1;
    const B: u8 = 2;
    const FRR: u8 = 3;
    let numbers = Numbers::default();
    let mut scene = scene("at-frr", plane);
    let capture = good("capture", scene.lab.capture("hub-wan"));
    let hub = frr_hub(&scene);
    let frr = frr_spoke(&scene, FRR);
    for spoke in ["spoke-a", "spoke-b"] {
        scene.start(spoke);
        scene.registered(spoke);
    }
    for number in [A, B, FRR] {
        in_cache(&scene, &hub, number, true);
    }

    let replies = direct(&scene, "host-a", numbers.lan(B, 10).addr(), 2);
    assert_eq!(replies.lost(), 0, "between two spokes of ours");
    let lan = numbers.lan(B, 0);
    scene.when("spoke-a", "show nhrp shortcuts", "the LAN of spoke-b", |all: &Shortcuts| {
        all.shortcuts.iter().any(|one| one.prefix == lan && one.state == ShortcutState::Active)
    });
    direct(&scene, "host-a", numbers.lan(FRR, 10).addr(), 2);
    direct(&scene, "host-c", numbers.lan(B, 10).addr(), 2);
    frr.when(&scene, "show ip nhrp shortcut", |told| told.contains(&lan.to_string()));

    let renewals =
        || hub.log().matches(&format!("Recv Registration-Request(3) {}", inner(A))).count();
    let before = renewals();
    until("two renewals", || (renewals() >= before + 2).then_some(()));
    in_cache(&scene, &hub, A, true);
    assert!(is_up(&scene.ask("spoke-a", "show dmvpn"), inner(HUB).into()));

    // FRR reads Purge Requests and does nothing with them (its issue 18924): what is left ends with
    // its holding time.
    scene.stop("spoke-a");
    in_cache(&scene, &hub, A, false);

    let recorded = good("end the capture", capture.stop()).packets;
    let seen = nhrp::packets(&recorded);
    for spoke in [A, B] {
        passed(&seen, spoke, HUB, REGISTRATION_REQUEST);
        assert_eq!(passed(&seen, HUB, spoke, REGISTRATION_REPLY).codes(), [0]);
        passed(&seen, HUB, spoke, TRAFFIC_INDICATION);
        passed(&seen, spoke, HUB, RESOLUTION_REQUEST);
        passed(&seen, HUB, spoke, RESOLUTION_REPLY);
    }
    passed(&seen, A, HUB, PURGE_REQUEST);
    keep("frr-hub", &seen);
}

#[test]
fn our_spokes_at_frrs_hub_kernel() {
    our_spokes_at_frrs_hub("kernel");
}

#[test]
fn our_spokes_at_frrs_hub_userspace() {
    our_spokes_at_frrs_hub("userspace");
}

fn frrs_spokes_at_our_hub(plane: &str) {
    const HUB: u8 = 0;
    const OURS: u8 = 1;
    const B: u8 = 2;
    const C: u8 = 3;
    let numbers = Numbers::default();
    let mut scene = scene("frr-at", plane);
    let capture = good("capture", scene.lab.capture("hub-wan"));
    for node in ["hub", "spoke-a"] {
        scene.start(node);
    }
    let (b, c) = (frr_spoke(&scene, B), frr_spoke(&scene, C));
    scene.registered("spoke-a");
    for (number, frr) in [(B, &b), (C, &c)] {
        let address = IpAddr::from(inner(number));
        scene.when("hub", "show nhrp cache", "an FRR spoke is registered", |cache: &Cache| {
            cache.entries.iter().any(|entry| entry.next_hop == Some(address))
        });
        frr.when(&scene, "show ip nhrp cache", |told| {
            told.lines()
                .any(|line| line.contains(" nhs ") && line.contains(&inner(HUB).to_string()))
        });
    }

    // FRR announces no prefixes: what our hub knows of these spokes are their tunnel addresses.
    direct(&scene, "spoke-b", inner(C).into(), 0);
    direct(&scene, "host-a", inner(B).into(), 1);
    direct(&scene, "spoke-c", numbers.lan(OURS, 10).addr(), 1);
    let lan = numbers.lan(OURS, 0).to_string();
    c.when(&scene, "show ip nhrp shortcut", |told| told.contains(&lan));
    if plane == "kernel" {
        // What is behind FRR's spokes a route says, as one by hand does.
        scene.run("hub", &format!("ip route add {} via {}", numbers.lan(B, 0), inner(B)));
        let behind = numbers.lan(B, 10).addr().to_string();
        assert_eq!(scene.ping("host-a", &behind, Some(20), 50).finish().lost(), 0);
    }

    let renewals = || b.log().matches("Send Registration-Request(3)").count();
    let before = renewals();
    until("two renewals", || (renewals() >= before + 2).then_some(()));
    assert!(is_up(&scene.ask("hub", "show dmvpn"), inner(B).into()));

    scene.stop("spoke-a");
    c.when(&scene, "show ip nhrp shortcut", |told| !told.contains(&lan));
    b.stop();

    let recorded = good("end the capture", capture.stop()).packets;
    let seen = nhrp::packets(&recorded);
    for spoke in [B, C] {
        passed(&seen, spoke, HUB, REGISTRATION_REQUEST);
        assert_eq!(passed(&seen, HUB, spoke, REGISTRATION_REPLY).codes(), [0]);
        passed(&seen, HUB, spoke, TRAFFIC_INDICATION);
    }
    passed(&seen, B, HUB, RESOLUTION_REQUEST);
    passed(&seen, HUB, B, RESOLUTION_REPLY);
    passed(&seen, OURS, HUB, PURGE_REQUEST);
    passed(&seen, HUB, OURS, PURGE_REPLY);
    assert!(!seen.iter().any(|seen| seen.is(outer(B), outer(HUB), PURGE_REQUEST)), "docs say so");
    keep("frr-spokes", &seen);
}

#[test]
fn frrs_spokes_at_our_hub_kernel() {
    frrs_spokes_at_our_hub("kernel");
}

#[test]
fn frrs_spokes_at_our_hub_userspace() {
    frrs_spokes_at_our_hub("userspace");
}

/// A hub and two spokes with certificates; which of them are ours, the test says by starting them.
fn protected_scene(name: &str, ca: &Ca, plane: &str) -> Scene {
    let nhrp = format!("{{ holding-time: {HOLDING} }}");
    let site = |number| Site::new(ca, number).set("dataplane", plane).set("nhrp", &nhrp);
    Scene::new(name, (0..=2).map(site))
}

/// Whatever GRE this node sends or gets is in ESP.
fn strongswan(scene: &Scene, ca: &Ca, folder: &Path, number: u8) -> Foreign {
    let identity = ca.issue(&Site::request(Numbers::default(), number));
    let connection = Connection {
        local: outer(number).to_string(),
        remote: "%any".into(),
        port: 4500,
        proof: Secret::Certificate(identity),
        ike: None,
        esp: None,
        trap: true,
        quiet: false,
    };
    Foreign::start(Peer::StrongSwan, scene.node(spoke(number)), folder, connection)
}

fn our_spokes_at_frr_and_strongswan(plane: &str) {
    let ca = Ca::new("Overlay CA");
    let folder = good("make a folder", tempfile::tempdir());
    let mut scene = protected_scene("frr-ipsec", &ca, plane);
    let recording = scene.record();
    let _strongswan = strongswan(&scene, &ca, folder.path(), 0);
    let hub = frr_hub(&scene);
    for (number, spoke) in [(1, "spoke-a"), (2, "spoke-b")] {
        scene.start(spoke);
        scene.registered(spoke);
        in_cache(&scene, &hub, number, true);
    }
    let lan = Numbers::default().lan(2, 10).addr();
    assert_eq!(direct(&scene, "host-a", lan, 2).lost(), 0);
    let seen = recording.stop(&scene.inner());
    if plane == "userspace" { seen.sees_ciphers_only() } else { seen.sees_nothing() }
}

#[test]
fn our_spokes_at_a_hub_of_frr_and_strongswan_kernel() {
    our_spokes_at_frr_and_strongswan("kernel");
}

#[test]
fn our_spokes_at_a_hub_of_frr_and_strongswan_userspace() {
    our_spokes_at_frr_and_strongswan("userspace");
}

fn frr_and_strongswan_at_our_hub(plane: &str) {
    let numbers = Numbers::default();
    let ca = Ca::new("Overlay CA");
    let folder = good("make a folder", tempfile::tempdir());
    let mut scene = protected_scene("ipsec-at", &ca, plane);
    let recording = scene.record();
    for node in ["hub", "spoke-a"] {
        scene.start(node);
    }
    scene.registered("spoke-a");
    let _strongswan = strongswan(&scene, &ca, folder.path(), 2);
    let frr = frr_spoke(&scene, 2);
    let address = IpAddr::from(inner(2));
    scene.when("hub", "show nhrp cache", "the FRR spoke is registered", |cache: &Cache| {
        cache.entries.iter().any(|entry| entry.next_hop == Some(address))
    });
    frr.when(&scene, "show ip nhrp cache", |told| told.contains(" nhs "));
    direct(&scene, "host-a", address, 1);
    direct(&scene, "spoke-b", numbers.lan(1, 10).addr(), 1);
    recording.stop(&scene.inner()).sees_nothing();
}

#[test]
fn a_spoke_of_frr_and_strongswan_at_our_hub_kernel() {
    frr_and_strongswan_at_our_hub("kernel");
}
