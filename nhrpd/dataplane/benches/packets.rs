//! What happens to one packet: look-up, GRE, ESP.
#![allow(missing_docs, clippy::unwrap_used)]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use dataplane::userspace::parts::{Esp, Table};
use ipnet::{IpNet, Ipv4Net};

fn esp(c: &mut Criterion) {
    let esp = Esp::new().unwrap();
    for len in [92, 1400] {
        let mut group = c.benchmark_group(format!("GRE and ESP, {len} bytes"));
        group.throughput(Throughput::Bytes(len as u64));
        let mut buffer = esp.buffer(len);
        group.bench_function("seal", |b| b.iter(|| esp.seal(black_box(&mut buffer), len).unwrap()));
        let mut out = esp.buffer(len);
        // Each can be opened once only.
        group.bench_function("seal and open", |b| {
            b.iter(|| {
                let sealed = esp.seal(&mut buffer, len).unwrap();
                esp.open(black_box(&buffer[..sealed]), &mut out).unwrap()
            });
        });
    }
}

fn lookup(c: &mut Criterion) {
    let lan = |n: u32| Ipv4Addr::from(0x0a00_0000 + (n << 6));
    let own = IpNet::from(Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 1), 12));
    let mut group = c.benchmark_group("path lookup");
    for peers in [10u32, 1_000, 10_000, 100_000] {
        let prefixes = (0..peers).map(|n| IpNet::from(Ipv4Net::new_assert(lan(n), 26)));
        let table = Table::new(own, prefixes);
        let mut n = 0;
        group.bench_function(format!("{peers} peers"), |b| {
            b.iter(|| {
                // In no order, as packets come.
                n = (n + 0x9e37) % peers;
                table.departure(IpAddr::from(lan(n))).unwrap()
            });
        });
    }
}

criterion_group!(benches, esp, lookup);
criterion_main!(benches);
