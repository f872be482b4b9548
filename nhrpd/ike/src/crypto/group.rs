//! Key exchange methods: curves, the MODP group for older peers, and ML-KEM.

use aws_lc_rs::{agreement, kem};
use crypto_bigint::modular::{ConstMontyForm, ConstMontyParams};
use crypto_bigint::{U320, U2048, const_monty_params};
use rand_core::CryptoRng;
use zeroize::Zeroizing;

use super::algorithm::compared_by_name;

/// A key exchange method.
#[derive(Debug)]
pub struct Group {
    /// Keyword, as strongSwan writes it: `x25519`.
    pub name: &'static str,
    /// IANA number.
    pub id: u16,
    method: Method,
    private_len: usize,
    /// Bytes of the public value in the KE payload.
    public_len: usize,
}

#[derive(Debug)]
enum Method {
    /// The prefix is what aws-lc-rs puts before the public value and IKE does not.
    Curve(&'static agreement::Algorithm, &'static [u8]),
    Modp2048,
}

/// X25519 (RFC 8031).
pub static X25519: Group = Group {
    name: "x25519",
    id: 31,
    method: Method::Curve(&agreement::X25519, &[]),
    private_len: 32,
    public_len: 32,
};

/// NIST P-256 (RFC 5903); 0x04 marks an uncompressed point outside of IKE.
pub static ECP_256: Group = Group {
    name: "ecp256",
    id: 19,
    method: Method::Curve(&agreement::ECDH_P256, &[0x04]),
    private_len: 32,
    public_len: 64,
};

/// NIST P-384 (RFC 5903).
pub static ECP_384: Group = Group {
    name: "ecp384",
    id: 20,
    method: Method::Curve(&agreement::ECDH_P384, &[0x04]),
    private_len: 48,
    public_len: 96,
};

/// 2048-bit MODP (RFC 3526 §3) for peers that have no curve; slow, and the weakest of all.
/// The exponent has 320 bits, the upper end of RFC 3526 §8.
pub static MODP_2048: Group = Group {
    name: "modp2048",
    id: 14,
    method: Method::Modp2048,
    private_len: MODP_EXPONENT,
    public_len: 256,
};

pub(crate) static GROUPS: [&Group; 4] = [&X25519, &ECP_256, &ECP_384, &MODP_2048];

const MODP_EXPONENT: usize = 40;

const_monty_params!(
    Modp2048,
    U2048,
    "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA63B139B22514A08798E3404DDEF9519B3CD3A431B302B0A6DF25F14374FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7EDEE386BFB5A899FA5AE9F24117C4B1FE649286651ECE45B3DC2007CB8A163BF0598DA48361C55D39A69163FA8FD24CF5F83655D23DCA3AD961C62F356208552BB9ED529077096966D670C354E4ABC9804F1746C08CA18217C32905E462E36CE3BE39E772C180E86039B2783A2EC07A28FB5C55DF06F4C52C9DE2BCBF6955817183995497CEA956AE515D2261898FA051015728E5A8AACAA68FFFFFFFFFFFFFFFF",
    "The prime of RFC 3526 §3."
);

/// `base` to the power of `exponent`, in constant time.
fn modp(base: &U2048, exponent: &[u8; MODP_EXPONENT]) -> Zeroizing<Vec<u8>> {
    let exponent = Zeroizing::new(U320::from_be_slice(exponent));
    let base = ConstMontyForm::<Modp2048, { U2048::LIMBS }>::new(base);
    let power = Zeroizing::new(base.pow(&*exponent).retrieve());
    Zeroizing::new(power.to_be_bytes().as_ref().to_vec())
}

/// An own private key.
pub(crate) enum PrivateKey {
    Curve(agreement::PrivateKey),
    Modp(Zeroizing<[u8; MODP_EXPONENT]>),
}

/// Something that cannot be computed with what the peer sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("public value is not valid for the group")]
pub(crate) struct InvalidPublicValue;

impl Group {
    /// A fresh private key of bytes that `rng` gave.
    pub(crate) fn generate(&self, rng: &mut dyn CryptoRng) -> PrivateKey {
        let mut bytes = Zeroizing::new(vec![0; self.private_len]);
        loop {
            rng.fill_bytes(&mut bytes);
            // A scalar of P-256 is out of range once in 2^32 times.
            if let Ok(key) = self.import(&bytes) {
                return key;
            }
        }
    }

    pub(crate) fn import(&self, bytes: &[u8]) -> Result<PrivateKey, InvalidPublicValue> {
        match self.method {
            Method::Curve(algorithm, _) => {
                agreement::PrivateKey::from_private_key(algorithm, bytes)
                    .map(PrivateKey::Curve)
                    .map_err(|_| InvalidPublicValue)
            }
            Method::Modp2048 => {
                let bytes = bytes.try_into().map_err(|_| InvalidPublicValue)?;
                Ok(PrivateKey::Modp(Zeroizing::new(bytes)))
            }
        }
    }

