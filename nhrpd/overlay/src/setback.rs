//! Direct paths that did not come up, and how long each is left alone: until then traffic goes
//! through a server.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use nhrp::engine::Nbma;

/// Longest pause before another try of a path that never came up.
const CAP: Duration = Duration::from_secs(300);
/// Longest pause where there was a path: whoever was reached is to be reached again soon after his
/// outage.
pub(crate) const KNOWN_CAP: Duration = Duration::from_secs(64);
/// After so many tries in a row, more than an hour, such a path is one like any other.
const PATIENCE: u32 = 60;
/// What failed so long ago and was not tried since says nothing any more.
const STALE: Duration = Duration::from_hours(1);

/// What became of the direct path to one peer at one address.
#[derive(Debug)]
pub(crate) struct Setback {
    nbma: Nbma,
    /// There was a path.
    worked: bool,
    /// Tries that failed in a row.
    pub failures: u32,
    /// Why the last one did.
    pub reason: String,
    /// End of the pause after it.
    pub until: Instant,
    /// Half of the pause is over.
    half: Instant,
}

/// What asks for a direct path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Occasion {
    /// Packets.
    Traffic,
    /// A resolution. The peer hears of it, too, and begins at the same moment: two translators that
    /// admit only whom their side has sent to are passed so. Half of the pause is enough then.
    Resolution,
}

/// By the tunnel addresses of the peers.
#[derive(Debug, Default)]
pub(crate) struct Setbacks(BTreeMap<IpAddr, Setback>);

/// What a further failure means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Until the next try.
    pub pause: Duration,
    /// It differs from the one before.
    pub news: bool,
}

/// After the `tries`th try in a row: 2, 4, 8 … seconds.
pub(crate) fn pause(tries: u32, cap: Duration) -> Duration {
    Duration::from_secs(1 << tries.min(16)).min(cap)
}

impl Setbacks {
    const KEPT: usize = 4096;

    fn at(&self, peer: IpAddr, nbma: Nbma) -> Option<&Setback> {
        self.0.get(&peer).filter(|setback| setback.nbma == nbma)
    }

    /// What failed last, where the path to this peer never came up at this address.
    pub(crate) fn of(&self, now: Instant, peer: IpAddr, nbma: Nbma) -> Option<&Setback> {
        self.at(peer, nbma).filter(|setback| !setback.worked && now <= setback.until + STALE)
    }

    /// The same while the path is to be left alone.
    pub(crate) fn pending(
        &self,
        now: Instant,
        (peer, nbma): (IpAddr, Nbma),
        occasion: Occasion,
    ) -> Option<&Setback> {
        self.of(now, peer, nbma).filter(|setback| {
            now < match occasion {
                Occasion::Traffic => setback.until,
                Occasion::Resolution => setback.half,
            }
        })
    }

    /// Another try failed, the `tries`th in a row.
    pub(crate) fn failed(
        &mut self,
        now: Instant,
        (peer, nbma): (IpAddr, Nbma),
        tries: u32,
        reason: &str,
    ) -> Verdict {
        let former = self.at(peer, nbma);
        let failures = former.map_or(0, |former| former.failures) + 1;
        let worked = former.is_some_and(|former| former.worked && failures <= PATIENCE);
        let news = former.is_none_or(|former| former.failures == 0 || former.reason != reason);
        let pause = pause(tries, if worked { KNOWN_CAP } else { CAP });
        let failures = if worked { failures } else { tries };
        let (reason, until, half) = (reason.to_owned(), now + pause, now + pause / 2);
        self.insert(peer, Setback { nbma, worked, failures, reason, until, half });
        Verdict { pause, news }
    }

    /// There is a path.
    pub(crate) fn worked(&mut self, now: Instant, peer: IpAddr, nbma: Nbma) {
        let reason = String::new();
        let up = Setback { nbma, worked: true, failures: 0, reason, until: now, half: now };
        self.insert(peer, up);
    }

    /// Only the last address of a peer counts.
    pub(crate) fn found_at(&mut self, peer: IpAddr, nbma: Nbma) {
        if self.0.get(&peer).is_some_and(|setback| setback.nbma != nbma) {
            self.0.remove(&peer);
        }
    }

    /// Every failure may have had a reason that is gone.
    pub(crate) fn forgive(&mut self) {
        self.0.retain(|_, setback| setback.worked);
        self.0.values_mut().for_each(|setback| setback.failures = 0);
    }

    pub(crate) fn contains(&self, peer: IpAddr) -> bool {
        self.0.contains_key(&peer)
    }

