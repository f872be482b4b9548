//! Either data plane behind one interface.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::BorrowedFd;

use ipnet::IpNet;
use overlay::desired::{Changes, Desired, EspCipher, Event, PeerCounters, PeerId};
use tokio::sync::mpsc;

use crate::userspace::ESP_CIPHERS;
use crate::{Config, Error, Kernel, Userspace};

/// A running data plane.
#[derive(Debug)]
pub enum DataPlane {
    /// In the kernel.
    Kernel(Kernel),
    /// In this process.
    Userspace(Userspace),
}

macro_rules! either {
    ($self:ident, $plane:ident => $call:expr) => {
        match $self {
            Self::Kernel($plane) => $call,
            Self::Userspace($plane) => $call,
        }
    };
}

/// Ciphers of ESP that the kernel data plane has, or the one in this process; the preferred first.
pub fn esp_ciphers(kernel: bool) -> &'static [EspCipher] {
    if kernel { &EspCipher::ALL } else { &ESP_CIPHERS }
}

impl DataPlane {
    /// Starts the data plane in the kernel.
    ///
    /// # Errors
    /// As [`Kernel::start`].
    pub async fn kernel(
        config: Config,
        kept: Option<UdpSocket>,
        events: mpsc::Sender<Event>,
    ) -> Result<Self, Error> {
        Kernel::start(config, kept, events).await.map(Self::Kernel)
    }

    /// Starts that of this process.
    ///
    /// # Errors
    /// As [`Userspace::start`].
    pub async fn userspace(config: Config, events: mpsc::Sender<Event>) -> Result<Self, Error> {
        Userspace::start(config, events).await.map(Self::Userspace)
    }

    /// What is to be held open while this process restarts: [`Kernel::socket`].
    pub fn socket(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Kernel(plane) => plane.socket(),
            Self::Userspace(_) => None,
        }
    }

    /// Ciphers of ESP, the preferred first.
    pub fn esp_ciphers(&self) -> &'static [EspCipher] {
        esp_ciphers(matches!(self, Self::Kernel(_)))
    }

    /// Brings about the desired state, which differs from the last one by `changes` at most.
    pub fn apply(&self, desired: &Desired, changes: &Changes) {
        match self {
            Self::Kernel(plane) => plane.apply(desired, changes),
            Self::Userspace(plane) => plane.apply(desired),
        }
    }

    /// The underlay's address or MTU is another one.
    pub async fn set_underlay(&self, source: Option<IpAddr>, mtu: u16) {
        either!(self, plane => plane.set_underlay(source, mtu).await);
    }

    /// Waits until the data plane cannot go on; why.
    pub async fn failed(&self) -> Error {
        match self {
            Self::Kernel(plane) => plane.failed().await,
            Self::Userspace(_) => std::future::pending().await,
        }
    }

    /// MTU of the tunnel device in bytes.
    pub fn mtu(&self) -> u16 {
        either!(self, plane => plane.mtu())
    }

    /// Sends an IKE message (the non-ESP marker is added here); not with `security: none`, and
    /// from no other port than the configured one.
    pub fn send_ike(&self, port: u16, to: SocketAddr, datagram: &[u8]) {
        either!(self, plane => plane.send_ike(port, to, datagram));
    }

    /// Sends an NHRP packet (ar$afn first) to a peer.
    pub fn send_nhrp(&self, peer: PeerId, packet: &[u8]) {
        either!(self, plane => plane.send_nhrp(peer, packet));
    }

    /// Sends an NHRP packet to a node that is no peer yet; only with `security: none`.
    pub fn send_nhrp_clear(&self, to: IpAddr, packet: &[u8]) {
        either!(self, plane => plane.send_nhrp_clear(to, packet));
    }

    /// Counters of every path.
    pub fn counters(&self) -> BTreeMap<PeerId, PeerCounters> {
        either!(self, plane => plane.counters())
    }

    /// Packets that took the forwarding entry for exactly this prefix; 0 where there is none.
    pub fn packets(&self, prefix: IpNet) -> u64 {
        either!(self, plane => plane.packets(prefix))
    }

    /// Drops since the start, by reason.
    pub fn drops(&self) -> BTreeMap<&'static str, u64> {
        either!(self, plane => plane.drops())
    }

    /// Takes away what was made.
    pub async fn stop(self) {
        either!(self, plane => plane.stop().await);
    }
}

impl std::fmt::Display for DataPlane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Kernel(_) => f.write_str("kernel"),
            Self::Userspace(plane) => {
                write!(f, "userspace, packet threads {}, ", plane.threads())?;
                write!(f, "offloads {}", plane.offloads())
            }
        }
    }
}
