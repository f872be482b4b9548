//! The daemon's side of the socket.

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Semaphore, broadcast, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::protocol::{
    DESCRIPTION, Failure, INTERFACE, MONITOR, Request, SERVICE_DESCRIPTION, SERVICE_INTERFACE,
};
use crate::socket::{BindError, Socket};
use crate::types::{
    Cache, Cleared, Dmvpn, Endpoints, Event, IkeSas, Monitored, Multicast, NextHopServers,
    Reloaded, Shortcuts, Trace, Traffic,
};

/// Open connections; one more is told that the daemon is busy.
const CONNECTIONS: usize = 16;
/// Those of them that monitor: the others remain for questions.
const MONITORS: usize = 8;
/// Events that a client may be behind before it loses the oldest.
const EVENTS: usize = 256;
/// Bytes of one request.
const REQUEST_BYTES: u64 = 16 * 1024;
/// Until a client has sent its next request.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Until the state's owner has answered.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Until a client has taken its reply.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// After `accept` failed (no file descriptor left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// What the owner of the state answers. All methods return at once.
pub trait Handler {
    /// Interfaces with their peers.
    fn dmvpn(&mut self) -> Dmvpn;
    /// NHRP cache.
    fn nhrp_cache(&mut self) -> Cache;
    /// Next-hop servers.
    fn nhs(&mut self) -> NextHopServers;
    /// Shortcuts.
    fn shortcuts(&mut self) -> Shortcuts;
    /// NHRP packet counters.
    fn nhrp_traffic(&mut self) -> Traffic;
    /// Paths of the data plane.
    fn tunnel_endpoints(&mut self) -> Endpoints;
    /// IKE SAs.
    fn ike_sa(&mut self) -> IkeSas;
    /// Receivers of multicast.
    fn multicast(&mut self) -> Multicast;
    /// How a packet to this address would go.
    fn trace(&mut self, address: IpAddr) -> Trace;
    /// Forgets dynamic cache entries.
    fn clear_cache(&mut self) -> Cleared;
    /// Forgets shortcuts.
    fn clear_shortcuts(&mut self) -> Cleared;
    /// Forgets all about the peer with this tunnel or NBMA address.
    fn clear_peer(&mut self, address: IpAddr) -> Cleared;
    /// Reads the configuration again; the reason where it is refused.
    fn reload(&mut self) -> Result<Reloaded, String>;
}

/// A permitted request that waits for its answer.
#[derive(Debug)]
pub struct Call {
    request: Request,
    reply: oneshot::Sender<Result<Reply, Failure>>,
}

impl Call {
    /// What is asked.
    pub fn request(&self) -> Request {
        self.request
    }

    /// Answers it. A client that has gone away is no error.
    pub fn answer(self, handler: &mut impl Handler) {
        let reply = match self.request {
            Request::ShowDmvpn => Reply::Dmvpn(handler.dmvpn()),
            Request::ShowNhrpCache => Reply::Cache(handler.nhrp_cache()),
            Request::ShowNhs => Reply::Nhs(handler.nhs()),
            Request::ShowShortcuts => Reply::Shortcuts(handler.shortcuts()),
            Request::ShowNhrpTraffic => Reply::Traffic(handler.nhrp_traffic()),
            Request::ShowTunnelEndpoints => Reply::Endpoints(handler.tunnel_endpoints()),
            Request::ShowIkeSa => Reply::IkeSas(handler.ike_sa()),
            Request::ShowMulticast => Reply::Multicast(handler.multicast()),
            Request::Trace { address } => Reply::Trace(Box::new(handler.trace(address))),
            Request::ClearCache => Reply::Cleared(handler.clear_cache()),
            Request::ClearShortcuts => Reply::Cleared(handler.clear_shortcuts()),
            Request::ClearPeer { address } => Reply::Cleared(handler.clear_peer(address)),
            Request::Reload => match handler.reload() {
                Ok(reloaded) => Reply::Reloaded(reloaded),
                Err(reason) => {
                    let _ = self.reply.send(Err(Failure::NotReloaded { reason }));
                    return;
                }
            },
        };
        let _ = self.reply.send(Ok(reply));
    }
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Reply {
    Dmvpn(Dmvpn),
    Cache(Cache),
    Nhs(NextHopServers),
    Shortcuts(Shortcuts),
    Traffic(Traffic),
    Endpoints(Endpoints),
    IkeSas(IkeSas),
    Multicast(Multicast),
    Trace(Box<Trace>),
    Cleared(Cleared),
    Reloaded(Reloaded),
}

/// Tells events to every client that monitors.
#[derive(Debug, Clone)]
pub struct Publisher(broadcast::Sender<Event>);

impl Publisher {
    /// Tells an event. Waits for nobody.
    pub fn publish(&self, event: Event) {
        // Nobody listens: no error.
        let _ = self.0.send(event);
    }
}

/// The daemon's end of the control socket. Dropping it removes its file.
#[derive(Debug)]
pub struct Server {
    events: Publisher,
    socket: Socket,
}

impl Server {
    /// Listens at `path`, as [`Socket::bind`] does.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let events = Publisher(broadcast::Sender::new(EVENTS));
        Ok(Self { events, socket: Socket::bind(path)? })
    }

