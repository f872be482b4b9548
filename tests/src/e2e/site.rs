//! The nodes of a scene: their numbers, configurations and certificates.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use ipnet::IpNet;
use lab::{Addresses, Contents, Destination, Interface, Link, NodeTopology, Scalar, Topology};
use pki::authority::Request;

use super::authority::{Ca, Identity, days};

/// Where a node's configuration is.
pub const CONFIG: &str = "/etc/nhrpd/nhrpd.yaml";

/// Address families of a scene.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Numbers {
    /// IPv6 on the underlay.
    pub underlay_v6: bool,
    /// IPv6 in the tunnel and behind the spokes.
    pub overlay_v6: bool,
}

impl Numbers {
    /// Host `host` of the underlay network of node `number`.
    pub fn underlay(self, number: u8, host: u8) -> IpNet {
        if self.underlay_v6 {
            net6([0x2001, 0xdb8, number.into(), 0, 0, 0, 0, host.into()], 64)
        } else {
            net4([198, 18, number, host], 24)
        }
    }

    /// Tunnel address of node `number`.
    pub fn tunnel(self, number: u8) -> IpNet {
        if self.overlay_v6 {
            net6([0xfd00, 0, 0, 0, 0, 0, 0, u16::from(number) + 1], 64)
        } else {
            net4([172, 16, 0, number + 1], 24)
        }
    }

    /// Host `host` of the network behind node `number`.
    pub fn lan(self, number: u8, host: u8) -> IpNet {
        if self.overlay_v6 {
            net6([0xfd00, number.into(), 0, 0, 0, 0, 0, host.into()], 64)
        } else {
            net4([192, 168, number, host], 24)
        }
    }

    /// All networks behind nodes.
    pub fn lans(self) -> IpNet {
        if self.overlay_v6 {
            net6([0xfd00, 0, 0, 0, 0, 0, 0, 0], 16)
        } else {
            net4([192, 168, 0, 0], 16)
        }
    }
}

fn net4(octets: [u8; 4], length: u8) -> IpNet {
    IpNet::new_assert(Ipv4Addr::from(octets).into(), length)
}

fn net6(segments: [u16; 8], length: u8) -> IpNet {
    IpNet::new_assert(Ipv6Addr::from(segments).into(), length)
}

/// A node with a daemon. Number 0 is the hub, 1 is spoke-a with host-a behind it, and so on.
#[derive(Debug, Clone)]
pub struct Site {
    /// As `hub`, `spoke-a`.
    pub name: String,
    /// Its number.
    pub number: u8,
    /// Families.
    pub numbers: Numbers,
    /// Tunnel address.
    pub tunnel: IpNet,
    /// NBMA address.
    pub nbma: IpNet,
    /// Its certificate.
    pub identity: Identity,
    /// Top-level keys of nhrpd.yaml and their values.
    pub config: BTreeMap<String, String>,
    /// Further files beside it.
    pub files: BTreeMap<String, String>,
}

impl Site {
    /// With IPv4 and a good certificate.
    pub fn new(ca: &Ca, number: u8) -> Self {
        Self::numbered(ca, number, Numbers::default())
    }

    /// With these address families.
    pub fn numbered(ca: &Ca, number: u8, numbers: Numbers) -> Self {
        let (tunnel, nbma) = (numbers.tunnel(number), numbers.underlay(number, 10));
        let name = match number {
            0 => "hub".to_owned(),
            spoke => format!("spoke-{}", letter(spoke)),
        };
        let mut config = BTreeMap::new();
        let mut set = |key: &str, value: String| config.insert(key.to_owned(), value);
        set("tunnel", format!("{{ interface: dmvpn0, address: '{tunnel}', key: 42 }}"));
        set("underlay", "{ source: eth0 }".into());
        set("dataplane", dataplane().into());
        set("log", "debug".into());
        let files = "certificate: node.crt, private-key: node.key, ca: ca.crt";
        set("security", format!("{{ {files} }}"));
        set("routes", format!("['{}']", numbers.lans()));
        if number > 0 {
            let (hub, at) = (numbers.tunnel(0).addr(), numbers.underlay(0, 10).addr());
            set("nhs", format!("[{{ address: '{hub}', nbma: '{at}' }}]"));
            set("advertise", "certificate".into());
        }
        let identity = ca.issue(&Self::request(numbers, number));
        let files = BTreeMap::new();
        Self { name, number, numbers, tunnel, nbma, identity, config, files }
    }

    /// The certificate that a node should have.
    pub fn request(numbers: Numbers, number: u8) -> Request {
        let name = match number {
            0 => "hub".to_owned(),
            spoke => format!("spoke-{}", letter(spoke)),
        };
        let mut request = Request::new(name, days(5, 50));
        request.addresses.push(numbers.tunnel(number).addr());
        if number > 0 {
            request.prefixes.insert(numbers.lan(number, 0).trunc());
        }
        request
    }

    /// With another value of a top-level key.
    #[must_use]
    pub fn set(mut self, key: &str, value: &str) -> Self {
        self.config.insert(key.into(), value.into());
        self
    }

