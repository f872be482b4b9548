//! The scenarios of `behaviour`, with ESP as the kernel carries it.

#[path = "behaviour/common.rs"]
mod common;

#[path = "behaviour/chaos.rs"]
mod chaos;
#[path = "behaviour/clear.rs"]
mod clear;
#[path = "behaviour/crash.rs"]
mod crash;
#[path = "behaviour/identity.rs"]
mod identity;
#[path = "behaviour/moving.rs"]
mod moving;
#[path = "behaviour/nat.rs"]
mod nat;
#[path = "behaviour/registration.rs"]
mod registration;
#[path = "behaviour/rekey.rs"]
mod rekey;
#[path = "behaviour/servers.rs"]
mod servers;
#[path = "behaviour/shortcut.rs"]
mod shortcut;

/// What the tunnels of this run are.
const KIND: ike::TunnelKind = ike::TunnelKind::Esp;
