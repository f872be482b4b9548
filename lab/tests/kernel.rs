//! Labs that need more of the kernel than network namespaces.
#![allow(clippy::unwrap_used)] // helpers of tests are not known as tests

use std::path::Path;

use lab::{Lab, Topology};

const THREE: &str = include_str!("../../configs/lab/three.yaml");

#[test]
fn a_link_with_a_delay_delays_both_ways() {
    let text = THREE.replace("  left:\n", "  left: { delay: 20ms }\n");
    let mut topology = Topology::parse(Path::new("test.yaml"), &text).unwrap();
    topology.name = Some(format!("delay-{}", std::process::id()));
    let lab = Lab::up(&topology).unwrap();
    let told = lab.node("alice").unwrap().run(["ping", "-c", "3", "192.0.2.1"]).unwrap();
    // rtt min/avg/max/mdev = 40.1/40.2/40.3/0.1 ms
    let (_, times) = told.rsplit_once(" = ").unwrap();
    let shortest: f64 = times.split('/').next().unwrap().parse().unwrap();
    assert!(shortest >= 40.0, "{told}");
}
