//! What each fuzz target does with its bytes. The same bodies run as ordinary, bounded tests in
//! `tests/fuzz_bodies.rs`.
#![allow(unreachable_pub, clippy::unwrap_used)]

use ike::wire::{self, Delete, Encrypted, Header, Notify, Payload, proposal, selector};

use crate::support::{A, Authority, B, Net, address, ms, secs};

pub fn header(bytes: &[u8]) {
    if let Ok(header) = Header::decode(bytes) {
        let again = header.encode(bytes.len() - wire::HEADER_LEN);
        assert_eq!(Header::decode(&[&again, &bytes[wire::HEADER_LEN..]].concat()), Ok(header));
        if let Ok(encrypted) = Encrypted::decode(&header, bytes) {
            assert_eq!([encrypted.associated, encrypted.body].concat(), bytes);
        }
        if let Ok(payloads) = wire::decode_plain(&header, bytes) {
            let again = wire::encode_plain(header, &payloads);
            let header = Header::decode(&again).unwrap();
            assert_eq!(wire::decode_plain(&header, &again), Ok(payloads));
        }
    }
}

/// The first byte is the type of the first payload.
pub fn chain(bytes: &[u8]) {
    let Some((&first, bytes)) = bytes.split_first() else { return };
    if let Ok(payloads) = wire::decode_chain(first, bytes) {
        let (first, again) = wire::encode_chain(&payloads);
        assert!(again.len() <= bytes.len());
        assert_eq!(wire::decode_chain(first, &again), Ok(payloads));
    }
}

/// The first byte is the payload's type.
pub fn payload(bytes: &[u8]) {
    let Some((&kind, body)) = bytes.split_first() else { return };
    if let Ok(Some(payload)) = Payload::decode(kind, body) {
        let (first, again) = wire::encode_chain(std::slice::from_ref(&payload));
        assert_eq!(first, kind);
        assert_eq!(wire::decode_chain(first, &again), Ok(vec![payload]));
    }
}

pub fn proposals(bytes: &[u8]) {
    if let Ok(proposals) = proposal::decode(bytes) {
        assert!(proposals.iter().map(|p| 8 + 8 * p.transforms.len()).sum::<usize>() <= bytes.len());
        payload(&[&[33], bytes].concat());
    }
}

pub fn notify(bytes: &[u8]) {
    if let Ok(notify) = Notify::decode(bytes) {
        assert_eq!(4 + notify.spi.len() + notify.data.len(), bytes.len());
        payload(&[&[41], bytes].concat());
    }
}

pub fn delete(bytes: &[u8]) {
    if let Ok(delete) = Delete::decode(bytes) {
        assert!(delete.spis.len() <= bytes.len());
        payload(&[&[42], bytes].concat());
    }
}

pub fn selectors(bytes: &[u8]) {
    if let Ok(selectors) = selector::decode(bytes) {
        assert!(16 * selectors.len() <= bytes.len());
        payload(&[&[44], bytes].concat());
    }
}

/// Proposals as an operator writes them.
pub fn keywords(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = ike::EspProposal::parse(text);
    if let Err(error) = ike::Combination::parse(text) {
        assert!(error.to_string().len() < 2 * text.len() + 600);
    }
}

fn pair() -> Net {
    thread_local!(static AUTHORITY: Authority = Authority::new());
    AUTHORITY.with(|authority| Net::pair_of(1, authority))
}

/// The bytes are datagrams, each after its length in two bytes, to a node that has an SA.
pub fn datagrams(bytes: &[u8]) {
    let mut net = pair();
    net.initiate(A, B);
    net.settle();
    let mut rest = bytes;
    while let Some((len, tail)) = rest.split_first_chunk() {
        let (datagram, tail) = tail.split_at(tail.len().min(u16::from_be_bytes(*len).into()));
        rest = tail;
        net.inject(B, address("198.51.100.1:500"), datagram);
        net.run(ms(100));
    }
    net.run(secs(60));
    net.assert_one_sa();
    assert_eq!(net.nodes[B].engine.half_open(), 0);
}

/// The bytes say which messages of a real session are changed how, from where, and when they
/// come: six bytes each.
pub fn session(bytes: &[u8]) {
    let mut net = pair();
    net.record = Some(Vec::new());
    net.initiate(A, B);
    for (step, &[which, at, offset, xor, from, wait]) in bytes.as_chunks().0.iter().enumerate() {
        let record = net.record.as_ref().unwrap();
        let flight = record[usize::from(which) % record.len()].clone();
        let mut datagram = flight.datagram;
        let at = (usize::from(at) * 16 + usize::from(offset)) % datagram.len();
        datagram[at] ^= xor;
        let from = if from & 1 == 0 { flight.from } else { address("198.51.100.1:500") };
        let to = if flight.to == net.nodes[A].address { A } else { B };
        net.inject(to, from, &datagram);
        net.run(ms(wait.into()));
        if step % 16 == 15 {
            net.initiate(step / 16 % 2, 1 - step / 16 % 2);
        }
    }
    net.run(secs(80));
    for node in &net.nodes {
        assert!(node.established().len() <= 1);
        assert_eq!(node.engine.half_open(), 0);
    }
}
