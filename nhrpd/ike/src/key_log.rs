//! Keys for Wireshark, so that an operator can read a capture of his own nodes.
//!
//! Lines of the tables `ikev2_decryption_table` and `esp_sa` of Wireshark's configuration folder.
//! Nothing is made of this without [`crate::Config::key_log`].

use std::fmt::{self, Write as _};

use zeroize::Zeroizing;

use crate::child::{Esp, EspCipher, EspKeys};
use crate::crypto::keys::Keys;
use crate::crypto::suite::Suite;
use crate::{Engine, Event, Output, TunnelKeys};

/// A line for one of Wireshark's tables, with its line end.
#[derive(Clone, PartialEq, Eq)]
pub enum KeyLog {
    /// `ikev2_decryption_table`.
    Ike(Zeroizing<String>),
    /// `esp_sa`.
    Esp(Zeroizing<String>),
}

impl fmt::Debug for KeyLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ike(_) => "Ike(…)",
            Self::Esp(_) => "Esp(…)",
        })
    }
}

/// Hexadecimal digits, written without a copy that nobody wipes.
struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Room for the longest line: a growing string leaves copies behind.
fn line() -> Zeroizing<String> {
    Zeroizing::new(String::with_capacity(1024))
}

impl Engine {
    /// Not with algorithms that Wireshark does not know.
    pub(crate) fn log_ike_keys(&mut self, spis: (u64, u64), suite: &Suite, keys: &Keys) {
        if !self.config.key_log {
            return;
        }
        let integrity = match suite.integrity {
            None => "NONE [RFC4306]".to_owned(),
            Some(a) => format!("HMAC_{}_{} [RFC4868]", hash(a.name), a.tag_len * 8),
        };
        let encryption = match suite.encryption.name {
            "aes128" => "AES-CBC-128 [RFC3602]",
            "aes256" => "AES-CBC-256 [RFC3602]",
            "aes128gcm16" => "AES-GCM-128 with 16 octet ICV [RFC5282]",
            "aes256gcm16" => "AES-GCM-256 with 16 octet ICV [RFC5282]",
            _ => return,
        };
        let mut line = line();
        let [ai, ar, ei, er] = keys.protection().map(Hex);
        let (initiator, responder) = spis;
        // Writing to a String cannot fail.
        let _ = writeln!(
            line,
            r#"{initiator:016x},{responder:016x},{ei},{er},"{encryption}",{ai},{ar},"{integrity}""#
        );
        self.outputs.push_back(Output::KeyLog(KeyLog::Ike(line)));
    }

    pub(crate) fn log_esp_keys(&mut self, event: &Event) {
        let (Event::Established { keys: TunnelKeys::Esp(esp), .. }
        | Event::Keyed { keys: TunnelKeys::Esp(esp), .. }) = event
        else {
            return;
        };
        if self.config.key_log {
            let family =
                if self.address.is_some_and(|own| own.is_ipv6()) { "IPv6" } else { "IPv4" };
            for keys in [&esp.inbound, &esp.outbound] {
                let log = esp_line(family, esp, keys).map(KeyLog::Esp).map(Output::KeyLog);
                self.outputs.extend(log);
            }
        }
    }
}

fn esp_line(family: &str, esp: &Esp, keys: &EspKeys) -> Option<Zeroizing<String>> {
    let (encryption, integrity) = match esp.cipher {
        EspCipher::Aes128Gcm16 | EspCipher::Aes256Gcm16 => {
            ("AES-GCM with 16 octet ICV [RFC4106]", "NULL")
        }
        EspCipher::Aes128CbcSha256 | EspCipher::Aes256CbcSha256 => {
            ("AES-CBC [RFC3602]", "HMAC-SHA-256-128 [RFC4868]")
        }
        EspCipher::ChaCha20Poly1305 => return None,
    };
    let mut line = line();
    let (key, authentication) = (Hex(&keys.encryption), Hex(&keys.integrity));
    let prefix = if keys.integrity.is_empty() { "" } else { "0x" };
    // Addresses change on the way (NAT) and in time; the SPI alone says which key it is.
    let _ = writeln!(
        line,
        r#""{family}","*","*","0x{:08x}","{encryption}","0x{key}","{integrity}","{prefix}{authentication}""#,
        keys.spi
    );
    Some(line)
}

fn hash(name: &str) -> String {
    name.to_uppercase().replace("SHA", "SHA2_")
}
