//! Single values. An error says what was expected and what was found.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use super::error::suggestion;
use super::{Endpoint, Host, Listen, Source};

pub(super) type Parsed<T> = Result<T, String>;

pub(super) fn expected<T>(what: &str, found: &str) -> Parsed<T> {
    Err(format!("expected {what}, found \"{found}\""))
}

/// A whole number, decimal or `0x…`.
pub(super) fn number<T: TryFrom<u64>>(range: RangeInclusive<u64>) -> impl Fn(&str) -> Parsed<T> {
    move |text| {
        let parsed = match text.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16),
            None => text.parse(),
        };
        let in_range = parsed.ok().filter(|number| range.contains(number));
        match in_range.and_then(|number| T::try_from(number).ok()) {
            Some(number) => Ok(number),
            None => expected(&format!("a number from {} to {}", range.start(), range.end()), text),
        }
    }
}

pub(super) fn boolean(text: &str) -> Parsed<bool> {
    choice(&[("true", true), ("false", false)])(text)
}

/// A file or folder; relative to the folder of the configuration.
pub(super) fn path_in(
    what: &'static str,
    folder: &Path,
) -> impl Copy + Fn(&str) -> Parsed<PathBuf> {
    move |text| match text {
        "" => expected(what, text),
        _ => Ok(folder.join(text)),
    }
}

/// One of some words.
pub(super) fn choice<T: Copy>(words: &[(&'static str, T)]) -> impl Fn(&str) -> Parsed<T> {
    move |text| {
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Ok(*value);
        }
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let hint = match suggestion(text, &known) {
            Some(near) => format!(": did you mean {near}?"),
            None => String::new(),
        };
        let list = match known.split_last() {
            Some((last, others)) if !others.is_empty() => {
                format!("{} or {last}", others.join(", "))
            }
            _ => known.concat(),
        };
        Err(format!("expected {list}, found \"{text}\"{hint}"))
    }
}

/// Prefixes: no bit set right of the prefix length. An address alone is its host prefix.
pub(super) fn prefix(text: &str) -> Parsed<IpNet> {
    let parsed = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    let Ok(prefix) = parsed else {
        return expected("a prefix, such as 192.168.1.0/24", text);
    };
    if prefix.trunc() != prefix {
        return Err(format!(
            "{prefix} has host bits set: write {}, or {} for this address alone",
            prefix.trunc(),
            IpNet::from(prefix.addr())
        ));
    }
    Ok(prefix)
}

pub(super) fn address(text: &str) -> Parsed<IpAddr> {
    text.parse().or_else(|_| expected("an IP address without prefix length", text))
}

/// Device names: what the kernel takes (`dev_valid_name`).
pub(super) fn device(text: &str) -> Parsed<String> {
    let bad = |c: char| c == '/' || c == ':' || c.is_whitespace();
    if text.is_empty() || text.len() > 15 || text.contains(bad) || text == "." || text == ".." {
        return expected("a device name of 1 to 15 bytes without space, slash or colon", text);
    }
    Ok(text.to_owned())
}

pub(super) fn source(text: &str) -> Parsed<Source> {
    match text.parse() {
        Ok(address) => unicast(address).map(Source::Address),
        Err(_) if text.starts_with(|c: char| c.is_ascii_digit()) && text.contains('.') => {
            expected("a device name or an IP address", text)
        }
        Err(_) => device(text).map(Source::Device),
    }
}

/// An address that one machine can have.
pub(super) fn unicast(address: IpAddr) -> Parsed<IpAddr> {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    if address.is_unspecified() || address.is_multicast() || broadcast {
        return expected("the address of one machine", &address.to_string());
    }
    Ok(address)
}

/// NBMA address and, if it is not the usual one, UDP port.
pub(super) fn nbma(text: &str) -> Parsed<(IpAddr, Option<u16>)> {
    let (address, port) = if let Ok(address) = text.parse::<IpAddr>() {
        (address, None)
    } else if let Ok(socket) = text.parse::<SocketAddr>() {
        (socket.ip(), Some(socket.port()))
    } else {
        return expected("an IP address, if need be with :port", text);
    };
    if port == Some(0) {
        return expected("a port from 1 to 65535", text);
    }
    Ok((unicast(address)?, port))
}

/// As [`nbma`], or a DNS name in the place of the address.
pub(super) fn endpoint(text: &str) -> Parsed<Endpoint> {
    let (name, port) = match text.rsplit_once(':') {
        Some((name, port)) if !name.contains(':') => (name, Some(port)),
        _ => (text, None),
    };
    if !is_name(name) {
        return match nbma(text) {
            Ok((address, port)) => Ok(Endpoint { host: Host::Address(address), port }),
            Err(problem) => Err(problem.replace("an IP address,", "an IP address or DNS name,")),
        };
    }
    let port = port.map(number(1..=65535)).transpose()?;
    Ok(Endpoint { host: Host::Name(name.to_owned()), port })
}

/// `unix:/path` or `address:port`. What the whole network may reach has to be allowed by name:
/// metrics tell who talks with whom.
pub(super) fn listen(remote: bool) -> impl Fn(&str) -> Parsed<Listen> {
    move |text| {
        if let Some(path) = text.strip_prefix("unix:").filter(|path| path.starts_with('/')) {
            return Ok(Listen::Unix(path.into()));
        }
        let Some(address) = text.parse::<SocketAddr>().ok().filter(|a| a.port() != 0) else {
            return expected("unix:/PATH or ADDRESS:PORT", text);
        };
        if !address.ip().is_loopback() && !remote {
            return Err(format!(
                "{text} is reached from other machines, without a password: listen on \
                 127.0.0.1:{}, or add allow-remote: true",
                address.port()
            ));
        }
        Ok(Listen::Tcp(address))
    }
}

/// RFC 1123 §2.1; the last label is not a number, else it is meant to be an address.
fn is_name(text: &str) -> bool {
    let label = |label: &str| {
        let inner = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        (1..=63).contains(&label.len())
            && label.chars().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let mut labels = text.strip_suffix('.').unwrap_or(text).split('.');
    text.len() <= 253
        && labels.clone().all(label)
        && labels.next_back().is_some_and(|last| !last.chars().all(|c| c.is_ascii_digit()))
}
