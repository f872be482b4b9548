use serde::de::DeserializeOwned;

use super::*;

fn sample<T: DeserializeOwned>(text: &str) -> T {
    serde_json::from_str(text).unwrap()
}

macro_rules! sample {
    ($name:literal) => {
        sample(include_str!(concat!("../../../nhrpd/control/tests/samples/", $name, ".json")))
    };
}

/// Each table wide (no terminal), and where columns may wrap also on 80 columns.
macro_rules! shows {
    ($($name:ident: $text:expr;)*) => { $(
        #[test]
        fn $name() {
            insta::assert_snapshot!($text);
        }
    )* };
}

shows! {
    dmvpn_wide: dmvpn(&sample!("ShowDmvpn"), false, None);
    dmvpn_80: dmvpn(&sample!("ShowDmvpn"), false, Some(80));
    dmvpn_detail: dmvpn(&sample!("ShowDmvpn"), true, Some(100));
    nhrp_cache: cache(&sample!("ShowNhrpCache"));
    nhrp_nhs: nhs(&sample::<control::NextHopServers>(NHS).servers, None);
    nhrp_shortcuts: shortcuts(&sample!("ShowShortcuts"), None);
    nhrp_traffic: traffic(&sample!("ShowNhrpTraffic"));
    tunnel_endpoints: endpoints(&sample!("ShowTunnelEndpoints"), None);
    ike_sas: ike_sa(&sample!("ShowIkeSa"), false);
    ike_sas_detail: ike_sa(&sample!("ShowIkeSa"), true);
    ipsec_sas: ipsec_sa(&sample!("ShowIkeSa"));
    multicast_members: multicast(&sample!("ShowMulticast"), None);
}

#[test]
fn a_trace_says_in_its_first_line_where_it_stops() {
    let traced = |kernel_route| Traced { trace: sample!("Trace"), kernel_route };
    let route = |device: &str| crate::host::KernelRoute {
        device: device.into(),
        gateway: None,
        source: None,
    };
    let plain = |text: String| anstream::adapter::strip_str(&text).to_string();
    insta::assert_snapshot!(plain(trace(&traced(Some(route("dmvpn0"))), Some(100))));
    let astray = plain(trace(&traced(Some(route("eth1"))), None));
    let first = astray.lines().next().unwrap();
    assert!(first.contains("the kernel sends it out of eth1, not into dmvpn0"), "{first}");
}

const NHS: &str = include_str!("../../../nhrpd/control/tests/samples/ShowNhs.json");

#[test]
fn tables_fit_80_columns() {
    let wide: control::Dmvpn = sample!("ShowDmvpn");
    let text = dmvpn(&wide, false, Some(80));
    let rows = text.lines().filter(|line| line.contains(" UP ") || line.contains("---"));
    assert!(rows.clone().count() > 2);
    for line in rows {
        assert!(line.len() <= 80, "{line}");
    }
}

#[test]
fn nothing_there() {
    assert_eq!(cache(&control::Cache::default()), "The NHRP cache is empty\n");
    assert_eq!(nhs(&[], None), "No next-hop server is configured: this node is a hub\n");
    assert_eq!(
        shortcuts(&control::Shortcuts::default(), None),
        "No shortcuts: all traffic to other spokes goes through the hub\n"
    );
    assert_eq!(endpoints(&control::Endpoints::default(), None), "No tunnel endpoints\n");
    assert_eq!(ike_sa(&control::IkeSas::default(), false), "No IKE SAs\n");
    let none = control::Multicast::default();
    assert_eq!(multicast(&none, None), "No node gets multicast packets\n");
    let mut quiet: control::Dmvpn = sample!("ShowDmvpn");
    quiet.interfaces[0].peers.clear();
    quiet.interfaces[0].refusals.clear();
    assert!(dmvpn(&quiet, false, None).ends_with("Type:Spoke, NHRP Peers:0,\n"));
}
