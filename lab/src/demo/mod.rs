//! `lab demo`: the whole story of a DMVPN, told while it happens.

mod page;

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use control::{Dmvpn, NhsState, Peer, PeerState};
use ipnet::Ipv4Net;
use lab::decode::{self, Kind, Packet};
use lab::ping::{Ping, Replies};
use lab::{Capture, Daemon, Error, Lab, Topology};

use page::Page;

const TOPOLOGY: &str = include_str!("../../../configs/lab/demo.yaml");
const FILE: &str = "configs/lab/demo.yaml";

const PICTURE: &str = "\
host-a ──────── spoke-a ──── internet ──── spoke-b ──────── host-b
192.168.1.10    203.0.113.10     │     192.0.2.10     192.168.2.10
                                 │
                       hub  198.51.100.1";

const DAEMONS: [&str; 3] = ["hub", "spoke-a", "spoke-b"];
const UNDERLAY: [&str; 3] = ["hub-wan", "a-wan", "b-wan"];
const HOST_B: &str = "192.168.2.10";
const SPOKE_B: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 3);
const NEW_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 77);

/// What nobody on the underlay may see: tunnel addresses and those behind the spokes.
const INNER: [[u8; 4]; 7] = [
    [172, 16, 0, 1],
    [172, 16, 0, 2],
    [172, 16, 0, 3],
    [192, 168, 1, 1],
    [192, 168, 1, 10],
    [192, 168, 2, 1],
    [192, 168, 2, 10],
];

/// Time for what should take a second.
const PATIENCE: Duration = Duration::from_secs(20);

/// Tells the story; success when every step held.
pub(crate) fn run(name: Option<&str>, colour: bool) -> ExitCode {
    let colour = colour && std::env::var_os("NO_COLOR").is_none();
    let mut page = Page::new(colour);
    let begun = Instant::now();
    if let Err(error) = tell(&mut page, name) {
        page.check(false, error);
    }
    page.blank();
    if page.failed > 0 {
        page.title(&format!("{} of the steps above did not hold.", page.failed));
        return ExitCode::FAILURE;
    }
    page.title(&format!("Every step held, in {} s.", begun.elapsed().as_secs()));
    page.say("Nothing of it is left on this machine. To look around in it yourself:");
    page.blank();
    page.say(&format!("lab up {FILE}"));
    page.say("lab exec host-a -- ping 192.168.2.10");
    page.say("lab exec spoke-a -- overlayctl show dmvpn detail");
    page.say("lab capture b-wan underlay.pcap");
    page.say("lab exec spoke-b -- bash");
    page.say("lab down");
    if let Some(folder) = std::env::current_exe().ok().as_deref().and_then(Path::parent) {
        page.blank();
        page.quiet(&format!("(the programs are in {})", folder.display()));
    }
    ExitCode::SUCCESS
}

fn tell(page: &mut Page, name: Option<&str>) -> Result<(), Error> {
    ready()?;
    let mut topology = Topology::parse(Path::new(FILE), TOPOLOGY)?;
    if let Some(name) = name {
        topology.name = Some(name.to_owned());
    }
    page.title("A DMVPN on this machine alone: a hub, two spokes, and a host behind each spoke");
    page.blank();
    page.output(PICTURE);

    page.chapter("Certificates");
    for command in &topology.setup {
        page.command("ca", command);
    }
    let mut lab = Lab::create(&topology)?;
    page.check(
        true,
        "a small CA, and for each node a certificate with its tunnel address and its LAN",
    );

    page.chapter("Six machines");
    page.say("Each is a network namespace; each public network hangs on the router `internet`.");
    let before = Ping::start(lab.node("host-a")?, HOST_B, Some(1), 1000)?.finish();
    page.check(before.received() == 0, "without the overlay host-a cannot reach host-b");

    page.chapter("The overlay starts");
    page.say(
        "One daemon on the hub and on each spoke; all three public networks are being recorded.",
    );
    let captures = record(&lab)?;
    lab.start_daemons(&topology)?;
    let told = story(page, &lab, captures);
    if told.is_err() || page.failed > 0 {
        for daemon in lab.daemons() {
            let log = daemon.log().unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            page.blank();
            page.quiet(&format!("the last lines of {}:", daemon.title()));
            page.output(&lines[lines.len().saturating_sub(15)..].join("\n"));
        }
    }
    told
}

