//! Real packets of others: every one is read, and written again as it was.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;

use lab::Recorded;
use overlay_tests::e2e::{good, nhrp};

fn recorded(name: &str) -> Vec<Recorded> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(name);
    let file = good("open a capture", File::open(&path));
    good("read a capture", lab::capture::read(file).collect())
}

/// Recorded by `tests/kernel_frr.rs` on the hub's cable.
#[test]
fn frr_and_ours() {
    let mut kinds = BTreeSet::new();
    for name in ["frr-hub.pcap", "frr-spokes.pcap"] {
        let recorded = recorded(name);
        let packets = nhrp::packets(&recorded);
        assert_eq!(packets.len(), recorded.len(), "{name}: nothing but NHRP is kept in it");
        kinds.extend(packets.iter().map(|seen| seen.packet.packet_type()));
    }
    assert_eq!(kinds, BTreeSet::from([1, 2, 3, 4, 5, 6, 8]));
}
