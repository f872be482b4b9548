//! Another configuration, other certificates, for a node that runs: what does not differ is not
//! touched.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use ::nhrp::engine as nhrp;
use nhrp::Authorization;
use rand_core::CryptoRng;

use crate::Overlay;
use crate::config::{Config, Now};
use crate::credentials::Credentials;
use crate::desired::PeerId;
use crate::notice::Refused;

/// Sessions that show a new certificate of ours to their peers, at one time, and the pause between
/// two such times: a hub with thousands of them has other things to do, too.
const AT_ONCE: usize = 16;
const PAUSE: Duration = Duration::from_secs(1);

/// Sessions whose peers have not seen our new certificate.
#[derive(Debug, Default)]
pub(crate) struct Renewal {
    waiting: BTreeSet<PeerId>,
    at: Option<Instant>,
}

impl Renewal {
    /// When [`Overlay::renew`] wants to be called.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.at
    }
}

impl Overlay {
    /// Takes over another configuration and other credentials. Security, the port, the own tunnel
    /// address and the own NBMA address stay.
    ///
    /// Every peer is judged again: who has lost his right is sent away, with the reason; what he
    /// may not claim any more is forgotten. Where our own certificate is a new one, a key exchange
    /// with each peer shows it to him, some peers a second; no session ends for that.
    pub fn reconfigure(
        &mut self,
        now: Now,
        config: Config,
        credentials: Option<Credentials>,
        rng: &mut dyn CryptoRng,
    ) {
        let (security, port) = (self.config.security, self.config.port);
        let nhrp::Config { address, nbma, .. } = self.config.nhrp;
        let nhrp = nhrp::Config { address, nbma, ..config.nhrp };
        let former = std::mem::replace(&mut self.config, Config { nhrp, security, port, ..config });
        let servers = &self.config.nhrp.servers;
        self.servers.retain(|address, _| servers.iter().any(|server| server.address == *address));
        for server in servers.iter().filter(|server| !former.nhrp.servers.contains(server)) {
            self.servers.extend(server.nbma.map(|nbma| (server.address, nbma)));
        }
        self.nhrp.reconfigure(now.instant, self.config.nhrp.clone());
        self.ike.reconfigure(now.instant, self.config.ike.clone(), rng);

        let renewed = match (&credentials, &self.credentials) {
            (Some(new), Some(old)) => !new.same_chain(old),
            _ => false,
        };
        self.credentials = credentials;
        self.judge_again(now, rng);
        if renewed {
            self.renewal.waiting = self.sessions.iter().map(|(id, _)| id).collect();
            self.renewal.at = Some(now.instant);
        }
        self.forgive_setbacks(now.instant);
        self.forwarding.touch_all();
        self.pump(now, rng);
    }

    /// Judges the peers of all sessions by the rules that hold now.
    fn judge_again(&mut self, now: Now, rng: &mut dyn CryptoRng) {
        let Some(credentials) = &self.credentials else { return };
        let verdicts: Vec<_> = self
            .sessions
            .iter()
            .filter_map(|(id, session)| {
                let (who, chain) = self.ike.peer(session.sa?)?;
                let verdict = credentials.claims(who, chain, &self.config, now.wall);
                let same = |(_, rights): &(_, Authorization)| *rights == session.authorization;
                (!verdict.as_ref().is_ok_and(same)).then_some((id, verdict))
            })
            .collect();
        for (id, verdict) in verdicts {
            let Some(session) = self.sessions.get(id) else { continue };
            let (peer, identity) = (session.endpoint, session.identity.clone());
            let nbma = self.sessions.nbma(peer);
            match verdict {
                Ok((_, authorization)) => {
                    self.sessions.set_authorization(id, authorization);
                    if let Some(id) = self.carrier(None, nbma)
                        && let Some(session) = self.sessions.get(id)
                    {
                        self.nhrp.reauthorize(nbma, session.authorization.clone());
                    }
                }
                Err(reason) => {
                    self.refuse(now.instant, Refused { peer, identity, reason: reason.clone() });
                    self.nhrp.reauthorize(nbma, Authorization::Within([].into()));
                    self.remove_session(now, id, &reason, rng);
                }
            }
        }
    }

    /// Shows our new certificate to the next peers: by a key exchange of its own, whose session
    /// takes the place of the former one when it is up.
    pub(crate) fn renew(&mut self, now: Now, rng: &mut dyn CryptoRng) {
        if self.renewal.at.is_none_or(|at| at > now.instant) {
            return;
        }
        let mut left = AT_ONCE;
        while left > 0
            && let Some(id) = self.renewal.waiting.pop_first()
        {
            let Some(session) = self.sessions.get(id).filter(|s| s.up && s.sa.is_some()) else {
                continue;
            };
            let nbma = self.sessions.nbma(session.endpoint);
            self.begin_exchange(now, nbma, rng);
            left -= 1;
        }
        self.renewal.at = (!self.renewal.waiting.is_empty()).then_some(now.instant + PAUSE);
    }
}
