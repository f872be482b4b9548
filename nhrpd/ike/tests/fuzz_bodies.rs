//! The fuzz targets as ordinary tests: mutated real messages and noise, bounded.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "../fuzz/bodies.rs"]
mod bodies;
mod support;

use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use support::*;

/// Real messages, and noise in the shape of some.
fn corpus() -> Vec<Vec<u8>> {
    let mut net = Net::pair(1);
    net.record = Some(Vec::new());
    net.initiate(A, B);
    net.run(secs(30));
    net.record.take().into_iter().flatten().map(|flight| flight.datagram).collect()
}

fn mutate(rng: &mut ChaCha20Rng, bytes: &mut Vec<u8>) {
    for _ in 0..1 + rng.next_u32() % 4 {
        if bytes.is_empty() {
            return;
        }
        let at = rng.next_u32() as usize % bytes.len();
        match rng.next_u32() % 6 {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, rng.next_u32() as u8),
            2 => bytes[at] = 0xff,
            3 => bytes[at] = 0,
            4 => {
                bytes.remove(at);
            }
            _ => bytes[at] ^= 1 << (rng.next_u32() % 8),
        }
    }
}

/// Runs a body over mutations of `seeds`.
fn bounded(body: fn(&[u8]), seeds: &[Vec<u8>], runs: u64) {
    for seed in seeds {
        body(seed);
    }
    let mut rng = ChaCha20Rng::seed_from_u64(7);
    for _ in 0..runs {
        let mut bytes = seeds[rng.next_u32() as usize % seeds.len()].clone();
        mutate(&mut rng, &mut bytes);
        body(&bytes);
    }
}

/// Bodies of the payloads of real IKE_SA_INIT messages, each after its type.
fn payloads() -> Vec<Vec<u8>> {
    let mut found = vec![
        vec![42, 3, 4, 0, 1, 9, 9, 9, 9],
        // One selector for each address family.
        [
            &[44, 2, 0, 0, 0, 7, 47, 0, 16, 0, 0, 255, 255, 10, 0, 0, 1, 10, 0, 0, 9][..],
            &[8, 0, 0, 40, 0, 0, 255, 255],
            &[1; 32],
        ]
        .concat(),
    ];
    for message in corpus().iter().take(2) {
        let (mut kind, mut at) = (message[16], 28);
        while at < message.len() {
            let len = usize::from(u16::from_be_bytes([message[at + 2], message[at + 3]]));
            found.push([&[kind], &message[at + 4..at + len]].concat());
            (kind, at) = (message[at], at + len);
        }
    }
    found
}

fn of_kind(kind: u8) -> Vec<Vec<u8>> {
    let bodies: Vec<_> =
        payloads().into_iter().filter(|p| p[0] == kind).map(|p| p[1..].to_vec()).collect();
    assert!(!bodies.is_empty());
    bodies
}

#[test]
fn header() {
    bounded(bodies::header, &corpus(), 20_000);
}

#[test]
fn chain() {
    let chains: Vec<_> = corpus().iter().take(2).map(|m| [&[m[16]], &m[28..]].concat()).collect();
    bounded(bodies::chain, &chains, 20_000);
}

#[test]
fn payload() {
    bounded(bodies::payload, &payloads(), 20_000);
}

#[test]
fn proposals() {
    bounded(bodies::proposals, &of_kind(33), 20_000);
}

#[test]
fn notify() {
    bounded(bodies::notify, &of_kind(41), 5_000);
}

#[test]
fn delete() {
    bounded(bodies::delete, &of_kind(42), 5_000);
}

#[test]
fn selectors() {
    bounded(bodies::selectors, &of_kind(44), 20_000);
}

#[test]
fn keywords() {
    let seeds = [
        "aes256gcm16-sha384-ecp384",
        "aes256-aes128-sha256-prfsha512-modp2048-x25519-ke1_mlkem768",
        "chacha20poly1305-esn",
    ];
    let seeds: Vec<_> = seeds.iter().map(|seed| seed.as_bytes().to_vec()).collect();
    bounded(bodies::keywords, &seeds, 5_000);
}

#[test]
fn datagrams() {
    let framed = |m: &Vec<u8>| [&(m.len() as u16).to_be_bytes()[..], m].concat();
    let seeds: Vec<_> = corpus().iter().map(framed).collect();
    bounded(bodies::datagrams, &seeds, 150);
}

#[test]
fn session() {
    let mut rng = ChaCha20Rng::seed_from_u64(11);
    for _ in 0..100 {
        let mut script = vec![0; 6 * 64];
        rng.fill_bytes(&mut script);
        bodies::session(&script);
    }
}

/// What node A says to B in its whole life, as [`bodies::insider`] takes it.
fn spoken() -> Vec<Vec<u8>> {
    let mut net = bodies::telling();
    net.settle();
    for say in [Net::rekey_child, Net::update_addresses, Net::rekey] {
        say(&mut net, A);
        net.settle();
    }
    let sa = net.nodes[A].established()[0].id;
    net.close(A, sa);
    net.settle();
    let from = net.nodes[A].address;
    let opened = |flight: Flight| {
        let header = ike::wire::Header::decode(&flight.datagram).unwrap();
        let spis = (header.initiator_spi, header.responder_spi);
        let said = bodies::Insider::of(&net, Some(spis))?.open(&flight.datagram);
        said.filter(|_| flight.from == from && !header.response)
    };
    let record = net.record.clone().unwrap();
    record
        .into_iter()
        .filter_map(opened)
        .map(|(exchange, first, chain)| {
            let length = (chain.len() as u16).to_be_bytes();
            [&[exchange.0, first, 0], &length[..], &chain].concat()
        })
        .collect()
}

#[test]
fn insider() {
    let spoken = spoken();
    assert!(spoken.len() >= 4, "{}", spoken.len());
    let mut seeds = Vec::new();
    for point in 0..4 {
        for (n, said) in spoken.iter().enumerate() {
            let mut fragmented = said.clone();
            fragmented[2] = 3;
            let next = &spoken[(n + 1) % spoken.len()];
            seeds.push([&[point], &fragmented[..], next].concat());
        }
    }
    bounded(bodies::insider, &seeds, 150);
}
