//! Certificates for tests.

use ike::{Identity, Refusal};
use rcgen::{
    BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256,
    PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, RsaKeySize,
};
use x509_parser::prelude::*;
use zeroize::Zeroizing;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    P256,
    P384,
    Ed25519,
    Rsa,
}

fn generate(kind: KeyKind) -> KeyPair {
    match kind {
        KeyKind::P256 => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256),
        KeyKind::P384 => KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384),
        KeyKind::Ed25519 => KeyPair::generate_for(&PKCS_ED25519),
        KeyKind::Rsa => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048),
    }
    .unwrap()
}

/// A certificate authority, and what it issued.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub certificate: Vec<u8>,
    chain: Vec<Vec<u8>>,
}

impl Authority {
    pub fn new() -> Self {
        let key = generate(KeyKind::P256);
        let params = Self::params();
        let certificate = params.self_signed(&key).unwrap().der().to_vec();
        Self { issuer: Issuer::new(params, key), certificate, chain: Vec::new() }
    }

    fn params() -> CertificateParams {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
    }

    /// An intermediate authority below this one.
    pub fn intermediate(&self) -> Self {
        let key = generate(KeyKind::P256);
        let params = Self::params();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().der().to_vec();
        let chain = [vec![certificate.clone()], self.chain.clone()].concat();
        Self { issuer: Issuer::new(params, key), certificate: self.certificate.clone(), chain }
    }

    pub fn issue(&self, name: &str, kind: KeyKind) -> Credentials {
        let key = generate(kind);
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap().der().to_vec();
        Credentials {
            identity: Identity { kind: 2, data: name.into() },
            chain: [vec![leaf], self.chain.clone()].concat(),
            private_key: key.serialize_der(),
            keys: ike::psk::SharedKeys::default(),
            judge: std::rc::Rc::new(|_| Ok(())),
        }
    }
}

type Judge = std::rc::Rc<dyn Fn(&[Vec<u8>]) -> Result<(), Refusal>>;

#[derive(Clone)]
pub struct Credentials {
    pub identity: Identity,
    pub chain: Vec<Vec<u8>>,
    pub private_key: Vec<u8>,
    pub keys: ike::psk::SharedKeys,
    /// Refuses peers by their chain.
    pub judge: Judge,
}

impl Credentials {
    /// Without a certificate, with the keys of such a file.
    pub fn shared(identity: &str, keys: &str) -> Self {
        Self {
            identity: identity.parse().unwrap(),
            chain: Vec::new(),
            private_key: Vec::new(),
            keys: ike::psk::SharedKeys::parse(keys, false).unwrap(),
            judge: std::rc::Rc::new(|_| Ok(())),
        }
    }

    /// With these keys beside the certificate.
    pub fn with_keys(mut self, keys: &str) -> Self {
        self.keys = ike::psk::SharedKeys::parse(keys, false).unwrap();
        self
    }

    pub fn refusing(mut self, words: &'static str) -> Self {
        self.judge = std::rc::Rc::new(move |_| Err(Refusal(words.into())));
        self
    }
}

impl ike::Credentials for Credentials {
    fn identity(&self) -> Identity {
        self.identity.clone()
    }

    fn certificates(&self) -> Vec<Vec<u8>> {
        self.chain.clone()
    }

    fn private_key(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.private_key.clone())
    }

    fn shared_key(&self, peer: Option<&Identity>) -> Option<Zeroizing<Vec<u8>>> {
        match peer {
            Some(peer) => self.keys.of(peer).cloned(),
            None if self.chain.is_empty() => self.keys.of_stranger().cloned(),
            None => None,
        }
    }

    /// The identity must be a name in the certificate, if there is one.
    fn authenticate(&self, identity: &Identity, chain: &[Vec<u8>]) -> Result<(), Refusal> {
        if chain.is_empty() {
            return (self.judge)(chain);
        }
        let (_, leaf) = X509Certificate::from_der(&chain[0])
            .map_err(|_| Refusal("certificate is not DER".into()))?;
        let names = leaf.subject_alternative_name().ok().flatten();
        let named = names.is_some_and(|names| {
            names.value.general_names.iter().any(|name| {
                matches!(name, GeneralName::DNSName(name) if name.as_bytes() == identity.data)
            })
        });
        if !named {
            return Err(Refusal("certificate is for another name".into()));
        }
        (self.judge)(chain)
    }
}
