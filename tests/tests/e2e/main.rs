//! Real daemons in network namespaces.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod cold_start;
mod hostile;
mod memory;
mod refusals;
mod restarts;
