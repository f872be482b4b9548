//! ESP (RFC 4303) in transport mode, always in UDP (RFC 3948): a pair of SAs, sealed and opened
//! here.
//!
//! ```text
//! | SPI | sequence number | IV | payload, padding, pad length, next header | ICV |
//! |  4  |        4        | 8  |                encrypted                  |  16 |
//! ```
//!
//! Sealing takes no lock: the sequence number is one atomic counter, which is the IV as well
//! (RFC 4106 §3.1, RFC 7634 §2), however many threads seal.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305};
use aws_lc_rs::aead::{LessSafeKey, Nonce, UnboundKey};
use overlay::desired::{EspCipher, EspKeys};

use super::counters::Reason;
use super::ip;

/// Ciphers that are spoken here, the preferred first.
pub const CIPHERS: [EspCipher; 3] =
    [EspCipher::Aes256Gcm16, EspCipher::Aes128Gcm16, EspCipher::ChaCha20Poly1305];

/// Whether this processor has instructions for AES and GCM. Without them ChaCha20-Poly1305, and so
/// WireGuard, is the faster one.
pub fn aes_in_hardware() -> bool {
    #[cfg(target_arch = "x86_64")]
    let (aes, gcm) = (
        std::arch::is_x86_feature_detected!("aes"),
        std::arch::is_x86_feature_detected!("pclmulqdq"),
    );
    #[cfg(target_arch = "aarch64")]
    let (aes, gcm) = (
        std::arch::is_aarch64_feature_detected!("aes"),
        std::arch::is_aarch64_feature_detected!("pmull"),
    );
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let (aes, gcm) = (false, false);
    aes && gcm
}

/// Bytes before the payload: SPI, sequence number, IV.
pub(crate) const FRONT: usize = 16;
/// Most bytes behind it: padding to a multiple of four, its length, next header, ICV.
pub(crate) const BACK: usize = 3 + 2 + ICV;
const ICV: usize = 16;
const SALT: usize = 4;
/// A dummy packet (RFC 4303 §2.6).
const NO_NEXT_HEADER: u8 = 59;

/// Key, salt and numbering of one direction.
struct Direction {
    spi: [u8; 4],
    esn: bool,
    key: LessSafeKey,
    salt: [u8; SALT],
}

impl Direction {
    /// `None` for a cipher that is not spoken here, and for keys that are not its.
    fn new(cipher: EspCipher, esn: bool, keys: &EspKeys) -> Option<Self> {
        let algorithm = match cipher {
            EspCipher::Aes128Gcm16 => &AES_128_GCM,
            EspCipher::Aes256Gcm16 => &AES_256_GCM,
            EspCipher::ChaCha20Poly1305 => &CHACHA20_POLY1305,
            EspCipher::Aes128CbcSha256 | EspCipher::Aes256CbcSha256 => return None,
        };
        let (key, &salt) = keys.encryption.split_last_chunk()?;
        let key = LessSafeKey::new(UnboundKey::new(algorithm, key).ok()?);
        Some(Self { spi: keys.spi.to_be_bytes(), esn, key, salt })
    }

    fn nonce(&self, iv: [u8; 8]) -> Nonce {
        let mut nonce = [0; SALT + 8];
        nonce[..SALT].copy_from_slice(&self.salt);
        nonce[SALT..].copy_from_slice(&iv);
        Nonce::assume_unique_for_key(nonce)
    }

    /// RFC 4106 §5: the SPI and the whole sequence number.
    fn associated(&self, sequence: u64) -> Aad<Associated> {
        let mut bytes = [0; 12];
        bytes[..4].copy_from_slice(&self.spi);
        let len = if self.esn {
            bytes[4..].copy_from_slice(&sequence.to_be_bytes());
            12
        } else {
            bytes[4..8].copy_from_slice(&(sequence as u32).to_be_bytes());
            8
        };
        Aad::from(Associated { bytes, len })
    }
}

struct Associated {
    bytes: [u8; 12],
    len: usize,
}

impl AsRef<[u8]> for Associated {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// The outbound SA.
pub(crate) struct Sealer {
    direction: Direction,
    next: Next,
}

/// The next sequence number, alone in its line of the cache: it is written for each packet.
#[repr(align(64))]
struct Next(AtomicU64);

impl Sealer {
    pub(crate) fn new(cipher: EspCipher, esn: bool, keys: &EspKeys) -> Option<Self> {
        Some(Self { direction: Direction::new(cipher, esn, keys)?, next: Next(AtomicU64::new(1)) })
    }

