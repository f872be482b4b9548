//! One screen, drawn from what is known. Columns that find no room are left out, the least
//! important one first.

use control::{NhsState, Path, PeerState, Role};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Table, TableState, Wrap};

use super::{Row as PeerRow, Top};
use crate::text::{elapsed, or_dash, plural};

/// Lines below the table, where the screen has room for them.
const DETAILS: u16 = 4;
const ROOM_FOR_DETAILS: u16 = 12;

pub(super) fn draw(top: &mut Top, frame: &mut Frame<'_>) {
    let details = if frame.area().height >= ROOM_FOR_DETAILS { DETAILS } else { 0 };
    let parts = Layout::vertical([
        Constraint::Length(2),
        Constraint::Min(1),
        Constraint::Length(details),
        Constraint::Length(1),
    ]);
    let [head, table, below, foot] = parts.areas(frame.area());
    frame.render_widget(Paragraph::new(headline(top)), head);
    rows(top, frame, table);
    if details > 0 {
        let text = top.rows.get(top.selected).map(about).unwrap_or_default();
        frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: true }), below);
    }
    let order = if top.reversed { ", reversed" } else { "" };
    let keys = format!("q quit  s sort ({}{order})  r reverse  ↑↓ select", top.sort.name());
    frame.render_widget(Paragraph::new(keys).style(dim()), foot);
}

fn dim() -> Style {
    Style::default().add_modifier(Modifier::DIM)
}

fn paint(top: &Top, colour: Color) -> Style {
    if top.coloured { Style::default().fg(colour) } else { Style::default() }
}

fn headline(top: &Top) -> Vec<Line<'static>> {
    let bold = Style::default().add_modifier(Modifier::BOLD);
    let interfaces = top.latest.iter().flat_map(|sample| &sample.dmvpn.interfaces);
    let mut lines: Vec<Line<'static>> = interfaces
        .map(|interface| {
            let role = match interface.role {
                Role::Hub => "hub",
                Role::Spoke => "spoke",
            };
            let up = interface.peers.iter().filter(|peer| peer.state == PeerState::Up).count();
            let count = interface.peers.len();
            let responding =
                interface.nhs.iter().filter(|nhs| nhs.state == NhsState::Responding).count();
            let servers = match interface.nhs.len() {
                0 => String::new(),
                all => format!(", {responding} of {all} next-hop server{}", plural(all)),
            };
            Line::from(vec![
                Span::styled(interface.name.clone(), bold),
                Span::raw(format!(
                    " {role} {}: {count} peer{}, {up} up{servers}",
                    interface.address,
                    plural(count)
                )),
            ])
        })
        .take(1)
        .collect();
    lines.push(match &top.trouble {
        Some(trouble) => Line::styled(trouble.clone(), paint(top, Color::Red)),
        None => Line::default(),
    });
    lines
}

/// One column: header, width, and the least width of the screen that it is shown on.
struct Column {
    header: &'static str,
    width: Constraint,
    from: u16,
    right: bool,
    text: fn(&PeerRow) -> String,
}

const COLUMNS: [Column; 10] = [
    Column {
        header: "Tunnel Addr",
        width: Constraint::Length(15),
        from: 0,
        right: false,
        text: |row| or_dash(row.peer.tunnel_address),
    },
    Column {
        header: "State",
        width: Constraint::Length(5),
        from: 0,
        right: false,
        text: |row| state(row.peer.state).to_owned(),
    },
    Column {
        header: "In",
        width: Constraint::Length(7),
        from: 0,
        right: true,
        text: |row| rate(row.received),
    },
    Column {
        header: "Out",
        width: Constraint::Length(7),
        from: 0,
        right: true,
        text: |row| rate(row.sent),
    },
    Column {
        header: "Pkt/s",
        width: Constraint::Length(7),
        from: 60,
        right: true,
        text: |row| row.packets.map_or_else(|| "-".into(), |packets| format!("{packets:.0}")),
    },
    Column {
        header: "Path",
        width: Constraint::Length(7),
        from: 66,
        right: false,
        text: |row| path(row).to_owned(),
    },
    Column {
        header: "UpDn Tm",
        width: Constraint::Length(8),
        from: 74,
        right: true,
        text: |row| elapsed(row.peer.since_seconds),
    },
    Column {
        header: "Drops",
        width: Constraint::Length(7),
        from: 90,
        right: true,
        text: |row| row.peer.counters.dropped_packets.to_string(),
    },
    Column {
        header: "NBMA Addr",
        width: Constraint::Length(15),
        from: 100,
        right: false,
        text: |row| or_dash(row.peer.nbma_seen.or(row.peer.nbma)),
    },
    Column {
        header: "Identity",
        width: Constraint::Min(10),
        from: 112,
        right: false,
        text: |row| or_dash(row.peer.identity.as_ref()),
    },
];

