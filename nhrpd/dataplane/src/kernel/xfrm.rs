//! IPsec in the kernel: policies and SAs (xfrm).
//!
//! The policies say that GRE of this tunnel goes and comes in ESP or not at all. They name no
//! addresses, so that their number does not grow with the peers, and they outlive the daemon. The
//! port fields of a selector hold the GRE key: its upper half is the source port, its lower half
//! the destination port.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use overlay::desired::{Esp, EspCipher};

use super::route::{family, octets};
use super::socket::Requests;
use super::tables::{Association, Direction, SaId};
use super::wire::{Request, find, u16_at, u32_at, u64_at};

const NEWSA: u16 = 0x10;
const DELSA: u16 = 0x11;
const GETSA: u16 = 0x12;
const DELPOLICY: u16 = 0x14;
const UPDPOLICY: u16 = 0x19;
const EXPIRE: u16 = 0x18;
const MAPPING: u16 = 0x26;
const FLUSHSA: u16 = 0x1c;
const FLUSHPOLICY: u16 = 0x1d;
/// Multicast groups of what the kernel tells: expiries, SAs, policies, new addresses of peers.
pub(crate) const GROUPS: u32 = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 7;

const ALG_AUTH_TRUNC: u16 = 20;
const ALG_CRYPT: u16 = 2;
const ENCAP: u16 = 4;
const TMPL: u16 = 5;
const ALG_AEAD: u16 = 18;
const REPLAY_ESN_VAL: u16 = 23;
const OFFLOAD_DEV: u16 = 28;
const MTIMER_THRESH: u16 = 32;

const ESP: u8 = libc::IPPROTO_ESP as u8;
const GRE: u8 = libc::IPPROTO_GRE as u8;
const STATE_ESN: u8 = 128;
const ENCAP_ESPINUDP: u16 = 2;
const UNLIMITED: u64 = u64::MAX;
/// Before policies of key management daemons.
const PRIORITY: u32 = 1000;
/// Packets that may be overtaken by others (the kernel's most).
const WINDOW: u32 = 4096;
/// Sequence numbers that a moved SA leaves out: more than it can have sent since it was read.
const GAP: u64 = 1 << 20;

const SELECTOR: usize = 56;
const SA_INFO: usize = 224;

/// Which of our policies, and what they are about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Policies {
    pub key: Option<u32>,
    pub reqid: u32,
}

/// Ties the policies of one tunnel to its SAs: the same in every run, another for each device.
pub(crate) fn reqid(interface: &str) -> u32 {
    // FNV-1a.
    let hash = interface
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    0xbf00_0000 | hash & 0x00ff_ffff
}

fn wide(address: Option<IpAddr>) -> [u8; 16] {
    let mut bytes = [0; 16];
    if let Some(address) = address {
        let octets = octets(address);
        bytes[..octets.len()].copy_from_slice(&octets);
    }
    bytes
}

/// struct xfrm_selector
fn selector(family: u8, key: Option<u32>) -> Vec<u8> {
    let mut bytes = vec![0; 32];
    let (mask, key): (u16, u32) = key.map_or((0, 0), |key| (0xffff, key));
    for half in [key as u16, (key >> 16) as u16] {
        bytes.extend(half.to_be_bytes());
        bytes.extend(mask.to_be_bytes());
    }
    bytes.extend(u16::from(family).to_ne_bytes());
    bytes.extend([0, 0, GRE]);
    bytes.resize(SELECTOR, 0);
    bytes
}

/// struct xfrm_lifetime_cfg; `age`: none for ever.
fn lifetime(soft_packets: u64, age: Option<Duration>) -> Vec<u8> {
    let age = age.map_or(0, |age| age.as_secs());
    let limits = [UNLIMITED, UNLIMITED, soft_packets, UNLIMITED, 0, age, 0, 0];
    limits.iter().flat_map(|limit| limit.to_ne_bytes()).collect()
}

const DIRECTIONS: [u8; 2] = [0, 1];
const FAMILIES: [i32; 2] = [libc::AF_INET, libc::AF_INET6];

impl Policies {
    /// Puts the policies in place, or leaves them there.
    pub(crate) fn install(&self, kernel: &Requests) -> io::Result<()> {
        for family in FAMILIES {
            for direction in DIRECTIONS {
                match kernel.execute(self.update(family as u8, direction)) {
                    Err(error)
                        if family == libc::AF_INET6
                            && error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {}
                    result => result?,
                }
            }
        }
        Ok(())
    }

