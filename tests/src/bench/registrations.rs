//! A hub with thousands of spokes: registrations and memory, beside FRR's nhrpd, in Debian's kernel.
//!
//! The clients are NHRP engines of ours in one process, each behind an NBMA address of its own; GRE
//! is in clear, which is what FRR has without IPsec.

use std::collections::VecDeque;
use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use lab::Daemon;
use nhrp::engine::{Authorization, Config, Engine, Limits, Output, Server};
use rand_chacha::ChaCha12Rng;
use rand_core::SeedableRng as _;
use serde::{Deserialize, Serialize};
use socket2::Socket;

use super::clients;
use super::measure::{cpu_seconds, status};
use crate::e2e::{Ca, Frr, Scene};
use crate::scale::NoTraffic;

const HOLDING: Duration = Duration::from_secs(7200);
const KEY: u32 = 42;
/// First tunnel address of the clients.
const TUNNEL: Ipv4Addr = Ipv4Addr::new(172, 16, 16, 0);
const GRE: u8 = 47;
/// GRE header with a key, before NHRP (RFC 2784, RFC 2890).
const GRE_HEADER: [u8; 4] = [0x20, 0, 0x20, 0x01];
/// Requests without an answer at one time.
const WINDOW: usize = 64;
/// No answer at all for so long ends a round.
const PATIENCE: Duration = Duration::from_secs(30);

/// A next-hop server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Hub {
    /// This project, kernel data plane.
    Nhrpd,
    /// FRR's zebra and nhrpd.
    Frr,
}

/// One round of requests.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Round {
    /// Answered in a second of the clock; the clients run on the same processors.
    pub per_second: f64,
    /// Clients that got their answer.
    pub answered: u32,
    /// Sent in all, repetitions included.
    pub sent: u32,
}

impl std::fmt::Display for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Nhrpd => "nhrpd",
            Self::Frr => "FRR (zebra, nhrpd)",
        })
    }
}

/// What a hub needed for all its spokes.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    /// Who.
    pub hub: Hub,
    /// First registrations.
    pub new: Round,
    /// Renewals.
    pub renewed: Round,
    /// CPU time of its daemons for a request, in milliseconds; those of both rounds.
    pub cpu_ms: f64,
    /// Resident memory of its daemons before the first spoke, in KiB.
    pub idle_kib: f64,
    /// And with all of them.
    pub full_kib: f64,
}

/// Starts the hub, lets so many clients register and renew, and reads off what it took.
/// `clients` is the command line that ends in [`clients`].
///
/// # Errors
/// When the clients fail, in words.
pub fn measure(hub: Hub, count: u32, clients: &[String]) -> Result<Measured, String> {
    let mut scene = scene("registrations");
    let frr = match hub {
        Hub::Nhrpd => {
            scene.start("hub");
            scene.dmvpn("hub", "answers", |_| true);
            None
        }
        Hub::Frr => Some(frr(&scene)),
    };
    let daemons: Vec<&Daemon> = match &frr {
        None => scene.daemons.values().collect(),
        Some(frr) => frr.daemons().iter().collect(),
    };
    let memory =
        || daemons.iter().map(|daemon| status(daemon.pid(), "VmRSS:")).sum::<Result<f64, _>>();
    let cpu = || daemons.iter().map(|daemon| cpu_seconds(daemon.pid())).sum::<Result<f64, _>>();
    let (idle_kib, before) = (memory()?, cpu()?);
    let said = scene.node("spoke-a").run(clients).map_err(|error| error.to_string())?;
    let [new, renewed]: [Round; 2] =
        serde_json::from_str(said.trim()).map_err(|error| format!("{error}: {said}"))?;
    let spent = cpu()? - before;
    for (round, name) in [(new, "registered"), (renewed, "renewed")] {
        if round.answered < count {
            return Err(format!("{} of {count} clients {name}", round.answered));
        }
    }
    let cpu_ms = spent * 1e3 / f64::from(2 * count);
    Ok(Measured { hub, new, renewed, cpu_ms, idle_kib, full_kib: memory()? })
}

/// A network with our hub, which takes in whoever comes, and the node of the clients, `spoke-a`; no
/// daemon runs yet.
pub fn scene(name: &str) -> Scene {
    let ca = Ca::new("unused");
    clients::scene(name, &ca, |hub| {
        hub.clear()
            .set("nhrp", "{ registrations: accept, holding-time: 7200 }")
            .set("limits", "{ peers: 20000, cache-entries: 40000 }")
    })
}

/// As [`Frr::nhrpd`], without debugging.
fn frr(scene: &Scene) -> Frr {
    Frr::device(scene, "hub", 0);
    let nhrp = "interface gre1\n ip nhrp network-id 1\n ip nhrp holdtime 7200\n".to_owned();
    Frr::start(scene, "hub", &[("zebra", String::new()), ("nhrpd", nhrp)])
}

