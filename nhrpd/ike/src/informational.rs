//! What happens on an SA that is up: INFORMATIONAL exchanges (RFC 7296 §1.4), and the wishes of
//! the layer above.

use std::net::IpAddr;
use std::time::Instant;

use rand_core::CryptoRng;

use crate::engine::{Context, Fate};
use crate::private::{self, peer_refusal};
use crate::responder::syntax_notify;
use crate::sa::{Established, Request, Sa, State};
use crate::wire::{
    self, Delete, Exchange, Notify, NotifyType, PROTOCOL_ESP, PROTOCOL_IKE, Payload,
};
use crate::{Engine, Refusal, SaId};

impl Engine {
    /// Deletes an SA: tells the peer, forgets it. The event that every SA ends with comes at
    /// once; the peer is told until it confirms or is taken for dead.
    pub fn close(&mut self, now: Instant, sa: SaId, rng: &mut dyn CryptoRng) {
        let Some(mut sa) = self.take(sa) else { return };
        match sa.state {
            State::Established(_) => {
                self.depart(&mut sa, "closed by us".into());
                self.begin_closing(now, &mut sa, Request::Delete, rng);
                self.put(sa);
            }
            State::InitSent(_) | State::Intermediate(_) => {
                self.fail(&sa, None, Refusal("closed by us".into()));
                self.forget(sa);
            }
            State::AuthSent(..) => {
                // For the responder it may be up already: told when it has answered.
                self.fail(&sa, None, Refusal("closed by us".into()));
                self.begin_closing(now, &mut sa, Request::Delete, rng);
                self.put(sa);
            }
            State::HalfOpen(_) => self.forget(sa),
            State::Refused | State::Childless(_) | State::Closing => self.put(sa),
        }
    }

    /// Own address changed: every established SA tells its peer (RFC 4555 §3.5), one that is not
    /// yet established does so when it is, and whatever waits for a response is sent again from
    /// the new address. To be called before the first SA too.
    pub fn update_addresses(&mut self, now: Instant, own: Option<IpAddr>, rng: &mut dyn CryptoRng) {
        let former = std::mem::replace(&mut self.address, own);
        let moved = former.is_some() && own.is_some() && former != own;
        let ids: Vec<SaId> = self.sas.keys().copied().collect();
        for id in ids {
            let Some(mut sa) = self.take(id) else { continue };
            if moved && sa.is_established() && !sa.mobike {
                let words = "our address changed, and the peer cannot follow (no MOBIKE)";
                self.depart(&mut sa, words.into());
                self.begin_closing(now, &mut sa, Request::Delete, rng);
                self.put(sa);
                continue;
            }
            if let Some(outstanding) = &mut sa.outstanding {
                outstanding.restart(now);
                outstanding.transmitted(now, rng);
                sa.counters.retransmissions += 1;
                let datagrams = outstanding.datagrams.clone();
                self.transmit_all(sa.port, sa.remote, &datagrams);
            }
            match sa.state {
                // What was said of the addresses in IKE_SA_INIT is not true any more.
                State::InitSent(_)
                | State::Established(_)
                | State::Intermediate(_)
                | State::AuthSent(..)
                | State::HalfOpen(_)
                | State::Childless(_) => {
                    if !sa.queue.contains(&Request::Update) {
                        sa.queue.push_back(Request::Update);
                    }
                }
                State::Refused | State::Closing => {}
            }
            if sa.is_established() {
                self.send_queued(now, &mut sa, rng);
            }
            self.put(sa);
        }
    }

    /// Leaves an SA that the layer above no longer knows to `last`, which tells the peer.
    pub(crate) fn begin_closing(
        &mut self,
        now: Instant,
        sa: &mut Sa,
        last: Request,
        rng: &mut dyn CryptoRng,
    ) {
        let former = std::mem::replace(&mut sa.state, State::Closing);
        if let State::Established(Established { theirs: Some(theirs), .. }) = former {
            self.discard(now, *theirs, true, rng);
        }
        sa.queue.clear();
        sa.queue.push_back(last);
        self.send_queued(now, sa, rng);
    }

    /// A new request on an SA that is up, or being closed.
    pub(crate) fn handle_established_request(
        &mut self,
        context: &mut Context<'_>,
        sa: &mut Sa,
        exchange: Exchange,
        payloads: Result<Vec<Payload>, wire::Error>,
    ) -> Fate {
        let payloads = match payloads {
            Ok(payloads) => payloads,
            Err(error) => return self.refuse_syntax(context, sa, exchange, error),
        };
        if exchange == Exchange::CREATE_CHILD_SA {
            self.confirm_children(sa, None);
            self.handle_rekey_request(context, sa, payloads);
            return Fate::Keep;
        }
        let spis = payloads.iter().filter_map(|payload| match payload {
            Payload::Delete(delete) if delete.protocol == PROTOCOL_ESP => Some(&delete.spis[..]),
            _ => None,
        });
        let spis = spis.collect::<Vec<_>>().concat();
        let ours = self.delete_children(sa, &spis);
        let deleted = Delete { protocol: PROTOCOL_ESP, spis: ours };
        let mut answer = self.renew_nat(sa, &payloads);
        // RFC 4555 §3.7: it shows that we read the request.
        let cookie = private::notify(&payloads, NotifyType::COOKIE2);
        answer.extend(cookie.map(|data| Payload::Notify(Notify::new(NotifyType::COOKIE2, data))));
        answer.extend((!deleted.spis.is_empty()).then_some(Payload::Delete(deleted)));
        self.respond(sa, exchange, &answer);
        let deleted = payloads
            .iter()
            .any(|payload| matches!(payload, Payload::Delete(d) if d.protocol == PROTOCOL_IKE));
        let refused = match peer_refusal(&payloads) {
            Some((NotifyType::AUTHENTICATION_FAILED, words)) => {
                Some(format!("peer refused us: {words}"))
            }
            Some((_, words)) if deleted => Some(format!("peer refused our tunnel: {words}")),
            _ => None,
        };
        let deleted = deleted.then(|| "deleted by the peer".to_owned());
        if let State::Established(established) = &mut sa.state
            && deleted.is_some()
            && let Some(theirs) = established.theirs.take()
        {
            // See `crate::rekey`: the peer has not noticed that ours crosses its own.
            self.succeed(context.now, sa, *theirs, false, context.rng);
            return Fate::Forget;
        }
        let Some(reason) = refused.or(deleted) else {
            self.confirm_children(sa, None);
            self.close_without_children(context.now, sa, context.rng);
            return Fate::Keep;
        };
        if sa.is_established() {
            self.depart(sa, reason);
        }
        Fate::Forget
    }

    /// RFC 7296 §2.5 for an unknown critical payload; §2.21.3 for anything else that cannot be
    /// decoded, which ends the SA because the two sides do not understand each other.
    fn refuse_syntax(
        &mut self,
        context: &mut Context<'_>,
        sa: &mut Sa,
        exchange: Exchange,
        error: wire::Error,
    ) -> Fate {
        let (kind, data) = syntax_notify(error);
        self.respond(sa, exchange, &[Payload::Notify(Notify::new(kind, data))]);
        if kind == NotifyType::INVALID_SYNTAX && sa.is_established() {
            self.depart(sa, format!("peer sent what we cannot read: {error}"));
            self.begin_closing(context.now, sa, Request::Delete, context.rng);
        }
        Fate::Keep
    }
}
