//! The fuzz targets as ordinary tests: mutated real files and noise, bounded.

#[path = "../../fuzz/bodies.rs"]
mod bodies;

use pki::authority::Revoked;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// Up to four octets become others, come or go; sometimes the end is lost.
fn mutated(seeds: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let change = (any::<prop::sample::Index>(), 0..4u8, any::<u8>());
    (prop::sample::select(seeds), prop::collection::vec(change, 0..5)).prop_map(
        |(mut bytes, changes)| {
            for (at, kind, byte) in changes {
                if bytes.is_empty() {
                    break;
                }
                let at = at.index(bytes.len());
                match kind {
                    0 => bytes[at] = byte,
                    1 => bytes[at] ^= 1 << (byte % 8),
                    2 => bytes.insert(at, byte),
                    _ => bytes.truncate(at.max(bytes.len() / 2)),
                }
            }
            bytes
        },
    )
}

fn bounded(body: fn(&[u8]), seeds: Vec<Vec<u8>>, cases: u32) {
    seeds.iter().for_each(|seed| body(seed));
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let judged = runner.run(&mutated(seeds), |bytes| {
        body(&bytes);
        Ok(())
    });
    judged.unwrap();
}

#[test]
fn certificate() {
    let real = bodies::issued();
    assert!(pki::Certificate::parse(&real).is_ok());
    bounded(bodies::certificate, vec![real, bodies::CA.certificate_der().to_vec()], 3_000);
}

#[test]
fn address_blocks() {
    let prefixes = ["10.0.0.0/8", "10.0.0.0/24", "192.168.2.0/24", "2001:db8:2::/48"];
    let prefixes = prefixes.map(|prefix| prefix.parse().unwrap()).into();
    bounded(bodies::address_blocks, vec![pki::AddressBlocks::encode(&prefixes)], 20_000);
}

#[test]
fn revocation_list() {
    let validity = bodies::validity();
    let revoked = [Revoked { serial: "01".repeat(16), at: validity.not_before }];
    let list =
        bodies::CA.revocation_list(&revoked, 1, validity.not_before, validity.not_after).unwrap();
    bounded(bodies::revocation_list, vec![list.to_vec()], 2_000);
}

#[test]
fn files() {
    let key = pki::authority::generate_key(pki::KeyType::Ed25519).unwrap();
    let seeds = vec![
        pki::certificate_pem(bodies::CA.certificate_der()).into_bytes(),
        key.to_pem().as_bytes().to_vec(),
        pki::signing_request("spoke", &key).unwrap().into_bytes(),
    ];
    bounded(bodies::files, seeds, 3_000);
}
