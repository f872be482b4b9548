//! What our nodes say to each other beyond the RFCs (DESIGN §5).
//!
//! RFC 7296 §3.12 wants private extensions announced: both sides send [`VENDOR_ID`] in
//! IKE_SA_INIT, and a node that does not see it speaks no word of the following. In IKE_AUTH,
//! protected as everything there, each side sends the first two of these private notifies, the
//! first of them only where it can carry WireGuard:
//!
//! ```text
//! WIREGUARD  51820: version (1 byte, 1) | X25519 public key (32 bytes, fresh for this SA)
//! LINEAGE    51821: instance (8 bytes) | stamp (8 bytes)
//! REASON     51822: UTF-8 text, at most 256 bytes, beside an error notify
//! SUPERSEDED 11820: (an error) another SA with the same peer lives in place of this one
//! ```
//!
//! An IKE_AUTH that agrees on WireGuard makes no CHILD_SA (RFC 6023). The WireGuard pre-shared key is
//! `prf+(SK_d, "nhrpd WireGuard pre-shared key" | Ni | Nr)`, 32 bytes, the same in both directions.
//! What LINEAGE is for stands in [`crate::crossing`].

use rand_core::CryptoRng;
use zeroize::Zeroizing;

use crate::crypto::algorithm::Prf;
use crate::crypto::group::{InvalidPublicValue, X25519};
use crate::crypto::keys::Secret;
use crate::wire::{Notify, NotifyType, Payload};
use crate::{Refusal, WireGuardKeys};

/// Announces this extension in IKE_SA_INIT.
pub const VENDOR_ID: &[u8] = b"nhrpd WireGuard";

/// Longest text of a REASON notify, bytes.
pub const MAX_REASON: usize = 256;

const WIREGUARD_VERSION: u8 = 1;
const PSK_LABEL: &[u8] = b"nhrpd WireGuard pre-shared key";

/// Which run of a node began an SA, and when in the order of what that node knew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lineage {
    /// Random for each run of the sender: a change says that it restarted.
    pub(crate) instance: u64,
    /// The initiator's count of SAs when it began this one; 0 from a responder.
    pub(crate) stamp: u64,
}

impl Lineage {
    /// The notify that tells the peer.
    pub(crate) fn payload(self) -> Payload {
        let data = [self.instance.to_be_bytes(), self.stamp.to_be_bytes()].concat();
        Payload::Notify(Notify::new(NotifyType::LINEAGE, data))
    }

    /// The peer's.
    pub(crate) fn find(payloads: &[Payload]) -> Option<Self> {
        let (instance, stamp) = notify(payloads, NotifyType::LINEAGE)?.split_first_chunk()?;
        Some(Self {
            instance: u64::from_be_bytes(*instance),
            stamp: u64::from_be_bytes(stamp.try_into().ok()?),
        })
    }
}

/// One side's part of a WireGuard session.
#[derive(Debug, Clone)]
pub(crate) struct Offer {
    pub(crate) public_key: [u8; 32],
}

impl Offer {
    /// The notify that offers it to the peer.
    pub(crate) fn payload(&self) -> Payload {
        let key = [&[WIREGUARD_VERSION][..], &self.public_key].concat();
        Payload::Notify(Notify::new(NotifyType::WIREGUARD, key))
    }

    /// Reads the peer's offer, if there is one.
    pub(crate) fn find(payloads: &[Payload]) -> Option<Result<Self, Refusal>> {
        notify(payloads, NotifyType::WIREGUARD).map(Self::decode)
    }

    fn decode(data: &[u8]) -> Result<Self, Refusal> {
        let [WIREGUARD_VERSION, key @ ..] = data else {
            return Err(Refusal("peer offers WireGuard in a version that we do not know".into()));
        };
        let public_key = key
            .try_into()
            .map_err(|_| Refusal("peer's WireGuard key does not have 32 bytes".into()))?;
        Ok(Self { public_key })
    }
}

/// Data of the first notify of `kind`.
pub(crate) fn notify(payloads: &[Payload], kind: NotifyType) -> Option<&[u8]> {
    payloads.iter().find_map(|payload| match payload {
        Payload::Notify(notify) if notify.kind == kind => Some(&notify.data[..]),
        _ => None,
    })
}

/// Own fresh key pair for WireGuard.
pub(crate) struct WireGuardPair {
    private: Zeroizing<[u8; 32]>,
    pub(crate) public: [u8; 32],
}

