use std::io;

/// What hinders the data plane from starting.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No TUN driver.
    #[error("/dev/net/tun: {0}: load the driver (modprobe tun), or give the container that device")]
    NoTun(#[source] io::Error),
    /// Not allowed to make a TUN device.
    #[error("/dev/net/tun: permission denied: run as root or give CAP_NET_ADMIN")]
    TunPermission,
    /// The interface name is taken.
    #[error(
        "interface {0} exists already: stop the program that made it, remove it \
         (ip link delete {0}), or set another name"
    )]
    InterfaceExists(String),
    /// A GRE device of that name is there, which others made with other parameters.
    #[error(
        "interface {interface} exists already, and cannot be used as it is: {reason}: remove it \
         (ip link delete {interface}) and the daemon makes one, make it as \
         `ip link add {interface} type {kind}`, or set another `tunnel.interface`"
    )]
    InterfaceUnfit {
        /// Its name.
        interface: String,
        /// What differs.
        reason: String,
        /// What it would have to be, in words of `ip link`.
        kind: String,
    },
    /// Somebody removed the device of a running tunnel.
    #[error("interface {0} was removed: starting again makes it anew")]
    InterfaceGone(String),
    /// Linux does not take this name.
    #[error("interface name {0:?}: needs 1 to 15 bytes, without '/', '%' and white space")]
    InterfaceName(String),
    /// The device was made, but could not be configured.
    #[error("interface {interface}: cannot {action}: {reason}")]
    Interface {
        /// Its name.
        interface: String,
        /// What was tried.
        action: String,
        /// What the kernel said.
        reason: String,
    },
    /// Another program has the UDP port.
    #[error("UDP port {0} is in use: stop the program that has it (ss -ulpn), or set another port")]
    PortInUse(u16),
    /// The underlay device does not exist.
    #[error("underlay device {0} does not exist (ip link)")]
    NoUnderlay(String),
    /// Not allowed to make a raw socket.
    #[error("raw socket for GRE (protocol 47): permission denied: run as root or give CAP_NET_RAW")]
    RawPermission,
    /// Neither IPv4 nor IPv6.
    #[error("cannot make a socket on the underlay: {0}")]
    Socket(#[source] io::Error),
    /// Something that the kernel data plane needs is not to be had.
    #[error(
        "the kernel data plane needs {what}: {reason} (`nhrpd check` says what this kernel has)"
    )]
    Lacking {
        /// What it is.
        what: String,
        /// Why, and what to do.
        reason: String,
    },
    /// No netlink.
    #[error("cannot talk to the kernel by rtnetlink: {0}")]
    Netlink(#[source] io::Error),
    /// No more threads.
    #[error("cannot start a thread: {0}")]
    Thread(#[source] io::Error),
}
