//! The way back of [`super::segment`]: TCP segments that came out of the tunnel one after the
//! other, and UDP datagrams of one length, go to the kernel as one large packet.

use super::ip::{self, Checksum, Header};
use super::segment::{Transport, Vnet};
use super::tun::Offloads;

const ACK: u8 = 0x10;
const PSH: u8 = 0x08;
/// Flows that are collected at one time.
const FLOWS: usize = 8;
const LARGEST: usize = 65_535;
/// Datagrams that the kernel takes in one piece (UDP_MAX_SEGMENTS before Linux 6.9).
const DATAGRAMS: usize = 64;

/// Where a packet goes: the queue of the device, its virtio header, and the packet.
pub(crate) trait Write: FnMut(usize, &Vnet, &[u8]) {}
impl<F: FnMut(usize, &Vnet, &[u8])> Write for F {}

/// Collects segments; within one flow nothing overtakes.
#[derive(Debug)]
pub(crate) struct Coalescer {
    flows: [Flow; FLOWS],
    next: usize,
    offloads: Offloads,
}

#[derive(Debug, Default)]
struct Flow {
    /// The large packet so far; empty = this place is free.
    packet: Vec<u8>,
    queue: usize,
    transport: Transport,
    ip_len: usize,
    header_len: usize,
    /// Payload bytes of each segment but the last.
    size: usize,
    segments: usize,
    next_sequence: u32,
    /// The last segment was the last of its kind: shorter, or with PSH.
    closed: bool,
}

/// What may be joined with others: a TCP segment with payload and no flags but ACK and PSH, or a
/// UDP datagram with payload and checksum; no IP options, no fragment.
struct Segment {
    transport: Transport,
    ip_len: usize,
    header_len: usize,
    /// Only of TCP.
    sequence: u32,
    psh: bool,
}

impl Segment {
    fn parse(transport: Transport, header: &Header, packet: &[u8]) -> Option<Self> {
        let ip_len = header.header_len;
        if header.fragment || (packet[0] >> 4 == 4 && ip_len != 20) {
            return None;
        }
        let segment = match transport {
            Transport::Tcp => {
                let tcp: &[u8; 20] = packet.get(ip_len..)?.first_chunk()?;
                let len = usize::from(tcp[12] >> 4) * 4;
                let plain = tcp[12] & 0x0f == 0 && tcp[13] & !PSH == ACK && len >= 20;
                plain.then(|| Self {
                    transport,
                    ip_len,
                    header_len: ip_len + len,
                    sequence: u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]),
                    psh: tcp[13] & PSH != 0,
                })?
            }
            Transport::Udp => {
                let udp: &[u8; 8] = packet.get(ip_len..)?.first_chunk()?;
                let whole =
                    usize::from(u16::from_be_bytes([udp[4], udp[5]])) == packet.len() - ip_len;
                // One that may be cut needs the identification that its sender gave it.
                let plain = whole && udp[6..] != [0, 0] && !header.fragmentable;
                let header_len = ip_len + 8;
                plain.then_some(Self { transport, ip_len, header_len, sequence: 0, psh: false })?
            }
        };
        (segment.header_len < packet.len()).then_some(segment)
    }

    /// The kernel will compute the checksum of the large packet anew, so a wrong one must not
    /// be hidden by it.
    fn checksum_is_right(&self, packet: &[u8]) -> bool {
        Checksum::default()
            .pseudo_header(packet, self.transport.protocol())
            .number((packet.len() - self.ip_len) as u16)
            .bytes(&packet[self.ip_len..])
            .folded()
            == [0xff, 0xff]
    }
}

/// Addresses and ports.
fn flow_of(packet: &[u8], ip_len: usize) -> (&[u8], &[u8]) {
    let addresses = if packet[0] >> 4 == 4 { &packet[12..20] } else { &packet[8..40] };
    (addresses, &packet[ip_len..ip_len + 4])
}

