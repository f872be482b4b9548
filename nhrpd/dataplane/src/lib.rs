//! What carries the packets: [`userspace`] (TUN, GRE, ESP, WireGuard) or [`kernel`] (mGRE, xfrm).
//!
//! The daemon hands over what should be so ([`overlay::desired::Desired`]) and hears what was
//! seen ([`overlay::desired::Event`]).

mod error;
pub mod kernel;
mod mtu;
mod netlink;
mod plane;
pub mod probe;
pub mod underlay;
pub mod userspace;

pub use error::Error;
pub use kernel::Kernel;
pub use mtu::{Overhead, tunnel_mtu};
pub use netlink::ROUTE_PROTOCOL;
pub use plane::{DataPlane, esp_ciphers};
pub use userspace::{Config, Userspace};
