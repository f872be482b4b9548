//! `show nhrp …`

use std::fmt::{self, Write as _};

use control::{
    Cache, CacheEntry, EntryFlag, EntryKind, Nhs, NhsState, ShortcutState, Shortcuts, Traffic,
};

use crate::text::{Column, elapsed, or_dash, table};

/// As Cisco's `show ip nhrp`.
pub(crate) fn cache(cache: &Cache) -> String {
    if cache.entries.is_empty() {
        return "The NHRP cache is empty\n".to_owned();
    }
    let mut out = String::new();
    for entry in &cache.entries {
        // Writing to a String cannot fail.
        let _ = write_entry(&mut out, entry);
    }
    out
}

fn write_entry(out: &mut String, entry: &CacheEntry) -> fmt::Result {
    let via = match entry.next_hop {
        Some(next_hop) => format!(" via {next_hop}"),
        None => String::new(),
    };
    let created = elapsed(entry.created_seconds);
    let expire = match entry.expires_seconds {
        Some(seconds) => format!("expire {}", elapsed(seconds)),
        None => "never expire".to_owned(),
    };
    writeln!(out, "{}{via}, {} created {created}, {expire}", entry.prefix, entry.interface)?;
    let kind = match entry.kind {
        EntryKind::Static => "static",
        EntryKind::Dynamic => "dynamic",
        EntryKind::Incomplete => "incomplete",
        EntryKind::Negative => "negative",
        EntryKind::Local => "local",
    };
    let flags: String = entry.flags.iter().map(|flag| format!(" {}", flag_name(*flag))).collect();
    writeln!(out, " Type: {kind}, Flags:{flags}")?;
    match (entry.nbma, entry.nbma_claimed) {
        (Some(nbma), Some(claimed)) => {
            writeln!(out, " NBMA address: {nbma}, claimed: {claimed}")
        }
        (Some(nbma), None) => writeln!(out, " NBMA address: {nbma}"),
        (None, _) => Ok(()),
    }
}

fn flag_name(flag: EntryFlag) -> &'static str {
    match flag {
        EntryFlag::Unique => "unique",
        EntryFlag::Registered => "registered",
        EntryFlag::Used => "used",
        EntryFlag::Authoritative => "authoritative",
        EntryFlag::Implicit => "implicit",
        EntryFlag::Nat => "nat",
    }
}

/// Next-hop servers, and below what is wrong with some of them.
pub(crate) fn nhs(servers: &[Nhs], width: Option<u16>) -> String {
    if servers.is_empty() {
        return "No next-hop server is configured: this node is a hub\n".to_owned();
    }
    let rows = servers.iter().map(|nhs| {
        let letter = match nhs.state {
            NhsState::Expecting => "E",
            NhsState::Responding => "R",
            NhsState::Waiting => "W",
        };
        vec![
            nhs.address.to_string(),
            letter.to_owned(),
            elapsed(nhs.since_seconds),
            nhs.priority.to_string(),
            nhs.cluster.to_string(),
            nhs.requests_sent.to_string(),
            nhs.replies.to_string(),
            nhs.interface.clone(),
            match nhs.nbma {
                Some(nbma) if nbma.to_string() == nhs.configured => nbma.to_string(),
                Some(nbma) => format!("{nbma} ({})", nhs.configured),
                None => format!("? ({})", nhs.configured),
            },
        ]
    });
    let columns = [
        Column::Right("        NHS Add"),
        Column::Left("St"),
        Column::Right("   Since"),
        Column::Right("Prio"),
        Column::Right("Clus"),
        Column::Right("Sent"),
        Column::Right("Rcvd"),
        Column::Left("Interface"),
        Column::Left("NBMA Addr"),
    ];
    let mut out =
        "NHS Status: E --> Expecting Replies, R --> Responding, W --> Waiting\n".to_owned();
    out.push_str(&table(&columns, rows.collect(), width));
    for nhs in servers {
        let address = nhs.address;
        let notes = [
            nhs.why.as_ref().map(|why| format!("is not responding: {why}")),
            nhs.last_refusal.as_ref().map(|refusal| format!("refused last: {refusal}")),
            nhs.seen_as.map(|seen| format!("sees this node at {seen} (NAT)")),
        ];
        for note in notes.into_iter().flatten() {
            // Writing to a String cannot fail.
            let _ = writeln!(out, " {address} {note}");
        }
    }
    out
}

/// Shortcuts, and below why some of them are not active.
pub(crate) fn shortcuts(shortcuts: &Shortcuts, width: Option<u16>) -> String {
    if shortcuts.shortcuts.is_empty() {
        return "No shortcuts: all traffic to other spokes goes through the hub\n".to_owned();
    }
    let rows = shortcuts.shortcuts.iter().map(|shortcut| {
        let state = match shortcut.state {
            ShortcutState::Resolving => "resolving",
            ShortcutState::Keying => "keying",
            ShortcutState::Active => "active",
        };
        vec![
            shortcut.prefix.to_string(),
            or_dash(shortcut.next_hop),
            or_dash(shortcut.nbma),
            state.to_owned(),
            elapsed(shortcut.since_seconds),
            or_dash(shortcut.expires_seconds.map(elapsed)),
            shortcut.packets.to_string(),
            shortcut.interface.clone(),
            or_dash(shortcut.identity.as_ref()),
        ]
    });
    let columns = [
        Column::Left("Prefix"),
        Column::Right("       Next Hop"),
        Column::Left(" Peer NBMA Addr"),
        Column::Left("State"),
        Column::Right("   Since"),
        Column::Right("  Expire"),
        Column::Right("Packets"),
        Column::Left("Interface"),
        Column::Left("Identity"),
    ];
    let mut out = table(&columns, rows.collect(), width);
    for shortcut in &shortcuts.shortcuts {
        if let Some(why) = &shortcut.why {
            // Writing to a String cannot fail.
            let _ = writeln!(out, " {} is not active: {why}", shortcut.prefix);
        }
    }
    out
}

/// Every counter that has counted.
pub(crate) fn traffic(traffic: &Traffic) -> String {
    let mut out = String::new();
    for interface in &traffic.interfaces {
        let counters: Vec<_> = interface.counters.iter().filter(|c| c.value > 0).collect();
        // Writing to a String cannot fail.
        let _ = match counters.len() {
            0 => writeln!(out, "{}: nothing yet", interface.name),
            _ => writeln!(out, "{}:", interface.name),
        };
        for counter in counters {
            let _ = writeln!(out, " {:>10} {}", counter.value, counter.name);
        }
    }
    out
}
