//! Client and server over a socket, and what a bad client can do.

#![allow(clippy::unwrap_used)]

use std::io::{ErrorKind, Read, Write};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use control::{
    BindError, Cache, Call, Cleared, Client, ClientError, Dmvpn, Endpoints, Event, Handler, IkeSas,
    Monitored, Multicast, NextHopServers, Reloaded, Request, Server, Shortcuts, Trace, Traffic,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// Answers from the sample files; one peer can be cleared, one reload succeeds.
#[derive(Default)]
struct Samples {
    reloads: u32,
}

fn sample<T: DeserializeOwned>(text: &str) -> T {
    serde_json::from_str(text).unwrap()
}

fn event() -> Event {
    sample::<Monitored>(include_str!("samples/Monitor.json")).event.unwrap()
}

impl Handler for Samples {
    fn dmvpn(&mut self) -> Dmvpn {
        sample(include_str!("samples/ShowDmvpn.json"))
    }

    fn nhrp_cache(&mut self) -> Cache {
        sample(include_str!("samples/ShowNhrpCache.json"))
    }

    fn nhs(&mut self) -> NextHopServers {
        sample(include_str!("samples/ShowNhs.json"))
    }

    fn shortcuts(&mut self) -> Shortcuts {
        sample(include_str!("samples/ShowShortcuts.json"))
    }

    fn nhrp_traffic(&mut self) -> Traffic {
        sample(include_str!("samples/ShowNhrpTraffic.json"))
    }

    fn tunnel_endpoints(&mut self) -> Endpoints {
        sample(include_str!("samples/ShowTunnelEndpoints.json"))
    }

    fn ike_sa(&mut self) -> IkeSas {
        sample(include_str!("samples/ShowIkeSa.json"))
    }

    fn multicast(&mut self) -> Multicast {
        sample(include_str!("samples/ShowMulticast.json"))
    }

    fn trace(&mut self, _: IpAddr) -> Trace {
        sample(include_str!("samples/Trace.json"))
    }

    fn clear_cache(&mut self) -> Cleared {
        sample(include_str!("samples/ClearCache.json"))
    }

    fn clear_shortcuts(&mut self) -> Cleared {
        Cleared { cleared: 2 }
    }

    fn reload(&mut self) -> Result<Reloaded, String> {
        self.reloads += 1;
        match self.reloads {
            1 => Ok(sample(include_str!("samples/Reload.json"))),
            _ => Err("nhrpd.yaml:3:1: tunnel.kye: unknown key".into()),
        }
    }

    fn clear_peer(&mut self, address: IpAddr) -> Cleared {
        Cleared { cleared: u64::from(address == IpAddr::from([172, 16, 0, 3])) }
    }
}

/// Runs `client` in a thread beside a server that answers from the samples.
fn beside_server(client: impl FnOnce(PathBuf) + Send + 'static) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run/nhrpd.sock");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let server = Server::bind(&path).unwrap();
        let events = server.publisher();
        let mut samples = Samples::default();
        let (calls_in, mut calls) = mpsc::channel::<Call>(1);
        let serving = tokio::spawn(server.run(calls_in));
        let mut client = tokio::task::spawn_blocking(move || client(path));
        loop {
            tokio::select! {
                done = &mut client => break done.unwrap(),
                Some(call) = calls.recv() => {
                    // Each `ClearPeer` of 172.16.0.N makes N events.
                    if let Request::ClearPeer { address: IpAddr::V4(address) } = call.request() {
                        for _ in 0..address.octets()[3] {
                            events.publish(event());
                        }
                    }
                    call.answer(&mut samples);
                }
            }
        }
        serving.abort();
    });
}

/// One message on a fresh connection, and what comes back until the server hangs up or has
/// answered.
fn say(path: &Path, message: &[u8]) -> Vec<u8> {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.write_all(message).unwrap();
    let mut reply = Vec::new();
    let mut byte = [0];
    while stream.read(&mut byte).unwrap_or(0) == 1 {
        if byte[0] == 0 {
            break;
        }
        reply.push(byte[0]);
    }
    reply
}

fn ask(path: &Path, call: &Value) -> Value {
    let mut message = call.to_string().into_bytes();
    message.push(0);
    serde_json::from_slice(&say(path, &message)).unwrap()
}