impl Flow {
    fn is_flow_of(&self, transport: Transport, packet: &[u8], ip_len: usize) -> bool {
        !self.packet.is_empty()
            && self.transport == transport
            && self.ip_len == ip_len
            && self.packet[0] == packet[0]
            && flow_of(&self.packet, ip_len) == flow_of(packet, ip_len)
    }

    fn start(&mut self, queue: usize, segment: &Segment, packet: &[u8]) {
        self.packet.clear();
        self.packet.extend_from_slice(packet);
        self.queue = queue;
        self.transport = segment.transport;
        self.ip_len = segment.ip_len;
        self.header_len = segment.header_len;
        self.size = packet.len() - segment.header_len;
        self.segments = 1;
        self.next_sequence = segment.sequence.wrapping_add(self.size as u32);
        self.closed = segment.psh;
    }

    fn takes(&self, segment: &Segment, packet: &[u8]) -> bool {
        let len = packet.len() - segment.header_len;
        let same_ip = if packet[0] >> 4 == 4 {
            // TOS; DF; TTL
            self.packet[1] == packet[1]
                && self.packet[6] == packet[6]
                && self.packet[8] == packet[8]
        } else {
            // traffic class and flow label; hop limit
            self.packet[..4] == packet[..4] && self.packet[7] == packet[7]
        };
        let tcp = self.ip_len;
        let follows = match self.transport {
            Transport::Udp => self.segments < DATAGRAMS,
            Transport::Tcp => {
                self.next_sequence == segment.sequence
                    // acknowledgement; window; options
                    && self.packet[tcp + 8..tcp + 12] == packet[tcp + 8..tcp + 12]
                    && self.packet[tcp + 14..tcp + 16] == packet[tcp + 14..tcp + 16]
                    && self.packet[tcp + 20..self.header_len] == packet[tcp + 20..self.header_len]
            }
        };
        !self.closed
            && self.header_len == segment.header_len
            && len <= self.size
            && self.packet.len() + len <= LARGEST
            && same_ip
            && follows
    }

    fn append(&mut self, segment: &Segment, packet: &[u8]) {
        let payload = &packet[segment.header_len..];
        self.packet.extend_from_slice(payload);
        if segment.psh {
            self.packet[self.ip_len + 13] |= PSH;
        }
        self.segments += 1;
        self.next_sequence = self.next_sequence.wrapping_add(payload.len() as u32);
        self.closed = segment.psh || payload.len() < self.size;
    }

    fn flush(&mut self, write: &mut impl Write) {
        if self.packet.is_empty() {
            return;
        }
        let vnet = if self.segments == 1 {
            Vnet::default()
        } else {
            let v6 = self.packet[0] >> 4 == 6;
            let total = self.packet.len();
            ip::set_length(&mut self.packet, self.ip_len, total);
            // Below 64 KiB.
            let len = (total - self.ip_len) as u16;
            if self.transport == Transport::Udp {
                self.packet[self.ip_len + 4..][..2].copy_from_slice(&len.to_be_bytes());
            }
            let pseudo = Checksum::default()
                .pseudo_header(&self.packet, self.transport.protocol())
                .number(len)
                .folded();
            let field = self.ip_len + self.transport.checksum_offset();
            self.packet[field..field + 2].copy_from_slice(&pseudo);
            Vnet::large(self.transport, v6, self.ip_len, self.header_len, self.size)
        };
        write(self.queue, &vnet, &self.packet);
        self.packet.clear();
    }
}

impl Coalescer {
    /// `offloads`: which large packets the device takes.
    pub(crate) fn new(offloads: Offloads) -> Self {
        // Room that is not filled is not touched either.
        let flow = |_| Flow { packet: Vec::with_capacity(LARGEST), ..Flow::default() };
        Self { flows: std::array::from_fn(flow), next: 0, offloads }
    }

