//! The cache: bindings by prefix, found by longest match, by peer and by NBMA address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::timers::Timer;
use super::{Binding, BindingKind, Engine, Event, Nbma, Refusal};
use crate::index::{Groups, Index};

/// Where an entry stands. Several kinds may hold for one prefix; the first counts.
pub(super) type Key = (IpNet, BindingKind);

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) next_hop: IpAddr,
    /// Where the peer is reached.
    pub(super) nbma: Nbma,
    /// Where it says it is.
    pub(super) claimed: Nbma,
    pub(super) mtu: u16,
    pub(super) created: Instant,
    pub(super) expires: Option<Instant>,
    pub(super) unique: bool,
    pub(super) authoritative: bool,
    /// Present in shortcuts.
    pub(super) shortcut: Option<Box<Shortcut>>,
}

#[derive(Debug, Clone)]
pub(super) struct Shortcut {
    /// The destination to ask for at renewal.
    pub(super) destination: IpAddr,
    pub(super) holding_time: Duration,
    /// Packets sent when it was new or last renewed; `None` until looked at.
    pub(super) packets: Option<u64>,
    /// Carried traffic when last looked at.
    pub(super) used: bool,
    /// Learnt from the source of a request.
    pub(super) implicit: bool,
}

impl Entry {
    pub(super) fn translated(&self) -> bool {
        self.nbma != self.claimed
    }

    fn binding(&self, (prefix, kind): Key) -> Binding {
        Binding {
            prefix,
            next_hop: self.next_hop,
            nbma: self.nbma,
            mtu: self.mtu,
            kind,
            claimed: self.translated().then_some(self.claimed.address),
            authoritative: self.authoritative,
        }
    }
}

#[derive(Debug)]
pub(super) struct Cache {
    entries: Index<Key, Box<Entry>>,
    /// Their keys in order.
    order: BTreeSet<Key>,
    /// How many entries each kind has: a look-up tries only those that have some.
    kinds: [usize; KINDS.len()],
    by_peer: Groups<IpAddr, Key>,
    by_nbma: Groups<Nbma, Key>,
    /// How many entries have this prefix length (IPv6?, length): a lookup tries these only.
    lengths: BTreeMap<(bool, u8), usize>,
}

const KINDS: [BindingKind; 4] =
    [BindingKind::Static, BindingKind::Nhs, BindingKind::Registered, BindingKind::Shortcut];
const LAST: BindingKind = KINDS[KINDS.len() - 1];

impl Cache {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            entries: Index::new(seed),
            order: BTreeSet::new(),
            kinds: [0; KINDS.len()],
            by_peer: Groups::new(seed),
            by_nbma: Groups::new(seed),
            lengths: BTreeMap::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn get(&self, key: Key) -> Option<&Entry> {
        self.entries.get(&key).map(AsRef::as_ref)
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut Entry> {
        self.entries.get_mut(&key).map(AsMut::as_mut)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Key, &Entry)> {
        self.order.iter().filter_map(|key| Some((*key, self.get(*key)?)))
    }

    fn insert(&mut self, key: Key, entry: Entry) {
        self.remove(key);
        self.by_peer.insert(entry.next_hop, key);
        self.by_nbma.insert(entry.nbma, key);
        *self.lengths.entry(length(key.0)).or_default() += 1;
        self.kinds[key.1 as usize] += 1;
        self.order.insert(key);
        self.entries.insert(key, Box::new(entry));
    }

    fn remove(&mut self, key: Key) -> Option<Entry> {
        let entry = *self.entries.remove(&key)?;
        self.order.remove(&key);
        self.kinds[key.1 as usize] -= 1;
        self.by_peer.remove(&entry.next_hop, &key);
        self.by_nbma.remove(&entry.nbma, &key);
        if let Some(count) = self.lengths.get_mut(&length(key.0)) {
            *count -= 1;
            if *count == 0 {
                self.lengths.remove(&length(key.0));
            }
        }
        Some(entry)
    }

    /// What is known of exactly this prefix, up to `kind`.
    pub(super) fn at(&self, prefix: IpNet, kind: BindingKind) -> Option<(Key, &Entry)> {
        let mut kinds = KINDS.into_iter().zip(self.kinds).take_while(|(k, _)| *k <= kind);
        kinds.find_map(|(k, count)| {
            let key = (prefix, k);
            if count == 0 { None } else { Some((key, self.get(key)?)) }
        })
    }

    pub(super) fn binding(&self, prefix: IpNet) -> Option<Binding> {
        self.at(prefix, LAST).map(|(key, entry)| entry.binding(key))
    }

    pub(super) fn bindings(&self) -> impl Iterator<Item = Binding> + '_ {
        let mut last = None;
        self.iter()
            .filter(move |((prefix, _), _)| last.replace(*prefix) != Some(*prefix))
            .map(|(key, entry)| entry.binding(key))
    }