    pub(crate) fn remove(&self, kernel: &Requests) {
        for family in FAMILIES {
            for direction in DIRECTIONS {
                // struct xfrm_userpolicy_id
                let request = Request::new(DELPOLICY, 0)
                    .raw(&selector(family as u8, self.key))
                    .raw(&[0, 0, 0, 0, direction, 0, 0, 0]);
                if let Err(error) = kernel.execute(request) {
                    tracing::debug!("cannot remove a policy: {error}");
                }
            }
        }
    }

    /// struct xfrm_userpolicy_info with one struct xfrm_user_tmpl
    fn update(&self, family: u8, direction: u8) -> Request {
        let mut template = vec![0; 20];
        template.extend([ESP, 0, 0, 0]);
        template.extend(u32::from(family).to_ne_bytes());
        template.extend([0; 16]);
        template.extend(self.reqid.to_ne_bytes());
        // Transport mode, unique to nobody, required.
        template.extend([0; 4]);
        template.extend([0xff; 12]);
        Request::new(UPDPOLICY, libc::NLM_F_CREATE | libc::NLM_F_REPLACE)
            .raw(&selector(family, self.key))
            .raw(&lifetime(UNLIMITED, None))
            .raw(&[0; 32])
            .raw(&PRIORITY.to_ne_bytes())
            .raw(&[0; 4])
            .raw(&[direction, 0, 0, 0, 0, 0, 0, 0])
            .put(TMPL, &template)
    }
}

/// How far an SA has counted: carried over when it is installed under another address, so that no
/// sequence number is used twice and none is taken twice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Replay(Option<Vec<u8>>);

impl Replay {
    /// struct xfrm_replay_state_esn; `ahead`: leave out what may have been sent meanwhile.
    fn state(self, ahead: bool) -> Vec<u8> {
        let Some(mut state) = self.0 else {
            let words = WINDOW / 32;
            let numbers = [words, 0, 0, 0, 0, WINDOW];
            let mut state: Vec<u8> = numbers.iter().flat_map(|n| n.to_ne_bytes()).collect();
            state.resize(24 + words as usize * 4, 0);
            return state;
        };
        if ahead && state.len() >= 16 {
            let number = |at| u64::from(u32_at(&state, at).unwrap_or_default());
            let next = (number(12) << 32 | number(4)).saturating_add(GAP);
            state[4..8].copy_from_slice(&(next as u32).to_ne_bytes());
            state[12..16].copy_from_slice(&((next >> 32) as u32).to_ne_bytes());
        }
        state
    }
}

/// When an SA is to be told of.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Tell {
    /// After its first packet.
    FirstPacket,
    /// After so many packets.
    Packets(u64),
}

/// A new SA. `window`: none for what we send.
pub(crate) fn add(
    id: SaId,
    association: Association,
    esp: &Esp,
    reqid: u32,
    replay: Replay,
    tell: Tell,
) -> Request {
    let keys = match id.direction {
        Direction::In => &esp.inbound,
        Direction::Out => &esp.outbound,
    };
    let family = family(id.to);
    let packets = match tell {
        Tell::FirstPacket => 1,
        Tell::Packets(packets) => packets,
    };
    // struct xfrm_usersa_info
    let request = Request::new(NEWSA, libc::NLM_F_CREATE | libc::NLM_F_EXCL)
        .raw(&[0; 40])
        .raw(&u16::from(family).to_ne_bytes())
        .raw(&[0; SELECTOR - 42])
        .raw(&wide(Some(id.to)))
        .raw(&id.spi.to_be_bytes())
        .raw(&[ESP, 0, 0, 0])
        .raw(&wide(association.from))
        .raw(&lifetime(packets, Some(esp.lifetime)))
        .raw(&[0; 32 + 12 + 4])
        .raw(&reqid.to_ne_bytes())
        .raw(&u16::from(family).to_ne_bytes())
        .raw(&[0, 0, if esp.esn { STATE_ESN } else { 0 }, 0, 0, 0, 0, 0, 0, 0]);
    let request = algorithms(request, esp.cipher, &keys.encryption, &keys.integrity)
        .put(REPLAY_ESN_VAL, &replay.state(id.direction == Direction::Out));
    let Some((from, to)) = association.ports else { return request };
    // struct xfrm_encap_tmpl
    let mut encap = ENCAP_ESPINUDP.to_ne_bytes().to_vec();
    encap.extend(from.to_be_bytes());
    encap.extend(to.to_be_bytes());
    encap.extend([0; 18]);
    let request = request.put(ENCAP, &encap);
    // A peer that moved is told of once a second, not with each packet.
    if id.direction == Direction::In { request.put_u32(MTIMER_THRESH, 1) } else { request }
}