/// What the demo needs beyond the lab itself.
fn ready() -> Result<(), Error> {
    for program in ["nhrpd", "overlayctl"] {
        lab::program(program)?;
    }
    match OpenOptions::new().read(true).write(true).open("/dev/net/tun") {
        Ok(_) => Ok(()),
        Err(error) => Err(Error::Missing {
            what: format!("cannot open /dev/net/tun ({error})"),
            remedy: "as root: modprobe tun; chmod 666 /dev/net/tun".into(),
        }),
    }
}

fn story(page: &mut Page, lab: &Lab, captures: Vec<Capture>) -> Result<(), Error> {
    let host_a = lab.node("host-a")?;

    let begun = Instant::now();
    for spoke in ["spoke-a", "spoke-b"] {
        when(lab, spoke, |dmvpn| {
            let servers = dmvpn.interfaces.iter().flat_map(|interface| &interface.nhs);
            servers.into_iter().any(|nhs| nhs.state == NhsState::Responding)
        })?;
    }
    when(lab, "hub", |dmvpn| peers(dmvpn).filter(|peer| peer.state == PeerState::Up).count() == 2)?;
    let took = begun.elapsed().as_millis();
    page.check(true, format!("both spokes are registered with the hub ({took} ms)"));
    show(page, lab, &DAEMONS)?;

    page.chapter("The first ping from LAN to LAN");
    page.say(
        "Nothing between the spokes is known yet, neither address nor keys. Cisco's own example",
    );
    page.say("loses the first of five here.");
    page.command("host-a", format_args!("ping -c 200 -i 0.01 {HOST_B}"));
    let replies = Ping::start(host_a, HOST_B, Some(200), 10)?.finish();
    page.check(
        replies.lost() == 0,
        format!(
            "{} sent, {} received, {} lost",
            replies.sent(),
            replies.received(),
            replies.lost()
        ),
    );
    direct_at_last(page, &replies);
    show(page, lab, &DAEMONS)?;

    page.chapter("Is it really direct?");
    page.say("Fifty more pings; what passes the hub is counted by the hub, and on its cable.");
    let counted = forwarded(&when(lab, "hub", |_| true)?);
    let cable = lab.capture("hub-wan")?;
    page.command("host-a", format_args!("ping -c 50 -i 0.01 {HOST_B}"));
    let replies = Ping::start(host_a, HOST_B, Some(50), 10)?.finish();
    let cable = cable.stop()?;
    let after = forwarded(&when(lab, "hub", |_| true)?);
    let data = |bytes: &[u8]| Packet::of(bytes).kind.data();
    let passed = cable.packets.iter().filter(|packet| data(&packet.bytes)).count();
    page.check(
        replies.lost() == 0 && after == counted,
        format!("the hub's counter of forwarded packets stood still: {counted}, then {after}"),
    );
    // Registrations are renewed now and then; a hundred packets of pings would be seen.
    page.check(
        passed < 10,
        format!("on the hub's cable: {passed} data packets, for 50 pings and 50 replies"),
    );

    page.chapter("Is it really encrypted?");
    page.say("Everything on the three public networks since before the daemons started, decoded:");
    onlooker(page, captures)?;

    page.chapter("A spoke gets a new public address");
    page.say(&format!("spoke-b's provider moves it from 192.0.2.10 to {NEW_ADDRESS} in mid-ping."));
    let captures = record(lab)?;
    page.command("host-a", format_args!("ping -c 500 -i 0.02 {HOST_B}"));
    let mut ping = Ping::start(host_a, HOST_B, Some(500), 20)?;
    ping.until("50 replies", PATIENCE, |replies| replies.received() >= 50)?;
    page.command("spoke-b", format_args!("ip address replace {NEW_ADDRESS}/24 dev eth0"));
    lab.node("spoke-b")?.renumber("eth0", Ipv4Net::new_assert(NEW_ADDRESS, 24).into())?;
    let replies = ping.finish();
    let (lost, gap) = (replies.lost(), replies.longest_gap_ms());
    let silence = if lost == 0 { String::new() } else { format!(", {gap} ms without a reply") };
    page.check(
        replies.last_answered(50),
        format!("the ping goes on: {lost} of {} lost{silence}", replies.sent()),
    );
    when(lab, "hub", spoke_b_moved)?;
    page.check(true, "the hub knows the new address");
    when(lab, "spoke-a", spoke_b_moved)?;
    let replies = Ping::start(host_a, HOST_B, Some(50), 10)?.finish();
    direct_at_last(page, &replies);
    show(page, lab, &["spoke-a"])?;
    page.blank();
    page.say("And the onlooker's view of all that:");
    onlooker(page, captures)?;

    let alive = lab.daemons().iter().all(Daemon::running);
    page.check(alive, "all three daemons are still the ones that were started above");
    Ok(())
}

