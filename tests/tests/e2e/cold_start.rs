//! From nothing to the direct path, without losing a packet.

use control::{Attribute, Cache, Dmvpn, Path, PeerState, Role, ShortcutState, Shortcuts};
use overlay_tests::e2e::{Numbers, Scene, forwarded, is_up, peer, peers};

const A: u8 = 1;
const B: u8 = 2;

#[test]
fn two_hundred_pings_from_cold_and_none_is_lost() {
    let numbers = Numbers::default();
    let scene = Scene::up("cold", 2);
    scene.all_registered();
    let hub = scene.dmvpn("hub", "both spokes are up", |dmvpn| {
        [A, B].iter().all(|&spoke| is_up(dmvpn, numbers.tunnel(spoke).addr()))
    });
    assert_eq!(hub.interfaces[0].role, Role::Hub);
    for (spoke, other) in [("spoke-a", B), ("spoke-b", A)] {
        let cold: Dmvpn = scene.ask(spoke, "show dmvpn");
        assert_eq!(cold.interfaces[0].role, Role::Spoke);
        assert!(peer(&cold, numbers.tunnel(other).addr()).is_none(), "{cold:#?}");
        assert!(scene.ask::<Shortcuts>(spoke, "show nhrp shortcuts").shortcuts.is_empty());
    }

    let replies =
        scene.ping("host-a", &numbers.lan(B, 10).addr().to_string(), Some(200), 10).finish();
    assert_eq!(replies.lost(), 0);
    let Some(direct) = replies.over_routers_from(2) else { panic!("none came directly") };
    eprintln!("direct from reply {direct} on, {:.2} ms each", replies.median_ms(direct));

    for (spoke, other) in [("spoke-a", B), ("spoke-b", A)] {
        let address = numbers.tunnel(other).addr();
        let warm = scene.dmvpn(spoke, "the other spoke is up", |dmvpn| is_up(dmvpn, address));
        let Some(peer) = peer(&warm, address) else { panic!("{warm:#?}") };
        assert_eq!(peer.nbma, Some(numbers.underlay(other, 10).addr()));
        assert_eq!(peer.nbma_seen, peer.nbma);
        assert_eq!((peer.port, peer.path), (Some(4500), Some(Path::Direct)));
        assert_eq!(peer.attributes, [Attribute::Dynamic]);
        assert_eq!(peer.prefixes, [numbers.lan(other, 0)]);
        assert!(peer.identity.as_deref().is_some_and(|identity| identity.starts_with("CN=spoke-")));
        assert!(peer.counters.tx_packets > 0 && peer.counters.rx_packets > 0, "{peer:#?}");
        let lan = |all: &Shortcuts| {
            all.shortcuts.iter().find(|shortcut| shortcut.prefix == numbers.lan(other, 0)).cloned()
        };
        let all = scene.when(spoke, "show nhrp shortcuts", "it is active", |all| {
            lan(all).is_some_and(|shortcut| shortcut.state == ShortcutState::Active)
        });
        assert_eq!(lan(&all).and_then(|shortcut| shortcut.next_hop), Some(address));
    }
    let hub: Dmvpn = scene.ask("hub", "show dmvpn");
    assert_eq!(peers(&hub).count(), 2);
    assert!(peers(&hub).all(|peer| peer.state == PeerState::Up));
    let cache: Cache = scene.ask("hub", "show nhrp cache");
    for spoke in [A, B] {
        let lan = cache.entries.iter().find(|entry| entry.prefix == numbers.lan(spoke, 0));
        assert_eq!(lan.and_then(|lan| lan.next_hop), Some(numbers.tunnel(spoke).addr()));
    }

    let counted = forwarded(&hub);
    assert!(counted > 0, "the first ones go through the hub");
    let replies =
        scene.ping("host-a", &numbers.lan(B, 10).addr().to_string(), Some(50), 10).finish();
    assert_eq!((replies.lost(), replies.over_routers_from(2)), (0, Some(1)));
    assert_eq!(forwarded(&scene.ask("hub", "show dmvpn")), counted);
}
