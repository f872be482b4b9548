//! What the overlay has to know and the kernel says once, until the overlay's queue has taken it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use overlay::desired::{Event, PeerId};

/// A full queue is tried again after this.
const AGAIN: Duration = Duration::from_millis(200);

/// What there is to say of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum News {
    /// Its SAs are gone.
    Down,
    /// Its volume is used up.
    Expiring,
}

/// What was not taken yet.
#[derive(Debug, Default)]
pub(crate) struct Untold {
    waiting: BTreeSet<(PeerId, News)>,
    at: Option<Instant>,
}

impl Untold {
    /// When [`Self::try_again`] is to be called.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.at
    }

    /// `event` gives whether it was taken.
    pub(crate) fn tell(
        &mut self,
        now: Instant,
        news: News,
        peers: impl IntoIterator<Item = PeerId>,
        mut event: impl FnMut(Event) -> bool,
    ) {
        for peer in peers {
            let told = event(match news {
                News::Down => Event::Down { peer },
                News::Expiring => Event::Expiring { peer },
            });
            if !told {
                self.waiting.insert((peer, news));
                self.at.get_or_insert(now + AGAIN);
            }
        }
    }

    /// Says what has waited for long enough.
    pub(crate) fn try_again(&mut self, now: Instant, mut event: impl FnMut(Event) -> bool) {
        if self.at.take_if(|at| *at <= now).is_none() {
            return;
        }
        for (peer, news) in std::mem::take(&mut self.waiting) {
            self.tell(now, news, [peer], &mut event);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_full_queue_did_not_take_is_said_again() {
        let (now, peer) = (Instant::now(), PeerId(7));
        let mut untold = Untold::default();
        untold.tell(now, News::Expiring, [peer], |_| true);
        assert_eq!(untold.deadline(), None);
        untold.tell(now, News::Expiring, [peer, PeerId(8)], |event| {
            event == Event::Expiring { peer: PeerId(8) }
        });
        untold.tell(now, News::Down, [peer], |_| false);
        untold.try_again(now, |_| panic!("too early"));

        let later = untold.deadline().unwrap();
        untold.try_again(later, |_| false);
        let later = untold.deadline().filter(|at| *at > later).unwrap();
        let mut said = Vec::new();
        untold.try_again(later, |event| {
            said.push(event);
            true
        });
        assert_eq!(said, [Event::Down { peer }, Event::Expiring { peer }]);
        assert_eq!(untold.deadline(), None);
    }
}
