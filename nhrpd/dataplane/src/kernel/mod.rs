//! The kernel data plane: multipoint GRE, xfrm, neighbours, routes and nftables, programmed by
//! netlink alone.
//!
//! ```text
//!            Desired                                     Event
//!               │                                          ▲
//!               ▼                                          │
//!   plan: what is to be ── difference ──▶ requests     listen: misses, NHRP, NFLOG, expiries
//!               ▲                            │             ▲
//!               └──────── what is ◀──────────┴── kernel ───┘
//! ```
//!
//! Packets never come here, but for NHRP, IKE, the first one of a flow that should take a better
//! way, and multicast, which is copied to its members.

mod device;
mod ike;
mod inherit;
mod link;
mod listen;
mod log;
mod nft;
mod packet;
mod places;
mod plan;
pub(crate) mod probe;
mod ranges;
mod route;
mod rules;
mod socket;
mod state;
mod tables;
mod untold;
mod usage;
mod wire;
mod xfrm;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use ipnet::IpNet;
use nix::sys::eventfd::{EfdFlags, EventFd};
use overlay::desired::{Changes, Desired, Event, PeerCounters, PeerId};
use tokio::sync::{Notify, mpsc};

use crate::userspace::counters::{Drops, Reason};
use crate::{Config, Error};
use probe::{NFLOG, PACKETS, XFRM, needed};
use socket::Listener;
use state::State;

/// Groups of rtnetlink: links, neighbours, routes of both families.
const ROUTE_GROUPS: u32 = 1 << 0 | 1 << 2 | 1 << 6 | 1 << 10;
const STACK: usize = 256 << 10;

/// A running kernel data plane.
#[derive(Debug)]
pub struct Kernel {
    core: Arc<Core>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// What the listening thread and the handle share.
struct Core {
    config: Config,
    state: Mutex<State>,
    packets: packet::Socket,
    ike: ike::Ike,
    events: mpsc::Sender<Event>,
    drops: Arc<Drops>,
    route: Listener,
    xfrm: Option<Listener>,
    log: Listener,
    stopping: AtomicBool,
    wake: EventFd,
    /// The device was removed.
    gone: Notify,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Core {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports without waiting; `false` when the queue is full.
    fn event(&self, event: Event) -> bool {
        let taken = self.events.try_send(event).is_ok();
        if !taken {
            self.drops.count(Reason::EventQueue);
        }
        taken
    }
}

impl Kernel {
    /// Makes the device, or takes that of a former run over with all that belongs to it, and
    /// begins to listen. With encryption, the policies that keep bare GRE in are there first.
    /// `kept`: the [`Self::socket`] of a former run, which somebody has held open.
    ///
    /// # Errors
    /// What the kernel lacks, or does not allow.
    pub async fn start(
        config: Config,
        kept: Option<UdpSocket>,
        events: mpsc::Sender<Event>,
    ) -> Result<Self, Error> {
        let ike = ike::Ike::open(&config, kept)?;
        let (log, group) =
            log::listen(xfrm::reqid(&config.interface)).map_err(needed("NFLOG", NFLOG))?;
        let route = Listener::open(libc::NETLINK_ROUTE, ROUTE_GROUPS).map_err(Error::Netlink)?;
        let xfrm = match config.clear {
            true => None,
            false => {
                let listener = Listener::open(libc::NETLINK_XFRM, xfrm::GROUPS);
                Some(listener.map_err(needed("IPsec by netlink (xfrm)", XFRM))?)
            }
        };
        let state = State::start(&config, group)?;
        let packets = packet::Socket::open(state.index())
            .map_err(needed(format!("a packet socket on {}", config.interface), PACKETS))?;
        let wake = EventFd::from_value_and_flags(0, EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)
            .map_err(|errno| Error::Thread(errno.into()))?;
        let core = Arc::new(Core {
            config,
            state: Mutex::new(state),
            packets,
            ike,
            events,
            drops: Arc::default(),
            route,
            xfrm,
            log,
            stopping: AtomicBool::new(false),
            wake,
            gone: Notify::new(),
        });
        let listener = core.clone();
        let thread = std::thread::Builder::new().name("dp-kernel".into()).stack_size(STACK);
        let thread = thread.spawn(move || listen::run(&listener)).map_err(Error::Thread)?;
        Ok(Self { core, thread: Some(thread) })
    }

