//! What one packet and one message cost, in instructions that callgrind counts, and how many it may be:
//! `tests/instructions`.
#![allow(missing_docs, reason = "what the macros make")]

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use dataplane::userspace::parts::{Esp, Stream, Table, WireGuard};
use gungraun::{
    Callgrind, EventKind, LibraryBenchmarkConfig, library_benchmark, library_benchmark_group, main,
};
use ike::wire::{Header, Payload, decode_plain, encode_plain};
use ipnet::{IpNet, Ipv4Net};
use nhrp::engine::Engine;
use nhrp::wire::{DecodeError, Packet};
use overlay::desired::PeerId;
use overlay_tests::scale::{Hub, Protection, registration, serve, server};

/// 5 % and 100 instructions more than were counted when this was written.
fn near(counted: u64) -> LibraryBenchmarkConfig {
    let limit = counted + counted / 20 + 100;
    let mut callgrind = Callgrind::default();
    callgrind.hard_limits([(EventKind::Ir, limit)]);
    let mut config = LibraryBenchmarkConfig::default();
    config.tool(callgrind);
    config
}

/// Both ends of an SA, a packet, and where it is opened to. It went through once: what is done
/// at the first packet only does not count.
struct Sa {
    esp: Esp,
    len: usize,
    packet: Vec<u8>,
    /// Length of what was sealed.
    sealed: usize,
    out: Vec<u8>,
}

fn sa(len: usize) -> Box<Sa> {
    let esp = Esp::new().expect("a processor that has what ESP needs");
    let [packet, out] = [esp.buffer(len), esp.buffer(len)];
    let mut sa = Box::new(Sa { esp, len, packet, sealed: 0, out });
    sa.seal();
    sa.open();
    sa
}

impl Sa {
    fn seal(&mut self) {
        self.sealed = self.esp.seal(&mut self.packet, self.len).expect("room for the packet");
    }

    fn open(&mut self) {
        let opened = self.esp.open(&self.packet[..self.sealed], &mut self.out);
        assert_eq!(opened, Some(self.len));
    }
}

/// With a packet that can be opened.
fn sealed(len: usize) -> Box<Sa> {
    let mut sa = sa(len);
    sa.seal();
    sa
}

#[library_benchmark]
#[bench::of_92(args = (92), setup = sa, config = near(1_571))]
#[bench::of_1400(args = (1_400), setup = sa, config = near(4_985))]
fn esp_seal(mut sa: Box<Sa>) -> Box<Sa> {
    sa.seal();
    sa
}

#[library_benchmark]
#[bench::of_92(args = (92), setup = sealed, config = near(1_491))]
#[bench::of_1400(args = (1_400), setup = sealed, config = near(5_009))]
fn esp_open(mut sa: Box<Sa>) -> Box<Sa> {
    sa.open();
    sa
}

/// After the handshake, and a packet: its length.
fn wireguard(len: usize) -> Box<(WireGuard, usize)> {
    let mut ends = Box::new((WireGuard::new(len).expect("a socket"), len));
    assert!(ends.0.seal(len));
    let sent = ends.0.receive().expect("the packet");
    assert_eq!(ends.0.open(sent), Some(len));
    ends
}

/// With what can be opened, and its length.
fn wireguard_sealed(len: usize) -> Box<(WireGuard, usize)> {
    let mut ends = wireguard(len);
    assert!(ends.0.seal(len));
    ends.1 = ends.0.receive().expect("the packet");
    ends
}

#[library_benchmark]
#[bench::of_92(args = (92), setup = wireguard, config = near(2_702))]
#[bench::of_1400(args = (1_400), setup = wireguard, config = near(10_290))]
fn wireguard_seal(mut ends: Box<(WireGuard, usize)>) -> (bool, Box<(WireGuard, usize)>) {
    let len = ends.1;
    (ends.0.seal(len), ends)
}

#[library_benchmark]
#[bench::of_92(args = (92), setup = wireguard_sealed, config = near(2_439))]
#[bench::of_1400(args = (1_400), setup = wireguard_sealed, config = near(9_768))]
fn wireguard_open(mut ends: Box<(WireGuard, usize)>) -> (Option<usize>, Box<(WireGuard, usize)>) {
    let len = ends.1;
    (ends.0.open(len), ends)
}

