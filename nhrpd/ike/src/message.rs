//! Messages and events on their way out.

use std::net::SocketAddr;
use std::time::Instant;

use rand_core::CryptoRng;

use crate::crossing::superseded;
use crate::limits::DropReason;
use crate::sa::{Outstanding, Request, Sa};
use crate::wire::{self, Exchange, Header, Notify, NotifyType, Payload};
use crate::{Engine, Event, Identity, Output, Refusal};

impl Engine {
    pub(crate) fn transmit(&mut self, port: u16, to: SocketAddr, datagram: Vec<u8>) {
        self.outputs.push_back(Output::Transmit { port, to, datagram });
    }

    /// Sends a message in all its fragments.
    pub(crate) fn transmit_all(&mut self, port: u16, to: SocketAddr, datagrams: &[Vec<u8>]) {
        for datagram in datagrams {
            self.transmit(port, to, datagram.clone());
        }
    }

    pub(crate) fn event(&mut self, event: Event) {
        self.log_esp_keys(&event);
        self.outputs.push_back(Output::Event(event));
    }

    pub(crate) fn count(&mut self, reason: DropReason) {
        self.drops.count(reason);
    }

    /// Tells the layer above that `sa` does not come up.
    pub(crate) fn fail(&mut self, sa: &Sa, identity: Option<Identity>, reason: Refusal) {
        let (sa, remote, initiator) = (sa.id, sa.remote, sa.initiator);
        let superseded = false;
        self.event(Event::Failed { sa, remote, initiator, identity, reason, superseded });
    }

    /// Tells it that it need not, because another SA with the same peer lives.
    pub(crate) fn fail_superseded(&mut self, sa: &Sa, identity: Option<Identity>) {
        let (sa, remote, initiator) = (sa.id, sa.remote, sa.initiator);
        let (reason, superseded) = (superseded(), true);
        self.event(Event::Failed { sa, remote, initiator, identity, reason, superseded });
    }

    /// Sends a request and starts its retransmissions.
    pub(crate) fn send_request(
        &mut self,
        now: Instant,
        sa: &mut Sa,
        request: Request,
        payloads: &[Payload],
        rng: &mut dyn CryptoRng,
    ) {
        let exchange = match request {
            Request::Init => Exchange::IKE_SA_INIT,
            Request::Intermediate => Exchange::IKE_INTERMEDIATE,
            Request::Auth => Exchange::IKE_AUTH,
            Request::Rekey | Request::Child => Exchange::CREATE_CHILD_SA,
            _ => Exchange::INFORMATIONAL,
        };
        let message_id = sa.next_request;
        let header = sa.header(exchange, false, message_id);
        let datagrams = sa.seal(header, payloads);
        sa.next_request += 1;
        sa.counters.requests_sent += 1;
        self.transmit_all(sa.port, sa.remote, &datagrams);
        let outstanding = Outstanding::new(request, exchange, message_id, datagrams, now, rng);
        sa.outstanding = Some(Box::new(outstanding));
    }

    /// Sends the next waiting request, unless one is under way.
    pub(crate) fn send_queued(&mut self, now: Instant, sa: &mut Sa, rng: &mut dyn CryptoRng) {
        if sa.outstanding.is_none()
            && let Some(request) = sa.queue.pop_front()
        {
            let mut payloads = request.informational();
            if request == Request::Update {
                payloads.extend(self.nat_detection(sa.spis(), sa.port, sa.remote));
            }
            self.send_request(now, sa, request, &payloads, rng);
        }
    }

    /// Answers the request that [`Sa::expected_request`] has just moved past.
    pub(crate) fn respond(&mut self, sa: &mut Sa, exchange: Exchange, payloads: &[Payload]) {
        let header = sa.header(exchange, true, sa.expected_request - 1);
        sa.last_response = sa.seal(header, payloads);
        self.transmit_all(sa.port, sa.remote, &sa.last_response);
    }

    /// Answers without an SA, and never with more bytes than came: the source may be forged.
    pub(crate) fn respond_unprotected(
        &mut self,
        (port, to): (u16, SocketAddr),
        request: &Header,
        request_len: usize,
        payloads: &[Payload],
    ) {
        let header =
            Header { version: Header::VERSION, from_initiator: false, response: true, ..*request };
        for count in (1..=payloads.len()).rev() {
            let datagram = wire::encode_plain(header, &payloads[..count]);
            if datagram.len() <= request_len {
                self.transmit(port, to, datagram);
                return;
            }
        }
    }

    /// RFC 7296 §2.5: to a higher version we say which one we speak.
    pub(crate) fn refuse_version(
        &mut self,
        from: (u16, SocketAddr),
        header: &Header,
        datagram: &[u8],
    ) {
        if header.major_version() > Header::VERSION >> 4 && !header.response {
            let notify = Notify::new(NotifyType::INVALID_MAJOR_VERSION, []);
            self.respond_unprotected(from, header, datagram.len(), &[Payload::Notify(notify)]);
        }
    }
}
