//! What a running daemon says of itself.

use control::{Client, ClientError, Dmvpn, NhsState};

use super::Check;

/// Its interfaces, and what they have to complain of.
pub(super) fn ask(client: Result<Client, ClientError>, checks: &mut Vec<Check>) -> Option<Dmvpn> {
    let dmvpn = match client.and_then(|mut client| client.dmvpn()) {
        Ok(dmvpn) => dmvpn,
        Err(error @ ClientError::Unreachable { .. }) => {
            checks.push(Check::note("daemon", error.to_string()));
            return None;
        }
        Err(error) => {
            let mend = "systemctl restart nhrpd; journalctl -u nhrpd says more";
            checks.push(Check::finding("daemon", error.to_string(), mend));
            return None;
        }
    };
    for interface in &dmvpn.interfaces {
        let name = &interface.name;
        if interface.nbma.is_none() {
            let found = format!("{} has no address", interface.source);
            checks.push(Check::finding("underlay", found, "ip address show: is the uplink up?"));
        }
        for nhs in &interface.nhs {
            let address = nhs.address;
            if nhs.state == NhsState::Responding {
                let found = format!("{name} is registered with {address}");
                checks.push(Check::ok("registration", found));
                continue;
            }
            let peer = interface.peers.iter().find(|peer| peer.tunnel_address == Some(address));
            let why = peer.and_then(|peer| peer.why.as_ref()).or(nhs.why.as_ref());
            let why = why.map_or("no reply yet", String::as_str);
            let found = format!("{name} is not registered with {address}: {why}");
            checks.push(Check::finding(
                "registration",
                found,
                format!("overlayctl trace {address} shows the step at which it stops"),
            ));
        }
        let told = |reason: &str| checks.iter().any(|check: &Check| check.found.contains(reason));
        if let Some(refusal) = interface.refusals.first().filter(|r| !told(&r.reason)) {
            let found = format!("{}: {}", refusal.peer, refusal.reason);
            checks.push(Check::note("last refusal", found));
        }
    }
    Some(dmvpn)
}
