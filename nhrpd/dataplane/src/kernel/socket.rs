//! Netlink sockets: one for requests, whose answers are waited for, and others to listen.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use netlink_sys::{Socket as Netlink, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;

use super::wire::{Message, Request, messages, u32_at};

/// Room for one datagram of the kernel's.
const DATAGRAM: usize = 64 << 10;
/// Requests that go in one datagram: their acknowledgements must fit into the socket's buffer.
const BATCH: usize = 64;
const BATCH_BYTES: usize = 32 << 10;
/// The kernel answers at once; this is for when it does not.
const PATIENCE: Duration = Duration::from_secs(10);
/// For those that listen.
const BUFFER: usize = 4 << 20;

const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// nfgenmsg with the subsystem of nf_tables.
const NF_TABLES: [u8; 4] = [0, 0, 0, 10];

/// A socket for requests.
#[derive(Debug)]
pub(crate) struct Requests {
    socket: Netlink,
    sequence: Cell<u32>,
    /// Our address: notifications that carry it tell of what we did ourselves.
    pub port: u32,
}

impl Requests {
    /// `protocol`: `NETLINK_ROUTE` and the like.
    pub(crate) fn open(protocol: i32) -> io::Result<Self> {
        let mut socket = Netlink::new(protocol as isize)?;
        let port = socket.bind_auto()?.port_number();
        let timeout = TimeVal::new(PATIENCE.as_secs() as i64, 0);
        setsockopt(&socket, sockopt::ReceiveTimeout, &timeout)?;
        // Acknowledgements without a copy of the request, which may hold keys.
        socket.set_cap_ack(true)?;
        Ok(Self { socket, sequence: Cell::new(0), port })
    }

    fn number(&self) -> u32 {
        self.sequence.set(self.sequence.get().wrapping_add(1));
        self.sequence.get()
    }

    /// Carries out one request.
    pub(crate) fn execute(&self, request: Request) -> io::Result<()> {
        self.all(vec![request]).pop().unwrap_or(Ok(()))
    }

    /// Carries out each of them, whatever becomes of the others.
    pub(crate) fn all(&self, requests: Vec<Request>) -> Vec<io::Result<()>> {
        let mut results: Vec<io::Result<()>> = Vec::with_capacity(requests.len());
        let mut requests = requests.into_iter().peekable();
        while requests.peek().is_some() {
            let mut datagram = zeroize::Zeroizing::new(Vec::with_capacity(BATCH_BYTES));
            let first = self.sequence.get().wrapping_add(1);
            let mut count = 0;
            while count < BATCH && datagram.len() < BATCH_BYTES - 4096 {
                let Some(request) = requests.next() else { break };
                datagram.extend_from_slice(request.acknowledged().finish(self.number()));
                count += 1;
            }
            let begin = results.len();
            results.extend((0..count).map(|_| Err(io::ErrorKind::TimedOut.into())));
            let mut missing = count;
            let told = self.socket.send(&datagram, 0).and_then(|_| {
                self.answers(|message| {
                    let place = message.sequence.wrapping_sub(first) as usize;
                    if place < count && message.kind == libc::NLMSG_ERROR as u16 {
                        results[begin + place] = outcome(message);
                        missing -= 1;
                    }
                    missing == 0
                })
            });
            if let Err(error) = told {
                tracing::warn!("netlink: {error}");
            }
        }
        results
    }

    /// Carries out all of them or none (nf_tables).
    pub(crate) fn transaction(&self, requests: Vec<Request>) -> io::Result<()> {
        let mut datagram = Vec::new();
        let first = self.number();
        datagram.extend_from_slice(Request::new(BATCH_BEGIN, 0).raw(&NF_TABLES).finish(first));
        let last = requests.len().saturating_sub(1);
        let mut awaited = first;
        for (place, mut request) in requests.into_iter().enumerate() {
            awaited = self.number();
            if place == last {
                request = request.acknowledged();
            }
            datagram.extend_from_slice(request.finish(awaited));
        }
        let mut end = Request::new(BATCH_END, 0).raw(&NF_TABLES);
        datagram.extend_from_slice(end.finish(self.number()));
        self.socket.send(&datagram, 0)?;
        let mut result = Ok(());
        self.answers(|message| {
            if message.sequence.wrapping_sub(first) > awaited.wrapping_sub(first)
                || message.kind != libc::NLMSG_ERROR as u16
            {
                return false;
            }
            if let (Ok(()), Err(error)) = (&result, outcome(message)) {
                let place = message.sequence.wrapping_sub(first);
                result = Err(io::Error::new(error.kind(), format!("{error} (message {place})")));
            }
            message.sequence == awaited || message.sequence == first
        })?;
        result
    }

