//! Messages in fragments (RFC 7383): what is longer than every path carries goes in several
//! datagrams, each encrypted and authenticated for itself, so that none needs IP's fragmentation,
//! which many firewalls drop.
//!
//! A fragment is kept only when its check value is right: nobody without the keys of the SA can
//! put something between, or use up memory.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::crypto::keys::Secret;
use crate::limits::DropReason;
use crate::wire::Fragment;

/// Longest IKE message that is sent whole, and length of each fragment: with the non-ESP marker,
/// UDP and IPv6 around it 1280 bytes, which every path carries (RFC 8200 §5).
pub(crate) const LONGEST: usize = 1280 - 40 - 8 - 4;

/// Longest message that is put together, bytes: what a peer can make us keep for one SA.
pub(crate) const LONGEST_WHOLE: usize = 32 * 1024;

/// Most fragments of one message: peers that send small ones for old IPv4 paths need some.
const MOST: u16 = 64;

/// RFC 7383 §2.6: longer than a request is repeated.
const LIFETIME: Duration = Duration::from_secs(30);

/// What was in a datagram, decrypted.
pub(crate) struct Opened {
    /// Type of the first payload inside.
    pub(crate) first: u8,
    /// `None`: this is the whole message.
    pub(crate) fragment: Option<Fragment>,
    pub(crate) plain: Secret,
}

/// A message of which some fragments are missing.
pub(crate) struct Partial {
    message_id: u32,
    total: u16,
    since: Instant,
    first: u8,
    pieces: BTreeMap<u16, Secret>,
}

impl Partial {
    fn new(message_id: u32, total: u16, since: Instant) -> Self {
        Self { message_id, total, since, first: 0, pieces: BTreeMap::new() }
    }

    pub(crate) fn is_stale(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) >= LIFETIME
    }
}

/// Adds what came with `message_id` to what `partial` holds; gives the message when it is complete:
/// type of its first payload, and the chain.
pub(crate) fn assemble(
    partial: &mut Option<Box<Partial>>,
    now: Instant,
    message_id: u32,
    opened: Opened,
) -> Result<Option<(u8, Secret)>, DropReason> {
    let Opened { first, fragment, plain } = opened;
    let Some(Fragment { number, total }) = fragment else {
        *partial = None;
        return Ok(Some((first, plain)));
    };
    if total > MOST {
        return Err(DropReason::Fragment);
    }
    let known = partial.take().filter(|known| known.message_id == message_id);
    let mut message = match known {
        // RFC 7383 §2.6: the peer tries smaller fragments.
        Some(known) if known.total >= total => known,
        _ => Box::new(Partial::new(message_id, total, now)),
    };
    if total < message.total || message.pieces.contains_key(&number) {
        *partial = Some(message);
        return Err(DropReason::Replayed);
    }
    let held: usize = message.pieces.values().map(|piece| piece.len()).sum();
    if held + plain.len() > LONGEST_WHOLE {
        return Err(DropReason::Fragment);
    }
    if number == 1 {
        message.first = first;
    }
    message.pieces.insert(number, plain);
    if message.pieces.len() < usize::from(total) {
        *partial = Some(message);
        return Ok(None);
    }
    let mut whole = Secret::default();
    whole.reserve_exact(held + message.pieces.values().next_back().map_or(0, |piece| piece.len()));
    for piece in message.pieces.values() {
        whole.extend_from_slice(piece);
    }
    Ok(Some((message.first, whole)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use zeroize::Zeroizing;

    fn piece(number: u16, total: u16, first: u8, bytes: &[u8]) -> Opened {
        let fragment = Some(Fragment { number, total });
        Opened { first, fragment, plain: Zeroizing::new(bytes.to_vec()) }
    }

    fn now() -> Instant {
        Instant::now()
    }

    #[test]
    fn rfc7383_2_6_in_any_order_and_each_once() {
        let mut partial = None;
        let mut add = |opened| assemble(&mut partial, now(), 7, opened);
        assert_eq!(add(piece(3, 3, 0, b"c")), Ok(None));
        assert_eq!(add(piece(1, 3, 35, b"a")), Ok(None));
        assert_eq!(add(piece(3, 3, 0, b"x")), Err(DropReason::Replayed));
        let whole = add(piece(2, 3, 0, b"b")).unwrap().unwrap();
        assert_eq!((whole.0, &whole.1[..]), (35, &b"abc"[..]));
        assert!(partial.is_none());
    }

    #[test]
    fn rfc7383_2_6_more_fragments_replace_fewer_and_fewer_are_dropped() {
        let mut partial = None;
        let mut add = |opened| assemble(&mut partial, now(), 7, opened);
        assert_eq!(add(piece(1, 2, 35, b"old")), Ok(None));
        assert_eq!(add(piece(1, 3, 35, b"a")), Ok(None));
        assert_eq!(add(piece(2, 2, 0, b"old")), Err(DropReason::Replayed));
        assert_eq!(add(piece(2, 3, 0, b"b")), Ok(None));
        assert_eq!(*add(piece(3, 3, 0, b"c")).unwrap().unwrap().1, *b"abc");
    }

    #[test]
    fn another_message_or_the_whole_one_takes_the_place() {
        let mut partial = None;
        assert_eq!(assemble(&mut partial, now(), 7, piece(1, 2, 35, b"a")), Ok(None));
        assert_eq!(assemble(&mut partial, now(), 8, piece(2, 2, 0, b"b")), Ok(None));
        assert_eq!(partial.as_ref().map(|partial| partial.pieces.len()), Some(1));
        let whole = Opened { first: 41, fragment: None, plain: Zeroizing::new(vec![1]) };
        assert!(assemble(&mut partial, now(), 8, whole).unwrap().is_some());
        assert!(partial.is_none());
    }

    #[test]
    fn memory_is_bounded() {
        let mut partial = None;
        let mut add = |opened| assemble(&mut partial, now(), 7, opened);
        assert_eq!(add(piece(1, MOST + 1, 35, b"a")), Err(DropReason::Fragment));
        let large = vec![0; LONGEST_WHOLE / 4];
        for number in 1..=4 {
            assert_eq!(add(piece(number, 9, 35, &large)), Ok(None));
        }
        assert_eq!(add(piece(5, 9, 0, b"a")), Err(DropReason::Fragment));
        assert!(partial.is_none(), "such a message is given up");
    }
}
