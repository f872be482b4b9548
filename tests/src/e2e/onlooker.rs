//! Somebody without keys who sees all of the underlay.

use std::collections::BTreeMap;
use std::net::IpAddr;

use lab::decode::{self, Kind, Packet};
use lab::{Capture, Recorded};

use super::good;

/// A recording under way.
pub struct Recording(Vec<Capture>);

/// What could be seen.
#[derive(Debug, Default)]
pub struct Onlooker {
    /// Kinds of packets and how many of each.
    pub kinds: BTreeMap<Kind, usize>,
    /// An example of each inner address in plain sight.
    pub leaks: BTreeMap<IpAddr, String>,
    /// All of it.
    pub packets: Vec<Recorded>,
}

impl Recording {
    /// Of these links.
    pub fn new(captures: Vec<Capture>) -> Self {
        Self(captures)
    }

    /// Ends it.
    #[track_caller]
    pub fn stop(self, inner: &[IpAddr]) -> Onlooker {
        let mut seen = Onlooker::default();
        for capture in self.0 {
            let captured = good("end a capture", capture.stop());
            assert_eq!(captured.lost, 0, "the capture is not complete");
            seen.packets.extend(captured.packets);
        }
        for packet in &seen.packets {
            let decoded = Packet::of(&packet.bytes);
            for address in decode::leaks(&packet.bytes, inner) {
                seen.leaks.entry(address).or_insert_with(|| decoded.to_string());
            }
            *seen.kinds.entry(decoded.kind).or_default() += 1;
        }
        seen
    }
}

impl Onlooker {
    /// Packets of such kinds.
    pub fn count(&self, wanted: impl Fn(&Kind) -> bool) -> usize {
        self.kinds.iter().filter(|(kind, _)| wanted(kind)).map(|(_, count)| count).sum()
    }

    /// GRE in clear text.
    pub fn gre(&self) -> usize {
        self.count(|kind| matches!(kind, Kind::Gre(_)))
    }

    /// IKE and encrypted data are there, no GRE, nothing else that carries data, no inner address.
    #[track_caller]
    pub fn sees_nothing(&self) {
        self.sees_ciphers_only();
        assert!(self.leaks.is_empty(), "{:#?}", self.leaks);
    }

    /// The same by what the packets are, and not by what is in them: a capture shares the memory of
    /// what UDP GSO has cut, and a kernel that receives it decrypts it where it is.
    #[track_caller]
    pub fn sees_ciphers_only(&self) {
        assert!(self.count(|kind| matches!(kind, Kind::Ike(_))) > 0, "{:#?}", self.kinds);
        assert!(self.count(Kind::data) > 0, "{:#?}", self.kinds);
        let strange = |kind: &Kind| {
            // A port that nobody listens on any more, an address that is gone.
            let unreachable = matches!(kind, Kind::Icmp(1 | 3));
            !(kind.encrypted() || kind.housekeeping() || unreachable || *kind == Kind::Keepalive)
        };
        let example = self.packets.iter().map(|packet| Packet::of(&packet.bytes));
        let example = example.filter(|packet| strange(&packet.kind)).map(|p| p.to_string()).next();
        assert_eq!(example, None, "{:#?}", self.kinds);
    }
}