    /// Those of the entries at `keys` that count for their prefixes.
    pub(super) fn bindings_among(&self, keys: Vec<Key>) -> impl Iterator<Item = Binding> + '_ {
        keys.into_iter().filter_map(|key| {
            let (first, entry) = self.at(key.0, LAST)?;
            (first == key).then(|| entry.binding(key))
        })
    }

    /// Longest match among the kinds up to `kind`.
    pub(super) fn longest(&self, address: IpAddr, kind: BindingKind) -> Option<(Key, &Entry)> {
        let v6 = address.is_ipv6();
        self.lengths
            .range((v6, 0)..=(v6, u8::MAX))
            .rev()
            .filter_map(|((_, length), _)| IpNet::new(address, *length).ok())
            .find_map(|net| self.at(net.trunc(), kind))
    }

    /// Everything of the peer with this protocol address.
    pub(super) fn of_peer(&self, peer: IpAddr) -> Vec<Key> {
        self.by_peer.of(&peer).to_vec()
    }

    /// Everything reached at this NBMA address.
    pub(super) fn at_nbma(&self, nbma: Nbma) -> Vec<Key> {
        self.by_nbma.of(&nbma).to_vec()
    }

    /// The prefixes next to `address` in the order of addresses that do not contain it, up to
    /// `kind`: of all prefixes these share the most leading bits with it.
    pub(super) fn neighbours(
        &self,
        address: IpAddr,
        kind: BindingKind,
    ) -> impl Iterator<Item = IpNet> {
        let key = (IpNet::from(address), LAST);
        let other = move |(net, k): &&Key| *k <= kind && !net.contains(&address);
        let before = self.order.range(..=key).rev().find(other);
        let after = self.order.range(key..).find(other);
        before.into_iter().chain(after).map(|(net, _)| *net)
    }
}

fn length(prefix: IpNet) -> (bool, u8) {
    (prefix.addr().is_ipv6(), prefix.prefix_len())
}

/// Makes `length` longer until the prefix around `address` shares nothing with any of `others`;
/// `None` where one of these contains the address itself.
pub(super) fn narrow(
    address: IpAddr,
    length: u8,
    others: impl IntoIterator<Item = IpNet>,
) -> Option<u8> {
    others.into_iter().try_fold(length, |length, other| {
        let common = match (address, other.addr()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
            (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
            _ => return Some(length),
        } as u8;
        if common >= other.prefix_len() {
            return None;
        }
        Some(length.max(common + 1))
    })
}

impl Engine {
    /// Puts an entry into the cache, within the cap; `false` where that is reached.
    pub(super) fn install(&mut self, now: Instant, key: Key, entry: Entry) -> bool {
        let former = self.cache.get(key);
        if former.is_none() && self.cache_full() && key.1 >= BindingKind::Registered {
            self.counters.count(Refusal::CacheFull);
            return false;
        }
        self.timers.set_expiry(key, former.and_then(|former| former.expires), entry.expires);
        if entry.shortcut.is_some() {
            // Due at once: that is when its traffic is first looked at.
            self.timers.set(Timer::Use(key.0), now);
        }
        let Entry { next_hop, nbma, claimed, .. } = entry;
        self.change(key.0, |cache| cache.insert(key, entry));
        if key.1 == BindingKind::Shortcut {
            self.follow(next_hop, nbma, claimed);
        }
        true
    }

    /// A peer has one NBMA address: where the newest word says that it is elsewhere, all that was
    /// learnt of it before goes there too.
    fn follow(&mut self, peer: IpAddr, nbma: Nbma, claimed: Nbma) {
        for key in self.cache.of_peer(peer) {
            if key.1 == BindingKind::Shortcut
                && self.cache.get(key).is_some_and(|entry| entry.nbma != nbma)
            {
                self.relocate(key, nbma, Some(claimed));
            }
        }
    }

    pub(super) fn cache_full(&self) -> bool {
        self.cache.len() + self.negative.len() >= self.config.limits.cache_entries
    }

    /// Takes an entry out of the cache.
    pub(super) fn uninstall(&mut self, key: Key, reason: &'static str) {
        let expires = self.cache.get(key).and_then(|entry| entry.expires);
        self.timers.set_expiry(key, expires, None);
        if key.1 == BindingKind::Shortcut {
            self.timers.cancel(Timer::Use(key.0));
        }
        if let Some(entry) = self.change(key.0, |cache| cache.remove(key))
            && key.1 == BindingKind::Registered
        {
            self.event(Event::Unregistered { prefix: key.0, client: entry.next_hop, reason });
        }
    }

    /// The peer of this entry is reached elsewhere.
    pub(super) fn relocate(&mut self, key: Key, nbma: Nbma, claimed: Option<Nbma>) {
        self.change(key.0, |cache| {
            if let Some(mut entry) = cache.remove(key) {
                entry.nbma = nbma;
                entry.claimed = claimed.unwrap_or(entry.claimed);
                cache.insert(key, entry);
            }
        });
    }

    /// Changes the cache at one prefix and tells if that changes its binding.
    fn change<T>(&mut self, prefix: IpNet, change: impl FnOnce(&mut Cache) -> T) -> T {
        let before = self.cache.binding(prefix);
        let result = change(&mut self.cache);
        let binding = self.cache.binding(prefix);
        if before != binding {
            self.event(Event::BindingChanged { prefix, binding });
        }
        result
    }

    /// An entry's holding time is over.
    pub(super) fn expire(&mut self, now: Instant, key: Key) {
        if key.1 == BindingKind::Nhs {
            self.server_expired(now, key.0.addr());
        } else {
            self.uninstall(key, "its holding time ran out");
        }
    }
}
