//! From the configuration to what the core and the data plane are made of.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use dataplane::DataPlane;
use dataplane::underlay::{self, Underlay};
use dataplane::userspace::{MOST_WORKERS, aes_in_hardware};
use ike::psk::SharedKeys;
use ike::{EspCipher, EspProposal, TunnelKind};
use ipnet::IpNet;
use nhrp::engine::{Limits, Nbma, Server};
use overlay::desired::PLAIN_PORT;
use overlay::{Accept, Credentials, Member, Security, Trust};
use pki::{Credential, Policy, Verifier};
use zeroize::Zeroizing;

use crate::config::{self, Advertise, Config, Host, Mtu, Multicast, Source};

/// Error Indications and Traffic Indications per second.
const ERRORS: u32 = 10;
const INDICATIONS: u32 = 100;
/// Established IKE SAs beyond one for each peer: successors, crossings.
const SPARE_SAS: usize = 64;
/// How long a session that nothing uses is kept.
const IDLE: Duration = Duration::from_secs(60);

/// Reads certificates and keys. `None` with `security: none`.
pub(crate) fn credentials(config: &Config) -> anyhow::Result<Option<Credentials>> {
    let config::Security::Keyed(_, files) = &config.security else { return Ok(None) };
    let keys = match &files.keys {
        Some(file) => shared_keys(file)?,
        None => SharedKeys::default(),
    };
    let credentials = match (&files.certificates, &files.identity) {
        (Some(certificates), None) => certified(certificates)?.with_keys(keys),
        (Some(certificates), Some(identity)) => certified(certificates)?
            .with_keys(keys)
            .with_identity(identity.clone())
            .context("security.identity")?,
        (None, Some(identity)) => Credentials::shared(identity.clone(), keys),
        (None, None) => bail!("security.identity is missing"),
    };
    Ok(Some(credentials))
}

fn certified(files: &config::Certificates) -> anyhow::Result<Credentials> {
    private("private key", &files.private_key)?;
    let own = Credential::from_pem(&read(&files.certificate)?, &read(&files.private_key)?)
        .with_context(|| {
            let (certificate, key) = (files.certificate.display(), files.private_key.display());
            format!("certificate {certificate} with private key {key}")
        })?;
    let anchors = pki::certificates(&read(&files.ca)?)
        .with_context(|| format!("trust anchors {}", files.ca.display()))?;
    let crls = match &files.crl {
        Some(path) => pki::revocation_lists(&read(path)?)
            .with_context(|| format!("revocation lists {}", path.display()))?,
        None => Vec::new(),
    };
    let policy = Policy {
        key_usage: files.key_usage.clone(),
        extended_key_usage: files.extended_key_usage.clone(),
    };
    let verifier = Verifier::new(&anchors, &crls, policy)
        .with_context(|| format!("trust anchors {}", files.ca.display()))?;
    Ok(Credentials::new(own, verifier))
}

fn shared_keys(file: &config::KeyFile) -> anyhow::Result<SharedKeys> {
    let path = &file.path;
    private("file of pre-shared keys", path)?;
    let text = Zeroizing::new(read(path)?);
    let text = std::str::from_utf8(&text)
        .ok()
        .with_context(|| format!("pre-shared keys {} are no UTF-8 text", path.display()))?;
    SharedKeys::parse(text, file.allow_weak)
        .with_context(|| format!("pre-shared keys {}", path.display()))
}

/// What is wrong with good files: certificates that the peers will refuse. Not an error at start,
/// since the clock may be wrong and certificates are renewed; `check` shows it.
pub(crate) fn doubts(config: &Config, credentials: &Credentials, wall: SystemTime) -> Vec<String> {
    let mut doubts = Vec::new();
    if let Err(refusal) = credentials.verify_own(wall) {
        doubts.push(format!("peers with these rules will refuse our own certificate: {refusal}"));
    }
    if let Some(folder) = &config.key_log {
        doubts.push(format!(
            "security.key-log is on: whoever reads {} can decrypt the traffic of this node",
            folder.display()
        ));
    }
    let own = IpNet::from(config.tunnel.address.addr());
    let Some(certificate) = credentials.certificate() else { return doubts };
    let claims = advertise(config, Some(credentials));
    for prefix in std::iter::once(&own).chain(&claims) {
        if !certificate.allows(prefix) {
            doubts.push(format!(
                "our certificate ({}) does not allow {prefix}: peers will refuse it unless their \
                 `accept` names it",
                certificate.identity
            ));
        }
    }
    doubts
}

