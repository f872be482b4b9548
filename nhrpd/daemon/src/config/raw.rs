//! The shape of the file: which keys there are and what nests in what. Values stay text, so that
//! [`super::check`] can report all bad ones at once.

use std::fmt;

use serde::de::{SeqAccess, Visitor, value::SeqAccessDeserializer};
use serde::{Deserialize, Deserializer};

use super::error::{Problem, suggestion};

/// Reads the shape. Only the first fault of this kind is known.
pub(super) fn read(text: &str) -> Result<Raw, Problem> {
    let file: Option<Raw> = serde_yaml::from_str(text).map_err(|error| problem(&error))?;
    Ok(file.unwrap_or_default())
}

fn problem(error: &serde_yaml::Error) -> Problem {
    let location = error.location().map(|location| (location.line(), location.column()));
    let message = error.to_string();
    let message = message.split(" at line ").next().unwrap_or_default();
    let (path, message) = match message.split_once(": ") {
        Some((path, rest)) if !path.contains(' ') => (path, rest),
        _ => ("", message),
    };
    let mut quoted = message.split('`').skip(1).step_by(2);
    let (key, text) = match (quoted.next(), message) {
        (Some(key), m) if m.starts_with("unknown field") => {
            let known: Vec<&str> = quoted.collect();
            let text = match suggestion(key, &known) {
                Some(near) => format!("unknown key: did you mean {near}?"),
                None => format!("unknown key: expected {}", known.join(", ")),
            };
            (key, text)
        }
        (Some(key), m) if m.starts_with("duplicate field") => (key, "given twice".to_owned()),
        _ => ("", shape(message)),
    };
    let key = match (path, key) {
        (path, "") => path.to_owned(),
        ("", key) => key.to_owned(),
        (path, key) => format!("{path}.{key}"),
    };
    Problem { location, key, text }
}

/// serde's "invalid type: sequence, expected a string" in the words of the other errors.
fn shape(message: &str) -> String {
    let parts = message.strip_prefix("invalid type: ").and_then(|m| m.split_once(", expected "));
    let Some((found, expected)) = parts else { return message.to_owned() };
    let found = match found {
        "sequence" => "a list",
        "map" => "keys and values",
        "unit value" => "nothing",
        other => other,
    };
    let expected = match expected {
        "a sequence" => "a list",
        "a string" => "a single value",
        other => other,
    };
    format!("expected {expected}, found {found}")
}

/// A list, or the one word that may stand in its place.
#[derive(Debug)]
pub(super) enum List {
    Word(String),
    Items(Vec<String>),
}

impl<'de> Deserialize<'de> for List {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ListVisitor;

        impl<'de> Visitor<'de> for ListVisitor {
            type Value = List;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_str<E>(self, text: &str) -> Result<List, E> {
                Ok(List::Word(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<List, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(items)).map(List::Items)
            }
        }

        deserializer.deserialize_any(ListVisitor)
    }
}

macro_rules! sections {
    ($($(#[$meta:meta])* $name:ident { $($key:ident: $kind:ty),* $(,)? })*) => { $(
        $(#[$meta])*
        #[derive(Debug, Default, Deserialize)]
        #[serde(default, deny_unknown_fields, rename_all = "kebab-case", expecting = "keys and values")]
        pub(super) struct $name {
            $(pub(super) $key: $kind),*
        }
    )*
        /// Each section and its keys, for what has to agree with them.
        #[cfg(test)]
        pub(super) const SECTIONS: &[(&str, &[&str])] =
            &[$((stringify!($name), &[$(stringify!($key)),*])),*];
    };
}

type Text = Option<String>;

sections! {
    Raw {
        tunnel: Tunnel,
        underlay: Underlay,
        nhrp: Nhrp,
        nhs: Vec<NextHopServer>,
        map: Vec<StaticMap>,
        multicast: Option<List>,
        advertise: Option<List>,
        routes: Option<List>,
        accept: Vec<Accept>,
        security: Security,
        dataplane: Text,
        limits: Limits,
        metrics: Metrics,
        log: Text,
    }
    Tunnel { interface: Text, address: Text, key: Text, mtu: Text }
    Underlay { source: Text, port: Text }
    Nhrp {
        network_id: Text,
        holding_time: Text,
        authentication: Text,
        registrations: Text,
        redirect: Text,
        shortcut: Text,
        unique: Text,
        trust: Text,
    }
    NextHopServer { address: Text, nbma: Text, priority: Text, cluster: Text }
    StaticMap { address: Text, nbma: Text }
    Accept { identity: Text, prefixes: Option<List> }
    Security {
        mode: Text,
        certificate: Text,
        private_key: Text,
        ca: Text,
        crl: Text,
        key_usage: Option<List>,
        key_usage_absent: Text,
        extended_key_usage: Option<List>,
        extended_key_usage_absent: Text,
        rekey_interval: Text,
        rekey_packets: Text,
        ike_proposals: Option<List>,
        esp_proposals: Option<List>,
        identity: Text,
        psk_file: Text,
        psk_allow_weak: Text,
        key_log: Text,
    }
    Metrics { listen: Text, allow_remote: Text }
    Limits {
        peers: Text,
        cache_entries: Text,
        packets_per_peer: Text,
        half_open: Text,
        half_open_per_source: Text,
        dead_peer_interval: Text,
    }
}
