//! Routes and addresses of this machine that are in the tunnel's way.

use std::net::IpAddr;

use ipnet::IpNet;
use nhrpd::config::Config;
use serde_json::Value;

use super::Check;
use super::paths::Server;
use crate::host;

/// Clashes with the tunnel's network, and servers that are routed into their own tunnel.
pub(super) fn check(config: &Config, servers: &[Server]) -> Vec<Check> {
    let addresses = match host::json("ip", &["-json", "address", "show"]) {
        Ok(addresses) => addresses,
        Err(error) => return vec![Check::note("routes", format!("not looked at: {error:#}"))],
    };
    let family = if config.tunnel.address.addr().is_ipv4() { "-4" } else { "-6" };
    let routes = host::json("ip", &["-json", family, "route", "show"]).unwrap_or_default();
    let mut checks = clashes(config, &addresses, &routes);
    let tunnel = &config.tunnel.interface;
    for server in servers {
        let at = server.endpoint.ip();
        match host::route(at) {
            Ok(route) if route.device == *tunnel => checks.push(Check::finding(
                "routes",
                format!(
                    "the route to next-hop server {at} leads into {tunnel} itself: its own packets \
                     would have to go through the tunnel"
                ),
                format!("ip route add {at} via GATEWAY dev UPLINK, or narrower `routes`"),
            )),
            Ok(route) => {
                checks.push(Check::ok("routes", format!("{at} is reached by {}", route.device)));
            }
            Err(error) => checks.push(Check::finding(
                "routes",
                format!("no route to next-hop server {} at {at}: {error:#}", server.address),
                "ip route show: is the uplink up, has it a default route?",
            )),
        }
    }
    checks
}

fn clashes(config: &Config, addresses: &Value, routes: &Value) -> Vec<Check> {
    let (tunnel, own) = (config.tunnel.address.trunc(), config.tunnel.address.addr());
    let name = config.tunnel.interface.as_str();
    let mut checks = Vec::new();
    for device in addresses.as_array().into_iter().flatten() {
        let of = device["ifname"].as_str().unwrap_or_default();
        for info in device["addr_info"].as_array().into_iter().flatten() {
            let local = info["local"].as_str().and_then(|text| text.parse::<IpAddr>().ok());
            let length = info["prefixlen"].as_u64().and_then(|length| u8::try_from(length).ok());
            let (Some(local), Some(length), true) = (local, length, of != name) else { continue };
            let Ok(net) = IpNet::new(local, length) else { continue };
            if local == own || tunnel.contains(&net.trunc()) || net.trunc().contains(&tunnel) {
                checks.push(Check::finding(
                    "addresses",
                    format!(
                        "{of} has {net}, which clashes with the tunnel's {}",
                        config.tunnel.address
                    ),
                    format!("give {of} another network, or the tunnel (on all nodes)"),
                ));
            }
        }
    }
    for route in routes.as_array().into_iter().flatten() {
        let device = route["dev"].as_str().unwrap_or_default();
        let to = route["dst"].as_str().unwrap_or_default();
        let to = to.parse::<IpNet>().or_else(|_| to.parse::<IpAddr>().map(IpNet::from));
        let Ok(to) = to else { continue };
        if device == name || device.is_empty() {
            continue;
        }
        let covered = config.routes.iter().chain([&tunnel]).find(|wanted| **wanted == to);
        if covered.is_some() {
            checks.push(Check::finding(
                "routes",
                format!("{to} belongs into the tunnel, but a route sends it out of {device}"),
                format!("ip route del {to} dev {device}, or take it out of `routes`"),
            ));
        }
    }
    if checks.is_empty() {
        checks.push(Check::ok("addresses", format!("nothing clashes with {tunnel}")));
    }
    checks
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;

    #[test]
    fn what_clashes_is_named() {
        let yaml = "tunnel: { interface: dmvpn0, address: 172.16.0.2/24 }\n\
                    underlay: { source: eth0 }\nsecurity: { mode: none }\n\
                    nhs: [{ address: 172.16.0.1, nbma: 198.51.100.1 }]\nroutes: [192.168.0.0/16]\n";
        let config = nhrpd::config::parse(yaml, Path::new("nhrpd.yaml")).unwrap();
        let device = |name: &str, local: &str, length: u8| json!({ "ifname": name, "addr_info": [{ "local": local, "prefixlen": length }] });
        let good = json!([device("dmvpn0", "172.16.0.2", 24), device("eth0", "198.51.100.2", 24)]);
        let found = clashes(&config, &good, &json!([{ "dst": "default", "dev": "eth0" }]));
        assert_eq!(found, [Check::ok("addresses", "nothing clashes with 172.16.0.0/24")]);
        let bad = json!([device("docker0", "172.16.0.1", 16)]);
        let routes = json!([{ "dst": "192.168.0.0/16", "dev": "eth1" }]);
        let found: Vec<String> =
            clashes(&config, &bad, &routes).into_iter().map(|check| check.found).collect();
        assert_eq!(
            found,
            [
                "docker0 has 172.16.0.1/16, which clashes with the tunnel's 172.16.0.2/24",
                "192.168.0.0/16 belongs into the tunnel, but a route sends it out of eth1",
            ]
        );
    }
}
