//! What this kernel can do for the data planes.

use std::fmt;
use std::net::Ipv4Addr;

use quinn_udp::UdpSocketState;
use socket2::{Domain, Protocol, Socket, Type};

use crate::userspace::tun;

/// One thing that a data plane needs or can use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ability {
    /// What it is.
    pub name: &'static str,
    /// The data plane cannot do without it.
    pub required: bool,
    /// Whether it is there; if not, why, and what to do.
    pub state: Result<(), String>,
}

impl fmt::Display for Ability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.state {
            Ok(()) => write!(f, "{}: yes", self.name),
            Err(reason) => write!(f, "{}: no: {reason}", self.name),
        }
    }
}

/// What the kernel data plane needs. What is tried is taken away again. `secured`: with encryption.
pub fn kernel(secured: bool) -> Vec<Ability> {
    crate::kernel::probe::probe(secured)
}

/// The first ability that is required and not there, in words.
pub fn hindrance(abilities: &[Ability]) -> Option<String> {
    let missing = |ability: &&Ability| ability.required && ability.state.is_err();
    abilities.iter().find(missing).map(ToString::to_string)
}

/// What is there and what is not, with why, in one line.
pub fn summary(abilities: &[Ability]) -> String {
    let there = abilities.iter().filter(|ability| ability.state.is_ok());
    let there: Vec<_> = there.map(|ability| ability.name).collect();
    let lacking = abilities.iter().filter_map(|Ability { name, state, .. }| {
        state.as_ref().err().map(|reason| format!("{name} ({reason})"))
    });
    let lacking: Vec<_> = lacking.collect();
    match (there.is_empty(), lacking.is_empty()) {
        (_, true) => there.join(", "),
        (true, false) => format!("nothing of {}", lacking.join(", ")),
        (false, false) => format!("{}; lacking: {}", there.join(", "), lacking.join(", ")),
    }
}

/// What the userspace data plane needs or can use; changes nothing.
pub fn userspace() -> Vec<Ability> {
    let features = tun::features();
    let large = match &features {
        Ok(features) if features & libc::IFF_VNET_HDR != 0 => Ok(()),
        Ok(_) => Err("the driver has no virtio header".into()),
        Err(_) => Err("no TUN device".to_owned()),
    };
    let uso = large.clone().and_then(|()| {
        if kernel_version() >= (6, 2) { Ok(()) } else { Err("needs Linux 6.2".into()) }
    });
    let (gso, gro) = udp_offloads();
    let tun = features.map(drop).map_err(|error| {
        format!(
            "/dev/net/tun: {error}: load the driver (modprobe tun), or give the container that \
             device and CAP_NET_ADMIN"
        )
    });
    let ability = |name, required, state| Ability { name, required, state };
    vec![
        ability("TUN device", true, tun),
        ability("large TCP packets through TUN (TSO)", true, large),
        ability("large UDP packets through TUN (USO)", false, uso),
        ability("UDP segmentation (GSO)", false, gso),
        ability("UDP coalescing (GRO)", false, gro),
        ability("raw GRE socket (security: none)", false, raw_gre()),
    ]
}

fn kernel_version() -> (u32, u32) {
    let release = nix::sys::utsname::uname()
        .map(|name| name.release().to_string_lossy().into_owned())
        .unwrap_or_default();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    let mut next = || numbers.next().and_then(Result::ok).unwrap_or(0);
    (next(), next())
}

fn udp_offloads() -> (Result<(), String>, Result<(), String>) {
    let state = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).and_then(|socket| {
        socket.bind(&std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        UdpSocketState::new((&socket).into())
    });
    match state {
        Ok(state) => {
            let have = |segments: usize, since: &str| {
                if segments > 1 { Ok(()) } else { Err(format!("needs Linux {since}")) }
            };
            (have(state.max_gso_segments(), "4.18"), have(state.gro_segments(), "5.0"))
        }
        Err(error) => (Err(error.to_string()), Err(error.to_string())),
    }
}

fn raw_gre() -> Result<(), String> {
    Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_GRE)))
        .map(drop)
        .map_err(|error| format!("{error}: run as root or give CAP_NET_RAW"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_says_what_is_there_and_what_is_not() {
        let ability = |name, state: Result<(), &str>| Ability {
            name,
            required: true,
            state: state.map_err(str::to_owned),
        };
        let all = [
            ability("GRE", Ok(())),
            ability("NFLOG", Err("gone: load it")),
            ability("ESP", Ok(())),
        ];
        assert_eq!(summary(&all), "GRE, ESP; lacking: NFLOG (gone: load it)");
        assert_eq!(summary(&all[..1]), "GRE");
        assert_eq!(summary(&all[1..2]), "nothing of NFLOG (gone: load it)");
    }
}
