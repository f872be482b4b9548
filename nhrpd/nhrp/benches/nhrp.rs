//! The codec, and how many clients a server's engine serves.
#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use ipnet::{IpNet, Ipv4Net};
use nhrp::engine::{Authorization, Config, Engine, Limits, Output, Server, Usage};
use nhrp::wire::Packet;
use rand_chacha::ChaCha12Rng;
use rand_core::SeedableRng as _;

const CLIENTS: u32 = 1_000;
const HOLDING: Duration = Duration::from_secs(600);

struct NoTraffic;

impl Usage for NoTraffic {
    fn packets(&self, _: IpNet) -> u64 {
        0
    }
}

fn tunnel(n: u32) -> IpAddr {
    Ipv4Addr::from(0xac10_0001 + n).into()
}

fn underlay(n: u32) -> IpAddr {
    Ipv4Addr::from(0x6440_0001 + n).into()
}

fn lan(n: u32) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::from(0x0a00_0000 + (n << 8)), 24)
}

/// Node 0 is the server.
fn node(n: u32, now: Instant) -> Engine {
    let server =
        Server { address: tunnel(0), nbma: Some(underlay(0).into()), priority: 0, cluster: 0 };
    let config = Config {
        address: IpNet::new_assert(tunnel(n), 12),
        nbma: Some(underlay(n)),
        holding_time: HOLDING,
        authentication: None,
        servers: (n > 0).then_some(server).into_iter().collect(),
        maps: Vec::new(),
        advertise: (n > 0).then(|| lan(n).into()).into_iter().collect(),
        unique: true,
        accept_registrations: n == 0,
        redirect: n == 0,
        shortcut: n > 0,
        default_authorization: Some(Authorization::Any),
        limits: Limits { packets_per_peer: u32::MAX, ..Limits::default() },
    };
    Engine::new(config, now, &mut ChaCha12Rng::seed_from_u64(n.into()))
}

fn packets(engine: &mut Engine) -> Vec<Vec<u8>> {
    let transmit = |output| match output {
        Output::Transmit { packet, .. } => Some(packet),
        Output::Event(_) => None,
    };
    std::iter::from_fn(|| engine.poll_output()).filter_map(transmit).collect()
}

/// A client registers all it has at the server; gives its requests.
fn register(server: &mut Engine, n: u32, now: Instant) -> (Engine, Vec<Vec<u8>>) {
    let mut client = node(n, now);
    let mut all = Vec::new();
    client.handle_timeout(now, &NoTraffic);
    loop {
        let requests = packets(&mut client);
        if requests.is_empty() {
            return (client, all);
        }
        for request in requests {
            server.handle_packet(now, underlay(n).into(), &request);
            for reply in packets(server) {
                client.handle_packet(now, underlay(0).into(), &reply);
            }
            all.push(request);
        }
    }
}

fn serve(server: &mut Engine, now: Instant, requests: &[(u32, Vec<u8>)]) {
    for (n, request) in requests {
        server.handle_packet(now, underlay(*n).into(), request);
        while server.poll_output().is_some() {}
    }
}

fn codec(c: &mut Criterion) {
    let (_, requests) = register(&mut node(0, Instant::now()), 1, Instant::now());
    let bytes = &requests[0];
    let packet = Packet::decode(bytes).unwrap();
    let mut group = c.benchmark_group("registration request");
    group.bench_function("decode", |b| b.iter(|| Packet::decode(black_box(bytes)).unwrap()));
    group.bench_function("encode", |b| b.iter(|| black_box(&packet).encode()));
}

/// A thousand clients: time for one request each of theirs.
fn engine(c: &mut Criterion) {
    let start = Instant::now();
    let mut served = node(0, start);
    let mut clients = Vec::new();
    let mut requests = Vec::new();
    for n in 1..=CLIENTS {
        let (client, sent) = register(&mut served, n, start);
        clients.push(client);
        requests.extend(sent.into_iter().map(|request| (n, request)));
    }
    assert_eq!(served.bindings().count(), 2 * CLIENTS as usize);
    let mut resolutions = Vec::new();
    for (client, n) in clients.iter_mut().zip(1..) {
        client.resolve(start, lan(n % CLIENTS + 1).hosts().next().unwrap().into());
        resolutions.extend(packets(client).into_iter().map(|request| (n, request)));
    }
    assert_eq!(resolutions.len(), CLIENTS as usize);

    let mut group = c.benchmark_group("engine");
    group.throughput(criterion::Throughput::Elements(requests.len() as u64));
    group.bench_function("registrations", |b| {
        let fresh = || node(0, start);
        b.iter_batched(
            fresh,
            |mut server| serve(&mut server, start, &requests),
            BatchSize::PerIteration,
        );
    });
    group.bench_function("renewals", |b| b.iter(|| serve(&mut served, start, &requests)));
    group.throughput(criterion::Throughput::Elements(resolutions.len() as u64));
    group.bench_function("resolutions", |b| b.iter(|| serve(&mut served, start, &resolutions)));
}

criterion_group!(benches, codec, engine);
criterion_main!(benches);