    /// Seals the GRE packet of `len` bytes that begins at [`FRONT`] of `packet`, which has room
    /// for [`BACK`] bytes behind it; the length of all.
    pub(crate) fn seal(&self, packet: &mut [u8], len: usize) -> Result<usize, Reason> {
        let sequence = self.next.0.fetch_add(1, Relaxed);
        let last = if self.direction.esn { u64::MAX >> 1 } else { u64::from(u32::MAX) };
        if sequence > last {
            // Never a number twice, however often this is tried.
            self.next.0.store(last + 1, Relaxed);
            return Err(Reason::NoSession);
        }
        let padding = (len + 2).next_multiple_of(4) - len - 2;
        let end = FRONT + len + padding + 2;
        for (n, byte) in (1..).zip(&mut packet[FRONT + len..end - 2]) {
            *byte = n;
        }
        packet[end - 2] = padding as u8;
        packet[end - 1] = ip::GRE;
        packet[..4].copy_from_slice(&self.direction.spi);
        packet[4..8].copy_from_slice(&(sequence as u32).to_be_bytes());
        packet[8..FRONT].copy_from_slice(&sequence.to_be_bytes());
        let tag = self
            .direction
            .key
            .seal_in_place_separate_tag(
                self.direction.nonce(sequence.to_be_bytes()),
                self.direction.associated(sequence),
                &mut packet[FRONT..end],
            )
            .map_err(|_| Reason::NoSession)?;
        packet[end..end + ICV].copy_from_slice(tag.as_ref());
        Ok(end + ICV)
    }

    /// Packets sealed.
    pub(crate) fn count(&self) -> u64 {
        self.next.0.load(Relaxed) - 1
    }
}

/// The inbound SA.
pub(crate) struct Opener {
    direction: Direction,
    window: Mutex<Window>,
}

impl Opener {
    pub(crate) fn new(cipher: EspCipher, esn: bool, keys: &EspKeys) -> Option<Self> {
        let direction = Direction::new(cipher, esn, keys)?;
        Some(Self { direction, window: Mutex::new(Window::default()) })
    }

    /// Opens a packet of this SA into `out`, which must be as long as it; the length of the GRE
    /// packet inside, 0 for a dummy.
    pub(crate) fn open(&self, packet: &[u8], out: &mut [u8]) -> Result<usize, Reason> {
        let malformed = Reason::Malformed;
        let (header, rest) = packet.split_first_chunk::<FRONT>().ok_or(malformed)?;
        let (sealed, tag) = rest.split_last_chunk::<ICV>().ok_or(malformed)?;
        let &[_, _, _, _, a, b, c, d, ref iv @ ..] = header;
        let mut nonce = [0; 8];
        nonce.copy_from_slice(iv);
        let number = u32::from_be_bytes([a, b, c, d]);
        let mut window = self.window();
        let sequence = if self.direction.esn { window.extend(number) } else { u64::from(number) };
        if !window.is_fresh(sequence) {
            return Err(Reason::Replayed);
        }
        let plain = out.get_mut(..sealed.len()).ok_or(malformed)?;
        self.direction
            .key
            .open_separate_gather(
                self.direction.nonce(nonce),
                self.direction.associated(sequence),
                sealed,
                tag,
                plain,
            )
            .map_err(|_| Reason::Unauthentic)?;
        window.accept(sequence);
        drop(window);
        let &mut [ref payload @ .., padding, next_header] = plain else { return Err(malformed) };
        match next_header {
            ip::GRE => payload.len().checked_sub(padding.into()).ok_or(malformed),
            NO_NEXT_HEADER => Ok(0),
            _ => Err(Reason::UnknownProtocol),
        }
    }

    fn window(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nothing that was sent after this packet, which was opened, came before it or since.
    pub(crate) fn is_newest(&self, packet: &[u8]) -> bool {
        let low = packet.get(4..8).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes);
        low == Some(self.window().top as u32)
    }
}

/// Which sequence numbers were seen, in a ring of blocks (RFC 6479).
struct Window {
    top: u64,
    blocks: [u64; Self::BLOCKS],
}

impl Default for Window {
    fn default() -> Self {
        Self { top: 0, blocks: [0; Self::BLOCKS] }
    }
}

impl Window {
    const BLOCKS: usize = 256;
    /// One block is being filled.
    const SIZE: u64 = (Self::BLOCKS as u64 - 1) * 64;

    fn place(sequence: u64) -> (usize, u64) {
        ((sequence / 64) as usize % Self::BLOCKS, 1 << (sequence % 64))
    }

    fn is_fresh(&self, sequence: u64) -> bool {
        let (block, bit) = Self::place(sequence);
        sequence > self.top
            || (sequence != 0 && self.top - sequence < Self::SIZE && self.blocks[block] & bit == 0)
    }

    fn accept(&mut self, sequence: u64) {
        if sequence > self.top {
            let (from, to) = (self.top / 64, sequence / 64);
            for block in (from + 1..=to).take(Self::BLOCKS) {
                self.blocks[block as usize % Self::BLOCKS] = 0;
            }
            self.top = sequence;
        }
        let (block, bit) = Self::place(sequence);
        self.blocks[block] |= bit;
    }

