//! What this kernel can do: each ability is tried with a thing that is taken away again.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::time::Duration;

use overlay::desired::{Esp, EspCipher, EspKeys, PLAIN_PORT};
use zeroize::Zeroizing;

use super::link::{self, Gre, Outer};
use super::log;
use super::packet;
use super::rules::Rules;
use super::socket::Requests;
use super::tables::{Association, Direction, SaId};
use super::wire::Request;
use super::xfrm::{self, Replay, Tell};
use crate::Error;
use crate::probe::Ability;

const DEVICE: &str = "nhrpd-probe";
/// For documentation (RFC 5737, RFC 3849): not in use anywhere.
const NOBODY: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const NOBODY6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

/// What brings an ability that is not there.
pub(crate) enum Needs {
    /// One of these modules.
    Modules(&'static str),
    /// A kernel from this version on.
    Linux(&'static str),
}

pub(crate) const NFTABLES: Needs = Needs::Modules("nf_tables nft_limit nft_log nft_xfrm");
pub(crate) const NFLOG: Needs = Needs::Modules("nfnetlink_log");
pub(crate) const XFRM: Needs = Needs::Modules("xfrm_user");
pub(crate) const PACKETS: Needs = Needs::Modules("af_packet");

/// The end of a start that something is lacking for.
pub(crate) fn needed(what: impl Into<String>, needs: Needs) -> impl FnOnce(io::Error) -> Error {
    move |error| Error::Lacking { what: what.into(), reason: lacking(&error, &needs) }
}

/// Why something is not there, and what to do.
pub(crate) fn lacking(error: &io::Error, needs: &Needs) -> String {
    match needs {
        _ if error.kind() == io::ErrorKind::PermissionDenied => {
            "permission denied: run as root or give CAP_NET_ADMIN and CAP_NET_RAW".into()
        }
        Needs::Modules(modules) => format!("{error}: load it (modprobe {modules})"),
        Needs::Linux(version) => format!("{error}: needs Linux {version}"),
    }
}

/// Asks the kernel. `secured`: with encryption.
pub(crate) fn probe(secured: bool) -> Vec<Ability> {
    use Needs::{Linux, Modules};
    let ability = |name, required, result: io::Result<()>, needs| Ability {
        name,
        required,
        state: result.map_err(|error| lacking(&error, &needs)),
    };
    let [device, name] = gre();
    let [packets, marks] = packets();
    let mut all = vec![
        ability("multipoint GRE", true, device, Modules("ip_gre")),
        ability("alternative names of devices", true, name, Linux("5.5")),
        ability("packet sockets", true, packets, PACKETS),
        ability("marks in packet sockets (SO_RCVMARK)", true, marks, Linux("5.19")),
        ability("nftables", true, rules(secured), NFTABLES),
        ability("NFLOG", true, log::listen(0).map(drop), NFLOG),
        ability("IPsec by netlink (xfrm)", secured, xfrm(), XFRM),
    ];
    let ciphers = [
        ("ESP with AES-GCM", EspCipher::Aes256Gcm16, secured, "esp4 aesni_intel"),
        ("ESP with ChaCha20-Poly1305", EspCipher::ChaCha20Poly1305, false, "chacha20poly1305"),
        ("ESP with AES-CBC and SHA-256", EspCipher::Aes256CbcSha256, false, "authenc"),
    ];
    for (name, cipher, required, modules) in ciphers {
        all.push(ability(name, required, esp(cipher), Modules(modules)));
    }
    if secured {
        let large = "ESP in large packets (GRO, GSO)";
        all.push(ability(large, false, large_esp(), Modules("esp4_offload")));
        // The underlay is IPv4.
        all.push(ability("ESP over IPv6 (used by no tunnel)", false, esp6(), Modules("esp6")));
        all.push(Ability { name: "IKE on UDP port 500", required: false, state: plain_port() });
    }
    all
}

fn plain_port() -> Result<(), String> {
    let said = |error| {
        format!(
            "{error}: unless a running nhrpd has it (ss -ulpn), peers that begin there are not heard, \
             those that begin on `underlay.port` are"
        )
    };
    UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PLAIN_PORT)).map(drop).map_err(said)
}

