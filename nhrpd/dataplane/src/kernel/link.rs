//! The tunnel device: multipoint GRE, its addresses and parameters (rtnetlink).

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use ipnet::IpNet;

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
const IFLA_GRE_TOS: u16 = 9;
const IFLA_GRE_PMTUDISC: u16 = 10;
const IFLA_GRE_ENCAP_TYPE: u16 = 14;
const IFLA_GRE_COLLECT_METADATA: u16 = 18;
const GRE_CSUM: u16 = 0x8000;
const GRE_KEY: u16 = 0x2000;
const GRE_SEQ: u16 = 0x1000;
const KIND: &str = "gre";
/// Begins the alternative name of a device that we made.
const MARK: &str = "nhrpd-";

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
    pub outer: Outer,
}

/// What the outer IPv4 header gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outer {
    /// 0: that of the inner packet.
    pub ttl: u8,
    /// As the kernel has it: 1 is that of the inner packet.
    pub tos: u8,
    /// "Don't fragment" in every packet.
    pub whole: bool,
}

/// Of a device that we make.
impl Default for Outer {
    fn default() -> Self {
        Self {
            // With the inner one, a routing protocol's hello of TTL 1 would end at the next router.
            ttl: 64,
            tos: 0,
            // The outer packet takes "don't fragment" from the inner one, so that whoever can hear of a
            // smaller path does, and others get fragments.
            whole: false,
        }
    }
}

/// A device that is there.
#[derive(Debug)]
pub(crate) struct Found {
    pub index: u32,
    /// `None`: it is something else than GRE.
    pub gre: Option<Gre>,
    /// What it does and ours never do, in words.
    pub more: Vec<&'static str>,
    pub mtu: u32,
    pub flags: i32,
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
    let flags = u32_at(message, 8)? as i32;
    let rest = message.get(16..)?;
    let mtu = find(rest, IFLA_MTU).and_then(|mtu| u32_at(mtu, 0)).unwrap_or_default();
    let info = find(rest, IFLA_LINKINFO).unwrap_or_default();
    let kind = find(info, IFLA_INFO_KIND).unwrap_or_default();
    let is_gre = kind.strip_suffix(b"\0").unwrap_or(kind) == KIND.as_bytes();
    let data = find(info, IFLA_INFO_DATA).filter(|_| is_gre);
    let ours = find(rest, IFLA_PROP_LIST).is_some_and(|list| {
        let mut names = attributes(list).filter(|(kind, _)| *kind == IFLA_ALT_IFNAME);
        names.any(|(_, name)| name.starts_with(MARK.as_bytes()))
    });
    let more = data.map(more_than_ours).unwrap_or_default();
    Some(Found { index, gre: data.map(gre), more, mtu, flags, ours })
}

fn gre_flags(data: &[u8], kind: u16) -> u16 {
    find(data, kind).and_then(|flags| u16_at(flags, 0)).map_or(0, u16::from_be)
}

fn gre_key(data: &[u8], flags: u16, key: u16) -> Option<u32> {
    let key = find(data, key).and_then(|key| be32_at(key, 0));
    key.filter(|_| gre_flags(data, flags) & GRE_KEY != 0)
}

fn gre(data: &[u8]) -> Gre {
    let byte = |kind| find(data, kind).and_then(|value| value.first().copied()).unwrap_or_default();
    let local = find(data, IFLA_GRE_LOCAL).and_then(address);
    let link = find(data, IFLA_GRE_LINK).and_then(|link| u32_at(link, 0));
    Gre {
        key: gre_key(data, IFLA_GRE_IFLAGS, IFLA_GRE_IKEY),
        local: local.filter(|local| !local.is_unspecified()),
        link: link.filter(|&link| link != 0),
        outer: Outer {
            ttl: byte(IFLA_GRE_TTL),
            tos: byte(IFLA_GRE_TOS),
            whole: byte(IFLA_GRE_PMTUDISC) != 0,
        },
    }
}

