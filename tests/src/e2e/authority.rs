//! Certificates for scenarios, also such as no good CA would issue.

use std::cell::Cell;
use std::time::{Duration, SystemTime};

use pki::authority::{Authority, Request, Revoked, Serial, Validity};
use pki::{KeyType, UnixTime};

use super::good;

/// A CA.
pub struct Ca {
    authority: Authority,
    issued: Cell<u32>,
}

/// What a node proves itself with, in PEM.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Own certificate.
    pub certificate: String,
    /// Its private key.
    pub private_key: String,
    /// The CA's certificate.
    pub ca: String,
    /// Serial number of the certificate.
    pub serial: String,
}

/// From so many days before now to so many after it.
pub fn days(before: u64, after: i64) -> Validity {
    let day = |days: u64| Duration::from_secs(days * 86_400);
    let now = good("read the clock", SystemTime::now().duration_since(SystemTime::UNIX_EPOCH));
    let not_after =
        if after < 0 { now - day(after.unsigned_abs()) } else { now + day(after.unsigned_abs()) };
    Validity {
        not_before: UnixTime::since_unix_epoch(now - day(before)),
        not_after: UnixTime::since_unix_epoch(not_after),
    }
}

impl Ca {
    /// A fresh one.
    pub fn new(name: &str) -> Self {
        let serial = Serial::new([0; 16]);
        let authority = Authority::create(name, KeyType::P256, days(10, 100), serial);
        Self { authority: good("make a CA", authority), issued: Cell::new(0) }
    }

    /// Issues a certificate.
    pub fn issue(&self, request: &Request) -> Identity {
        self.issued.update(|issued| issued + 1);
        let mut serial = [1; 16];
        serial[12..].copy_from_slice(&self.issued.get().to_be_bytes());
        let serial = Serial::new(serial);
        let issued = good("issue", self.authority.issue(request, KeyType::P256, serial));
        let certificate = pki::certificate_pem(&issued.certificate);
        let read = good("read it", pki::Certificate::parse(&issued.certificate));
        Identity {
            certificate,
            private_key: issued.key.to_pem().to_string(),
            ca: pki::certificate_pem(self.authority.certificate_der()),
            serial: read.serial,
        }
    }

    /// A revocation list with one certificate on it.
    pub fn revoke(&self, identity: &Identity) -> String {
        let Validity { not_before, not_after } = days(1, 30);
        let revoked = Revoked { serial: identity.serial.clone(), at: not_before };
        let list = self.authority.revocation_list(&[revoked], 1, not_before, not_after);
        pki::revocation_list_pem(&good("make a revocation list", list))
    }
}