    /// With further keys in `security`.
    #[must_use]
    pub fn secure(mut self, more: &str) -> Self {
        let security = self.config.entry("security".into()).or_default();
        *security = security.replace(" }", &format!(", {more} }}"));
        self
    }

    /// Without any protection.
    #[must_use]
    pub fn clear(self) -> Self {
        let own = format!("['{}']", self.numbers.lan(self.number, 0));
        let clear = self.set("security", "{ mode: none }");
        if clear.number > 0 { clear.set("advertise", &own) } else { clear }
    }

    /// With another certificate.
    #[must_use]
    pub fn identified(mut self, identity: Identity) -> Self {
        self.identity = identity;
        self
    }

    /// With one more file in the folder of the configuration.
    #[must_use]
    pub fn file(mut self, name: &str, text: String) -> Self {
        self.files.insert(name.into(), text);
        self
    }

    /// The text of nhrpd.yaml.
    pub fn yaml(&self) -> String {
        self.config.iter().map(|(key, value)| format!("{key}: {value}\n")).collect()
    }

    pub(super) fn wan_link(&self) -> String {
        match self.number {
            0 => "hub-wan".into(),
            spoke => format!("{}-wan", letter(spoke)),
        }
    }

    /// Addresses that only the tunnel may know.
    pub(super) fn inner(&self) -> Vec<IpAddr> {
        let lan = |host| self.numbers.lan(self.number, host).addr();
        let mut inner = vec![self.tunnel.addr()];
        if self.number > 0 {
            inner.extend([lan(1), lan(10)]);
        }
        inner
    }

    fn node(&self) -> NodeTopology {
        let mut files: BTreeMap<PathBuf, Contents> = BTreeMap::new();
        let folder = PathBuf::from("/etc/nhrpd");
        let Identity { certificate, private_key, ca, .. } = &self.identity;
        let yaml = self.yaml();
        let own = [
            ("nhrpd.yaml", &yaml),
            ("node.crt", certificate),
            ("node.key", private_key),
            ("ca.crt", ca),
        ];
        let further = self.files.iter().map(|(name, text)| (name.as_str(), text));
        for (name, text) in own.into_iter().chain(further) {
            files.insert(folder.join(name), Contents::Text(text.clone()));
        }
        let mut interfaces = BTreeMap::from([attach("eth0", self.wan_link(), self.nbma)]);
        if self.number > 0 {
            let lan = self.numbers.lan(self.number, 1);
            interfaces.extend([attach("eth1", lan_link(self.number), lan)]);
        }
        NodeTopology {
            interfaces,
            routes: default(self.numbers.underlay(self.number, 254).addr()),
            sysctl: router(),
            files,
            ..NodeTopology::default()
        }
    }

    fn host(&self) -> NodeTopology {
        let lan = |host| self.numbers.lan(self.number, host);
        NodeTopology {
            interfaces: BTreeMap::from([attach("eth0", lan_link(self.number), lan(10))]),
            routes: default(lan(1).addr()),
            ..NodeTopology::default()
        }
    }
}

fn letter(spoke: u8) -> char {
    char::from(b'a' + spoke - 1)
}

fn lan_link(spoke: u8) -> String {
    format!("{}-lan", letter(spoke))
}

fn attach(device: &str, link: String, address: IpNet) -> (String, Interface) {
    (device.to_owned(), Interface { link, address: Addresses::One(address) })
}

fn default(gateway: IpAddr) -> BTreeMap<Destination, IpAddr> {
    BTreeMap::from([(Destination::Default, gateway)])
}

fn router() -> BTreeMap<String, Scalar> {
    ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"]
        .map(|key| (key.to_owned(), Scalar::Number(1)))
        .into()
}

pub(super) fn topology(name: &str, sites: &[Site]) -> Topology {
    let mut internet = NodeTopology { sysctl: router(), ..NodeTopology::default() };
    let (mut links, mut nodes) = (BTreeMap::new(), BTreeMap::new());
    // The kernel's ESP goes other ways there than packet by packet.
    let wan = Link { gro: dataplane() == "kernel", ..Link::default() };
    for (index, site) in sites.iter().enumerate() {
        let gateway = site.numbers.underlay(site.number, 254);
        internet.interfaces.extend([attach(&format!("eth{index}"), site.wan_link(), gateway)]);
        links.insert(site.wan_link(), Some(wan.clone()));
        nodes.insert(site.name.clone(), site.node());
        if site.number > 0 {
            links.insert(lan_link(site.number), None);
            nodes.insert(format!("host-{}", letter(site.number)), site.host());
        }
    }
    nodes.insert("internet".into(), internet);
    Topology { name: Some(name.to_owned()), setup: Vec::new(), links, nodes }
}

/// The scenarios are compiled once for each data plane: in the test program `kernel` for that in
/// the kernel.
pub fn dataplane() -> &'static str {
    let program = std::env::current_exe().unwrap_or_default();
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    if name.split('-').next() == Some("kernel") { "kernel" } else { "userspace" }
}
