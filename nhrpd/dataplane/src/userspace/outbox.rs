//! Datagrams on their way out, sent as a vector.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use super::counters::{Drops, Reason};
use super::socket::Sockets;

/// Room for a batch; its pages are touched only as far as batches fill them.
const SIZE: usize = 256 << 10;
/// The largest UDP payload in IPv4.
const LARGEST: usize = 65_507;

/// Collects datagrams. Those of equal length for one receiver become one system call.
pub(crate) struct Outbox {
    sockets: Arc<Sockets>,
    drops: Arc<Drops>,
    buffer: Vec<u8>,
    used: usize,
    runs: Vec<Run>,
}

#[derive(Debug)]
struct Run {
    to: SocketAddr,
    start: usize,
    end: usize,
    /// Length of each datagram but the last.
    segment: usize,
    /// How many more it may take.
    room: usize,
}

impl Outbox {
    pub(crate) fn new(sockets: Arc<Sockets>, drops: Arc<Drops>) -> Self {
        Self { sockets, drops, buffer: vec![0; SIZE], used: 0, runs: Vec::new() }
    }

    /// For a few datagrams, outside of the packet path.
    pub(crate) fn small(sockets: Arc<Sockets>, drops: Arc<Drops>) -> Self {
        Self { sockets, drops, buffer: Vec::new(), used: 0, runs: Vec::new() }
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

    /// The first `len` bytes of the last slot are a datagram for `to`.
    pub(crate) fn commit(&mut self, to: SocketAddr, len: usize) {
        let start = self.used;
        self.used += len;
        if let Some(run) = self.runs.last_mut()
            && run.to == to
            && run.room > 0
            && len <= run.segment
            && run.end - run.start + len <= LARGEST
        {
            run.end += len;
            // A shorter one ends the run.
            run.room = if len == run.segment { run.room - 1 } else { 0 };
            return;
        }
        let room = self.sockets.segments(to, len).saturating_sub(1);
        self.runs.push(Run { to, start, end: self.used, segment: len, room });
    }

    /// Sends all but a last run that may still grow: each send costs as much, however small.
    fn make_room(&mut self) {
        let growing = self.runs.pop_if(|run| run.room > 0 && run.start > 0);
        self.flush();
        if let Some(run) = growing {
            self.buffer.copy_within(run.start..run.end, 0);
            self.used = run.end - run.start;
            self.runs.push(Run { start: 0, end: self.used, ..run });
        }
    }

    /// Sends all.
    pub(crate) fn flush(&mut self) {
        for run in self.runs.drain(..) {
            let contents = &self.buffer[run.start..run.end];
            let several = (contents.len() > run.segment).then_some(run.segment);
            let Err(error) = self.sockets.send(run.to, contents, several) else { continue };
            tracing::trace!("send to {}: {error}", run.to);
            let singly = several.is_some() && error.kind() != io::ErrorKind::WouldBlock;
            // A device without checksum offload refuses the vector (EIO): its datagrams may go.
            for datagram in contents.chunks(run.segment) {
                if !singly || self.sockets.send(run.to, datagram, None).is_err() {
                    self.drops.count(Reason::SendFailed);
                }
            }
        }
        self.used = 0;
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.flush();
    }
}
