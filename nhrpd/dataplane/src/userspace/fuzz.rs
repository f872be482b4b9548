//! What each fuzz target does with its bytes, and the same as ordinary, bounded tests: whatever a
//! stranger or a peer sends ends in a value or a [`Reason`].
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use overlay::desired::{EspCipher, EspKeys};

use super::coalesce::Coalescer;
use super::esp::{self, Opener};
use super::gre;
use super::icmp;
use super::ip::{self, Header};
use super::tun::Offloads;

const KEY: u32 = 42;
const SPI: u32 = 0x1234_5678;

fn keys() -> EspKeys {
    EspKeys { spi: SPI, encryption: vec![7; 36].into(), integrity: Vec::new().into() }
}

/// Bytes of a stranger, who has no keys.
pub fn esp(bytes: &[u8]) {
    for cipher in esp::CIPHERS {
        let mut keys = keys();
        keys.encryption.truncate(cipher.key_lens().0);
        let opener = Opener::new(cipher, bytes.len().is_multiple_of(2), &keys).unwrap();
        assert!(opener.open(bytes, &mut vec![0; bytes.len()]).is_err(), "nobody sealed it");
    }
}

/// What a peer with the right keys seals: two octets of the sequence number, then all that is
/// encrypted, with a trailer that may lie; and what is done with what comes out.
pub fn esp_insider(bytes: &[u8]) {
    let opener = Opener::new(EspCipher::Aes256Gcm16, false, &keys()).unwrap();
    let Some((number, plain)) = bytes.split_first_chunk::<2>() else { return };
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[7; 32]).unwrap());
    let front = [&SPI.to_be_bytes()[..], &[0; 2], number, &[9; 8]].concat();
    let nonce = Nonce::assume_unique_for_key([7, 7, 7, 7, 9, 9, 9, 9, 9, 9, 9, 9]);
    let mut sealed = plain.to_vec();
    key.seal_in_place_append_tag(nonce, Aad::from(&front[..8]), &mut sealed).unwrap();
    let packet = [&front[..], &sealed].concat();
    let mut out = vec![0; packet.len()];
    if let Ok(len) = opener.open(&packet, &mut out) {
        assert_eq!(out[..len], plain[..len]);
        assert!(len + 2 <= plain.len() || len == 0);
        gre(&out[..len]);
        assert!(opener.open(&packet, &mut out).is_err(), "a replay");
    }
}

/// A GRE packet, as it comes out of ESP or from a raw socket, and what is in it.
pub fn gre(bytes: &[u8]) {
    for wanted in [None, Some(KEY)] {
        match gre::decode(bytes, wanted) {
            Ok((_, begin)) => {
                assert!((4..=16).contains(&begin) && begin <= bytes.len());
                inner(&bytes[begin..]);
            }
            Err(_) => _ = gre::key(bytes),
        }
    }
}

/// An IP packet: the one around GRE, or the one within.
pub fn inner(bytes: &[u8]) {
    if let Ok(range) = gre::inside(bytes) {
        assert!(range.start <= range.end && range.end <= bytes.len());
    }
    let Some(header) = Header::parse(bytes) else { return };
    assert!(header.header_len <= header.total_len && header.total_len <= bytes.len());
    let mut packet = bytes[..header.total_len].to_vec();
    for error in [icmp::Error::Unreachable, icmp::Error::TimeExceeded, icmp::Error::TooBig(1280)] {
        let mut reply = [0; icmp::MAX];
        if let Some(len) = icmp::error(error, bytes, header.destination, &mut reply) {
            let answer = Header::parse(&reply[..len]).unwrap();
            assert_eq!((answer.destination, answer.total_len), (header.source, len));
        }
    }
    let mut written = 0;
    let mut coalescer = Coalescer::new(Offloads { tso: true, uso: true });
    for _ in 0..3 {
        coalescer.push(0, &header, &packet, &mut |_, _: &_, packet: &[u8]| written += packet.len());
    }
    coalescer.flush(&mut |_, _: &_, packet: &[u8]| written += packet.len());
    assert!(packet.len() <= written && written <= 3 * packet.len());
    let left = ip::decrement_ttl(&mut packet);
    assert_eq!(left, header.ttl > 1);
}

#[cfg(test)]
mod tests {
    use rand_chacha::ChaCha8Rng;
    use rand_core::{Rng, SeedableRng};

    use super::super::ip::tests::{udp, udp6};

    fn mutate(rng: &mut ChaCha8Rng, bytes: &mut Vec<u8>) {
        for _ in 0..rng.next_u32() % 4 {
            let at = rng.next_u32() as usize % bytes.len().max(1);
            match rng.next_u32() % 5 {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, rng.next_u32() as u8),
                2 if at < bytes.len() => bytes[at] = 0xff,
                3 if at < bytes.len() => bytes[at] = 0,
                _ if at < bytes.len() => bytes[at] ^= 1 << (rng.next_u32() % 8),
                _ => {}
            }
        }
    }

    fn bounded(body: fn(&[u8]), seeds: &[Vec<u8>]) {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        for run in 0..20_000 {
            let mut bytes = seeds[run % seeds.len()].clone();
            mutate(&mut rng, &mut bytes);
            body(&bytes);
        }
    }

    fn packets() -> Vec<Vec<u8>> {
        let mut tcp = Vec::new();
        let ip = etherparse::PacketBuilder::ipv4([192, 0, 2, 1], [192, 0, 2, 2], 9);
        ip.tcp(1, 2, 3, 4).ack(5).write(&mut tcp, &[1; 40]).unwrap();
        let mut echo = Vec::new();
        let ip = etherparse::PacketBuilder::ipv4([192, 0, 2, 1], [192, 0, 2, 2], 9);
        ip.icmpv4_echo_request(1, 2).write(&mut echo, &[1; 40]).unwrap();
        let mut six = udp6("2001:db8::1", "2001:db8::2", 64, &[6; 30]);
        six[6] = 44;
        let udp = udp([192, 0, 2, 1], [192, 0, 2, 2], 64, &[7; 60]);
        let around = [&udp[..9], &[47], &udp[10..]].concat();
        vec![udp, udp6("2001:db8::1", "2001:db8::2", 64, &[6; 30]), six, tcp, echo, around]
    }

    fn in_gre() -> Vec<Vec<u8>> {
        let of = |header: &[u8]| {
            let packets = packets().into_iter();
            packets.map(|packet| [header, &packet].concat()).collect::<Vec<_>>()
        };
        [of(&[0, 0, 8, 0]), of(&[0x20, 0, 0x86, 0xdd, 0, 0, 0, 42])].concat()
    }

    #[test]
    fn esp() {
        let sealed = |packet| [&super::SPI.to_be_bytes()[..], &[0, 0, 0, 1], packet].concat();
        bounded(super::esp, &packets().iter().map(|p| sealed(p)).collect::<Vec<_>>());
    }

    #[test]
    fn esp_insider() {
        let whole = |packet: Vec<u8>| [&[0, 1][..], &packet, &[1, 2, 2, 47]].concat();
        let dummy = vec![0, 1, 0, 59];
        let seeds: Vec<_> = in_gre().into_iter().map(whole).chain([dummy]).collect();
        bounded(super::esp_insider, &seeds);
    }

    #[test]
    fn gre() {
        bounded(super::gre, &in_gre());
    }

    #[test]
    fn inner() {
        bounded(super::inner, &packets());
    }
}
