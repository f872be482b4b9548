//! `overlayctl`: what a running `nhrpd` knows, a small CA, and the way over from other DMVPNs.

mod doctor;
mod graph;
mod host;
mod import;
mod monitor;
mod pki;
mod show;
mod text;
mod top;
mod watch;

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{CommandFactory as _, Parser, Subcommand};
use control::Client;
use serde::Serialize;

/// Shows what nhrpd knows, clears what it learnt, runs a small CA, and imports configurations.
#[derive(Debug, Parser)]
#[command(name = "overlayctl", version)]
struct Arguments {
    /// Control socket of nhrpd.
    #[arg(long, global = true, value_name = "PATH", default_value = control::DEFAULT_SOCKET)]
    socket: PathBuf,
    /// Print one JSON document and nothing else.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show peers, mappings, tunnels and keys.
    Show {
        /// Show it again and again, every so many seconds (2).
        #[arg(long, global = true, value_name = "SECONDS", num_args = 0..=1,
              default_missing_value = "2", value_parser = clap::value_parser!(u64).range(1..=3600))]
        watch: Option<u64>,
        #[command(subcommand)]
        what: Show,
    },
    /// How a packet to an address goes now and why, or where it stops.
    Trace {
        /// Destination; or the tunnel or NBMA address of a peer.
        address: IpAddr,
    },
    /// What is wrong here and on the way to the next-hop servers, and how to mend it.
    ///
    /// Exit status 0: no finding; 1: findings. Works with and without a running nhrpd.
    Doctor(doctor::Doctor),
    /// Peers, their paths and rates, live on the whole screen.
    ///
    /// Keys: q quits, s sorts by the next column, r the other way round, arrows and page keys
    /// select a peer, whose details stand below.
    Top {
        /// Seconds between two looks.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=60))]
        interval: u64,
    },
    /// The network as this node sees it, as a picture or for one.
    Graph {
        /// What to write.
        #[arg(long, value_enum, default_value_t = graph::Format::Svg)]
        format: graph::Format,
    },
    /// Forget something that was learnt. For root and the owner of the socket.
    #[command(subcommand)]
    Clear(Clear),
    /// Have nhrpd read its configuration and certificates again and take over what differs, without
    /// dropping a tunnel; a bad file changes nothing. For root and the owner of the socket.
    Reload,
    /// Print events as they happen: peers, shortcuts, registrations, servers, keys. One line each,
    /// with --json one JSON object each.
    Monitor,
    /// Certificates: a small CA. Needs no daemon.
    #[command(subcommand)]
    Pki(pki::PkiCommand),
    #[command(subcommand)]
    Import(import::ImportCommand),
}

