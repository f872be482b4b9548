//! `lab`: DMVPN networks in network namespaces.

mod demo;

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;
use lab::cli::{Action, Arguments, Vm};
use lab::{Error, Lab, Topology, capture, decode, state, vm};

fn main() -> ExitCode {
    let Arguments { name, action } = Arguments::parse();
    let name = name.as_deref();
    let result = match action {
        Action::Demo => return demo::run(name, std::io::stdout().is_terminal()),
        Action::Up { file } => up(name, &file),
        Action::Down => Lab::open(name).map(Lab::down),
        Action::List => list(),
        Action::Exec { node, command } => exec(name, &node, &command),
        Action::Capture { link, file } => record(name, &link, &file),
        Action::Vm(Vm::Prepare) => vm::prepare(),
        Action::Vm(Vm::Run { timeout, memory, cpus, icount, write, command }) => {
            let timeout = Duration::from_secs(timeout);
            match machine(timeout, memory, cpus, icount, &write, command) {
                Ok(status) => return ExitCode::from(status),
                Err(error) => Err(error),
            }
        }
        Action::Sniff { device } => capture::sniff(&device)
            .map_err(|source| Error::Io { what: format!("record {device}"), source }),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab: {}", error.to_string().trim_end().replace('\n', "; "));
            ExitCode::FAILURE
        }
    }
}

fn machine(
    timeout: Duration,
    memory: u32,
    cpus: u32,
    icount: bool,
    write: &[PathBuf],
    command: Vec<OsString>,
) -> Result<u8, Error> {
    let absolute = |folder: &PathBuf| {
        std::path::absolute(folder)
            .and_then(|folder| folder.canonicalize())
            .map_err(|source| Error::Io { what: format!("find {}", folder.display()), source })
    };
    let writable = write.iter().map(absolute).collect::<Result<_, _>>()?;
    vm::Machine { command, timeout, memory, cpus, icount, writable }.run()
}

fn up(name: Option<&str>, file: &std::path::Path) -> Result<(), Error> {
    let mut topology = Topology::read(file)?;
    if let Some(name) = name {
        topology.name = Some(name.to_owned());
    }
    let lab = Lab::up(&topology)?;
    // A daemon with a bad configuration ends in this time.
    std::thread::sleep(Duration::from_millis(300));
    if let Some(ended) = lab.daemons().iter().find(|daemon| !daemon.running()) {
        let log = ended.log()?;
        let last = log.lines().last().unwrap_or("(it said nothing)").to_owned();
        return Err(Error::Command { command: ended.title(), outcome: format!("ended: {last}") });
    }
    let names: Vec<_> = lab.nodes().map(lab::Node::name).collect();
    println!("lab {} is up: {}", lab.name(), names.join(", "));
    println!("logs are in {}", lab.folder().display());
    lab.detach()
}

fn list() -> Result<(), Error> {
    for lab in state::list()? {
        let nodes: Vec<_> = lab.nodes().collect();
        println!("{}: nodes {}; links {}", lab.name, nodes.join(", "), lab.links.join(", "));
        for (daemon, runs) in lab.daemons() {
            println!("  {daemon} {}", if runs { "runs" } else { "has ended" });
        }
    }
    Ok(())
}

fn exec(name: Option<&str>, node: &str, command: &[std::ffi::OsString]) -> Result<(), Error> {
    let lab = Lab::open(name)?;
    let source = lab.node(node)?.command(command).exec();
    Err(Error::Io { what: "run nsenter".into(), source })
}

fn record(name: Option<&str>, link: &str, file: &std::path::Path) -> Result<(), Error> {
    let failed = |source| Error::Io { what: format!("write {}", file.display()), source };
    let lab = Lab::open(name)?;
    let mut output = std::fs::File::create(file).map_err(failed)?;
    let packets = lab.watch(link)?;
    eprintln!("recording {link} to {}; ^C ends it", file.display());
    capture::write_header(&mut output).map_err(failed)?;
    let mut first = None;
    for packet in packets {
        let packet = packet?;
        capture::write_packet(&mut output, packet.time, &packet.bytes).map_err(failed)?;
        let since = packet.time.saturating_sub(*first.get_or_insert(packet.time)).as_secs_f64();
        let line = format!("{since:10.6}  {}", decode::Packet::of(&packet.bytes));
        // Whoever reads the lines may stop; the file goes on.
        let _ = writeln!(std::io::stdout(), "{line}");
    }
    Ok(())
}
