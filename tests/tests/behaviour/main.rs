//! How whole nodes behave, in virtual time: real NHRP, IKEv2 and certificates over a modelled data
//! plane and underlay (`overlay_tests::sim`). With WireGuard here; `behaviour_esp.rs` runs the same
//! with ESP.

mod common;

mod chaos;
mod clear;
mod crash;
mod identity;
mod moving;
mod nat;
mod reconfigure;
mod registration;
mod rekey;
mod servers;
mod shortcut;

/// What the tunnels of this run are.
const KIND: ike::TunnelKind = ike::TunnelKind::WireGuard;