    /// The public value as the KE payload carries it.
    pub(crate) fn public(&self, private: &PrivateKey) -> Result<Vec<u8>, InvalidPublicValue> {
        match (&self.method, private) {
            (Method::Curve(_, prefix), PrivateKey::Curve(private)) => {
                let public = private.compute_public_key().map_err(|_| InvalidPublicValue)?;
                let public = public.as_ref().strip_prefix(*prefix);
                public.map(<[u8]>::to_vec).ok_or(InvalidPublicValue)
            }
            (Method::Modp2048, PrivateKey::Modp(exponent)) => {
                Ok(modp(&U2048::from_u8(2), exponent).to_vec())
            }
            _ => Err(InvalidPublicValue),
        }
    }

    /// The shared secret; aws-lc-rs refuses points off the curve and the zero result of X25519
    /// (RFC 8031 §3, RFC 6989 §2.3).
    pub(crate) fn agree(
        &self,
        private: &PrivateKey,
        peer: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, InvalidPublicValue> {
        if peer.len() != self.public_len {
            return Err(InvalidPublicValue);
        }
        match (&self.method, private) {
            (&Method::Curve(algorithm, prefix), PrivateKey::Curve(private)) => {
                let peer = [prefix, peer].concat();
                let peer = agreement::UnparsedPublicKey::new(algorithm, peer);
                agreement::agree(private, peer, InvalidPublicValue, |secret| {
                    Ok(Zeroizing::new(secret.to_vec()))
                })
            }
            (Method::Modp2048, PrivateKey::Modp(exponent)) => {
                let peer = U2048::from_be_slice(peer);
                // RFC 6989 §2.1: 1 < r < p - 1.
                let greatest = Modp2048::PARAMS.modulus().as_ref().wrapping_sub(&U2048::ONE);
                if peer <= U2048::ONE || peer >= greatest {
                    return Err(InvalidPublicValue);
                }
                Ok(modp(&peer, exponent))
            }
            _ => Err(InvalidPublicValue),
        }
    }
}

/// An additional key exchange method that is a key encapsulation mechanism (RFC 9370).
#[derive(Debug)]
pub struct Kem {
    /// Keyword, written as `ke1_mlkem768`.
    pub name: &'static str,
    /// IANA number, among the key exchange methods.
    pub id: u16,
    algorithm: &'static kem::Algorithm<kem::AlgorithmId>,
}

compared_by_name!(Group, Kem);

/// ML-KEM-768 (FIPS 203, draft-ietf-ipsecme-ikev2-mlkem).
pub static ML_KEM_768: Kem = Kem { name: "mlkem768", id: 36, algorithm: &kem::ML_KEM_768 };

pub(crate) static KEMS: [&Kem; 1] = [&ML_KEM_768];

pub(crate) type DecapsulationKey = kem::DecapsulationKey<kem::AlgorithmId>;

/// aws-lc-rs takes the randomness for these from its own generator: it offers no other way.
impl Kem {
    /// A fresh key pair, the public key as the KE payload carries it.
    pub(crate) fn generate(&self) -> Result<(DecapsulationKey, Vec<u8>), InvalidPublicValue> {
        let key = DecapsulationKey::generate(self.algorithm).map_err(|_| InvalidPublicValue)?;
        let public = key.encapsulation_key().and_then(|public| public.key_bytes());
        let public = public.map_err(|_| InvalidPublicValue)?.as_ref().to_vec();
        Ok((key, public))
    }

    /// The responder's answer, and the secret that it hides.
    pub(crate) fn encapsulate(
        &self,
        public: &[u8],
    ) -> Result<(Vec<u8>, Zeroizing<Vec<u8>>), InvalidPublicValue> {
        let public = kem::EncapsulationKey::new(self.algorithm, public);
        let encapsulated = public.map_err(|_| InvalidPublicValue)?.encapsulate();
        let (ciphertext, secret) = encapsulated.map_err(|_| InvalidPublicValue)?;
        Ok((ciphertext.as_ref().to_vec(), Zeroizing::new(secret.as_ref().to_vec())))
    }

