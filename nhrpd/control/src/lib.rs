//! The control socket: types, server, client.
