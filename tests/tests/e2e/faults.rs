//! What goes wrong in real networks, put into a lab: the tools name the cause in their first lines.

use overlay_tests::e2e::{Ca, Numbers, Scene, Site, days, until};
use pki::authority::Request;

/// Waits until one of the first `lines` lines of what `overlayctl` says on a node has `words`.
#[track_caller]
fn first_lines(scene: &Scene, node: &str, command: &str, lines: usize, words: &str) -> String {
    let what = format!("`overlayctl {command}` on {node} says `{words}` in {lines} lines");
    let last = std::cell::RefCell::new(String::new());
    let arguments = ["sh", "-c", &format!("overlayctl {command} 2>&1 || true")];
    let page = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        until(&what, || {
            let page = scene.node(node).run(arguments).unwrap_or_default();
            let found = page.lines().take(lines).any(|line| line.contains(words));
            last.replace(page.clone());
            found.then_some(page)
        })
    }));
    let page = page.unwrap_or_else(|_| panic!("{what}; it says:\n{}", last.borrow()));
    println!("── {node}# overlayctl {command}\n{page}");
    page
}

fn issued(ca: &Ca, number: u8, change: impl FnOnce(&mut Request)) -> Site {
    let mut request = Site::request(Numbers::default(), number);
    change(&mut request);
    Site::new(ca, number).identified(ca.issue(&request))
}

#[test]
fn trace_names_what_is_wrong_with_certificates_and_configurations() {
    let (ca, other_ca) = (Ca::new("Overlay CA"), Ca::new("Other CA"));
    let hub = Site::new(&ca, 0).set("nhrp", "{ authentication: right }");
    let right = |site: Site| site.set("nhrp", "{ authentication: right }");

    let mut of_other_ca = other_ca.issue(&Site::request(Numbers::default(), 1));
    of_other_ca.ca = hub.identity.ca.clone();
    let wrong_ca = right(Site::new(&ca, 1).identified(of_other_ca));
    let expired = right(issued(&ca, 2, |request| request.validity = days(5, -2)));
    let usage = right(issued(&ca, 3, |request| request.key_usage = "0x40".parse().ok()));
    let key = right(Site::new(&ca, 4))
        .set("tunnel", "{ interface: dmvpn0, address: 172.16.0.5/24, key: 43 }");
    let password = Site::new(&ca, 5).set("nhrp", "{ authentication: wrong }");
    let nowhere =
        right(Site::new(&ca, 6)).set("nhs", "[{ address: 172.16.0.1, nbma: hub.example.invalid }]");
    let sites = [hub, wrong_ca, expired, usage, key, password, nowhere];
    let mut scene = Scene::new("faults", sites);
    scene.start_all();
    let hub = "trace 172.16.0.1";
    for (node, command, words) in [
        ("spoke-a", hub, "was issued by another CA, \"CN=Other CA\""),
        ("spoke-b", hub, "certificate of \"CN=spoke-b\" expired at"),
        ("spoke-c", hub, "certificate has key usage 0x40 (nonRepudiation); needs"),
        ("spoke-d", hub, "compare `tunnel.key` (here 43) with the server's"),
        ("hub", "trace 172.16.0.5", "sends GRE with key 43: `tunnel.key` differs here and there"),
        ("spoke-e", hub, "authentication failure: another password than there"),
        ("hub", "trace 172.16.0.6", "`nhrp.authentication` differs here and there"),
        ("spoke-f", hub, "hub.example.invalid does not resolve"),
    ] {
        first_lines(&scene, node, command, 1, words);
    }
    let page = first_lines(&scene, "hub", "show dmvpn detail", 1000, "sends GRE with key 43");
    assert!(page.contains("CN=spoke-d"), "{page}");
}

#[test]
fn trace_names_a_tunnel_address_that_another_node_has() {
    let ca = Ca::new("Overlay CA");
    // Without this the second one's certificate would not even let it ask: refusals.rs.
    let hub = Site::new(&ca, 0).set("nhrp", "{ trust: any }");
    let copied =
        Site::new(&ca, 2).set("tunnel", "{ interface: dmvpn0, address: 172.16.0.2/24, key: 42 }");
    let mut scene = Scene::new("twice", [hub, Site::new(&ca, 1), copied]);
    scene.start("hub");
    scene.start("spoke-a");
    scene.registered("spoke-a");
    scene.start("spoke-b");
    let words = "registration of 172.16.0.2/32: unique address already registered";
    first_lines(&scene, "spoke-b", "trace 172.16.0.1", 1, words);
    let words = "may not register 172.16.0.2/32: 172.16.0.2 has it, at 198.18.1.10";
    let page = first_lines(&scene, "hub", "show dmvpn detail", 1000, words);
    assert!(page.contains("198.18.2.10:4500 (CN=spoke-b)"), "{page}");
    let page = first_lines(&scene, "spoke-a", "trace 172.16.0.1", 1, "172.16.0.1 goes straight");
    assert!(page.contains("CN=hub at 198.18.0.10:4500"), "{page}");
}
