//! Watches the underlay: which NBMA address this node has now, and the MTU.

use std::net::IpAddr;

use futures_util::{FutureExt, StreamExt, TryStreamExt, stream::BoxStream};
use netlink_packet_route::address::{AddressHeaderFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::{Handle, MulticastGroup};
use tokio::task::JoinHandle;

use crate::Error;
use crate::netlink::{errno, own_address};

/// What the tunnel's source is, as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The first address of a device: global and not deprecated, IPv4 before IPv6.
    Device(String),
    /// This address, on whichever device it is.
    Address(IpAddr),
}

/// What the underlay is at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Underlay {
    /// Own NBMA address; `None` while the device is absent or down, or has no address.
    pub address: Option<IpAddr>,
    /// MTU of the device, in bytes.
    pub mtu: u16,
}

/// A watch over the underlay.
pub struct Watch {
    source: Source,
    handle: Handle,
    notifications: BoxStream<'static, ()>,
    tasks: [JoinHandle<()>; 2],
    /// Something happened since the underlay was read.
    dirty: bool,
    last: Option<Underlay>,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("source", &self.source).finish_non_exhaustive()
    }
}

impl Watch {
    /// Begins to watch.
    ///
    /// # Errors
    /// No netlink socket.
    pub fn start(source: Source) -> Result<Self, Error> {
        let (requests, handle, _) = rtnetlink::new_connection().map_err(Error::Netlink)?;
        let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
        let (monitor, _, messages) =
            rtnetlink::new_multicast_connection(&groups).map_err(Error::Netlink)?;
        Ok(Self {
            source,
            handle,
            // A lost notification (overrun) comes as a message too.
            notifications: messages.map(drop).boxed(),
            tasks: [tokio::spawn(requests), tokio::spawn(monitor)],
            dirty: true,
            last: None,
        })
    }

    /// The underlay as it is now, at the first call; then, each time, what it became. May be
    /// cancelled without losing a change.
    pub async fn changed(&mut self) -> Underlay {
        loop {
            if self.dirty {
                let now = self.read().await;
                self.dirty = false;
                if self.last.as_ref() != Some(&now) {
                    self.last = Some(now.clone());
                    return now;
                }
            }
            if self.notifications.next().await.is_none() {
                // The netlink task ended, as it does with the runtime only.
                std::future::pending::<()>().await;
            }
            while let Some(Some(())) = self.notifications.next().now_or_never() {}
            self.dirty = true;
        }
    }

    async fn read(&self) -> Underlay {
        let absent = Underlay { address: None, mtu: 1500 };
        let links = match &self.source {
            Source::Device(name) => self.links(Some(name)).await,
            Source::Address(_) => self.links(None).await,
        };
        let mut best: Option<(bool, usize, &LinkMessage, IpAddr)> = None;
        let addresses = self.addresses().await;
        for (place, address) in addresses.iter().enumerate() {
            let link = links.iter().find(|link| link.header.index == address.header.index);
            let (Some(link), Some(ip)) = (link, usable(address)) else { continue };
            let wanted = match self.source {
                Source::Address(wanted) => wanted == ip,
                Source::Device(_) => address.header.scope == AddressScope::Universe,
            };
            let rank = (ip.is_ipv6(), place);
            if wanted && best.is_none_or(|(v6, place, ..)| rank < (v6, place)) {
                best = Some((rank.0, rank.1, link, ip));
            }
        }
        let Some((_, _, link, address)) = best else {
            return Underlay { mtu: links.first().and_then(mtu).unwrap_or(absent.mtu), ..absent };
        };
        let up = link.header.flags.contains(LinkFlags::Up);
        Underlay { address: up.then_some(address), mtu: mtu(link).unwrap_or(absent.mtu) }
    }

    async fn links(&self, name: Option<&str>) -> Vec<LinkMessage> {
        let mut request = self.handle.link().get();
        if let Some(name) = name {
            request = request.match_name(name);
        }
        match request.execute().try_collect().await {
            Ok(links) => links,
            Err(error) => {
                tracing::debug!("underlay: {}", errno(&error));
                Vec::new()
            }
        }
    }

    async fn addresses(&self) -> Vec<AddressMessage> {
        match self.handle.address().get().execute().try_collect().await {
            Ok(addresses) => addresses,
            Err(error) => {
                tracing::warn!("cannot read addresses: {}", errno(&error));
                Vec::new()
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

fn mtu(link: &LinkMessage) -> Option<u16> {
    link.attributes.iter().find_map(|attribute| match attribute {
        // The loopback device has 65536.
        LinkAttribute::Mtu(mtu) => Some(u16::try_from(*mtu).unwrap_or(u16::MAX)),
        _ => None,
    })
}

/// The address, where it may be used as a source now.
fn usable(message: &AddressMessage) -> Option<IpAddr> {
    let unusable = AddressHeaderFlags::Tentative
        | AddressHeaderFlags::Dadfailed
        | AddressHeaderFlags::Deprecated;
    if message.header.flags.intersects(unusable) {
        return None;
    }
    own_address(message)
}
