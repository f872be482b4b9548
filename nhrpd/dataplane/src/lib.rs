//! What carries the packets: [`userspace`] (TUN, GRE, ESP, WireGuard), later `kernel`.
//!
//! The daemon hands over what should be so ([`overlay::desired::Desired`]) and hears what was
//! seen ([`overlay::desired::Event`]).

mod error;
mod mtu;
mod netlink;
pub mod probe;
pub mod underlay;
pub mod userspace;

pub use error::Error;
pub use mtu::{Overhead, tunnel_mtu};
pub use netlink::ROUTE_PROTOCOL;
pub use probe::probe;
pub use userspace::{Config, ESP_CIPHERS, Userspace};
