//! Key derivation (RFC 7296 §2.13, §2.14).

use aws_lc_rs::hmac;
use zeroize::Zeroizing;

use super::algorithm::{Integrity, Prf};
use super::channel::{Channel, Material};
use super::suite::Suite;

/// Keying material, wiped when dropped.
pub(crate) type Secret = Zeroizing<Vec<u8>>;

impl Prf {
    /// `prf(key, data)`, the data in pieces.
    pub(crate) fn compute(&self, key: &[u8], data: &[&[u8]]) -> Secret {
        let key = hmac::Key::new(*self.hmac, key);
        let mut context = hmac::Context::with_key(&key);
        for piece in data {
            context.update(piece);
        }
        Zeroizing::new(context.sign().as_ref().to_vec())
    }

    /// `prf+(key, seed)` (RFC 7296 §2.13); `len` at most 255 times the output of the prf.
    pub(crate) fn expand(&self, key: &[u8], seed: &[&[u8]], len: usize) -> Secret {
        let mut out = Zeroizing::new(Vec::with_capacity(len + self.len()));
        let mut last = Secret::default();
        let mut counter = 0u8;
        while out.len() < len {
            counter += 1;
            let pieces: Vec<&[u8]> = [&last[..]]
                .into_iter()
                .chain(seed.iter().copied())
                .chain([std::slice::from_ref(&counter)])
                .collect();
            last = self.compute(key, &pieces);
            out.extend_from_slice(&last);
        }
        out.truncate(len);
        out
    }

    /// Bytes of output, and of the keys SK_d, SK_pi and SK_pr.
    pub(crate) fn len(&self) -> usize {
        self.hmac.tag_len()
    }
}

/// What both sides contributed to the keys of an IKE SA.
pub(crate) struct Contributions<'a> {
    pub(crate) shared_secret: &'a [u8],
    pub(crate) initiator_nonce: &'a [u8],
    pub(crate) responder_nonce: &'a [u8],
    pub(crate) initiator_spi: u64,
    pub(crate) responder_spi: u64,
}

/// The secrets of an IKE SA, named as in RFC 7296 §2.14.
pub(crate) struct Keys {
    pub(crate) sk_d: Secret,
    pub(crate) sk_pi: Secret,
    pub(crate) sk_pr: Secret,
    pub(crate) channel: Channel,
    /// All of them, one behind the other.
    stream: Secret,
    /// Octets of SK_d, of SK_ai and of SK_ei.
    lens: (usize, usize, usize),
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys(…)")
    }
}

impl Keys {
    /// Derives them; `initiator` says which direction is outbound.
    pub(crate) fn derive(suite: &Suite, from: &Contributions<'_>, initiator: bool) -> Self {
        let nonces = [from.initiator_nonce, from.responder_nonce].concat();
        let skeyseed = suite.prf.compute(&nonces, &[from.shared_secret]);
        Self::expand(&skeyseed, suite, from, initiator)
    }

    /// Derives them from others, given the SK_d of those and the prf that made it (RFC 7296 §2.18).
    pub(crate) fn derive_from(
        prf: &Prf,
        sk_d: &[u8],
        suite: &Suite,
        from: &Contributions<'_>,
        initiator: bool,
    ) -> Self {
        let pieces = [from.shared_secret, from.initiator_nonce, from.responder_nonce];
        Self::expand(&prf.compute(sk_d, &pieces), suite, from, initiator)
    }

    fn expand(skeyseed: &[u8], suite: &Suite, from: &Contributions<'_>, initiator: bool) -> Self {
        let nonces = [from.initiator_nonce, from.responder_nonce].concat();
        let spis = [from.initiator_spi.to_be_bytes(), from.responder_spi.to_be_bytes()].concat();
        let prf = suite.prf.len();
        let encryption = suite.encryption.material_len();
        // RFC 5282 §7.1: beside an AEAD there are no SK_ai and SK_ar.
        let integrity = suite.integrity.map_or(0, Integrity::key_len);
        let len = 3 * prf + 2 * (encryption + integrity);
        let stream = suite.prf.expand(skeyseed, &[&nonces, &spis], len);
        let (sk_d, rest) = stream.split_at(prf);
        let (sk_ai, rest) = rest.split_at(integrity);
        let (sk_ar, rest) = rest.split_at(integrity);
        let (sk_ei, rest) = rest.split_at(encryption);
        let (sk_er, rest) = rest.split_at(encryption);
        let (sk_pi, sk_pr) = rest.split_at(prf);
        let i = Material { encryption: sk_ei, integrity: sk_ai };
        let r = Material { encryption: sk_er, integrity: sk_ar };
        let (outbound, inbound) = if initiator { (i, r) } else { (r, i) };
        Self {
            sk_d: Zeroizing::new(sk_d.to_vec()),
            sk_pi: Zeroizing::new(sk_pi.to_vec()),
            sk_pr: Zeroizing::new(sk_pr.to_vec()),
            channel: Channel::new(suite.encryption, suite.integrity, &outbound, &inbound),
            stream,
            lens: (prf, integrity, encryption),
        }
    }

