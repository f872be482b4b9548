//! Long messages in fragments (RFC 7383).

mod support;

use std::collections::BTreeMap;

use ike::DropReason;
use support::*;

/// With the non-ESP marker, UDP and IPv6 around it no more than 1280 bytes.
const LONGEST: usize = 1228;
const FRAGMENT: u8 = 53;

/// Two nodes with long chains of RSA certificates.
fn pair(seed: u64) -> Net {
    thread_local!(static CHAINS: [Credentials; 2] = {
        let authority = Authority::new().intermediate().intermediate().intermediate();
        ["a.example", "b.example"].map(|name| authority.issue(name, KeyKind::Rsa))
    });
    let mut net = Net::new(seed);
    CHAINS.with(|chains| {
        for chain in chains {
            net.add(chain.clone());
        }
    });
    net.record = Some(Vec::new());
    net
}

fn fragments(net: &Net) -> Vec<Flight> {
    let sent = net.record.clone().expect("it records");
    sent.into_iter().filter(|flight| flight.datagram[16] == FRAGMENT).collect()
}

#[test]
fn rfc7383_2_5_no_datagram_is_longer_than_every_path_carries() {
    let mut net = pair(1);
    net.initiate(A, B);
    net.settle();
    net.assert_one_sa();
    let sent = net.record.clone().unwrap();
    assert!(sent.iter().all(|flight| flight.datagram.len() <= LONGEST));
    // Of each message: exchange, direction, and how many.
    let mut pieces: BTreeMap<(u8, bool), usize> = BTreeMap::new();
    for flight in &sent {
        let response = flight.datagram[19] & 0x20 != 0;
        *pieces.entry((flight.datagram[18], response)).or_default() += 1;
    }
    assert_eq!((pieces[&(34, false)], pieces[&(34, true)]), (1, 1), "IKE_SA_INIT is never cut");
    assert_eq!(pieces[&(43, false)], 2, "ML-KEM's public key");
    assert_eq!(pieces[&(43, true)], 1, "ML-KEM's ciphertext");
    assert!(pieces[&(35, false)] == 2 && pieces[&(35, true)] == 2, "{pieces:?}");
}

#[test]
fn rfc7383_2_6_under_loss_repetition_and_reordering() {
    for seed in 0..40 {
        let mut net = pair(seed);
        (net.loss, net.duplication, net.delay) = (15, 20, (ms(1), ms(300)));
        net.initiate(A, B);
        if seed % 3 == 0 {
            net.initiate(B, A);
        }
        net.run(secs(60));
        (net.loss, net.duplication) = (0, 0);
        net.run(secs(60));
        if net.nodes[A].failures().is_empty() && net.nodes[B].failures().is_empty() {
            net.assert_one_sa();
        }
        assert!(!net.nodes[A].up.is_empty() || seed != 0, "the first seed succeeds");
        for node in &net.nodes {
            assert_eq!(node.drops(DropReason::NotAuthentic), 0);
        }
    }
}

#[test]
fn rfc7383_2_6_1_a_repeated_request_is_answered_once_not_once_for_each_fragment() {
    let mut net = pair(1);
    net.initiate(A, B);
    net.settle();
    let sent = net.record.clone().unwrap();
    let auth = |response: bool| {
        sent.iter()
            .filter(move |f| f.datagram[18] == 35 && (f.datagram[19] & 0x20 != 0) == response)
            .cloned()
            .collect::<Vec<_>>()
    };
    let (request, response) = (auth(false), auth(true));
    net.record = Some(Vec::new());
    for flight in request.iter().rev() {
        net.inject(B, flight.from, &flight.datagram);
    }
    let again = net.record.clone().unwrap();
    assert_eq!(again.len(), response.len());
    assert!(again.iter().zip(&response).all(|(a, b)| a.datagram == b.datagram));
    assert_eq!(net.nodes[B].drops(DropReason::Replayed), request.len() as u64 - 1);
    net.assert_one_sa();
}

/// Somebody on the path who cannot make a check value: changes numbers, content, mixes messages.
#[test]
fn forged_fragments_are_dropped_and_disturb_nothing() {
    let mut net = pair(1);
    net.initiate(A, B);
    let changes: [fn(&mut Vec<u8>); 5] = [
        |fragment| fragment[33] = 1,
        |fragment| fragment[35] = 200,
        |fragment| fragment[28] ^= 1,
        |fragment| *fragment.last_mut().unwrap() ^= 1,
        |fragment| fragment[23] ^= 1,
    ];
    let mut done = 0;
    for _ in 0..40 {
        for flight in fragments(&net).split_off(done) {
            done += 1;
            for change in changes {
                let mut forged = flight.datagram.clone();
                change(&mut forged);
                if forged != flight.datagram {
                    let to = usize::from(flight.to == net.nodes[B].address);
                    net.inject(to, flight.from, &forged);
                }
            }
        }
        net.run(ms(5));
    }
    net.assert_one_sa();
    let refused = |node: usize, reason| net.nodes[node].drops(reason);
    assert!(refused(B, DropReason::NotAuthentic) > 5);
    assert!(refused(A, DropReason::NotAuthentic) > 5);
}

#[test]
fn fragments_of_somebody_who_never_ends_are_forgotten() {
    let mut net = pair(1);
    net.initiate(A, B);
    net.run(ms(15));
    // From here on, B gets the first fragments only.
    for _ in 0..4000 {
        net.run(ms(5));
        net.drop_in_flight(|flight| flight.datagram[16] == FRAGMENT && flight.datagram[33] != 1);
    }
    net.run(secs(60));
    net.assert_no_sa();
    for node in &net.nodes {
        assert_eq!((node.engine.sas().count(), node.engine.half_open()), (0, 0));
    }
    let words = &net.nodes[A].failures()[0];
    assert!(words.contains("do large UDP datagrams pass"), "{words}");
}
