//! Our IKEv2 engine and stock strongSwan (charon-systemd and swanctl, as Debian packages them) with an
//! old group: both end with the same keys for an ESP SA of GRE in transport mode. What nhrpd proposes
//! by itself is tried in `kernel_ipsec`.
//!
//! The engine is driven here over a socket on the node `ours`; what charon made of it is read from the
//! kernel of the node `peer`.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use ike::{Algorithms, Config, Engine, Esp, Event, Output, SaId, TunnelKeys, TunnelKind};
use lab::{Daemon, Lab, Topology};
use overlay_tests::e2e::ipsec::Credentials;
use overlay_tests::e2e::{Ca, PATIENCE, days, good, on_network_of, until};
use pki::authority::Request;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

const NETWORK: &str = "
links: { wan: }
nodes:
  ours: { interfaces: { eth0: { link: wan, address: 198.18.0.1/24 } } }
  peer: { interfaces: { eth0: { link: wan, address: 198.18.0.2/24 } } }
";
const OURS: &str = "198.18.0.1:4500";
/// Without a list charon loads all plugins that there are, also such as take ESP from the kernel.
const CHARON: &str = "charon-systemd {
  load = random nonce x509 constraints pubkey pkcs1 pkcs8 pem openssl curve25519 kdf kernel-netlink socket-default vici
  filelog { stderr { default = 1
                     ike = 2
                     cfg = 2 } }
}
";
/// ESP that we never have.
const ODD: &str = "3des-sha512";
const PORT: u16 = 4500;
/// RFC 3948 §2.2: before IKE on port 4500.
const MARKER: [u8; 4] = [0; 4];

/// Both nodes, charon on one of them, and the engine with a socket on the other.
struct Scene {
    lab: Lab,
    charon: Daemon,
    engine: Engine,
    socket: UdpSocket,
    credentials: Credentials,
    rng: ChaCha20Rng,
    events: Vec<Event>,
}

