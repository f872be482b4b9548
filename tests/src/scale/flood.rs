//! Key exchanges from addresses that do not exist.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use ike::DropReason;
use serde::Serialize;

use super::{Hub, Protection};

const PER_SECOND: u32 = 50_000;
/// Spokes that come in meanwhile.
const SPOKES: u32 = 20;

/// What a hub made of a flood of IKE_SA_INITs, each from another address.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Flood {
    /// How many came.
    pub messages: u32,
    /// Those that were asked for a cookie, and of which nothing was kept.
    pub refused: u64,
    /// Bytes that came, and bytes that were sent back.
    pub bytes: [usize; 2],
    /// The most heap that it held beyond what it held before and its spokes, bytes.
    pub kept: usize,
    /// Real spokes that came in while it went on, and registered.
    pub joined: usize,
    /// The hub's time for one message, microseconds.
    pub micros: f64,
}

/// Lets so many messages come, and now and then a real spoke. `live` tells the bytes of heap in use.
pub fn flood(messages: u32, live: impl Fn() -> usize) -> Flood {
    let mut hub = Hub::new(Protection::Esp);
    let init = hub.first_message();
    let (mut sent, mut real, mut kept) = (0, 0, 0);
    let mut busy = Duration::ZERO;
    let before = live();
    for n in 0..messages {
        let source = Ipv4Addr::from(0x0b00_0000 + n.wrapping_mul(0x9e37_79b1) % 0x5000_0000);
        let mut message = init.clone();
        message[..8].copy_from_slice(&(u64::from(n) << 8 | 1).to_be_bytes());
        let from = SocketAddr::from((source, 4500));
        let (answered, took) = hub.spoofed(from, message, PER_SECOND);
        sent += answered;
        busy += took;
        if n % (messages / SPOKES) == messages / SPOKES / 2 {
            real += 1;
            hub.join(real);
        }
        kept = kept.max(live().saturating_sub(before));
    }
    Flood {
        messages,
        refused: hub.dropped(DropReason::Cookie),
        bytes: [init.len() * messages as usize, sent],
        kept,
        joined: hub.bindings() / 2,
        micros: busy.as_secs_f64() * 1e6 / f64::from(messages),
    }
}
