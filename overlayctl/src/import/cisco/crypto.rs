//! IPsec: who the nodes are and how keys are agreed. Little of it has to be said here.

use super::{Block, words};
use crate::import::found::Found;

const ALGORITHMS: &str =
    "not needed: IKEv2 agrees on AES-256-GCM or ChaCha20-Poly1305, X25519 or P-256";
const WEAK: [&str; 8] =
    ["des", "3des", "esp-des", "esp-3des", "md5", "esp-md5-hmac", "rc4", "esp-null"];

pub(super) fn read<'a>(found: &mut Found<'a>, block: &Block<'a>) {
    let head = block.head;
    match words(head.text)[1..] {
        ["isakmp" | "ikev2", "keepalive" | "dpd", seconds, ..] => {
            match seconds.parse().ok().filter(|seconds| (1..=3600).contains(seconds)) {
                Some(seconds) => found.dead_peer_interval = Some(seconds),
                None => found.note(head, "expected 1 to 3600 seconds"),
            }
        }
        ["isakmp", "key", ..] => found.note(head, PRE_SHARED),
        ["ikev2" | "isakmp", "keyring", ..] | ["keyring", ..] => {
            for line in &block.body {
                match words(line.text)[..] {
                    ["pre-shared-key", ..] => found.note(*line, PRE_SHARED),
                    _ => found.note(*line, NAMES),
                }
            }
        }
        ["isakmp", "policy", ..] => algorithms(found, block, "IKEv1 is not spoken; "),
        ["ikev2", "policy" | "proposal", ..] => algorithms(found, block, ""),
        ["ipsec", "transform-set", ..] => found.note(
            head,
            "WireGuard (ChaCha20-Poly1305) carries the packets and ESP is not in this version: all \
             nodes of a tunnel change together",
        ),
        ["ipsec", "profile", ..] => {
            for line in &block.body {
                match words(line.text)[..] {
                    // What they name has its own note; fresh keys for each session are always so.
                    ["set", "transform-set" | "pfs" | "ikev2-profile" | "isakmp-profile", ..] => {}
                    ["set", "security-association", "lifetime", "seconds", seconds] => {
                        match seconds
                            .parse()
                            .ok()
                            .filter(|seconds| (60..=604_800).contains(seconds))
                        {
                            Some(seconds) => found.rekey_interval = Some(seconds),
                            None => found.note(*line, "expected 60 to 604800 seconds"),
                        }
                    }
                    _ => found.note(*line, "nhrpd has no equivalent"),
                }
            }
        }
        ["ikev2" | "isakmp", "profile", ..] => {
            for line in &block.body {
                match words(line.text)[..] {
                    ["dpd", seconds, ..] | ["keepalive", seconds, ..] => {
                        match seconds.parse().ok().filter(|seconds| (1..=3600).contains(seconds)) {
                            Some(seconds) => found.dead_peer_interval = Some(seconds),
                            None => found.note(*line, "expected 1 to 3600 seconds"),
                        }
                    }
                    _ => found.note(*line, NAMES),
                }
            }
        }
        ["pki" | "ca", "trustpoint", ..] => found.note_lines(
            head,
            block.last(),
            "certificates are files here: from `overlayctl pki`, or PEM files of this CA in \
             security.certificate, private-key, ca and crl",
        ),
        ["pki" | "ca" | "key", ..] => {
            found.note_lines(head, block.last(), "certificates are files here, in security");
        }
        _ => found.note_lines(head, block.last(), "nhrpd has no equivalent"),
    }
}

const PRE_SHARED: &str = "pre-shared keys are not in this version: each node gets a certificate";
const NAMES: &str =
    "who may connect is said by security.ca, and what it may claim by its certificate and accept";

fn algorithms<'a>(found: &mut Found<'a>, block: &Block<'a>, before: &str) {
    let weak = block.body.iter().find(|line| {
        let words = words(line.text);
        words.iter().any(|word| WEAK.contains(word))
            || matches!(words[..], ["group", "1" | "2" | "5", ..])
    });
    let weak = weak.map(|line| format!("; \"{}\" is too weak to be offered", line.text));
    let reason = format!("{before}{ALGORITHMS}{}", weak.unwrap_or_default());
    found.note_lines(block.head, block.last(), reason);
}