impl Scene {
    /// With IKE and ESP proposals, as strongSwan and we write them both.
    fn new(name: &str, ike: &str, esp: &str) -> Self {
        let mut topology = good("read", Topology::parse(Path::new("strongswan.yaml"), NETWORK));
        topology.name = Some(format!("{name}-{}", std::process::id()));
        let lab = good("make the lab", Lab::up(&topology));
        let ca = Ca::new("CA");
        let [ours, peer] = ["ours", "peer"].map(|name| ca.issue(&Request::new(name, days(5, 50))));
        let node = good("find a node", lab.node("peer"));
        let connection = format!(
            "connections {{ ours {{
               version = 2
               local_addrs = 198.18.0.2
               remote_addrs = 198.18.0.1
               local_port = 4500
               remote_port = 4500
               proposals = {ike}
               fragmentation = yes
               local {{ auth = pubkey
                        certs = peer.crt }}
               remote {{ auth = pubkey
                         id = \"CN=ours\" }}
               children {{ gre {{ mode = transport
                                  local_ts = dynamic[gre]
                                  remote_ts = dynamic[gre]
                                  esp_proposals = {esp} }}
                         odd {{ mode = transport
                                local_ts = dynamic[gre]
                                remote_ts = dynamic[gre]
                                esp_proposals = {ODD} }} }}
             }} }}"
        );
        for (file, text) in [
            ("/etc/strongswan.conf", CHARON),
            ("/etc/swanctl/swanctl.conf", &connection),
            ("/etc/swanctl/x509/peer.crt", &peer.certificate),
            ("/etc/swanctl/private/peer.key", &peer.private_key),
            ("/etc/swanctl/x509ca/ca.crt", &peer.ca),
        ] {
            good("write a file", node.write_file(Path::new(file), text));
        }
        let charon = good("start charon", node.start(["/usr/sbin/charon-systemd"]));
        until("charon has its connection", || {
            node.run(["swanctl", "--load-all", "--noprompt"]).ok()
        });

        let node = good("find a node", lab.node("ours"));
        let socket = good("bind", on_network_of(node, || UdpSocket::bind(OURS)));
        let algorithms = good("read the proposals", Algorithms::parse(&[ike]));
        let tunnels = vec![TunnelKind::Esp];
        let mut engine = Engine::new(Config { algorithms, tunnels, ..Config::default() });
        let credentials = Credentials::new(&ours);
        let mut rng = ChaCha20Rng::seed_from_u64(u64::from(std::process::id()));
        engine.update_addresses(Instant::now(), Some(address(OURS).ip()), &mut rng);
        Self { lab, charon, engine, socket, credentials, rng, events: Vec::new() }
    }

    fn peer(&self) -> &lab::Node {
        good("find a node", self.lab.node("peer"))
    }

    /// Lets the engine talk until the events are as wished.
    #[track_caller]
    fn until<T>(&mut self, what: &str, wish: impl Fn(&[Event]) -> Option<T>) -> T {
        let give_up = Instant::now() + PATIENCE;
        loop {
            while let Some(output) = self.engine.poll_output() {
                match output {
                    Output::Transmit { port, to, datagram } => {
                        assert_eq!(port, PORT);
                        let marked = [&MARKER[..], &datagram].concat();
                        good("send", self.socket.send_to(&marked, to));
                    }
                    Output::Event(event) => self.events.push(event),
                    Output::KeyLog(_) => {}
                }
            }
            if let Some(found) = wish(&self.events) {
                return found;
            }
            let now = Instant::now();
            let drops: Vec<_> = self.engine.drops().filter(|(_, count)| *count > 0).collect();
            assert!(now < give_up, "{what}: not in time; {:#?}, dropped: {drops:?}", self.events);
            let due = self.engine.poll_timeout().unwrap_or(give_up).min(give_up);
            let wait = due.saturating_duration_since(now).max(Duration::from_millis(1));
            good("set a timeout", self.socket.set_read_timeout(Some(wait)));
            let mut buffer = [0; 65536];
            match self.socket.recv_from(&mut buffer) {
                Ok((length, from)) => {
                    if let Some(message) = buffer[..length].strip_prefix(&MARKER) {
                        let Self { engine, credentials, rng, .. } = self;
                        engine.handle_datagram(
                            Instant::now(),
                            (PORT, from),
                            message,
                            credentials,
                            rng,
                        );
                    }
                }
                Err(_) => self.engine.handle_timeout(Instant::now(), &mut self.rng),
            }
        }
    }

    /// The SA that comes up, and the keys of its first CHILD_SA.
    #[track_caller]
    fn established(&mut self) -> (SaId, Esp) {
        self.until("an SA", |events| {
            events.iter().find_map(|event| match event {
                Event::Established { sa, keys: TunnelKeys::Esp(esp), .. } => {
                    Some((*sa, esp.clone()))
                }
                Event::Failed { reason, .. } => panic!("{reason}"),
                _ => None,
            })
        })
    }

    /// Why there is none.
    #[track_caller]
    fn failed(&mut self) -> String {
        self.until("a failure", |events| {
            events.iter().find_map(|event| match event {
                Event::Failed { reason, .. } => Some(reason.0.clone()),
                Event::Established { .. } => panic!("it came up"),
                _ => None,
            })
        })
    }

    /// The kernel of the peer has the same keys for the same SPIs.
    #[track_caller]
    fn same_keys(&self, esp: &Esp) {
        let states = good("ask the kernel", self.peer().run(["ip", "xfrm", "state"]));
        for (from, to, keys) in [
            ("198.18.0.1", "198.18.0.2", &esp.outbound),
            ("198.18.0.2", "198.18.0.1", &esp.inbound),
        ] {
            let begin = format!("src {from} dst {to}\n");
            let spi = format!("spi 0x{:08x} ", keys.spi);
            let state = states
                .split("src ")
                .map(|rest| format!("src {rest}"))
                .find(|state| state.starts_with(&begin) && state.contains(&spi));
            // Not in a panic message: keys.
            assert!(state.is_some(), "charon has no SA from {from} to {to} with {spi}");
            let state = state.unwrap_or_default();
            assert!(state.contains("mode transport"));
            for key in [&keys.encryption, &keys.integrity] {
                let words: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
                assert!(state.contains(&words), "another key from {from} to {to}");
            }
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("── log of charon:\n{}", self.charon.log().unwrap_or_default());
        }
    }
}