#[test]
fn every_request_is_answered() {
    beside_server(|path| {
        let mut client = Client::connect(&path).unwrap();
        assert_eq!(client.dmvpn().unwrap(), Samples::default().dmvpn());
        assert_eq!(client.nhrp_cache().unwrap(), Samples::default().nhrp_cache());
        assert_eq!(client.nhs().unwrap(), Samples::default().nhs());
        assert_eq!(client.shortcuts().unwrap(), Samples::default().shortcuts());
        assert_eq!(client.nhrp_traffic().unwrap(), Samples::default().nhrp_traffic());
        assert_eq!(client.tunnel_endpoints().unwrap(), Samples::default().tunnel_endpoints());
        assert_eq!(client.ike_sa().unwrap(), Samples::default().ike_sa());
        assert_eq!(client.multicast().unwrap(), Samples::default().multicast());
        assert_eq!(client.clear_cache().unwrap().cleared, 3);
        assert_eq!(client.clear_shortcuts().unwrap().cleared, 2);
        assert_eq!(client.clear_peer([172, 16, 0, 3].into()).unwrap().cleared, 1);
        assert_eq!(client.clear_peer([172, 16, 0, 4].into()).unwrap().cleared, 0);
        assert_eq!(client.reload().unwrap(), Samples::default().reload().unwrap());
        let refused = "not reloaded, nothing has changed: nhrpd.yaml:3:1: tunnel.kye: unknown key";
        assert_eq!(client.reload().unwrap_err().to_string(), refused);
    });
}

#[test]
fn varlink_introspection() {
    beside_server(|path| {
        let info = ask(&path, &json!({ "method": "org.varlink.service.GetInfo" }));
        assert_eq!(
            info["parameters"]["interfaces"],
            json!(["org.varlink.service", "nhrpd.Control"])
        );
        for interface in ["org.varlink.service", "nhrpd.Control"] {
            let method = "org.varlink.service.GetInterfaceDescription";
            let reply =
                ask(&path, &json!({ "method": method, "parameters": { "interface": interface } }));
            let text = reply["parameters"]["description"].as_str().unwrap();
            assert!(text.contains(&format!("\ninterface {interface}\n")));
        }
        for (method, error) in [
            ("org.varlink.service.Reboot", "org.varlink.service.MethodNotFound"),
            ("nhrpd.Control.Reboot", "org.varlink.service.MethodNotFound"),
            ("io.example.Thing.Get", "org.varlink.service.InterfaceNotFound"),
            ("nhrpd.Control.ClearPeer", "org.varlink.service.InvalidParameter"),
        ] {
            assert_eq!(ask(&path, &json!({ "method": method }))["error"], error);
        }
    });
}

