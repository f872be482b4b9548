//! `tests/bench`: throughput and delay beside other userspace tunnels.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use overlay_tests::bench::{self, Contender, METRICS, Plan};

/// Measures this project's userspace data plane beside other userspace tunnels, in turn.
#[derive(Debug, Parser)]
#[command(args_override_self = true)]
struct Arguments {
    /// How often everything is measured.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// How long each load runs, seconds.
    #[arg(long, default_value_t = 4)]
    seconds: u32,
    /// Only contenders whose name contains one of these words.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Only these figures, by their keys in bench.json, such as tcp1_up,udp64.
    #[arg(long, value_delimiter = ',')]
    measure: Vec<String>,
    /// Contender that ratios are to: boringtun-cli, with --kernel the tunnel set up by hand.
    #[arg(long)]
    against: Option<String>,
    /// The kernel data plane beside the same tunnel set up by hand. In the lab's virtual machine.
    #[arg(long)]
    kernel: bool,
    /// Folder with the other programs.
    #[arg(long, default_value = "target/peers/bin")]
    peers: PathBuf,
    /// Folder for bench.json, bench.md and the plots.
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), String> {
    let wanted = |contender: &Contender| {
        let only = &arguments.only;
        only.is_empty() || only.iter().any(|word| contender.name().contains(word))
    };
    let (all, against) = match arguments.kernel {
        true => (&Contender::KERNEL[..], "by hand"),
        false => (&Contender::USERSPACE[..], "boringtun-cli"),
    };
    let against = arguments.against.as_deref().unwrap_or(against);
    let contenders: Vec<_> = all.iter().copied().filter(wanted).collect();
    if contenders.is_empty() {
        let known: Vec<_> = all.iter().map(|contender| contender.name()).collect();
        let known = known.join(", ");
        return Err(format!("no contender has such a name; known are: {known}"));
    }
    let known = |key: &&String| METRICS.iter().any(|metric| metric.key == **key);
    if let Some(unknown) = arguments.measure.iter().find(|key| !known(key)) {
        let known = METRICS.map(|metric| metric.key).join(", ");
        return Err(format!("{unknown} is not measured; known are: {known}"));
    }
    let plan = Plan {
        contenders,
        measure: arguments.measure.clone(),
        rounds: arguments.rounds,
        seconds: arguments.seconds,
    };
    let load = || fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let before = load();
    let results = bench::run(&plan, &arguments.peers, |step| eprintln!("{step}"))?;
    let out = &arguments.out;
    let write = |name: &str, text: &str| {
        let path = out.join(name);
        fs::write(&path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
    };
    fs::create_dir_all(out).map_err(|error| format!("cannot make {}: {error}", out.display()))?;
    let (rounds, seconds) = (arguments.rounds, arguments.seconds);
    let table = format!(
        "# What was measured\n\n{}. {rounds} rounds of {seconds} s each. Load of the machine (1, 5 and \
         15 minutes) when the run began: {}.\n{}",
        machine(),
        before.split_whitespace().take(3).collect::<Vec<_>>().join(", "),
        bench::table(&results, against)
    );
    let json = serde_json::to_string_pretty(&results).map_err(|error| error.to_string())?;
    write("bench.json", &json)?;
    write("bench.md", &table)?;
    for key in ["tcp1_up", "tcp1_forward", "udp64", "ping_p99"] {
        if let Some(svg) = bench::plot(&results, key) {
            write(&format!("{key}.svg"), &svg)?;
        }
    }
    println!("{table}\nThe same as files: {}", out.display());
    Ok(())
}

/// Processor, cores and kernel.
fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let processor = read("/proc/cpuinfo");
    let of =
        |line: &str| Some(line.strip_prefix("model name")?.split_once(':')?.1.trim().to_owned());
    let model = processor.lines().find_map(of).unwrap_or_else(|| "unknown processor".into());
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    format!("{model}, {cores} cores, Linux {}", read("/proc/sys/kernel/osrelease").trim())
}
