//! What CREATE_CHILD_SA is refused with (RFC 7296 §1.3, §2.25, §3.10.1); the SA stays.

use std::net::IpAddr;

use super::{ask, notify};
use crate::child;
use crate::crypto::suite::Algorithms;
use crate::support::{A, B, Net, secs};
use crate::tunnel::child_payloads;
use crate::wire::{
    self, Exchange, Notify, NotifyType, PROTOCOL_ESP, PROTOCOL_IKE, Payload, Proposal,
};
use crate::{EspProposal, TunnelKind, X25519};

fn up() -> Net {
    let mut net = Net::pair_with(1, &[TunnelKind::Esp], &[TunnelKind::Esp]);
    net.initiate(A, B);
    net.run(secs(3));
    net.assert_one_sa();
    net.record = Some(Vec::new());
    net
}

fn host(net: &Net, node: usize) -> IpAddr {
    net.nodes[node].address.ip()
}

/// What a good request for a further CHILD_SA holds.
fn wish(net: &Net) -> Vec<Payload> {
    let plain = |esp: EspProposal| EspProposal { groups: vec![None], ..esp };
    let esp: Vec<_> = EspProposal::defaults().into_iter().map(plain).collect();
    let [a, b] = [A, B].map(|node| child::gre(host(net, node)));
    let mut payloads = child_payloads(child::proposals(&esp, 0x1234_5678), a, b);
    payloads.push(Payload::Nonce(vec![7; 32]));
    payloads
}

fn refused(change: impl Fn(&mut Vec<Payload>)) -> Vec<Payload> {
    let mut net = up();
    let mut payloads = wish(&net);
    change(&mut payloads);
    let (first, chain) = wire::encode_chain(&payloads);
    let answer = ask(&mut net, Exchange::CREATE_CHILD_SA, first, &chain);
    net.assert_one_sa();
    answer
}

#[test]
fn rfc7296_2_25_child_sa_not_found_names_it() {
    let rekey = Notify {
        protocol: PROTOCOL_ESP,
        spi: vec![9, 9, 9, 9],
        kind: NotifyType::REKEY_SA,
        data: Vec::new(),
    };
    let answer = refused(|payloads| payloads.insert(0, Payload::Notify(rekey.clone())));
    let missing = Notify { kind: NotifyType::CHILD_SA_NOT_FOUND, ..rekey };
    assert_eq!(answer, [Payload::Notify(missing)]);
}

#[test]
fn rfc7296_2_9_ts_unacceptable_where_the_selectors_hold_no_gre_between_the_two() {
    let answer = refused(|payloads| {
        for payload in payloads {
            if let Payload::SelectorsResponder(selectors) = payload {
                selectors[0].protocol = 6;
            }
        }
    });
    assert_eq!(answer, notify(NotifyType::TS_UNACCEPTABLE, &[]));
}

#[test]
fn rfc7296_2_7_no_proposal_chosen_also_for_tunnel_mode() {
    let answer = refused(|payloads| {
        for payload in payloads {
            if let Payload::SecurityAssociation(proposals) = payload {
                proposals.iter_mut().for_each(|p| p.transforms.iter_mut().for_each(|t| t.id = 3));
            }
        }
    });
    assert_eq!(answer, notify(NotifyType::NO_PROPOSAL_CHOSEN, &[]));
    let answer = refused(|payloads| drop(payloads.remove(0)));
    assert_eq!(answer, notify(NotifyType::NO_PROPOSAL_CHOSEN, &[]));
}

#[test]
fn rfc7296_1_3_invalid_ke_payload_names_the_group_that_is_wanted() {
    let with_group = |esp: EspProposal| EspProposal { groups: vec![Some(&X25519)], ..esp };
    let esp: Vec<_> = EspProposal::defaults().into_iter().map(with_group).collect();
    let proposals = child::proposals(&esp, 0x1234_5678);
    let answer = refused(|payloads| {
        payloads[1] = Payload::SecurityAssociation(proposals.clone());
        payloads.push(Payload::KeyExchange { group: 19, data: vec![1; 64] });
    });
    assert_eq!(answer, notify(NotifyType::INVALID_KE_PAYLOAD, &X25519.id.to_be_bytes()));
}

#[test]
fn rfc7296_2_25_temporary_failure_while_a_child_is_being_made_in_the_other_direction() {
    let mut net = up();
    net.rekey_child(B);
    let spi = vec![5; 8];
    let proposals = Algorithms::default().for_rekeying().proposals().into_iter();
    let proposals = proposals.map(|proposal| Proposal { spi: spi.clone(), ..proposal });
    let payloads = [
        Payload::SecurityAssociation(proposals.collect()),
        Payload::Nonce(vec![7; 32]),
        Payload::KeyExchange { group: X25519.id, data: vec![9; 32] },
    ];
    let Payload::SecurityAssociation(proposals) = &payloads[0] else { unreachable!() };
    assert_eq!(proposals[0].protocol, PROTOCOL_IKE);
    let (first, chain) = wire::encode_chain(&payloads);
    let answer = ask(&mut net, Exchange::CREATE_CHILD_SA, first, &chain);
    assert_eq!(answer, notify(NotifyType::TEMPORARY_FAILURE, &[]));
}