    /// The secret in the responder's answer.
    pub(crate) fn decapsulate(
        &self,
        key: &DecapsulationKey,
        ciphertext: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, InvalidPublicValue> {
        let secret = key.decapsulate(ciphertext.into()).map_err(|_| InvalidPublicValue)?;
        Ok(Zeroizing::new(secret.as_ref().to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::hex;
    use rand_core::SeedableRng;

    #[test]
    fn both_sides_agree_in_every_group_and_refuse_bad_points() {
        let mut rng = rand_chacha::ChaCha20Rng::seed_from_u64(1);
        for group in GROUPS {
            let (a, b) = (group.generate(&mut rng), group.generate(&mut rng));
            let (public_a, public_b) = (group.public(&a).unwrap(), group.public(&b).unwrap());
            assert_eq!(public_a.len(), group.public_len);
            assert_eq!(group.agree(&a, &public_b), group.agree(&b, &public_a));
            assert_eq!(group.agree(&a, &public_b[1..]), Err(InvalidPublicValue));
            assert_eq!(group.agree(&a, &vec![0; group.public_len]), Err(InvalidPublicValue));
        }
    }

    #[test]
    fn rfc7748_6_1_x25519_known_answer() {
        known_answer(
            &X25519,
            "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
            "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a",
            "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
            "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742",
        );
    }

    #[test]
    fn rfc5903_8_1_p256_known_answer() {
        known_answer(
            &ECP_256,
            "C88F01F510D9AC3F70A292DAA2316DE544E9AAB8AFE84049C62A9C57862D1433",
            "DAD0B65394221CF9B051E1FECA5787D098DFE637FC90B9EF945D0C3772581180
             5271A0461CDB8252D61F1C456FA3E59AB1F45B33ACCF5F58389E0577B8990BB3",
            "C6EF9C5D78AE012A011164ACB397CE2088685D8F06BF9BE0B283AB46476BEE53",
            "D6840F6B42F6EDAFD13116E0E12565202FEF8E9ECE7DCE03812464D04B9442DE",
        );
    }

    #[test]
    fn rfc5903_8_2_p384_known_answer() {
        known_answer(
            &ECP_384,
            "099F3C7034D4A2C699884D73A375A67F7624EF7C6B3C0F160647B67414DCE655
             E35B538041E649EE3FAEF896783AB194",
            "667842D7D180AC2CDE6F74F37551F55755C7645C20EF73E31634FE72B4C55EE6
             DE3AC808ACB4BDB4C88732AEE95F41AA
             9482ED1FC0EEB9CAFC4984625CCFC23F65032149E0E144ADA024181535A0F38E
             EB9FCFF3C2C947DAE69B4C634573A81C",
            "41CB0779B4BDB85D47846725FBEC3C9430FAB46CC8DC5060855CC9BDA0AA2942
             E0308312916B8ED2960E4BD55A7448FC",
            "11187331C279962D93D604243FD592CB9D0A926F422E47187521287E7156C5C4
             D603135569B9E9D09CF5D4A270F59746",
        );
    }

    /// No vector with this prime is published; these powers are Python's.
    #[test]
    fn rfc3526_3_powers_of_two_modulo_the_prime() {
        let exponent = |first: u8| std::array::from_fn(|i| first + i as u8);
        let key = |first| PrivateKey::Modp(Zeroizing::new(exponent(first)));
        let (a, b) = (key(1), key(101));
        let digest = |value: &[u8]| {
            aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, value).as_ref().to_vec()
        };
        let public = MODP_2048.public(&a).unwrap();
        assert_eq!(public[..8], hex("f0cdbd67b9f7aa42"));
        assert_eq!(
            digest(&public),
            hex("3ae26e14ac54744ba175a8b2c76205eebfc4fdb8314c4c40ae2ea47b3c0e28a3")
        );
        let shared = MODP_2048.agree(&b, &public).unwrap();
        assert_eq!(
            digest(&shared),
            hex("fa3c03485316a6af1790afc87fcae4d9ed0ebcfdd4b2e528ed2bc3c53fdc0b7c")
        );
    }

    #[test]
    fn rfc6989_2_1_modp_values_of_small_order_are_refused() {
        let key = MODP_2048.import(&[7; MODP_EXPONENT]).unwrap();
        let prime = Modp2048::PARAMS.modulus().as_ref().to_be_bytes().as_ref().to_vec();
        let bytes = |last: u8| [vec![0; 255], vec![last]].concat();
        let mut below = prime.clone();
        for invalid in [bytes(0), bytes(1), prime, vec![0xff; 256]] {
            assert_eq!(MODP_2048.agree(&key, &invalid), Err(InvalidPublicValue));
        }
        *below.last_mut().unwrap() -= 1;
        assert_eq!(MODP_2048.agree(&key, &below), Err(InvalidPublicValue));
        assert!(MODP_2048.agree(&key, &bytes(2)).is_ok());
    }

    fn known_answer(group: &Group, private: &str, public: &str, peer: &str, shared: &str) {
        let key = |text| group.import(&hex(text)).unwrap();
        let (private, peer) = (key(private), key(peer));
        assert_eq!(group.public(&private).unwrap(), hex(public));
        assert_eq!(*group.agree(&peer, &hex(public)).unwrap(), hex(shared));
        assert_eq!(*group.agree(&private, &group.public(&peer).unwrap()).unwrap(), hex(shared));
    }
}
