//! `overlayctl top`: peers, their paths and rates, live on the whole screen.

mod screen;

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _};
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use control::{Client, Counters, Dmvpn, Interface, Peer, PeerState};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};

/// What a screen is drawn from.
#[derive(Debug, Default)]
pub(crate) struct Top {
    latest: Option<Sample>,
    /// Why there is no newer answer.
    trouble: Option<String>,
    rows: Vec<Row>,
    sort: Sort,
    reversed: bool,
    selected: usize,
    coloured: bool,
}

#[derive(Debug)]
struct Sample {
    at: Instant,
    dmvpn: Dmvpn,
}

/// One peer.
#[derive(Debug, Clone, PartialEq)]
struct Row {
    interface: String,
    peer: Peer,
    /// Bytes per second; `None` before the second look.
    received: Option<f64>,
    sent: Option<f64>,
    /// Packets per second, both ways.
    packets: Option<f64>,
}

/// What the rows are sorted by, each in the order that shows the most first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Sort {
    #[default]
    Rate,
    Address,
    State,
    Since,
    Drops,
    Identity,
}

impl Sort {
    const ALL: [Self; 6] =
        [Self::Rate, Self::Address, Self::State, Self::Since, Self::Drops, Self::Identity];

    fn next(self) -> Self {
        let at = Self::ALL.iter().position(|sort| *sort == self).unwrap_or(0);
        Self::ALL[(at + 1) % Self::ALL.len()]
    }

    fn name(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::Address => "address",
            Self::State => "state",
            Self::Since => "time",
            Self::Drops => "drops",
            Self::Identity => "identity",
        }
    }

    fn compare(self, a: &Row, b: &Row) -> Ordering {
        let rate = |row: &Row| row.received.unwrap_or(0.0) + row.sent.unwrap_or(0.0);
        let far = |row: &Row| match row.peer.state {
            PeerState::Ike => 0,
            PeerState::Nhrp => 1,
            PeerState::Up => 2,
        };
        let order = match self {
            Self::Rate => rate(b).total_cmp(&rate(a)),
            Self::Address => Ordering::Equal,
            // What is not up is what one looks for.
            Self::State => far(a).cmp(&far(b)),
            Self::Since => a.peer.since_seconds.cmp(&b.peer.since_seconds),
            Self::Drops => b.peer.counters.dropped_packets.cmp(&a.peer.counters.dropped_packets),
            Self::Identity => a.peer.identity.cmp(&b.peer.identity),
        };
        order.then_with(|| key(&a.peer).cmp(&key(&b.peer)))
    }
}

/// What a peer is known by from one look to the next.
fn key(peer: &Peer) -> (Option<IpAddr>, Option<IpAddr>, Option<u16>) {
    (peer.tunnel_address, peer.nbma_seen.or(peer.nbma), peer.port)
}

/// What a key press asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Quit,
    Redraw,
}

impl Top {
    /// Takes a new answer over and computes the rates since the one before.
    fn take(&mut self, at: Instant, dmvpn: Dmvpn) {
        let former: BTreeMap<_, Counters> = self
            .latest
            .iter()
            .flat_map(|sample| &sample.dmvpn.interfaces)
            .flat_map(|interface| interface.peers.iter().map(move |peer| (interface, peer)))
            .map(|(interface, peer)| ((interface.name.clone(), key(peer)), peer.counters))
            .collect();
        let seconds = self.latest.as_ref().map(|sample| (at - sample.at).as_secs_f64());
        let row = |interface: &Interface, peer: &Peer| {
            let before = former.get(&(interface.name.clone(), key(peer)));
            let rate = |count: fn(&Counters) -> u64| {
                let (before, seconds) = (before?, seconds.filter(|seconds| *seconds > 0.0)?);
                // A counter that began anew belongs to a new session.
                Some(count(&peer.counters).checked_sub(count(before))? as f64 / seconds)
            };
            Row {
                interface: interface.name.clone(),
                received: rate(|counters| counters.rx_bytes),
                sent: rate(|counters| counters.tx_bytes),
                packets: rate(|counters| counters.rx_packets + counters.tx_packets),
                peer: peer.clone(),
            }
        };
        let interfaces = dmvpn.interfaces.iter();
        let rows = interfaces.flat_map(|i| i.peers.iter().map(|peer| row(i, peer))).collect();
        let chosen = self.chosen();
        self.rows = rows;
        self.latest = Some(Sample { at, dmvpn });
        self.trouble = None;
        self.arrange(chosen);
    }

    fn chosen(&self) -> Option<(Option<IpAddr>, Option<IpAddr>, Option<u16>)> {
        self.rows.get(self.selected).map(|row| key(&row.peer))
    }

    /// Sorts; the selection stays with its peer.
    fn arrange(&mut self, chosen: Option<(Option<IpAddr>, Option<IpAddr>, Option<u16>)>) {
        let sort = self.sort;
        self.rows.sort_by(|a, b| sort.compare(a, b));
        if self.reversed {
            self.rows.reverse();
        }
        let at = self.rows.iter().position(|row| Some(key(&row.peer)) == chosen);
        self.selected = at.unwrap_or(self.selected).min(self.rows.len().saturating_sub(1));
    }

