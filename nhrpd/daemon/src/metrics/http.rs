//! As much of HTTP/1.1 as a scrape needs: `GET /metrics`, one request a connection.

use std::io;
use std::time::Duration;

use anyhow::Context as _;
use control::Socket;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::config::Listen;

/// Scrapes at one time; one more is told to come back.
const CONNECTIONS: usize = 8;
/// Bytes of a request with its headers.
const REQUEST_BYTES: usize = 8 * 1024;
/// For the request, and again for the answer to be taken.
const PATIENCE: Duration = Duration::from_secs(5);
/// After `accept` failed (no file descriptor left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Somebody wants to know all metrics.
pub(crate) type Scrape = oneshot::Sender<String>;

/// Where scrapes come in.
pub(crate) enum Listener {
    /// For local programs.
    Unix(Socket),
    /// For those who reach the address.
    Tcp(TcpListener),
}

impl Listener {
    pub(crate) async fn bind(listen: &Listen) -> anyhow::Result<Self> {
        let cannot = || format!("cannot tell metrics at {listen}");
        Ok(match listen {
            Listen::Unix(path) => Self::Unix(Socket::bind(path).with_context(cannot)?),
            Listen::Tcp(address) => {
                Self::Tcp(TcpListener::bind(address).await.with_context(cannot)?)
            }
        })
    }

    /// Answers until it is dropped; `scrapes` leads to the owner of the state.
    pub(crate) async fn run(self, scrapes: mpsc::Sender<Scrape>) {
        let mut connections = JoinSet::new();
        loop {
            let stream = tokio::select! {
                accepted = self.accept() => accepted,
                Some(_) = connections.join_next() => continue,
            };
            match stream {
                // A fresh connection's buffer takes this; and no more is done for it.
                Ok(mut stream) if connections.len() >= CONNECTIONS => {
                    let busy =
                        response("503 Service Unavailable", "too many scrapes at one time\n");
                    let _ = timeout(ACCEPT_PAUSE, stream.write_all(busy.as_bytes())).await;
                }
                Ok(stream) => {
                    connections.spawn(serve(stream, scrapes.clone()));
                }
                Err(_) => sleep(ACCEPT_PAUSE).await,
            }
        }
    }

    async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Unix(socket) => Box::new(socket.accept().await?),
            Self::Tcp(listener) => Box::new(listener.accept().await?.0),
        })
    }
}

/// A connection of either kind.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn serve(mut stream: Box<dyn Stream>, scrapes: mpsc::Sender<Scrape>) {
    let asked = timeout(PATIENCE, request(&mut stream)).await;
    let reply = match asked {
        Ok(Ok(Request::Metrics)) => match scrape(&scrapes).await {
            Some(text) => response("200 OK", &text),
            None => response("503 Service Unavailable", "nhrpd is busy\n"),
        },
        Ok(Ok(Request::Other)) => response("404 Not Found", "metrics are at /metrics\n"),
        Ok(Ok(Request::NotGet)) => response("405 Method Not Allowed", "only GET\n"),
        Ok(Ok(Request::TooLong)) => response("431 Request Header Fields Too Large", ""),
        Ok(Ok(Request::Nonsense)) => response("400 Bad Request", ""),
        // It has gone, or says nothing.
        Ok(Err(_)) | Err(_) => return,
    };
    let _ = timeout(PATIENCE, async {
        stream.write_all(reply.as_bytes()).await?;
        stream.shutdown().await
    })
    .await;
}

async fn scrape(scrapes: &mpsc::Sender<Scrape>) -> Option<String> {
    let (reply, answered) = oneshot::channel();
    let asked = async {
        scrapes.send(reply).await.ok()?;
        answered.await.ok()
    };
    timeout(PATIENCE, asked).await.ok()?
}

enum Request {
    Metrics,
    Other,
    NotGet,
    TooLong,
    Nonsense,
}

/// Reads one request to the end of its headers, which are all the same to us.
async fn request(stream: &mut Box<dyn Stream>) -> io::Result<Request> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() >= REQUEST_BYTES {
            return Ok(Request::TooLong);
        }
        let mut limited = stream.take((REQUEST_BYTES - head.len()) as u64);
        if limited.read_buf(&mut head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let line = head.split(|&byte| byte == b'\r').next().unwrap_or_default();
    let words: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
    let &[method, target, version] = &words[..] else { return Ok(Request::Nonsense) };
    if !version.starts_with(b"HTTP/1.") {
        return Ok(Request::Nonsense);
    }
    let path = target.split(|&byte| byte == b'?').next();
    Ok(match (method, path) {
        (b"GET", Some(b"/metrics")) => Request::Metrics,
        (b"GET", _) => Request::Other,
        _ => Request::NotGet,
    })
}

fn response(status: &str, body: &str) -> String {
    let kind = if status.starts_with("200") { CONTENT_TYPE } else { "text/plain; charset=utf-8" };
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes back for `sent`; the owner of the state answers "x 1".
    async fn said(sent: &[u8]) -> String {
        let (mut client, stream) = tokio::io::duplex(64 * 1024);
        let (scrapes_in, mut scrapes) = mpsc::channel::<Scrape>(1);
        let serving = tokio::spawn(serve(Box::new(stream), scrapes_in));
        let owner = tokio::spawn(async move {
            while let Some(scrape) = scrapes.recv().await {
                let _ = scrape.send("x 1\n".to_owned());
            }
        });
        client.write_all(sent).await.unwrap();
        let mut reply = String::new();
        client.read_to_string(&mut reply).await.unwrap();
        serving.await.unwrap();
        owner.await.unwrap();
        reply
    }

    #[tokio::test(start_paused = true)]
    async fn a_scrape_is_answered_and_the_connection_closed() {
        let reply = said(b"GET /metrics?x=y HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n").await;
        let (head, body) = reply.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(head.contains("Content-Type: application/openmetrics-text; version=1.0.0"));
        assert!(head.contains("Content-Length: 4\r\n"));
        assert_eq!(body, "x 1\n");
    }

    #[tokio::test(start_paused = true)]
    async fn everything_else_is_refused() {
        let long = [b"GET /metrics HTTP/1.1\r\n".to_vec(), b"a: b\r\n".repeat(2000)].concat();
        for (sent, status) in [
            (&b"GET / HTTP/1.1\r\n\r\n"[..], "404"),
            (b"GET /metricsx HTTP/1.0\r\n\r\n", "404"),
            (b"POST /metrics HTTP/1.1\r\n\r\n", "405"),
            (b"GET /metrics\r\n\r\n", "400"),
            (b"GET /metrics SPDY/3\r\n\r\n", "400"),
            (b"\x16\x03\x01\x02\r\n\r\n", "400"),
            (&long, "431"),
        ] {
            let reply = said(sent).await;
            assert!(reply.starts_with(&format!("HTTP/1.1 {status} ")), "{reply}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_is_sent_away() {
        let start = tokio::time::Instant::now();
        assert_eq!(said(b"GET /metrics HTTP/1.1\r\n").await, "");
        assert_eq!(start.elapsed(), PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn an_owner_that_hangs_is_not_waited_for() {
        let (scrapes_in, _scrapes) = mpsc::channel::<Scrape>(1);
        assert_eq!(scrape(&scrapes_in).await, None);
    }
}
