//! Strangers: limits, garbage, replays, mutated messages.

mod support;

use ike::{Algorithms, Config, DropReason};
use rand_core::Rng;
use support::*;

/// A fresh IKE_SA_INIT of somebody.
fn init(net: &mut Net) -> Vec<u8> {
    let node = &mut net.nodes[A];
    let mut engine = ike::Engine::new(Config::default());
    engine.initiate(net.now, node.address, &node.credentials, &mut node.rng);
    match engine.poll_output() {
        Some(ike::Output::Transmit { datagram, .. }) => datagram,
        other => panic!("{other:?}"),
    }
}

fn limited(half_open: usize, per_source: usize) -> Net {
    let authority = Authority::new();
    let mut net = Net::new(1);
    net.add(authority.issue("a.example", KeyKind::Ed25519));
    let config = Config { half_open, half_open_per_source: per_source, ..Config::default() };
    net.add_with(authority.issue("b.example", KeyKind::Ed25519), config, Algorithms::default());
    net
}

/// Somebody who has `from` begins: sends an IKE_SA_INIT, and the cookie if he is asked for one.
fn knock(net: &mut Net, from: std::net::SocketAddr) {
    let mut datagram = init(net);
    net.record = Some(Vec::new());
    net.inject(B, from, &datagram);
    let answer = net.record.take().and_then(|mut sent| sent.pop()).map(|flight| flight.datagram);
    // The notify COOKIE, alone.
    if let Some(answer) = answer.filter(|answer| answer[34..36] == [0x40, 0x06]) {
        assert!(answer.len() <= datagram.len());
        let first = std::mem::replace(&mut datagram[16], 41);
        let cookie = [&[first][..], &answer[29..]].concat();
        datagram.splice(28..28, cookie);
        let len = datagram.len() as u32;
        datagram[24..28].copy_from_slice(&len.to_be_bytes());
        net.inject(B, from, &datagram);
    }
}

#[test]
fn rfc7296_2_6_half_open_sas_are_limited_per_source_and_in_all() {
    let mut net = limited(10, 3);
    for port in 1..=5 {
        knock(&mut net, address(&format!("198.51.100.1:{port}")));
    }
    assert_eq!(net.nodes[B].engine.half_open(), 3);
    assert_eq!(net.nodes[B].drops(DropReason::HalfOpenPerSource), 2);
    for host in 2..=20 {
        knock(&mut net, address(&format!("198.51.100.{host}:500")));
    }
    assert_eq!(net.nodes[B].engine.half_open(), 10);
    assert_eq!(net.nodes[B].drops(DropReason::HalfOpenLimit), 12);
    net.run(secs(21));
    assert_eq!(net.nodes[B].engine.half_open(), 0);
    assert_eq!(net.nodes[B].drops(DropReason::HalfOpenExpired), 10);
    assert_eq!(net.nodes[B].engine.sas().count(), 0);
    assert!(net.nodes[B].events.is_empty(), "strangers make no noise");
}

#[test]
fn ipv6_sources_are_counted_by_their_first_64_bits() {
    let mut net = limited(100, 3);
    for host in 1..=5 {
        knock(&mut net, address(&format!("[2001:db8::{host}]:500")));
    }
    assert_eq!(net.nodes[B].engine.half_open(), 3);
    assert_eq!(net.nodes[B].drops(DropReason::HalfOpenPerSource), 2);
    knock(&mut net, address("[2001:db8:0:1::1]:500"));
    assert_eq!(net.nodes[B].engine.half_open(), 4);
}

/// Forged sources: nobody there reads an answer. Among them is that of the real peer.
#[test]
fn rfc7296_2_6_a_flood_of_forged_sources_keeps_nobody_out_and_fills_no_memory() {
    for loss in [0, 20] {
        let mut net = limited(80, 10);
        net.loss = loss;
        let flood = |net: &mut Net| {
            let real = net.nodes[A].address.ip();
            for n in 0..200u32 {
                let datagram = init(net);
                let forged = std::net::Ipv4Addr::from_bits(0xc633_0000 + n % 100).into();
                let ip = if n % 2 == 0 { real } else { forged };
                net.inject(B, std::net::SocketAddr::new(ip, 10_000 + n as u16), &datagram);
                assert!(net.nodes[B].engine.half_open() <= 11);
            }
        };
        flood(&mut net);
        assert_eq!(net.nodes[B].engine.half_open(), 10, "an eighth");
        net.initiate(A, B);
        for _ in 0..15 {
            flood(&mut net);
            net.run(secs(1));
        }
        net.assert_one_sa();
        assert!(net.nodes[B].drops(DropReason::Cookie) > 3000);
        assert_eq!(net.nodes[B].drops(DropReason::HalfOpenLimit), 0);
        assert_eq!(net.nodes[B].drops(DropReason::HalfOpenPerSource), 0);
        net.run(secs(30));
        assert_eq!(net.nodes[B].engine.half_open(), 0);
    }
}