/// The same, and the network card has the cipher. The kernel loads `esp4_offload` before it asks the card,
/// and a device that cannot, as the loopback device, is no error.
pub(crate) fn offloaded(request: Request, index: u32) -> Request {
    // struct xfrm_user_offload
    request.put_parts(OFFLOAD_DEV, &[&index.to_ne_bytes(), &[0; 4]])
}

fn algorithms(request: Request, cipher: EspCipher, encryption: &[u8], integrity: &[u8]) -> Request {
    let name = |name: &str| {
        let mut bytes = [0; 64];
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        bytes
    };
    let bits = |octets: usize| (octets as u32 * 8).to_ne_bytes();
    let (aead, crypt) = match cipher {
        EspCipher::Aes128Gcm16 | EspCipher::Aes256Gcm16 => (Some("rfc4106(gcm(aes))"), ""),
        EspCipher::ChaCha20Poly1305 => (Some("rfc7539esp(chacha20,poly1305)"), ""),
        EspCipher::Aes128CbcSha256 | EspCipher::Aes256CbcSha256 => (None, "cbc(aes)"),
    };
    // Keys go straight into the request, which is erased after use.
    let keyed = |request: Request, kind, parts: [&[u8]; 4]| request.put_parts(kind, &parts);
    match aead {
        Some(aead) => {
            let parts = [&name(aead)[..], &bits(encryption.len()), &bits(16), encryption];
            keyed(request, ALG_AEAD, parts)
        }
        None => {
            let parts = [&name(crypt)[..], &bits(encryption.len()), &[], encryption];
            let request = keyed(request, ALG_CRYPT, parts);
            let hmac = name("hmac(sha256)");
            let parts = [&hmac[..], &bits(integrity.len()), &bits(16), integrity];
            keyed(request, ALG_AUTH_TRUNC, parts)
        }
    }
}

/// struct xfrm_usersa_id
fn which(kind: u16, id: SaId) -> Request {
    Request::new(kind, 0)
        .raw(&wide(Some(id.to)))
        .raw(&id.spi.to_be_bytes())
        .raw(&u16::from(family(id.to)).to_ne_bytes())
        .raw(&[ESP, 0])
}

pub(crate) fn remove(id: SaId) -> Request {
    which(DELSA, id)
}

/// An SA as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Installed {
    pub association: Association,
    pub bytes: u64,
    pub packets: u64,
    pub replay: Replay,
}

/// Our SAs.
pub(crate) fn read(kernel: &Requests, reqid: u32) -> io::Result<BTreeMap<SaId, Installed>> {
    let mut found = BTreeMap::new();
    for message in kernel.dump(Request::new(GETSA, libc::NLM_F_DUMP))? {
        let message = zeroize::Zeroizing::new(message);
        if let Some((id, installed)) =
            info(&message).filter(|_| u32_at(&message, 208) == Some(reqid))
        {
            found.insert(id, installed);
        }
    }
    Ok(found)
}

fn unwide(bytes: &[u8], family: u16) -> Option<IpAddr> {
    let len = if i32::from(family) == libc::AF_INET { 4 } else { 16 };
    super::route::address(bytes.get(..len)?)
}

/// struct xfrm_usersa_info with its attributes
fn info(message: &[u8]) -> Option<(SaId, Installed)> {
    let family = u16_at(message, 212)?;
    let to = unwide(message.get(56..)?, family)?;
    let from = unwide(message.get(80..)?, family).filter(|from| !from.is_unspecified());
    let spi = u32::from_be_bytes(message.get(72..76)?.try_into().ok()?);
    let rest = message.get(SA_INFO..)?;
    let ports = find(rest, ENCAP).and_then(|encap| {
        let port = |at: usize| Some(u16::from_be_bytes(encap.get(at..at + 2)?.try_into().ok()?));
        Some((port(2)?, port(4)?))
    });
    // What we send has no source of its own.
    let direction = if from.is_none() { Direction::Out } else { Direction::In };
    let installed = Installed {
        association: Association { from, ports },
        bytes: u64_at(message, 160)?,
        packets: u64_at(message, 168)?,
        replay: Replay(find(rest, REPLAY_ESN_VAL).map(<[u8]>::to_vec)),
    };
    Some((SaId { direction, to, spi }, installed))
}

/// What the kernel tells by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// The limit of an SA is reached.
    Expired(SaId),
    /// A peer behind an address translator is at another place.
    Moved { spi: u32, to: std::net::SocketAddr },
    /// An SA was removed.
    Removed { spi: u32 },
    /// All SAs were removed, or one policy or more.
    Flushed,
}

