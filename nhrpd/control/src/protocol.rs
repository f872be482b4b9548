//! Varlink messages: what is asked and what is refused.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Name of the interface.
pub const INTERFACE: &str = "nhrpd.Control";

/// Varlink description of the interface.
pub const DESCRIPTION: &str = include_str!("nhrpd.Control.varlink");

pub(crate) const SERVICE_INTERFACE: &str = "org.varlink.service";

pub(crate) const SERVICE_DESCRIPTION: &str = include_str!("org.varlink.service.varlink");

/// What can be asked of the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Reply: [`crate::Dmvpn`].
    ShowDmvpn,
    /// Reply: [`crate::Cache`].
    ShowNhrpCache,
    /// Reply: [`crate::NextHopServers`].
    ShowNhs,
    /// Reply: [`crate::Shortcuts`].
    ShowShortcuts,
    /// Reply: [`crate::Traffic`].
    ShowNhrpTraffic,
    /// Reply: [`crate::Endpoints`].
    ShowTunnelEndpoints,
    /// Reply: [`crate::IkeSas`].
    ShowIkeSa,
    /// Reply: [`crate::Multicast`].
    ShowMulticast,
    /// How a packet to this address would go. Reply: [`crate::Trace`].
    Trace {
        /// Destination; or tunnel or NBMA address of a peer.
        address: IpAddr,
    },
    /// Forgets dynamic cache entries. Reply: [`crate::Cleared`].
    ClearCache,
    /// Forgets shortcuts. Reply: [`crate::Cleared`].
    ClearShortcuts,
    /// Reads the configuration again. Reply: [`crate::Reloaded`].
    Reload,
    /// Forgets all about the peer with this tunnel or NBMA address. Reply: [`crate::Cleared`].
    ClearPeer {
        /// Tunnel or NBMA address.
        address: IpAddr,
    },
}

const PLAIN: [(&str, Request); 11] = [
    ("nhrpd.Control.ShowDmvpn", Request::ShowDmvpn),
    ("nhrpd.Control.ShowNhrpCache", Request::ShowNhrpCache),
    ("nhrpd.Control.ShowNhs", Request::ShowNhs),
    ("nhrpd.Control.ShowShortcuts", Request::ShowShortcuts),
    ("nhrpd.Control.ShowNhrpTraffic", Request::ShowNhrpTraffic),
    ("nhrpd.Control.ShowTunnelEndpoints", Request::ShowTunnelEndpoints),
    ("nhrpd.Control.ShowIkeSa", Request::ShowIkeSa),
    ("nhrpd.Control.ShowMulticast", Request::ShowMulticast),
    ("nhrpd.Control.ClearCache", Request::ClearCache),
    ("nhrpd.Control.ClearShortcuts", Request::ClearShortcuts),
    ("nhrpd.Control.Reload", Request::Reload),
];

const CLEAR_PEER: &str = "nhrpd.Control.ClearPeer";
const TRACE: &str = "nhrpd.Control.Trace";

/// Answered with one reply after the other. Replies: [`crate::Monitored`].
pub(crate) const MONITOR: &str = "nhrpd.Control.Monitor";

impl Request {
    /// Does it change the daemon's state? Such calls are for root and the socket's owner only.
    pub fn changes(&self) -> bool {
        matches!(
            self,
            Self::ClearCache | Self::ClearShortcuts | Self::ClearPeer { .. } | Self::Reload
        )
    }

    pub(crate) fn to_call(self) -> Value {
        let of_address = match self {
            Self::ClearPeer { address } => Some((CLEAR_PEER, address)),
            Self::Trace { address } => Some((TRACE, address)),
            _ => None,
        };
        if let Some((method, address)) = of_address {
            return json!({ "method": method, "parameters": { "address": address } });
        }
        let method = PLAIN.iter().find(|(_, request)| *request == self).map(|(name, _)| name);
        json!({ "method": method, "parameters": {} })
    }

