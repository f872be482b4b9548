//! What crosses crates. [`sim`] drives whole nodes in virtual time, [`e2e`] real daemons in network
//! namespaces, [`mod@bench`] compares with other programs, [`scale`] one hub with very many clients; the scenarios in `tests/` use them.

pub mod bench;
pub mod e2e;
pub mod matrix;
pub mod scale;
pub mod sim;
