//! Cookies (RFC 7296 §2.6): who asks for an SA while many are half-open must first show that it
//! receives what is sent to its address. Nothing is kept for it until then.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use aws_lc_rs::{constant_time, hmac};
use rand_core::CryptoRng;

/// How long a secret makes new cookies; it is accepted for as long again.
const SECRET_LIFETIME: Duration = Duration::from_secs(60);

/// RFC 7296 §2.6: 1 to 64 bytes.
const MAX_COOKIE_LEN: usize = 64;

/// Cookies that an initiator takes on in one attempt.
pub(crate) const MAX_COOKIES: u32 = 4;

/// What makes and knows our cookies: `version | HMAC(secret, Ni | IPi | SPIi)`.
#[derive(Default)]
pub(crate) struct Cookies {
    current: Option<Secret>,
    previous: Option<Secret>,
    version: u8,
}

struct Secret {
    version: u8,
    key: hmac::Key,
    since: Instant,
}

impl Secret {
    fn cookie(&self, from: SocketAddr, spi: u64, nonce: &[u8]) -> Vec<u8> {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(nonce);
        context.update(from.ip().to_string().as_bytes());
        context.update(&spi.to_be_bytes());
        [&[self.version][..], context.sign().as_ref()].concat()
    }
}

impl Cookies {
    /// What the sender of an IKE_SA_INIT has to send along.
    pub(crate) fn make(
        &mut self,
        now: Instant,
        from: SocketAddr,
        spi: u64,
        nonce: &[u8],
        rng: &mut dyn CryptoRng,
    ) -> Vec<u8> {
        self.retire(now);
        let version = &mut self.version;
        let secret = self.current.get_or_insert_with(|| {
            let mut bytes = zeroize::Zeroizing::new([0; 32]);
            rng.fill_bytes(&mut bytes[..]);
            *version = version.wrapping_add(1);
            let key = hmac::Key::new(hmac::HMAC_SHA256, &bytes[..]);
            Secret { version: *version, key, since: now }
        });
        secret.cookie(from, spi, nonce)
    }

    /// Is it one that we made, not long ago, for this sender?
    pub(crate) fn knows(
        &mut self,
        now: Instant,
        cookie: &[u8],
        from: SocketAddr,
        spi: u64,
        nonce: &[u8],
    ) -> bool {
        self.retire(now);
        let secrets = [&self.current, &self.previous].into_iter().flatten();
        secrets.filter(|secret| cookie.first() == Some(&secret.version)).any(|secret| {
            let ours = secret.cookie(from, spi, nonce);
            constant_time::verify_slices_are_equal(&ours, cookie).is_ok()
        })
    }

    fn retire(&mut self, now: Instant) {
        let age = |secret: &Secret| now.saturating_duration_since(secret.since);
        if self.current.as_ref().is_some_and(|secret| age(secret) >= SECRET_LIFETIME) {
            self.previous = self.current.take();
        }
        if self.previous.as_ref().is_some_and(|secret| age(secret) >= 2 * SECRET_LIFETIME) {
            self.previous = None;
        }
    }
}

/// A cookie that an initiator may send back.
pub(crate) fn is_acceptable(cookie: &[u8]) -> bool {
    (1..=MAX_COOKIE_LEN).contains(&cookie.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_core::SeedableRng;

    #[test]
    fn a_cookie_is_for_one_sender_spi_and_nonce_and_for_two_lifetimes_at_most() {
        let mut rng = rand_chacha::ChaCha20Rng::seed_from_u64(1);
        let mut cookies = Cookies::default();
        let start = Instant::now();
        let (here, there) = ("192.0.2.1:500", "192.0.2.2:500");
        let (here, there) = (here.parse().unwrap(), there.parse().unwrap());
        let cookie = cookies.make(start, here, 7, b"nonce", &mut rng);
        assert!(is_acceptable(&cookie));
        assert!(cookies.knows(start, &cookie, here, 7, b"nonce"));
        assert!(!cookies.knows(start, &cookie, there, 7, b"nonce"));
        assert!(!cookies.knows(start, &cookie, here, 8, b"nonce"));
        assert!(!cookies.knows(start, &cookie, here, 7, b"other"));
        assert!(!cookies.knows(start, &cookie[..32], here, 7, b"nonce"));
        assert!(!cookies.knows(start, &[], here, 7, b"nonce"));

        let later = start + SECRET_LIFETIME;
        let newer = cookies.make(later, here, 7, b"nonce", &mut rng);
        assert_ne!(newer, cookie, "the secret changes");
        assert!(cookies.knows(later, &cookie, here, 7, b"nonce"));
        let late = later + SECRET_LIFETIME;
        assert!(!cookies.knows(late, &cookie, here, 7, b"nonce"));
        assert!(cookies.knows(late, &newer, here, 7, b"nonce"));
    }
}