/// Why packets for the overlay may leave in clear although the tunnels are protected.
pub(crate) fn leak(config: &Config) -> Option<String> {
    let open = config.nhrp.accept_registrations
        && config.routes.is_empty()
        && config.security != config::Security::None;
    open.then(|| {
        "routes is empty: until a spoke has registered the network behind it, what is meant for that \
         follows this node's other routes, in clear; name these networks under routes"
            .into()
    })
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// A key that others can read is no secret.
fn private(what: &str, path: &Path) -> anyhow::Result<()> {
    let metadata = fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
    if metadata.mode() & 0o077 != 0 {
        bail!(
            "{what} {0} can be read by others (mode {1:04o}): chmod 600 {0}",
            path.display(),
            metadata.mode() & 0o7777
        );
    }
    Ok(())
}

/// What the own NBMA address comes from.
pub(crate) fn source(config: &Config) -> underlay::Source {
    match &config.underlay.source {
        Source::Device(name) => underlay::Source::Device(name.clone()),
        Source::Address(address) => underlay::Source::Address(*address),
    }
}

/// How many packet threads of each kind `NHRPD_WORKERS` asks for.
///
/// # Errors
/// When that is no number of threads that the data plane can have.
pub(crate) fn workers() -> anyhow::Result<Option<usize>> {
    let Some(asked) = std::env::var_os("NHRPD_WORKERS") else { return Ok(None) };
    parse_workers(&asked).map(Some)
}

fn parse_workers(asked: &OsStr) -> anyhow::Result<usize> {
    let number = asked.to_str().and_then(|asked| asked.parse().ok());
    number.filter(|number| (1..=MOST_WORKERS).contains(number)).with_context(|| {
        format!(
            "NHRPD_WORKERS is {asked:?}; it must be a number from 1 to {MOST_WORKERS}, or unset"
        )
    })
}

/// What the data plane is told.
pub(crate) fn plane(
    config: &Config,
    underlay: &Underlay,
    workers: Option<usize>,
) -> dataplane::Config {
    dataplane::Config {
        interface: config.tunnel.interface.clone(),
        addresses: vec![config.tunnel.address],
        mtu: match config.tunnel.mtu {
            Mtu::Auto => None,
            Mtu::Fixed(mtu) => Some(mtu),
        },
        underlay_mtu: underlay.mtu,
        key: config.tunnel.key,
        port: config.underlay.port,
        clear: config.security == config::Security::None,
        source: underlay.address,
        bind_source: matches!(config.underlay.source, Source::Address(_)),
        grace: config.nhrp.holding_time,
        rekey_packets: config.rekey_packets,
        workers,
        ..dataplane::Config::default()
    }
}

/// What the overlay is told. `plane`: what carries its paths.
///
/// # Errors
/// As [`esp`].
pub(crate) fn overlay(
    config: &Config,
    credentials: Option<&Credentials>,
    plane: &DataPlane,
) -> anyhow::Result<overlay::Config> {
    let mut servers: Vec<Server> = config
        .nhs
        .iter()
        .map(|nhs| Server {
            address: nhs.address,
            nbma: match nhs.nbma.host {
                Host::Address(address) => Some(Nbma { address, port: port(config, nhs.nbma.port) }),
                Host::Name(_) => None,
            },
            priority: nhs.priority,
            cluster: nhs.cluster,
        })
        .collect();
    servers.sort_by_key(|server| server.priority);
    let (security, default_authorization) = match config.security {
        config::Security::None => (Security::None, Some(nhrp::engine::Authorization::Any)),
        config::Security::Keyed(..) => (Security::Ike, None),
    };
    Ok(overlay::Config {
        nhrp: nhrp::engine::Config {
            address: config.tunnel.address,
            nbma: None,
            holding_time: config.nhrp.holding_time,
            authentication: config.nhrp.authentication.clone(),
            servers,
            maps: config
                .map
                .iter()
                .map(|map| (map.address, Nbma { address: map.nbma, port: port(config, map.port) }))
                .collect(),
            advertise: advertise(config, credentials),
            unique: config.nhrp.unique,
            accept_registrations: config.nhrp.accept_registrations,
            redirect: config.nhrp.redirect,
            shortcut: config.nhrp.shortcut,
            default_authorization,
            limits: Limits {
                cache_entries: config.limits.cache_entries,
                pending: config.limits.cache_entries,
                packets_per_peer: config.limits.packets_per_peer,
                errors: ERRORS,
                indications: INDICATIONS,
            },
        },
        security,
        ike: ike::Config {
            algorithms: config.ike_proposals.clone(),
            dead_peer_interval: config.limits.dead_peer_interval,
            rekey_interval: config.rekey_interval,
            half_open: config.limits.half_open,
            half_open_per_source: config.limits.half_open_per_source,
            established: config.limits.peers + SPARE_SAS,
            tunnels: match plane {
                DataPlane::Kernel(_) => vec![TunnelKind::Esp],
                DataPlane::Userspace(_) => tunnels(config.security.mode()),
            },
            esp: esp(config, plane.esp_ciphers())?,
            key_log: config.key_log.is_some(),
            port: config.underlay.port,
            // ESP by itself needs no socket of ours, and so no daemon.
            encapsulate: matches!(plane, DataPlane::Userspace(_)),
            ..ike::Config::default()
        },
        port: config.underlay.port,
        routes: config.routes.clone(),
        multicast: config
            .multicast
            .iter()
            .map(|member| match *member {
                Multicast::Nhs => Member::Servers,
                Multicast::Dynamic => Member::Dynamic,
                Multicast::Nbma(address) => Member::Nbma(address),
            })
            .collect(),
        trust: match config.nhrp.trust {
            config::Trust::Certificate => Trust::Certificate,
            config::Trust::Any => Trust::Any,
        },
        accept: config
            .accept
            .iter()
            .map(|accept| Accept {
                identity: accept.identity.clone(),
                prefixes: accept.prefixes.iter().copied().collect::<BTreeSet<_>>(),
            })
            .collect(),
        sessions: config.limits.peers,
        idle_timeout: IDLE,
    })
}

/// `security.esp-proposals`, without the ciphers that the data plane lacks.
pub(crate) fn esp(config: &Config, known: &[EspCipher]) -> anyhow::Result<Vec<EspProposal>> {
    let proposals = config.esp_proposals.iter().cloned();
    let usable: Vec<_> = proposals.filter_map(|esp| esp.with_ciphers(known)).collect();
    if usable.is_empty() {
        let known: Vec<_> = known.iter().map(ToString::to_string).collect();
        bail!(
            "security.esp-proposals: this data plane has none of these ciphers; it has {}",
            known.join(", ")
        );
    }
    Ok(usable)
}

/// Kinds of tunnel, the preferred first.
fn tunnels(mode: Option<config::Tunnels>) -> Vec<TunnelKind> {
    match mode {
        None => Vec::new(),
        Some(config::Tunnels::Esp) => vec![TunnelKind::Esp],
        Some(config::Tunnels::WireGuard) => vec![TunnelKind::WireGuard],
        Some(config::Tunnels::Auto) if aes_in_hardware() => {
            vec![TunnelKind::Esp, TunnelKind::WireGuard]
        }
        Some(config::Tunnels::Auto) => vec![TunnelKind::WireGuard, TunnelKind::Esp],
    }
}

/// The port as NHRP writes it: 0 where it is the configured one of all nodes, on which we begin also
/// with a peer that has 500, too.
pub(crate) fn port(config: &Config, port: Option<u16>) -> u16 {
    port.filter(|port| ![config.underlay.port, PLAIN_PORT].contains(port)).unwrap_or(0)
}

/// The prefixes that this node registers.
fn advertise(config: &Config, credentials: Option<&Credentials>) -> Vec<IpNet> {
    match (&config.advertise, credentials) {
        (Advertise::Prefixes(prefixes), _) => prefixes.clone(),
        (Advertise::Certificate, credentials) => {
            let certificate = credentials.and_then(Credentials::certificate);
            certificate.map(|own| own.prefixes().iter().copied().collect()).unwrap_or_default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_of_workers_is_one_that_can_be_had() {
        for (asked, number) in [("1", 1), ("8", 8)] {
            assert_eq!(parse_workers(OsStr::new(asked)).unwrap(), number);
        }
        for wrong in ["", "0", "9", "-1", "two", "2 ", "1.5", "99999999999999999999"] {
            let said = parse_workers(OsStr::new(wrong)).unwrap_err().to_string();
            let expected =
                format!("NHRPD_WORKERS is {wrong:?}; it must be a number from 1 to 8, or unset");
            assert_eq!(said, expected);
        }
    }
}