#[test]
fn rfc7296_2_6_a_wrong_cookie_is_answered_with_a_right_one() {
    let mut net = limited(7, 10);
    net.record = Some(Vec::new());
    let datagram = init(&mut net);
    net.inject(B, address("198.51.100.1:500"), &datagram);
    let demand = net.record.as_ref().unwrap()[0].datagram.clone();
    let mut forged = datagram.clone();
    forged[16] = 41;
    forged.splice(28..28, [&[33][..], &demand[29..]].concat());
    *forged.get_mut(28 + 20).unwrap() ^= 1;
    let len = forged.len() as u32;
    forged[24..28].copy_from_slice(&len.to_be_bytes());
    net.inject(B, address("198.51.100.1:500"), &forged);
    assert_eq!(net.record.as_ref().unwrap()[1].datagram, demand);
    forged[28 + 20] ^= 1;
    net.inject(B, address("198.51.100.2:500"), &forged);
    assert_eq!(net.nodes[B].engine.half_open(), 0, "from elsewhere");
    net.inject(B, address("198.51.100.1:500"), &forged);
    assert_eq!(net.nodes[B].engine.half_open(), 1);
}

#[test]
fn a_real_peer_connects_after_a_flood_has_expired_and_leaves_no_half_open_behind() {
    let mut net = limited(10, 10);
    for host in 1..=100 {
        knock(&mut net, address(&format!("198.51.100.{host}:500")));
    }
    net.run(secs(9));
    net.initiate(A, B);
    net.run(secs(20));
    net.assert_one_sa();
    assert_eq!(net.nodes[B].engine.half_open(), 0);
}

#[test]
fn an_oversized_init_is_not_kept() {
    let mut net = limited(10, 10);
    let mut datagram = init(&mut net);
    // A further vendor ID, appended to the chain, that makes it too long.
    let vendor = [&[0, 0, 0x10, 0x00][..], &[7; 0x0ffc]].concat();
    append(&mut datagram, 43, &vendor);
    net.inject(B, address("198.51.100.1:500"), &datagram);
    assert_eq!(net.nodes[B].drops(DropReason::Malformed), 1);
    assert_eq!(net.nodes[B].engine.half_open(), 0);
}

/// Appends a payload to the chain of a message without protection.
fn append(datagram: &mut Vec<u8>, kind: u8, payload: &[u8]) {
    let mut next = 16;
    let mut at = 28;
    while at < datagram.len() {
        next = at;
        at += usize::from(u16::from_be_bytes([datagram[at + 2], datagram[at + 3]]));
    }
    datagram[next] = kind;
    datagram.extend_from_slice(payload);
    let len = datagram.len() as u32;
    datagram[24..28].copy_from_slice(&len.to_be_bytes());
}

#[test]
fn rfc7296_2_5_unknown_payloads_are_ignored_unless_critical() {
    for (flags, accepted) in [(0, true), (0x80, false)] {
        let mut net = limited(10, 10);
        net.record = Some(Vec::new());
        let mut datagram = init(&mut net);
        append(&mut datagram, 200, &[0, flags, 0, 6, 1, 2]);
        net.inject(B, address("198.51.100.1:500"), &datagram);
        assert_eq!(net.nodes[B].engine.half_open(), usize::from(accepted));
        let answer = &net.record.as_ref().unwrap()[0].datagram;
        if !accepted {
            // UNSUPPORTED_CRITICAL_PAYLOAD with the payload type.
            assert_eq!(answer[28..], [0, 0, 0, 9, 0, 0, 0, 1, 200]);
        }
    }
}

#[test]
fn rfc7296_2_5_a_higher_version_is_told_ours_and_a_lower_one_nothing() {
    for (version, answered) in [(0x30, true), (0x10, false)] {
        let mut net = limited(10, 10);
        net.record = Some(Vec::new());
        let mut datagram = init(&mut net);
        datagram[17] = version;
        net.inject(B, address("198.51.100.1:500"), &datagram);
        assert_eq!(net.nodes[B].drops(DropReason::Version), 1);
        let sent = net.record.as_ref().unwrap();
        assert_eq!(sent.len(), usize::from(answered));
        if answered {
            assert_eq!(sent[0].datagram[17], 0x20);
            assert_eq!(sent[0].datagram[28..], [0, 0, 0, 8, 0, 0, 0, 5]);
        }
    }
}

