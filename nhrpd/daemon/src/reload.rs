//! The configuration read anew while the daemon runs: all of it holds, or nothing is changed.

use std::io;
use std::net::IpAddr;
use std::time::SystemTime;

use control::Reloaded;
use sd_notify::NotifyState;

use crate::config::{self, Config};
use crate::shell::{Shell, now};
use crate::{assemble, resolve};

impl Shell {
    /// Reads the configuration and the files that it names, and takes over what differs. The
    /// reason where that is refused names file, line and key.
    pub(crate) fn reload(&mut self) -> Result<Reloaded, String> {
        // Without systemd there is nobody to tell.
        if let Ok(begun) = NotifyState::monotonic_usec_now() {
            let _ = sd_notify::notify(&[NotifyState::Reloading, begun]);
        }
        let mut outcome = self.take_over();
        let _ = sd_notify::notify(&[NotifyState::Ready]);
        match &mut outcome {
            Ok(Reloaded { changed, warnings }) => {
                for warning in &*warnings {
                    tracing::warn!("{warning}");
                }
                self.teller.reloaded(changed);
                self.expiry.forget();
                warnings.extend(self.remind());
            }
            Err(reason) => self.teller.reload_refused(reason),
        }
        outcome
    }

    fn take_over(&mut self) -> Result<Reloaded, String> {
        let config = config::load(&self.path).map_err(|error| error.to_string())?;
        let fixed = self.config.fixed_differences(&config);
        if !fixed.is_empty() {
            return Err(format!(
                "{}: {} cannot change while nhrpd runs: restart it, or put the former value back",
                self.path.display(),
                fixed.join(", ")
            ));
        }
        let credentials = assemble::credentials(&config).map_err(|error| unreadable(&error))?;
        let doubts = |credentials| assemble::doubts(&config, credentials, SystemTime::now());
        let mut warnings = credentials.as_ref().map(doubts).unwrap_or_default();
        warnings.extend(assemble::leak(&config));
        let told = assemble::overlay(&config, credentials.as_ref(), &self.plane)
            .map_err(|error| error.to_string())?;
        self.overlay.reconfigure(now(), told, credentials, &mut rand::rng());
        let former = std::mem::replace(&mut self.config, config);
        let changed = former.differences(&self.config);
        if former.nhs != self.config.nhs {
            self.look_up();
        }
        self.log.set(self.config.log);
        self.flush();
        Ok(Reloaded { changed: changed.into_iter().map(str::to_owned).collect(), warnings })
    }

    /// Looks the names of the next-hop servers up from now on, and only those.
    pub(crate) fn look_up(&mut self) {
        for lookup in std::mem::take(&mut self.lookups) {
            lookup.abort();
        }
        let servers: Vec<IpAddr> = self.config.nhs.iter().map(|nhs| nhs.address).collect();
        self.unresolved.retain(|server, _| servers.contains(server));
        self.lookups = resolve::start(&self.config, &self.names);
    }
}

/// Landlock says no more than "permission denied" of folders that were not named at the start.
fn unreadable(error: &anyhow::Error) -> String {
    let denied = error.chain().any(|cause| {
        let cause = cause.downcast_ref::<io::Error>();
        cause.is_some_and(|cause| cause.kind() == io::ErrorKind::PermissionDenied)
    });
    match denied {
        true => format!(
            "{error:#}: is it readable for the daemon's user? Files in another folder than at its \
             start need a restart"
        ),
        false => format!("{error:#}"),
    }
}

impl Config {
    /// Keys with another value in `other` that cannot change while the daemon runs.
    fn fixed_differences(&self, other: &Self) -> Vec<&'static str> {
        let same = [
            ("tunnel.interface", self.tunnel.interface == other.tunnel.interface),
            ("tunnel.address", self.tunnel.address == other.tunnel.address),
            ("tunnel.key", self.tunnel.key == other.tunnel.key),
            ("tunnel.mtu", self.tunnel.mtu == other.tunnel.mtu),
            ("underlay.source", self.underlay.source == other.underlay.source),
            ("underlay.port", self.underlay.port == other.underlay.port),
            (
                "nhrp.registrations",
                self.nhrp.accept_registrations == other.nhrp.accept_registrations,
            ),
            ("security.key-log", self.key_log == other.key_log),
            ("security.rekey-packets", self.rekey_packets == other.rekey_packets),
            ("security.mode", self.security.mode() == other.security.mode()),
            ("dataplane", self.dataplane == other.dataplane),
            ("metrics", self.metrics == other.metrics),
        ];
        differing(&same)
    }

    /// Sections with another content in `other`, in the order of the documentation.
    fn differences(&self, other: &Self) -> Vec<&'static str> {
        let proposals = |c: &Self| (c.ike_proposals.clone(), c.esp_proposals.clone());
        let security = |c: &Self| (c.security.clone(), c.rekey_interval, proposals(c));
        let same = [
            ("nhrp", self.nhrp == other.nhrp),
            ("nhs", self.nhs == other.nhs),
            ("map", self.map == other.map),
            ("multicast", self.multicast == other.multicast),
            ("advertise", self.advertise == other.advertise),
            ("routes", self.routes == other.routes),
            ("accept", self.accept == other.accept),
            ("security", security(self) == security(other)),
            ("limits", self.limits == other.limits),
            ("log", self.log == other.log),
        ];
        differing(&same)
    }
}