fn record(lab: &Lab) -> Result<Vec<Capture>, Error> {
    UNDERLAY.into_iter().map(|link| lab.capture(link)).collect()
}

/// Waits until a daemon's account of its peers is as wished.
fn when(lab: &Lab, node: &str, wish: impl Fn(&Dmvpn) -> bool) -> Result<Dmvpn, Error> {
    let read = |text: &str| serde_json::from_str::<Dmvpn>(text).ok().filter(&wish);
    let command = ["overlayctl", "--json", "show", "dmvpn"];
    let text = lab.node(node)?.until(command, PATIENCE, |text| read(text).is_some())?;
    read(&text).ok_or_else(|| Error::Choice(format!("{node} changed its mind")))
}

fn peers(dmvpn: &Dmvpn) -> impl Iterator<Item = &Peer> {
    dmvpn.interfaces.iter().flat_map(|interface| &interface.peers)
}

fn forwarded(dmvpn: &Dmvpn) -> u64 {
    peers(dmvpn).map(|peer| peer.counters.forwarded_packets).sum()
}

fn spoke_b_moved(dmvpn: &Dmvpn) -> bool {
    peers(dmvpn).any(|peer| {
        peer.tunnel_address == Some(SPOKE_B.into())
            && peer.nbma == Some(NEW_ADDRESS.into())
            && peer.state == PeerState::Up
    })
}

/// Over the hub a reply passes three routers, directly two; its TTL tells.
fn direct_at_last(page: &mut Page, replies: &Replies) {
    match replies.over_routers_from(2) {
        Some(1) => page.check(true, "all replies came directly from spoke to spoke (TTL 62)"),
        Some(first) => page.check(
            true,
            format!(
                "replies 1 to {} came over the hub (TTL 61), from {first} on directly (TTL 62), in \
                 {:.2} ms",
                first - 1,
                replies.median_ms(first),
            ),
        ),
        None => page.check(false, "replies come directly from spoke to spoke in the end (TTL 62)"),
    }
}

/// Tables of peers; the legend stands above the first of them only.
fn show(page: &mut Page, lab: &Lab, nodes: &[&str]) -> Result<(), Error> {
    for name in nodes {
        page.blank();
        page.command(name, "overlayctl show dmvpn");
        let table = lab.node(name)?.run(["overlayctl", "show", "dmvpn"])?;
        match table.split_once("\n\n") {
            Some((legend, table)) if legend.starts_with("Legend") && page.legend_shown => {
                page.output(table);
            }
            _ => page.output(&table),
        }
        page.legend_shown = true;
    }
    Ok(())
}

/// Ends the captures and tells what somebody without keys could see in them.
fn onlooker(page: &mut Page, captures: Vec<Capture>) -> Result<(), Error> {
    let inner = INNER.map(IpAddr::from);
    let (mut kinds, mut strange, mut leaked, mut lost) = (BTreeMap::new(), None, None, 0);
    for capture in captures {
        let captured = capture.stop()?;
        lost += captured.lost;
        for packet in &captured.packets {
            let seen = Packet::of(&packet.bytes);
            let kind = seen.kind.clone();
            let expected = kind.encrypted()
                || kind.housekeeping()
                || matches!(kind, Kind::Keepalive | ROUTER_SAYS_UNREACHABLE);
            if !expected {
                strange.get_or_insert_with(|| seen.to_string());
            }
            if let [address, ..] = decode::leaks(&packet.bytes, &inner)[..] {
                leaked.get_or_insert_with(|| format!("{address} in {}", seen.to_string().trim()));
            }
            *kinds.entry(kind).or_insert(0) += 1;
        }
    }
    for (kind, count) in &kinds {
        page.output(&format!("{count:7}  {kind}"));
    }
    let seen = |wanted: fn(&Kind) -> bool| kinds.keys().any(wanted);
    page.check(
        seen(|kind| matches!(kind, Kind::Ike(_))) && seen(Kind::data),
        "IKEv2 and encrypted data are there",
    );
    page.check(strange.is_none(), "nothing else that carries data: no GRE, nothing in clear");
    page.check(leaked.is_none(), "no inner address in any packet, wherever one looks");
    for example in strange.iter().chain(&leaked) {
        page.output(&format!("seen: {example}"));
    }
    page.check(lost == 0, "and the recording is complete");
    Ok(())
}

/// A router tells the sender that the address of a moved spoke is gone.
const ROUTER_SAYS_UNREACHABLE: Kind = Kind::Icmp(3);