    /// The whole of an extended sequence number (RFC 4303 §A2.2).
    fn extend(&self, low: u32) -> u64 {
        let (top_low, high) = (self.top as u32, self.top >> 32);
        let bottom = top_low.wrapping_sub(Self::SIZE as u32 - 1);
        let high = if u64::from(top_low) >= Self::SIZE - 1 {
            high + u64::from(low < bottom)
        } else {
            // The window began below the last wrap.
            high.saturating_sub(u64::from(low >= bottom && high > 0))
        };
        (high << 32) | u64::from(low)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const CIPHERS: [(EspCipher, usize); 3] = [
        (EspCipher::Aes128Gcm16, 16),
        (EspCipher::Aes256Gcm16, 32),
        (EspCipher::ChaCha20Poly1305, 32),
    ];

    fn keys(length: usize) -> EspKeys {
        let encryption = (0..length + SALT).map(|n| n as u8).collect::<Vec<_>>().into();
        EspKeys { spi: 0x1234_5678, encryption, integrity: Vec::new().into() }
    }

    fn pair(cipher: EspCipher, length: usize, esn: bool) -> (Sealer, Opener) {
        let keys = keys(length);
        (Sealer::new(cipher, esn, &keys).unwrap(), Opener::new(cipher, esn, &keys).unwrap())
    }

    fn sealed(sealer: &Sealer, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0xee; FRONT + payload.len() + BACK];
        packet[FRONT..FRONT + payload.len()].copy_from_slice(payload);
        let len = sealer.seal(&mut packet, payload.len()).unwrap();
        packet.truncate(len);
        packet
    }

    fn opened(opener: &Opener, packet: &[u8]) -> Result<Vec<u8>, Reason> {
        let mut out = vec![0; packet.len()];
        let len = opener.open(packet, &mut out)?;
        out.truncate(len);
        Ok(out)
    }

    #[test]
    fn what_one_seals_the_other_opens_once() {
        for (cipher, length) in CIPHERS {
            for esn in [false, true] {
                let (sealer, opener) = pair(cipher, length, esn);
                for payload in [&b""[..], b"a", b"ab", b"abc", b"abcd", &[7; 1400]] {
                    let packet = sealed(&sealer, payload);
                    assert_eq!((packet.len() - FRONT - ICV) % 4, 0, "RFC 4303 §2.4");
                    let mut forged = packet.clone();
                    for at in [5, 9, FRONT, forged.len() - 1] {
                        forged[at] ^= 1;
                        let refused = opened(&opener, &forged).unwrap_err();
                        assert!(matches!(refused, Reason::Unauthentic | Reason::Replayed));
                        forged[at] ^= 1;
                    }
                    assert_eq!(opened(&opener, &packet).unwrap(), payload, "{cipher:?} {esn}");
                    assert_eq!(opened(&opener, &packet), Err(Reason::Replayed));
                }
            }
        }
    }

    /// RFC 7634 appendix A: a tunnelled ICMP packet.
    #[test]
    fn the_published_packet_opens() {
        let encryption: Vec<u8> = (0x80..=0x9f).chain(0xa0..=0xa3).collect();
        let keys = EspKeys { spi: 0x0102_0304, encryption: encryption.into(), ..keys(0) };
        let opener = Opener::new(EspCipher::ChaCha20Poly1305, false, &keys).unwrap();
        let packet = concat!(
            "0102030400000005",
            "1011121314151617",
            "24039428b97f417e3c13753a4f05087b67c352e6a7fab1b982d466ef407ae5c6",
            "14ee8099d52844eb61aa95dfab4c02f72aa71e7c4c4f64c9befe2facc638e8f3",
            "cbec163fac469b502773f6fb94e664da9165b82829f641e0",
            "76aaa8266b7fb0f7b11b369907e1ad43"
        );
        let packet: Vec<u8> = (0..packet.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&packet[at..at + 2], 16).unwrap())
            .collect();
        let mut out = [0; 128];
        // It is authentic, and carries IPv4 instead of GRE.
        assert_eq!(opener.open(&packet, &mut out), Err(Reason::UnknownProtocol));
        assert_eq!(out[..12], [0x45, 0, 0, 0x54, 0xa6, 0xf2, 0, 0, 0x40, 1, 0xe7, 0x78]);
        assert_eq!(opener.open(&packet, &mut out), Err(Reason::Replayed));
    }