    pub(crate) fn from_call(method: &str, parameters: &Value) -> Result<Self, Failure> {
        if matches!(method, CLEAR_PEER | TRACE) {
            let address = parameters.get("address").cloned().unwrap_or_default();
            return serde_json::from_value(address)
                .map(|address| match method {
                    TRACE => Self::Trace { address },
                    _ => Self::ClearPeer { address },
                })
                .map_err(|_| Failure::InvalidParameter { parameter: "address".into() });
        }
        match method.rsplit_once('.') {
            Some((INTERFACE, _)) => PLAIN
                .iter()
                .find(|(name, _)| *name == method)
                .map(|(_, request)| *request)
                .ok_or_else(|| Failure::MethodNotFound { method: method.into() }),
            Some((interface, _)) => Err(Failure::InterfaceNotFound { interface: interface.into() }),
            None => Err(Failure::InvalidParameter { parameter: "method".into() }),
        }
    }
}

/// Why a call was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "error", content = "parameters")]
pub enum Failure {
    /// Changing calls are for root and the owner of the socket.
    #[error("only root or the owner of the socket may do this")]
    #[serde(rename = "org.varlink.service.PermissionDenied")]
    PermissionDenied {},
    /// No such interface on this socket.
    #[error("nhrpd does not know the interface {interface}")]
    #[serde(rename = "org.varlink.service.InterfaceNotFound")]
    InterfaceNotFound {
        /// As asked for.
        interface: String,
    },
    /// No such method.
    #[error("nhrpd does not know {method}: is it another version than overlayctl?")]
    #[serde(rename = "org.varlink.service.MethodNotFound")]
    MethodNotFound {
        /// As asked for.
        method: String,
    },
    /// A parameter is missing or malformed.
    #[error("nhrpd does not accept the parameter {parameter}")]
    #[serde(rename = "org.varlink.service.InvalidParameter")]
    InvalidParameter {
        /// Its name.
        parameter: String,
    },
    /// This method has many replies; the call does not allow more than one.
    #[error("this call must allow more than one reply")]
    #[serde(rename = "org.varlink.service.ExpectedMore")]
    ExpectedMore {},
    /// The configuration is not good, or needs a restart; the former one holds.
    #[error("not reloaded, nothing has changed: {reason}")]
    #[serde(rename = "nhrpd.Control.NotReloaded")]
    NotReloaded {
        /// File, line and key.
        reason: String,
    },
    /// The daemon cannot answer now.
    #[error("nhrpd is busy: {reason}")]
    #[serde(rename = "nhrpd.Control.Busy")]
    Busy {
        /// What is exhausted.
        reason: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_survives_the_wire() {
        let address = "172.16.0.9".parse().unwrap();
        let of_address = [Request::ClearPeer { address }, Request::Trace { address }];
        for request in PLAIN.iter().map(|(_, request)| *request).chain(of_address) {
            let call = request.to_call();
            let method = call["method"].as_str().unwrap();
            assert!(
                DESCRIPTION.contains(&format!("method {}(", method.rsplit('.').next().unwrap()))
            );
            assert_eq!(Request::from_call(method, &call["parameters"]), Ok(request));
        }
    }

    #[test]
    fn what_is_not_there_is_named() {
        let refused = |method: &str| Request::from_call(method, &json!({})).unwrap_err();
        assert_eq!(
            refused("nhrpd.Control.Reboot"),
            Failure::MethodNotFound { method: "nhrpd.Control.Reboot".into() }
        );
        assert_eq!(
            refused("io.systemd.Manager.Describe"),
            Failure::InterfaceNotFound { interface: "io.systemd.Manager".into() }
        );
        assert_eq!(refused(CLEAR_PEER), Failure::InvalidParameter { parameter: "address".into() });
        assert_eq!(refused("x"), Failure::InvalidParameter { parameter: "method".into() });
    }

    #[test]
    fn only_clear_and_reload_change() {
        for (name, request) in PLAIN {
            let shows = name.starts_with("nhrpd.Control.Show");
            assert_ne!(request.changes(), shows, "{name}");
        }
    }

    #[test]
    fn a_failure_is_a_varlink_error() {
        let failure = Failure::Busy { reason: "x".into() };
        let value = serde_json::to_value(&failure).unwrap();
        assert_eq!(
            value,
            json!({ "error": "nhrpd.Control.Busy", "parameters": { "reason": "x" } })
        );
        assert_eq!(serde_json::from_value::<Failure>(value).unwrap(), failure);
    }
}