impl WireGuardPair {
    pub(crate) fn generate(rng: &mut dyn CryptoRng) -> Result<Self, InvalidPublicValue> {
        let mut private = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut private[..]);
        let public = X25519.public(&X25519.import(&private[..])?)?;
        let public = public.try_into().map_err(|_| InvalidPublicValue)?;
        Ok(Self { private, public })
    }

    /// Completes the keys with the peer's public key, which must be a usable point.
    pub(crate) fn keys(
        self,
        peer_public_key: [u8; 32],
        preshared_key: &Secret,
    ) -> Result<WireGuardKeys, Refusal> {
        let invalid = |_| Refusal("peer's WireGuard key is not valid".into());
        let private = X25519.import(&self.private[..]).map_err(invalid)?;
        X25519.agree(&private, &peer_public_key).map_err(invalid)?;
        let mut psk = Zeroizing::new([0; 32]);
        psk.copy_from_slice(preshared_key);
        Ok(WireGuardKeys { private_key: self.private, peer_public_key, preshared_key: psk })
    }
}

/// The WireGuard pre-shared key of an IKE SA, 32 bytes.
pub(crate) fn preshared_key(prf: &Prf, sk_d: &[u8], ni: &[u8], nr: &[u8]) -> Secret {
    prf.expand(sk_d, &[PSK_LABEL, ni, nr], 32)
}

/// An error notify and, to one of our own nodes, the words that go with it.
pub(crate) fn refusal(kind: NotifyType, data: &[u8], reason: &str, ours: bool) -> Vec<Payload> {
    let text = &reason[..reason.floor_char_boundary(MAX_REASON)];
    let words = ours.then(|| Payload::Notify(Notify::new(NotifyType::REASON, text)));
    std::iter::once(Payload::Notify(Notify::new(kind, data))).chain(words).collect()
}

/// The first error notify, in words that end up in the operator's log: the peer's own words
/// (bounded, and without characters that could deceive a terminal), or the notify's name.
pub(crate) fn peer_refusal(payloads: &[Payload]) -> Option<(NotifyType, String)> {
    let kind = payloads.iter().find_map(|payload| match payload {
        Payload::Notify(notify) if notify.kind.is_error() => Some(notify.kind),
        _ => None,
    })?;
    let words = match notify(payloads, NotifyType::REASON) {
        Some(reason) => format!("{} ({kind})", printable(reason)),
        None => format!("{kind}, without saying why"),
    };
    Some((kind, words))
}

/// Text of a stranger, made safe to log.
pub(crate) fn printable(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(&text[..text.len().min(MAX_REASON)]);
    let safe =
        |c: char| if c.is_alphanumeric() || c.is_ascii_graphic() || c == ' ' { c } else { '?' };
    text.chars().map(safe).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reason_is_cut_at_a_character_and_made_printable() {
        let payloads = refusal(NotifyType::AUTHENTICATION_FAILED, &[], &"ü".repeat(200), true);
        assert_eq!(notify(&payloads, NotifyType::REASON).unwrap().len(), MAX_REASON);
        let hostile = "red\x1b[31m\u{202e}evil\n";
        let payloads = refusal(NotifyType::AUTHENTICATION_FAILED, &[], hostile, true);
        let (kind, words) = peer_refusal(&payloads).unwrap();
        assert_eq!(kind, NotifyType::AUTHENTICATION_FAILED);
        assert_eq!(words, "red?[31m?evil? (AUTHENTICATION_FAILED)");
    }

    #[test]
    fn offer_survives_the_wire_and_odd_ones_are_refused_in_words() {
        let offer = Offer { public_key: [9; 32] };
        let found = Offer::find(&[offer.payload()]).unwrap().unwrap();
        assert_eq!(found.public_key, offer.public_key);
        let lineage = Lineage { instance: 1, stamp: 2 };
        assert_eq!(Lineage::find(&[lineage.payload()]), Some(lineage));
        for (data, words) in [
            (vec![], "version"),
            (vec![2; 33], "version"),
            (vec![1; 32], "32 bytes"),
            (vec![1; 34], "32 bytes"),
        ] {
            let payloads = [Payload::Notify(Notify::new(NotifyType::WIREGUARD, data))];
            assert!(Offer::find(&payloads).unwrap().unwrap_err().0.contains(words));
        }
        assert!(Offer::find(&[]).is_none());
    }
}
