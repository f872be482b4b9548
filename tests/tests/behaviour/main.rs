//! How whole nodes behave, in virtual time: real NHRP, IKEv2 and certificates over a modelled data
//! plane and underlay (`overlay_tests::sim`).

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
