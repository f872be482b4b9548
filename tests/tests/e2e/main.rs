//! Real daemons in network namespaces.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod cold_start;
mod faults;
mod flood;
mod hardening;
mod hostile;
mod ipv6;
mod ipv6_inside;
mod memory;
mod metrics;
mod monitor;
mod moving;
mod multicast;
mod nat;
mod operations;
mod refusals;
mod rekey;
mod reload;
mod restarts;
mod seed;
mod stranger;
mod volume;
mod wireguard;
