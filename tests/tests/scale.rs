//! Memory and work of a hub for one spoke, counted, not timed: they do not depend on how many
//! spokes there are.

use std::alloc::System;

use overlay_tests::scale::{Hub, Protection};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static HEAP: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// What is promised for one spoke with an address and a LAN.
const BYTES: usize = 4096;

/// Bytes that stay, and calls of the allocator, for one of these spokes.
fn cost(hub: &mut Hub, spokes: std::ops::Range<u32>) -> (usize, f64) {
    let count = spokes.len();
    let mut calls = 0;
    let all = Region::new(HEAP);
    for n in spokes {
        let one = Region::new(HEAP);
        hub.join(n);
        calls += one.change().allocations;
    }
    let change = all.change();
    let kept = change.bytes_allocated - change.bytes_deallocated;
    (kept / count, calls as f64 / count as f64)
}

#[test]
fn a_spoke_with_keys_takes_four_kibibytes_at_most() {
    let mut hub = Hub::new(Protection::Esp);
    let (first, _) = cost(&mut hub, 1..501);
    let (then, _) = cost(&mut hub, 501..1501);
    assert_eq!((hub.paths(), hub.bindings()), (1500, 3000));
    println!("{first} bytes a spoke, then {then}");
    assert!(first.max(then) <= BYTES, "{first} bytes a spoke, then {then}");
    assert!(then < first + first / 10, "{first} bytes a spoke, then {then}");
}

#[test]
fn the_hundred_thousandth_spoke_costs_as_much_as_the_thousandth() {
    let mut hub = Hub::new(Protection::None);
    let (early, calls_early) = cost(&mut hub, 1..1_001);
    cost(&mut hub, 1_001..99_001);
    let (late, calls_late) = cost(&mut hub, 99_001..100_001);
    assert_eq!((hub.paths(), hub.bindings()), (100_000, 200_000));
    println!(
        "{early} bytes and {calls_early:.1} allocations a spoke, then {late} and {calls_late:.1}"
    );
    assert!(early.max(late) <= BYTES / 2, "{early} bytes a spoke, then {late}");
    assert!(calls_late <= calls_early * 1.3, "{calls_early:.1} allocations, then {calls_late:.1}");
}