fn more_than_ours(data: &[u8]) -> Vec<&'static str> {
    let flags = gre_flags(data, IFLA_GRE_IFLAGS) | gre_flags(data, IFLA_GRE_OFLAGS);
    let is_set = |kind| find(data, kind).is_some_and(|value| value.iter().any(|&byte| byte != 0));
    let keys = [(IFLA_GRE_IFLAGS, IFLA_GRE_IKEY), (IFLA_GRE_OFLAGS, IFLA_GRE_OKEY)];
    let [received, sent] = keys.map(|(flags, key)| gre_key(data, flags, key));
    let all = [
        (is_set(IFLA_GRE_REMOTE), "one peer only (remote)"),
        (flags & GRE_CSUM != 0, "checksums (csum)"),
        (flags & GRE_SEQ != 0, "sequence numbers (seq)"),
        (received != sent, "another key in than out (ikey, okey)"),
        (is_set(IFLA_GRE_ENCAP_TYPE), "an encapsulation around GRE (encap)"),
        (find(data, IFLA_GRE_COLLECT_METADATA).is_some(), "no parameters of its own (external)"),
    ];
    all.into_iter().filter(|(is, _)| *is).map(|(_, what)| what).collect()
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
            let Outer { ttl, tos, whole } = gre.outer;
            data.put(IFLA_GRE_TTL, &[ttl])
                .put(IFLA_GRE_TOS, &[tos])
                .put(IFLA_GRE_PMTUDISC, &[whole.into()])
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
    mark(kernel, name, index).map_err(failed(name, "give it an alternative name"))?;
    Ok(index)
}

/// So the next run knows, and whoever lists the devices sees, whose it is.
fn mark(kernel: &Requests, name: &str, index: u32) -> io::Result<()> {
    let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    let request = link(RTM_NEWLINKPROP, flags, index, 0, 0)
        .nest(IFLA_PROP_LIST, |list| list.put_text(IFLA_ALT_IFNAME, &format!("{MARK}{name}")));
    kernel.execute(request)
}

/// Makes a device and takes it away; also one that somebody was killed over. Inside: whether it could be
/// marked as ours.
pub(crate) fn try_create(kernel: &Requests, name: &str, gre: &Gre) -> io::Result<io::Result<()>> {
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
    let index = nix::net::if_::if_nametoindex(name).map_err(io::Error::from);
    let marked = index.and_then(|index| mark(kernel, name, index));
    remove().map(|()| marked)
}

/// Gives the device these parameters, as another source address.
pub(crate) fn change(
    kernel: &Requests,
    name: &str,
    index: u32,
    gre: &Gre,
    mtu: u32,
) -> Result<(), Error> {
    let request = link(RTM_NEWLINK, 0, index, 0, 0).put_u32(IFLA_MTU, mtu);
    kernel.execute(gre_data(request, gre)).map_err(failed(name, "change its source address"))
}

pub(crate) fn remove(kernel: &Requests, name: &str, index: u32) -> Result<(), Error> {
    kernel.execute(link(RTM_DELLINK, 0, index, 0, 0)).map_err(failed(name, "remove it"))
}

pub(crate) fn set_mtu(kernel: &Requests, name: &str, index: u32, mtu: u16) -> Result<(), Error> {
    let request = link(RTM_SETLINK, 0, index, 0, 0).put_u32(IFLA_MTU, mtu.into());
    kernel.execute(request).map_err(failed(name, &format!("set MTU {mtu}")))
}

/// Gives those of the device's flags that are in `mask` the values that they have in `flags`.
pub(crate) fn set_flags(
    kernel: &Requests,
    name: &str,
    index: u32,
    flags: i32,
    mask: i32,
) -> Result<(), Error> {
    let request = link(RTM_SETLINK, 0, index, flags & mask, mask);
    let action = if flags & libc::IFF_UP != 0 { "set it up" } else { "set it down" };
    kernel.execute(request).map_err(failed(name, action))
}

/// Has the kernel make up no link-local address for it. Absent without IPv6.
pub(crate) fn make_up_no_address(kernel: &Requests, name: &str, index: u32) {
    let none = link(RTM_SETLINK, 0, index, 0, 0).nest(IFLA_AF_SPEC, |families| {
        families.nest(libc::AF_INET6 as u16, |inet6| {
            inet6.put(IFLA_INET6_ADDR_GEN_MODE, &[IN6_ADDR_GEN_MODE_NONE])
        })
    });
    if let Err(error) = kernel.execute(none) {
        tracing::debug!("{name}: IPv6 address generation stays: {error}");
    }
}

