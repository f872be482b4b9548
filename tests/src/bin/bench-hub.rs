//! `tests/bench --hub`: a hub with thousands of spokes, beside FRR's nhrpd. In the lab's virtual machine.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use overlay_tests::bench::registrations::{self, Hub, Measured};
use overlay_tests::bench::{in_turn, keep};

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
    let all = in_turn(arguments.rounds, &[Hub::Nhrpd, Hub::Frr], |hub| {
        registrations::measure(hub, arguments.spokes, &clients)
    })?;
    println!("{}", table(&all, arguments.spokes));
    arguments.out.as_deref().map_or(Ok(()), |out| keep(&all, out))
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
            measured.hub,
            measured.new.per_second,
            measured.renewed.per_second,
            measured.cpu_ms,
            measured.full_kib / 1024.0
        );
    }
    text
}