#[derive(Debug, Subcommand)]
enum Show {
    /// Peers: one row each.
    Dmvpn {
        /// `detail`: interfaces, sessions, counters and refusals too.
        #[arg(value_enum, value_name = "detail")]
        how: Option<Detail>,
    },
    /// NHRP: cache (the default), next-hop servers, shortcuts, counters.
    Nhrp {
        /// What of it.
        #[arg(value_enum, default_value_t = Nhrp::Cache)]
        what: Nhrp,
    },
    /// Tunnels.
    #[command(subcommand)]
    Tunnel(Tunnel),
    /// IKEv2.
    #[command(subcommand)]
    Ike(Ike),
    /// ESP.
    #[command(subcommand)]
    Ipsec(Ipsec),
    /// Who gets copies of multicast packets.
    Multicast,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Detail {
    Detail,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Nhrp {
    /// Mappings.
    Cache,
    /// Next-hop servers.
    Nhs,
    /// Direct ways to other spokes.
    Shortcuts,
    /// Packets and refusals, counted.
    Traffic,
}

#[derive(Debug, Subcommand)]
enum Tunnel {
    /// Peer, endpoint, transport and MTU of each path.
    Endpoints,
}

#[derive(Debug, Subcommand)]
enum Ike {
    /// Security associations.
    Sa {
        /// Remaining lifetimes, address translation and counters too.
        #[arg(value_enum)]
        detail: Option<Detail>,
    },
}

#[derive(Debug, Subcommand)]
enum Ipsec {
    /// Security associations, each pair with its traffic.
    Sa,
}

#[derive(Debug, Subcommand)]
enum Clear {
    /// NHRP.
    #[command(subcommand)]
    Nhrp(ClearNhrp),
}

#[derive(Debug, Subcommand)]
enum ClearNhrp {
    /// Dynamic cache entries.
    Cache,
    /// Shortcuts: their traffic goes through the hub again.
    Shortcuts,
    /// All about one peer.
    Peer {
        /// Tunnel or NBMA address.
        address: IpAddr,
    },
}

/// The command line, for man pages and completions.
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Runs the program.
pub fn main() -> ExitCode {
    nhrpd::names::without_modules();
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("overlayctl: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let json = arguments.json;
    let socket = arguments.socket.as_path();
    let mut code = ExitCode::SUCCESS;
    let text = match arguments.command {
        Command::Pki(command) => return pki::run(command, json).map(|()| code),
        Command::Monitor => return monitor::run(socket, json).map(|()| code),
        Command::Import(command) => return import::run(&command, json).map(|()| code),
        Command::Reload => reload(socket, json)?,
        Command::Show { watch: Some(seconds), what } => {
            return watch::run(json, seconds, || show(socket, json, &what)).map(|()| code);
        }
        Command::Show { watch: None, what } => show(socket, json, &what)?,
        Command::Trace { address } => trace(socket, json, address)?,
        Command::Top { interval } => return top::run(socket, interval).map(|()| code),
        Command::Graph { format } => {
            let dmvpn = Client::connect(socket)?.dmvpn()?;
            render(json, &dmvpn, |dmvpn| graph::draw(dmvpn, format))?
        }
        Command::Doctor(arguments) => {
            let report = doctor::examine(&arguments, socket);
            code = ExitCode::from(u8::from(report.findings > 0));
            render(json, &report, |report| doctor::text(report, text::terminal_width()))?
        }
        Command::Clear(Clear::Nhrp(what)) => clear(socket, json, &what)?,
    };
    // Colours reach a terminal only, and none where NO_COLOR is set.
    match anstream::stdout().lock().write_all(text.as_bytes()) {
        // `overlayctl … | head`
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(code),
        written => written.context("cannot write the answer").map(|()| code),
    }
}

fn show(socket: &Path, json: bool, what: &Show) -> anyhow::Result<String> {
    let mut nhrpd = Client::connect(socket)?;
    let width = text::terminal_width();
    match what {
        Show::Dmvpn { how } => {
            let detail = how.is_some();
            render(json, &nhrpd.dmvpn()?, |dmvpn| show::dmvpn(dmvpn, detail, width))
        }
        Show::Nhrp { what: Nhrp::Cache } => render(json, &nhrpd.nhrp_cache()?, show::cache),
        Show::Nhrp { what: Nhrp::Nhs } => {
            render(json, &nhrpd.nhs()?, |nhs| show::nhs(&nhs.servers, width))
        }
        Show::Nhrp { what: Nhrp::Shortcuts } => {
            render(json, &nhrpd.shortcuts()?, |shortcuts| show::shortcuts(shortcuts, width))
        }
        Show::Nhrp { what: Nhrp::Traffic } => render(json, &nhrpd.nhrp_traffic()?, show::traffic),
        Show::Tunnel(Tunnel::Endpoints) => {
            render(json, &nhrpd.tunnel_endpoints()?, |endpoints| show::endpoints(endpoints, width))
        }
        Show::Ike(Ike::Sa { detail }) => {
            render(json, &nhrpd.ike_sa()?, |sas| show::ike_sa(sas, detail.is_some()))
        }
        Show::Ipsec(Ipsec::Sa) => render(json, &nhrpd.ike_sa()?, show::ipsec_sa),
        Show::Multicast => {
            render(json, &nhrpd.multicast()?, |multicast| show::multicast(multicast, width))
        }
    }
}

fn trace(socket: &Path, json: bool, address: IpAddr) -> anyhow::Result<String> {
    let trace = Client::connect(socket)?.trace(address)?;
    let traced = show::Traced { trace, kernel_route: host::route(address).ok() };
    render(json, &traced, |traced| show::trace(traced, text::terminal_width()))
}

fn clear(socket: &Path, json: bool, what: &ClearNhrp) -> anyhow::Result<String> {
    let mut nhrpd = Client::connect(socket)?;
    let (cleared, what) = match what {
        ClearNhrp::Cache => (nhrpd.clear_cache()?, "cache".to_owned()),
        ClearNhrp::Shortcuts => (nhrpd.clear_shortcuts()?, "shortcuts".to_owned()),
        ClearNhrp::Peer { address } => {
            let cleared = nhrpd.clear_peer(*address)?;
            if cleared.cleared == 0 {
                bail!("nhrpd knows no peer {address}");
            }
            (cleared, format!("peer {address}"))
        }
    };
    render(json, &cleared, |cleared| {
        let entries = if cleared.cleared == 1 { "entry" } else { "entries" };
        format!("{what}: {} {entries} cleared\n", cleared.cleared)
    })
}

fn reload(socket: &Path, json: bool) -> anyhow::Result<String> {
    let reloaded = Client::connect(socket)?.reload()?;
    render(json, &reloaded, |control::Reloaded { changed, warnings }| {
        let what = match &changed[..] {
            [] => "nothing differs".to_owned(),
            changed => format!("{} changed", changed.join(", ")),
        };
        let warnings = warnings.iter().map(|warning| format!("warning: {warning}\n"));
        format!("reloaded: {what}; certificates read again\n{}", warnings.collect::<String>())
    })
}

fn render<T: Serialize>(
    json: bool,
    reply: &T,
    table: impl FnOnce(&T) -> String,
) -> anyhow::Result<String> {
    if !json {
        return Ok(table(reply));
    }
    let mut text = serde_json::to_string_pretty(reply)?;
    writeln!(text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_command_of_the_contract_is_there() {
        for line in [
            "show dmvpn",
            "show dmvpn detail --json",
            "--json --socket /run/x show nhrp",
            "show nhrp cache",
            "show nhrp nhs",
            "show nhrp shortcuts",
            "show nhrp traffic",
            "show tunnel endpoints",
            "show ike sa",
            "show ike sa detail",
            "show ipsec sa",
            "show multicast",
            "monitor --json",
            "reload",
            "clear nhrp cache",
            "clear nhrp shortcuts",
            "clear nhrp peer 172.16.0.9",
            "trace 192.168.2.10",
            "show dmvpn --watch",
            "show nhrp shortcuts --watch 5 --json",
            "top --interval 2",
            "graph --format mermaid",
            "doctor --config hub.yaml --json",
            "import ios hub.cfg",
            "import frr - --output nhrpd.yaml",
            "import opennhrp opennhrp.conf --address 172.16.0.2/24",
        ] {
            let words = ["overlayctl"].into_iter().chain(line.split(' '));
            assert!(Arguments::try_parse_from(words).is_ok(), "{line}");
        }
    }

    #[test]
    fn wrong_usage_is_exit_status_2() {
        for line in ["show", "show dmvpn all", "clear nhrp peer hub", "show dmvpn --color"] {
            let words = ["overlayctl"].into_iter().chain(line.split(' '));
            assert_eq!(Arguments::try_parse_from(words).unwrap_err().exit_code(), 2, "{line}");
        }
    }
}
