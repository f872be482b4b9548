//! Names of next-hop servers, looked up again and again: a hub may move.

use std::net::IpAddr;
use std::time::Duration;

use nhrp::engine::Nbma;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::assemble;
use crate::config::{Config, Host};

/// Between two look-ups of a name that resolves, and of one that does not.
const REFRESH: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_secs(5);

/// What a look-up of a server's name gave.
#[derive(Debug)]
pub(crate) struct Resolved {
    /// Protocol address of the server.
    pub server: IpAddr,
    /// Its NBMA address, or why there is none.
    pub nbma: Result<Nbma, String>,
}

/// Starts one task for each server that is configured by name.
pub(crate) fn start(config: &Config, results: &mpsc::Sender<Resolved>) -> Vec<JoinHandle<()>> {
    let mut tasks = Vec::new();
    for nhs in &config.nhs {
        let Host::Name(name) = nhs.nbma.host.clone() else { continue };
        let (server, results) = (nhs.address, results.clone());
        let port = assemble::port(config, nhs.nbma.port);
        tasks.push(tokio::spawn(async move {
            loop {
                let nbma = match tokio::net::lookup_host((name.as_str(), 0)).await {
                    Ok(mut found) => found
                        .next()
                        .map(|address| Nbma { address: address.ip(), port })
                        .ok_or_else(|| format!("{name} has no address")),
                    Err(error) => Err(format!("{name} does not resolve: {error}")),
                };
                let pause = if nbma.is_ok() { REFRESH } else { RETRY };
                if results.send(Resolved { server, nbma }).await.is_err() {
                    return;
                }
                sleep(pause).await;
            }
        }));
    }
    tasks
}
