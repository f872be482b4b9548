//! How large a packet the tunnel carries.

use std::net::IpAddr;

/// Bytes of a WireGuard data message around its payload: type, receiver, counter and tag.
const WIREGUARD: u16 = 32;
/// WireGuard pads its payload to a multiple of this.
const PADDING: u16 = 16;
const UDP_HEADER: u16 = 8;

/// The largest inner IP packet, of either family, that reaches `endpoint` in one packet of the
/// underlay of `underlay_mtu` bytes. `key`: the GRE header has a key. `clear`: GRE directly on
/// the underlay, without WireGuard.
///
/// ```
/// let endpoint = "192.0.2.1".parse().unwrap();
/// assert_eq!(dataplane::tunnel_mtu(1500, endpoint, true, false), 1412);
/// assert_eq!(dataplane::tunnel_mtu(1500, endpoint, true, true), 1472);
/// ```
pub fn tunnel_mtu(underlay_mtu: u16, endpoint: IpAddr, key: bool, clear: bool) -> u16 {
    let ip = if endpoint.is_ipv4() { 20 } else { 40 };
    let gre = if key { 8 } else { 4 };
    if clear {
        return underlay_mtu.saturating_sub(ip + gre);
    }
    let payload = underlay_mtu.saturating_sub(ip + UDP_HEADER + WIREGUARD) / PADDING * PADDING;
    payload.saturating_sub(ip + gre)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_counted() {
        let v4 = IpAddr::from([192, 0, 2, 1]);
        let v6: IpAddr = "2001:db8::1".parse().unwrap();
        // 1500 - 20 IP - 8 UDP - 32 WireGuard = 1440; - 20 IP - 8 GRE with key
        assert_eq!(tunnel_mtu(1500, v4, true, false), 1412);
        assert_eq!(tunnel_mtu(1500, v4, false, false), 1416);
        // 1500 - 40 - 8 - 32 = 1420, padded 1408; - 40 - 8
        assert_eq!(tunnel_mtu(1500, v6, true, false), 1360);
        assert_eq!(tunnel_mtu(1492, v4, true, false), 1396);
        assert_eq!(tunnel_mtu(1500, v6, true, true), 1452);
        assert_eq!(tunnel_mtu(40, v6, true, false), 0);
    }
}