    fn insert(&mut self, peer: IpAddr, setback: Setback) {
        if self.0.len() >= Self::KEPT && !self.0.contains_key(&peer) {
            let oldest = self.0.iter().min_by_key(|(_, setback)| setback.until);
            if let Some(oldest) = oldest.map(|(&peer, _)| peer) {
                self.0.remove(&oldest);
            }
        }
        self.0.insert(peer, setback);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(172, 16, 0, 2));

    fn at(port: u16) -> Nbma {
        Nbma { address: [203, 0, 113, 1].into(), port }
    }

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    /// Fails so many times, each as soon as it may; gives the pauses.
    fn fail(setbacks: &mut Setbacks, now: &mut Instant, times: u32) -> Vec<u64> {
        let mut pauses = Vec::new();
        for _ in 0..times {
            let before = setbacks.of(*now, PEER, at(1)).map_or(0, |setback| setback.failures);
            let verdict = setbacks.failed(*now, (PEER, at(1)), before + 1, "no answer");
            *now += verdict.pause;
            pauses.push(verdict.pause.as_secs());
        }
        pauses
    }

    #[test]
    fn pauses_grow_to_five_minutes_and_the_failure_is_news_once() {
        let (mut setbacks, mut now) = (Setbacks::default(), Instant::now());
        let first = setbacks.failed(now, (PEER, at(1)), 1, "no answer");
        assert_eq!(first, Verdict { pause: seconds(2), news: true });
        for (after, traffic, resolution) in [(0, true, true), (1, true, false), (2, false, false)] {
            let pending = |occasion| {
                setbacks.pending(now + seconds(after), (PEER, at(1)), occasion).is_some()
            };
            assert_eq!(pending(Occasion::Traffic), traffic, "{after}");
            assert_eq!(pending(Occasion::Resolution), resolution, "{after}");
        }
        now += seconds(2);
        assert_eq!(fail(&mut setbacks, &mut now, 9), [4, 8, 16, 32, 64, 128, 256, 300, 300]);
        assert!(!setbacks.failed(now, (PEER, at(1)), 11, "no answer").news);
        assert!(setbacks.failed(now, (PEER, at(1)), 12, "expired").news);
    }

    #[test]
    fn another_address_success_and_forgiveness_begin_anew() {
        let (mut setbacks, mut now) = (Setbacks::default(), Instant::now());
        fail(&mut setbacks, &mut now, 7);
        let before = now - seconds(1);
        assert!(setbacks.pending(before, (PEER, at(1)), Occasion::Traffic).is_some());
        assert!(setbacks.pending(before, (PEER, at(2)), Occasion::Traffic).is_none());
        setbacks.found_at(PEER, at(1));
        assert!(setbacks.contains(PEER));
        setbacks.found_at(PEER, at(2));
        assert!(!setbacks.contains(PEER));

        fail(&mut setbacks, &mut now, 7);
        setbacks.forgive();
        assert_eq!(fail(&mut setbacks, &mut now, 1), [2]);
        assert!(setbacks.of(now + STALE, PEER, at(1)).is_some());
        assert!(setbacks.of(now + STALE + seconds(1), PEER, at(1)).is_none());
    }

    /// As long as its outage is not longer than an hour or so.
    #[test]
    fn who_was_reached_is_never_left_alone() {
        let (mut setbacks, mut now) = (Setbacks::default(), Instant::now());
        setbacks.worked(now, PEER, at(1));
        for tries in 1..=PATIENCE {
            let verdict = setbacks.failed(now, (PEER, at(1)), tries, "no answer");
            assert_eq!(verdict.pause, pause(tries, KNOWN_CAP));
            assert_eq!(verdict.news, tries == 1);
            assert!(setbacks.pending(now, (PEER, at(1)), Occasion::Traffic).is_none());
            now += verdict.pause;
        }
        assert_eq!(setbacks.failed(now, (PEER, at(1)), 61, "no answer").pause, CAP);
        assert!(setbacks.pending(now, (PEER, at(1)), Occasion::Traffic).is_some());
        setbacks.worked(now, PEER, at(1));
        assert!(setbacks.failed(now, (PEER, at(1)), 1, "no answer").news, "after a success");
    }

    #[test]
    fn they_are_bounded_and_the_oldest_go_first() {
        let (mut setbacks, now) = (Setbacks::default(), Instant::now());
        let peer = |n: u32| IpAddr::from(n.to_be_bytes());
        for n in 0..5000 {
            setbacks.failed(now + seconds(n.into()), (peer(n), at(1)), 1, "no answer");
        }
        assert_eq!(setbacks.0.len(), Setbacks::KEPT);
        assert!(!setbacks.contains(peer(903)) && setbacks.contains(peer(904)));
    }
}