fn rows(top: &Top, frame: &mut Frame<'_>, area: Rect) {
    let shown: Vec<&Column> = COLUMNS.iter().filter(|column| column.from <= area.width).collect();
    let cell = |column: &Column, text: String| {
        let line = Line::from(text);
        Cell::from(if column.right { line.right_aligned() } else { line })
    };
    let header = shown.iter().map(|column| cell(column, column.header.to_owned()));
    let header = Row::new(header).style(Style::default().add_modifier(Modifier::BOLD));
    let rows = top.rows.iter().map(|row| {
        let colour = match row.peer.state {
            PeerState::Up => Color::Green,
            PeerState::Nhrp => Color::Yellow,
            PeerState::Ike => Color::Red,
        };
        let cells = shown.iter().map(|column| {
            let cell = cell(column, (column.text)(row));
            if column.header == "State" { cell.style(paint(top, colour)) } else { cell }
        });
        Row::new(cells)
    });
    let table = Table::new(rows, shown.iter().map(|column| column.width))
        .header(header)
        .row_highlight_style(Style::default().add_modifier(Modifier::REVERSED));
    let mut state = TableState::default().with_selected(Some(top.selected));
    frame.render_stateful_widget(table, area, &mut state);
}

fn about(row: &PeerRow) -> Vec<Line<'static>> {
    let peer = &row.peer;
    let prefixes: Vec<String> = peer.prefixes.iter().map(ToString::to_string).collect();
    let identity = peer.identity.as_deref().unwrap_or("nobody yet");
    let nbma = or_dash(peer.nbma_seen.or(peer.nbma));
    let mut lines = vec![Line::from(format!(
        "{} is {identity} at {nbma}, on {}",
        or_dash(peer.tunnel_address),
        row.interface
    ))];
    if !prefixes.is_empty() {
        lines.push(Line::from(format!("behind it: {}", prefixes.join(", "))));
    }
    if let Some(sa) = peer.session.as_ref().and_then(|session| session.ike.as_ref()) {
        let suite = sa.suite.as_deref().unwrap_or("not agreed yet");
        lines.push(Line::from(format!("IKE SA: {suite}, {}", elapsed(sa.age_seconds))));
    }
    if let Some(why) = &peer.why {
        lines.push(Line::from(format!("not up: {why}")));
    }
    lines
}

fn state(state: PeerState) -> &'static str {
    match state {
        PeerState::Ike => "IKE",
        PeerState::Nhrp => "NHRP",
        PeerState::Up => "UP",
    }
}

fn path(row: &PeerRow) -> &'static str {
    match row.peer.path {
        Some(Path::Direct) => "direct",
        Some(Path::ViaHub) => "via hub",
        None => "-",
    }
}

/// Bits per second: `1.0G`, `12.0k`, `960`.
fn rate(bytes: Option<f64>) -> String {
    let Some(bytes) = bytes else { return "-".to_owned() };
    let mut value = bytes * 8.0;
    for unit in ["", "k", "M", "G"] {
        if value < 1000.0 {
            let digits = usize::from(!unit.is_empty());
            return format!("{value:.digits$}{unit}");
        }
        value /= 1000.0;
    }
    format!("{value:.1}T")
}

#[cfg(test)]
mod tests {
    use super::rate;

    #[test]
    fn rates_are_bits_per_second() {
        for (bytes, expected) in
            [(0.0, "0"), (120.0, "960"), (1_500.0, "12.0k"), (125e6, "1.0G"), (2e12, "16.0T")]
        {
            assert_eq!(rate(Some(bytes)), expected);
        }
        assert_eq!(rate(None), "-");
    }
}