/// What runs on the clients' node: registers `count` clients at the hub, renews them, and gives
/// both rounds.
///
/// # Errors
/// When there is no raw socket.
pub fn clients(count: u32) -> io::Result<[Round; 2]> {
    let (socket, mut clients, new) = registered(count)?;
    let ahead = HOLDING / 3 + Duration::from_secs(60);
    Ok([new, round(&socket, &mut clients, clients::HUB, ahead)?])
}

/// The first of these rounds alone.
///
/// # Errors
/// When there is no raw socket.
pub fn register(count: u32) -> io::Result<Round> {
    registered(count).map(|(.., new)| new)
}

fn registered(count: u32) -> io::Result<(Socket, Vec<Engine>, Round)> {
    let socket = clients::socket(GRE)?;
    let start = Instant::now();
    let mut clients: Vec<Engine> = (0..count).map(|n| client(n, clients::HUB, start)).collect();
    let new = round(&socket, &mut clients, clients::HUB, Duration::ZERO)?;
    Ok((socket, clients, new))
}

/// Tunnel address of client `n`, and its NBMA address.
pub fn addresses(n: u32) -> (IpAddr, IpAddr) {
    (clients::plus(TUNNEL, n).into(), clients::nbma(n).into())
}

fn client(n: u32, hub: Ipv4Addr, start: Instant) -> Engine {
    let server = Server {
        address: [172, 16, 0, 1].into(),
        nbma: Some(IpAddr::from(hub).into()),
        priority: 0,
        cluster: 0,
    };
    let (address, nbma) = addresses(n);
    let config = Config {
        address: IpNet::new_assert(address, 16),
        nbma: Some(nbma),
        holding_time: HOLDING,
        authentication: None,
        servers: vec![server],
        maps: Vec::new(),
        advertise: Vec::new(),
        unique: false,
        accept_registrations: false,
        redirect: false,
        shortcut: true,
        default_authorization: Some(Authorization::Any),
        limits: Limits::default(),
    };
    Engine::new(config, start, &mut ChaCha12Rng::seed_from_u64(n.into()))
}

/// Every client sends what is due `ahead` of the clock, some at a time, until all have an answer.
fn round(
    socket: &Socket,
    clients: &mut [Engine],
    hub: Ipv4Addr,
    ahead: Duration,
) -> io::Result<Round> {
    let replies = |client: &Engine| client.servers()[0].replies;
    let before: Vec<u64> = clients.iter().map(replies).collect();
    let mut waiting: VecDeque<usize> = (0..clients.len()).collect();
    let mut asking: Vec<usize> = Vec::new();
    let (mut sent, mut answered) = (0, 0);
    let began = Instant::now();
    let mut last = began;
    let mut buffer = [0; 2048];
    while (answered as usize) < clients.len() && last.elapsed() < PATIENCE {
        while asking.len() < WINDOW
            && let Some(n) = waiting.pop_front()
        {
            asking.push(n);
            sent += send_due(socket, &mut clients[n], n, hub, ahead)?;
        }
        match (&*socket).read(&mut buffer) {
            Ok(length) => {
                let Some((n, nhrp)) = reply(&buffer[..length], clients.len()) else { continue };
                let now = Instant::now() + ahead;
                clients[n].handle_packet(now, IpAddr::from(hub).into(), nhrp);
                while clients[n].poll_output().is_some() {}
                if asking.contains(&n) && replies(&clients[n]) > before[n] {
                    asking.retain(|&other| other != n);
                    answered += 1;
                    last = Instant::now();
                }
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock) => {
                for &n in &asking {
                    sent += send_due(socket, &mut clients[n], n, hub, ahead)?;
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Round { per_second: f64::from(answered) / began.elapsed().as_secs_f64(), answered, sent })
}

/// Sends what a client has to say now; gives how many packets that were.
fn send_due(
    socket: &Socket,
    client: &mut Engine,
    n: usize,
    hub: Ipv4Addr,
    ahead: Duration,
) -> io::Result<u32> {
    client.handle_timeout(Instant::now() + ahead, &NoTraffic);
    let mut sent = 0;
    while let Some(output) = client.poll_output() {
        let Output::Transmit { packet, .. } = output else { continue };
        let gre = [&GRE_HEADER[..], &KEY.to_be_bytes(), &packet].concat();
        clients::send(socket, n as u32, hub, GRE, &gre)?;
        sent += 1;
    }
    Ok(sent)
}

/// For which client a packet of the hub is, and its NHRP packet.
fn reply(packet: &[u8], count: usize) -> Option<(usize, &[u8])> {
    let (n, gre) = clients::received(packet, count)?;
    Some((n, gre.strip_prefix(&GRE_HEADER)?.strip_prefix(&KEY.to_be_bytes())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_for_the_client_that_it_is_sent_to() {
        let gre = [&GRE_HEADER[..], &KEY.to_be_bytes(), b"nhrp"].concat();
        let mut packet = clients::packet(clients::HUB, clients::nbma(300), GRE, &gre);
        assert_eq!(reply(&packet, 301), Some((300, &b"nhrp"[..])));
        assert_eq!(reply(&packet, 300), None);
        packet.truncate(25);
        assert_eq!(reply(&packet, 301), None);
    }
}
