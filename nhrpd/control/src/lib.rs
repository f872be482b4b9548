//! The control socket: types, server, client.
//!
//! It speaks [varlink](https://varlink.org): one JSON object a message, each ended by a zero byte.
//! The interface is `nhrpd.Control`, described in `nhrpd.Control.varlink` and, on the socket, by
//! `org.varlink.service`, so that `varlinkctl introspect /run/nhrpd/nhrpd.sock nhrpd.Control` works.
//!
//! In the daemon, [`Server::run`] is one task. It hands each request as a [`Call`] to the task that
//! owns the state, which says [`Call::answer`] with its [`Handler`]. Programs use [`Client`].

mod client;
mod protocol;
mod server;
mod socket;
mod types;

pub use client::{Client, ClientError, Monitor};
pub use protocol::{DESCRIPTION, Failure, INTERFACE, Request};
#[cfg(any(test, fuzzing))]
pub use server::fuzz;
pub use server::{Call, Handler, Publisher, Server};
pub use socket::{BindError, Socket};
pub use types::*;

/// Where the daemon listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/nhrpd/nhrpd.sock";
