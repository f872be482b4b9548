//! The codec, and how many key exchanges a responder answers: certificates with Ed25519, X25519 and
//! ML-KEM-768.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use ike::wire::{Header, decode_plain, encode_plain};
use support::{A, Authority, B, Net};

fn first_message() -> Vec<u8> {
    let mut net = Net::pair(1);
    net.record = Some(Vec::new());
    net.initiate(A, B);
    net.record.unwrap().remove(0).datagram
}

fn codec(c: &mut Criterion) {
    let datagram = first_message();
    let header = Header::decode(&datagram).unwrap();
    let payloads = decode_plain(&header, &datagram).unwrap();
    let mut group = c.benchmark_group("IKE_SA_INIT");
    group.bench_function("decode", |b| {
        b.iter(|| {
            let header = Header::decode(black_box(&datagram)).unwrap();
            decode_plain(&header, &datagram).unwrap()
        });
    });
    group.bench_function("encode", |b| b.iter(|| encode_plain(header, black_box(&payloads))));
}

/// One key exchange; the responder's own time.
fn respond(authority: &Authority, seed: u64) -> Duration {
    let mut net = Net::pair_of(seed, authority);
    net.initiate(A, B);
    net.settle();
    assert_eq!(net.nodes[B].up.len(), 1);
    net.nodes[B].busy
}

fn responder(c: &mut Criterion) {
    let authority = Authority::new();
    let mut seed = 0;
    c.bench_function("responder, one key exchange", |b| {
        b.iter_custom(|count| {
            let one = |_| {
                seed += 1;
                respond(&authority, seed)
            };
            (0..count).map(one).sum()
        });
    });
}

criterion_group!(benches, codec, responder);
criterion_main!(benches);
