//! `tests/bench --ike`: a responder with thousands of peers, beside charon. In the lab's virtual machine.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use overlay_tests::bench::handshakes::{self, ESP, Hub, IKE, Measured};
use overlay_tests::bench::{in_turn, keep};

/// IKEv2 handshakes and memory of a hub with many peers, beside strongSwan's charon.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many peers.
    #[arg(long, default_value_t = 1000)]
    peers: u32,
    /// How often each hub is measured, in turn.
    #[arg(long, default_value_t = 2)]
    rounds: u32,
    /// File for the figures, JSON.
    #[arg(long)]
    out: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-ike: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), String> {
    let all = in_turn(arguments.rounds, &[Hub::Nhrpd, Hub::Charon], |hub| {
        handshakes::measure(hub, arguments.peers)
    })?;
    println!("{}", table(&all, arguments.peers));
    arguments.out.as_deref().map_or(Ok(()), |out| keep(&all, out))
}

fn table(all: &[Measured], peers: u32) -> String {
    let mut text = format!(
        "IKE {IKE}, ESP {ESP}, certificates (ECDSA P-256)\n\n| {peers} peers | handshakes/s | CPU for \
         one, ms | memory before, MiB | for each peer, KiB |\n|---|--:|--:|--:|--:|\n"
    );
    for measured in all {
        let grown = (measured.full_kib - measured.idle_kib) / f64::from(peers);
        text += &format!(
            "| {} | {:.0} | {:.2} | {:.1} | {grown:.2} |\n",
            measured.hub,
            measured.per_second,
            measured.cpu_ms,
            measured.idle_kib / 1024.0
        );
    }
    text
}
