//! The asking side: blocking, for command-line programs.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::protocol::{Failure, MONITOR, Request};
use crate::types::{
    Cache, Cleared, Dmvpn, Endpoints, IkeSas, Monitored, Multicast, NextHopServers, Reloaded,
    Shortcuts, Trace, Traffic,
};

const TIMEOUT: Duration = Duration::from_secs(15);
const REPLY_BYTES: u64 = 256 * 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens, or we may not connect.
    #[error("cannot reach nhrpd at {}: {}: {}", path.display(), plain(error), advice(error))]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The connection broke or timed out.
    #[error("nhrpd at {} did not answer: {}", path.display(), plain(error))]
    NoAnswer {
        /// The socket.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The daemon said no.
    #[error(transparent)]
    Refused(#[from] Failure),
    /// The answer is not what this version expects.
    #[error("cannot read the answer of nhrpd: {0}: is it another version than overlayctl?")]
    Unexpected(String),
}

/// Without "(os error 2)".
fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "run this as root or as a member of the socket's group",
        _ => "is it running? (systemctl status nhrpd)",
    }
}

/// A connection to the daemon.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
    path: PathBuf,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    error: Option<String>,
    #[serde(default)]
    parameters: Value,
}

impl Client {
    /// Connects to the daemon that listens at `path`.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let connected = UnixStream::connect(path).and_then(|stream| {
            stream.set_read_timeout(Some(TIMEOUT))?;
            stream.set_write_timeout(Some(TIMEOUT))?;
            Ok(stream)
        });
        match connected {
            Ok(stream) => Ok(Self { stream: BufReader::new(stream), path: path.into() }),
            Err(error) => Err(ClientError::Unreachable { path: path.into(), error }),
        }
    }

    /// Interfaces with their peers.
    pub fn dmvpn(&mut self) -> Result<Dmvpn, ClientError> {
        self.call(Request::ShowDmvpn)
    }

    /// NHRP cache.
    pub fn nhrp_cache(&mut self) -> Result<Cache, ClientError> {
        self.call(Request::ShowNhrpCache)
    }

    /// Next-hop servers.
    pub fn nhs(&mut self) -> Result<NextHopServers, ClientError> {
        self.call(Request::ShowNhs)
    }

    /// Shortcuts.
    pub fn shortcuts(&mut self) -> Result<Shortcuts, ClientError> {
        self.call(Request::ShowShortcuts)
    }

    /// NHRP packet counters.
    pub fn nhrp_traffic(&mut self) -> Result<Traffic, ClientError> {
        self.call(Request::ShowNhrpTraffic)
    }

    /// Paths of the data plane.
    pub fn tunnel_endpoints(&mut self) -> Result<Endpoints, ClientError> {
        self.call(Request::ShowTunnelEndpoints)
    }

    /// IKE SAs.
    pub fn ike_sa(&mut self) -> Result<IkeSas, ClientError> {
        self.call(Request::ShowIkeSa)
    }

    /// Receivers of multicast.
    pub fn multicast(&mut self) -> Result<Multicast, ClientError> {
        self.call(Request::ShowMulticast)
    }

    /// How a packet to this address would go.
    pub fn trace(&mut self, address: IpAddr) -> Result<Trace, ClientError> {
        self.call(Request::Trace { address })
    }

    /// Forgets dynamic cache entries.
    pub fn clear_cache(&mut self) -> Result<Cleared, ClientError> {
        self.call(Request::ClearCache)
    }

    /// Forgets shortcuts.
    pub fn clear_shortcuts(&mut self) -> Result<Cleared, ClientError> {
        self.call(Request::ClearShortcuts)
    }

    /// Forgets all about the peer with this tunnel or NBMA address.
    pub fn clear_peer(&mut self, address: IpAddr) -> Result<Cleared, ClientError> {
        self.call(Request::ClearPeer { address })
    }

    /// Has the daemon read its configuration again.
    pub fn reload(&mut self) -> Result<Reloaded, ClientError> {
        self.call(Request::Reload)
    }

    /// Events from now on, each as soon as it happens. The first item has none: it says that the
    /// daemon tells them from now on. The iterator ends only with an error.
    pub fn monitor(mut self) -> Result<Monitor, ClientError> {
        let call = json!({ "method": MONITOR, "parameters": {}, "more": true });
        self.answered(|client| {
            client.stream.get_mut().set_read_timeout(None)?;
            client.send(&call)
        })?;
        Ok(Monitor(self))
    }

    fn call<T: DeserializeOwned>(&mut self, request: Request) -> Result<T, ClientError> {
        let reply = self.answered(|client| {
            // A daemon that is busy says so and hangs up before it reads: look at its answer first.
            let sent = client.send(&request.to_call());
            client.receive().or_else(|error| sent.and(Err(error)))
        })?;
        parse(&reply)
    }

    fn answered<T>(
        &mut self,
        exchange: impl FnOnce(&mut Self) -> io::Result<T>,
    ) -> Result<T, ClientError> {
        exchange(self).map_err(|error| {
            // What a read with a timeout says of it is "Resource temporarily unavailable".
            let error = match error.kind() {
                io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
                _ => error,
            };
            ClientError::NoAnswer { path: self.path.clone(), error }
        })
    }

    fn send(&mut self, call: &Value) -> io::Result<()> {
        let mut request = serde_json::to_vec(call)?;
        request.push(0);
        self.stream.get_mut().write_all(&request)
    }

    fn receive(&mut self) -> io::Result<Vec<u8>> {
        let mut reply = Vec::new();
        (&mut self.stream).take(REPLY_BYTES).read_until(0, &mut reply)?;
        if reply.pop() != Some(0) {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection"));
        }
        Ok(reply)
    }
}

fn parse<T: DeserializeOwned>(reply: &[u8]) -> Result<T, ClientError> {
    let unexpected = |error: serde_json::Error| ClientError::Unexpected(error.to_string());
    let answer: Answer = serde_json::from_slice(reply).map_err(unexpected)?;
    if let Some(name) = answer.error {
        let failure = json!({ "error": name, "parameters": answer.parameters });
        return Err(serde_json::from_value::<Failure>(failure).map_err(unexpected)?.into());
    }
    serde_json::from_value(answer.parameters).map_err(unexpected)
}

/// What [`Client::monitor`] gives.
#[derive(Debug)]
pub struct Monitor(Client);

impl Iterator for Monitor {
    type Item = Result<Monitored, ClientError>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.0.answered(Client::receive).and_then(|reply| parse(&reply)))
    }
}