    /// What tells events to the clients.
    pub fn publisher(&self) -> Publisher {
        self.events.clone()
    }

    /// Serves until it is dropped; every permitted request goes to `calls`. No client can make it
    /// wait, or hold more than a request and a reply for each of a few connections.
    pub async fn run(self, calls: mpsc::Sender<Call>) {
        let mut connections = JoinSet::new();
        let monitors = Arc::new(Semaphore::new(MONITORS));
        loop {
            let stream = tokio::select! {
                accepted = self.socket.accept() => match accepted {
                    Ok(stream) => stream,
                    Err(_) => {
                        sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                },
                Some(_) = connections.join_next() => continue,
            };
            if connections.len() >= CONNECTIONS {
                let reason = format!("{CONNECTIONS} control connections are open");
                // A fresh socket's buffer takes this whole.
                let _ = stream.try_write(&message(&Failure::Busy { reason }));
                continue;
            }
            let may_change =
                stream.peer_cred().is_ok_and(|peer| may_change(peer.uid(), self.socket.owner()));
            let monitor = Monitor { events: self.events.clone(), places: monitors.clone() };
            connections.spawn(serve(stream, may_change, calls.clone(), monitor));
        }
    }
}

fn may_change(uid: u32, owner: u32) -> bool {
    uid == 0 || uid == owner
}

#[derive(Deserialize)]
struct Message {
    method: String,
    #[serde(default)]
    parameters: Value,
    #[serde(default)]
    oneway: bool,
    #[serde(default)]
    more: bool,
}

/// What a connection needs for monitoring.
struct Monitor {
    events: Publisher,
    places: Arc<Semaphore>,
}

impl Monitor {
    /// Tells events until the client hangs up. One that does not read makes only itself wait.
    async fn run(
        self,
        mut read: BufReader<OwnedReadHalf>,
        mut write: OwnedWriteHalf,
    ) -> io::Result<()> {
        let Ok(_place) = self.places.try_acquire() else {
            let reason = format!("{MONITORS} clients monitor already");
            return write.write_all(&message(&Failure::Busy { reason })).await;
        };
        let mut events = self.events.0.subscribe();
        let mut next = Monitored::default();
        loop {
            let reply = message(&json!({ "parameters": next, "continues": true }));
            write.write_all(&reply).await?;
            let received = tokio::select! {
                received = events.recv() => received,
                // It has nothing to say.
                _ = read.read_u8() => return Ok(()),
            };
            next = match received {
                Ok(event) => Monitored { event: Some(event), lost: 0 },
                Err(RecvError::Lagged(lost)) => Monitored { event: None, lost },
                Err(RecvError::Closed) => return Ok(()),
            };
        }
    }
}

/// One connection. Returns, and so closes it, when the client is done, hangs or talks nonsense.
async fn serve(stream: UnixStream, may_change: bool, calls: mpsc::Sender<Call>, monitor: Monitor) {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    let mut request = Vec::new();
    loop {
        request.clear();
        let mut limited = (&mut read).take(REQUEST_BYTES);
        let received = timeout(READ_TIMEOUT, limited.read_until(0, &mut request)).await;
        if !matches!(received, Ok(Ok(_))) || request.pop() != Some(0) {
            return;
        }
        let Ok(parsed) = serde_json::from_slice::<Message>(&request) else { return };
        if parsed.method == MONITOR && parsed.more {
            // Its end is the connection's, whatever the reason.
            let _ = monitor.run(read, write).await;
            return;
        }
        let reply = match answer(&parsed, may_change, &calls).await {
            Ok(parameters) => message(&json!({ "parameters": parameters })),
            Err(failure) => message(&failure),
        };
        if !parsed.oneway
            && !matches!(timeout(WRITE_TIMEOUT, write.write_all(&reply)).await, Ok(Ok(())))
        {
            return;
        }
    }
}

async fn answer(
    message: &Message,
    may_change: bool,
    calls: &mpsc::Sender<Call>,
) -> Result<Value, Failure> {
    if let Some(method) = message.method.strip_prefix("org.varlink.service.") {
        return describe(method, &message.parameters);
    }
    if message.method == MONITOR {
        return Err(Failure::ExpectedMore {});
    }
    let request = Request::from_call(&message.method, &message.parameters)?;
    if request.changes() && !may_change {
        return Err(Failure::PermissionDenied {});
    }
    let busy = || Failure::Busy { reason: "it does not answer in time".into() };
    let asked = async {
        let (reply, answered) = oneshot::channel();
        calls.send(Call { request, reply }).await.map_err(|_| busy())?;
        answered.await.map_err(|_| busy())
    };
    let reply = timeout(ANSWER_TIMEOUT, asked).await.map_err(|_| busy())???;
    serde_json::to_value(reply).map_err(|_| busy())
}

/// `org.varlink.service`.
fn describe(method: &str, parameters: &Value) -> Result<Value, Failure> {
    match method {
        "GetInfo" => Ok(json!({
            "vendor": "nhrpd",
            "product": "nhrpd",
            "version": env!("CARGO_PKG_VERSION"),
            "url": "",
            "interfaces": [SERVICE_INTERFACE, INTERFACE],
        })),
        "GetInterfaceDescription" => match parameters.get("interface").and_then(Value::as_str) {
            Some(INTERFACE) => Ok(json!({ "description": DESCRIPTION })),
            Some(SERVICE_INTERFACE) => Ok(json!({ "description": SERVICE_DESCRIPTION })),
            Some(other) => Err(Failure::InterfaceNotFound { interface: other.into() }),
            None => Err(Failure::InvalidParameter { parameter: "interface".into() }),
        },
        _ => Err(Failure::MethodNotFound { method: format!("org.varlink.service.{method}") }),
    }
}

/// What a fuzz target does with its bytes: one message of a client, without the zero byte behind it.
#[cfg(any(test, fuzzing))]
pub mod fuzz {
    use super::{Message, Request, describe};