    /// Takes a packet for a queue of the device, whose header is `header`, and writes what is
    /// ready.
    pub(crate) fn push(
        &mut self,
        queue: usize,
        header: &Header,
        packet: &[u8],
        write: &mut impl Write,
    ) {
        let transport = match header.protocol {
            ip::TCP if self.offloads.tso => Transport::Tcp,
            ip::UDP if self.offloads.uso => Transport::Udp,
            _ => return write(queue, &Vnet::default(), packet),
        };
        if packet.len() < header.header_len + 4 {
            return write(queue, &Vnet::default(), packet);
        }
        let same = |flow: &Flow| flow.is_flow_of(transport, packet, header.header_len);
        let known = self.flows.iter().position(same);
        let segment = Segment::parse(transport, header, packet)
            .filter(|segment| segment.checksum_is_right(packet));
        match (known, segment) {
            (Some(known), Some(segment)) => {
                let flow = &mut self.flows[known];
                if flow.takes(&segment, packet) {
                    flow.append(&segment, packet);
                } else {
                    flow.flush(write);
                    flow.start(queue, &segment, packet);
                }
            }
            (None, Some(segment)) => {
                let free = self.flows.iter().position(|flow| flow.packet.is_empty());
                let place = free.unwrap_or_else(|| {
                    self.next = (self.next + 1) % FLOWS;
                    self.next
                });
                self.flows[place].flush(write);
                self.flows[place].start(queue, &segment, packet);
            }
            (known, None) => {
                if let Some(known) = known {
                    self.flows[known].flush(write);
                }
                write(queue, &Vnet::default(), packet);
            }
        }
    }

