//! What the rules have counted, kept when their elements come and go.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::nft::{Count, Element};
use super::rules::{Rules, Set};
use super::socket::Requests;

/// Counters are read again when they are older.
const FRESH: Duration = Duration::from_millis(500);

/// Totals by element.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    read_at: BTreeMap<Set, Instant>,
    last: BTreeMap<(Set, Element), Count>,
    total: BTreeMap<(Set, Element), Count>,
}

impl Usage {
    /// Reads a set, unless that was done a moment ago.
    pub(crate) fn refresh(&mut self, kernel: &Requests, rules: &Rules, set: Set) {
        let now = Instant::now();
        if self.read_at.get(&set).is_some_and(|at| now.duration_since(*at) < FRESH) {
            return;
        }
        self.read_at.insert(set, now);
        match rules.read(kernel, set) {
            Ok(found) => self.add(set, found),
            Err(error) => tracing::warn!("cannot read counters: {error}"),
        }
    }

    fn add(&mut self, set: Set, found: BTreeMap<Element, Count>) {
        // Of elements that are gone, what they have counted is forgotten with them.
        self.last.retain(|(of, element), _| *of != set || found.contains_key(element));
        self.total.retain(|(of, element), _| *of != set || found.contains_key(element));
        for (element, count) in found {
            let key = (set, element);
            let last = self.last.insert(key.clone(), count).unwrap_or_default();
            let total = self.total.entry(key).or_default();
            // One that was made anew began at zero.
            total.packets += count.packets.checked_sub(last.packets).unwrap_or(count.packets);
            total.bytes += count.bytes.checked_sub(last.bytes).unwrap_or(count.bytes);
        }
    }

    /// What an element has counted.
    pub(crate) fn of(&self, element: &(Set, Element)) -> Count {
        self.total.get(element).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_element_made_anew_goes_on_counting() {
        let element = Element { key: vec![1], end: None };
        let found = |packets| BTreeMap::from([(element.clone(), Count { packets, bytes: 0 })]);
        let mut usage = Usage::default();
        for (read, total) in [(5, 5), (7, 7), (3, 10)] {
            usage.add(Set::Sent, found(read));
            assert_eq!(usage.of(&(Set::Sent, element.clone())).packets, total);
        }
        usage.add(Set::Sent, BTreeMap::new());
        assert_eq!(usage.of(&(Set::Sent, element)).packets, 0);
    }
}
