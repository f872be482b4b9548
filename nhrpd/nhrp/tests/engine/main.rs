//! The engine, in networks of two to four nodes in virtual time and packet by packet. The tests
//! of the protocol's rules carry the RFC section in their names.

mod errors;
mod extensions;
mod indication;
mod interop;
mod limits;
mod nat;
mod network;
mod purge;
mod reconfigure;
mod registration;
mod resolution;
mod script;
#[path = "../../fuzz/engine.rs"]
mod script_body;
mod server;
mod show;
mod transit;