    fn press(&mut self, key: KeyCode, modifiers: KeyModifiers) -> Wish {
        let last = self.rows.len().saturating_sub(1);
        let chosen = self.chosen();
        match key {
            KeyCode::Char('c') if modifiers.contains(KeyModifiers::CONTROL) => return Wish::Quit,
            KeyCode::Char('q') | KeyCode::Esc => return Wish::Quit,
            KeyCode::Char('s') | KeyCode::Right => self.sort = self.sort.next(),
            KeyCode::Char('r') => self.reversed = !self.reversed,
            KeyCode::Up | KeyCode::Char('k') => {
                self.selected = self.selected.saturating_sub(1);
                return Wish::Redraw;
            }
            KeyCode::Down | KeyCode::Char('j') => {
                self.selected = (self.selected + 1).min(last);
                return Wish::Redraw;
            }
            KeyCode::PageUp => self.selected = self.selected.saturating_sub(10),
            KeyCode::PageDown => self.selected = (self.selected + 10).min(last),
            KeyCode::Home => self.selected = 0,
            KeyCode::End => self.selected = last,
            _ => {}
        }
        if matches!(key, KeyCode::Char('s' | 'r') | KeyCode::Right) {
            self.arrange(chosen);
        }
        Wish::Redraw
    }
}

/// Runs until `q`.
pub(crate) fn run(socket: &Path, interval: u64) -> anyhow::Result<()> {
    if !io::stdout().is_terminal() {
        bail!("top needs a terminal; show dmvpn --watch --json writes to a file or pipe");
    }
    // The first answer comes before the screen is taken: a daemon that is not there is said plainly.
    let mut top = Top {
        coloured: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        ..Top::default()
    };
    top.take(Instant::now(), Client::connect(socket)?.dmvpn()?);
    let mut terminal = ratatui::try_init().context("cannot take over the terminal")?;
    let result = watch(&mut top, &mut terminal, socket, Duration::from_secs(interval));
    ratatui::restore();
    result.context("cannot draw on the terminal")
}

fn watch(
    top: &mut Top,
    terminal: &mut ratatui::DefaultTerminal,
    socket: &Path,
    interval: Duration,
) -> io::Result<()> {
    let mut next = Instant::now() + interval;
    loop {
        terminal.draw(|frame| screen::draw(top, frame))?;
        if event::poll(next.saturating_duration_since(Instant::now()))? {
            if let Event::Key(pressed) = event::read()?
                && pressed.kind == KeyEventKind::Press
                && top.press(pressed.code, pressed.modifiers) == Wish::Quit
            {
                return Ok(());
            }
            continue;
        }
        next = Instant::now() + interval;
        match Client::connect(socket).and_then(|mut client| client.dmvpn()) {
            Ok(dmvpn) => top.take(Instant::now(), dmvpn),
            Err(error) => top.trouble = Some(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;

    const DMVPN: &str = include_str!("../../nhrpd/control/tests/samples/ShowDmvpn.json");

    /// Two looks, two seconds apart.
    fn sample() -> Top {
        let mut top = Top::default();
        let mut dmvpn: Dmvpn = serde_json::from_str(DMVPN).unwrap();
        let begin = Instant::now();
        top.take(begin, dmvpn.clone());
        let peers = &mut dmvpn.interfaces[0].peers;
        peers[0].counters.rx_bytes += 3_000;
        peers[0].counters.rx_packets += 20;
        peers[1].counters.tx_bytes += 250_000_000;
        peers[1].counters.tx_packets += 180_000;
        top.take(begin + Duration::from_secs(2), dmvpn);
        top
    }

    fn drawn(top: &mut Top, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| screen::draw(top, frame)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn wide() {
        insta::assert_snapshot!(drawn(&mut sample(), 120, 20));
    }

    #[test]
    fn eighty_columns() {
        insta::assert_snapshot!(drawn(&mut sample(), 80, 20));
    }

    #[test]
    fn narrow_and_low() {
        insta::assert_snapshot!(drawn(&mut sample(), 40, 9));
    }

    #[test]
    fn no_size_is_too_small() {
        for (width, height) in [(1, 1), (10, 2), (20, 3), (300, 4), (3, 60)] {
            drawn(&mut sample(), width, height);
            drawn(&mut Top::default(), width, height);
        }
    }

    #[test]
    fn sorting_keeps_the_selected_peer() {
        let mut top = sample();
        let press = |top: &mut Top, key| top.press(key, KeyModifiers::NONE);
        let address = |top: &Top, at: usize| top.rows[at].peer.tunnel_address.unwrap().to_string();
        assert_eq!(address(&top, 0), "172.16.0.3", "the one with the highest rate");
        press(&mut top, KeyCode::Char('s'));
        assert_eq!((top.sort, address(&top, 0)), (Sort::Address, "172.16.0.1".into()));
        let chosen = top.rows[top.selected].peer.tunnel_address;
        press(&mut top, KeyCode::Char('r'));
        assert_eq!(address(&top, 0), "172.16.0.77");
        assert_eq!(top.rows[top.selected].peer.tunnel_address, chosen);
        press(&mut top, KeyCode::Char('s'));
        press(&mut top, KeyCode::Char('r'));
        assert_eq!((top.sort, top.rows[0].peer.state), (Sort::State, PeerState::Ike));
        for _ in 0..9 {
            press(&mut top, KeyCode::Down);
        }
        assert_eq!(top.selected, top.rows.len() - 1);
        assert_eq!(press(&mut top, KeyCode::Char('q')), Wish::Quit);
        assert_eq!(top.press(KeyCode::Char('c'), KeyModifiers::CONTROL), Wish::Quit);
    }

    #[test]
    fn what_went_wrong_is_shown_and_the_last_answer_kept() {
        let mut top = sample();
        top.trouble = Some("cannot reach nhrpd".into());
        let page = drawn(&mut top, 100, 20);
        assert!(page.contains("cannot reach nhrpd") && page.contains("172.16.0.3"), "{page}");
    }
}
