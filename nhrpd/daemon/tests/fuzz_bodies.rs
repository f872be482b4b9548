//! The fuzz target as an ordinary test: mutated examples, bounded.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "../fuzz/bodies.rs"]
mod bodies;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

const EXAMPLES: [&str; 2] =
    [include_str!("../../../configs/hub.yaml"), include_str!("../../../configs/spoke.yaml")];

const PIECES: [&str; 14] =
    ["{", "}", "[", "]", ": ", "- ", "'", "\n", "*a", "&a ", "!!int ", "0x", "-1", "~"];

/// Pieces of YAML go in, characters come and go, lines change places.
fn mutated() -> impl Strategy<Value = String> {
    let change = (any::<prop::sample::Index>(), 0..4u8, prop::sample::select(&PIECES[..]));
    (prop::sample::select(&EXAMPLES[..]), prop::collection::vec(change, 0..6)).prop_map(
        |(text, changes)| {
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            for (at, kind, piece) in changes {
                let line = at.index(lines.len());
                let begins: Vec<usize> = lines[line].char_indices().map(|(at, _)| at).collect();
                let column = if begins.is_empty() { 0 } else { begins[at.index(begins.len())] };
                match kind {
                    0 => lines[line].insert_str(column, piece),
                    1 => lines[line].truncate(column),
                    2 => lines[line].replace_range(column.., piece),
                    _ => lines.swap(line, 0),
                }
            }
            lines.join("\n")
        },
    )
}

#[test]
fn config() {
    for example in EXAMPLES {
        bodies::config(example.as_bytes());
    }
    let config = Config { cases: 2_000, failure_persistence: None, ..Config::default() };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let judged = TestRunner::new_with_rng(config, rng).run(&mutated(), |text| {
        bodies::config(text.as_bytes());
        Ok(())
    });
    judged.unwrap();
}