    /// Writes all that is left.
    pub(crate) fn flush(&mut self, write: &mut impl Write) {
        for flow in &mut self.flows {
            flow.flush(write);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ip::tests::{udp, udp6};
    use super::super::segment::Segments;
    use super::*;
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    fn segment(v6: bool, port: u16, sequence: u32, ack: u32, psh: bool, payload: &[u8]) -> Vec<u8> {
        let step = if v6 {
            PacketBuilder::ipv6([0xfd; 16], [0xfe; 16], 64)
        } else {
            PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
        };
        let mut step = step.tcp(port, 2000, sequence, 4096).ack(ack);
        if psh {
            step = step.psh();
        }
        let mut packet = Vec::new();
        step.write(&mut packet, payload).unwrap();
        if !v6 {
            packet[4..6].fill(0);
            let len = packet.len();
            ip::set_length(&mut packet, 20, len);
        }
        packet
    }

    /// What the kernel makes of the writes: packets as small as those that came.
    fn pass(packets: &[Vec<u8>]) -> (Vec<Vec<u8>>, usize) {
        let mut coalescer = Coalescer::new(Offloads { tso: true, uso: true });
        let mut written = Vec::new();
        let mut write =
            |_: usize, vnet: &Vnet, packet: &[u8]| written.push((*vnet, packet.to_vec()));
        for packet in packets {
            coalescer.push(0, &Header::parse(packet).unwrap(), packet, &mut write);
        }
        coalescer.flush(&mut write);
        let writes = written.len();
        let mut out = Vec::new();
        for (vnet, mut packet) in written {
            let segments = Segments::new(vnet, &mut packet).unwrap();
            let mut buffer = vec![0; segments.longest()];
            for i in 0..segments.count() {
                let len = segments.write(i, &packet, &mut buffer);
                let mut one = buffer[..len].to_vec();
                if one[0] >> 4 == 4 {
                    one[4..6].fill(0);
                    ip::set_length(&mut one, 20, len);
                }
                out.push(one);
            }
        }
        (out, writes)
    }

    #[test]
    fn a_run_of_segments_is_one_write_and_says_the_same() {
        for v6 in [false, true] {
            let mut packets: Vec<_> = (0..20u32)
                .map(|i| {
                    segment(
                        v6,
                        1,
                        i.wrapping_mul(1000).wrapping_sub(3000),
                        5,
                        false,
                        &[i as u8; 1000],
                    )
                })
                .collect();
            packets.push(segment(v6, 1, 17000, 5, true, &[9; 300]));
            let (out, writes) = pass(&packets);
            assert_eq!(writes, 1);
            assert_eq!(out, packets);
        }
    }

    #[test]
    fn what_does_not_follow_begins_anew() {
        let packets = [
            segment(false, 1, 0, 5, false, &[1; 100]),
            segment(false, 1, 100, 6, false, &[2; 100]),
            segment(false, 1, 300, 6, false, &[3; 100]),
            segment(false, 1, 400, 6, false, &[4; 101]),
        ];
        let (out, writes) = pass(&packets);
        assert_eq!((out.as_slice(), writes), (packets.as_slice(), 4));
    }

    #[test]
    fn a_wrong_checksum_is_passed_on_as_it_came() {
        let mut packets = [
            segment(false, 1, 0, 5, false, &[1; 100]),
            segment(false, 1, 100, 5, false, &[2; 100]),
        ];
        packets[1][60] ^= 0xff;
        let (out, writes) = pass(&packets);
        assert_eq!((out.as_slice(), writes), (packets.as_slice(), 2));
    }

    #[test]
    fn the_large_packet_never_passes_64_kib() {
        let packets: Vec<_> =
            (0..60u32).map(|i| segment(false, 1, i * 1400, 5, false, &[i as u8; 1400])).collect();
        let (out, writes) = pass(&packets);
        assert_eq!(writes, 2);
        assert_eq!(out, packets);
    }

    /// Datagram `n` of a flow, with `len` bytes of payload.
    fn datagram(v6: bool, n: u8, len: usize) -> Vec<u8> {
        if v6 {
            return udp6("fd00::1", "fd00::2", 64, &vec![n; len]);
        }
        let mut packet = udp([10, 0, 0, 1], [10, 0, 0, 2], 64, &vec![n; len]);
        packet[4..6].fill(0);
        let len = packet.len();
        ip::set_length(&mut packet, 20, len);
        packet
    }

    #[test]
    fn datagrams_of_one_length_are_one_write_which_a_shorter_one_ends() {
        for v6 in [false, true] {
            let lengths = [64; 20].into_iter().chain([10, 64, 64, 65]);
            let packets: Vec<_> = (0..).zip(lengths).map(|(n, len)| datagram(v6, n, len)).collect();
            let (out, writes) = pass(&packets);
            assert_eq!((out, writes), (packets, 3));
        }
        let packets: Vec<_> = (0..100).map(|n| datagram(false, n, 8)).collect();
        assert_eq!(pass(&packets), (packets, 2));
    }

    #[test]
    fn datagrams_without_checksum_or_that_may_be_cut_stay_alone() {
        let change = |how: fn(&mut Vec<u8>)| {
            let mut packets: Vec<_> = (0..5).map(|n| datagram(false, n, 64)).collect();
            packets.iter_mut().for_each(how);
            let (out, writes) = pass(&packets);
            assert_eq!((out, writes), (packets, 5));
        };
        change(|packet| packet[26..28].fill(0));
        change(|packet| {
            packet[6] = 0;
            ip::set_length(packet, 20, 20 + 8 + 64);
        });
        change(|packet| packet[30] ^= 1);
    }

    proptest! {
        /// Small domains, so that flows, sequences and acknowledgements meet.
        #[test]
        fn each_flow_keeps_its_packets_and_their_order(
            steps in proptest::collection::vec(
                (any::<bool>(), 0u16..10, 0u32..4, 0u32..2, any::<bool>(), 0usize..3), 0..60),
        ) {
            let packets: Vec<_> = steps
                .iter()
                .map(|&(v6, port, seq, ack, psh, len)| {
                    segment(v6, port, seq * 100, ack, psh, &vec![port as u8; len * 100])
                })
                .collect();
            let (out, _) = pass(&packets);
            let flow = |packet: &[u8]| {
                let ip_len = if packet[0] >> 4 == 4 { 20 } else { 40 };
                let (addresses, ports) = flow_of(packet, ip_len);
                (addresses.to_vec(), ports.to_vec())
            };
            prop_assert_eq!(out.len(), packets.len());
            for packet in &packets {
                let of = |all: &[Vec<u8>]| -> Vec<Vec<u8>> {
                    all.iter().filter(|p| flow(p) == flow(packet)).cloned().collect()
                };
                prop_assert_eq!(of(&out), of(&packets));
            }
        }
    }
}
