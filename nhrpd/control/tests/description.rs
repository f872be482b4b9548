//! The varlink description says exactly what the types say: every sample is read into the types,
//! written again unchanged, and matches the description.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use control::{
    Cache, Cleared, DESCRIPTION, Dmvpn, Endpoints, EventKind, IkeSas, Monitored, Multicast,
    NextHopServers, Reloaded, Shortcuts, Trace, Traffic,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// `name: type` pairs of a struct, or the words of an enum.
enum Definition {
    Struct(Vec<(String, String)>),
    Enum(Vec<String>),
}

fn definition(body: &str) -> Definition {
    let items = body.split(',').map(str::trim).filter(|item| !item.is_empty());
    let pair = |item: &str| {
        let (name, kind) = item.split_once(':')?;
        Some((name.trim().to_owned(), kind.trim().to_owned()))
    };
    match items.clone().map(pair).collect() {
        Some(fields) => Definition::Struct(fields),
        None => Definition::Enum(items.map(str::to_owned).collect()),
    }
}

/// Types by name; methods by name, with their reply.
fn definitions() -> BTreeMap<String, Definition> {
    let lines = DESCRIPTION.lines().filter(|line| !line.trim_start().starts_with('#'));
    let text = lines.collect::<Vec<_>>().join("\n");
    let mut found = BTreeMap::new();
    for part in text.split("\n\n").map(str::trim) {
        if let Some(rest) = part.strip_prefix("type ") {
            let (name, body) = rest.split_once('(').unwrap();
            found.insert(name.trim().to_owned(), definition(body.trim_end_matches(')')));
        } else if let Some(rest) = part.strip_prefix("method ") {
            let (name, _) = rest.split_once('(').unwrap();
            let (_, reply) = rest.split_once("-> (").unwrap();
            found.insert(name.to_owned(), definition(reply.trim_end_matches(')')));
        }
    }
    found
}

fn check(types: &BTreeMap<String, Definition>, kind: &str, value: &Value, place: &str) {
    if let Some(kind) = kind.strip_prefix('?') {
        if !value.is_null() {
            check(types, kind, value, place);
        }
    } else if let Some(kind) = kind.strip_prefix("[]") {
        for item in value.as_array().unwrap_or_else(|| panic!("{place}: no list")) {
            check(types, kind, item, place);
        }
    } else {
        match kind {
            "int" => assert!(value.is_i64(), "{place}: {value} is no int"),
            "bool" => assert!(value.is_boolean(), "{place}: {value} is no bool"),
            "string" => assert!(value.is_string(), "{place}: {value} is no string"),
            name => match &types[name] {
                Definition::Enum(words) => {
                    let word = value.as_str().unwrap_or_else(|| panic!("{place}: no word"));
                    assert!(words.iter().any(|known| known == word), "{place}: {word}");
                }
                Definition::Struct(fields) => {
                    let object = value.as_object().unwrap_or_else(|| panic!("{place}: no object"));
                    for (field, kind) in fields {
                        check(types, kind, &value[field], &format!("{place}.{field}"));
                    }
                    for field in object.keys() {
                        let known = fields.iter().any(|(name, _)| name == field);
                        assert!(known, "{place}.{field} is not described");
                    }
                }
            },
        }
    }
}

fn agree<T: Serialize + DeserializeOwned>(method: &str, sample: &str) {
    let sample: Value = serde_json::from_str(sample).unwrap();
    let typed: T = serde_json::from_value(sample.clone()).unwrap();
    assert_eq!(serde_json::to_value(&typed).unwrap(), sample, "{method}");
    check(&definitions(), method, &sample, method);
}

#[test]
fn types_and_description_agree() {
    agree::<Dmvpn>("ShowDmvpn", include_str!("samples/ShowDmvpn.json"));
    agree::<Cache>("ShowNhrpCache", include_str!("samples/ShowNhrpCache.json"));
    agree::<NextHopServers>("ShowNhs", include_str!("samples/ShowNhs.json"));
    agree::<Shortcuts>("ShowShortcuts", include_str!("samples/ShowShortcuts.json"));
    agree::<Traffic>("ShowNhrpTraffic", include_str!("samples/ShowNhrpTraffic.json"));
    agree::<Endpoints>("ShowTunnelEndpoints", include_str!("samples/ShowTunnelEndpoints.json"));
    agree::<IkeSas>("ShowIkeSa", include_str!("samples/ShowIkeSa.json"));
    agree::<Multicast>("ShowMulticast", include_str!("samples/ShowMulticast.json"));
    agree::<Monitored>("Monitor", include_str!("samples/Monitor.json"));
    agree::<Trace>("Trace", include_str!("samples/Trace.json"));
    agree::<Reloaded>("Reload", include_str!("samples/Reload.json"));
    for method in ["ClearCache", "ClearShortcuts", "ClearPeer"] {
        agree::<Cleared>(method, include_str!("samples/ClearCache.json"));
    }
}

#[test]
fn every_kind_of_event_has_its_word() {
    let Some(Definition::Enum(words)) = definitions().remove("EventKind") else { panic!("gone") };
    for word in &words {
        let kind: EventKind = serde_json::from_value(word.clone().into()).unwrap();
        assert_eq!(kind.as_str(), word);
    }
    assert_eq!(EventKind::ALL.map(EventKind::as_str).to_vec(), words);
}
