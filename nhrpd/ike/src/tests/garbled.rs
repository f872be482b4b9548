//! What a peer may say that has the keys, at every point of an SA's life: real messages, changed and
//! then sealed. Whatever it is, nothing panics, nothing is kept for ever, and the next SA comes up.

use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

use super::only_sa;
use crate::sa::State;
use crate::support::{A, Authority, B, Net, ms, secs};
use crate::wire::{Encrypted, Exchange, Header};
use crate::{Config, TunnelKind};

/// A message without its protection: exchange, type of the first payload, chain.
type Plain = (Exchange, u8, Vec<u8>);

const RUNS: u64 = 120;
/// When A has sent IKE_INTERMEDIATE and IKE_AUTH, each half a round trip from B.
const INTERMEDIATE_SENT: u64 = 25;
const AUTH_SENT: u64 = 45;

fn pair(authority: &Authority, seed: u64) -> Net {
    let config = Config { tunnels: vec![TunnelKind::Esp], ..Config::default() };
    let mut net = Net::pair_as(seed, authority, config.clone(), config);
    net.record = Some(Vec::new());
    net.initiate(A, B);
    net
}

/// The newest message of A, as B will read it.
fn newest(net: &mut Net) -> Plain {
    let from = net.nodes[A].address;
    let record = net.record.as_ref().unwrap();
    let datagram = record.iter().rfind(|flight| flight.from == from).unwrap().datagram.clone();
    let header = Header::decode(&datagram).unwrap();
    let encrypted = Encrypted::decode(&header, &datagram).unwrap();
    let plain = only_sa(net, B).channel.as_ref().unwrap().open(&encrypted).unwrap();
    (header.exchange, encrypted.first, plain.to_vec())
}

fn garble(rng: &mut ChaCha20Rng, (_, first, chain): &mut Plain) {
    if rng.next_u32().is_multiple_of(16) {
        *first = rng.next_u32() as u8;
    }
    for _ in 0..1 + rng.next_u32() % 4 {
        if chain.is_empty() {
            return;
        }
        let at = rng.next_u32() as usize % chain.len();
        match rng.next_u32() % 5 {
            0 => chain.truncate(at),
            1 => chain.insert(at, rng.next_u32() as u8),
            2 => chain[at] = [0, 0xff][at % 2],
            3 => drop(chain.remove(at)),
            _ => chain[at] ^= 1 << (rng.next_u32() % 8),
        }
    }
}

/// Sends it from A with A's keys, as the next request.
fn say(net: &mut Net, (exchange, first, chain): Plain) {
    let from = net.nodes[A].address;
    let Some(sa) = net.nodes[A].engine.sas.values_mut().next() else { return };
    let id = sa.outstanding.as_ref().map_or(sa.next_request, |o| o.message_id);
    let header = sa.header(exchange, false, id);
    sa.next_request = id + 1;
    let datagram = sa.channel.as_mut().unwrap().seal_chain(header, first, chain);
    net.inject(B, from, &datagram);
}

fn assert_over(net: &mut Net) {
    net.run(secs(120));
    assert_eq!(net.nodes[B].engine.half_open(), 0);
    assert!(net.nodes[B].engine.sas.len() <= 2);
    net.initiate(A, B);
    net.run(secs(60));
    assert!(!net.nodes[A].established().is_empty() && !net.nodes[B].established().is_empty());
}

#[test]
fn before_it_is_authenticated() {
    let authority = Authority::new();
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    for at in [INTERMEDIATE_SENT, AUTH_SENT] {
        for seed in 0..RUNS / 4 {
            let mut net = pair(&authority, seed);
            net.run(ms(at));
            assert!(matches!(only_sa(&mut net, B).state, State::HalfOpen(_)));
            let mut message = newest(&mut net);
            net.drop_in_flight(|_| true);
            garble(&mut rng, &mut message);
            say(&mut net, message);
            assert_over(&mut net);
        }
    }
}

#[test]
fn when_it_is_up() {
    let authority = Authority::new();
    let mut rng = ChaCha20Rng::seed_from_u64(2);
    let begin: [fn(&mut Net); 4] = [
        |net| net.rekey(A),
        |net| net.rekey_child(A),
        |net| net.update_addresses(A),
        |net| {
            let sa = net.nodes[A].established()[0].id;
            net.close(A, sa);
        },
    ];
    for seed in 0..RUNS / 2 {
        let mut net = pair(&authority, seed);
        net.settle();
        net.assert_one_sa();
        begin[seed as usize % begin.len()](&mut net);
        let message = newest(&mut net);
        net.drop_in_flight(|_| true);
        for _ in 0..8 {
            let mut message = message.clone();
            garble(&mut rng, &mut message);
            message.0 = [Exchange::INFORMATIONAL, Exchange::CREATE_CHILD_SA, message.0]
                [rng.next_u32() as usize % 3];
            say(&mut net, message);
            if net.nodes[A].engine.sas.values().all(|sa| sa.outstanding.is_some()) {
                net.drop_in_flight(|_| true);
            }
        }
        assert_over(&mut net);
    }
}
