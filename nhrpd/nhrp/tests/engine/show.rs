//! What an operator sees and clears.

use nhrp::engine::{Config, EntryKind, Event, NhsState};

use super::network::*;

#[test]
fn cache_shows_every_kind_of_entry() {
    let mut network = Network::new();
    network.add(underlay(1), hub());
    let maps = vec![(tunnel(50), underlay(50))];
    network.add(underlay(2), Config { maps, ..spoke(2) });
    network.add(underlay(3), spoke(3));
    for n in [2, 3] {
        network.authorize(underlay(1), underlay(n), &[tunnel(n).into(), lan(n)]);
    }
    network.run(seconds(1));
    network.resolve(2, host(3));
    network.resolve(2, host(9));
    network.at(underlay(2), |engine, now| engine.resolve(now, host(8)));
    let cache = network.nodes[&underlay(2)].engine.cache();
    let kinds: Vec<_> = cache.iter().map(|e| (e.prefix.to_string(), e.kind)).collect();
    let expected = [
        ("172.16.0.1/32", EntryKind::Static),
        ("172.16.0.2/32", EntryKind::Local),
        ("172.16.0.50/32", EntryKind::Static),
        ("192.168.2.0/24", EntryKind::Local),
        ("192.168.3.0/24", EntryKind::Dynamic),
        ("192.168.8.1/32", EntryKind::Incomplete),
        ("192.168.9.1/32", EntryKind::Negative),
    ];
    assert_eq!(kinds, expected.map(|(p, k)| (p.to_owned(), k)));
    assert!(cache[4].flags.authoritative && !cache[4].flags.registered && !cache[4].flags.used);

    let cache = network.nodes[&underlay(1)].engine.cache();
    let client = cache.iter().find(|e| e.prefix == tunnel(2).into()).expect("a client");
    assert!(client.flags.unique && client.flags.registered && !client.flags.nat);
    assert_eq!((client.claimed, client.seen), (Some(underlay(2).address), Some(underlay(2))));
    let back = network.nodes[&underlay(3)].engine.cache();
    let back = back.iter().find(|e| e.prefix == tunnel(2).into()).expect("the way back");
    assert!(back.flags.implicit);
}

#[test]
fn used_flag_follows_the_traffic() {
    let mut network = Network::with_spokes(2);
    network.resolve(2, host(3));
    network.traffic(underlay(2), lan(3), true);
    network.run(seconds(450));
    let used = |network: &Network| {
        let cache = network.nodes[&underlay(2)].engine.cache();
        cache.iter().find(|e| e.prefix == lan(3)).map(|e| e.flags.used)
    };
    assert_eq!(used(&network), Some(true));
    network.traffic(underlay(2), lan(3), false);
    network.run(seconds(400));
    assert_eq!(used(&network), Some(false));
}

#[test]
fn servers_show_state_and_counts() {
    let mut network = Network::with_spokes(1);
    let servers = network.nodes[&underlay(2)].engine.servers();
    let status = &servers[0];
    assert_eq!((status.address, status.nbma), (tunnel(1), Some(underlay(1))));
    assert_eq!((status.state, status.why.as_str()), (NhsState::Responding, ""));
    assert_eq!((status.requests, status.replies), (2, 2));
    assert_eq!(status.last_refusal, None);
    network.run(seconds(300));
    let later = network.nodes[&underlay(2)].engine.servers();
    assert_eq!(later[0].since, status.since);
    assert_eq!((later[0].requests, later[0].replies), (4, 4));
}

#[test]
fn counters_are_named_and_complete() {
    let mut network = Network::with_spokes(2);
    network.resolve(2, host(3));
    let counters = network.nodes[&underlay(2)].engine.counters();
    let named: Vec<(String, u64)> = counters.iter().collect();
    let value = |name: &str| named.iter().find(|(n, _)| n == name).map(|(_, v)| *v);
    assert_eq!(value("sent registration request"), Some(2));
    assert_eq!(value("received registration reply"), Some(2));
    assert_eq!(value("sent resolution request"), Some(1));
    assert_eq!(value("received resolution reply"), Some(1));
    assert_eq!(value("refused: authentication failure"), Some(0));
    let mut names: Vec<_> = named.iter().map(|(n, _)| n).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), named.len());
}

#[test]
fn clear_cache_forgets_what_was_learnt() {
    let mut network = Network::with_spokes(2);
    network.at(underlay(1), |engine, _| engine.clear_cache());
    assert_eq!(network.nodes[&underlay(1)].bindings.len(), 0);
    network.run(seconds(HOLDING / 3));
    assert_eq!(network.nodes[&underlay(1)].bindings.len(), 4, "they register again");
}

#[test]
fn clear_shortcuts_leaves_server_and_maps() {
    let mut network = Network::with_spokes(2);
    network.resolve(2, host(3));
    network.resolve(2, host(9));
    network.at(underlay(2), |engine, now| {
        engine.resolve(now, host(8));
        engine.clear_shortcuts();
    });
    let left: Vec<_> = network.nodes[&underlay(2)].bindings.keys().copied().collect();
    assert_eq!(left, [tunnel(1).into()]);
    let kinds = network.nodes[&underlay(2)].engine.cache();
    assert!(kinds.iter().all(|e| matches!(e.kind, EntryKind::Local | EntryKind::Static)));
    // And it can be asked for again.
    network.resolve(2, host(3));
    assert!(network.binding(underlay(2), lan(3)).is_some());
}

#[test]
fn clear_peer_forgets_one() {
    let mut network = Network::with_spokes(2);
    network.at(underlay(1), |engine, now| engine.clear_peer(now, tunnel(2)));
    assert_eq!(network.binding(underlay(1), tunnel(2).into()), None);
    assert_eq!(network.binding(underlay(1), lan(2)), None);
    assert!(network.binding(underlay(1), lan(3)).is_some());
    // A server: registered with anew, at once.
    network.take_events(underlay(2));
    network.at(underlay(2), |engine, now| engine.clear_peer(now, tunnel(1)));
    network.run(seconds(1));
    assert!(network.take_events(underlay(2)).contains(&Event::NhsUp { server: tunnel(1) }));
    assert!(network.binding(underlay(1), lan(2)).is_some());
}
