//! Certificates made by the small CA, by hand and by OpenSSL, loaded and judged.

mod common;
mod load;
mod openssl;
mod verify;