fn address(text: &str) -> SocketAddr {
    good("read an address", text.parse())
}

/// charon begins, and deletes.
#[track_caller]
fn charon_begins(name: &str, ike: &str, esp: &str) {
    let mut scene = Scene::new(name, ike, esp);
    let begin = ["swanctl", "--initiate", "--child", "gre"];
    let begun = good("start swanctl", scene.peer().start(begin));
    let (_, keys) = scene.established();
    until("charon is content", || (!begun.running()).then_some(()));
    let told = begun.log().unwrap_or_default();
    assert!(told.contains("initiate completed successfully"), "{told}");
    scene.same_keys(&keys);

    good("start swanctl", scene.peer().start(["swanctl", "--terminate", "--ike", "ours"]));
    let reason = scene.until("its end", |events| {
        events.iter().find_map(|event| match event {
            Event::Closed { reason, .. } => Some(reason.clone()),
            _ => None,
        })
    });
    assert!(reason.contains("deleted by the peer"), "{reason}");
}

#[test]
fn aes_cbc_with_hmac_and_modp2048_charon_begins() {
    charon_begins("they-cbc", "aes256-sha256-prfsha256-modp2048", "aes128-sha256");
}

/// RFC 7296 §1.2: the IKE SA is there without its CHILD_SA, and another one is asked for on it.
#[test]
fn charon_keeps_an_ike_sa_whose_child_we_refuse_and_asks_again() {
    let ike = "aes256gcm16-prfsha256-x25519";
    let mut scene = Scene::new("they-childless", ike, "aes256gcm16");
    let odd = ["swanctl", "--initiate", "--child", "odd"];
    let begun = good("start swanctl", scene.peer().start(odd));
    let refused = scene.failed();
    let words = "we refused the peer's tunnel: no common ESP proposal: initiator has 3des";
    assert!(refused.starts_with(words), "{refused}");
    until("charon knows", || (!begun.running()).then_some(()));
    let told = begun.log().unwrap_or_default();
    assert!(told.contains("received NO_PROPOSAL_CHOSEN notify, no CHILD_SA built"), "{told}");
    assert!(told.contains("keeping IKE_SA"), "{told}");
    scene.events.clear();

    let begin = ["swanctl", "--initiate", "--child", "gre"];
    let begun = good("start swanctl", scene.peer().start(begin));
    let (_, keys) = scene.established();
    until("charon is content", || (!begun.running()).then_some(()));
    // Its log goes on where that of the first one ended.
    let told = begun.log().unwrap_or_default();
    let times = |words: &str| told.matches(words).count();
    assert_eq!(times("generating IKE_SA_INIT request"), 1, "on the same IKE SA: {told}");
    assert_eq!(times("generating CREATE_CHILD_SA request"), 1, "{told}");
    scene.same_keys(&keys);
}

/// The same with the roles exchanged: charon proves who it is and refuses, we end it in order.
#[test]
fn an_ike_sa_whose_child_charon_refuses_is_deleted_by_us() {
    let ike = "aes256gcm16-prfsha256-x25519";
    let mut scene = Scene::new("we-childless", ike, ODD);
    let Scene { engine, credentials, rng, .. } = &mut scene;
    engine.initiate(Instant::now(), address("198.18.0.2:4500"), credentials, rng);
    let refused = scene.failed();
    assert!(refused.starts_with("peer refused our tunnel: NO_PROPOSAL_CHOSEN"), "{refused}");
    let named = scene.events.iter().any(|event| {
        matches!(event, Event::Failed { identity: Some(who), .. } if who.to_string() == "CN=peer")
    });
    assert!(named, "{:?}", scene.events);
    until("charon has deleted it", || {
        let known = scene.peer().run(["swanctl", "--list-sas"]).ok()?;
        known.is_empty().then_some(())
    });
}
