//! The data plane in the kernel: the foundation's scenario once more, and what only that one has.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

#[path = "../e2e/cold_start.rs"]
mod cold_start;
mod mixed;
mod tables;
