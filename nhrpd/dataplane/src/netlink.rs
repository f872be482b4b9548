//! The kernel's side of the tunnel device: addresses, MTU, routes.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Weak;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::{Handle, LinkUnspec, MulticastGroup, RouteMessageBuilder};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use crate::Error;
use crate::userspace::Core;

/// Marks kernel routes as ours: the number that FRR's nhrpd has.
pub const ROUTE_PROTOCOL: u8 = 191;
/// Kernel routes to heed at most; the rest is left to the longest prefix of the overlay.
const LOCAL_ROUTES: usize = 65_536;
/// One change of a routing daemon is many notifications.
const SETTLE: Duration = Duration::from_millis(50);

/// How long a route that an owner before us left behind may wait for its peer.
const INHERITANCE: Duration = Duration::from_secs(60);

/// What the kernel answered.
pub(crate) fn errno(error: &rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other.to_string()),
    }
}

/// A connection to rtnetlink, and what runs on it.
#[derive(Debug)]
pub(crate) struct Kernel {
    handle: Handle,
    tasks: Vec<JoinHandle<()>>,
}

impl Kernel {
    pub(crate) fn connect() -> Result<Self, Error> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(Error::Netlink)?;
        Ok(Self { handle, tasks: vec![tokio::spawn(connection)] })
    }

    /// Whether somebody carries the packets of this device: a TUN device that its owner left
    /// behind has no carrier.
    pub(crate) async fn is_in_use(&self, interface: &str) -> bool {
        let request = self.handle.link().get().match_name(interface).execute();
        let Ok(Some(link)) = std::pin::pin!(request).try_next().await else { return false };
        link.attributes.contains(&LinkAttribute::Carrier(1))
    }

    /// Gives the device its addresses and MTU, and sets it up; its index.
    pub(crate) async fn configure(
        &self,
        interface: &str,
        addresses: &[IpNet],
        mtu: u16,
    ) -> Result<u32, Error> {
        let failed = |action: String| {
            move |error: rtnetlink::Error| Error::Interface {
                interface: interface.into(),
                action,
                reason: errno(&error).to_string(),
            }
        };
        let index = nix::net::if_::if_nametoindex(interface).map_err(|errno| Error::Interface {
            interface: interface.into(),
            action: "find its index".into(),
            reason: errno.to_string(),
        })?;
        // No link-local address of the kernel's own making. Absent without IPv6.
        let none = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
        let request = LinkUnspec::new_with_index(index)
            .append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![none]))
            .build();
        if let Err(error) = self.handle.link().set(request).execute().await {
            tracing::debug!("{interface}: IPv6 address generation stays: {}", errno(&error));
        }
        self.set_mtu(interface, index, mtu).await?;
        // A device that was left behind has addresses already.
        let mut missing: BTreeSet<IpNet> = addresses.iter().copied().collect();
        let former = self.handle.address().get().set_link_index_filter(index).execute();
        let former: Vec<_> =
            former.try_collect().await.map_err(failed("read its addresses".into()))?;
        for message in former {
            let length = message.header.prefix_len;
            let address = own_address(&message).and_then(|ip| IpNet::new(ip, length).ok());
            if !address.is_some_and(|address| missing.remove(&address)) {
                let request = self.handle.address().del(message);
                request.execute().await.map_err(failed("remove a former address".into()))?;
            }
        }
        for address in missing {
            let request = self.handle.address().add(index, address.addr(), address.prefix_len());
            request.execute().await.map_err(failed(format!("set address {address}")))?;
        }
        let request = LinkUnspec::new_with_index(index).up().build();
        self.handle.link().set(request).execute().await.map_err(failed("set it up".into()))?;
        Ok(index)
    }

    pub(crate) async fn set_mtu(&self, interface: &str, index: u32, mtu: u16) -> Result<(), Error> {
        let request = LinkUnspec::new_with_index(index).mtu(mtu.into()).build();
        self.handle.link().set(request).execute().await.map_err(|error| Error::Interface {
            interface: interface.into(),
            action: format!("set MTU {mtu}"),
            reason: errno(&error).to_string(),
        })
    }

    /// From now on makes the kernel's routes through the device those that are desired, and
    /// tells the packet threads what the kernel routes elsewhere. When this returns, they know.
    pub(crate) async fn keep_routes(
        &mut self,
        index: u32,
        desired: watch::Receiver<BTreeSet<IpNet>>,
        core: Weak<Core>,
    ) -> Result<(), Error> {
        let groups = [MulticastGroup::Ipv4Route, MulticastGroup::Ipv6Route];
        let (connection, _, messages) =
            rtnetlink::new_multicast_connection(&groups).map_err(Error::Netlink)?;
        self.tasks.push(tokio::spawn(connection));
        let mut routes = Routes {
            handle: self.handle.clone(),
            index,
            core,
            failed: BTreeMap::new(),
            inherited: BTreeSet::new(),
        };
        routes.inherited = routes.read().await.into_keys().collect();
        self.tasks.push(tokio::spawn(routes.run(desired, messages)));
        Ok(())
    }

    /// Ends what runs; the routes go with the device.
    pub(crate) async fn close(&mut self) {
        for task in self.tasks.drain(..).rev() {
            task.abort();
            let _ = task.await;
        }
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

struct Routes {
    handle: Handle,
    index: u32,
    core: Weak<Core>,
    /// What could not be installed and why, so that it is said once.
    failed: BTreeMap<IpNet, String>,
    /// Left behind by an owner that was killed. They stay until their peers had time to come back:
    /// without them the packets would take another way, in clear text.
    inherited: BTreeSet<IpNet>,
}

impl Routes {
    async fn run<M>(
        mut self,
        mut desired: watch::Receiver<BTreeSet<IpNet>>,
        mut messages: impl StreamExt<Item = M> + Unpin,
    ) {
        let settled = Instant::now() + INHERITANCE;
        loop {
            tokio::select! {
                changed = desired.changed() => if changed.is_err() { return },
                // A lost notification comes as a message too (overrun).
                message = messages.next() => {
                    if message.is_none() { return }
                    sleep(SETTLE).await;
                    while let Some(Some(_)) = futures_util::FutureExt::now_or_never(messages.next()) {}
                }
                () = sleep_until(settled), if !self.inherited.is_empty() => self.inherited.clear(),
            }
            let wanted = desired.borrow_and_update().clone();
            self.repair(&wanted).await;
        }
    }

    /// Tells the packet threads what the kernel routes elsewhere; gives the routes that are ours.
    async fn read(&self) -> BTreeMap<IpNet, RouteMessage> {
        let mut ours = BTreeMap::new();
        let mut local = BTreeSet::new();
        let v4 = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let v6 = RouteMessageBuilder::<Ipv6Addr>::new().build();
        for request in [v4, v6] {
            let mut routes = std::pin::pin!(self.handle.route().get(request).execute());
            while let Ok(Some(route)) = routes.try_next().await {
                let Some(prefix) = destination(&route) else { continue };
                let here = route.attributes.contains(&RouteAttribute::Oif(self.index));
                if here && route.header.protocol == RouteProtocol::Other(ROUTE_PROTOCOL) {
                    ours.insert(prefix, route);
                } else if is_local(&route, here, prefix) && local.len() < LOCAL_ROUTES {
                    local.insert(prefix);
                }
            }
        }
        if let Some(core) = self.core.upgrade() {
            core.set_local(local);
        }
        ours
    }

    async fn repair(&mut self, wanted: &BTreeSet<IpNet>) {
        let ours = self.read().await;
        self.inherited.retain(|prefix| !wanted.contains(prefix));
        for (prefix, route) in &ours {
            if !wanted.contains(prefix)
                && !self.inherited.contains(prefix)
                && let Err(error) = self.handle.route().del(route.clone()).execute().await
            {
                tracing::warn!("cannot remove route {prefix}: {}", errno(&error));
            }
        }
        self.failed.retain(|prefix, _| wanted.contains(prefix));
        for &prefix in wanted {
            if ours.contains_key(&prefix) {
                self.failed.remove(&prefix);
                continue;
            }
            match self.handle.route().add(self.route(prefix)).execute().await {
                Ok(()) => drop(self.failed.remove(&prefix)),
                Err(error) => {
                    let error = errno(&error);
                    let reason = match error.raw_os_error() {
                        Some(libc::EEXIST) => {
                            "another route for it exists already (ip route show)".into()
                        }
                        _ => error.to_string(),
                    };
                    if self.failed.insert(prefix, reason.clone()).as_ref() != Some(&reason) {
                        tracing::warn!("cannot install route {prefix}: {reason}");
                    }
                }
            }
        }
    }

    fn route(&self, prefix: IpNet) -> RouteMessage {
        let protocol = RouteProtocol::Other(ROUTE_PROTOCOL);
        match prefix {
            IpNet::V4(net) => RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(net.network(), net.prefix_len())
                .output_interface(self.index)
                .protocol(protocol)
                .scope(RouteScope::Link)
                .build(),
            IpNet::V6(net) => RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(net.network(), net.prefix_len())
                .output_interface(self.index)
                .protocol(protocol)
                .build(),
        }
    }
}

/// The address that a device has.
pub(crate) fn own_address(message: &AddressMessage) -> Option<IpAddr> {
    let find = |local: bool| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(address) if local => Some(*address),
            AddressAttribute::Address(address) if !local => Some(*address),
            _ => None,
        })
    };
    // On a point-to-point link the other attribute is the peer's address.
    find(true).or_else(|| find(false))
}

fn destination(route: &RouteMessage) -> Option<IpNet> {
    let address = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(a)) => Some(IpAddr::V4(*a)),
        RouteAttribute::Destination(RouteAddress::Inet6(a)) => Some(IpAddr::V6(*a)),
        _ => None,
    });
    let address = address.or(match route.header.address_family {
        AddressFamily::Inet => Some(Ipv4Addr::UNSPECIFIED.into()),
        AddressFamily::Inet6 => Some(Ipv6Addr::UNSPECIFIED.into()),
        _ => None,
    })?;
    IpNet::new(address, route.header.destination_prefix_length).ok()
}

/// Whether the kernel takes packets for that prefix, or sends them elsewhere than into the
/// tunnel. A default route says nothing of what is behind this node.
fn is_local(route: &RouteMessage, here: bool, prefix: IpNet) -> bool {
    match route.header.kind {
        RouteType::Local => true,
        RouteType::Unicast
        | RouteType::BlackHole
        | RouteType::Unreachable
        | RouteType::Prohibit => !here && prefix.prefix_len() > 0,
        _ => false,
    }
}
