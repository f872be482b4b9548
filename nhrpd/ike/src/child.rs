//! ESP that an IKE SA keys: what is proposed, chosen and derived for a CHILD_SA (RFC 7296 §2.7,
//! §2.9, §2.17, §3.3), always in transport mode for GRE between the two nodes.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use rand_core::CryptoRng;
use zeroize::Zeroizing;

use crate::ChildInfo;
use crate::crypto::algorithm::Prf;
use crate::crypto::group::Group;
use crate::crypto::keys::Secret;
use crate::sa::{Sa, State};
use crate::wire::{PROTOCOL_ESP, Proposal, TrafficSelector, Transform, TransformKind};
use crate::{Engine, EspProposal, Event, Output, TunnelId};

/// IP protocol of GRE.
const GRE: u8 = 47;
/// SPIs below this are reserved (RFC 4303 §2.1).
const FIRST_SPI: u32 = 256;
/// AUTH_HMAC_SHA2_256_128 (RFC 4868).
const HMAC_SHA2_256_128: u16 = 12;

/// Time enough for a rekeying that meets with difficulties.
const SHORTEST_LIFETIME: Duration = Duration::from_secs(60);

/// A responder takes a CHILD_SA for known to the initiator after this time without a repetition.
pub(crate) const CONFIRM_WAIT: Duration = Duration::from_secs(1);
/// The same where the initiator says so, in a message that is repeated: one of our own nodes after
/// IKE_AUTH, and everybody by deleting what was replaced. He may be busy.
pub(crate) const TOLD_WAIT: Duration = Duration::from_secs(10);

/// A pair of ESP SAs that one CHILD_SA agreed on.
#[derive(Clone, PartialEq, Eq)]
pub struct Esp {
    /// Cipher of both directions.
    pub cipher: EspCipher,
    /// Extended sequence numbers (RFC 4303 §2.2.1).
    pub esn: bool,
    /// In UDP (RFC 3948), from the own port to that of the peer; else IP protocol 50.
    pub encapsulated: bool,
    /// Age at which the keys are dropped although nobody has replaced them.
    pub lifetime: Duration,
    /// What the peer sends with.
    pub inbound: EspKeys,
    /// What we send with.
    pub outbound: EspKeys,
}

/// Ciphers of ESP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EspCipher {
    /// AES-GCM with a tag of 16 octets (RFC 4106); key of 16 octets.
    Aes128Gcm16,
    /// As above with a key of 32 octets.
    Aes256Gcm16,
    /// ChaCha20-Poly1305 (RFC 7634); key of 32 octets.
    ChaCha20Poly1305,
    /// AES-CBC (RFC 3602), key of 16 octets, with HMAC-SHA-256-128 (RFC 4868).
    Aes128CbcSha256,
    /// AES-CBC, key of 32 octets, with HMAC-SHA-256-128.
    Aes256CbcSha256,
}

/// One direction of a CHILD_SA.
#[derive(Clone, PartialEq, Eq)]
pub struct EspKeys {
    /// Security Parameters Index; never one whose first octet is 1 to 4 and the others zero
    /// (WireGuard on the same port), and at least 256 (RFC 4303 §2.1).
    pub spi: u32,
    /// Encryption key; behind it the salt of 4 octets where the cipher is an AEAD.
    pub encryption: Zeroizing<Vec<u8>>,
    /// Integrity key; empty where the cipher is an AEAD.
    pub integrity: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for EspKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "EspKeys(SPI {:08x})", self.spi)
    }
}

impl std::fmt::Debug for Esp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Esp({}, SPIs {:08x} {:08x})", self.cipher, self.inbound.spi, self.outbound.spi)
    }
}

impl std::fmt::Display for EspCipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.encryption_name())?;
        if self.is_aead() { Ok(()) } else { f.write_str("-sha256") }
    }
}

impl EspCipher {
    /// All of them, the preferred first.
    pub const ALL: [Self; 5] = [
        Self::Aes256Gcm16,
        Self::ChaCha20Poly1305,
        Self::Aes128Gcm16,
        Self::Aes256CbcSha256,
        Self::Aes128CbcSha256,
    ];

