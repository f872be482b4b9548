//! The tunnel device while a tunnel runs: made by us, or adopted from whoever made it before.
//!
//! Ours is removed at the end, and has no other addresses than the configured ones. An adopted one gets what the
//! tunnel needs (source address, MTU, addresses, up, ARP) and is given back as it was.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::link::{self, Found, Gre};
use super::packet;
use super::socket::Requests;
use crate::Error;

/// What a tunnel sets: it is up, has multicast, and its neighbours are looked up.
const FLAGS: i32 = libc::IFF_UP | libc::IFF_MULTICAST;
const MASK: i32 = FLAGS | libc::IFF_NOARP;

/// The device of a running tunnel.
#[derive(Debug)]
pub(crate) struct Device {
    pub index: u32,
    name: String,
    gre: Gre,
    /// As it was before us; `None`: we made it.
    former: Option<Former>,
}

#[derive(Debug)]
struct Former {
    gre: Gre,
    mtu: u32,
    flags: i32,
    /// Addresses that it has from us.
    given: BTreeSet<IpNet>,
}

impl Device {
    /// The device of that name if it will do, else a new one.
    ///
    /// # Errors
    /// There is one that will not do and is not ours, or the kernel refuses.
    pub(crate) fn take(
        kernel: &Requests,
        name: &str,
        mut gre: Gre,
        mtu: u16,
    ) -> Result<Self, Error> {
        let make = |gre| -> Result<Self, Error> {
            let index = link::create(kernel, name, &gre, mtu)?;
            Ok(Self { index, name: name.into(), gre, former: None })
        };
        let Some(found) = link::find_device(kernel, name)? else { return make(gre) };
        let differences = differences(&found, &gre);
        let Some(had) = found.gre.clone().filter(|_| differences.is_empty()) else {
            if !found.ours {
                return Err(unfit(name, &found, &gre, &differences));
            }
            // Of a former run with another key.
            link::remove(kernel, name, found.index)?;
            return make(gre);
        };
        if !found.ours {
            gre.outer = had.outer;
            tracing::info!("{name} was there before: it is used, and left there at the end");
        }
        if had != gre {
            link::change(kernel, name, found.index, &gre, mtu.into())?;
        } else if found.mtu != u32::from(mtu) {
            link::set_mtu(kernel, name, found.index, mtu)?;
        }
        let Found { index, mtu, flags, ours, .. } = found;
        let former = Former { gre: had, mtu, flags, given: BTreeSet::new() };
        Ok(Self { index, name: name.into(), gre, former: (!ours).then_some(former) })
    }

    /// It goes with the daemon.
    pub(crate) fn is_ours(&self) -> bool {
        self.former.is_none()
    }

    /// Somebody removed it.
    pub(crate) fn is_gone(&self, kernel: &Requests) -> bool {
        link::find_device(kernel, &self.name)
            .is_ok_and(|found| found.is_none_or(|found| found.index != self.index))
    }

    /// Everything but its GRE parameters: what is right already is left alone.
    pub(crate) fn configure(
        &mut self,
        kernel: &Requests,
        addresses: &[IpNet],
    ) -> Result<(), Error> {
        let Self { index, name, former, .. } = self;
        if former.is_none() {
            link::make_up_no_address(kernel, name, *index);
        }
        link::ask_us(kernel, name, *index);
        // GRO looks at no mark, and what it merges meets our rules as one packet, by the mark of the first.
        // It merges only what has the same outer header, so that off costs nothing.
        if let Err(error) = packet::keep_apart(name) {
            tracing::warn!("{name}: cannot turn GRO off: {error}");
        }
        let had = link::addresses(kernel, name, *index)?;
        if former.is_none() {
            let past = had.iter().filter(|net| !addresses.contains(net) && !is_link_local(net));
            for &net in past {
                link::remove_address(kernel, name, *index, net)?;
            }
        }
        link::set_flags(kernel, name, *index, FLAGS, MASK)?;
        for &net in addresses.iter().filter(|net| !had.contains(net)) {
            link::add_address(kernel, name, *index, net)?;
            if let Some(former) = former {
                former.given.insert(net);
            }
        }
        Ok(())
    }

    /// The underlay has another address or MTU.
    pub(crate) fn follow(
        &mut self,
        kernel: &Requests,
        local: Option<IpAddr>,
        mtu: u16,
    ) -> Result<(), Error> {
        if self.gre.local == local {
            return link::set_mtu(kernel, &self.name, self.index, mtu);
        }
        self.gre.local = local;
        link::change(kernel, &self.name, self.index, &self.gre, mtu.into())
    }

