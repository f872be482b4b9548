//! The tunnel device: multipoint GRE, its addresses and parameters (rtnetlink).

use std::io;
use std::net::IpAddr;

use ipnet::IpNet;

use super::packet;
use super::route::{RTM_DELLINK, RTM_NEWLINK, address, family, octets};
use super::socket::Requests;
use super::wire::{Request, attributes, be32_at, find, u16_at, u32_at};
use crate::Error;

const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_SETNEIGHTBL: u16 = 67;
const RTM_NEWLINKPROP: u16 = 108;

const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINKINFO: u16 = 18;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_PROP_LIST: u16 = 52;
const IFLA_ALT_IFNAME: u16 = 53;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const IN6_ADDR_GEN_MODE_NONE: u8 = 1;

const IFLA_GRE_LINK: u16 = 1;
const IFLA_GRE_IFLAGS: u16 = 2;
const IFLA_GRE_OFLAGS: u16 = 3;
const IFLA_GRE_IKEY: u16 = 4;
const IFLA_GRE_OKEY: u16 = 5;
const IFLA_GRE_LOCAL: u16 = 6;
const IFLA_GRE_REMOTE: u16 = 7;
const IFLA_GRE_TTL: u16 = 8;
const IFLA_GRE_PMTUDISC: u16 = 10;
const GRE_KEY: u16 = 0x2000;
const KIND: &str = "gre";
/// Begins the alternative name of a device that we made.
const MARK: &str = "nhrpd-";
/// Fixed: with the inner one, a routing protocol's hello of TTL 1 would end at the next router.
const TTL: u8 = 64;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const IFA_F_NODAD: u32 = 2;

const NDTA_NAME: u16 = 1;
const NDTA_PARMS: u16 = 6;
const NDTPA_IFINDEX: u16 = 1;
const NDTPA_APP_PROBES: u16 = 9;
const NDTPA_UCAST_PROBES: u16 = 10;
const NDTPA_MCAST_PROBES: u16 = 11;
const NDTPA_MCAST_REPROBES: u16 = 17;

/// What makes the device what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Gre {
    pub key: Option<u32>,
    /// Own NBMA address; `None`: whichever the route to the peer gives.
    pub local: Option<IpAddr>,
    /// Index of the device of the underlay that carries everything, where it is to be one.
    pub link: Option<u32>,
}

/// A device that is there.
#[derive(Debug)]
pub(crate) struct Found {
    pub index: u32,
    /// `None`: it is something else than multipoint GRE.
    pub gre: Option<Gre>,
    pub mtu: u32,
    /// A daemon like this one made it.
    pub ours: bool,
}

fn failed(interface: &str, action: &str) -> impl FnOnce(io::Error) -> Error {
    move |error| Error::Interface {
        interface: interface.into(),
        action: action.into(),
        reason: error.to_string(),
    }
}

/// struct ifinfomsg
fn link(kind: u16, flags: i32, index: u32, set: i32, change: i32) -> Request {
    Request::new(kind, flags)
        .raw(&[0; 4])
        .raw(&index.to_ne_bytes())
        .raw(&set.to_ne_bytes())
        .raw(&change.to_ne_bytes())
}

/// The device of that name.
pub(crate) fn find_device(kernel: &Requests, name: &str) -> Result<Option<Found>, Error> {
    let Ok(index) = nix::net::if_::if_nametoindex(name) else { return Ok(None) };
    let messages = kernel
        .dump(link(RTM_GETLINK, libc::NLM_F_DUMP, 0, 0, 0))
        .map_err(failed(name, "find it"))?;
    Ok(messages.iter().filter_map(|message| found(message)).find(|found| found.index == index))
}

fn found(message: &[u8]) -> Option<Found> {
    let index = u32_at(message, 4)?;
    let rest = message.get(16..)?;
    let mtu = find(rest, IFLA_MTU).and_then(|mtu| u32_at(mtu, 0)).unwrap_or_default();
    let gre = find(rest, IFLA_LINKINFO).and_then(|info| {
        let kind = find(info, IFLA_INFO_KIND)?;
        let data = find(info, IFLA_INFO_DATA)?;
        let whose = |kind| find(data, kind).and_then(address).filter(|a| !a.is_unspecified());
        let multipoint = kind.strip_suffix(b"\0").unwrap_or(kind) == KIND.as_bytes()
            && whose(IFLA_GRE_REMOTE).is_none();
        multipoint.then(|| {
            let keyed = find(data, IFLA_GRE_IFLAGS)
                .and_then(|flags| u16_at(flags, 0))
                .is_some_and(|flags| u16::from_be(flags) & GRE_KEY != 0);
            let key = find(data, IFLA_GRE_IKEY).and_then(|key| be32_at(key, 0));
            let link = find(data, IFLA_GRE_LINK).and_then(|link| u32_at(link, 0));
            Gre {
                key: key.filter(|_| keyed),
                local: whose(IFLA_GRE_LOCAL),
                link: link.filter(|&link| link != 0),
            }
        })
    });
    let ours = find(rest, IFLA_PROP_LIST).is_some_and(|list| {
        let mut names = attributes(list).filter(|(kind, _)| *kind == IFLA_ALT_IFNAME);
        names.any(|(_, name)| name.starts_with(MARK.as_bytes()))
    });
    Some(Found { index, gre, mtu, ours })
}