    /// Its encryption's keyword alone.
    pub(crate) fn encryption_name(self) -> &'static str {
        match self {
            Self::Aes128Gcm16 => "aes128gcm16",
            Self::Aes256Gcm16 => "aes256gcm16",
            Self::ChaCha20Poly1305 => "chacha20poly1305",
            Self::Aes128CbcSha256 => "aes128",
            Self::Aes256CbcSha256 => "aes256",
        }
    }

    pub(crate) fn is_aead(self) -> bool {
        self.key_lens().1 == 0
    }

    fn encryption(self) -> Transform {
        let (id, bits) = match self {
            Self::Aes128Gcm16 => (20, Some(128)),
            Self::Aes256Gcm16 => (20, Some(256)),
            Self::ChaCha20Poly1305 => (28, None),
            Self::Aes128CbcSha256 => (12, Some(128)),
            Self::Aes256CbcSha256 => (12, Some(256)),
        };
        Transform::new(TransformKind::ENCRYPTION, id, bits)
    }

    fn integrity(self) -> Option<Transform> {
        let integrity = Transform::new(TransformKind::INTEGRITY, HMAC_SHA2_256_128, None);
        (!self.is_aead()).then_some(integrity)
    }

    /// Octets of the encryption key with its salt, and of the integrity key.
    pub fn key_lens(self) -> (usize, usize) {
        match self {
            Self::Aes128Gcm16 => (16 + 4, 0),
            Self::Aes256Gcm16 | Self::ChaCha20Poly1305 => (32 + 4, 0),
            Self::Aes128CbcSha256 => (16, 32),
            Self::Aes256CbcSha256 => (32, 32),
        }
    }
}

/// What two sides agreed on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    pub(crate) cipher: EspCipher,
    pub(crate) esn: bool,
    pub(crate) peer_spi: u32,
}

fn esn(extended: bool) -> Transform {
    Transform::new(TransformKind::SEQUENCE_NUMBERS, extended.into(), None)
}

fn method(group: Option<&Group>) -> Transform {
    Transform::new(TransformKind::KEY_EXCHANGE, group.map_or(0, |group| group.id), None)
}

/// What we propose.
pub(crate) fn proposals(ours: &[EspProposal], spi: u32) -> Vec<Proposal> {
    let with = |(index, ours): (usize, &EspProposal)| {
        let mut transforms: Vec<_> =
            ours.ciphers.iter().map(|cipher| cipher.encryption()).collect();
        transforms.extend(ours.ciphers[0].integrity());
        if ours.groups.iter().any(Option::is_some) {
            transforms.extend(ours.groups.iter().map(|&group| method(group)));
        }
        transforms.extend(ours.extended_sequence.iter().map(|&extended| esn(extended)));
        Proposal {
            number: index as u8 + 1,
            protocol: PROTOCOL_ESP,
            spi: spi.to_be_bytes().into(),
            transforms,
        }
    };
    ours.iter().enumerate().map(with).collect()
}

/// The responder's choice.
#[derive(Debug)]
pub(crate) struct Choice {
    /// To send back; with the peer's SPI still.
    pub(crate) proposal: Proposal,
    pub(crate) terms: Terms,
    pub(crate) group: Option<&'static Group>,
}

/// Takes the first proposal that has something of one of ours of each type (RFC 7296 §3.3.6).
/// `offered` is the group of the peer's KE payload: choosing it saves a round trip.
pub(crate) fn choose(
    ours: &[EspProposal],
    proposals: &[Proposal],
    offered: Option<u16>,
) -> Option<Choice> {
    let from = |proposal| ours.iter().find_map(|ours| choose_from(ours, proposal, offered));
    proposals.iter().find_map(from)
}