    #[test]
    fn sequence_numbers_end_before_they_repeat() {
        let (sealer, opener) = pair(EspCipher::Aes128Gcm16, 16, false);
        sealer.next.0.store(3 << 30, Relaxed);
        opened(&opener, &sealed(&sealer, b"almost")).unwrap();
        assert_eq!(sealer.count(), 3 << 30);
        sealer.next.0.store(u32::MAX.into(), Relaxed);
        opened(&opener, &sealed(&sealer, b"last")).unwrap();
        for _ in 0..3 {
            assert_eq!(sealer.seal(&mut [0; 64], 4), Err(Reason::NoSession));
        }
        let (sealer, opener) = pair(EspCipher::Aes128Gcm16, 16, true);
        for next in [u64::from(u32::MAX) - 1, u64::from(u32::MAX), 1 << 32, (1 << 32) + 70_000] {
            sealer.next.0.store(next, Relaxed);
            assert_eq!(opened(&opener, &sealed(&sealer, b"goes on")).unwrap(), b"goes on");
        }
    }

    /// Nor at the end of the numbers, where all run against the limit.
    #[test]
    fn no_number_is_used_twice_however_many_seal() {
        const THREADS: usize = 4;
        const EACH: usize = 100_000;
        let end = u64::from(u32::MAX);
        for (start, esn, left) in [(1, true, THREADS * EACH), (end - 150_000, false, 150_001)] {
            let (sealer, _) = pair(EspCipher::Aes128Gcm16, 16, esn);
            sealer.next.0.store(start, Relaxed);
            let seal = || {
                let mut packet = [0; FRONT + 8 + BACK];
                sealer.seal(&mut packet, 8).ok()?;
                Some(packet[8..FRONT].to_vec())
            };
            let mut nonces: Vec<_> = std::thread::scope(|scope| {
                let each = || (0..EACH).filter_map(|_| seal()).collect::<Vec<_>>();
                let threads = [(); THREADS].map(|()| scope.spawn(each));
                threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
            });
            nonces.sort_unstable();
            nonces.dedup();
            assert_eq!(nonces.len(), left);
        }
    }

    #[test]
    fn a_packet_is_the_newest_until_a_later_one_was_opened() {
        let (sealer, opener) = pair(EspCipher::Aes128Gcm16, 16, true);
        let [first, second] = [(); 2].map(|()| sealed(&sealer, b"payload"));
        opened(&opener, &second).unwrap();
        opened(&opener, &first).unwrap();
        assert!(opener.is_newest(&second) && !opener.is_newest(&first));
        assert!(!opener.is_newest(&first[..7]));
    }

    #[test]
    fn dummies_are_dropped_and_other_protocols_refused() {
        for (next_header, expected) in [(59, Ok(0)), (4, Err(Reason::UnknownProtocol))] {
            let (sealer, opener) = pair(EspCipher::Aes256Gcm16, 32, false);
            let mut packet = [0; FRONT + 4 + ICV];
            packet[..4].copy_from_slice(&sealer.direction.spi);
            packet[7] = 1;
            packet[FRONT + 3] = next_header;
            let nonce = sealer.direction.nonce([0; 8]);
            let aad = sealer.direction.associated(1);
            let range = FRONT..FRONT + 4;
            let key = &sealer.direction.key;
            let tag = key.seal_in_place_separate_tag(nonce, aad, &mut packet[range]).unwrap();
            packet[FRONT + 4..].copy_from_slice(tag.as_ref());
            assert_eq!(opener.open(&packet, &mut [0; 64]), expected);
        }
    }

    #[test]
    fn keys_that_do_not_fit_are_refused() {
        assert!(Sealer::new(EspCipher::Aes256Gcm16, true, &keys(16)).is_none());
        assert!(Opener::new(EspCipher::Aes128CbcSha256, true, &keys(16)).is_none());
        assert!(Sealer::new(EspCipher::Aes128Gcm16, true, &keys(0)).is_none());
    }

    proptest! {
        #[test]
        fn window_takes_each_number_once(
            start in prop_oneof![Just(0), Just((1u64 << 32) - 9000), Just(1u64 << 33)],
            steps in proptest::collection::vec((0u64..20_000, 0u64..40_000), 1..200),
        ) {
            let mut window = Window::default();
            if start > 0 {
                window.accept(start);
            }
            let mut seen = BTreeSet::from([start]);
            for (forward, back) in steps {
                let sequence = (window.top + forward).saturating_sub(back).max(1);
                let near = window.top.saturating_sub(sequence) < Window::SIZE;
                let fresh = near && !seen.contains(&sequence) && sequence >= start;
                if sequence < start {
                    continue;
                }
                prop_assert_eq!(window.is_fresh(sequence), fresh);
                if near && sequence.abs_diff(window.top) < 1 << 31 {
                    prop_assert_eq!(window.extend(sequence as u32), sequence);
                }
                if fresh {
                    window.accept(sequence);
                    seen.insert(sequence);
                }
            }
        }

        #[test]
        fn opening_is_total(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let (_, opener) = pair(EspCipher::ChaCha20Poly1305, 32, true);
            prop_assert!(opened(&opener, &bytes).is_err());
        }
    }
}
