//! What an operator sees: cache, servers, counters.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::time::Instant;

use ipnet::IpNet;

use super::cache::{Entry, Key};
use super::client::Nhs;
use super::{BindingKind, Nbma};

/// One line of the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheEntry {
    /// Prefix; a host prefix for a single address.
    pub prefix: IpNet,
    /// Type, as Cisco names it.
    pub kind: EntryKind,
    /// Protocol address of the peer; `None` for incomplete and negative entries.
    pub next_hop: Option<IpAddr>,
    /// NBMA address that the peer claims.
    pub claimed: Option<IpAddr>,
    /// NBMA address where it is reached.
    pub seen: Option<Nbma>,
    /// Flags.
    pub flags: EntryFlags,
    /// Since when.
    pub created: Instant,
    /// Until when; `None` = for ever.
    pub expires: Option<Instant>,
}

impl CacheEntry {
    pub(super) fn bare(prefix: IpNet, kind: EntryKind, created: Instant) -> Self {
        let flags = EntryFlags::default();
        Self {
            prefix,
            kind,
            next_hop: None,
            claimed: None,
            seen: None,
            flags,
            created,
            expires: None,
        }
    }
}

impl Entry {
    pub(super) fn show(&self, (prefix, kind): Key) -> CacheEntry {
        let shortcut = self.shortcut.as_deref();
        let flags = EntryFlags {
            unique: self.unique,
            registered: kind == BindingKind::Registered,
            used: shortcut.is_some_and(|shortcut| shortcut.used),
            authoritative: self.authoritative,
            implicit: shortcut.is_some_and(|shortcut| shortcut.implicit),
            nat: self.translated(),
        };
        let (kind, expires) = match kind {
            BindingKind::Static | BindingKind::Nhs => (EntryKind::Static, None),
            BindingKind::Registered | BindingKind::Shortcut => (EntryKind::Dynamic, self.expires),
        };
        CacheEntry {
            next_hop: Some(self.next_hop),
            claimed: Some(self.claimed.address),
            seen: Some(self.nbma),
            flags,
            expires,
            ..CacheEntry::bare(prefix, kind, self.created)
        }
    }
}

impl Nhs {
    pub(super) fn show(&self) -> ServerStatus {
        ServerStatus {
            address: self.server.address,
            nbma: self.server.nbma,
            state: self.state,
            why: self.why.clone(),
            since: self.since,
            priority: self.server.priority,
            cluster: self.server.cluster,
            requests: self.requests,
            replies: self.replies,
            last_refusal: self.last_refusal.clone(),
            seen_as: self.seen_as,
            next: None,
        }
    }
}

/// Type of a cache entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum EntryKind {
    /// Configured: a map, or a server that responds.
    Static,
    /// Learnt: registered or resolved.
    Dynamic,
    /// A Resolution Request is on its way.
    Incomplete,
    /// Asked for in vain.
    Negative,
    /// Our own.
    Local,
}

/// Flags of a cache entry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EntryFlags {
    /// Registered with the unique bit.
    pub unique: bool,
    /// Registered by its owner with us.
    pub registered: bool,
    /// Carried traffic when last looked at.
    pub used: bool,
    /// Said by the owner or by the server that it registered with.
    pub authoritative: bool,
    /// Learnt from the source of a request.
    pub implicit: bool,
    /// The peer is behind address translation.
    pub nat: bool,
}

/// One next-hop server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerStatus {
    /// Protocol address.
    pub address: IpAddr,
    /// NBMA address; `None` while its name is not resolved.
    pub nbma: Option<Nbma>,
    /// State.
    pub state: NhsState,
    /// Why it is not responding, in words; empty while it is.
    pub why: String,
    /// In this state since then.
    pub since: Instant,
    /// Lower is preferred.
    pub priority: u8,
    /// Cluster.
    pub cluster: u8,
    /// Registration and Resolution Requests sent to it, retries included.
    pub requests: u64,
    /// Replies that it sent to them.
    pub replies: u64,
    /// Its last refusal, in words.
    pub last_refusal: Option<String>,
    /// Where it sees us, if not at the address that we claim.
    pub seen_as: Option<Nbma>,
    /// When it is asked next, in vain or to renew.
    pub next: Option<Instant>,
}