fn choose_from(ours: &EspProposal, proposal: &Proposal, offered: Option<u16>) -> Option<Choice> {
    let peer_spi = spi(&proposal.spi).filter(|_| proposal.protocol == PROTOCOL_ESP)?;
    let has = |transform: &Transform| proposal.transforms.contains(transform);
    let with = |kind| proposal.transforms.iter().any(|transform| transform.kind == kind);
    let known = [
        TransformKind::ENCRYPTION,
        TransformKind::INTEGRITY,
        TransformKind::KEY_EXCHANGE,
        TransformKind::SEQUENCE_NUMBERS,
    ];
    if proposal.transforms.iter().any(|transform| !known.contains(&transform.kind)) {
        return None;
    }
    // RFC 7296 §3.3: an AEAD comes without integrity algorithm, or with NONE.
    let none = Transform::new(TransformKind::INTEGRITY, 0, None);
    let integrity = |cipher: EspCipher| match cipher.integrity() {
        Some(integrity) => has(&integrity).then_some(Some(integrity)),
        None if with(TransformKind::INTEGRITY) => has(&none).then(|| Some(none.clone())),
        None => Some(None),
    };
    let (cipher, integrity) = ours
        .ciphers
        .iter()
        .filter(|cipher| has(&cipher.encryption()))
        .find_map(|&cipher| Some((cipher, integrity(cipher)?)))?;
    let mut transforms = vec![cipher.encryption()];
    transforms.extend(integrity);
    let group = if with(TransformKind::KEY_EXCHANGE) {
        let mut groups: Vec<_> = ours.groups.iter().copied().filter(|&g| has(&method(g))).collect();
        groups.sort_by_key(|group| group.map(|group| group.id) != offered);
        let group = *groups.first()?;
        transforms.push(method(group));
        group
    } else {
        *ours.groups.iter().find(|group| group.is_none())?
    };
    let extended = if with(TransformKind::SEQUENCE_NUMBERS) {
        let extended = *ours.extended_sequence.iter().find(|&&extended| has(&esn(extended)))?;
        transforms.push(esn(extended));
        extended
    } else {
        // RFC 7296 §3.3.3 makes it mandatory; who leaves it out means RFC 4303 without extension.
        *ours.extended_sequence.iter().find(|&&extended| !extended)?
    };
    let proposal = Proposal { transforms, ..proposal.clone() };
    Some(Choice { proposal, terms: Terms { cipher, esn: extended, peer_spi }, group })
}

/// Checks what a responder chose of our proposals: one transform of each type (RFC 7296 §2.7).
pub(crate) fn accept(
    ours: &[EspProposal],
    chosen: &[Proposal],
    group: Option<u16>,
) -> Option<Choice> {
    let [proposal] = chosen else { return None };
    let choice = choose(ours, chosen, group)?;
    (choice.proposal.transforms.len() == proposal.transforms.len()).then_some(choice)
}

/// An SPI of ESP that a peer may choose.
pub(crate) fn spi(bytes: &[u8]) -> Option<u32> {
    let spi = u32::from_be_bytes(bytes.try_into().ok()?);
    (spi >= FIRST_SPI).then_some(spi)
}

/// What a CHILD_SA's keys are made of (RFC 7296 §2.17).
pub(crate) struct Seed<'a> {
    pub(crate) prf: &'static Prf,
    pub(crate) sk_d: &'a [u8],
    /// Of the key exchange in CREATE_CHILD_SA, if there was one.
    pub(crate) shared_secret: Option<&'a [u8]>,
    pub(crate) initiator_nonce: &'a [u8],
    pub(crate) responder_nonce: &'a [u8],
}

impl Seed<'_> {
    /// The keys; `initiator` if this side began the exchange.
    pub(crate) fn derive(
        &self,
        terms: Terms,
        own_spi: u32,
        initiator: bool,
        (encapsulated, lifetime): (bool, Duration),
    ) -> Esp {
        let (encryption, integrity) = terms.cipher.key_lens();
        let seed =
            [self.shared_secret.unwrap_or_default(), self.initiator_nonce, self.responder_nonce];
        let material: Secret = self.prf.expand(self.sk_d, &seed, 2 * (encryption + integrity));
        let (from_initiator, from_responder) = material.split_at(encryption + integrity);
        let keys = |spi, material: &[u8]| EspKeys {
            spi,
            encryption: Zeroizing::new(material[..encryption].to_vec()),
            integrity: Zeroizing::new(material[encryption..].to_vec()),
        };
        let (outbound, inbound) = if initiator {
            (from_initiator, from_responder)
        } else {
            (from_responder, from_initiator)
        };
        Esp {
            cipher: terms.cipher,
            esn: terms.esn,
            encapsulated,
            lifetime,
            inbound: keys(own_spi, inbound),
            outbound: keys(terms.peer_spi, outbound),
        }
    }
}

