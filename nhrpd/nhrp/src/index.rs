//! Tables for exact look-ups.

use std::fmt;
use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher as _};

use smallvec::SmallVec;

/// A table that is looked up by whole keys. A hash table, because one look-up in a tree of a
/// hundred thousand keys waits for memory several times; without an iterator, because its order
/// would not be that of the keys.
#[expect(clippy::disallowed_types, reason = "nobody sees its order")]
pub struct Index<K, V>(std::collections::HashMap<K, V, Seed>);

/// Makes it unpredictable which keys share a place, for those who choose keys.
struct Seed(u64);

impl BuildHasher for Seed {
    type Hasher = DefaultHasher;

    fn build_hasher(&self) -> DefaultHasher {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.0);
        hasher
    }
}

impl<K: Hash + Eq, V> Index<K, V> {
    /// An empty table. Who may choose keys must not know `seed`.
    #[expect(clippy::disallowed_types, reason = "nobody sees its order")]
    pub fn new(seed: u64) -> Self {
        Self(std::collections::HashMap::with_hasher(Seed(seed)))
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of a key.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.0.get(key)
    }

    /// The value of a key, to be changed.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.0.get_mut(key)
    }

    /// Sets the value of a key; gives the former one.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        self.0.insert(key, value)
    }

    /// Forgets a key; gives its value.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        self.0.remove(key)
    }
}

impl<K: Hash + Eq + Ord, V> Index<K, V> {
    /// All keys in their order: for what happens rarely.
    pub fn sorted_keys(&self) -> Vec<&K> {
        let mut keys: Vec<&K> = self.0.keys().collect();
        keys.sort_unstable();
        keys
    }
}

impl<K, V> fmt::Debug for Index<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Index").field("len", &self.0.len()).finish_non_exhaustive()
    }
}

/// Values by a name that few of them share, in their order.
#[derive(Debug)]
pub struct Groups<K, V>(Index<K, SmallVec<[V; 2]>>);

impl<K: Hash + Eq, V: Ord> Groups<K, V> {
    /// No values; `seed` as for [`Index::new`].
    pub fn new(seed: u64) -> Self {
        Self(Index::new(seed))
    }

    /// Adds a value to those of this name, if it is not one of them.
    pub fn insert(&mut self, name: K, value: V) {
        match self.0.get_mut(&name) {
            Some(group) => {
                if let Err(place) = group.binary_search(&value) {
                    group.insert(place, value);
                }
            }
            None => drop(self.0.insert(name, SmallVec::from_iter([value]))),
        }
    }

    /// Forgets a value of this name.
    pub fn remove(&mut self, name: &K, value: &V) {
        let Some(group) = self.0.get_mut(name) else { return };
        if let Ok(place) = group.binary_search(value) {
            group.remove(place);
        }
        if group.is_empty() {
            self.0.remove(name);
        }
    }

    /// The values of this name, in their order.
    pub fn of(&self, name: &K) -> &[V] {
        self.0.get(name).map_or(&[], |group| group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_in_order_and_goes_with_its_last_value() {
        let mut groups = Groups::new(1);
        for value in [7, 3, 5, 3] {
            groups.insert('a', value);
        }
        assert_eq!((groups.of(&'a'), groups.of(&'b')), (&[3, 5, 7][..], &[][..]));
        for value in [5, 4, 7] {
            groups.remove(&'a', &value);
        }
        assert_eq!(groups.of(&'a'), [3]);
        groups.remove(&'a', &3);
        assert!(groups.0.is_empty());
    }
}