/// How far the resolution of one destination is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolution {
    /// A request is on its way.
    Asked {
        /// The server that was asked last.
        server: Nbma,
        /// When it was asked first.
        since: Instant,
        /// How often.
        times: u32,
        /// When it is asked again.
        next: Option<Instant>,
    },
    /// There was no usable answer.
    Failed {
        /// When that was clear.
        at: Instant,
        /// Until then nobody is asked again.
        until: Instant,
        /// Why, in words.
        reason: String,
    },
}

/// State of a next-hop server, as Cisco shows it (E, R, W).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NhsState {
    /// Registration sent, no reply yet.
    ExpectingReplies,
    /// It accepted our registration.
    Responding,
    /// Not asked at present: an address is missing, or it refused and we back off.
    Waiting,
}

/// Counters since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets sent, by ar$op.type (1–8; 0 is unused).
    pub sent: [u64; 9],
    /// Packets received and decoded, by ar$op.type.
    pub received: [u64; 9],
    /// Packets forwarded for others (they count as sent too).
    pub forwarded: u64,
    refused: BTreeMap<Refusal, u64>,
}

impl Counters {
    /// How often `reason` struck.
    pub fn refused(&self, reason: Refusal) -> u64 {
        self.refused.get(&reason).copied().unwrap_or(0)
    }

    pub(super) fn count(&mut self, reason: Refusal) {
        *self.refused.entry(reason).or_default() += 1;
    }

    /// Every counter with its name, always all of them and in the same order.
    pub fn iter(&self) -> impl Iterator<Item = (String, u64)> + '_ {
        let by_type = |verb: &'static str, values: &[u64; 9]| {
            let values = *values;
            OPERATIONS.into_iter().zip(1..).map(move |(n, i)| (format!("{verb} {n}"), values[i]))
        };
        by_type("sent", &self.sent)
            .chain(by_type("received", &self.received))
            .chain([("forwarded".to_owned(), self.forwarded)])
            .chain(Refusal::ALL.iter().map(|r| (format!("refused: {r}"), self.refused(*r))))
    }
}

const OPERATIONS: [&str; 8] = [
    "resolution request",
    "resolution reply",
    "registration request",
    "registration reply",
    "purge request",
    "purge reply",
    "error indication",
    "traffic indication",
];

macro_rules! refusals {
    ($($(#[doc = $doc:literal])* $name:ident = $text:literal,)*) => {
        /// Why something was not done. Each has a counter.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Refusal { $($(#[doc = $doc])* $name,)* }

        impl Refusal {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];
        }

        impl fmt::Display for Refusal {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$name => $text,)* })
            }
        }
    };
}

refusals! {
    /// Not an NHRP packet.
    Malformed = "malformed packet",
    /// One peer sent more packets than [`Limits::packets_per_peer`](super::Limits).
    PeerRate = "peer above its packet rate",
    /// Authentication extension wrong, missing or doubled.
    Authentication = "authentication failure",
    /// Hop count used up.
    HopCount = "hop count exceeded",
    /// Own address in the transit list or the responder address.
    Loop = "loop detected",
    /// Compulsory extension that we do not know.
    UnknownExtension = "unrecognised compulsory extension",
    /// Known extension, doubled or of wrong form.
    InvalidExtension = "invalid extension",
    /// Well-formed packet that says nothing sensible.
    Protocol = "protocol error",
    /// A peer claimed what it may not.
    Claim = "claim not authorised",
    /// Unique address, already registered from another NBMA address.
    NotUnique = "unique address already registered",
    /// Somebody else than the owner asked for a purge.
    Purge = "purge by other than the owner",
    /// [`Limits::cache_entries`](super::Limits) reached.
    CacheFull = "cache full",
    /// [`Limits::pending`](super::Limits) reached.
    PendingFull = "too many pending requests",
    /// Reply to a request that we did not make.
    UnknownReply = "reply to an unknown request",
    /// Second reply to the same request.
    DuplicateReply = "duplicate reply",
    /// Reply prefix that is too wide or covers what is ours.
    ReplyPrefix = "reply prefix not acceptable",
    /// Nobody is known behind that address.
    Unreachable = "no way to the destination",
    /// We are no server, or do not follow or send indications.
    NotEnabled = "not enabled here",
    /// Indication from a node that is no next-hop server of ours.
    IndicationSource = "indication by other than a server",
    /// Indication that tells nothing new: known, negative, or being resolved.
    Known = "indication for a known destination",
    /// [`Limits::errors`](super::Limits) reached.
    ErrorRate = "error indications above their rate",
    /// [`Limits::indications`](super::Limits) reached.
    IndicationRate = "traffic indications above their rate",
}