/// The selector of GRE from or to this host.
pub(crate) fn gre(host: IpAddr) -> TrafficSelector {
    TrafficSelector { protocol: GRE, ports: (0, u16::MAX), addresses: (host, host) }
}

fn carries_gre(selector: &TrafficSelector) -> bool {
    matches!(selector.protocol, 0 | GRE) && selector.ports == (0, u16::MAX)
}

/// Whether GRE of this host is within these selectors.
pub(crate) fn covers(selectors: &[TrafficSelector], host: IpAddr) -> bool {
    let within = |s: &TrafficSelector| s.addresses.0 <= host && host <= s.addresses.1;
    let family = |s: &TrafficSelector| s.addresses.0.is_ipv4() == host.is_ipv4();
    selectors.iter().any(|s| carries_gre(s) && family(s) && within(s))
}

/// Whether a responder granted GRE of this host. Where an address is translated before it reaches
/// the responder, that may name it as it sees it (RFC 7296 §2.23.1; strongSwan does).
pub(crate) fn grants(selectors: &[TrafficSelector], host: IpAddr, translated: bool) -> bool {
    covers(selectors, host) || (translated && narrow(selectors, None).is_some())
}

/// Narrows a peer's selectors to GRE of one host: the one that we see, else, where addresses are
/// translated on the way, the one that the peer names. It is sent back as the peer named it (RFC
/// 7296 §2.23.1).
pub(crate) fn narrow(
    selectors: &[TrafficSelector],
    seen: Option<IpAddr>,
) -> Option<TrafficSelector> {
    if let Some(seen) = seen.filter(|&seen| covers(selectors, seen)) {
        return Some(gre(seen));
    }
    let single = |s: &&TrafficSelector| carries_gre(s) && s.addresses.0 == s.addresses.1;
    selectors.iter().find(single).map(|selector| gre(selector.addresses.0))
}

/// One CHILD_SA of an IKE SA that is up.
#[derive(Debug, Clone)]
pub(crate) struct Child {
    pub(crate) id: TunnelId,
    pub(crate) inbound: u32,
    pub(crate) outbound: u32,
    /// The peer is not known to have it: when we take it for granted.
    pub(crate) confirm_at: Option<Instant>,
    pub(crate) cipher: EspCipher,
    pub(crate) esn: bool,
    /// Of the key exchange in its CREATE_CHILD_SA; for its successor the one to begin with.
    pub(crate) group: Option<&'static Group>,
    pub(crate) since: Instant,
    /// `None` once it has a successor.
    pub(crate) rekey_at: Option<Instant>,
    pub(crate) successor: Option<TunnelId>,
    /// When we no longer wait for the peer to delete it.
    pub(crate) delete_at: Option<Instant>,
    /// We are telling the peer.
    pub(crate) deleting: bool,
}

impl Child {
    /// `initiator` if this side began the exchange that made it.
    pub(crate) fn new(
        id: TunnelId,
        esp: &Esp,
        confirm_at: Option<Instant>,
        now: Instant,
        rekey_at: Option<Instant>,
    ) -> Self {
        Self {
            id,
            inbound: esp.inbound.spi,
            outbound: esp.outbound.spi,
            confirm_at,
            cipher: esp.cipher,
            esn: esp.esn,
            group: None,
            since: now,
            rekey_at,
            successor: None,
            delete_at: None,
            deleting: false,
        }
    }