    /// Every object of a kind.
    pub(crate) fn dump(&self, request: Request) -> io::Result<Vec<Vec<u8>>> {
        let mut request = request;
        let number = self.number();
        self.socket.send(request.finish(number), 0)?;
        let mut objects = Vec::new();
        let mut result = Ok(());
        self.answers(|message| {
            if message.sequence != number {
                return false;
            }
            if message.kind == libc::NLMSG_DONE as u16 {
                return true;
            }
            if message.kind == libc::NLMSG_ERROR as u16 {
                result = outcome(message);
                return true;
            }
            objects.push(message.payload.to_vec());
            false
        })?;
        result.map(|()| objects)
    }

    /// Hands on answers until that is enough.
    fn answers(&self, mut enough: impl FnMut(Message<'_>) -> bool) -> io::Result<()> {
        let mut buffer = zeroize::Zeroizing::new(Vec::with_capacity(DATAGRAM));
        loop {
            buffer.clear();
            self.socket.recv(&mut *buffer, 0)?;
            for message in messages(&buffer) {
                if enough(message) {
                    return Ok(());
                }
            }
        }
    }
}

fn outcome(message: Message<'_>) -> io::Result<()> {
    match u32_at(message.payload, 0).unwrap_or_default() as i32 {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(-code)),
    }
}

/// A socket that listens.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: Netlink,
}

/// What a listener has.
pub(crate) enum Heard {
    /// The datagram is in the buffer.
    Datagram,
    /// The kernel had more to tell than fitted: anything may have changed.
    Overrun,
    /// Nothing now.
    Nothing,
}

impl Listener {
    /// `groups`: a bit for each.
    pub(crate) fn open(protocol: i32, groups: u32) -> io::Result<Self> {
        let mut socket = Netlink::new(protocol as isize)?;
        socket.bind(&SocketAddr::new(0, groups))?;
        socket.set_non_blocking(true)?;
        // As much as allowed.
        let _ = setsockopt(&socket, sockopt::RcvBufForce, &BUFFER)
            .or_else(|_| setsockopt(&socket, sockopt::RcvBuf, &BUFFER));
        Ok(Self { socket })
    }

    /// Sends a request whose answer nobody waits for.
    pub(crate) fn tell(&self, mut request: Request) -> io::Result<()> {
        self.socket.send(request.finish(1), 0).map(drop)
    }

    /// Reads one datagram into `buffer`.
    pub(crate) fn listen(&self, buffer: &mut Vec<u8>) -> Heard {
        buffer.clear();
        buffer.reserve(DATAGRAM);
        match self.socket.recv(buffer, 0) {
            Ok(_) => Heard::Datagram,
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Heard::Overrun,
            Err(_) => Heard::Nothing,
        }
    }

    /// Waits for the first message that `wanted` takes.
    pub(crate) fn wait<T>(
        &self,
        mut wanted: impl FnMut(Message<'_>) -> Option<T>,
    ) -> io::Result<T> {
        let mut buffer = Vec::new();
        let timeout = nix::poll::PollTimeout::from(2000u16);
        loop {
            let mut fds = [nix::poll::PollFd::new(self.as_fd(), nix::poll::PollFlags::POLLIN)];
            if nix::poll::poll(&mut fds, timeout)? == 0 {
                return Err(io::ErrorKind::TimedOut.into());
            }
            while let Heard::Datagram = self.listen(&mut buffer) {
                if let Some(found) = messages(&buffer).find_map(&mut wanted) {
                    return Ok(found);
                }
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
