//! The userspace data plane: a TUN device, GRE of our own, and ESP or WireGuard sessions, on any
//! Linux that has `/dev/net/tun`.
//!
//! ```text
//!   kernel ── TUN ──▶ egress threads ──▶ look up ── GRE ── seal ──▶ UDP ──▶ underlay
//!          ◀────────  ingress threads ◀── open ── GRE ── decide ◀── UDP ◀──
//!                          └────────── forward to another peer ──────┘
//! ```
//!
//! Threads of their own carry the packets, in batches: the kernel hands over and takes TCP streams
//! in pieces of up to 64 KiB, and UDP datagrams of one length to one peer in one system call.
//! They read a snapshot that the control plane swaps, and report by a bounded queue. Each has its
//! share of the device's queues, or of the sockets.

mod coalesce;
mod control;
pub(crate) mod counters;
mod egress;
mod esp;
mod forward;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod gre;
mod icmp;
mod ingress;
pub(crate) mod ip;
pub(crate) mod limit;
mod outbox;
#[doc(hidden)]
pub mod parts;
mod peers;
mod segment;
mod socket;
pub(crate) mod tun;
mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use ipnet::IpNet;
use overlay::desired::{Desired, Event, PeerCounters, PeerId};
use tokio::sync::{mpsc, watch};

use crate::Error;
use crate::netlink::Kernel;
use control::Control;
use counters::{Drops, Reason};
use forward::Forwarding;
use gre::{Headers, Protocol};
use limit::Gate;
use outbox::Outbox;
use peers::Path;
use socket::Sockets;
use tun::Tun;
use worker::{Lane, Share, Worker};

pub use esp::{CIPHERS as ESP_CIPHERS, aes_in_hardware};
pub use worker::MOST_WORKERS;

/// What the userspace data plane is told at its start.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of the tunnel device, 1 to 15 bytes.
    pub interface: String,
    /// Own tunnel addresses with their prefix lengths.
    pub addresses: Vec<IpNet>,
    /// MTU of the tunnel device; `None`: what [`crate::tunnel_mtu`] makes of the underlay's.
    pub mtu: Option<u16>,
    /// MTU of the underlay.
    pub underlay_mtu: u16,
    /// GRE key.
    pub key: Option<u32>,
    /// UDP port for IKE, WireGuard and ESP in UDP.
    pub port: u16,
    /// GRE in clear (`security: none`): no UDP at all.
    pub clear: bool,
    /// Own NBMA address where it is known: it stands in the GRE packets inside the encryption.
    pub source: Option<IpAddr>,
    /// Send from `source` even where the kernel would choose another own address (a loopback
    /// address, for example).
    pub bind_source: bool,
    /// Underlay device that carries everything; needs CAP_NET_RAW.
    pub device: Option<String>,
    /// WireGuard keepalive in seconds: holds mappings of address translators open.
    pub keepalive: Option<u16>,
    /// How long what a former run left in the kernel may wait for its peers (kernel data plane).
    pub grace: Duration,
    /// Packets sent after which an ESP path should get new keys; without extended sequence numbers they end at 2³².
    pub rekey_packets: u64,
    /// Threads that seal, and as many that open, from 1 to [`MOST_WORKERS`]; `None`: as many as the processors that
    /// this process may use are worth (userspace data plane).
    pub workers: Option<usize>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            interface: "dmvpn0".into(),
            addresses: Vec::new(),
            mtu: None,
            underlay_mtu: 1500,
            key: None,
            port: 4500,
            clear: false,
            source: None,
            bind_source: false,
            device: None,
            keepalive: Some(20),
            grace: Duration::from_secs(60),
            rekey_packets: 3 << 30,
            workers: None,
        }
    }
}

/// Stack of a packet thread; their buffers are on the heap.
const STACK: usize = 256 << 10;

