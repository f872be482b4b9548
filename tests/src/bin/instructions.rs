//! What `tests/instructions` lets callgrind count: one packet, one message. Without callgrind it
//! only says the names of what would be counted, in order.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

use dataplane::userspace::parts::{Esp, Table};
use ike::wire::{Header, decode_plain, encode_plain};
use ipnet::{IpNet, Ipv4Net};
use nhrp::wire::Packet;
use overlay::desired::PeerId;
use overlay_tests::scale::{Hub, Protection, registration, serve, server};

/// Callgrind counts in here, and writes down what it counted at every return.
#[inline(never)]
fn counted(work: &mut dyn FnMut()) {
    work();
}

fn count(name: &str, mut work: impl FnMut()) {
    println!("{name}");
    counted(&mut work);
}

fn lan(n: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0a00_0000 + (n << 6))
}

/// Each twice: what is done once, at the first packet, does not count.
fn esp(len: usize) {
    let Some(esp) = Esp::new() else { return };
    let [mut packet, mut out] = [esp.buffer(len), esp.buffer(len)];
    let sealed = esp.seal(&mut packet, len).unwrap_or_default();
    esp.open(&packet[..sealed], &mut out);
    count(&format!("esp-seal-{len}"), || {
        black_box(esp.seal(&mut packet, len));
    });
    let mut opened = None;
    count(&format!("esp-open-{len}"), || opened = esp.open(&packet[..sealed], &mut out));
    assert_eq!(opened, Some(len));
}

fn lookup() {
    let own = IpNet::from(Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 1), 12));
    let table = Table::new(own, (0..1_000).map(|n| Ipv4Net::new_assert(lan(n), 26).into()));
    let [source, destination] = [700, 677].map(|n| IpAddr::from(lan(n)));
    count("lookup-of-1000", || {
        black_box(table.departure(black_box(destination)));
    });
    count("forward-of-1000", || {
        black_box(table.arrival(PeerId(701), source, black_box(destination)));
    });
}

fn nhrp() {
    let request = registration(1_001);
    let packet = Packet::decode(&request);
    count("nhrp-decode", || {
        let _ = black_box(Packet::decode(&request));
    });
    if let Ok(packet) = packet {
        count("nhrp-encode", || {
            black_box(packet.encode());
        });
    }
    let (mut server, now) = server(1_000);
    count("register-of-1000", || serve(&mut server, 1_001, &request, now));
    count("renew-of-1000", || serve(&mut server, 1_001, &request, now));
}

fn ike() -> Result<(), ike::wire::Error> {
    let datagram = Hub::new(Protection::Esp).first_message();
    let header = Header::decode(&datagram)?;
    let payloads = decode_plain(&header, &datagram)?;
    count("ike-decode", || {
        let _ = black_box(decode_plain(&header, &datagram));
    });
    count("ike-encode", || {
        black_box(encode_plain(header, &payloads));
    });
    Ok(())
}

fn main() {
    esp(92);
    esp(1_400);
    lookup();
    nhrp();
    if let Err(error) = ike() {
        eprintln!("instructions: {error}");
    }
}
