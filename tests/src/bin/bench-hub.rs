//! `tests/bench --hub`: a hub with thousands of spokes, beside FRR's nhrpd. In the lab's virtual machine.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use overlay_tests::bench::registrations::{self, Hub, Measured};

/// Registrations and memory of a hub with thousands of spokes, beside FRR's nhrpd.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many spokes.
    #[arg(long, default_value_t = 4096)]
    spokes: u32,
    /// How often each hub is measured, in turn.
    #[arg(long, default_value_t = 2)]
    rounds: u32,
    /// Be the spokes: what this program starts itself with.
    #[arg(long, hide = true)]
    clients: bool,
    /// File for the figures, JSON.
    #[arg(long)]
    out: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-hub: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), String> {
    let json = |error: serde_json::Error| error.to_string();
    if arguments.clients {
        let rounds = registrations::clients(arguments.spokes).map_err(|error| error.to_string())?;
        println!("{}", serde_json::to_string(&rounds).map_err(json)?);
        return Ok(());
    }
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let spokes = arguments.spokes.to_string();
    let own = own.to_string_lossy();
    let clients = [&own, "--clients", "--spokes", &spokes].map(String::from);
    let mut all = Vec::new();
    for round in 1..=arguments.rounds {
        for hub in [Hub::Nhrpd, Hub::Frr] {
            eprintln!("round {round} of {}: {}", arguments.rounds, name(hub));
            let measured = registrations::measure(hub, arguments.spokes, &clients)?;
            eprintln!("{measured:?}");
            all.push(measured);
        }
    }
    println!("{}", table(&all, arguments.spokes));
    if let Some(out) = &arguments.out {
        let text = serde_json::to_string_pretty(&all).map_err(json)?;
        std::fs::write(out, text).map_err(|e| format!("cannot write {}: {e}", out.display()))?;
    }
    Ok(())
}

fn name(hub: Hub) -> &'static str {
    match hub {
        Hub::Nhrpd => "nhrpd",
        Hub::Frr => "FRR (zebra, nhrpd)",
    }
}

fn table(all: &[Measured], spokes: u32) -> String {
    let mut text = format!(
        "| hub with {spokes} spokes | registrations/s | renewals/s | CPU for one, ms | memory, MiB | for \
         each spoke, KiB |\n|---|--:|--:|--:|--:|--:|\n"
    );
    for measured in all {
        let grown = (measured.full_kib - measured.idle_kib) / f64::from(spokes);
        text += &format!(
            "| {} | {:.0} | {:.0} | {:.2} | {:.1} | {grown:.2} |\n",
            name(measured.hub),
            measured.new.per_second,
            measured.renewed.per_second,
            measured.cpu_ms,
            measured.full_kib / 1024.0
        );
    }
    text
}
