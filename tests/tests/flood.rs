//! Key exchanges from addresses that do not exist: what the hub keeps of them is bounded, nobody gets
//! more bytes from it than it got, and who is real still comes in. `tests/bench-scale` lets a million
//! of them come.

use std::alloc::System;

use overlay_tests::scale::flood;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static HEAP: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// A few half-open key exchanges (the request and some 3 KiB each) and twenty spokes.
const BYTES: usize = 1 << 20;

#[test]
fn forged_key_exchanges_keep_nobody_out_and_leave_nothing() {
    let live = || HEAP.stats().bytes_allocated - HEAP.stats().bytes_deallocated;
    let flood = flood(50_000, live);
    println!("{flood:?}");
    assert_eq!(flood.joined, 20);
    assert!(flood.kept < BYTES, "{flood:?}");
    assert!(flood.refused > 49_000, "{flood:?}");
    assert!(flood.bytes[1] < flood.bytes[0] / 4, "{flood:?}");
}