#[test]
fn several_requests_in_one_write_are_answered_in_order() {
    beside_server(|path| {
        let mut stream = UnixStream::connect(path).unwrap();
        let calls = [
            json!({ "method": "nhrpd.Control.ClearCache", "oneway": true }),
            json!({ "method": "nhrpd.Control.ClearShortcuts", "parameters": {} }),
            json!({ "method": "nhrpd.Control.ClearCache", "parameters": null }),
        ];
        let bytes: Vec<u8> = calls
            .iter()
            .flat_map(|call| call.to_string().into_bytes().into_iter().chain([0]))
            .collect();
        stream.write_all(&bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut replies = String::new();
        stream.read_to_string(&mut replies).unwrap();
        let expected = "{\"parameters\":{\"cleared\":2}}\0{\"parameters\":{\"cleared\":3}}\0";
        assert_eq!(replies, expected);
    });
}

#[test]
fn nonsense_closes_the_connection_and_harms_nobody_else() {
    beside_server(|path| {
        let mut good = Client::connect(&path).unwrap();
        let deep = [b"[".repeat(8000), b"\0".to_vec()].concat();
        let long = vec![b' '; 16 * 1024 + 1];
        let messages: [&[u8]; 8] =
            [b"\0", b"{\0", b"null\0", b"{}\0", b"\xff\xfe\0", b"{\"method\":5}\0", &deep, &long];
        for message in messages {
            assert_eq!(say(&path, message), b"", "{:?}", String::from_utf8_lossy(message));
            assert!(good.multicast().is_ok());
        }
    });
}

#[test]
fn too_many_connections_are_told_so() {
    beside_server(|path| {
        let mut held: Vec<_> = (0..16).map(|_| Client::connect(&path).unwrap()).collect();
        for client in &mut held {
            assert!(client.multicast().is_ok());
        }
        let refused = Client::connect(&path).unwrap().multicast().unwrap_err();
        assert_eq!(refused.to_string(), "nhrpd is busy: 16 control connections are open");
        held.pop();
        // The server notices the free place in its own time.
        let freed = (0..1000).any(|_| {
            std::thread::yield_now();
            Client::connect(&path).unwrap().multicast().is_ok()
        });
        assert!(freed);
    });
}

#[test]
fn a_client_that_does_not_read_blocks_nobody() {
    beside_server(|path| {
        let mut deaf = UnixStream::connect(&path).unwrap();
        let call = b"{\"method\":\"nhrpd.Control.ShowDmvpn\"}\0";
        deaf.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
        // Until both buffers are full: the server stands in its write.
        let full = (0..100_000).map(|_| deaf.write_all(call)).find_map(Result::err).unwrap();
        assert_eq!(full.kind(), ErrorKind::WouldBlock);
        assert!(Client::connect(&path).unwrap().dmvpn().is_ok());
    });
}

#[test]
fn who_monitors_is_told_every_event_in_order() {
    beside_server(|path| {
        let mut asking = Client::connect(&path).unwrap();
        let mut watching: Vec<_> =
            (0..2).map(|_| Client::connect(&path).unwrap().monitor().unwrap()).collect();
        for monitor in &mut watching {
            assert_eq!(monitor.next().unwrap().unwrap(), Monitored::default());
        }
        asking.clear_peer([172, 16, 0, 2].into()).unwrap();
        for monitor in &mut watching {
            for _ in 0..2 {
                let told = monitor.next().unwrap().unwrap();
                assert_eq!(told, Monitored { event: Some(event()), lost: 0 });
            }
        }
    });
}

#[test]
fn a_slow_reader_is_told_how_many_events_it_has_lost() {
    beside_server(|path| {
        let mut asking = Client::connect(&path).unwrap();
        let mut slow = Client::connect(&path).unwrap().monitor().unwrap();
        slow.next().unwrap().unwrap();
        let mut published = 0;
        // More than the socket's buffers and the daemon's queue hold.
        for _ in 0..40 {
            asking.clear_peer([172, 16, 0, 250].into()).unwrap();
            published += 250;
        }
        let (mut told, mut lost) = (0, 0);
        while told + lost < published {
            let next = slow.next().unwrap().unwrap();
            assert_ne!(next.event.is_some(), next.lost > 0);
            told += u64::from(next.event.is_some());
            lost += next.lost;
        }
        assert_eq!(told + lost, published);
        assert!(lost > 0 && told > 256, "{told} told, {lost} lost");
    });
}

#[test]
fn monitors_leave_room_for_questions() {
    beside_server(|path| {
        let monitor = || {
            let mut monitor = Client::connect(&path).unwrap().monitor().unwrap();
            monitor.next().unwrap().map(|_| monitor)
        };
        let mut held: Vec<_> = (0..8).map(|_| monitor().unwrap()).collect();
        assert_eq!(monitor().unwrap_err().to_string(), "nhrpd is busy: 8 clients monitor already");
        assert!(Client::connect(&path).unwrap().multicast().is_ok());
        held.pop();
        let freed = (0..1000).any(|_| {
            std::thread::yield_now();
            monitor().is_ok()
        });
        assert!(freed);
    });
}

#[test]
fn monitoring_must_allow_more_than_one_reply() {
    beside_server(|path| {
        let reply = ask(&path, &json!({ "method": "nhrpd.Control.Monitor" }));
        assert_eq!(reply["error"], "org.varlink.service.ExpectedMore");
    });
}

#[test]
fn socket_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run/nhrpd.sock");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let first = Server::bind(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o660);
        let second = Server::bind(&path).unwrap_err();
        assert!(matches!(second, BindError::InUse(_)), "{second}");
        drop(first);
        assert!(!path.exists());

        // A daemon that was killed leaves its socket behind.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let replaced = Server::bind(&path).unwrap();
        assert!(UnixStream::connect(&path).is_ok());

        // An older one that stops does not take the socket of a newer one away.
        std::fs::remove_file(&path).unwrap();
        let newer = Server::bind(&path).unwrap();
        drop(replaced);
        assert!(UnixStream::connect(&path).is_ok());
        drop(newer);

        std::fs::write(&path, "precious").unwrap();
        let error = Server::bind(&path).unwrap_err();
        assert!(matches!(error, BindError::NotASocket(_)), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    });
}

#[test]
fn nobody_there() {
    let error = Client::connect(Path::new("/nonexistent/nhrpd.sock")).unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }));
    assert_eq!(
        error.to_string(),
        "cannot reach nhrpd at /nonexistent/nhrpd.sock: No such file or directory: is it running? \
         (systemctl status nhrpd)"
    );
}
