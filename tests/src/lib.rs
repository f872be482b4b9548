//! What crosses crates. [`sim`] drives whole nodes in virtual time; the scenarios in `tests/`
//! use it, or real daemons in network namespaces.

pub mod sim;
