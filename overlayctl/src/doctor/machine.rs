//! The kernel: what it can do, its settings, who has the port.

use std::fs;

use dataplane::probe::{self, Ability};
use nhrpd::config::{Advertise, Config, Dataplane, Security, Source};

use super::{Check, plain};

/// What the data plane needs that the configuration asks for.
pub(super) fn abilities(config: Option<&Config>) -> Vec<Check> {
    let asked = config.map_or(Dataplane::Auto, |config| config.dataplane);
    let secured = config.is_none_or(|config| config.security != Security::None);
    let kernel = || probe::kernel(secured);
    match asked {
        Dataplane::Userspace => probe::userspace().into_iter().map(ability).collect(),
        Dataplane::Kernel => kernel().into_iter().map(ability).collect(),
        // It takes userspace where the kernel cannot do all of it.
        Dataplane::Auto => {
            let told = match probe::hindrance(&kernel()) {
                Some(lacking) => Check::note("kernel", format!("kernel data plane: {lacking}")),
                None => Check::ok("kernel", "it can do all of the kernel data plane"),
            };
            probe::userspace().into_iter().map(ability).chain([told]).collect()
        }
    }
}

fn ability(Ability { name, required, state }: Ability) -> Check {
    let Err(why) = state else { return Check::ok("kernel", format!("{name}: there")) };
    // What only follows from something else has no remedy of its own.
    match why.rsplit_once(": ").filter(|_| required) {
        Some((why, mend)) => Check::finding("kernel", format!("{name}: {}", plain(&why)), mend),
        None => Check::note("kernel", format!("{name}: {why}")),
    }
}

fn sysctl(key: &str) -> Option<u64> {
    let path = format!("/proc/sys/{key}");
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Forwarding, reverse-path filter.
pub(super) fn sysctls(config: &Config) -> Vec<Check> {
    let mut checks = Vec::new();
    let prefixes = match (&config.advertise, &config.security) {
        (Advertise::Prefixes(prefixes), _) => !prefixes.is_empty(),
        (Advertise::Certificate, Security::Keyed(_, files)) => {
            let own = files.certificates.as_ref().map(|files| fs::read(&files.certificate));
            let pem = own.and_then(Result::ok).unwrap_or_default();
            let leaf = pki::certificates(&pem).ok().and_then(|all| all.into_iter().next());
            let leaf = leaf.and_then(|der| pki::Certificate::parse(&der).ok());
            leaf.is_some_and(|leaf| !leaf.prefixes().is_empty())
        }
        (Advertise::Certificate, Security::None) => false,
    };
    let (key, name) = match config.tunnel.address.addr().is_ipv4() {
        true => ("net/ipv4/ip_forward", "net.ipv4.ip_forward"),
        false => ("net/ipv6/conf/all/forwarding", "net.ipv6.conf.all.forwarding"),
    };
    match sysctl(key) {
        Some(0) if prefixes => checks.push(Check::finding(
            "forwarding",
            format!("{name} is 0: nothing behind this node can be reached"),
            format!("sysctl -w {name}=1, and the same in /etc/sysctl.d/nhrpd.conf"),
        )),
        Some(value) => checks.push(Check::ok("forwarding", format!("{name} is {value}"))),
        None => checks.push(Check::note("forwarding", format!("{name} cannot be read"))),
    }

    let mut devices = vec![config.tunnel.interface.as_str()];
    if let Source::Device(device) = &config.underlay.source {
        devices.push(device);
    }
    let all = sysctl("net/ipv4/conf/all/rp_filter").unwrap_or(0);
    for device in devices {
        let Some(own) = sysctl(&format!("net/ipv4/conf/{device}/rp_filter")) else { continue };
        let effective = own.max(all);
        let text = format!("rp_filter of {device} is {effective}");
        // Strict is harmless on a single uplink; on the tunnel it drops what comes by a path that
        // the kernel's routes do not show.
        checks.push(match effective == 1 && device == config.tunnel.interface {
            true => Check::finding(
                "reverse path",
                format!("{text}: packets of peers whose prefix no route leads into it are dropped"),
                format!("sysctl -w net.ipv4.conf.{device}.rp_filter=2"),
            ),
            false => Check::ok("reverse path", text),
        });
    }
    checks
}

/// Without a daemon that answers, nobody else may have its port.
pub(super) fn port(port: u16) -> Check {
    let wanted = format!(":{port:04X}");
    let used = ["/proc/net/udp", "/proc/net/udp6"].into_iter().find_map(|file| {
        let text = fs::read_to_string(file).ok()?;
        let line = text.lines().skip(1).find(|line| {
            line.split_whitespace().nth(1).is_some_and(|local| local.ends_with(&wanted))
        })?;
        line.split_whitespace().nth(9).map(str::to_owned)
    });
    let Some(inode) = used else {
        return Check::ok("port", format!("UDP port {port} is free"));
    };
    let who = owner(&inode).unwrap_or_else(|| "a process that only root can see".to_owned());
    Check::finding(
        "port",
        format!("UDP port {port} belongs to {who}, and no nhrpd answers on the control socket"),
        "stop that process, name the socket of the nhrpd that is meant (--socket), or give \
         underlay.port another value on all nodes",
    )
}

/// The process that has a socket open: `charon (process 812)`.
fn owner(inode: &str) -> Option<String> {
    let link = format!("socket:[{inode}]");
    fs::read_dir("/proc").ok()?.flatten().find_map(|process| {
        let mut open = fs::read_dir(process.path().join("fd")).ok()?.flatten();
        open.find(|fd| fs::read_link(fd.path()).is_ok_and(|to| to.as_os_str() == link.as_str()))?;
        let name = fs::read_to_string(process.path().join("comm")).ok()?;
        Some(format!("{} (process {})", name.trim(), process.file_name().to_string_lossy()))
    })
}