/// A running userspace data plane.
#[derive(Debug)]
pub struct Userspace {
    core: Arc<Core>,
    threads: Vec<std::thread::JoinHandle<()>>,
    kernel: Kernel,
    index: u32,
    routes: watch::Sender<BTreeSet<IpNet>>,
}

/// What the threads and the handle share.
pub(crate) struct Core {
    pub config: Config,
    pub tun: Tun,
    pub sockets: Arc<Sockets>,
    pub snapshot: ArcSwap<Snapshot>,
    /// What no packet thread counted.
    pub drops: Arc<Drops>,
    pub events: mpsc::Sender<Event>,
    pub start: Instant,
    control: Mutex<Control>,
    /// What strangers may ask for, whichever thread hears it.
    gate: Mutex<Gate>,
    stopping: AtomicBool,
    /// Of the threads that seal, and then of those that open.
    lanes: Vec<Lane>,
}

/// What the packet threads look things up in; never changed, only replaced.
pub(crate) struct Snapshot {
    pub forwarding: Forwarding<Arc<Path>>,
    pub paths: BTreeMap<PeerId, Arc<Path>>,
    /// WireGuard sessions by the upper 24 bits of their receiver indexes.
    pub by_index: BTreeMap<u32, Arc<Path>>,
    /// ESP sessions by the SPIs of their inbound SAs.
    pub by_spi: BTreeMap<u32, Arc<Path>>,
    /// WireGuard sessions by the endpoints that the control plane knows; several while keys are renewed.
    pub by_endpoint: BTreeMap<SocketAddr, Vec<Arc<Path>>>,
    /// Clear paths by NBMA address.
    pub by_address: BTreeMap<IpAddr, Arc<Path>>,
    pub multicast: Vec<Arc<Path>>,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Core {
    /// Reports without waiting; `false` when the queue is full.
    pub(crate) fn event(&self, event: Event) -> bool {
        let taken = self.events.try_send(event).is_ok();
        if !taken {
            self.drops.count(Reason::EventQueue);
        }
        taken
    }

    pub(crate) fn stopping(&self) -> bool {
        self.stopping.load(Relaxed)
    }

    /// Own tunnel address of one family.
    pub(crate) fn own_address(&self, v4: bool) -> Option<IpAddr> {
        self.config.addresses.iter().map(IpNet::addr).find(|address| address.is_ipv4() == v4)
    }

    pub(crate) fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn control(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The prefixes for which the kernel has routes that do not lead into the tunnel.
    pub(crate) fn set_local(&self, local: BTreeSet<IpNet>) {
        let mut control = self.control();
        if control.local != local {
            control.local = local;
            self.snapshot.store(Arc::new(control.snapshot(&self.config)));
        }
    }

    fn wake(&self) {
        self.lanes.iter().for_each(Lane::wake);
    }
}

impl Userspace {
    /// Makes the tunnel device, binds the socket and starts the packet threads. If this process is
    /// killed, the device stays with its addresses and routes, so that what was to be encrypted is
    /// dropped instead of going elsewhere; the next start takes it over. `events` should
    /// hold some hundred: what does not fit is dropped and counted, but for [`Event::Up`],
    /// [`Event::Down`] and [`Event::Moved`], which are said again.
    ///
    /// # Errors
    /// What is missing or taken; nothing is left behind then.
    pub async fn start(config: Config, events: mpsc::Sender<Event>) -> Result<Self, Error> {
        let device = config.device.as_deref();
        let sockets = Arc::new(if config.clear {
            Sockets::gre(device)?
        } else {
            Sockets::udp(config.port, device)?
        });
        let bound = config.source.filter(|_| config.bind_source);
        sockets.underlay_changed(bound, config.underlay_mtu, device);
        let kernel = Kernel::connect()?;
        // Queues can be added to a device that another process has.
        if kernel.is_in_use(&config.interface).await {
            return Err(Error::InterfaceExists(config.interface));
        }
        let tun = Tun::create(&config.interface)?;
        let control = Control::new(config.source, config.underlay_mtu);
        let index = kernel
            .configure(&config.interface, &config.addresses, control.device_mtu(&config))
            .await?;
        let workers = config.workers.unwrap_or_else(worker::by_processors).max(1);
        let sealing = workers.min(tun.queues().count());
        let opening = workers.min(sockets.queues());
        let lanes = std::iter::repeat_with(Lane::new).take(sealing + opening);
        let lanes = lanes.collect::<Result<Vec<_>, _>>()?;
        for (queue, fd) in tun.queues().enumerate() {
            lanes[queue % sealing].watch(fd, queue)?;
        }
        for (queue, (place, socket)) in sockets.iter().enumerate() {
            lanes[sealing + place % opening].watch(socket.as_fd(), queue)?;
        }
        let core = Arc::new(Core {
            tun,
            sockets,
            snapshot: ArcSwap::from_pointee(control.snapshot(&config)),
            drops: Arc::default(),
            events,
            start: Instant::now(),
            control: Mutex::new(control),
            gate: Mutex::new(Gate::new(Instant::now())),
            stopping: AtomicBool::new(false),
            lanes,
            config,
        });
        let (routes, desired) = watch::channel(BTreeSet::new());
        let mut this = Self { core: core.clone(), threads: Vec::new(), kernel, index, routes };
        this.kernel.keep_routes(index, desired, Arc::downgrade(&core)).await?;
        for place in 0..sealing {
            this.spawn("egress", egress::run, Share { place, of: sealing })?;
        }
        for place in 0..opening {
            this.spawn("ingress", ingress::run, Share { place, of: opening })?;
        }
        this.core.tun.set_persistent(true);
        Ok(this)
    }

    /// Starts the next thread.
    fn spawn(&mut self, kind: &str, run: fn(Worker<'_>), share: Share) -> Result<(), Error> {
        let core = self.core.clone();
        let number = self.threads.len();
        let name = format!("dp-{kind}-{}", share.place);
        let thread = std::thread::Builder::new().name(name).stack_size(STACK);
        let thread = thread.spawn(move || {
            run(Worker { core: &core, lane: &core.lanes[number], number, share });
        });
        self.threads.push(thread.map_err(Error::Thread)?);
        Ok(())
    }

    /// Compares with what is, and repairs the difference. Cheap where little changed; kernel
    /// routes follow a moment later.
    pub fn apply(&self, desired: &Desired) {
        let core = &*self.core;
        let mut outbox = Outbox::small(core.sockets.clone(), core.drops.clone());
        let mut control = core.control();
        if !control.apply(&core.config, desired) {
            return;
        }
        core.snapshot.store(Arc::new(control.snapshot(&core.config)));
        control.start_sessions(&mut outbox);
        drop(control);
        self.routes.send_if_modified(|routes| {
            let changed = *routes != desired.routes;
            if changed {
                routes.clone_from(&desired.routes);
            }
            changed
        });
        core.wake();
    }

    /// The underlay's address or MTU is another one.
    pub async fn set_underlay(&self, source: Option<IpAddr>, mtu: u16) {
        let core = &*self.core;
        let device = core.config.device.as_deref();
        let bound = source.filter(|_| core.config.bind_source);
        core.sockets.underlay_changed(bound, mtu, device);
        let device_mtu = {
            let mut control = core.control();
            control.set_underlay(source, mtu);
            core.snapshot.store(Arc::new(control.snapshot(&core.config)));
            control.device_mtu(&core.config)
        };
        if let Err(error) =
            self.kernel.set_mtu(&core.config.interface, self.index, device_mtu).await
        {
            tracing::warn!("{error}");
        }
    }

    /// MTU of the tunnel device in bytes.
    pub fn mtu(&self) -> u16 {
        self.core.control().device_mtu(&self.core.config)
    }

    /// Sends an IKE message (the non-ESP marker is added here); not with `security: none`, and
    /// from no other port than the one of this data plane.
    pub fn send_ike(&self, port: u16, to: SocketAddr, datagram: &[u8]) {
        if self.core.config.clear || port != self.core.config.port {
            return self.core.drops.count(Reason::SendFailed);
        }
        // RFC 3948 §2.2
        let mut message = vec![0; 4];
        message.extend_from_slice(datagram);
        if let Err(error) = self.core.sockets.send(to, 0, &message, None) {
            tracing::debug!("IKE to {to}: {error}");
            self.core.drops.count(Reason::SendFailed);
        }
    }

    /// Sends an NHRP packet (ar$afn first) to a peer.
    pub fn send_nhrp(&self, peer: PeerId, packet: &[u8]) {
        let core = &*self.core;
        let snapshot = core.snapshot.load();
        let Some(path) = snapshot.paths.get(&peer) else {
            return core.drops.count(Reason::UnknownPeer);
        };
        let mut outbox = Outbox::small(core.sockets.clone(), core.drops.clone());
        let mut scratch = vec![0; packet.len() + 64];
        if let Err(reason) = path.send(Protocol::Nhrp, packet, &mut scratch, &mut outbox) {
            core.drops.count(reason);
        }
    }

    /// Sends an NHRP packet to a node that is no peer yet; only with `security: none`.
    pub fn send_nhrp_clear(&self, to: IpAddr, packet: &[u8]) {
        let core = &*self.core;
        if !core.config.clear {
            return core.drops.count(Reason::SendFailed);
        }
        let headers = Headers::new(None, core.config.key);
        let mut message = vec![0; headers.len()];
        headers.write(&mut message, Protocol::Nhrp, packet.len());
        message.extend_from_slice(packet);
        if core.sockets.send(SocketAddr::new(to, 0), 0, &message, None).is_err() {
            core.drops.count(Reason::SendFailed);
        }
    }

    /// Counters of every path.
    pub fn counters(&self) -> BTreeMap<PeerId, PeerCounters> {
        let snapshot = self.core.snapshot.load();
        snapshot.paths.iter().map(|(&id, path)| (id, path.session.counters.read())).collect()
    }

    /// Packets that took the forwarding entry for exactly this prefix; 0 where there is none.
    pub fn packets(&self, prefix: IpNet) -> u64 {
        self.core.snapshot.load().forwarding.packets(prefix).unwrap_or(0)
    }

    /// Drops since the start, by reason.
    pub fn drops(&self) -> BTreeMap<&'static str, u64> {
        let mut sum = self.core.drops.read();
        for lane in &self.core.lanes {
            for (reason, count) in lane.drops.read() {
                *sum.entry(reason).or_default() += count;
            }
        }
        sum
    }

    /// How many threads carry packets.
    pub fn threads(&self) -> usize {
        self.threads.len()
    }

    /// What the kernel does for whole batches, in words for the log.
    pub fn offloads(&self) -> String {
        let tun = self.core.tun.offloads();
        let (gso, gro) = self.core.sockets.offloads();
        let names = [("TSO", tun.tso), ("USO", tun.uso), ("UDP GSO", gso), ("UDP GRO", gro)];
        let have: Vec<_> = names.iter().filter(|(_, have)| *have).map(|(name, _)| *name).collect();
        if have.is_empty() { "none".into() } else { have.join(", ") }
    }

    /// Takes routes and device away.
    pub async fn stop(mut self) {
        self.halt();
        for thread in std::mem::take(&mut self.threads) {
            // The threads poll their wake-up; this takes no longer than one batch.
            if thread.join().is_err() {
                tracing::error!("a packet thread panicked");
            }
        }
        self.kernel.close().await;
    }

    fn halt(&self) {
        self.core.tun.set_persistent(false);
        self.core.stopping.store(true, Relaxed);
        self.core.wake();
    }
}

impl Drop for Userspace {
    fn drop(&mut self) {
        self.halt();
    }
}

/// An address that stands for "not known" in the GRE packets inside the encryption.
const UNKNOWN: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
