//! Rate limits in bounded memory.

use std::hash::{BuildHasher, Hash, RandomState};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use overlay::desired::Event;
use tokio::sync::mpsc;

/// So many at once, then so many per second.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bucket {
    left: u32,
    since: Instant,
}

impl Bucket {
    pub(crate) fn new(burst: u32, now: Instant) -> Self {
        Self { left: burst, since: now }
    }

    /// Whether one more is within `rate` per second (above 0) and `burst`.
    pub(crate) fn take(&mut self, rate: u32, burst: u32, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.since);
        let earned = elapsed.as_micros() * u128::from(rate) / 1_000_000;
        if let Ok(earned @ 1..) = u32::try_from(earned) {
            self.left = self.left.saturating_add(earned).min(burst);
            self.since += Duration::from_micros(u64::from(earned) * 1_000_000 / u64::from(rate));
        } else if earned > 0 {
            *self = Self::new(burst, now);
        }
        let granted = self.left > 0;
        self.left = self.left.saturating_sub(1);
        granted
    }
}

/// A bucket for each source. Sources share one where their hashes meet, so that memory stays
/// bounded however many there are.
#[derive(Debug)]
pub(crate) struct PerSource {
    hasher: RandomState,
    buckets: Vec<Bucket>,
    rate: u32,
    burst: u32,
}

impl PerSource {
    pub(crate) fn new(sources: usize, rate: u32, burst: u32, now: Instant) -> Self {
        Self {
            hasher: RandomState::new(),
            buckets: vec![Bucket::new(burst, now); sources],
            rate,
            burst,
        }
    }

    pub(crate) fn take(&mut self, source: impl Hash, now: Instant) -> bool {
        let slot = self.hasher.hash_one(source) as usize % self.buckets.len();
        self.buckets[slot].take(self.rate, self.burst, now)
    }
}

/// IKE messages per second from one address, and at once.
const IKE: (u32, u32) = (200, 400);
/// Addresses that are told apart.
const SOURCES: usize = 1024;

/// Which IKE messages the control plane hears. Anybody can send first ones from anywhere: they leave
/// room in its queue for those who have shown that they receive what is sent to them, and these for
/// what the data plane has to say itself.
#[derive(Debug)]
pub(crate) struct IkeGate {
    first: PerSource,
    further: PerSource,
}

impl IkeGate {
    pub(crate) fn new(now: Instant) -> Self {
        let each = || PerSource::new(SOURCES, IKE.0, IKE.1, now);
        Self { first: each(), further: each() }
    }

    /// Whether this message may come in.
    pub(crate) fn admits(
        &mut self,
        events: &mpsc::Sender<Event>,
        from: IpAddr,
        message: &[u8],
        now: Instant,
    ) -> bool {
        let (room, all) = (events.capacity(), events.max_capacity());
        if is_first(message) {
            4 * room > 3 * all && self.first.take(from, now)
        } else {
            2 * room > all && self.further.take(from, now)
        }
    }
}

/// WireGuard handshake messages per second from one address, and at once.
const HANDSHAKES: (u32, u32) = (100, 200);

/// What may be asked for by somebody who may be a stranger.
#[derive(Debug)]
pub(crate) struct Gate {
    pub ike: IkeGate,
    pub handshakes: PerSource,
}

impl Gate {
    pub(crate) fn new(now: Instant) -> Self {
        let handshakes = PerSource::new(SOURCES, HANDSHAKES.0, HANDSHAKES.1, now);
        Self { ike: IkeGate::new(now), handshakes }
    }
}

/// No SPI of ours (RFC 7296 §3.1), and no notify in front, where a cookie would be (§2.6).
fn is_first(message: &[u8]) -> bool {
    const NOTIFY: u8 = 41;
    message.get(8..17).is_some_and(|part| part[..8] == [0; 8] && part[8] != NOTIFY)
}

/// Lets the first of each kind pass, and the next one when `interval` is over; at most `rate`
/// per second of all kinds.
#[derive(Debug)]
pub(crate) struct First {
    hasher: RandomState,
    seen: Vec<Option<(u64, Instant)>>,
    interval: Duration,
    rate: u32,
    all: Bucket,
}

impl First {
    pub(crate) fn new(kinds: usize, interval: Duration, rate: u32, now: Instant) -> Self {
        Self {
            hasher: RandomState::new(),
            seen: vec![None; kinds],
            interval,
            rate,
            all: Bucket::new(rate, now),
        }
    }

    pub(crate) fn pass(&mut self, kind: impl Hash, now: Instant) -> bool {
        let hash = self.hasher.hash_one(kind);
        let slot = hash as usize % self.seen.len();
        let fresh = self.seen[slot].is_some_and(|(seen, at)| {
            seen == hash && now.saturating_duration_since(at) < self.interval
        });
        if fresh || !self.all.take(self.rate, self.rate, now) {
            return false;
        }
        self.seen[slot] = Some((hash, now));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(3, start);
        let mut granted = |at: u64| bucket.take(10, 3, start + Duration::from_millis(at));
        assert_eq!([granted(0), granted(0), granted(0), granted(0)], [true, true, true, false]);
        assert!(!granted(99));
        assert!(granted(100));
        assert!(!granted(150));
        assert!(granted(200));
        // A long silence gives the burst, not more.
        assert_eq!([0; 4].map(|_| granted(1 << 40)), [true, true, true, false]);
    }

    #[test]
    fn first_messages_of_strangers_leave_room_for_who_has_an_answer() {
        let now = Instant::now();
        let mut gate = IkeGate::new(now);
        let (events, mut queue) = mpsc::channel(16);
        let message = |responder: u8, payload: u8| {
            let mut message = [1; 28];
            message[8..16].fill(responder);
            message[16] = payload;
            message
        };
        let (security_association, notify) = (33, 41);
        let mut fill = |message: [u8; 28]| {
            let from = |n: u8| IpAddr::from([11, 0, 0, n]);
            let enter = || events.try_send(Event::Unknown { from: ([11, 0, 0, 1], 1).into() });
            let admitted = (0..32).take_while(|&n| gate.admits(&events, from(n), &message, now));
            admitted.map(|_| enter().unwrap()).count()
        };
        assert_eq!(fill(message(0, security_association)), 4);
        assert_eq!(fill(message(0, notify)), 4, "with a cookie");
        assert_eq!(fill(message(7, security_association)), 0);
        queue.try_recv().unwrap();
        assert_eq!(fill(message(0, security_association)), 0);
        assert_eq!(fill(message(7, security_association)), 1, "of an SA");
        assert!(!is_first(&[0; 16]), "cut short");
    }

    #[test]
    fn one_source_does_not_use_up_what_another_has() {
        let now = Instant::now();
        let mut limit = PerSource::new(1 << 16, 1, 2, now);
        assert_eq!([0; 3].map(|_| limit.take("a", now)), [true, true, false]);
        assert!(limit.take("b", now));
    }

    #[test]
    fn the_first_of_a_flow_passes_and_the_rest_waits() {
        let start = Instant::now();
        let mut first = First::new(64, Duration::from_secs(2), 10, start);
        assert!(first.pass((1, 2), start));
        assert!(!first.pass((1, 2), start + Duration::from_millis(1999)));
        assert!(first.pass((1, 2), start + Duration::from_secs(2)));
    }

    #[test]
    fn many_flows_share_one_rate() {
        let now = Instant::now();
        let mut first = First::new(64, Duration::from_secs(2), 10, now);
        assert_eq!((0..1000).filter(|flow| first.pass(flow, now)).count(), 10);
    }
}
