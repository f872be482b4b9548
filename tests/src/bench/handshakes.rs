//! A hub to which thousands of peers come by IKEv2, beside strongSwan's charon, in Debian's kernel.
//!
//! The peers are IKE engines of ours in one process, each behind an NBMA address of its own, with
//! a certificate of its own. Every one ends with an IKE SA and a pair of ESP SAs in the hub's kernel.

use std::collections::VecDeque;
use std::io::{self, Read as _};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use ike::{Algorithms, Config, Engine, EspProposal, Event, Output, TunnelKind};
use lab::Daemon;
use pki::authority::Request;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng as _;
use serde::Serialize;
use socket2::Socket;

use super::clients;
use super::measure::{cpu_seconds, status};
use crate::e2e::ipsec::{Connection, Credentials, Foreign, Secret};
use crate::e2e::{Ca, Numbers, Site, days, good, on_network_of, until};
use crate::matrix::Peer;

/// What both hubs are asked for.
pub const IKE: &str = "aes256gcm16-prfsha256-x25519";
/// The same for ESP.
pub const ESP: &str = "aes256gcm16-esn";
const PORT: u16 = 4500;
const UDP: u8 = 17;
const UDP_HEADER: usize = 8;
/// RFC 3948 §2.2: before IKE on port 4500.
const MARKER: [u8; 4] = [0; 4];
/// Handshakes at one time: few enough that nobody is asked for a cookie.
const WINDOW: usize = 8;
/// No handshake at all for so long is a failure.
const PATIENCE: Duration = Duration::from_secs(30);
/// First tunnel address of the peers.
const TUNNEL: Ipv4Addr = Ipv4Addr::new(172, 16, 16, 0);

/// A responder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Hub {
    /// This project, kernel data plane.
    Nhrpd,
    /// strongSwan's charon-systemd.
    Charon,
}

impl std::fmt::Display for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Nhrpd => "nhrpd",
            Self::Charon => "strongSwan (charon-systemd)",
        })
    }
}

/// What a hub needed for all its peers.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    /// Who.
    pub hub: Hub,
    /// Handshakes in a second of the clock, up to the SAs in the kernel; the peers run on the
    /// same processors.
    pub per_second: f64,
    /// CPU time of the daemon for one, in milliseconds.
    pub cpu_ms: f64,
    /// Resident memory of the daemon before the first peer, in KiB.
    pub idle_kib: f64,
    /// And with all of them.
    pub full_kib: f64,
}

/// Starts the hub, lets so many peers come, and reads off what it took.
///
/// # Errors
/// When not all of them get an SA, in words.
pub fn measure(hub: Hub, count: u32) -> Result<Measured, String> {
    let ca = Ca::new("Overlay CA");
    let mut scene = clients::scene("handshakes", &ca, |hub| {
        hub.set("limits", "{ peers: 20000, dead-peer-interval: 3600 }")
    });
    let peers: Vec<Credentials> =
        (0..count).map(|n| Credentials::new(&certificate(&ca, n))).collect();
    let folder = good("make a folder", tempfile::tempdir());
    let charon = match hub {
        Hub::Nhrpd => {
            scene.start("hub");
            scene.dmvpn("hub", "answers", |_| true);
            None
        }
        Hub::Charon => {
            let identity = ca.issue(&Site::request(Numbers::default(), 0));
            let connection = Connection {
                local: clients::HUB.to_string(),
                remote: "%any".into(),
                port: 4500,
                proof: Secret::Certificate(identity),
                ike: Some(IKE.into()),
                esp: Some(ESP.into()),
                trap: false,
                quiet: true,
            };
            Some(Foreign::start(Peer::StrongSwan, scene.node("hub"), folder.path(), connection))
        }
    };
    let daemon = charon.as_ref().map_or(scene.daemons.get("hub"), Foreign::daemon);
    let pid = daemon.map(Daemon::pid).ok_or("the hub does not run")?;
    let (idle_kib, before) = (status(pid, "VmRSS:")?, cpu_seconds(pid)?);
    let began = Instant::now();
    let came =
        on_network_of(scene.node("spoke-a"), || connect(&peers)).map_err(|e| e.to_string())?;
    if came < count {
        return Err(format!("{came} of {count} peers have an SA"));
    }
    until("all ESP SAs in the kernel", || {
        let told = scene.run("hub", "ip xfrm state count");
        let there = told.split_whitespace().find_map(|word| word.parse::<u32>().ok());
        (there >= Some(2 * count)).then_some(())
    });
    let elapsed = began.elapsed().as_secs_f64();
    Ok(Measured {
        hub,
        per_second: f64::from(count) / elapsed,
        cpu_ms: (cpu_seconds(pid)? - before) * 1e3 / f64::from(count),
        idle_kib,
        full_kib: status(pid, "VmRSS:")?,
    })
}