/// The neighbour tables ask the daemon, and nobody on the link.
pub(crate) fn ask_us(kernel: &Requests, name: &str, index: u32) {
    for table in ["arp_cache", "ndisc_cache"] {
        let request = Request::new(RTM_SETNEIGHTBL, libc::NLM_F_REPLACE)
            .raw(&[0; 4])
            .put_text(NDTA_NAME, table)
            .nest(NDTA_PARMS, |parameters| {
                parameters
                    .put_u32(NDTPA_IFINDEX, index)
                    .put_u32(NDTPA_APP_PROBES, 1)
                    .put_u32(NDTPA_UCAST_PROBES, 0)
                    .put_u32(NDTPA_MCAST_PROBES, 0)
                    .put_u32(NDTPA_MCAST_REPROBES, 0)
            });
        if let Err(error) = kernel.execute(request) {
            tracing::debug!("{name}: {table}: {error}");
        }
    }
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

/// The device's addresses.
pub(crate) fn addresses(
    kernel: &Requests,
    name: &str,
    index: u32,
) -> Result<BTreeSet<IpNet>, Error> {
    let request = Request::new(RTM_GETADDR, libc::NLM_F_DUMP).raw(&[0; 8]);
    let messages = kernel.dump(request).map_err(failed(name, "read its addresses"))?;
    let of_device = messages.iter().filter(|message| u32_at(message, 4) == Some(index));
    let nets = of_device.filter_map(|message| {
        let rest = message.get(8..)?;
        let found = find(rest, IFA_LOCAL).or_else(|| find(rest, IFA_ADDRESS)).and_then(address)?;
        IpNet::new(found, message[1]).ok()
    });
    Ok(nets.collect())
}

pub(crate) fn add_address(
    kernel: &Requests,
    name: &str,
    index: u32,
    net: IpNet,
) -> Result<(), Error> {
    let request = inet(RTM_NEWADDR, libc::NLM_F_CREATE | libc::NLM_F_REPLACE, index, net);
    kernel.execute(request).map_err(failed(name, &format!("set address {net}")))
}

pub(crate) fn remove_address(
    kernel: &Requests,
    name: &str,
    index: u32,
    net: IpNet,
) -> Result<(), Error> {
    let request = inet(RTM_DELADDR, 0, index, net);
    kernel.execute(request).map_err(failed(name, &format!("remove address {net}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::wire::messages;

    /// What the kernel would say of a device with these parameters.
    fn told(data: impl FnOnce(Request) -> Request) -> Found {
        let told = link(RTM_NEWLINK, 0, 7, libc::IFF_NOARP, 0).put_u32(IFLA_MTU, 1472);
        let mut told = told.nest(IFLA_LINKINFO, |info| {
            info.put_text(IFLA_INFO_KIND, KIND).nest(IFLA_INFO_DATA, data)
        });
        found(messages(told.finish(1)).next().unwrap().payload).unwrap()
    }

    #[test]
    fn what_we_make_is_what_we_find() {
        let outer = Outer { ttl: 32, tos: 1, whole: true };
        for key in [None, Some(0), Some(42)] {
            let gre = Gre { key, local: Some([10, 0, 0, 1].into()), link: Some(3), outer };
            let mut request = gre_data(link(RTM_NEWLINK, 0, 7, 0, 0), &gre);
            let found = found(messages(request.finish(1)).next().unwrap().payload).unwrap();
            assert_eq!((found.gre, found.more, found.ours), (Some(gre), vec![], false));
        }
    }

    #[test]
    fn what_ours_never_do_is_named() {
        let word = |flags: u16| flags.to_be_bytes();
        let nothing: Vec<&str> = Vec::new();
        assert_eq!(told(|data| data).more, nothing);
        let any =
            |data: Request| data.put(IFLA_GRE_REMOTE, &[0; 4]).put(IFLA_GRE_ENCAP_TYPE, &[0; 2]);
        assert_eq!(told(any).more, nothing);
        assert_eq!(
            told(|data| data.put(IFLA_GRE_IFLAGS, &word(GRE_CSUM))).more,
            ["checksums (csum)"]
        );
        assert_eq!(
            told(|data| data.put(IFLA_GRE_OFLAGS, &word(GRE_SEQ))).more,
            ["sequence numbers (seq)"]
        );
        assert_eq!(
            told(|data| data.put(IFLA_GRE_REMOTE, &[10, 0, 0, 2])).more,
            ["one peer only (remote)"]
        );
        let keys = |data: Request| {
            let data = data.put(IFLA_GRE_IFLAGS, &word(GRE_KEY)).put_be32(IFLA_GRE_IKEY, 1);
            data.put(IFLA_GRE_OFLAGS, &word(GRE_KEY)).put_be32(IFLA_GRE_OKEY, 2)
        };
        assert_eq!(told(keys).more, ["another key in than out (ikey, okey)"]);
        assert_eq!(told(|data| data.put(IFLA_GRE_COLLECT_METADATA, &[])).more.len(), 1);
        assert_eq!(told(|data| data.put(IFLA_GRE_ENCAP_TYPE, &[1, 0])).more.len(), 1);
    }
}