    /// A request, or a refusal that names what is wrong.
    pub fn request(bytes: &[u8]) {
        let Ok(Message { method, parameters, .. }) = serde_json::from_slice(bytes) else { return };
        if let Ok(request) = Request::from_call(&method, &parameters) {
            let again = request.to_call();
            assert_eq!(again["method"], method.as_str());
            assert_eq!(Request::from_call(&method, &again["parameters"]), Ok(request));
        }
        let _ = describe(method.trim_start_matches("org.varlink.service."), &parameters);
    }
}

fn message(value: &impl Serialize) -> Vec<u8> {
    // Our own types: no map with keys that are not strings, no failing Serialize.
    let mut bytes = serde_json::to_vec(value).unwrap_or_default();
    bytes.push(0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a connection answers to `request`, and whether the state's owner was asked.
    async fn served(request: &[u8], may_change: bool) -> (String, bool) {
        let (mut client, stream) = UnixStream::pair().unwrap();
        // The owner of the state never answers.
        let (calls_in, mut calls) = mpsc::channel(1);
        let events = Publisher(broadcast::Sender::new(1));
        let monitor = Monitor { events, places: Arc::new(Semaphore::new(1)) };
        let serving = tokio::spawn(serve(stream, may_change, calls_in, monitor));
        client.write_all(request).await.unwrap();
        let mut reply = String::new();
        client.read_to_string(&mut reply).await.unwrap();
        serving.await.unwrap();
        (reply, calls.try_recv().is_ok())
    }

    #[test]
    fn whatever_a_client_sends_is_a_request_or_refused() {
        use proptest::prelude::*;
        let calls = [
            r#"{"method":"nhrpd.Control.Trace","parameters":{"address":"2001:db8::1"}}"#,
            r#"{"method":"nhrpd.Control.ShowDmvpn"}"#,
            r#"{"method":"org.varlink.service.GetInterfaceDescription","parameters":{"interface":"a"}}"#,
        ];
        calls.iter().for_each(|call| fuzz::request(call.as_bytes()));
        let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
        proptest!(|(call in prop::sample::select(calls.to_vec()), changes in changes)| {
            let mut bytes = call.as_bytes().to_vec();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            fuzz::request(&bytes);
        });
    }

    #[test]
    fn changes_are_for_root_and_the_owner() {
        assert!(may_change(0, 998));
        assert!(may_change(998, 998));
        assert!(!may_change(1000, 998));
    }

    #[tokio::test(start_paused = true)]
    async fn others_may_look_but_not_touch() {
        let clear = b"{\"method\":\"nhrpd.Control.ClearCache\"}\0";
        let (reply, asked) = served(clear, false).await;
        let denied = "{\"error\":\"org.varlink.service.PermissionDenied\",\"parameters\":{}}\0";
        assert_eq!((reply.as_str(), asked), (denied, false));
        let (_, asked) = served(clear, true).await;
        assert!(asked);
        let (_, asked) = served(b"{\"method\":\"nhrpd.Control.ShowNhs\"}\0", false).await;
        assert!(asked);
    }

    #[tokio::test(start_paused = true)]
    async fn an_owner_that_hangs_is_not_waited_for() {
        let start = tokio::time::Instant::now();
        let (reply, _) = served(b"{\"method\":\"nhrpd.Control.ShowNhs\"}\0", false).await;
        let busy = "{\"error\":\"nhrpd.Control.Busy\",\
                    \"parameters\":{\"reason\":\"it does not answer in time\"}}\0";
        assert_eq!(reply, busy);
        assert_eq!(start.elapsed(), ANSWER_TIMEOUT + READ_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_client_is_sent_away() {
        let start = tokio::time::Instant::now();
        assert_eq!(served(b"{\"method\":", false).await, (String::new(), false));
        assert_eq!(start.elapsed(), READ_TIMEOUT);
    }
}
