//! The way to each next-hop server: its name, whether UDP passes, how large a packet may be.

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::process::{Command, Stdio};

use control::{Dmvpn, NhsState};
use dataplane::{Overhead, tunnel_mtu};
use nhrpd::config::{Config, Host, Mtu, Security, Source};

use super::probe::{Prober, SMALLEST};
use super::{Check, plain};
use crate::host;

/// A next-hop server whose address is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Server {
    /// As configured: `hub.example.net`.
    name: String,
    /// Protocol address.
    pub(super) address: IpAddr,
    /// Where it listens.
    pub(super) endpoint: SocketAddr,
}

impl Server {
    /// `198.51.100.1:4500`, `hub.example.net (198.51.100.1:4500)`.
    fn shown(&self, at: impl Display) -> String {
        let Self { name, .. } = self;
        let number = name.parse::<IpAddr>().is_ok() || name.parse::<SocketAddr>().is_ok();
        if number { at.to_string() } else { format!("{name} ({at})") }
    }
}

/// Every name becomes an address, or a finding.
pub(super) fn resolve(config: &Config, checks: &mut Vec<Check>) -> Vec<Server> {
    let mut servers = Vec::new();
    for nhs in &config.nhs {
        let port = nhs.nbma.port.unwrap_or(config.underlay.port);
        let name = nhs.nbma.to_string();
        let endpoint = match &nhs.nbma.host {
            Host::Address(address) => SocketAddr::new(*address, port),
            Host::Name(host) => match (host.as_str(), port).to_socket_addrs().map(|mut a| a.next())
            {
                Ok(Some(found)) => {
                    checks.push(Check::ok("name", format!("{host} is {}", found.ip())));
                    found
                }
                failed => {
                    let why = failed.err().map_or("it has no address".to_owned(), |e| plain(&e));
                    checks.push(Check::finding(
                        "name",
                        format!("{host} does not resolve: {why}"),
                        "correct nhs.nbma or the DNS (/etc/resolv.conf); or write the address there",
                    ));
                    continue;
                }
            },
        };
        servers.push(Server { name, address: nhs.address, endpoint });
    }
    servers
}

/// Whether UDP passes, and packets as large as the tunnel sends them.
pub(super) fn check(config: &Config, servers: &[Server], told: Option<&Dmvpn>) -> Vec<Check> {
    if config.security == Security::None {
        return vec![Check::note("path", "security: none: there is no IKE to ask")];
    }
    let source = match config.underlay.source {
        Source::Address(address) => Some(address),
        Source::Device(_) => None,
    };
    let nhs = || told.into_iter().flat_map(|dmvpn| &dmvpn.interfaces).flat_map(|i| &i.nhs);
    let registered = |server: &Server| {
        nhs().any(|nhs| nhs.address == server.address && nhs.state == NhsState::Responding)
    };
    servers.iter().flat_map(|server| path(config, server, source, registered(server))).collect()
}

fn path(config: &Config, server: &Server, source: Option<IpAddr>, registered: bool) -> Vec<Check> {
    let (name, endpoint) = (server.shown(server.endpoint), server.endpoint);
    let failed = |error: std::io::Error| {
        let mend = "ip route get ADDRESS and ip address show: is the uplink up, has it a route?";
        vec![Check::finding("path", format!("{name}: {}", plain(&error)), mend)]
    };
    let prober = match Prober::new(endpoint, source) {
        Ok(prober) => prober,
        Err(error) => return failed(error),
    };
    match prober.answered(SMALLEST, 3) {
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            let found = format!("{name} is there, but nobody listens on that UDP port");
            let mend = "start nhrpd there; compare underlay.port on both sides";
            return vec![Check::finding("UDP", found, mend)];
        }
        Err(error) => return failed(error),
        Ok(false) if registered => {
            let found = format!(
                "{name} answers nhrpd, but no other port of this machine: the path MTU \
                 is not measured (doctor measures it while nhrpd is stopped)"
            );
            return vec![Check::note("UDP", found)];
        }
        Ok(false) => return vec![silent(server)],
        Ok(true) => {}
    }
    let mut checks = vec![Check::ok("UDP", format!("{name} answers"))];
    let needed = needed(config, endpoint.ip());
    match prober.answered(needed, 3) {
        Ok(true) => {
            checks.push(Check::ok("path MTU", format!("{needed} bytes reach {name}")));
        }
        // EMSGSIZE: the first hop itself is too small.
        Ok(false) | Err(_) => {
            let passes = largest(&prober, needed);
            let mtu =
                tunnel_mtu(passes, endpoint.ip(), config.tunnel.key.is_some(), Overhead::WireGuard);
            checks.push(Check::finding(
                "path MTU",
                format!(
                    "packets of {needed} bytes get lost on the way to {name}, those of \
                     {passes} pass: large packets in the tunnel vanish"
                ),
                format!(
                    "set `tunnel: {{ mtu: {mtu} }}` on all nodes, or mend the link or the \
                         firewall that drops \"fragmentation needed\""
                ),
            ));
        }
    }
    checks
}

/// Nothing comes back over UDP: does anything else?
fn silent(server: &Server) -> Check {
    let endpoint = server.endpoint;
    let ping = Command::new("ping")
        .args(["-c", "1", "-W", "1", "-n", &endpoint.ip().to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let port = endpoint.port();
    match ping.map(|status| status.success()) {
        Ok(true) => Check::finding(
            "UDP",
            format!(
                "UDP {port} is blocked on the way to {}, which answers to ping",
                server.shown(endpoint.ip())
            ),
            format!(
                "let UDP {port} pass in both directions: here, there, and at every firewall \
                     between; and see that nhrpd runs there"
            ),
        ),
        _ => Check::finding(
            "UDP",
            format!("no answer from {}, neither over UDP nor to ping", server.shown(endpoint)),
            format!("see that it is up and reachable (traceroute -n {})", endpoint.ip()),
        ),
    }
}

/// The largest packet that this node sends on the underlay.
fn needed(config: &Config, endpoint: IpAddr) -> u16 {
    let device = host::route(endpoint).ok().map(|route| route.device);
    let device = device.and_then(|device| {
        let link = host::json("ip", &["-json", "link", "show", "dev", &device]).ok()?;
        u16::try_from(link.get(0)?.get("mtu")?.as_u64()?).ok()
    });
    let underlay = device.unwrap_or(1500);
    match config.tunnel.mtu {
        Mtu::Auto => underlay,
        Mtu::Fixed(mtu) => {
            let key = config.tunnel.key.is_some();
            let carries = |size| tunnel_mtu(size, endpoint, key, Overhead::WireGuard) >= mtu;
            (SMALLEST..=underlay).find(|size| carries(*size)).unwrap_or(underlay)
        }
    }
}

/// The largest size that is answered, below one that is not.
fn largest(prober: &Prober, too_large: u16) -> u16 {
    let (mut passes, mut fails) = (SMALLEST, too_large);
    while fails - passes > 1 {
        let middle = passes + (fails - passes) / 2;
        match prober.answered(middle, 2) {
            Ok(true) => passes = middle,
            Ok(false) | Err(_) => fails = middle,
        }
    }
    passes
}
