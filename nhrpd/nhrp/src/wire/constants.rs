//! Numbers of the protocol.

/// GRE protocol type that carries NHRP (RFC 2784 header, RFC 2332 §8.3 SNAP PID).
pub const GRE_PROTOCOL_TYPE: u16 = 0x2001;

/// Packet types (ar$op.type, RFC 2332 §5.1). Types 1–6 are [`super::Operation`].
pub mod packet_type {
    /// Error Indication (§5.2.7).
    pub const ERROR_INDICATION: u8 = 7;
    /// Traffic Indication (draft-detienne-dmvpn).
    pub const TRAFFIC_INDICATION: u8 = 8;
}

/// Bits of [`super::Query::flags`]; their meaning depends on the packet type.
pub mod flags {
    /// Resolution: Q, the requester is a router (RFC 2332 §5.2.1).
    pub const ROUTER: u16 = 0x8000;
    /// Resolution: A, authoritative information wanted or given (§5.2.1, §5.2.2).
    pub const AUTHORITATIVE: u16 = 0x4000;
    /// Resolution Reply: D, the destination's binding is stable (§5.2.2).
    pub const DESTINATION_STABLE: u16 = 0x2000;
    /// Resolution: U, unique bindings only (§5.2.1).
    pub const RESOLUTION_UNIQUE: u16 = 0x1000;
    /// Resolution: S, the source's binding is stable (§5.2.1).
    pub const SOURCE_STABLE: u16 = 0x0800;
    /// Resolution and registration: the sender knows Cisco's NAT address extension.
    pub const NAT: u16 = 0x0002;
    /// Registration: U, this binding only (§5.2.3).
    pub const REGISTRATION_UNIQUE: u16 = 0x8000;
    /// Purge Request: N, no reply expected (§5.2.5).
    pub const NO_REPLY: u16 = 0x8000;
}

/// Values of [`super::Cie::code`] in replies (RFC 2332 §5.2.2, §5.2.4).
pub mod code {
    /// Acknowledged; also the value in requests.
    pub const SUCCESS: u8 = 0;
    /// Administratively prohibited.
    pub const PROHIBITED: u8 = 4;
    /// Insufficient resources.
    pub const INSUFFICIENT_RESOURCES: u8 = 5;
    /// Resolution: no internetworking-layer address to NBMA address binding exists.
    pub const NO_BINDING: u8 = 12;
    /// Resolution: a binding exists but is not unique.
    pub const NOT_UNIQUE: u8 = 13;
    /// Registration: the unique address is already registered.
    pub const ALREADY_REGISTERED: u8 = 14;
}

/// Values of [`super::ErrorIndication::error_code`] (RFC 2332 §5.2.7, RFC 2735 §2).
pub mod error_code {
    /// A compulsory extension is not known.
    pub const UNRECOGNIZED_EXTENSION: u16 = 1;
    /// The packet runs in a loop.
    pub const LOOP_DETECTED: u16 = 3;
    /// No way to the protocol address.
    pub const PROTOCOL_ADDRESS_UNREACHABLE: u16 = 6;
    /// Any other fault: version, protocol type, checksum, lengths.
    pub const PROTOCOL_ERROR: u16 = 7;
    /// The packet is larger than the NBMA network's MTU.
    pub const SDU_SIZE_EXCEEDED: u16 = 8;
    /// An extension is malformed or does not belong into this packet type.
    pub const INVALID_EXTENSION: u16 = 9;
    /// A Resolution Reply that answers no request of ours.
    pub const INVALID_RESOLUTION_REPLY: u16 = 10;
    /// Authentication failed.
    pub const AUTHENTICATION_FAILURE: u16 = 11;
    /// The hop count ran out.
    pub const HOP_COUNT_EXCEEDED: u16 = 15;
    /// VPN mismatch (RFC 2735).
    pub const VPN_MISMATCH: u16 = 16;
    /// VPN unsupported (RFC 2735).
    pub const VPN_UNSUPPORTED: u16 = 17;
}

/// Values of [`super::TrafficIndication::code`].
pub mod traffic_code {
    /// A better path may exist: resolve the destination of the packet inside.
    pub const REDIRECT: u16 = 0;
}

/// Extension types (RFC 2332 §5.3).
pub mod extension_type {
    /// Ends the list (§5.3.0).
    pub const END: u16 = 0;
    /// Responder Address (§5.3.1).
    pub const RESPONDER_ADDRESS: u16 = 3;
    /// Forward Transit NHS Record (§5.3.2).
    pub const FORWARD_TRANSIT_NHS: u16 = 4;
    /// Reverse Transit NHS Record (§5.3.3).
    pub const REVERSE_TRANSIT_NHS: u16 = 5;
    /// Authentication (§5.3.4).
    pub const AUTHENTICATION: u16 = 7;
    /// Vendor Private (§5.3.5).
    pub const VENDOR_PRIVATE: u16 = 8;
    /// Cisco's NAT address; RFC 2735 gave the same number to device capabilities.
    pub const NAT_ADDRESS: u16 = 9;
}