    pub(crate) fn info(&self) -> ChildInfo {
        ChildInfo {
            tunnel: self.id,
            inbound: self.inbound,
            outbound: self.outbound,
            cipher: self.cipher,
            esn: self.esn,
            group: self.group.map(|group| group.name),
            since: self.since,
            rekey_at: self.rekey_at,
        }
    }

    /// When something has to be done about it, `free` if a request can be sent.
    pub(crate) fn deadline(&self, free: bool) -> Option<Instant> {
        let requests = [self.rekey_at, self.delete_at].into_iter().flatten().filter(|_| free);
        requests.chain(self.confirm_at).min()
    }
}

impl Engine {
    /// Enters a new CHILD_SA of `sa` into the tables.
    pub(crate) fn add_child(&mut self, sa: &mut Sa, child: Child) {
        let State::Established(established) = &mut sa.state else { return };
        let (sa, tunnel) = (sa.id, child.id);
        self.esp_spis.insert(child.inbound, tunnel);
        if child.confirm_at.is_none() {
            self.event(Event::Confirmed { sa, tunnel });
        }
        // There is hardly ever more than one, and four would be room for most of an SA.
        established.children.reserve_exact(1);
        established.children.push(child);
    }

    /// The peer has shown that it got our last answer, and with it its CHILD_SAs.
    pub(crate) fn confirm_children(&mut self, sa: &mut Sa, due: Option<Instant>) {
        let State::Established(established) = &mut sa.state else { return };
        for child in &mut established.children {
            if child.confirm_at.is_some_and(|at| due.is_none_or(|now| at <= now)) {
                child.confirm_at = None;
                let event = Event::Confirmed { sa: sa.id, tunnel: child.id };
                self.outputs.push_back(Output::Event(event));
            }
        }
    }

    /// The peer asks again: our answer was lost.
    pub(crate) fn postpone_confirmation(&self, now: Instant, sa: &mut Sa) {
        let State::Established(established) = &mut sa.state else { return };
        for at in established.children.iter_mut().filter_map(|child| child.confirm_at.as_mut()) {
            *at = (*at).max(now + CONFIRM_WAIT);
        }
    }

    /// The peer deletes some of its inbound SAs (RFC 7296 §1.4.1): gives ours that belong to them.
    pub(crate) fn delete_children(&mut self, sa: &mut Sa, spis: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let State::Established(established) = &mut sa.state else { return Vec::new() };
        let named = |child: &Child| spis.iter().any(|s| spi(s) == Some(child.outbound));
        let gone: Vec<Child> = established.children.extract_if(.., |child| named(child)).collect();
        let mut ours = Vec::new();
        for child in gone {
            self.esp_spis.remove(&child.inbound);
            let reason = "deleted by the peer".to_owned();
            self.event(Event::Unkeyed { sa: sa.id, tunnel: child.id, reason });
            // RFC 7296 §1.4.1: where both delete at once, each names its own in its request.
            if !child.deleting {
                ours.push(child.inbound.to_be_bytes().to_vec());
            }
        }
        ours
    }

    /// Keys are renewed in time, again and again if need be; who cannot do so any more, because he
    /// crashed, leaves none behind for ever.
    pub(crate) fn lifetime(&self) -> Duration {
        (2 * self.config.rekey_interval).max(SHORTEST_LIFETIME)
    }

