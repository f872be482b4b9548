//! When something of each of many is due.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// At most one deadline for each key.
#[derive(Debug)]
pub(crate) struct Deadlines<K> {
    at: BTreeMap<K, Instant>,
    queue: BTreeSet<(Instant, K)>,
}

impl<K: Copy + Ord> Deadlines<K> {
    pub(crate) fn new() -> Self {
        Self { at: BTreeMap::new(), queue: BTreeSet::new() }
    }

    /// Sets or moves a deadline.
    pub(crate) fn set(&mut self, key: K, at: Instant) {
        self.cancel(key);
        self.at.insert(key, at);
        self.queue.insert((at, key));
    }

    pub(crate) fn cancel(&mut self, key: K) {
        if let Some(at) = self.at.remove(&key) {
            self.queue.remove(&(at, key));
        }
    }

    pub(crate) fn at(&self, key: K) -> Option<Instant> {
        self.at.get(&key).copied()
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        self.queue.first().map(|&(at, _)| at)
    }

    #[cfg(test)]
    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.at.keys()
    }

    /// Takes the first that is due.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<K> {
        let (_, key) = *self.queue.first().filter(|(at, _)| *at <= now)?;
        self.cancel(key);
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_due_comes_in_order_and_once() {
        let start = Instant::now();
        let second = |n| start + Duration::from_secs(n);
        let mut deadlines = Deadlines::new();
        for (key, at) in [('a', 5), ('b', 1), ('c', 2), ('d', 3), ('a', 2)] {
            deadlines.set(key, second(at));
        }
        deadlines.cancel('c');
        assert_eq!((deadlines.at('a'), deadlines.at('c')), (Some(second(2)), None));
        assert_eq!((deadlines.next(), deadlines.pop(start)), (Some(second(1)), None));
        let due: Vec<char> = std::iter::from_fn(|| deadlines.pop(second(2))).collect();
        assert_eq!(due, ['b', 'a']);
        assert_eq!(deadlines.next(), Some(second(3)));
    }
}
