//! The shape of `nhrpd.yaml`, as far as an import fills it.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;

#[derive(Debug, Serialize)]
pub(super) struct Draft {
    pub(super) tunnel: Tunnel,
    pub(super) underlay: Underlay,
    #[serde(skip_serializing_if = "Nhrp::is_default")]
    pub(super) nhrp: Nhrp,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) nhs: Vec<NextHopServer>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) map: Vec<StaticMap>,
    /// Always written: without a line for it, nothing was copied.
    pub(super) multicast: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) advertise: Vec<IpNet>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) routes: Vec<IpNet>,
    pub(super) security: Security,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) limits: Option<Limits>,
}

#[derive(Debug, Serialize)]
pub(super) struct Tunnel {
    pub(super) interface: String,
    pub(super) address: IpNet,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) key: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) mtu: Option<u16>,
}

#[derive(Debug, Serialize)]
pub(super) struct Underlay {
    pub(super) source: String,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Nhrp {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) network_id: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) holding_time: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) authentication: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) registrations: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) redirect: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) shortcut: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) unique: Option<bool>,
}

impl Nhrp {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

#[derive(Debug, Serialize)]
pub(super) struct NextHopServer {
    pub(super) address: IpAddr,
    pub(super) nbma: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) priority: u8,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) cluster: u8,
}

// serde hands over a reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(number: &u8) -> bool {
    *number == 0
}

#[derive(Debug, Serialize)]
pub(super) struct StaticMap {
    pub(super) address: IpAddr,
    pub(super) nbma: IpAddr,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Security {
    Clear {
        mode: &'static str,
    },
    #[serde(rename_all = "kebab-case")]
    Certificates {
        certificate: String,
        private_key: String,
        ca: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        rekey_interval: Option<u32>,
    },
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Limits {
    pub(super) dead_peer_interval: u16,
}
