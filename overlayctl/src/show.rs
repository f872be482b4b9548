//! Replies of the daemon as text for people. Shapes and abbreviations are those of Cisco's
//! `show dmvpn` and `show ip nhrp`; what is not there follows them.

mod dmvpn;
mod nhrp;
mod paths;
#[cfg(test)]
mod tests;
mod trace;

pub(crate) use dmvpn::dmvpn;
pub(crate) use nhrp::{cache, nhs, shortcuts, traffic};
pub(crate) use paths::{endpoints, ike_sa, ipsec_sa, multicast};
pub(crate) use trace::{Traced, trace};
