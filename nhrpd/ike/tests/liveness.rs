//! Retransmission, dead peers, deletion, moving (RFC 7296 §2.1–§2.4, §1.4, RFC 4555 §3.5).

mod support;

use ike::{DropReason, Event};
use support::*;

fn up() -> Net {
    let mut net = Net::pair(1);
    net.initiate(A, B);
    net.settle();
    net.assert_one_sa();
    net
}

fn id(net: &Net, node: usize) -> ike::SaId {
    net.nodes[node].established()[0].id
}

#[test]
fn rfc7296_2_4_a_quiet_peer_is_probed_and_answers() {
    let mut net = up();
    net.record = Some(Vec::new());
    net.run(secs(9));
    assert_eq!(net.record.as_ref().unwrap().len(), 0, "not before the interval");
    net.run(secs(3));
    assert!(net.record.as_ref().unwrap().len() >= 2);
    net.run(secs(600));
    net.assert_one_sa();
    let sent = net.record.unwrap().len();
    assert!((100..=260).contains(&sent), "{sent} messages in ten minutes");
}

#[test]
fn rfc7296_2_4_a_dead_peer_is_given_up_with_words() {
    let mut net = up();
    net.loss = 100;
    net.run(secs(9 + 16));
    net.assert_one_sa();
    net.run(secs(5));
    net.assert_no_sa();
    let words = &net.nodes[A].closings()[0];
    assert!(words.starts_with("dead peer: no answer from 192.0.2.2:4500"), "{words}");
    assert_eq!(net.nodes[A].engine.sas().count(), 0);
    assert_eq!(net.nodes[A].engine.poll_timeout(), None);
}

#[test]
fn rfc7296_2_1_requests_are_sent_again_ever_later() {
    let mut net = Net::pair(1);
    net.loss = 100;
    net.record = Some(Vec::new());
    let begun = net.now;
    net.initiate(A, B);
    let mut times = Vec::new();
    for tick in 0..2000 {
        net.run(ms(10));
        while net.record.as_ref().unwrap().len() > times.len() {
            times.push(ms(tick * 10));
        }
    }
    let sent = net.record.unwrap();
    assert!(sent.iter().all(|flight| flight.datagram == sent[0].datagram), "bitwise the same");
    let gaps: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    for (gap, least) in gaps.iter().zip([500, 1000, 2000, 4000, 4000]) {
        assert!((ms(least - 20)..ms(least + least / 8 + 20)).contains(gap), "{gaps:?}");
    }
    assert_eq!(gaps.len(), 5);
    assert!(net.now > begun);
}

#[test]
fn rfc7296_2_1_a_repeated_request_gets_the_same_response_again() {
    let mut net = Net::pair(1);
    net.record = Some(Vec::new());
    net.initiate(A, B);
    net.settle();
    let sent = net.record.replace(Vec::new()).unwrap();
    let [.., request, response] = &sent[..] else { panic!() };
    assert_eq!(request.datagram[18], 35);
    let from = net.nodes[A].address;
    net.inject(B, from, &request.datagram);
    let again = net.record.as_ref().unwrap();
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].datagram, response.datagram);
    net.settle();
    net.assert_one_sa();
    assert_eq!(net.nodes[B].established()[0].counters.repeated, 1);
}

#[test]
fn rfc7296_1_4_1_close_deletes_on_both_sides() {
    for closer in [A, B] {
        let mut net = up();
        let sa = id(&net, closer);
        net.close(closer, sa);
        assert_eq!(net.nodes[closer].closings(), ["closed by us"], "at once");
        net.settle();
        assert_eq!(net.nodes[1 - closer].closings(), ["deleted by the peer"]);
        for node in &net.nodes {
            assert_eq!(node.engine.sas().count(), 0);
            assert_eq!(node.engine.poll_timeout(), None);
        }
    }
}

#[test]
fn rfc7296_2_1_delete_survives_loss() {
    let authority = Authority::new();
    for seed in 0..40 {
        let mut net = Net::pair_of(seed, &authority);
        net.initiate(A, B);
        net.settle();
        net.loss = 40;
        let sa = id(&net, A);
        net.close(A, sa);
        net.run(secs(40));
        net.assert_no_sa();
    }
}

#[test]
fn rfc7296_1_4_1_both_sides_delete_at_once() {
    let mut net = up();
    for node in [A, B] {
        let sa = id(&net, node);
        net.close(node, sa);
    }
    net.run(secs(20));
    assert!(net.nodes.iter().all(|node| node.engine.sas().count() == 0));
    assert!(net.nodes.iter().all(|node| node.closings() == ["closed by us"]));
}

