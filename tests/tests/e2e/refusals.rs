//! Certificates that are no good: who says so, in which words.

use control::{Cache, Dmvpn, NhsState};
use overlay_tests::e2e::{Ca, Numbers, Scene, Site, days, go_on, is_up, until};
use pki::authority::Request;

const HUB: u8 = 0;

/// A node that must be refused.
struct Bad {
    site: Site,
    /// What the hub and the node itself must say.
    words: [&'static str; 2],
}

fn request(number: u8, change: impl FnOnce(&mut Request)) -> Request {
    let mut request = Site::request(Numbers::default(), number);
    request.key_usage = "0xf8".parse().ok();
    change(&mut request);
    request
}

#[test]
fn every_refusal_says_why_on_both_sides_and_disturbs_nobody() {
    let numbers = Numbers::default();
    let (ca, other_ca) = (Ca::new("Overlay CA"), Ca::new("Other CA"));
    let site = |number, identity| Site::new(&ca, number).identified(identity);
    let issue = |number, change: fn(&mut Request)| ca.issue(&request(number, change));

    let good = site(1, issue(1, |_| {}));
    let revoked = issue(6, |_| {});
    let hub = Site::new(&ca, HUB)
        .secure("key-usage: [0xa0, 0x88], crl: crl.pem")
        .file("crl.pem", ca.revoke(&revoked));
    let mut of_other_ca = other_ca.issue(&request(3, |_| {}));
    of_other_ca.ca = good.identity.ca.clone();
    let bad = [
        Bad {
            site: site(2, issue(2, |request| request.key_usage = "0x40".parse().ok())),
            words: ["certificate has key usage 0x40 (nonRepudiation); needs all of 0xa0 \
                     (digitalSignature+keyEncipherment) or all of 0x88"; 2],
        },
        Bad { site: site(3, of_other_ca), words: ["was issued by another CA, \"CN=Other CA\""; 2] },
        Bad {
            site: site(4, issue(4, |request| request.validity = days(5, -2))),
            words: ["expired at"; 2],
        },
        Bad {
            site: site(5, issue(5, |request| request.addresses = vec![[172, 16, 0, 99].into()])),
            words: ["allows only 172.16.0.99/32"; 2],
        },
        Bad { site: site(6, revoked), words: ["is revoked"; 2] },
    ];

    let sites = [hub, good].into_iter().chain(bad.iter().map(|bad| bad.site.clone()));
    let mut scene = Scene::new("refusals", sites);
    let recording = scene.record();
    scene.start("hub");
    scene.start("spoke-a");
    scene.registered("spoke-a");
    let mut ping = scene.ping("host-a", "172.16.0.1", None, 20);
    go_on(&mut ping, 5);
    let before: control::IkeSas = scene.ask("spoke-a", "show ike sa");

    for bad in &bad {
        scene.start(&bad.site.name);
    }
    for bad in &bad {
        let name = &bad.site.name;
        for (node, words) in ["hub", name].into_iter().zip(bad.words) {
            let at = format!("{name} on {node}: `{words}`");
            let shown = scene.dmvpn(node, &at, |dmvpn| {
                let refusals = dmvpn.interfaces.iter().flat_map(|i| &i.refusals);
                refusals.into_iter().any(|refusal| refusal.reason.contains(words))
            });
            for refusal in &shown.interfaces[0].refusals {
                if refusal.reason.contains(words) {
                    println!("{node}: {}: {}", refusal.peer, refusal.reason);
                }
            }
            let page = scene.run(node, "overlayctl show dmvpn detail");
            assert!(page.contains(words), "{at}:\n{page}");
            until(&format!("{at} in the log"), || scene.log(node).contains(words).then_some(()));
        }
        let own: Dmvpn = scene.ask(name, "show dmvpn");
        let nhs = &own.interfaces[0].nhs[0];
        assert_ne!(nhs.state, NhsState::Responding, "{name}");
        println!("{name}: {}", nhs.why.as_deref().unwrap_or("-"));
        assert!(!is_up(&scene.ask("hub", "show dmvpn"), bad.site.tunnel.addr()), "{name}");
    }

    let cache: Cache = scene.ask("hub", "show nhrp cache");
    for bad in &bad {
        let number = bad.site.number;
        let theirs = [bad.site.tunnel.addr().into(), numbers.lan(number, 0)];
        assert!(!cache.entries.iter().any(|entry| theirs.contains(&entry.prefix)), "{cache:#?}");
        let host = bad.site.name.replace("spoke", "host");
        let replies = scene.ping(&host, "192.168.1.10", Some(3), 10).finish();
        assert_eq!(replies.received(), 0, "nothing is forwarded for {}", bad.site.name);
    }

    assert_eq!(ping.stop().lost(), 0, "the good spoke is not disturbed");
    let after: control::IkeSas = scene.ask("spoke-a", "show ike sa");
    let spis = |sas: &control::IkeSas| -> Vec<_> {
        sas.sas.iter().map(|sa| (sa.initiator_spi, sa.responder_spi)).collect()
    };
    assert_eq!(spis(&before), spis(&after));
    // Who is refused is silent, however much his hosts have to say.
    recording.stop(&scene.inner()).sees_nothing();
}
