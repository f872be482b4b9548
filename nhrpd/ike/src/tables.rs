//! Where an SA is found: by handle, SPI, address and identity; and its timer.

use std::net::SocketAddr;

use rand_core::CryptoRng;

use crate::sa::Sa;
use crate::{Engine, Identity, SaId};

impl Engine {
    pub(crate) fn fresh_id(&mut self) -> SaId {
        self.last_id += 1;
        SaId(self.last_id)
    }

    pub(crate) fn fresh_spi(&self, rng: &mut dyn CryptoRng) -> u64 {
        loop {
            let spi = rng.next_u64();
            if spi != 0 && !self.by_spi.contains_key(&spi) {
                return spi;
            }
        }
    }

    /// [`crate::private::Lineage::instance`] of this node.
    pub(crate) fn instance(&mut self, rng: &mut dyn CryptoRng) -> u64 {
        *self.instance.get_or_insert_with(|| rng.next_u64())
    }

    pub(crate) fn insert(&mut self, sa: Sa) {
        let sa = Box::new(sa);
        self.by_spi.insert(sa.local_spi, sa.id);
        self.by_remote.insert((sa.remote, sa.id));
        if let Some(origin) = sa.origin {
            self.by_origin.insert((origin, sa.peer_spi), sa.id);
        }
        self.put(sa);
    }

    /// Takes an SA out to work on it; [`Self::put`] or [`Self::forget`] it afterwards.
    pub(crate) fn take(&mut self, id: SaId) -> Option<Box<Sa>> {
        self.sas.remove(&id)
    }

    /// Puts an SA back and arms its timer.
    pub(crate) fn put(&mut self, mut sa: Box<Sa>) {
        let deadline = sa.deadline(self.config.dead_peer_interval);
        if sa.armed != Some(deadline) {
            if let Some(armed) = sa.armed.replace(deadline) {
                self.timers.remove(&(armed, sa.id));
            }
            self.timers.insert((deadline, sa.id));
        }
        self.sas.insert(sa.id, sa);
    }

    #[allow(clippy::needless_pass_by_value, reason = "nothing may hold it afterwards")]
    pub(crate) fn forget(&mut self, sa: Box<Sa>) {
        if let Some(armed) = sa.armed {
            self.timers.remove(&(armed, sa.id));
        }
        self.by_spi.remove(&sa.local_spi);
        self.by_remote.remove(&(sa.remote, sa.id));
        if let Some(origin) = sa.origin {
            self.by_origin.remove(&(origin, sa.peer_spi));
        }
        if sa.is_half_open() {
            self.leave_half_open(&sa);
        }
    }

    /// An SA that we answer no longer counts against the limits of half-open ones.
    pub(crate) fn leave_half_open(&mut self, sa: &Sa) {
        if let Some(origin) = sa.origin {
            self.half_open.leave(origin.ip());
        }
    }

    pub(crate) fn set_remote(&mut self, sa: &mut Sa, remote: SocketAddr) {
        self.by_remote.remove(&(sa.remote, sa.id));
        self.by_remote.insert((remote, sa.id));
        sa.remote = remote;
    }

    pub(crate) fn with_origin(&self, origin: SocketAddr, spi: u64) -> Option<&Sa> {
        self.by_origin.get(&(origin, spi)).and_then(|id| self.sas.get(id)).map(AsRef::as_ref)
    }

    pub(crate) fn with_remote(&self, remote: SocketAddr) -> impl Iterator<Item = &Sa> {
        let all = (remote, SaId(0))..=(remote, SaId(u64::MAX));
        self.by_remote.range(all).filter_map(|(_, id)| self.sas.get(id)).map(AsRef::as_ref)
    }

    pub(crate) fn with_identity(&self, identity: &Identity) -> impl Iterator<Item = &Sa> {
        let all = (identity.clone(), SaId(0))..=(identity.clone(), SaId(u64::MAX));
        self.established.range(all).filter_map(|(_, id)| self.sas.get(id)).map(AsRef::as_ref)
    }

    #[cfg(test)]
    pub(crate) fn tables_are_empty(&self) -> bool {
        self.by_spi.is_empty()
            && self.by_origin.is_empty()
            && self.by_remote.is_empty()
            && self.timers.is_empty()
            && self.half_open.len() == 0
    }
}
