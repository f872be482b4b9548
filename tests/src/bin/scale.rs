//! `tests/bench-scale`: what one more spoke costs a hub, with so many there.

use std::alloc::System;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use overlay_tests::scale::{Hub, Measured, Protection, flood, plot, table};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static HEAP: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Lets so many spokes come to one hub, without a network between them, and measures the hub.
#[derive(Debug, Parser)]
struct Arguments {
    /// Numbers of spokes, up to 130,000.
    #[arg(default_values_t = [1_000, 10_000, 100_000])]
    spokes: Vec<u32>,
    /// Only with this protection of the paths.
    #[arg(long)]
    only: Option<Protection>,
    /// Messages of the flood of forged key exchanges.
    #[arg(long, default_value_t = 1_000_000)]
    flood: u32,
    /// Folder for scale.json, scale.md and the plots.
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("scale: {error}");
            ExitCode::FAILURE
        }
    }
}

fn micros(time: Duration, count: u32) -> f64 {
    time.as_secs_f64() * 1e6 / f64::from(count)
}

/// The last tenth of the spokes is measured: what came before is only there.
fn measure(spokes: u32, protection: Protection) -> Measured {
    let last = spokes - spokes / 10 + 1..=spokes;
    let mut hub = Hub::new(protection);
    let heap = Region::new(HEAP);
    let mut join = Duration::ZERO;
    for n in 1..=spokes {
        let took = hub.join(n);
        if last.contains(&n) {
            join += took;
        }
    }
    let change = heap.change();
    let kept = change.bytes_allocated - change.bytes_deallocated;
    let renewal: Duration = last.clone().map(|n| hub.renew(n)).sum();
    Measured {
        spokes,
        protection: if protection == Protection::Esp { "esp" } else { "none" },
        join: micros(join, spokes / 10),
        renewal: micros(renewal, spokes / 10),
        bytes: kept as f64 / f64::from(spokes),
    }
}

fn run(arguments: &Arguments) -> Result<(), String> {
    if let Some(wrong) = arguments.spokes.iter().find(|n| !(10..=130_000).contains(*n)) {
        return Err(format!("{wrong} spokes: from 10 to 130,000 are possible"));
    }
    let mut runs = Vec::new();
    let both = [Protection::None, Protection::Esp];
    for protection in both.into_iter().filter(|&it| arguments.only.is_none_or(|only| only == it)) {
        for &spokes in &arguments.spokes {
            eprintln!("{spokes} spokes, {protection:?}");
            runs.push(measure(spokes, protection));
        }
    }
    eprintln!("{} forged key exchanges", arguments.flood);
    let flood = flood(arguments.flood.max(20), || {
        let stats = HEAP.stats();
        stats.bytes_allocated - stats.bytes_deallocated
    });
    let table = format!(
        "{}\nOf {} forged IKE_SA_INITs {} were asked for a cookie; one took {:.2} µs ({:.0} a second \
         of one core), at most {} KiB were kept, {} of 20 spokes came in meanwhile.\n",
        table(&runs),
        flood.messages,
        flood.refused,
        flood.micros,
        1e6 / flood.micros,
        flood.kept >> 10,
        flood.joined
    );
    let json = serde_json::json!({ "runs": runs, "flood": flood });
    let out = &arguments.out;
    let write = |name: &str, text: &str| {
        let path = out.join(name);
        fs::write(&path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
    };
    fs::create_dir_all(out).map_err(|error| format!("cannot make {}: {error}", out.display()))?;
    write("scale.json", &format!("{json:#}\n"))?;
    write("scale.md", &table)?;
    let memory = plot(&runs, "Heap of a hub for one spoke", "bytes", |run| run.bytes);
    write("scale-memory.svg", &memory)?;
    write("scale-join.svg", &plot(&runs, "Joining, the hub's CPU", "µs", |run| run.join))?;
    println!("{table}\nThe same as files: {}", out.display());
    Ok(())
}
