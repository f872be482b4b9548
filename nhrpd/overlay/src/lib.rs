//! One tunnel's brain: peers, next-hop servers, shortcuts, keys. Sans-IO.

pub mod desired;
