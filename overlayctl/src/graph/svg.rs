//! The picture: this node on the left, its next-hop servers above the middle, all other peers in a
//! column on the right, so that no line crosses a box.

use std::fmt::{self, Write as _};

use super::{Link, Node, Picture};

const MARGIN: usize = 24;
const WIDTH: usize = 330;
const GAP: usize = 110;
const SPACE: usize = 18;
const LINE: usize = 18;
const PADDING: usize = 12;
/// Characters of a line that fit into a box.
const FIT: usize = 44;

const STYLE: &str = "\
text { font: 13px ui-sans-serif, system-ui, sans-serif; fill: #1b1f24 }
.title { font-weight: 600 }
.page { fill: #ffffff }
.box { fill: #f6f8fa; stroke: #57606a }
.own { fill: #ddf4ff; stroke: #0969da; stroke-width: 2 }
.server { fill: #fff8c5; stroke: #9a6700 }
.down { fill: #ffebe9; stroke: #cf222e }
.link { fill: none; stroke-width: 2 }
.link.direct { stroke: #1a7f37 }
.link.via { stroke: #57606a; stroke-dasharray: 7 5 }
.link.none { stroke: #cf222e; stroke-dasharray: 2 5 }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 }
.page { fill: #0d1117 }
.box { fill: #161b22; stroke: #8b949e }
.own { fill: #0c2d6b; stroke: #58a6ff }
.server { fill: #3b2300; stroke: #d29922 }
.down { fill: #490202; stroke: #f85149 }
.link.direct { stroke: #3fb950 }
.link.via { stroke: #8b949e }
.link.none { stroke: #f85149 }
}";

/// A box and where it is.
struct Placed<'a> {
    node: &'a Node,
    x: usize,
    y: usize,
}

impl Placed<'_> {
    fn height(&self) -> usize {
        height(self.node)
    }

    fn middle(&self) -> usize {
        self.y + self.height() / 2
    }
}

fn height(node: &Node) -> usize {
    (1 + node.lines.len()) * LINE + PADDING
}

/// All tunnels, one below the other.
pub(super) fn draw(pictures: &[Picture]) -> String {
    let mut body = String::new();
    let mut y = MARGIN;
    for picture in pictures {
        // Writing to a String cannot fail.
        let _ = tunnel(&mut body, picture, &mut y);
    }
    let width = 2 * MARGIN + 3 * WIDTH + 2 * GAP;
    let height = legend(&mut body, y) + MARGIN;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         width=\"{width}\" height=\"{height}\" role=\"img\">\n<title>DMVPN</title>\n\
         <style>\n{STYLE}\n</style>\n<rect class=\"page\" width=\"{width}\" height=\"{height}\"/>\n\
         {body}</svg>\n"
    )
}

fn tunnel(out: &mut String, picture: &Picture, y: &mut usize) -> fmt::Result {
    writeln!(
        out,
        "<text class=\"title\" x=\"{MARGIN}\" y=\"{}\">{}</text>",
        *y + 12,
        escaped(&picture.name)
    )?;
    *y += 2 * LINE;
    let (middle, right) = (MARGIN + WIDTH + GAP, MARGIN + 2 * (WIDTH + GAP));
    let stack = |nodes: Vec<&'_ Node>, x: usize, mut y: usize| -> (Vec<(usize, usize)>, usize) {
        let mut places = Vec::new();
        for node in nodes {
            places.push((x, y));
            y += height(node) + SPACE;
        }
        (places, y)
    };
    let servers: Vec<&Node> = picture.peers.iter().filter(|node| node.server).collect();
    let others: Vec<&Node> = picture.peers.iter().filter(|node| !node.server).collect();
    let (places, below) = stack(servers.clone(), middle, *y);
    let servers = place(servers, &places);
    let (places, end) = stack(others.clone(), right, below);
    let others = place(others, &places);
    let own_height = height(&picture.own);
    let own_y = match others.is_empty() {
        true => *y,
        false => below + (end - SPACE - below).saturating_sub(own_height) / 2,
    };
    let own = Placed { node: &picture.own, x: MARGIN, y: own_y };
    for peer in servers.iter().chain(&others) {
        let from = match (peer.node.link, servers.first()) {
            (Link::ViaHub, Some(hub)) => hub,
            _ => &own,
        };
        line(out, from, peer)?;
    }
    for placed in std::iter::once(&own).chain(&servers).chain(&others) {
        boxed(out, placed, std::ptr::eq(placed.node, &picture.own))?;
    }
    *y = end.max(own_y + own_height + SPACE) + SPACE;
    Ok(())
}

fn place<'a>(nodes: Vec<&'a Node>, places: &[(usize, usize)]) -> Vec<Placed<'a>> {
    nodes.into_iter().zip(places).map(|(node, &(x, y))| Placed { node, x, y }).collect()
}

fn line(out: &mut String, from: &Placed<'_>, to: &Placed<'_>) -> fmt::Result {
    let class = match to.node.link {
        Link::Direct => "direct",
        Link::ViaHub => "via",
        Link::Down => "none",
    };
    let (x1, y1, x2, y2) = (from.x + WIDTH, from.middle(), to.x, to.middle());
    let bend = (x2.saturating_sub(x1)) / 2;
    writeln!(
        out,
        "<path class=\"link {class}\" d=\"M{x1} {y1} C{} {y1} {} {y2} {x2} {y2}\"/>",
        x1 + bend,
        x2 - bend
    )
}

fn boxed(out: &mut String, placed: &Placed<'_>, own: bool) -> fmt::Result {
    let Placed { node, x, y } = placed;
    let class = match (own, node.link, node.server) {
        (true, ..) => "own",
        (_, Link::Down, _) => "down",
        (_, _, true) => "server",
        _ => "box",
    };
    writeln!(
        out,
        "<rect class=\"{class}\" x=\"{x}\" y=\"{y}\" width=\"{WIDTH}\" height=\"{}\" rx=\"8\"/>",
        placed.height()
    )?;
    let (x, mut at) = (x + PADDING, y + PADDING / 2 + 14);
    for (text, title) in
        std::iter::once((&node.title, true)).chain(node.lines.iter().map(|l| (l, false)))
    {
        let class = if title { " class=\"title\"" } else { "" };
        // The whole text is there for who points at a shortened one.
        let whole = match fitted(text) == *text {
            true => String::new(),
            false => format!("<title>{}</title>", escaped(text)),
        };
        writeln!(
            out,
            "<text{class} x=\"{x}\" y=\"{at}\">{}{whole}</text>",
            escaped(&fitted(text))
        )?;
        at += LINE;
    }
    Ok(())
}

fn legend(out: &mut String, y: usize) -> usize {
    let mut x = MARGIN;
    for (class, words) in
        [("direct", "direct"), ("via", "through a next-hop server"), ("none", "not up")]
    {
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "<path class=\"link {class}\" d=\"M{x} {y} h40\"/><text x=\"{}\" y=\"{}\">{words}</text>",
            x + 50,
            y + 4
        );
        x += 260;
    }
    y
}

fn fitted(text: &str) -> String {
    match text.chars().count() {
        ..=FIT => text.to_owned(),
        _ => text.chars().take(FIT - 1).chain(['…']).collect(),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
