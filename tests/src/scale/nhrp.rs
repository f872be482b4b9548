//! A hub's NHRP engine and many clients, without a network between them.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use ipnet::{IpNet, Ipv4Net};
use nhrp::engine::{Authorization, Config, Engine, Limits, Nbma, Output, Server, Usage};
use rand_chacha::ChaCha12Rng;
use rand_core::SeedableRng as _;

pub(super) const HOLDING: Duration = Duration::from_secs(600);

/// Nothing is used.
pub(crate) struct NoTraffic;

impl Usage for NoTraffic {
    fn packets(&self, _: IpNet) -> u64 {
        0
    }
}

pub(super) fn address(base: [u8; 4], n: u32) -> IpAddr {
    Ipv4Addr::from(u32::from(Ipv4Addr::from(base)) + n).into()
}

pub(super) fn underlay(n: u32) -> Nbma {
    address([100, 64, 0, 1], n).into()
}

pub(super) fn lan(n: u32) -> IpNet {
    let base = u32::from(Ipv4Addr::new(10, 0, 0, 0));
    Ipv4Net::new_assert(Ipv4Addr::from(base + (n << 6)), 26).into()
}

pub(super) fn tunnel(n: u32) -> IpAddr {
    address([172, 16, 0, 1], n)
}

/// Node 0 is the hub.
pub(super) fn config(n: u32) -> Config {
    let hub = n == 0;
    let server = Server { address: tunnel(0), nbma: Some(underlay(0)), priority: 0, cluster: 0 };
    Config {
        address: IpNet::new(tunnel(n), 12).expect("12 bits are within 32"),
        nbma: Some(underlay(n).address),
        holding_time: HOLDING,
        authentication: None,
        servers: if hub { Vec::new() } else { vec![server] },
        maps: Vec::new(),
        advertise: if hub { Vec::new() } else { vec![lan(n)] },
        unique: true,
        accept_registrations: hub,
        redirect: hub,
        shortcut: !hub,
        default_authorization: Some(Authorization::Any),
        limits: Limits { cache_entries: 1 << 20, ..Limits::default() },
    }
}

pub(super) fn engine(n: u32, start: Instant) -> Engine {
    Engine::new(config(n), start, &mut ChaCha12Rng::seed_from_u64(n.into()))
}

/// Packets of an engine; its events are dropped.
fn packets(engine: &mut Engine) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| engine.poll_output())
        .filter_map(|output| match output {
            Output::Transmit { packet, .. } => Some(packet),
            Output::Event(_) => None,
        })
        .collect()
}

/// Every client runs what is due and hears the hub's answers; requests that the hub answered in a
/// second.
fn round(hub: &mut Engine, clients: &mut [Engine], now: Instant) -> f64 {
    let (mut busy, mut count) = (Duration::ZERO, 0);
    for (client, n) in clients.iter_mut().zip(1..) {
        client.handle_timeout(now, &NoTraffic);
        loop {
            let requests = packets(client);
            if requests.is_empty() {
                break;
            }
            for request in requests {
                let began = Instant::now();
                hub.handle_packet(now, underlay(n), &request);
                let replies = packets(hub);
                busy += began.elapsed();
                count += 1;
                for reply in replies {
                    client.handle_packet(now, underlay(0), &reply);
                }
            }
        }
    }
    f64::from(count) / busy.as_secs_f64()
}

/// Requests that the hub answered in a second of its own time.
#[derive(Debug, Clone, Copy)]
pub struct Rates {
    /// Registrations of what was not known.
    pub new: f64,
    /// Renewals.
    pub renewed: f64,
    /// Bindings that the hub holds in the end.
    pub bindings: usize,
}

/// So many clients, each with an address and a LAN, register and then renew.
pub fn registrations(count: u32) -> Rates {
    let start = Instant::now();
    let mut hub = engine(0, start);
    let mut clients: Vec<Engine> = (1..=count).map(|n| engine(n, start)).collect();
    let new = round(&mut hub, &mut clients, start);
    let later = start + HOLDING / 3;
    hub.handle_timeout(later, &NoTraffic);
    let renewed = round(&mut hub, &mut clients, later);
    Rates { new, renewed, bindings: hub.bindings().count() }
}

/// The first request of client `n`.
pub fn registration(n: u32) -> Vec<u8> {
    let start = Instant::now();
    let mut client = engine(n, start);
    client.handle_timeout(start, &NoTraffic);
    packets(&mut client).swap_remove(0)
}

/// A server where so many clients have registered their addresses, and the time.
pub fn server(clients: u32) -> (Engine, Instant) {
    let start = Instant::now();
    let mut hub = engine(0, start);
    for n in 1..=clients {
        serve(&mut hub, n, &registration(n), start);
    }
    (hub, start)
}

/// The server answers a request of client `n`.
pub fn serve(server: &mut Engine, n: u32, request: &[u8], now: Instant) {
    server.handle_packet(now, underlay(n), request);
    packets(server);
}
