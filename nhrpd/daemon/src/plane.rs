//! Which data plane: what the configuration asks for, and what this machine can do.

use std::net::IpAddr;

use anyhow::bail;
use dataplane::DataPlane;
use dataplane::probe::{self, Ability, hindrance};
use overlay::desired::Event;
use tokio::sync::mpsc;

use crate::config::{Config, Dataplane, Security, Tunnels};
use crate::kept;

/// One of the two, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Choice {
    pub kernel: bool,
    pub why: String,
    /// What this kernel can do for the data plane in it, or for the other where that was asked for.
    pub abilities: Vec<Ability>,
}

/// Chooses. `nbma`: own address on the underlay, where there is one.
pub(crate) fn choose(config: &Config, nbma: Option<IpAddr>) -> anyhow::Result<Choice> {
    if config.dataplane == Dataplane::Userspace {
        let abilities = probe::userspace();
        return Ok(Choice { kernel: false, why: "as configured".into(), abilities });
    }
    let abilities = probe::kernel(config.security != Security::None);
    let lacking = match (nbma, config.security.mode()) {
        (Some(IpAddr::V6(_)), _) => Some(
            "Linux has no multipoint GRE over IPv6 that carries, and the underlay is IPv6"
                .to_owned(),
        ),
        (_, Some(Tunnels::WireGuard)) => Some("it has no WireGuard of ours".to_owned()),
        _ => hindrance(&abilities),
    };
    let (kernel, why) = match (lacking, config.dataplane) {
        (None, Dataplane::Auto) => (true, "it can do all of it".into()),
        (None, _) => (true, "as configured".into()),
        (Some(lacking), Dataplane::Auto) => (false, format!("not the kernel: {lacking}")),
        (Some(lacking), _) => bail!("`dataplane: kernel` cannot be: {lacking}"),
    };
    Ok(Choice { kernel, why, abilities })
}

/// Starts it, with the socket that systemd has kept over a restart. What the plane has then, systemd
/// keeps for the next one.
pub(crate) async fn start(
    choice: &Choice,
    config: dataplane::Config,
    events: mpsc::Sender<Event>,
) -> Result<DataPlane, dataplane::Error> {
    let kept = kept::take();
    let plane = match choice.kernel {
        true => DataPlane::kernel(config, kept, events).await?,
        false => DataPlane::userspace(config, events).await?,
    };
    kept::keep(plane.socket());
    Ok(plane)
}