fn certificate(ca: &Ca, n: u32) -> crate::e2e::Identity {
    let mut request = Request::new(format!("peer-{n}"), days(5, 50));
    request.addresses.push(clients::plus(TUNNEL, n).into());
    ca.issue(&request)
}

/// One that comes.
struct Client<'a> {
    engine: Engine,
    credentials: &'a Credentials,
    rng: ChaCha20Rng,
}

impl<'a> Client<'a> {
    /// Begins a handshake.
    fn new(n: usize, credentials: &'a Credentials) -> Self {
        let config = Config {
            algorithms: good("read the proposal", Algorithms::parse(&[IKE])),
            esp: vec![good("read the proposal", EspProposal::parse(ESP))],
            tunnels: vec![TunnelKind::Esp],
            ..Config::default()
        };
        let mut rng = ChaCha20Rng::seed_from_u64(n as u64);
        let mut engine = Engine::new(config);
        let now = Instant::now();
        engine.update_addresses(now, Some(clients::nbma(n as u32).into()), &mut rng);
        engine.initiate(now, SocketAddr::from((clients::HUB, PORT)), credentials, &mut rng);
        Self { engine, credentials, rng }
    }

    /// Sends what it has to; has it its SA?
    fn speak(&mut self, socket: &Socket, n: usize) -> io::Result<bool> {
        let mut up = false;
        while let Some(output) = self.engine.poll_output() {
            match output {
                Output::Transmit { datagram, .. } => {
                    let message = [&MARKER[..], &datagram].concat();
                    let length = (UDP_HEADER + message.len()) as u16;
                    let header = [PORT, PORT, length, 0].map(u16::to_be_bytes).concat();
                    let udp = [header, message].concat();
                    clients::send(socket, n as u32, clients::HUB, UDP, &udp)?;
                }
                Output::Event(Event::Established { .. }) => up = true,
                Output::Event(Event::Failed { reason, .. }) => {
                    return Err(io::Error::other(reason));
                }
                _ => {}
            }
        }
        Ok(up)
    }
}

/// Some at a time, until all have an SA; how many have one.
fn connect(peers: &[Credentials]) -> io::Result<u32> {
    // What comes to this port is for the raw socket; without it the kernel would refuse it.
    let _port = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT))?;
    let socket = clients::socket(UDP)?;
    let mut waiting: VecDeque<usize> = (0..peers.len()).collect();
    let mut busy: Vec<(usize, Client<'_>)> = Vec::new();
    let mut up = 0;
    let mut last = Instant::now();
    let mut buffer = [0; 65536];
    while (up as usize) < peers.len() && last.elapsed() < PATIENCE {
        while busy.len() < WINDOW
            && let Some(n) = waiting.pop_front()
        {
            let mut client = Client::new(n, &peers[n]);
            client.speak(&socket, n)?;
            busy.push((n, client));
        }
        match (&socket).read(&mut buffer) {
            Ok(length) => {
                let Some((n, message)) = message(&buffer[..length], peers.len()) else { continue };
                let Some(at) = busy.iter().position(|(other, _)| *other == n) else { continue };
                let Client { engine, credentials, rng } = &mut busy[at].1;
                let from = (PORT, SocketAddr::from((clients::HUB, PORT)));
                engine.handle_datagram(Instant::now(), from, message, *credentials, rng);
                if busy[at].1.speak(&socket, n)? {
                    busy.swap_remove(at);
                    up += 1;
                    last = Instant::now();
                }
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock) => {
                for (n, client) in &mut busy {
                    client.engine.handle_timeout(Instant::now(), &mut client.rng);
                    client.speak(&socket, *n)?;
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(up)
}

/// For which client a packet of the hub is, and its IKE message.
fn message(packet: &[u8], count: usize) -> Option<(usize, &[u8])> {
    let (n, udp) = clients::received(packet, count)?;
    Some((n, udp.get(UDP_HEADER..)?.strip_prefix(&MARKER)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_for_the_client_that_it_is_sent_to() {
        let udp = [&[0; UDP_HEADER][..], &MARKER, b"ike"].concat();
        let ike = clients::packet(clients::HUB, clients::nbma(7), UDP, &udp);
        assert_eq!(message(&ike, 8), Some((7, &b"ike"[..])));
        assert_eq!(message(&ike, 7), None);
        let esp = clients::packet(clients::HUB, clients::nbma(7), UDP, &[1; 40]);
        assert_eq!(message(&esp, 8), None);
    }
}
