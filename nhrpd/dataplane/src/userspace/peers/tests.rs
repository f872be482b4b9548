use std::net::UdpSocket;

use overlay::desired::{EspCipher, EspKeys};

use super::super::counters::Drops;
use super::super::socket::Sockets;
use super::*;

const BEFORE: &str = "192.0.2.1:4500";
const SINCE: &str = "192.0.2.2:4500";

fn outbox() -> Outbox {
    let sockets = Arc::new(Sockets::udp(0, None).unwrap());
    Outbox::small(sockets, Arc::new(Drops::default()))
}

fn session(endpoint: SocketAddr, transport: Transport) -> Session {
    let peer = Peer::new(endpoint, transport);
    Session::new(PeerId(1), &peer, 7, None, Instant::now()).unwrap()
}

/// Two packets of a peer that moved between them, which two threads have in the other order: it is
/// where it sent the later one from, and that is said once.
fn late_packet_changes_nothing(session: &Session, sent: [&[u8]; 2]) {
    let mut said = Vec::new();
    let mut outbox = outbox();
    for (from, packet) in [(SINCE, sent[1]), (BEFORE, sent[0])] {
        let mut out = vec![0; packet.len()];
        let report = |event| {
            said.push(event);
            true
        };
        let len = session.open(from.parse().unwrap(), packet, &mut out, &mut outbox, report);
        assert!(len.unwrap() > 0);
    }
    let (peer, endpoint) = (PeerId(1), SINCE.parse().unwrap());
    assert_eq!(session.endpoint.get(), endpoint);
    said.retain(|event| *event != Event::Up { peer });
    assert_eq!(said, [Event::Moved { peer, endpoint }]);
}

/// The queue of events may be full for as long as it likes.
#[test]
fn used_up_keys_are_told_of_until_somebody_hears_it() {
    let keys = |spi| EspKeys { spi, encryption: vec![3; 36].into(), integrity: Vec::new().into() };
    let esp = Esp {
        cipher: EspCipher::Aes256Gcm16,
        esn: true,
        encapsulated: true,
        lifetime: Duration::from_secs(60),
        inbound: keys(0x1001),
        outbound: keys(0x1002),
    };
    let session = session(BEFORE.parse().unwrap(), Transport::Esp(esp));
    let Protection::Esp { sealer, .. } = &session.protection else { unreachable!() };
    let told = |taken: bool| {
        let mut said = Vec::new();
        session.tick(Instant::now(), 2, &mut outbox(), |event| {
            said.push(event);
            taken
        });
        said
    };
    for _ in 0..2 {
        assert_eq!(told(true), []);
        sealer.seal(&mut [0; esp::FRONT + 8 + esp::BACK], 8).unwrap();
    }
    let expiring = [Event::Expiring { peer: PeerId(1) }];
    assert_eq!([told(false), told(false), told(true)].concat(), [&expiring[..]; 3].concat());
    assert_eq!(told(true), []);
}

#[test]
fn esp_that_comes_late_does_not_move_the_peer_back() {
    let keys = |spi| EspKeys { spi, encryption: vec![3; 36].into(), integrity: Vec::new().into() };
    let (cipher, esn) = (EspCipher::Aes256Gcm16, true);
    let session = session(
        BEFORE.parse().unwrap(),
        Transport::Esp(Esp {
            cipher,
            esn,
            encapsulated: true,
            lifetime: Duration::from_secs(60),
            inbound: keys(0x1001),
            outbound: keys(0x1002),
        }),
    );
    let sealer = Sealer::new(cipher, esn, &keys(0x1001)).unwrap();
    let packets = [(); 2].map(|()| {
        let mut packet = [0; esp::FRONT + 8 + esp::BACK];
        let len = sealer.seal(&mut packet, 8).unwrap();
        packet[..len].to_vec()
    });
    late_packet_changes_nothing(&session, [&packets[0], &packets[1]]);
}

#[test]
fn wireguard_that_comes_late_does_not_move_the_peer_back() {
    let secrets = [[5; 32], [9; 32]].map(StaticSecret::from);
    let publics = secrets.each_ref().map(PublicKey::from);
    let [own, theirs] = secrets;
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let session = session(
        BEFORE.parse().unwrap(),
        Transport::WireGuard {
            private_key: own.to_bytes().into(),
            peer_public_key: publics[1].to_bytes(),
            preshared_key: [1; 32].into(),
            initiate: false,
        },
    );
    let mut peer = Tunn::new(theirs, publics[0], Some([1; 32]), None, 8, None);
    let mut buffer = [0; 200];
    let bytes = |result: TunnResult<'_>| match result {
        TunnResult::WriteToNetwork(message) => message.to_vec(),
        other => panic!("{other:?}"),
    };
    let initiation = bytes(peer.format_handshake_initiation(&mut buffer, false));
    let (mut outbox, from) = (outbox(), socket.local_addr().unwrap());
    session.open(from, &initiation, &mut [0; MESSAGE], &mut outbox, |_| true).unwrap();
    outbox.flush();
    let len = socket.recv(&mut buffer).unwrap();
    let response = buffer[..len].to_vec();
    // The peer confirms its keys from where it was.
    let confirmation = bytes(peer.decapsulate(None, &response, &mut buffer));
    let at = BEFORE.parse().unwrap();
    session.open(at, &confirmation, &mut [0; 64], &mut outbox, |_| true).unwrap();
    let packets = [(); 2].map(|()| {
        let mut packet = [0; 32];
        (packet[0], packet[3]) = (0x45, 32);
        bytes(peer.encapsulate(&packet, &mut buffer))
    });
    late_packet_changes_nothing(&session, [&packets[0], &packets[1]]);
}
