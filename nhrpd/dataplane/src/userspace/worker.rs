//! The packet threads, and what each has for itself: in the steady state no two of them wait for
//! one another, nor write to the same memory.

use std::num::NonZero;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::Core;
use super::counters::{Drops, Reason};
use super::outbox::Outbox;
use super::segment::Vnet;
use crate::Error;

/// Threads of each kind, however many processors there are.
pub const MOST_WORKERS: usize = 8;

/// How many threads seal, and how many open: all processors that this process may use, but one of
/// each at least.
pub(crate) fn by_processors() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    (processors / 2).clamp(1, MOST_WORKERS)
}

/// Queues that one wait tells of; the others come with the next.
const EVENTS: usize = 32;
/// Stands for no queue.
const WAKE: u64 = u64::MAX;

/// What a thread shares with no other. It waits by `epoll`, which costs what is ready and not what
/// is watched.
#[derive(Debug)]
pub(crate) struct Lane {
    epoll: Epoll,
    wake: EventFd,
    pub drops: Arc<Drops>,
}

impl Lane {
    pub(crate) fn new() -> Result<Self, Error> {
        let new = || {
            let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
            let wake = EventFd::from_value_and_flags(0, flags)?;
            let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
            epoll.add(&wake, EpollEvent::new(EpollFlags::EPOLLIN, WAKE))?;
            Ok(Self { epoll, wake, drops: Arc::default() })
        };
        new().map_err(|errno: Errno| Error::Thread(errno.into()))
    }

    /// Has the thread wait for a queue too.
    pub(crate) fn watch(&self, fd: BorrowedFd<'_>, queue: usize) -> Result<(), Error> {
        let event = EpollEvent::new(EpollFlags::EPOLLIN, queue as u64);
        self.epoll.add(fd, event).map_err(|errno| Error::Thread(errno.into()))
    }

    /// No longer; nor for what it did not wait for.
    pub(crate) fn forget(&self, fd: BorrowedFd<'_>) {
        let _ = self.epoll.delete(fd);
    }

    pub(crate) fn wake(&self) {
        // A write can fail only where the counter is full, and then the thread is awake.
        let _ = self.wake.write(1);
    }
}

/// One of several threads that do the same.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Share {
    pub place: usize,
    pub of: usize,
}

impl Share {
    /// Its part of what all together may do.
    pub(crate) fn part(self, all: u32) -> u32 {
        (all / self.of as u32).max(1)
    }
}

/// A packet thread at work.
#[derive(Clone, Copy)]
pub(crate) struct Worker<'a> {
    pub core: &'a Core,
    pub lane: &'a Lane,
    /// Among all threads.
    pub number: usize,
    pub share: Share,
}

impl<'a> Worker<'a> {
    pub(crate) fn outbox(self) -> Outbox {
        Outbox::new(self.core.sockets.clone(), self.number, self.lane.drops.clone())
    }

    /// Waits for packets, or until it is woken: which queues have some.
    pub(crate) fn wait(self, timeout: EpollTimeout, ready: &mut Vec<usize>) {
        let mut events = [EpollEvent::empty(); EVENTS];
        let told = self.lane.epoll.wait(&mut events, timeout).unwrap_or_default();
        ready.clear();
        for event in &events[..told] {
            match event.data() {
                WAKE => _ = self.lane.wake.read(),
                queue => ready.push(queue as usize),
            }
        }
    }

    /// A packet was dropped.
    pub(crate) fn count(self, reason: Reason) {
        self.lane.drops.count(reason);
    }

    /// Gives the kernel a packet that was not cut or joined.
    pub(crate) fn deliver(self, packet: &[u8]) {
        self.deliver_large(0, &Vnet::default(), packet);
    }

    /// Gives the kernel a packet through a queue of the device; see [`super::tun::Tun::write`].
    pub(crate) fn deliver_large(self, queue: usize, vnet: &Vnet, packet: &[u8]) {
        if self.core.tun.write(queue, vnet, packet).is_err() {
            self.count(Reason::DeviceFailed);
        }
    }
}
