//! What this kernel can do: each ability is tried with a thing that is taken away again.

use std::io;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::time::Duration;

use overlay::desired::{Esp, EspCipher, EspKeys, PLAIN_PORT};
use zeroize::Zeroizing;

use super::link::{self, Gre, Outer};
use super::log;
use super::rules::Rules;
use super::socket::Requests;
use super::tables::{Association, Direction, SaId};
use super::wire::Request;
use super::xfrm::{self, Replay, Tell};
use crate::probe::Ability;

const DEVICE: &str = "nhrpd-probe";

/// Asks the kernel. `secured`: with encryption.
pub(crate) fn probe(secured: bool) -> Vec<Ability> {
    let ability = |name, required, result: io::Result<()>, modules: &str| Ability {
        name,
        required,
        state: result.map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => {
                "permission denied: run as root or give CAP_NET_ADMIN and CAP_NET_RAW".into()
            }
            _ => format!("{error}: load it (modprobe {modules})"),
        }),
    };
    let mut all = vec![
        ability("multipoint GRE", true, gre(), "ip_gre"),
        ability("nftables", true, rules(secured), "nf_tables nft_log nft_xfrm"),
        ability("NFLOG", true, log::listen(0).map(drop), "nfnetlink_log"),
    ];
    let ciphers = [
        ("ESP with AES-GCM", EspCipher::Aes256Gcm16, secured, "esp4 aesni_intel"),
        ("ESP with ChaCha20-Poly1305", EspCipher::ChaCha20Poly1305, false, "chacha20poly1305"),
        ("ESP with AES-CBC and SHA-256", EspCipher::Aes256CbcSha256, false, "authenc"),
    ];
    for (name, cipher, required, modules) in ciphers {
        all.push(ability(name, required, esp(cipher), modules));
    }
    if secured {
        all.push(ability("ESP in large packets (GRO, GSO)", false, large_esp(), "esp4_offload"));
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

fn gre() -> io::Result<()> {
    let kernel = Requests::open(libc::NETLINK_ROUTE)?;
    let gre = Gre { key: Some(rand::random()), local: None, link: None, outer: Outer::default() };
    link::try_create(&kernel, DEVICE, &gre)
}

fn rules(secured: bool) -> io::Result<()> {
    let kernel = Requests::open(libc::NETLINK_NETFILTER)?;
    let (table, interface) = (DEVICE.into(), "lo".into());
    Rules { table, interface, index: 1, key: Some(1), group: 1, secured }.try_install(&kernel)
}

fn esp(cipher: EspCipher) -> io::Result<()> {
    try_out(cipher, Some((4500, 4500)), |sa| sa)
}

/// The kernel takes segments of a stream through ESP as one packet: joined on the way in (GRO), cut when they
/// leave (GSO). Both are in a module that is loaded by this, and serve all SAs that are made afterwards.
pub(crate) fn large_esp() -> io::Result<()> {
    const LOOPBACK: u32 = 1;
    try_out(EspCipher::Aes256Gcm16, None, |sa| xfrm::offloaded(sa, LOOPBACK))
}

/// Makes an SA and takes it away.
fn try_out(
    cipher: EspCipher,
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
    // RFC 5737: documentation, not in use anywhere.
    let to = IpAddr::from([192, 0, 2, 1]);
    let id = SaId { direction: Direction::Out, to, spi: esp.outbound.spi };
    let association = Association { from: None, ports };
    let reqid = xfrm::reqid(DEVICE);
    let sa = xfrm::add(id, association, &esp, reqid, Replay::default(), Tell::FirstPacket);
    kernel.execute(more(sa))?;
    kernel.execute(xfrm::remove(id))
}