/// Reads a notification.
pub(crate) fn told(kind: u16, payload: &[u8], reqid: u32) -> Option<Told> {
    match kind {
        EXPIRE if u32_at(payload, 208) == Some(reqid) => {
            // struct xfrm_user_expire has no attributes, but the addresses tell the direction.
            let family = u16_at(payload, 212)?;
            let to = unwide(payload.get(56..)?, family)?;
            let from = unwide(payload.get(80..)?, family).filter(|from| !from.is_unspecified());
            let direction = if from.is_none() { Direction::Out } else { Direction::In };
            let spi = u32::from_be_bytes(payload.get(72..76)?.try_into().ok()?);
            Some(Told::Expired(SaId { direction, to, spi }))
        }
        // struct xfrm_user_mapping
        MAPPING if u32_at(payload, 24) == Some(reqid) => {
            let spi = u32::from_be_bytes(payload.get(16..20)?.try_into().ok()?);
            let family = u16_at(payload, 20)?;
            let address = unwide(payload.get(44..)?, family)?;
            let port = u16::from_be_bytes(payload.get(62..64)?.try_into().ok()?);
            Some(Told::Moved { spi, to: (address, port).into() })
        }
        // struct xfrm_usersa_id
        DELSA => {
            let spi = u32::from_be_bytes(payload.get(16..20)?.try_into().ok()?);
            Some(Told::Removed { spi })
        }
        FLUSHSA | DELPOLICY | FLUSHPOLICY => Some(Told::Flushed),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use overlay::desired::EspKeys;
    use zeroize::Zeroizing;

    use super::*;
    use crate::kernel::wire::messages;

    fn esp() -> Esp {
        let keys = |spi| EspKeys {
            spi,
            encryption: Zeroizing::new(vec![0xaa; 36]),
            integrity: Zeroizing::default(),
        };
        Esp {
            cipher: EspCipher::Aes256Gcm16,
            esn: true,
            encapsulated: true,
            lifetime: Duration::from_secs(7200),
            inbound: keys(0x1234_5678),
            outbound: keys(0x9abc_def0),
        }
    }

    #[test]
    fn the_key_of_gre_is_in_the_ports_of_the_selector() {
        let selector = selector(libc::AF_INET as u8, Some(0x0102_0304));
        assert_eq!(selector.len(), SELECTOR);
        assert_eq!(selector[32..40], [3, 4, 0xff, 0xff, 1, 2, 0xff, 0xff], "dport, sport");
        assert_eq!(selector[44], 47);
    }

    #[test]
    fn an_sa_reads_as_it_was_written() {
        let to = IpAddr::from([198, 18, 1, 10]);
        let from = IpAddr::from([198, 18, 2, 10]);
        let id = SaId { direction: Direction::In, to, spi: 0x1234_5678 };
        let association = Association { from: Some(from), ports: Some((61000, 4500)) };
        let mut request = add(id, association, &esp(), 77, Replay::default(), Tell::FirstPacket);
        let bytes = request.finish(1);
        let message = messages(bytes).next().unwrap();
        assert_eq!(u32_at(message.payload, 208), Some(77));
        let hard_age = message.payload[96 + 40..96 + 48].try_into().unwrap();
        assert_eq!(u64::from_ne_bytes(hard_age), 7200);
        let (found, installed) = info(message.payload).unwrap();
        assert_eq!((found, installed.association), (id, association));
        let aead = find(&message.payload[SA_INFO..], ALG_AEAD).unwrap();
        assert_eq!(
            (aead.len(), u32_at(aead, 64), u32_at(aead, 68)),
            (72 + 36, Some(288), Some(128))
        );
    }

    /// What we ask for is what others are told of.
    #[test]
    fn a_removed_sa_is_told_of_by_its_spi() {
        let to = IpAddr::from([198, 18, 1, 10]);
        let mut request = remove(SaId { direction: Direction::In, to, spi: 0x1234_5678 });
        let message = messages(request.finish(1)).next().unwrap();
        let heard = told(message.kind, message.payload, 77);
        assert_eq!(heard, Some(Told::Removed { spi: 0x1234_5678 }));
        assert_eq!(told(FLUSHPOLICY, &[], 77), Some(Told::Flushed));
    }

    #[test]
    fn a_moved_sa_never_counts_the_same_number_again() {
        let numbers = [1u32, u32::MAX, 5, 3, 0, 32, 0];
        let state: Vec<u8> = numbers.iter().flat_map(|n| n.to_ne_bytes()).collect();
        let moved = Replay(Some(state.clone())).state(true);
        let before = u64::from(u32::MAX) | 3 << 32;
        let after =
            u64::from(u32_at(&moved, 4).unwrap()) | u64::from(u32_at(&moved, 12).unwrap()) << 32;
        assert_eq!(after, before + GAP);
        assert_eq!(Replay(Some(state.clone())).state(false), state);
    }
}
