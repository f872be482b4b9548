//! Asks an IKE responder for nothing, and hears whether it is there.
//!
//! A request in a major version that does not exist yet is answered with INVALID_MAJOR_VERSION
//! (RFC 7296 §2.5): every IKEv2 responder does so without any state, and a request may be as long
//! as the path is to be tried.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use quinn_udp::UdpSocketState;

/// Before IKE on UDP port 4500 (RFC 3948 §2.2).
const MARKER: usize = 4;
const HEADER: usize = 28;
/// The smallest packet that says something.
pub(super) const SMALLEST: u16 = 100;
const WAIT: Duration = Duration::from_millis(700);

/// Sends requests from one socket.
pub(super) struct Prober {
    socket: UdpSocket,
    target: SocketAddr,
}

impl Prober {
    /// To `target`, from `source` or whatever address the kernel chooses; from the same port, which
    /// firewalls let pass, unless a daemon has it.
    pub(super) fn new(target: SocketAddr, source: Option<IpAddr>) -> io::Result<Self> {
        let any = match target {
            SocketAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
        };
        let source = source.unwrap_or(any);
        let socket =
            UdpSocket::bind((source, target.port())).or_else(|_| UdpSocket::bind((source, 0)))?;
        // Sets "do not fragment", and to send what is larger than the kernel believes the path is.
        UdpSocketState::new((&socket).into())?;
        socket.set_nonblocking(false)?;
        socket.connect(target)?;
        Ok(Self { socket, target })
    }

    /// Is an IP packet of `size` bytes answered? An error is what the system says of it.
    pub(super) fn answered(&self, size: u16, tries: u32) -> io::Result<bool> {
        let headers = if self.target.is_ipv4() { 28 } else { 48 };
        let length = usize::from(size.max(SMALLEST)) - headers;
        for _ in 0..tries {
            let spi: [u8; 8] = rand::random();
            match self.socket.send(&request(spi, length)) {
                Ok(_) => {}
                // What an earlier one brought back from the way there; the next call tells anew.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    return Err(error);
                }
                Err(error) => return Err(error),
            }
            if self.reply(spi)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn reply(&self, spi: [u8; 8]) -> io::Result<bool> {
        let give_up = Instant::now() + WAIT;
        let mut buffer = [0; 2048];
        loop {
            let left = give_up.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            self.socket.set_read_timeout(Some(left))?;
            match self.socket.recv(&mut buffer) {
                Ok(length) if buffer[..length].get(MARKER..MARKER + 8) == Some(&spi) => {
                    return Ok(true);
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }
}

/// `length` bytes of UDP payload: IKE_SA_INIT of version 3.0, filled up with nothing.
fn request(spi: [u8; 8], length: usize) -> Vec<u8> {
    let mut datagram = vec![0; length.max(MARKER + HEADER)];
    datagram[MARKER..MARKER + 8].copy_from_slice(&spi);
    datagram[MARKER + 17] = 0x30;
    datagram[MARKER + 18] = 34;
    datagram[MARKER + 19] = 0x08;
    let ike = (datagram.len() - MARKER) as u32;
    datagram[MARKER + 24..MARKER + 28].copy_from_slice(&ike.to_be_bytes());
    datagram
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers requests of up to `most` bytes of UDP payload.
    fn responder(most: usize) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 65_536];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let request = &buffer[..length];
                assert_eq!(request[MARKER + 17], 0x30);
                let said =
                    u32::from_be_bytes(request[MARKER + 24..MARKER + 28].try_into().unwrap());
                assert_eq!(said as usize, length - MARKER);
                if length <= most {
                    socket.send_to(&request[..MARKER + HEADER], from).unwrap();
                }
            }
        });
        address
    }

    #[test]
    fn size_is_that_of_the_ip_packet() {
        let prober = Prober::new(responder(1_272), None).unwrap();
        assert!(prober.answered(SMALLEST, 1).unwrap());
        assert!(prober.answered(1_300, 1).unwrap());
        assert!(!prober.answered(1_301, 1).unwrap());
    }

    #[test]
    fn nobody_there_is_an_error_and_no_silence() {
        // The port is taken at another address, so that the prober does not get it itself.
        let other = UdpSocket::bind("127.0.0.2:0").unwrap();
        let closed =
            SocketAddr::new(Ipv4Addr::LOCALHOST.into(), other.local_addr().unwrap().port());
        let prober = Prober::new(closed, None).unwrap();
        assert_eq!(
            prober.answered(SMALLEST, 1).unwrap_err().kind(),
            io::ErrorKind::ConnectionRefused
        );
    }
}
