//! What happened in a run, to be read when a test fails.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use nhrp::wire::{Body, Packet};
use overlay::Notice;

use super::NodeId;
use super::plane::{EspPacket, Inner, Payload};
use super::tunnel::Message;

/// One line of the log. Words are made of it only when somebody reads it.
#[derive(Debug)]
pub(super) enum Entry {
    /// A test did something.
    Deed(String),
    Notice(NodeId, Notice),
    Sent(SocketAddr, SocketAddr, u32, Payload),
    /// So many packets since it was told last; the last of them has this number.
    Dropped(NodeId, u32, &'static str, u32),
}

/// The last entries of a run.
#[derive(Debug, Default)]
pub(super) struct Trace {
    entries: VecDeque<(Duration, Entry)>,
    /// When a node's dropping for this reason was told last, and how often it happened since.
    drops: BTreeMap<(NodeId, &'static str), (Duration, u32)>,
}

/// Lines that are kept.
const KEPT: usize = 1000;
/// Packets that a node drops for one reason in this time are one line.
const DROPS: Duration = Duration::from_secs(10);

impl Trace {
    /// A node dropped a packet.
    pub(super) fn dropped(
        &mut self,
        at: Duration,
        node: NodeId,
        reason: &'static str,
        number: u32,
    ) {
        let (told, count) = self.drops.entry((node, reason)).or_default();
        *count += 1;
        if *told == Duration::ZERO || at >= *told + DROPS {
            let entry = Entry::Dropped(node, *count, reason, number);
            (*told, *count) = (at, 0);
            self.add(at, entry);
        }
    }

    pub(super) fn add(&mut self, at: Duration, entry: Entry) {
        if let Entry::Sent(.., payload) = &entry
            && !tells(payload)
        {
            return;
        }
        if self.entries.len() == KEPT {
            self.entries.pop_front();
        }
        self.entries.push_back((at, entry));
    }
}

/// Data and keepalives are too many to be read.
fn tells(payload: &Payload) -> bool {
    !matches!(
        payload,
        Payload::WireGuard(_, Message::Data(_, _, None | Some(Inner::Ip(_))))
            | Payload::Gre(Inner::Ip(_))
            | Payload::Esp(EspPacket { inner: Inner::Ip(_), .. })
    )
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, entry) in &self.entries {
            writeln!(f, "{:>12.6}  {entry}", at.as_secs_f64())?;
        }
        Ok(())
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deed(words) => write!(f, "* {words}"),
            Self::Notice(node, notice) => write!(f, "{node}: {notice}"),
            Self::Dropped(node, 1, reason, number) => {
                write!(f, "{node}: dropped packet {number}: {reason}")
            }
            Self::Dropped(node, count, reason, last) => {
                write!(f, "{node}: dropped {count} packets, last {last}: {reason}")
            }
            Self::Sent(from, to, copies, payload) => {
                write!(f, "    {from} > {to}  {payload}")?;
                match copies {
                    0 => f.write_str("  LOST"),
                    1 => Ok(()),
                    n => write!(f, "  ×{n}"),
                }
            }
        }
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ike(bytes) => ike(f, bytes),
            Self::WireGuard(key, message) => {
                write!(f, "WireGuard {:02x}{:02x} ", key[0], key[1])?;
                match message {
                    Message::Initiation(n) => write!(f, "initiation {n}"),
                    Message::Response(n) => write!(f, "response {n}"),
                    Message::Data(_, _, None) => f.write_str("keepalive"),
                    Message::Data(_, _, Some(inner)) => inner.fmt(f),
                }
            }
            Self::Esp(packet) => {
                write!(f, "ESP {:08x} number {} {}", packet.spi, packet.sequence, packet.inner)
            }
            Self::Gre(inner) => write!(f, "GRE {inner}"),
        }
    }
}

impl fmt::Display for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nhrp(bytes) => match Packet::decode(bytes).map(|packet| packet.body) {
                Ok(Body::Query(query)) => {
                    write!(f, "{:?} {}", query.operation, query.request_id)?;
                    for address in [query.source_protocol, query.destination_protocol] {
                        match address {
                            Some(address) => write!(f, " {address}")?,
                            None => f.write_str(" -")?,
                        }
                    }
                    for cie in &query.entries {
                        write!(f, " [code {} {:?}]", cie.code, cie.prefix())?;
                    }
                    Ok(())
                }
                Ok(Body::Error(error)) => write!(f, "ErrorIndication {error:?}"),
                Ok(Body::Traffic(_)) => f.write_str("TrafficIndication"),
                Err(error) => write!(f, "bad NHRP: {error}"),
            },
            Self::Ip(packet) => {
                write!(f, "{} > {} number {}", packet.source, packet.destination, packet.number)
            }
        }
    }
}

/// Exchange, direction, message id and SPIs (RFC 7296 §3.1).
fn ike(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    let Some(header) = bytes.first_chunk::<28>() else { return f.write_str("IKE, truncated") };
    let exchange = match header[18] {
        34 => "IKE_SA_INIT",
        35 => "IKE_AUTH",
        36 => "CREATE_CHILD_SA",
        37 => "INFORMATIONAL",
        _ => "exchange unknown",
    };
    let direction = if header[19] & 0x20 == 0 { "request" } else { "response" };
    let id = u32::from_be_bytes([header[20], header[21], header[22], header[23]]);
    write!(f, "IKE {exchange} {direction} {id}, SPIs {:02x}{:02x}", header[0], header[1])?;
    write!(f, " {:02x}{:02x}, {} bytes", header[8], header[9], bytes.len())
}
