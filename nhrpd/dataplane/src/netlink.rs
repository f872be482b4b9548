//! The kernel's side of the tunnel device: addresses, MTU, routes.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Weak;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::link::{AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::{Handle, LinkUnspec, MulticastGroup, RouteMessageBuilder};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::Error;
use crate::userspace::Core;

/// Marks kernel routes as ours: the number that FRR's nhrpd has.
pub const ROUTE_PROTOCOL: u8 = 191;
/// Kernel routes to heed at most; the rest is left to the longest prefix of the overlay.
const LOCAL_ROUTES: usize = 65_536;
/// One change of a routing daemon is many notifications.
const SETTLE: Duration = Duration::from_millis(50);

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
        for address in addresses {
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
        let mut routes =
            Routes { handle: self.handle.clone(), index, core, failed: BTreeMap::new() };
        routes.repair(&BTreeSet::new()).await;
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
}

impl Routes {
    async fn run<M>(
        mut self,
        mut desired: watch::Receiver<BTreeSet<IpNet>>,
        mut messages: impl StreamExt<Item = M> + Unpin,
    ) {
        loop {
            tokio::select! {
                changed = desired.changed() => if changed.is_err() { return },
                // A lost notification comes as a message too (overrun).
                message = messages.next() => {
                    if message.is_none() { return }
                    tokio::time::sleep(SETTLE).await;
                    while let Some(Some(_)) = futures_util::FutureExt::now_or_never(messages.next()) {}
                }
            }
            let wanted = desired.borrow_and_update().clone();
            self.repair(&wanted).await;
        }
    }

    async fn repair(&mut self, wanted: &BTreeSet<IpNet>) {
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
        let Some(core) = self.core.upgrade() else { return };
        core.set_local(local);
        drop(core);
        for (prefix, route) in &ours {
            if !wanted.contains(prefix)
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
