//! `overlayctl graph`: the network as one node sees it.

mod svg;

use std::fmt::Write as _;
use std::net::IpAddr;

use clap::ValueEnum;
use control::{Dmvpn, Interface, Path, Peer, PeerState};

use crate::text::or_dash;

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A picture, for browsers; follows their light or dark setting.
    Svg,
    /// For Graphviz.
    Dot,
    /// For Markdown that draws (GitHub, GitLab).
    Mermaid,
}

/// One node of the picture.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Node {
    /// Certificate subject, or the tunnel address.
    title: String,
    /// Further lines.
    lines: Vec<String>,
    link: Link,
    server: bool,
}

/// How this node reaches it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Direct,
    ViaHub,
    Down,
}

impl Link {
    fn words(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::ViaHub => "via hub",
            Self::Down => "not up",
        }
    }
}

/// One tunnel: this node, and its peers.
struct Picture {
    name: String,
    own: Node,
    peers: Vec<Node>,
}

/// Draws all tunnels.
pub(crate) fn draw(dmvpn: &Dmvpn, format: Format) -> String {
    let pictures: Vec<Picture> = dmvpn.interfaces.iter().map(picture).collect();
    match format {
        Format::Svg => svg::draw(&pictures),
        Format::Dot => dot(&pictures),
        Format::Mermaid => mermaid(&pictures),
    }
}

fn picture(interface: &Interface) -> Picture {
    let own = Node {
        title: interface.identity.clone().unwrap_or_else(|| interface.name.clone()),
        lines: vec![
            interface.address.to_string(),
            format!("at {}", or_dash(interface.nbma)),
            format!("{}: this node", interface.name),
        ],
        link: Link::Direct,
        server: false,
    };
    let mut peers: Vec<&Peer> = interface.peers.iter().collect();
    let is_server =
        |peer: &Peer| interface.nhs.iter().any(|nhs| Some(nhs.address) == peer.tunnel_address);
    peers.sort_by_key(|peer| (!is_server(peer), peer.tunnel_address));
    let peers = peers.into_iter().map(|peer| node(peer, is_server(peer))).collect();
    Picture { name: interface.name.clone(), own, peers }
}

fn node(peer: &Peer, server: bool) -> Node {
    let address = |address: Option<IpAddr>| or_dash(address);
    let link = match (peer.state, peer.path) {
        (_, Some(Path::ViaHub)) => Link::ViaHub,
        (PeerState::Up, _) => Link::Direct,
        _ => Link::Down,
    };
    let mut lines = vec![format!(
        "{} at {}",
        address(peer.tunnel_address),
        address(peer.nbma_seen.or(peer.nbma))
    )];
    lines.extend(peer.prefixes.iter().map(ToString::to_string));
    lines.extend(peer.why.clone());
    let title = peer.identity.clone().unwrap_or_else(|| address(peer.tunnel_address));
    Node { title, lines, link, server }
}

fn dot(pictures: &[Picture]) -> String {
    let quoted = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
    let label = |node: &Node| {
        let lines = std::iter::once(&node.title).chain(&node.lines);
        lines.map(|line| quoted(line)).collect::<Vec<_>>().join("\\n")
    };
    let mut out =
        "graph dmvpn {\n  rankdir=LR; node [shape=box, fontname=\"sans-serif\"];\n".to_owned();
    for (picture, at) in pictures.iter().zip(0..) {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "  t{at} [label=\"{}\", penwidth=2];", label(&picture.own));
        let hub = picture.peers.iter().position(|node| node.server);
        for (node, n) in picture.peers.iter().zip(0..) {
            let shape = if node.server { ", style=rounded" } else { "" };
            let _ = writeln!(out, "  t{at}p{n} [label=\"{}\"{shape}];", label(node));
            let from = match (node.link, hub) {
                (Link::ViaHub, Some(hub)) => format!("t{at}p{hub}"),
                _ => format!("t{at}"),
            };
            let style = match node.link {
                Link::Direct => "color=darkgreen",
                Link::ViaHub => "style=dashed",
                Link::Down => "style=dotted, color=red",
            };
            let _ =
                writeln!(out, "  {from} -- t{at}p{n} [label=\"{}\", {style}];", node.link.words());
        }
    }
    out + "}\n"
}

fn mermaid(pictures: &[Picture]) -> String {
    let quoted = |text: &str| text.replace('"', "#quot;").replace('<', "#lt;");
    let label = |node: &Node| {
        let lines = std::iter::once(&node.title).chain(&node.lines);
        lines.map(|line| quoted(line)).collect::<Vec<_>>().join("<br/>")
    };
    let mut out = "flowchart LR\n".to_owned();
    for (picture, at) in pictures.iter().zip(0..) {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "  t{at}[\"{}\"]", label(&picture.own));
        let hub = picture.peers.iter().position(|node| node.server);
        for (node, n) in picture.peers.iter().zip(0..) {
            let (open, close) = if node.server { ("([", "])") } else { ("[", "]") };
            let _ = writeln!(out, "  t{at}p{n}{open}\"{}\"{close}", label(node));
            let from = match (node.link, hub) {
                (Link::ViaHub, Some(hub)) => format!("t{at}p{hub}"),
                _ => format!("t{at}"),
            };
            let arrow = if node.link == Link::Direct { "---" } else { "-.-" };
            let _ = writeln!(out, "  {from} {arrow}|{}| t{at}p{n}", node.link.words());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const DMVPN: &str = include_str!("../../nhrpd/control/tests/samples/ShowDmvpn.json");

    fn drawn(format: Format) -> String {
        draw(&serde_json::from_str(DMVPN).unwrap(), format)
    }

    #[test]
    fn for_graphviz() {
        insta::assert_snapshot!(drawn(Format::Dot));
    }

    #[test]
    fn for_markdown() {
        insta::assert_snapshot!(drawn(Format::Mermaid));
    }

    #[test]
    fn as_a_picture() {
        insta::assert_snapshot!(drawn(Format::Svg));
    }

    #[test]
    fn nothing_of_a_name_is_markup() {
        let mut dmvpn: Dmvpn = serde_json::from_str(DMVPN).unwrap();
        dmvpn.interfaces[0].peers[0].identity = Some("CN=<a> & \"b\"\\".into());
        assert!(draw(&dmvpn, Format::Svg).contains("CN=&lt;a&gt; &amp; &quot;b&quot;\\"));
        assert!(draw(&dmvpn, Format::Dot).contains(r#"CN=<a> & \"b\"\\"#));
        assert!(draw(&dmvpn, Format::Mermaid).contains("CN=#lt;a> & #quot;b#quot;"));
    }
}