fn differing(same: &[(&'static str, bool)]) -> Vec<&'static str> {
    same.iter().filter(|(_, same)| !same).map(|(key, _)| *key).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const YAML: &str = "\
tunnel: {interface: dmvpn0, address: 172.16.0.2/24, key: 42, mtu: 1400}
underlay: {source: eth0, port: 4500}
nhrp: {holding-time: 600, registrations: accept}
nhs: [{address: 172.16.0.1, nbma: 198.51.100.1}]
map: [{address: 172.16.0.9, nbma: 198.51.100.9}]
multicast: [nhs]
advertise: [192.168.2.0/24]
routes: [192.168.0.0/16]
security: {certificate: a, private-key: b, ca: c}
dataplane: auto
limits: {peers: 10}
log: info
";

    /// The configuration with one thing replaced.
    fn with(from: &str, to: &str) -> Config {
        assert!(YAML.contains(from), "{from}");
        config::parse(&YAML.replace(from, to), Path::new("x.yaml")).unwrap()
    }

    #[test]
    fn a_hub_that_names_no_routes_is_warned_of() {
        let said = |from, to| assemble::leak(&with(from, to));
        assert_eq!(said("", ""), None);
        let none = "routes: []";
        assert!(said("routes: [192.168.0.0/16]", none).unwrap().contains("in clear"));
        let hub = "registrations: accept";
        let spoke =
            YAML.replace("routes: [192.168.0.0/16]", none).replace(hub, "registrations: refuse");
        assert_eq!(assemble::leak(&config::parse(&spoke, Path::new("x.yaml")).unwrap()), None);
    }

    #[test]
    fn what_cannot_change_is_named() {
        let now = with("", "");
        for (key, from, to) in [
            ("tunnel.interface", "dmvpn0", "dmvpn1"),
            ("tunnel.address", "172.16.0.2/24", "172.16.0.4/24"),
            ("tunnel.key", "42", "43"),
            ("tunnel.mtu", "1400", "1300"),
            ("underlay.source", "eth0", "eth1"),
            ("underlay.port", "4500", "4501"),
            ("nhrp.registrations", "accept}", "refuse}"),
            ("security.key-log", "{certificate", "{key-log: /run, certificate"),
            ("security.rekey-packets", "{certificate", "{rekey-packets: 10000, certificate"),
            ("security.mode", "{certificate", "{mode: none, certificate"),
            ("dataplane", "auto", "userspace"),
            ("metrics", "log:", "metrics: {listen: 127.0.0.1:9730}\nlog:"),
        ] {
            assert_eq!(now.fixed_differences(&with(from, to)), [key]);
        }
        assert_eq!(now.fixed_differences(&now), [""; 0]);
    }

    #[test]
    fn every_other_section_is_compared() {
        let now = with("", "");
        for (section, from, to) in [
            ("nhrp", "600", "300"),
            ("nhs", "198.51.100.1}", "hub.example.net}"),
            ("map", "198.51.100.9", "198.51.100.8"),
            ("multicast", "[nhs]", "[]"),
            ("advertise", "[192.168.2.0/24]", "certificate"),
            ("routes", "192.168.0.0/16", "10.0.0.0/8"),
            ("accept", "log:", "accept: [{identity: a, prefixes: [172.16.0.3]}]\nlog:"),
            ("security", "ca: c", "ca: d"),
            ("security", "ca: c", "ca: c, rekey-interval: 3600"),
            ("security", "ca: c", "ca: c, ike-proposals: [aes256gcm16-prfsha256-ecp256]"),
            ("security", "ca: c", "ca: c, esp-proposals: [aes256gcm16-ecp256]"),
            ("limits", "peers: 10", "peers: 11"),
            ("log", "info", "debug"),
        ] {
            let other = with(from, to);
            assert_eq!(now.differences(&other), [section]);
            assert_eq!(now.fixed_differences(&other), [""; 0], "{section}");
        }
        assert_eq!(now.differences(&now), [""; 0]);
    }
}