fn gre_data(request: Request, gre: &Gre) -> Request {
    request.nest(IFLA_LINKINFO, |info| {
        info.put(IFLA_INFO_KIND, KIND.as_bytes()).nest(IFLA_INFO_DATA, |mut data| {
            if let Some(key) = gre.key {
                data = data
                    .put(IFLA_GRE_IFLAGS, &GRE_KEY.to_be_bytes())
                    .put(IFLA_GRE_OFLAGS, &GRE_KEY.to_be_bytes())
                    .put_be32(IFLA_GRE_IKEY, key)
                    .put_be32(IFLA_GRE_OKEY, key);
            }
            if let Some(local) = gre.local {
                data = data.put(IFLA_GRE_LOCAL, &octets(local));
            }
            if let Some(link) = gre.link {
                data = data.put_u32(IFLA_GRE_LINK, link);
            }
            // Not of the tunnel's own: the outer packet takes "don't fragment" from the inner
            // one, so that whoever can hear of a smaller path does, and others get fragments.
            data.put(IFLA_GRE_TTL, &[TTL]).put(IFLA_GRE_PMTUDISC, &[0])
        })
    })
}

/// Makes the device; it is down.
pub(crate) fn create(kernel: &Requests, name: &str, gre: &Gre, mtu: u16) -> Result<u32, Error> {
    let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    let request =
        link(RTM_NEWLINK, flags, 0, 0, 0).put_text(IFLA_IFNAME, name).put_u32(IFLA_MTU, mtu.into());
    kernel.execute(gre_data(request, gre)).map_err(|error| match error.raw_os_error() {
        Some(libc::EEXIST) => Error::Interface {
            interface: name.into(),
            action: "make it".into(),
            reason: "another GRE device has the same key and source (ip -d link show type gre): \
                     remove it, or set another `tunnel.key`"
                .into(),
        },
        _ => failed(name, "make it")(error),
    })?;
    let index = nix::net::if_::if_nametoindex(name)
        .map_err(|errno| failed(name, "find it")(errno.into()))?;
    // So the next run knows, and whoever lists the devices sees, whose it is.
    let mark = link(RTM_NEWLINKPROP, libc::NLM_F_CREATE | libc::NLM_F_EXCL, index, 0, 0)
        .nest(IFLA_PROP_LIST, |list| list.put_text(IFLA_ALT_IFNAME, &format!("{MARK}{name}")));
    kernel.execute(mark).map_err(failed(name, "give it an alternative name"))?;
    Ok(index)
}

/// Makes a device and takes it away; also one that somebody was killed over.
pub(crate) fn try_create(kernel: &Requests, name: &str, gre: &Gre) -> io::Result<()> {
    let create = || {
        let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        let request = link(RTM_NEWLINK, flags, 0, 0, 0).put_text(IFLA_IFNAME, name);
        kernel.execute(gre_data(request, gre))
    };
    let remove = || kernel.execute(link(RTM_DELLINK, 0, 0, 0, 0).put_text(IFLA_IFNAME, name));
    match create() {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
            remove()?;
            create()?;
        }
        result => result?,
    }
    remove()
}

/// Gives the device another source address.
pub(crate) fn change(
    kernel: &Requests,
    name: &str,
    index: u32,
    gre: &Gre,
    mtu: u16,
) -> Result<(), Error> {
    let request = link(RTM_NEWLINK, 0, index, 0, 0).put_u32(IFLA_MTU, mtu.into());
    kernel.execute(gre_data(request, gre)).map_err(failed(name, "change its source address"))
}

pub(crate) fn remove(kernel: &Requests, name: &str, index: u32) -> Result<(), Error> {
    kernel.execute(link(RTM_DELLINK, 0, index, 0, 0)).map_err(failed(name, "remove it"))
}

