//! Another configuration while traffic flows.

use std::path::Path;
use std::process::Command;

use control::{NhsState, Reloaded, Transport};
use overlay_tests::e2e::{
    CONFIG, Ca, Numbers, Scene, Site, go_direct, go_on, good, is_up, peer, peers, until,
};

fn edit(scene: &Scene, node: &str, from: &str, to: &str) {
    let node = scene.node(node);
    let yaml = node.run(["cat", CONFIG]).unwrap();
    assert!(yaml.contains(from), "{from} is not in:\n{yaml}");
    good("write", node.write_file(Path::new(CONFIG), &yaml.replace(from, to)));
}

fn refused(scene: &Scene, node: &str) -> String {
    let error = scene.node(node).run(["overlayctl", "reload"]).unwrap_err().to_string();
    assert!(error.contains("exit status: 1"), "{error}");
    println!("{error}");
    error
}

#[test]
fn a_server_more_and_bad_files_under_a_ping_each_millisecond_with_wireguard() {
    a_server_more_and_bad_files_under_a_ping_each_millisecond("wireguard", Transport::Wireguard);
}

#[test]
fn a_server_more_and_bad_files_under_a_ping_each_millisecond_with_esp() {
    a_server_more_and_bad_files_under_a_ping_each_millisecond("esp", Transport::Esp);
}

/// A next-hop server more, then a file that is no good, then one that needs a restart: every
/// millisecond a ping to the hub and one to the other spoke, and none is lost.
fn a_server_more_and_bad_files_under_a_ping_each_millisecond(mode: &str, transport: Transport) {
    let numbers = Numbers::default();
    let ca = Ca::new("Overlay CA");
    let site = |number| Site::new(&ca, number).secure(&format!("mode: {mode}"));
    let second = site(3).set("nhs", "[]").set("routes", "[]");
    let name = format!("reload-{mode}");
    let mut scene = Scene::new(&name, [site(0), site(1), site(2), second]);
    scene.start_all();
    for spoke in ["spoke-a", "spoke-b"] {
        scene.registered(spoke);
    }
    let mut to_hub = scene.ping("spoke-a", &numbers.tunnel(0).addr().to_string(), None, 1);
    let mut to_b = scene.ping("host-a", "192.168.2.10", None, 1);
    go_direct(&mut to_b);
    let before = (to_hub.replies().lost(), to_b.replies().lost());

    let (address, nbma) = (numbers.tunnel(3).addr(), numbers.underlay(3, 10).addr());
    let more = format!("nhs: [{{ address: {address}, nbma: {nbma} }}, ");
    edit(&scene, "spoke-a", "nhs: [", &more);
    let reloaded: Reloaded = scene.ask("spoke-a", "reload");
    assert_eq!(reloaded, Reloaded { changed: vec!["nhs".into()], warnings: Vec::new() });
    let dmvpn = scene.dmvpn("spoke-a", "both servers respond", |dmvpn| {
        let nhs = &dmvpn.interfaces[0].nhs;
        nhs.len() == 2 && nhs.iter().all(|nhs| nhs.state == NhsState::Responding)
    });
    assert!(is_up(&dmvpn, address));
    for words in [
        format!("IKE to {nbma}:4500: IKE_SA_INIT request 0 of "),
        format!("IKE from {nbma}:4500: IKE_AUTH response 2 of "),
    ] {
        assert!(scene.log("spoke-a").contains(&words), "{words}");
    }
    let carried = |peer: &control::Peer| peer.session.as_ref().map(|session| session.transport);
    assert!(peers(&dmvpn).all(|peer| carried(peer) == Some(transport)), "{dmvpn:#?}");
    go_on(&mut to_hub, 200);

    // One that cannot be read, one that a restart needs, one whose certificate is missing.
    edit(&scene, "spoke-a", "key: 42", "kye: 42");
    let error = refused(&scene, "spoke-a");
    assert!(error.contains("nothing has changed"), "{error}");
    assert!(error.contains("tunnel.kye: unknown key: did you mean key?"), "{error}");
    edit(&scene, "spoke-a", "kye: 42", "key: 43");
    edit(&scene, "spoke-a", &more, "nhs: [");
    let error = refused(&scene, "spoke-a");
    assert!(error.contains("tunnel.key cannot change while nhrpd runs: restart it"), "{error}");
    edit(&scene, "spoke-a", "key: 43", "key: 42");
    edit(&scene, "spoke-a", "node.crt", "gone.crt");
    let error = refused(&scene, "spoke-a");
    assert!(error.contains("cannot read /etc/nhrpd/gone.crt"), "{error}");
    let dmvpn = scene.registered("spoke-a");
    assert_eq!(dmvpn.interfaces[0].nhs.len(), 2, "nothing at all was taken over");

    // The former file again, by SIGHUP.
    edit(&scene, "spoke-a", "gone.crt", "node.crt");
    let pid = scene.daemons["spoke-a"].pid().to_string();
    assert!(Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
    scene.dmvpn("spoke-a", "one server is left", |dmvpn| dmvpn.interfaces[0].nhs.len() == 1);
    assert!(scene.log("spoke-a").contains("configuration reloaded: nhs changed"));
    go_on(&mut to_hub, 200);
    go_on(&mut to_b, 200);
    for (ping, before) in [(to_hub, before.0), (to_b, before.1)] {
        let replies = ping.stop();
        println!("{} pings, {} lost", replies.sent(), replies.lost());
        assert_eq!((replies.lost(), before), (0, 0));
    }
}

/// The hub gets a revocation list: the one who is on it is gone at once, nobody else notices.
#[test]
fn who_is_revoked_is_gone_at_the_reload() {
    let numbers = Numbers::default();
    let ca = Ca::new("Overlay CA");
    let revoked = Site::new(&ca, 1);
    let list = ca.revoke(&revoked.identity);
    let mut scene = Scene::new("revoke", [Site::new(&ca, 0), revoked, Site::new(&ca, 2)]);
    scene.start_all();
    scene.all_registered();
    let mut ping = scene.ping("spoke-b", &numbers.tunnel(0).addr().to_string(), None, 1);
    go_on(&mut ping, 100);
    good("write", scene.node("hub").write_file(Path::new("/etc/nhrpd/crl.pem"), &list));
    edit(&scene, "hub", "ca.crt", "ca.crt, crl: crl.pem");
    println!("{}", scene.run("hub", "overlayctl reload").trim());
    let dmvpn = scene
        .dmvpn("hub", "spoke-a is gone", |dmvpn| peer(dmvpn, numbers.tunnel(1).addr()).is_none());
    assert!(is_up(&dmvpn, numbers.tunnel(2).addr()));
    let words = |text: &str| text.contains("CN=spoke-a") && text.contains("is revoked");
    let refusals = &dmvpn.interfaces[0].refusals;
    let said = |r: &control::Refusal| {
        r.identity.as_deref() == Some("CN=spoke-a") && r.reason.contains("is revoked")
    };
    assert!(refusals.iter().any(said), "{refusals:?}");
    until("the log says why", || scene.log("hub").lines().any(words).then_some(()));
    go_on(&mut ping, 100);
    assert_eq!(ping.stop().lost(), 0);
}
