//! What only WireGuard does, and so no other data plane than that in userspace.

use crate::rekey::nothing_is_lost;

#[test]
fn wireguard_keys_every_five_seconds() {
    nothing_is_lost("rekey-wireguard", "wireguard");
}
