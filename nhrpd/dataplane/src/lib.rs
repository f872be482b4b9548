//! What carries the packets: `userspace` (TUN, GRE, WireGuard), later `kernel`.
