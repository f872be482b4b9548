//! The data plane in the kernel: what holds in userspace once more, and what only that one has.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod abilities;
mod adopted;
#[path = "../e2e/cold_start.rs"]
mod cold_start;
mod flapping;
mod flushed;
mod initial_contact;
mod inner;
#[path = "../e2e/ipv6_inside.rs"]
mod ipv6_inside;
mod mixed;
#[path = "../e2e/moving.rs"]
mod moving;
#[path = "../e2e/multicast.rs"]
mod multicast;
#[path = "../e2e/nat.rs"]
mod nat;
mod neighbours;
mod overrun;
mod path_mtu;
mod ports;
#[path = "../e2e/refusals.rs"]
mod refusals;
#[path = "../e2e/rekey.rs"]
mod rekey;
mod repair;
#[path = "../e2e/restarts.rs"]
mod restarts;
mod routing;
mod shared;
mod stored;
mod stream;
mod tables;
mod two_ways;
#[path = "../e2e/volume.rs"]
mod volume;