#[test]
fn close_waits_for_the_request_under_way() {
    let mut net = up();
    net.loss = 100;
    net.run(secs(10));
    assert!(net.nodes[A].established()[0].outstanding, "a probe is under way");
    let sa = id(&net, A);
    net.close(A, sa);
    net.loss = 0;
    net.run(secs(20));
    assert_eq!(net.nodes[B].closings(), ["deleted by the peer"]);
    assert!(net.nodes.iter().all(|node| node.engine.sas().count() == 0));
}

#[test]
fn close_during_the_handshake_leaves_nothing_on_either_side() {
    let authority = Authority::new();
    for millis in 0..60 {
        let mut net = Net::pair_of(millis, &authority);
        let sa = net.initiate(A, B);
        net.run(ms(millis));
        net.close(A, sa);
        net.run(secs(30));
        net.assert_no_sa();
        assert!(net.nodes.iter().all(|node| node.engine.sas().count() == 0));
        let outcomes = net.nodes[A].failures().len() + net.nodes[A].closings().len();
        assert_eq!(outcomes, 1);
    }
}

#[test]
fn rfc4555_3_5_a_node_that_moves_tells_its_peers() {
    for mover in [A, B] {
        let mut net = up();
        let new = address("203.0.113.7:4500");
        net.nodes[mover].address = new;
        net.update_addresses(mover);
        net.settle();
        let peer = &net.nodes[1 - mover];
        let moved = peer
            .events
            .iter()
            .filter(|e| matches!(e, Event::Moved { remote, .. } if *remote == new));
        assert_eq!(moved.count(), 1);
        assert_eq!(peer.established()[0].remote, new);
        assert!(net.nodes[mover].established()[0].remote != new);
        // And the other direction finds the way.
        let sa = id(&net, 1 - mover);
        net.close(1 - mover, sa);
        net.settle();
        assert_eq!(net.nodes[mover].closings(), ["deleted by the peer"]);
    }
}

#[test]
fn rfc4555_3_5_moving_is_announced_through_loss_and_while_a_probe_is_under_way() {
    let authority = Authority::new();
    for seed in 0..40 {
        let mut net = Net::pair_of(seed, &authority);
        net.initiate(A, B);
        net.settle();
        net.loss = 100;
        net.run(secs(11));
        net.loss = 30;
        net.nodes[A].address = address("203.0.113.7:4500");
        net.update_addresses(A);
        net.run(secs(12));
        net.assert_one_sa();
        assert_eq!(net.nodes[B].established()[0].remote, net.nodes[A].address, "seed {seed}");
    }
}

#[test]
fn rfc4555_3_5_a_handshake_goes_on_from_the_new_address() {
    let authority = Authority::new();
    for millis in [5, 15, 25, 35] {
        let mut net = Net::pair_of(millis, &authority);
        net.initiate(A, B);
        net.run(ms(millis));
        net.nodes[A].address = address("203.0.113.7:4500");
        net.update_addresses(A);
        net.run(secs(5));
        net.assert_one_sa();
        assert_eq!(net.nodes[B].established()[0].remote, net.nodes[A].address);
    }
}

#[test]
fn a_replayed_update_does_not_move_the_peer_back() {
    let mut net = up();
    net.record = Some(Vec::new());
    let (old, new) = (net.nodes[A].address, address("203.0.113.7:4500"));
    net.update_addresses(A);
    net.settle();
    let first = net.record.as_ref().unwrap()[0].datagram.clone();
    net.nodes[A].address = new;
    net.update_addresses(A);
    net.settle();
    let second = net.record.as_ref().unwrap()[2].datagram.clone();
    assert_eq!(net.nodes[B].established()[0].remote, new);
    for datagram in [&first, &second] {
        for from in [old, address("198.51.100.66:4500")] {
            net.inject(B, from, datagram);
            assert_eq!(net.nodes[B].established()[0].remote, new);
        }
    }
    assert_eq!(net.nodes[B].drops(DropReason::Replayed), 2, "the older one");
}

#[test]
fn rfc7296_2_23_a_rebinding_nat_is_noticed_at_the_next_request() {
    let mut net = up();
    let new = address("192.0.2.1:61000");
    net.nodes[A].address = new;
    net.nodes[A].aliases.clear();
    net.run(secs(40));
    net.assert_one_sa();
    assert_eq!(net.nodes[B].established()[0].remote, new);
}
