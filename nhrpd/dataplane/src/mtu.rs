//! How large a packet the tunnel carries.

use std::net::IpAddr;

/// What a path adds to GRE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overhead {
    /// GRE directly on the underlay.
    Clear,
    /// A WireGuard data message around an IP packet.
    WireGuard,
    /// ESP with an AEAD in transport mode, in UDP.
    Esp,
}

/// Bytes of a WireGuard data message around its payload: type, receiver, counter and tag.
const WIREGUARD: u16 = 32;
/// WireGuard pads its payload to a multiple of this.
const PADDING: u16 = 16;
const UDP_HEADER: u16 = 8;
/// SPI, sequence number, IV and ICV (RFC 4106 §4).
const ESP: u16 = 8 + 8 + 16;
/// Pad length and next header, within what is padded to a multiple of four.
const ESP_TRAILER: u16 = 2;
const ESP_PADDING: u16 = 4;

/// The largest inner IP packet, of either family, that reaches `endpoint` in one packet of the
/// underlay of `underlay_mtu` bytes. `key`: the GRE header has a key.
///
/// ```
/// use dataplane::Overhead;
/// let endpoint = "192.0.2.1".parse().unwrap();
/// assert_eq!(dataplane::tunnel_mtu(1500, endpoint, true, Overhead::WireGuard), 1412);
/// assert_eq!(dataplane::tunnel_mtu(1500, endpoint, true, Overhead::Clear), 1472);
/// ```
pub fn tunnel_mtu(underlay_mtu: u16, endpoint: IpAddr, key: bool, overhead: Overhead) -> u16 {
    let ip = if endpoint.is_ipv4() { 20 } else { 40 };
    let gre = if key { 8 } else { 4 };
    match overhead {
        Overhead::Clear => underlay_mtu.saturating_sub(ip + gre),
        Overhead::WireGuard => {
            let room = underlay_mtu.saturating_sub(ip + UDP_HEADER + WIREGUARD);
            (room / PADDING * PADDING).saturating_sub(ip + gre)
        }
        Overhead::Esp => {
            let room = underlay_mtu.saturating_sub(ip + UDP_HEADER + ESP);
            (room / ESP_PADDING * ESP_PADDING).saturating_sub(ESP_TRAILER + gre)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_counted() {
        let v4 = IpAddr::from([192, 0, 2, 1]);
        let v6: IpAddr = "2001:db8::1".parse().unwrap();
        use Overhead::{Clear, Esp, WireGuard};
        // 1500 - 20 IP - 8 UDP - 32 WireGuard = 1440; - 20 IP - 8 GRE with key
        assert_eq!(tunnel_mtu(1500, v4, true, WireGuard), 1412);
        assert_eq!(tunnel_mtu(1500, v4, false, WireGuard), 1416);
        // 1500 - 40 - 8 - 32 = 1420, padded 1408; - 40 - 8
        assert_eq!(tunnel_mtu(1500, v6, true, WireGuard), 1360);
        assert_eq!(tunnel_mtu(1492, v4, true, WireGuard), 1396);
        assert_eq!(tunnel_mtu(1500, v6, true, Clear), 1452);
        // 1500 - 20 - 8 - 8 ESP - 8 IV - 16 ICV = 1440; - 2 trailer - 8 GRE
        assert_eq!(tunnel_mtu(1500, v4, true, Esp), 1430);
        assert_eq!(tunnel_mtu(1499, v4, true, Esp), 1426);
        assert_eq!(tunnel_mtu(40, v6, true, WireGuard), 0);
    }
}
