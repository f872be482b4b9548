//! `opennhrp.conf`, as opennhrp.conf(5) describes it: words, in sections that begin with `interface`.

use std::net::IpAddr;

use anyhow::bail;
use ipnet::IpNet;

use super::Given;
use super::found::{Found, Line, Member, Server};

pub(super) fn read<'a>(text: &'a str, given: &Given) -> anyhow::Result<Found<'a>> {
    let lines = text.lines().enumerate().map(|(index, text)| Line {
        number: index + 1,
        text: text.split('#').next().unwrap_or_default().trim(),
    });
    let lines: Vec<Line<'a>> = lines.filter(|line| !line.text.is_empty()).collect();
    let interface = choose(&lines, given)?;
    // Protection is no part of this file: its IPsec stood beside it.
    let mut found = Found { interface: interface.to_owned(), protected: true, ..Found::default() };
    // Without the words, it neither tells of shorter ways nor follows them.
    (found.redirect, found.shortcut) = (Some(false), Some(false));
    let mut section = "";
    for line in lines {
        let words: Vec<&str> = line.text.split_whitespace().collect();
        match words[..] {
            ["interface", name] => section = name,
            _ if section == interface => tunnel(&mut found, line, &words),
            ["shortcut-destination"] => found
                .note(line, format!("add the networks of {section} to advertise in the new file")),
            _ => found.note(line, "about another interface"),
        }
    }
    Ok(found)
}

/// The interface that has more to say than what lies behind it.
fn choose<'a>(lines: &[Line<'a>], given: &Given) -> anyhow::Result<&'a str> {
    let mut tunnels: Vec<&str> = Vec::new();
    let mut section = None;
    for line in lines {
        if let Some(name) = line.text.strip_prefix("interface ") {
            section = Some(name.trim());
        } else if line.text != "shortcut-destination" {
            tunnels.extend(section);
        }
        if section.is_some() && section == given.interface.as_deref() {
            return Ok(section.unwrap_or_default());
        }
    }
    tunnels.dedup();
    match (&given.interface, &tunnels[..]) {
        (Some(name), _) => bail!("there is no interface {name}"),
        (None, [tunnel]) => Ok(tunnel),
        (None, []) => bail!("no interface speaks NHRP"),
        (None, _) => bail!(
            "several interfaces speak NHRP ({}): choose with --interface; each gets an nhrpd of \
             its own",
            tunnels.join(", ")
        ),
    }
}

fn tunnel<'a>(found: &mut Found<'a>, line: Line<'a>, words: &[&'a str]) {
    match *words {
        ["map", address, nbma, ref options @ ..] => {
            // The prefix length is the tunnel's.
            let address = address.split('/').next().unwrap_or_default();
            let Ok(address) = address.parse() else {
                return found.note(line, format!("{address} is not an IP address"));
            };
            match options.contains(&"register") {
                true => {
                    let nbma = Some(nbma.to_owned());
                    found.servers.push((line, Server { address, nbma, priority: 0, cluster: 0 }));
                }
                false => found.maps.push((line, address, nbma.to_owned())),
            }
        }
        ["dynamic-map", network, name] => found.note(
            line,
            format!(
                "write each server of {network} into nhs with its tunnel address, nbma: {name}"
            ),
        ),
        ["multicast", member] => {
            let member = match (member, member.parse::<IpAddr>()) {
                ("nhs", _) => Member::Servers,
                ("dynamic", _) => Member::Dynamic,
                (_, Ok(nbma)) => Member::Nbma(nbma),
                _ => return found.note(line, "expected nhs, dynamic or an NBMA address"),
            };
            found.multicast.push((line, member));
        }
        ["holding-time", seconds] => match seconds.parse().ok().filter(|seconds| *seconds >= 3) {
            Some(seconds) => found.holding_time = Some(seconds),
            None => found.note(line, "expected 3 to 65535 seconds"),
        },
        ["cisco-authentication", password] if password.len() <= 8 => {
            found.authentication = Some(password.to_owned());
        }
        ["cisco-authentication", ..] => found.note(line, "expected 1 to 8 bytes"),
        ["redirect"] => found.redirect = Some(true),
        ["shortcut"] => found.shortcut = Some(true),
        ["shortcut-destination"] => {
            found.note(line, "add the networks behind this node to advertise in the new file");
        }
        ["shortcut-target", prefix, ..] => match prefix.parse::<IpNet>() {
            Ok(prefix) => found.advertise.push((line, prefix)),
            Err(_) => found.note(line, format!("{prefix} is not a prefix")),
        },
        _ => found.note(line, "nhrpd has no equivalent"),
    }
}
