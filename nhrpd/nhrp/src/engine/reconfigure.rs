//! Another configuration for an engine that runs: what does not differ is not touched.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Instant;

use ipnet::IpNet;

use super::client::{ENTRIES, Nhs};
use super::pending::Purpose;
use super::timers::Timer;
use super::{Authorization, BindingKind, Config, Engine, Nbma};
use crate::wire::{Cie, NbmaAddress};

impl Engine {
    /// Takes over another configuration. The own protocol address and the own NBMA address stay.
    ///
    /// A server that is not in it any more is asked to purge what it holds of us; one that is new
    /// is registered with at once. Prefixes that we do not advertise any more are purged wherever
    /// they are known; others are registered anew only where what we register has changed.
    pub fn reconfigure(&mut self, now: Instant, config: Config) {
        let address = self.config.address;
        let config = Config { address, nbma: self.config.nbma, ..config }.checked();
        let former = std::mem::replace(&mut self.config, config);
        self.change_servers(now, &former);
        for &(address, nbma) in &former.maps {
            if !self.config.maps.contains(&(address, nbma)) {
                self.uninstall((address.into(), BindingKind::Static), "");
            }
        }
        for (address, nbma) in self.config.maps.clone() {
            if !former.maps.contains(&(address, nbma)) {
                self.install_map(now, address, nbma);
            }
        }
        if former.shortcut && !self.config.shortcut {
            self.clear_shortcuts();
        }
        let dropped = |net: &&IpNet| !self.config.advertise.contains(net);
        let dropped: Vec<IpNet> = former.advertise.iter().filter(dropped).copied().collect();
        self.withdraw(now, &dropped);
        let registered = |config: &Config| {
            let Config { advertise, authentication, holding_time, unique, .. } = config.clone();
            (advertise, authentication, holding_time, unique)
        };
        if registered(&former) != registered(&self.config) {
            for index in 0..self.servers.len() {
                self.register_anew(now, index);
            }
        }
    }

    /// What the identity behind `peer` may claim has changed: what it may not claim any more is
    /// forgotten.
    pub fn reauthorize(&mut self, peer: Nbma, authorization: Authorization) {
        for key in self.cache.at_nbma(peer) {
            if key.1 >= BindingKind::Registered && !authorization.permits(key.0) {
                self.uninstall(key, "its identity may not claim it any more");
            }
        }
        self.set_authorization(peer, Some(authorization));
    }

    /// Servers that come, stay and go. They are known by their place in the configuration, so
    /// whatever names one by it is told the new place.
    fn change_servers(&mut self, now: Instant, former: &Config) {
        let wanted = self.config.servers.clone();
        let place = |server: IpAddr| wanted.iter().position(|wanted| wanted.address == server);
        for index in 0..self.servers.len() {
            if place(self.servers[index].server.address).is_none() {
                self.leave_server(now, index);
            }
        }
        let places: BTreeMap<usize, usize> = self
            .servers
            .iter()
            .enumerate()
            .filter_map(|(index, nhs)| Some((index, place(nhs.server.address)?)))
            .collect();
        for pending in self.pending.values_mut() {
            match &mut pending.purpose {
                // Those of servers that go are finished already.
                Purpose::Register { server, .. } => {
                    *server = places.get(server).copied().unwrap_or_default();
                }
                Purpose::Purge { then, .. } => *then = then.and_then(|s| places.get(&s).copied()),
                Purpose::Resolve { .. } => {}
            }
        }
        let due: Vec<_> = (0..self.servers.len())
            .filter_map(|index| {
                let at = self.timers.cancel(Timer::Register(index))?;
                Some((*places.get(&index)?, at))
            })
            .collect();
        for (index, at) in due {
            self.timers.set(Timer::Register(index), at);
        }

        let mut known: BTreeMap<IpAddr, Nhs> = std::mem::take(&mut self.servers)
            .into_iter()
            .map(|nhs| (nhs.server.address, nhs))
            .collect();
        for (index, server) in wanted.into_iter().enumerate() {
            let Some(mut nhs) = known.remove(&server.address) else {
                self.servers.push(Nhs::new(server, now));
                self.timers.set(Timer::Register(index), now);
                continue;
            };
            let configured = former.servers.iter().find(|s| s.address == server.address);
            // Where the configuration says the same as before, the server may have moved since.
            let moved = server.nbma.filter(|_| configured.map(|s| s.nbma) != Some(server.nbma));
            (nhs.server.priority, nhs.server.cluster) = (server.priority, server.cluster);
            self.servers.push(nhs);
            if let Some(nbma) = moved {
                self.set_server_nbma(now, server.address, Some(nbma));
            }
        }
    }

    /// We register with this server no more.
    fn leave_server(&mut self, now: Instant, index: usize) {
        self.server_down(now, index, "not configured any more");
        let ours = |purpose: &Purpose| matches!(purpose, Purpose::Register { server, .. } if *server == index);
        let registering = self.pending.iter().filter(|(_, pending)| ours(&pending.purpose));
        for id in registering.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.finish(id);
        }
        let station = self.servers[index].server.address;
        if let Some((_, to)) = self.holders().into_iter().find(|(holder, _)| *holder == station) {
            self.purge_at(now, station, to, None, None);
        }
    }

    /// Tells servers and those who resolved us that these are not behind us any more.
    fn withdraw(&mut self, now: Instant, prefixes: &[IpNet]) {
        let entries = prefixes.iter().map(|net| Cie {
            prefix_length: net.prefix_len(),
            protocol: Some(net.addr()),
            ..Cie::host(self.address(), NbmaAddress::default(), 0)
        });
        let entries: Vec<Cie> = entries.collect();
        let mut stations = self.holders();
        if let Some((_, to)) = self.best_server(None) {
            let others = self.requesters.iter().filter(|other| self.index_of(**other).is_none());
            stations.extend(others.map(|&other| (other, to)));
        }
        for (station, to) in stations {
            for entries in entries.chunks(ENTRIES) {
                let entries = entries.to_vec();
                self.begin(now, Purpose::Purge { station, entries, then: None }, to, 0);
            }
        }
    }
}