/// A device, and its alternative name.
fn gre() -> [io::Result<()>; 2] {
    let gre = Gre { key: Some(rand::random()), local: None, link: None, outer: Outer::default() };
    let kernel = Requests::open(libc::NETLINK_ROUTE);
    match kernel.and_then(|kernel| link::try_create(&kernel, DEVICE, &gre)) {
        Ok(named) => [Ok(()), named],
        Err(error) => [Err(same(&error)), Err(error)],
    }
}

/// A packet socket, and the marks of what it receives.
fn packets() -> [io::Result<()>; 2] {
    match packet::unbound() {
        Ok(socket) => [Ok(()), packet::tell_marks(&socket)],
        Err(error) => [Err(same(&error)), Err(error)],
    }
}

fn same(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
}

fn xfrm() -> io::Result<()> {
    Requests::open(libc::NETLINK_XFRM).map(drop)
}

fn rules(secured: bool) -> io::Result<()> {
    let kernel = Requests::open(libc::NETLINK_NETFILTER)?;
    let (table, interface) = (DEVICE.into(), "lo".into());
    let broadcast = vec![Ipv4Addr::new(192, 0, 2, 255)];
    let rules = Rules { table, interface, index: 1, key: Some(1), broadcast, group: 1, secured };
    rules.try_install(&kernel)
}

fn esp(cipher: EspCipher) -> io::Result<()> {
    try_out(cipher, NOBODY, Some((4500, 4500)), |sa| sa)
}

fn esp6() -> io::Result<()> {
    try_out(EspCipher::Aes256Gcm16, NOBODY6, None, |sa| sa)
}

/// The kernel takes segments of a stream through ESP as one packet: joined on the way in (GRO), cut when they
/// leave (GSO). Both are in a module that is loaded by this, and serve all SAs that are made afterwards.
pub(crate) fn large_esp() -> io::Result<()> {
    const LOOPBACK: u32 = 1;
    try_out(EspCipher::Aes256Gcm16, NOBODY, None, |sa| xfrm::offloaded(sa, LOOPBACK))
}

/// Makes an SA and takes it away.
fn try_out(
    cipher: EspCipher,
    to: IpAddr,
    ports: Option<(u16, u16)>,
    more: impl FnOnce(Request) -> Request,
) -> io::Result<()> {
    let kernel = Requests::open(libc::NETLINK_XFRM)?;
    let (encryption, integrity) = cipher.key_lens();
    let random = |len| Zeroizing::new((0..len).map(|_| rand::random()).collect::<Vec<u8>>());
    let keys = || EspKeys {
        spi: rand::random::<u32>() | 1 << 31,
        encryption: random(encryption),
        integrity: random(integrity),
    };
    let esp = Esp {
        cipher,
        esn: true,
        encapsulated: ports.is_some(),
        lifetime: Duration::from_secs(1),
        inbound: keys(),
        outbound: keys(),
    };
    let id = SaId { direction: Direction::Out, to, spi: esp.outbound.spi };
    let association = Association { from: None, ports };
    let reqid = xfrm::reqid(DEVICE);
    let sa = xfrm::add(id, association, &esp, reqid, Replay::default(), Tell::FirstPacket);
    kernel.execute(more(sa))?;
    kernel.execute(xfrm::remove(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lacking_has_its_remedy() {
        let old = io::Error::from_raw_os_error(libc::ENOPROTOOPT);
        assert_eq!(
            lacking(&old, &Needs::Linux("5.19")),
            "Protocol not available (os error 92): needs Linux 5.19"
        );
        let absent = io::Error::from_raw_os_error(libc::EPROTONOSUPPORT);
        assert_eq!(
            lacking(&absent, &Needs::Modules("xfrm_user")),
            "Protocol not supported (os error 93): load it (modprobe xfrm_user)"
        );
        let denied = io::Error::from_raw_os_error(libc::EPERM);
        let said = lacking(&denied, &Needs::Linux("5.19"));
        assert!(said.ends_with("CAP_NET_ADMIN and CAP_NET_RAW"), "{said}");
    }
}
