//! Throughput and delay of whole programs, side by side, in turn, on one machine.
//!
//! A contender is a way to join three nodes: `a` and `b`, which reach each other over `hub` only.
//!
//! ```text
//!   a ── 10.1.0.0/24 ── hub ── 10.2.0.0/24 ── b        tunnel: 172.16.0.2 ── .1 ── .3
//! ```
//!
//! All stand at the same time, and every round measures each of them once, every other round in
//! the opposite order (A B C, C B A …), so that what the machine does beside the benchmark meets them
//! all. Ratios are those of one round.

mod clients;
mod contender;
pub mod handshakes;
mod measure;
pub mod registrations;
mod report;

use std::fmt::{Debug, Display};
use std::path::Path;
use std::time::Duration;

pub use contender::Contender;
pub use measure::{METRICS, Metric, Sample};
pub use report::{Results, plot, table};
use serde::Serialize;

/// Measures each of these once in every round, in turn, and tells of each.
///
/// # Errors
/// When a measurement fails, in words.
pub fn in_turn<W: Copy + Display, M: Debug>(
    rounds: u32,
    whom: &[W],
    measure: impl Fn(W) -> Result<M, String>,
) -> Result<Vec<M>, String> {
    let mut all = Vec::new();
    for round in 1..=rounds {
        for &who in whom {
            eprintln!("round {round} of {rounds}: {who}");
            let measured = measure(who)?;
            eprintln!("{measured:?}");
            all.push(measured);
        }
    }
    Ok(all)
}

/// Writes figures to a file, JSON.
///
/// # Errors
/// When that fails, in words.
pub fn keep(figures: &impl Serialize, out: &Path) -> Result<(), String> {
    let text = serde_json::to_string_pretty(figures).map_err(|error| error.to_string())?;
    std::fs::write(out, text).map_err(|e| format!("cannot write {}: {e}", out.display()))
}

/// What is to be measured.
#[derive(Debug)]
pub struct Plan {
    /// Who takes part.
    pub contenders: Vec<Contender>,
    /// [`Metric::key`] of what is measured; all where it is empty.
    pub measure: Vec<String>,
    /// How often everything is measured.
    pub rounds: u32,
    /// How long each load runs, seconds.
    pub seconds: u32,
}

/// Measures all, and tells of each step.
///
/// # Errors
/// When a contender does not start or a load generator fails, in words.
pub fn run(plan: &Plan, peers: &Path, mut progress: impl FnMut(&str)) -> Result<Results, String> {
    let mut results = Results::default();
    let mut scenes = Vec::new();
    for contender in &plan.contenders {
        progress(&format!("{}: starting", contender.name()));
        let scene = contender.start(peers).map_err(|e| format!("{}: {e}", contender.name()))?;
        scenes.push((contender, scene));
    }
    for round in 1..=plan.rounds {
        // In the order of the plan first, so that the tables have it.
        if round > 1 {
            scenes.reverse();
        }
        for (contender, scene) in &scenes {
            let who = format!("round {round} of {}, {}", plan.rounds, contender.name());
            let seconds = Duration::from_secs(plan.seconds.into());
            let sample = measure::all(scene, seconds, &plan.measure, |what| {
                progress(&format!("{who}: {what}"));
            });
            let sample = sample.map_err(|error| format!("{who}: {error}"))?;
            results.add(contender.name(), sample);
        }
    }
    Ok(results)
}