#[test]
fn rfc7296_2_1_a_repeated_init_gets_the_same_answer_and_no_second_sa() {
    let mut net = limited(10, 10);
    net.record = Some(Vec::new());
    let datagram = init(&mut net);
    let from = address("198.51.100.1:500");
    for _ in 0..3 {
        net.inject(B, from, &datagram);
    }
    let mut changed = datagram.clone();
    *changed.last_mut().unwrap() ^= 1;
    net.inject(B, from, &changed);
    assert_eq!(net.nodes[B].engine.half_open(), 1);
    assert_eq!(net.nodes[B].drops(DropReason::Replayed), 1);
    let sent = net.record.as_ref().unwrap();
    assert_eq!(sent.len(), 3);
    assert!(sent.iter().all(|flight| flight.datagram == sent[0].datagram));
}

#[test]
fn replaying_everything_from_everywhere_disturbs_nothing() {
    let mut net = Net::pair(1);
    net.record = Some(Vec::new());
    net.initiate(A, B);
    net.run(secs(35));
    let sent = net.record.take().unwrap();
    let keys = net.nodes[A].up.values().next().unwrap().clone();
    let remotes = [A, B].map(|node| net.nodes[node].established()[0].remote);
    for _ in 0..3 {
        for flight in &sent {
            for (node, from) in [
                (A, flight.from),
                (B, flight.from),
                (A, address("198.51.100.1:1")),
                (B, address("198.51.100.1:1")),
            ] {
                net.inject(node, from, &flight.datagram);
            }
        }
        net.run(secs(5));
    }
    net.assert_one_sa();
    assert_eq!(net.nodes[A].up.values().next().unwrap(), &keys);
    assert_eq!([A, B].map(|node| net.nodes[node].established()[0].remote), remotes);
    net.run(secs(30));
    for node in &net.nodes {
        assert_eq!(node.engine.sas().count(), 1, "nothing lasts of it");
        assert_eq!(node.engine.half_open(), 0);
    }
}

#[test]
fn garbage_and_cut_messages_leave_no_trace_and_never_amplify() {
    let mut net = Net::pair(1);
    net.initiate(A, B);
    net.settle();
    let real = init(&mut net);
    let from = address("198.51.100.1:500");
    for round in 0..20_000u32 {
        let datagram = if round % 2 == 0 {
            let mut bytes = vec![0; (net.rng.next_u32() % 400) as usize];
            net.rng.fill_bytes(&mut bytes);
            if bytes.len() >= 28 && round % 4 == 0 {
                bytes[17] = 0x20 | bytes[17] & 0x1f;
                bytes[18] = 34 + bytes[18] % 4;
                let len = bytes.len() as u32;
                bytes[24..28].copy_from_slice(&len.to_be_bytes());
            }
            bytes
        } else {
            let mut bytes = real[..(net.rng.next_u32() as usize) % real.len()].to_vec();
            if bytes.len() >= 28 {
                let len = bytes.len() as u32;
                bytes[24..28].copy_from_slice(&len.to_be_bytes());
            }
            bytes
        };
        let node = &mut net.nodes[B];
        node.engine.handle_datagram(
            net.now,
            (4500, from),
            &datagram,
            &node.credentials,
            &mut node.rng,
        );
        let mut answered = 0;
        while let Some(output) = node.engine.poll_output() {
            match output {
                ike::Output::Transmit { datagram, .. } => answered += datagram.len(),
                // Told to the layer above, which limits what comes of it.
                ike::Output::Event(ike::Event::Unknown { .. }) | ike::Output::KeyLog(_) => {}
                ike::Output::Event(event) => panic!("{event:?}"),
            }
        }
        assert!(answered <= datagram.len());
    }
    assert_eq!(net.nodes[B].engine.sas().count(), 1);
    net.run(secs(40));
    net.assert_one_sa();
}

/// Whoever mutates is on the path, or elsewhere.
#[test]
fn mutated_messages_of_a_real_session_never_harm_it() {
    let authority = Authority::new();
    for seed in 0..30 {
        let mut net = Net::pair_of(seed, &authority);
        net.record = Some(Vec::new());
        net.initiate(A, B);
        for _ in 0..200 {
            net.run(ms(1));
            let sent = net.record.as_ref().unwrap();
            let flight = sent[(net.rng.next_u32() as usize) % sent.len()].clone();
            let mut datagram = flight.datagram.clone();
            let at = (net.rng.next_u32() as usize) % datagram.len();
            datagram[at] ^= 1 << (net.rng.next_u32() % 8);
            let to = if flight.to == net.nodes[A].address { A } else { B };
            // IKE_SA_INIT is not protected: who changes it on the path can end the attempt.
            let on_path = seed % 2 == 0 && flight.datagram[18] != 34;
            let from = if on_path { flight.from } else { address("198.51.100.1:500") };
            net.inject(to, from, &datagram);
        }
        net.run(secs(45));
        net.assert_one_sa();
        assert_eq!(net.nodes[B].engine.half_open(), 0);
    }
}