    /// SK_ai, SK_ar, SK_ei and SK_er.
    pub(crate) fn protection(&self) -> [&[u8]; 4] {
        let (prf, integrity, encryption) = self.lens;
        let (ai, rest) = self.stream[prf..].split_at(integrity);
        let (ar, rest) = rest.split_at(integrity);
        let (ei, rest) = rest.split_at(encryption);
        [ai, ar, ei, &rest[..encryption]]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::algorithm::{AES_256_GCM_16, SHA2_256, SHA2_384, SHA2_512};
    use crate::crypto::group::X25519;
    use crate::crypto::hex;

    #[test]
    fn rfc4231_hmac_known_answers() {
        let case1 = SHA2_256.compute(&[0x0b; 20], &[b"Hi ", b"There"]);
        assert_eq!(*case1, hex("b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"));
        for (prf, answer) in [
            (&SHA2_256, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
            (
                &SHA2_384,
                "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e
                 8e2240ca5e69e2c78b3239ecfab21649",
            ),
            (
                &SHA2_512,
                "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea2505549
                 758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737",
            ),
        ] {
            let case2 = prf.compute(b"Jefe", &[b"what do ya want ", b"for nothing?"]);
            assert_eq!(*case2, hex(answer), "{}", prf.name);
        }
    }

    // The IKEv2 vectors that OpenSSL's FIPS self test runs, made by NIST's ACVP.
    const NI: &str = "3651FEF5C9C35E93";
    const NR: &str = "C09A8B90A3F04D59";
    const SHARED: &str = "
        D084A30166A50FB7325C3960874A839449EF9741C2F4F947D0201DD8C1269273
        D79509F37E3CA3EB4FA2FE2A28254E289CD3F34DAD4EB4DF1A07685A4B8A94FA
        61E2491F7598B3CE65547FF133B3F63D1AC4175EAA695033F3CEDB026A6873A3
        6455172A8540B8A5D23A0143BED0390EE49B168269D75FFFEE9FB62BE965993C";
    const SKEYSEED: &str = "EFAA7AB0EAA85A3D0BE2100CD4B6FE00FF5025A9EAFDDB3EF518E9F0D3FE60E6";
    const MATERIAL: &str = "
        462B9DD525D4FD71169174272779E704BAF62C6231779AE9EFE8C58B21916B42
        010164AF2111EBD762F6916CA9A6F0EE05C8B320E4EE27705521DE2589ADEA18
        78F1A551738AF7C88DC4F0BB0C096A3F7D1F1A670FC79F49F678D60D665BB371
        0C8657F03BA9F62B9A818D7A228968C506E237AE9502AA6DB395C61EA6A3E795
        04F86B7368BFB5423DF79E48809BBCCD49FD826D024F63D7C2A5566400A12E73
        6AA034510428F5EA008FE2FC16886FA388274EA6C2B4FCFC6141BF04F8207EF8";
    const CHILD: &str = "
        23647677E7D403FA1E3006F19840AEE18AD9FECC4215814C4131BDEBA98433D8
        B0E31BFBBDDF822ABCCE5E06486AA388022B75E27E1E68AA5983028B65282C73";

    #[test]
    fn rfc7296_2_14_skeyseed_and_key_material_known_answer() {
        let suite = Suite {
            encryption: &AES_256_GCM_16,
            integrity: None,
            prf: &SHA2_256,
            group: &X25519,
            additional: None,
        };
        let (ni, nr, shared) = (hex(NI), hex(NR), hex(SHARED));
        let skeyseed = SHA2_256.compute(&[&ni[..], &nr].concat(), &[&shared]);
        assert_eq!(*skeyseed, hex(SKEYSEED));
        let keys = Keys::derive(
            &suite,
            &Contributions {
                shared_secret: &shared,
                initiator_nonce: &ni,
                responder_nonce: &nr,
                initiator_spi: 0x8E5C_3AE5_0722_1684,
                responder_spi: 0xB1F2_01BB_155C_3ACD,
            },
            true,
        );
        let material = hex(MATERIAL);
        // SK_d, then SK_ei and SK_er with 4 bytes of salt each, then SK_pi and SK_pr.
        assert_eq!(*keys.sk_d, material[..32]);
        assert_eq!(*keys.sk_pi, material[104..136]);
        assert_eq!(*keys.sk_pr, material[136..168]);
    }

    #[test]
    fn rfc7296_2_13_prf_plus_known_answer() {
        let sk_d = hex(MATERIAL)[..32].to_vec();
        let expanded = SHA2_256.expand(&sk_d, &[&hex(NI), &hex(NR)], 64);
        assert_eq!(*expanded, hex(CHILD));
        assert_eq!(*SHA2_256.expand(&sk_d, &[&hex(NI), &hex(NR)], 5), hex(CHILD)[..5]);
    }
}