/// A large packet that was cut and joined before.
fn stream(segments: usize) -> Box<Stream> {
    let mut stream = Box::new(Stream::new(segments));
    assert_eq!(stream.cut(), Some(segments));
    assert_eq!(stream.join(), Some((1, stream.bytes())));
    stream
}

#[library_benchmark]
#[bench::into_48(args = (48), setup = stream, config = near(52_765))]
fn segment(mut stream: Box<Stream>) -> (Option<usize>, Box<Stream>) {
    (stream.cut(), stream)
}

#[library_benchmark]
#[bench::of_48(args = (48), setup = stream, config = near(61_602))]
fn coalesce(mut stream: Box<Stream>) -> (Option<(usize, usize)>, Box<Stream>) {
    (stream.join(), stream)
}

fn lan(n: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0a00_0000 + (n << 6))
}

fn table() -> Table {
    let own = IpNet::from(Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 1), 12));
    Table::new(own, (0..1_000).map(|n| Ipv4Net::new_assert(lan(n), 26).into()))
}

#[library_benchmark]
#[bench::of_1000(args = (), setup = table, config = near(882))]
fn lookup(table: Table) -> (Option<PeerId>, Table) {
    (table.departure(IpAddr::from(lan(677))), table)
}

#[library_benchmark]
#[bench::of_1000(args = (), setup = table, config = near(1_063))]
fn forward(table: Table) -> (Option<PeerId>, Table) {
    (table.arrival(PeerId(701), lan(700).into(), lan(677).into()), table)
}

fn request() -> Vec<u8> {
    registration(1_001)
}

fn packet() -> Packet {
    Packet::decode(&request()).expect("a request of ours")
}

#[library_benchmark]
#[bench::registration(args = (), setup = request, config = near(5_404))]
fn nhrp_decode(request: Vec<u8>) -> (Result<Packet, DecodeError>, Vec<u8>) {
    (Packet::decode(&request), request)
}

#[library_benchmark]
#[bench::registration(args = (), setup = packet, config = near(2_136))]
fn nhrp_encode(packet: Packet) -> (Vec<u8>, Packet) {
    (packet.encode(), packet)
}

/// What comes next, and when.
struct Server(Engine, Instant, Vec<u8>);

impl Server {
    fn serve(&mut self) {
        serve(&mut self.0, 1_001, &self.2, self.1);
    }
}

fn with_1000() -> Box<Server> {
    let (server, now) = server(1_000);
    Box::new(Server(server, now, request()))
}

fn with_1001() -> Box<Server> {
    let mut server = with_1000();
    server.serve();
    server
}

#[library_benchmark]
#[bench::new(args = (), setup = with_1000, config = near(24_228))]
#[bench::again(args = (), setup = with_1001, config = near(18_800))]
fn registration_at_one_with_1000(mut server: Box<Server>) -> Box<Server> {
    server.serve();
    server
}

fn datagram() -> (Header, Vec<u8>) {
    let datagram = Hub::new(Protection::Esp).first_message();
    (Header::decode(&datagram).expect("a message of ours"), datagram)
}

fn payloads() -> (Header, Vec<Payload>) {
    let (header, datagram) = datagram();
    (header, decode_plain(&header, &datagram).expect("a message of ours"))
}

#[library_benchmark]
#[bench::sa_init(args = (), setup = datagram, config = near(16_975))]
fn ike_decode((header, datagram): (Header, Vec<u8>)) -> Result<Vec<Payload>, ike::wire::Error> {
    decode_plain(&header, &datagram)
}

#[library_benchmark]
#[bench::sa_init(args = (), setup = payloads, config = near(14_067))]
fn ike_encode((header, payloads): (Header, Vec<Payload>)) -> (Vec<u8>, Vec<Payload>) {
    (encode_plain(header, &payloads), payloads)
}

library_benchmark_group!(
    name = packets,
    benchmarks =
        [esp_seal, esp_open, wireguard_seal, wireguard_open, segment, coalesce, lookup, forward]
);
library_benchmark_group!(
    name = messages,
    benchmarks = [nhrp_decode, nhrp_encode, registration_at_one_with_1000, ike_decode, ike_encode]
);
main!(library_benchmark_groups = [packets, messages]);
