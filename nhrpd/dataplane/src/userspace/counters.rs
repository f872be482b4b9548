//! What is counted: packets by path, and drops by reason.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use overlay::desired::PeerCounters;

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal,)+) => {
        /// Why a packet was dropped.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Reason {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Reason {
            const NAMES: &[&str] = &[$($text),+];
        }
    };
}

reasons! {
    /// Neither IKE nor WireGuard.
    UnknownDatagram = "unknown-datagram",
    /// IKE to an own address that is not that of the tunnel (kernel data plane).
    OtherAddress = "other-address",
    /// A WireGuard packet for a session that is not known here.
    UnknownSession = "unknown-session",
    /// More WireGuard handshakes from one source, or more keys to try, than is allowed.
    HandshakeRate = "handshake-rate",
    /// More IKE messages from one source than are allowed, or than the control plane deals with.
    IkeRate = "ike-rate",
    /// Not authentic.
    Unauthentic = "unauthentic",
    /// Authentic, but received before or too late.
    Replayed = "replayed",
    /// Not a well-formed packet.
    Malformed = "malformed",
    /// GRE key differs.
    WrongKey = "wrong-key",
    /// GRE protocol type that is not carried here.
    UnknownProtocol = "unknown-protocol",
    /// GRE in clear from a node that is no peer.
    UnknownPeer = "unknown-peer",
    /// Inner source address that the path may not use.
    SpoofedSource = "spoofed-source",
    /// The way on is the way it came.
    SameWay = "same-way",
    /// TTL or hop limit used up.
    TimeExceeded = "time-exceeded",
    /// Larger than the path carries, and may not be cut.
    TooBig = "too-big",
    /// No path for the destination.
    Unroutable = "unroutable",
    /// Multicast or broadcast, and nobody to copy it to.
    NoMember = "no-multicast-member",
    /// The path has no session, and its queue is full.
    NoSession = "no-session",
    /// The underlay refused the datagram.
    SendFailed = "send-failed",
    /// The tunnel device refused the packet.
    DeviceFailed = "device-failed",
    /// The control plane does not keep up with its events.
    EventQueue = "event-queue",
}

/// Counts drops by reason. Each thread has its own.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct Drops([AtomicU64; Reason::NAMES.len()]);

impl Default for Drops {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Drops {
    pub(crate) fn add(&self, reason: Reason, packets: u64) {
        self.0[reason as usize].fetch_add(packets, Relaxed);
    }

    pub(crate) fn count(&self, reason: Reason) {
        self.add(reason, 1);
    }

    pub(crate) fn read(&self) -> BTreeMap<&'static str, u64> {
        Reason::NAMES.iter().zip(&self.0).map(|(name, n)| (*name, n.load(Relaxed))).collect()
    }
}

/// Counters of one path; bytes are those of the inner IP packets. What the thread that seals writes
/// and what the one that opens writes lies in different lines of the cache.
#[derive(Debug, Default)]
pub(crate) struct PathCounters {
    tx: Sent,
    rx: Received,
}

#[derive(Debug, Default)]
#[repr(align(64))]
struct Sent {
    packets: AtomicU64,
    bytes: AtomicU64,
}

#[derive(Debug, Default)]
#[repr(align(64))]
struct Received {
    packets: AtomicU64,
    bytes: AtomicU64,
    forwarded: AtomicU64,
    dropped: AtomicU64,
    /// Seconds since the start and 1; 0 = never.
    last: AtomicU64,
}

impl PathCounters {
    pub(crate) fn sent(&self, packets: u64, bytes: u64) {
        self.tx.packets.fetch_add(packets, Relaxed);
        self.tx.bytes.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn received(&self, bytes: u64) {
        self.rx.packets.fetch_add(1, Relaxed);
        self.rx.bytes.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn forwarded(&self) {
        self.rx.forwarded.fetch_add(1, Relaxed);
    }

    pub(crate) fn dropped(&self, packets: u64) {
        self.rx.dropped.fetch_add(packets, Relaxed);
    }

    pub(crate) fn heard(&self, start: Instant, now: Instant) {
        self.rx.last.store(now.duration_since(start).as_secs() + 1, Relaxed);
    }

    pub(crate) fn read(&self) -> PeerCounters {
        PeerCounters {
            tx_packets: self.tx.packets.load(Relaxed),
            tx_bytes: self.tx.bytes.load(Relaxed),
            rx_packets: self.rx.packets.load(Relaxed),
            rx_bytes: self.rx.bytes.load(Relaxed),
            forwarded_packets: self.rx.forwarded.load(Relaxed),
            dropped_packets: self.rx.dropped.load(Relaxed),
            last_rx: self.rx.last.load(Relaxed).checked_sub(1),
        }
    }
}
