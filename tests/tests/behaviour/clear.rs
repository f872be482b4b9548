//! `security: none`: the same without keys, for labs. It also shows that the check of silence can
//! fail.

use overlay::Security;
use overlay_tests::sim::{Domain, Weather};

use crate::common::*;

fn clear() -> Domain {
    Domain { security: Security::None, ..domain() }
}

#[test]
fn registration_and_shortcuts_work_without_keys_and_everybody_can_read_it() {
    let (mut sim, nodes) = settled_in(&clear(), 1, fair(), 2);
    let (a, b) = (nodes.spokes[0], nodes.spokes[1]);
    let flow = pings(&mut sim, a, b, 200);
    sim.run_for(secs(4));
    assert_nothing_lost(&sim);
    let took = until_direct(&sim, flow).expect("it becomes direct");
    println!("# direct after {took:?}");
    assert!(took <= ms(20) * 6);
    assert!(sim.seen("gre") > 400);
    assert_eq!((sim.seen("ike"), sim.seen("wireguard")), (0, 0));
}

#[test]
fn the_same_with_keys_is_silent() {
    let (mut sim, nodes) = settled(1, 2);
    pings(&mut sim, nodes.spokes[0], nodes.spokes[1], 200);
    sim.run_for(secs(4));
    assert_eq!(sim.seen("gre"), 0);
    assert!(sim.seen("ike") > 0 && sim.seen("wireguard") + sim.seen("esp") > 400);
}

#[test]
fn crashes_and_losses_are_survived_without_keys_too() {
    for seed in 0..10 {
        let bad = Weather { jitter: ms(20), loss: 100, duplication: 100, ..fair() };
        let (mut sim, nodes) = settled_in(&clear(), seed, bad, 3);
        let [a, b, c] = [nodes.spokes[0], nodes.spokes[1], nodes.spokes[2]];
        pings(&mut sim, a, b, 1000);
        sim.run_for(secs(5));
        for node in [b, nodes.hub] {
            sim.kill(node);
            sim.run_for(secs(2));
            sim.start(node);
            sim.run_for(secs(70));
        }
        for (x, y) in [(a, b), (b, c), (c, a)] {
            assert!(reaches(&mut sim, x, y, minutes(2)).is_some(), "{x} reaches {y}, seed {seed}");
        }
    }
}