    /// An SPI for what a peer sends, that nothing else on this node uses. A datagram that begins
    /// with it must not be taken for WireGuard (message types 1 to 4, then three zeros).
    pub(crate) fn fresh_esp_spi(&self, rng: &mut dyn CryptoRng) -> u32 {
        loop {
            let spi = rng.next_u32();
            let wireguard = spi & 0x00ff_ffff == 0 && spi >> 24 <= 4;
            if spi >= FIRST_SPI && !wireguard && !self.esp_spis.contains_key(&spi) {
                return spi;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::algorithm::SHA2_256;
    use crate::crypto::hex;

    // The IKEv2 vectors that OpenSSL's FIPS self test runs, made by NIST's ACVP.
    const SK_D: &str = "462B9DD525D4FD71169174272779E704BAF62C6231779AE9EFE8C58B21916B42";
    const NI: &str = "3651FEF5C9C35E93";
    const NR: &str = "C09A8B90A3F04D59";
    const KEYMAT: &str = "
        23647677E7D403FA1E3006F19840AEE18AD9FECC4215814C4131BDEBA98433D8
        B0E31BFBBDDF822ABCCE5E06486AA388022B75E27E1E68AA5983028B65282C73";

    #[test]
    fn rfc7296_2_23_1_a_responder_may_name_the_address_that_the_translator_showed_it() {
        // What strongSwan 5.9.8 answers to 10.0.0.2 behind 198.18.0.1.
        let answer = [gre([198, 18, 0, 1].into())];
        let own = [10, 0, 0, 2].into();
        assert!(grants(&answer, own, true));
        assert!(!grants(&answer, own, false));
        let tcp = TrafficSelector { protocol: 6, ..answer[0].clone() };
        assert!(!grants(&[tcp], own, true), "TCP is not GRE");
    }

    #[test]
    fn rfc7296_2_17_keymat_is_cut_in_the_order_of_the_rfc_known_answer() {
        let (sk_d, ni, nr, keymat) = (hex(SK_D), hex(NI), hex(NR), hex(KEYMAT));
        let seed = Seed {
            prf: &SHA2_256,
            sk_d: &sk_d,
            shared_secret: None,
            initiator_nonce: &ni,
            responder_nonce: &nr,
        };
        let terms = |cipher| Terms { cipher, esn: false, peer_spi: 0x2000 };
        let esp = seed.derive(terms(EspCipher::Aes128Gcm16), 0x1000, true, (false, Duration::ZERO));
        assert_eq!(*esp.outbound.encryption, keymat[..20]);
        assert_eq!(*esp.inbound.encryption, keymat[20..40]);
        assert!(esp.outbound.integrity.is_empty());
        assert_eq!((esp.inbound.spi, esp.outbound.spi), (0x1000, 0x2000));
        // Encryption before integrity, the initiator's direction before the other's.
        let esp =
            seed.derive(terms(EspCipher::Aes128CbcSha256), 0x1000, false, (false, Duration::ZERO));
        assert_eq!(*esp.inbound.encryption, keymat[..16]);
        assert_eq!(*esp.inbound.integrity, keymat[16..48]);
        assert_eq!(*esp.outbound.encryption, keymat[48..64]);
        assert_eq!(esp.outbound.integrity.len(), 32);
    }

    fn selector(protocol: u8, ports: (u16, u16), from: &str, to: &str) -> TrafficSelector {
        let address = |text: &str| text.parse().unwrap();
        TrafficSelector { protocol, ports, addresses: (address(from), address(to)) }
    }

    #[test]
    fn rfc7296_2_9_what_is_wider_is_narrowed_and_what_is_translated_stays_as_named() {
        let any = (0, u16::MAX);
        let seen: IpAddr = "192.0.2.1".parse().unwrap();
        let narrowed = |s: &[TrafficSelector]| narrow(s, Some(seen)).map(|s| s.addresses.0);
        for fits in [
            selector(47, any, "192.0.2.1", "192.0.2.1"),
            selector(0, any, "0.0.0.0", "255.255.255.255"),
            selector(47, any, "192.0.2.0", "192.0.2.255"),
        ] {
            let udp = selector(17, any, "192.0.2.1", "192.0.2.1");
            assert_eq!(narrowed(&[udp, fits]), Some(seen));
        }
        let inside = selector(47, any, "10.0.0.1", "10.0.0.1");
        assert_eq!(narrowed(&[inside]), Some("10.0.0.1".parse().unwrap()));
        for unfit in [
            selector(17, any, "192.0.2.1", "192.0.2.1"),
            selector(47, (0, 0), "192.0.2.1", "192.0.2.1"),
            selector(47, any, "10.0.0.0", "10.0.0.255"),
            selector(0, any, "::", "ffff::"),
        ] {
            assert_eq!(narrowed(&[unfit]), None);
        }
    }
}