pub(crate) fn set_mtu(kernel: &Requests, name: &str, index: u32, mtu: u16) -> Result<(), Error> {
    let request = link(RTM_SETLINK, 0, index, 0, 0).put_u32(IFLA_MTU, mtu.into());
    kernel.execute(request).map_err(failed(name, &format!("set MTU {mtu}")))
}

/// Everything but its GRE parameters: what is right already is left alone.
pub(crate) fn configure(
    kernel: &Requests,
    name: &str,
    index: u32,
    addresses: &[IpNet],
) -> Result<(), Error> {
    // No link-local address of the kernel's own making. Absent without IPv6.
    let none = link(RTM_SETLINK, 0, index, 0, 0).nest(IFLA_AF_SPEC, |families| {
        families.nest(libc::AF_INET6 as u16, |inet6| {
            inet6.put(IFLA_INET6_ADDR_GEN_MODE, &[IN6_ADDR_GEN_MODE_NONE])
        })
    });
    if let Err(error) = kernel.execute(none) {
        tracing::debug!("{name}: IPv6 address generation stays: {error}");
    }
    for table in ["arp_cache", "ndisc_cache"] {
        if let Err(error) = kernel.execute(ask_us(table, index)) {
            tracing::debug!("{name}: {table}: {error}");
        }
    }
    // GRO looks at no mark, and what it merges meets our rules as one packet, by the mark of the first.
    // It merges only what has the same outer header, so that off costs nothing.
    if let Err(error) = packet::keep_apart(name) {
        tracing::warn!("{name}: cannot turn GRO off: {error}");
    }
    let missing = own_addresses(kernel, name, index, addresses)?;
    let flags = libc::IFF_UP | libc::IFF_MULTICAST;
    let request = link(RTM_SETLINK, 0, index, flags, flags | libc::IFF_NOARP);
    kernel.execute(request).map_err(failed(name, "set it up"))?;
    for address in missing {
        let request = inet(RTM_NEWADDR, libc::NLM_F_CREATE | libc::NLM_F_REPLACE, index, address);
        kernel.execute(request).map_err(failed(name, &format!("set address {address}")))?;
    }
    Ok(())
}

/// The neighbour table asks the daemon, and nobody on the link.
fn ask_us(table: &str, index: u32) -> Request {
    Request::new(RTM_SETNEIGHTBL, libc::NLM_F_REPLACE).raw(&[0; 4]).put_text(NDTA_NAME, table).nest(
        NDTA_PARMS,
        |parameters| {
            parameters
                .put_u32(NDTPA_IFINDEX, index)
                .put_u32(NDTPA_APP_PROBES, 1)
                .put_u32(NDTPA_UCAST_PROBES, 0)
                .put_u32(NDTPA_MCAST_PROBES, 0)
                .put_u32(NDTPA_MCAST_REPROBES, 0)
        },
    )
}

/// struct ifaddrmsg
fn inet(kind: u16, flags: i32, index: u32, net: IpNet) -> Request {
    Request::new(kind, flags)
        .raw(&[family(net.addr()), net.prefix_len(), 0, 0])
        .raw(&index.to_ne_bytes())
        .put(IFA_LOCAL, &octets(net.addr()))
        .put(IFA_ADDRESS, &octets(net.addr()))
        .put_u32(IFA_FLAGS, IFA_F_NODAD)
}

/// Removes addresses that are not ours; gives those of ours that are missing.
fn own_addresses(
    kernel: &Requests,
    name: &str,
    index: u32,
    addresses: &[IpNet],
) -> Result<Vec<IpNet>, Error> {
    let mut missing = addresses.to_vec();
    let request = Request::new(RTM_GETADDR, libc::NLM_F_DUMP).raw(&[0; 8]);
    for message in kernel.dump(request).map_err(failed(name, "read its addresses"))? {
        if u32_at(&message, 4) != Some(index) {
            continue;
        }
        let rest = message.get(8..).unwrap_or_default();
        let found = find(rest, IFA_LOCAL).or_else(|| find(rest, IFA_ADDRESS)).and_then(address);
        let Some(net) = found.and_then(|address| IpNet::new(address, message[1]).ok()) else {
            continue;
        };
        match missing.iter().position(|&address| address == net) {
            Some(place) => drop(missing.swap_remove(place)),
            None => kernel
                .execute(inet(RTM_DELADDR, 0, index, net))
                .map_err(failed(name, &format!("remove former address {net}")))?,
        }
    }
    Ok(missing)
}
