//! Certificates made by the small CA, by hand and by OpenSSL, loaded and judged.

#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers too")]

mod common;
mod fuzz_bodies;
mod load;
mod openssl;
mod verify;
