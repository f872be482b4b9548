//! IPv6 below, and all over.

use overlay_tests::e2e::Numbers;

use crate::ipv6_inside::cold_start;

#[test]
fn ipv6_below() {
    cold_start("ipv6-below", Numbers { underlay_v6: true, ..Numbers::default() });
}

#[test]
fn ipv6_all_over() {
    cold_start("ipv6-all", Numbers { underlay_v6: true, overlay_v6: true });
}