    /// Removes it, or gives it back as it was.
    pub(crate) fn give_up(&self, kernel: &Requests) {
        let Self { index, name, former, .. } = self;
        let Some(former) = former else {
            if let Err(error) = link::remove(kernel, name, *index) {
                tracing::warn!("{error}");
            }
            return;
        };
        let mut results: Vec<_> = former
            .given
            .iter()
            .map(|&net| link::remove_address(kernel, name, *index, net))
            .collect();
        results.push(link::change(kernel, name, *index, &former.gre, former.mtu));
        results.push(link::set_flags(kernel, name, *index, former.flags, MASK));
        for error in results.into_iter().filter_map(Result::err) {
            tracing::warn!("{error}");
        }
    }
}

fn is_link_local(net: &IpNet) -> bool {
    matches!(net.addr(), IpAddr::V6(address) if address.is_unicast_link_local())
}

/// Why a device cannot stand for one with the parameters `gre`. What follows the underlay is no reason.
fn differences(found: &Found, gre: &Gre) -> Vec<String> {
    let Some(had) = &found.gre else { return vec!["it is no GRE device".into()] };
    let mut all: Vec<String> = found.more.iter().map(|more| format!("it has {more}")).collect();
    if had.key != gre.key {
        let [had, wanted] =
            [had.key, gre.key].map(|key| key.map_or("no key".into(), |key| format!("key {key}")));
        all.push(format!("it has {had}, and `tunnel.key` says {wanted}"));
    }
    if had.link != gre.link {
        let [had, wanted] = [had.link, gre.link].map(device_name);
        all.push(format!("it sends by {had} only (dev), and not by {wanted}"));
    }
    all
}

fn device_name(index: Option<u32>) -> String {
    let Some(index) = index else { return "whichever device the route says".into() };
    let name = nix::net::if_::if_indextoname(index).ok().and_then(|name| name.into_string().ok());
    name.unwrap_or_else(|| format!("device {index}"))
}

fn unfit(name: &str, found: &Found, gre: &Gre, differences: &[String]) -> Error {
    if found.gre.is_none() {
        return Error::InterfaceExists(name.into());
    }
    let key = gre.key.map(|key| format!(" key {key}")).unwrap_or_default();
    let device = gre.link.map(|_| format!(" dev {}", device_name(gre.link))).unwrap_or_default();
    Error::InterfaceUnfit {
        interface: name.into(),
        reason: differences.join("; "),
        kind: format!("gre{key}{device} ttl 64 nopmtudisc"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::link::Outer;

    fn wanted() -> Gre {
        let local = Some(IpAddr::from([198, 51, 100, 1]));
        Gre { key: Some(42), local, link: None, outer: Outer::default() }
    }

    fn found(gre: Gre) -> Found {
        Found { index: 7, gre: Some(gre), more: Vec::new(), mtu: 1400, flags: 0, ours: false }
    }

    #[test]
    fn what_follows_the_underlay_is_no_difference() {
        let outer = Outer { ttl: 0, tos: 1, whole: true };
        for local in [None, Some(IpAddr::from([10, 0, 0, 1]))] {
            let had = Gre { local, outer, ..wanted() };
            assert_eq!(differences(&found(had), &wanted()), Vec::<String>::new());
        }
    }

    #[test]
    fn a_device_that_will_not_do_is_told_what_differs_and_how_to_make_one() {
        let had = Gre { key: Some(7), link: Some(1), ..wanted() };
        let found = Found { more: vec!["checksums (csum)"], ..found(had) };
        let differences = differences(&found, &wanted());
        let said = unfit("dmvpn0", &found, &wanted(), &differences).to_string();
        assert_eq!(
            said,
            "interface dmvpn0 exists already, and cannot be used as it is: it has checksums (csum); it has \
             key 7, and `tunnel.key` says key 42; it sends by lo only (dev), and not by whichever device \
             the route says: remove it (ip link delete dmvpn0) and the daemon makes one, make it as \
             `ip link add dmvpn0 type gre key 42 ttl 64 nopmtudisc`, or set another `tunnel.interface`"
        );
    }

    #[test]
    fn something_else_of_that_name_is_none_of_ours() {
        let found = Found { gre: None, ..found(wanted()) };
        let differences = differences(&found, &wanted());
        let error = unfit("dmvpn0", &found, &wanted(), &differences);
        assert!(matches!(error, Error::InterfaceExists(_)), "{error}");
    }
}