    /// Brings about the desired state, which differs from the last one by `changes` at most.
    pub fn apply(&self, desired: &Desired, changes: &Changes) {
        let mut state = self.core.state();
        state.set_desired(desired, changes);
        let fresh = state.converge();
        drop(state);
        for place in fresh {
            self.core.send(packet::PROBE, place, &[]);
        }
        self.wake();
    }

    /// The underlay's address or MTU is another one.
    pub async fn set_underlay(&self, source: Option<IpAddr>, mtu: u16) {
        self.core.ike.set_own(source);
        self.core.state().set_underlay(source, mtu);
    }

    /// The socket for IKE and ESP in UDP (RFC 3948). While anybody holds it open the kernel goes on
    /// receiving ESP in UDP, also without this process; none with `security: none`.
    pub fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.core.ike.sockets().first().map(AsFd::as_fd)
    }

    /// Waits until the data plane cannot go on; why. What is left in the kernel serves the next run.
    pub async fn failed(&self) -> Error {
        self.core.gone.notified().await;
        Error::InterfaceGone(self.core.config.interface.clone())
    }

    /// MTU of the tunnel device in bytes.
    pub fn mtu(&self) -> u16 {
        self.core.state().mtu()
    }

    /// Sends an IKE message (the non-ESP marker is added here, but not on port 500); not with
    /// `security: none`, and from no other port than these two.
    pub fn send_ike(&self, port: u16, to: SocketAddr, datagram: &[u8]) {
        if let Err(error) = self.core.ike.send(port, to, datagram) {
            tracing::debug!("IKE to {to}: {error}");
            self.core.drops.count(Reason::SendFailed);
        }
    }

    /// Sends an NHRP packet (ar$afn first) to a peer.
    pub fn send_nhrp(&self, peer: PeerId, packet: &[u8]) {
        let place = self.core.state().plan().place(peer);
        match place {
            Some(place) => self.core.send(packet::NHRP, place, packet),
            None => self.core.drops.count(Reason::UnknownPeer),
        }
    }

    /// Sends an NHRP packet to a node that is no peer yet; only with `security: none`.
    pub fn send_nhrp_clear(&self, to: IpAddr, packet: &[u8]) {
        if !self.core.config.clear {
            return self.core.drops.count(Reason::SendFailed);
        }
        self.core.send(packet::NHRP, to, packet);
    }

    /// Counters of every path.
    pub fn counters(&self) -> BTreeMap<PeerId, PeerCounters> {
        self.core.state().counters()
    }

    /// Packets that took the forwarding entry for exactly this prefix; 0 where there is none.
    pub fn packets(&self, prefix: IpNet) -> u64 {
        self.core.state().packets(prefix)
    }

    /// Drops since the start, by reason.
    pub fn drops(&self) -> BTreeMap<&'static str, u64> {
        self.core.drops.read()
    }

    /// Takes away all that was made, the policies last.
    pub async fn stop(mut self) {
        self.halt();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the listening thread panicked");
        }
        self.core.state().remove_all();
    }

    fn wake(&self) {
        let _ = self.core.wake.write(1);
    }

    fn halt(&self) {
        self.core.stopping.store(true, Relaxed);
        self.wake();
    }
}

/// The device, its tables and the policies stay: the next run takes them over.
impl Drop for Kernel {
    fn drop(&mut self) {
        self.halt();
    }
}

impl Core {
    fn send(&self, protocol: u16, to: IpAddr, packet: &[u8]) {
        if let Err(error) = self.packets.send(protocol, to, packet) {
            tracing::debug!("to {to}: {error}");
            self.drops.count(Reason::SendFailed);
        }
    }
}

/// Time since something.
fn seconds(since: Instant) -> u64 {
    since.elapsed().as_secs()
}
