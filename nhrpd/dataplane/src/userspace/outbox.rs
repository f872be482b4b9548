//! Datagrams on their way out, sent as a vector.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use super::counters::{Drops, Reason};
use super::socket::Sockets;

/// The largest UDP payload in IPv4.
const LARGEST: usize = 65_507;
/// Room for a run and for the datagram that is to follow it; its pages are touched only as far as
/// runs fill them.
const SIZE: usize = 160 << 10;

/// Collects datagrams. Those of equal length for one receiver become one system call.
///
/// It makes no more wait than those: what one thread has sealed and not yet sent is behind, for the
/// receiver's replay window, what another seals for the same peer meanwhile.
pub(crate) struct Outbox {
    sockets: Arc<Sockets>,
    /// Number of the thread, whose socket sends.
    sender: usize,
    drops: Arc<Drops>,
    buffer: Vec<u8>,
    used: usize,
    run: Option<Run>,
}

#[derive(Debug)]
struct Run {
    to: SocketAddr,
    /// Where it begins; it ends where the buffer is used up to.
    start: usize,
    /// Length of each datagram but the last.
    segment: usize,
    /// How many more it may take.
    room: usize,
}

impl Outbox {
    pub(crate) fn new(sockets: Arc<Sockets>, sender: usize, drops: Arc<Drops>) -> Self {
        Self { sockets, sender, drops, buffer: vec![0; SIZE], used: 0, run: None }
    }

    /// For a few datagrams, outside of the packet path.
    pub(crate) fn small(sockets: Arc<Sockets>, drops: Arc<Drops>) -> Self {
        Self { sockets, sender: 0, drops, buffer: Vec::new(), used: 0, run: None }
    }

    /// `len` bytes for the next datagram; they count once [`Self::commit`] was called.
    pub(crate) fn slot(&mut self, len: usize) -> &mut [u8] {
        if self.buffer.len() < self.used + len {
            self.make_room();
            if self.buffer.len() < self.used + len {
                self.buffer.resize(self.used + len, 0);
            }
        }
        &mut self.buffer[self.used..self.used + len]
    }

    fn make_room(&mut self) {
        let Some(run) = &mut self.run else {
            self.used = 0;
            return;
        };
        self.buffer.copy_within(run.start..self.used, 0);
        self.used -= run.start;
        run.start = 0;
    }

    /// The first `len` bytes of the last slot are a datagram for `to`.
    pub(crate) fn commit(&mut self, to: SocketAddr, len: usize) {
        match &mut self.run {
            Some(run) if run.to == to && len <= run.segment => {
                // A shorter one ends the run.
                run.room = if len == run.segment { run.room - 1 } else { 0 };
            }
            _ => {
                self.send();
                let most = self.sockets.segments(to, self.sender, len).min(LARGEST / len.max(1));
                let room = most.saturating_sub(1);
                self.run = Some(Run { to, start: self.used, segment: len, room });
            }
        }
        self.used += len;
        if self.run.as_ref().is_some_and(|run| run.room == 0) {
            self.flush();
        }
    }

    /// Sends all.
    pub(crate) fn flush(&mut self) {
        self.send();
        self.used = 0;
    }

    fn send(&mut self) {
        let Some(run) = self.run.take() else { return };
        let contents = &self.buffer[run.start..self.used];
        let several = (contents.len() > run.segment).then_some(run.segment);
        let Err(error) = self.sockets.send(run.to, self.sender, contents, several) else { return };
        tracing::trace!("send to {}: {error}", run.to);
        let singly = several.is_some() && error.kind() != io::ErrorKind::WouldBlock;
        // A device without checksum offload refuses the vector (EIO): its datagrams may go.
        for datagram in contents.chunks(run.segment) {
            if !singly || self.sockets.send(run.to, self.sender, datagram, None).is_err() {
                self.drops.count(Reason::SendFailed);
            }
        }
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.flush();
    }
}
