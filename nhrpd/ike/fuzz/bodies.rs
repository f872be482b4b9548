//! What each fuzz target does with its bytes. The same bodies run as ordinary, bounded tests in
//! `tests/fuzz_bodies.rs`.
#![allow(unreachable_pub, clippy::unwrap_used)]

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use ike::wire::{
    self, Delete, Encrypted, Exchange, Fragment, Header, Notify, Payload, proposal, selector,
};
use ike::{Config, KeyLog, TunnelKind};

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

/// Lengths of AES-256-GCM in IKE (RFC 5282 §3).
const KEY: usize = 32;
const IV: usize = 8;
const TAG: usize = 16;

/// What node A seals with, as its key log has it.
pub struct Insider {
    key: LessSafeKey,
    salt: [u8; 4],
    spis: (u64, u64),
    sealed: u64,
}

impl Insider {
    /// With the newest keys of the IKE SA with these SPIs; of the newest one where there are none.
    pub fn of(net: &Net, spis: Option<(u64, u64)>) -> Option<Self> {
        let found = net.nodes[A].key_log.iter().rev().find_map(|line| {
            let KeyLog::Ike(line) = line else { return None };
            let mut fields = line.split(',');
            let mut spi = || u64::from_str_radix(fields.next()?, 16).ok();
            let own = (spi()?, spi()?);
            (spis.is_none() || spis == Some(own)).then(|| (own, fields.next().unwrap()))
        });
        let (spis, digits) = found?;
        let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
        let secret: Vec<u8> = (0..digits.len()).step_by(2).map(byte).collect();
        let (key, salt) = secret.split_at(KEY);
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).unwrap());
        Some(Self { key, salt: salt.try_into().unwrap(), spis, sealed: 1 << 32 })
    }

    fn nonce(&self, iv: [u8; IV]) -> Nonce {
        let mut nonce = [0; 12];
        nonce[..4].copy_from_slice(&self.salt);
        nonce[4..].copy_from_slice(&iv);
        Nonce::assume_unique_for_key(nonce)
    }

    /// The chain in a message of A, after its exchange and the type of its first payload.
    pub fn open(&self, message: &[u8]) -> Option<(Exchange, u8, Vec<u8>)> {
        let header = Header::decode(message).ok()?;
        let encrypted = Encrypted::decode(&header, message).ok()?;
        let (iv, sealed) = encrypted.body.split_first_chunk()?;
        let mut plain = sealed.to_vec();
        let associated = Aad::from(encrypted.associated);
        let len = self.key.open_in_place(self.nonce(*iv), associated, &mut plain).ok()?.len();
        plain.truncate(len);
        let padding = usize::from(*plain.last()?) + 1;
        plain.truncate(len.checked_sub(padding)?);
        Some((header.exchange, encrypted.first, plain))
    }

    /// One message, or one fragment of one.
    fn seal(
        &mut self,
        said: &Said<'_>,
        id: u32,
        fragment: Option<Fragment>,
        part: &[u8],
    ) -> Vec<u8> {
        let header = Header {
            initiator_spi: self.spis.0,
            responder_spi: self.spis.1,
            next_payload: if fragment.is_some() { 53 } else { 46 },
            version: Header::VERSION,
            exchange: said.exchange,
            from_initiator: true,
            response: said.response,
            message_id: id,
        };
        let numbers = fragment.map_or(Vec::new(), |fragment| {
            [fragment.number.to_be_bytes(), fragment.total.to_be_bytes()].concat()
        });
        let mut sealed = [part, &[0]].concat();
        let len = wire::PAYLOAD_HEADER_LEN + numbers.len() + IV + sealed.len() + TAG;
        let first =
            if fragment.is_none_or(|fragment| fragment.number == 1) { said.first } else { 0 };
        let mut message = header.encode(len);
        message.extend([first, 0]);
        message.extend((len as u16).to_be_bytes());
        message.extend(numbers);
        self.sealed += 1;
        let iv = self.sealed.to_be_bytes();
        let (nonce, associated) = (self.nonce(iv), Aad::from(&message));
        self.key.seal_in_place_append_tag(nonce, associated, &mut sealed).unwrap();
        [message, iv.to_vec(), sealed].concat()
    }
}

/// What an insider says.
struct Said<'a> {
    exchange: Exchange,
    first: u8,
    response: bool,
    /// In so many fragments; 0 for none.
    fragments: u8,
    /// The last fragment does not come.
    partial: bool,
    /// The message is not the next one.
    skips: bool,
    chain: &'a [u8],
}

impl<'a> Said<'a> {
    fn take(bytes: &mut &'a [u8]) -> Option<Self> {
        let (&[exchange, first, shape, high, low], rest) = bytes.split_first_chunk()?;
        let (chain, rest) = rest.split_at(rest.len().min(u16::from_be_bytes([high, low]).into()));
        *bytes = rest;
        let exchange = Exchange(exchange);
        let [response, partial, skips] = [0x80, 0x40, 0x20].map(|bit| shape & bit != 0);
        Some(Self { exchange, first, response, fragments: shape & 7, partial, skips, chain })
    }
}

/// Two nodes that tell their keys, with ESP.
pub fn telling() -> Net {
    thread_local!(static AUTHORITY: Authority = Authority::new());
    let config = Config { tunnels: vec![TunnelKind::Esp], key_log: true, ..Config::default() };
    let mut net = AUTHORITY.with(|a| Net::pair_as(1, a, config.clone(), config));
    net.record = Some(Vec::new());
    net.initiate(A, B);
    net
}

/// The first byte says at which point of an SA's life its initiator begins to say what follows,
/// sealed with the SA's keys: before IKE_INTERMEDIATE, before IKE_AUTH, when it is up, when the
/// responder waits for an answer. Then exchange, type of the first payload, shape, length in two
/// bytes, and payloads, again and again.
pub fn insider(bytes: &[u8]) {
    let Some((&point, mut rest)) = bytes.split_first() else { return };
    let mut net = telling();
    // Half a round trip takes 10 ms.
    let mut id = match point % 4 {
        0 => {
            net.run(ms(25));
            1
        }
        1 => {
            net.run(ms(45));
            2
        }
        up => {
            net.settle();
            if up == 3 {
                net.rekey_child(B);
            }
            3
        }
    };
    net.drop_in_flight(|_| true);
    let mut insider = Insider::of(&net, None).unwrap();
    let from = net.nodes[A].address;
    while let Some(said) = Said::take(&mut rest) {
        let this = if said.response { 0 } else { id + u32::from(said.skips) };
        let total = u16::from(said.fragments);
        if total == 0 {
            net.inject(B, from, &insider.seal(&said, this, None, said.chain));
        } else {
            let pieces = said.chain.chunks(said.chain.len().div_ceil(total.into()).max(1));
            for (piece, number) in pieces.zip(1..).take((total - u16::from(said.partial)).into()) {
                let fragment = Fragment { number, total };
                net.inject(B, from, &insider.seal(&said, this, Some(fragment), piece));
            }
        }
        id += u32::from(!said.response);
        net.run(ms(15));
    }
    net.run(secs(120));
    assert_eq!(net.nodes[B].engine.half_open(), 0);
    assert!(net.nodes[B].engine.sas().count() <= 2);
    net.initiate(A, B);
    net.run(secs(60));
    assert!(!net.nodes[A].established().is_empty() && !net.nodes[B].established().is_empty());
}
