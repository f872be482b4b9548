//! Certificates and revocation lists, as the peers will see them.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use nhrpd::config::{Config, Security};
use pki::Certificate;

use super::Check;

const DAY: u64 = 86_400;
/// Before the end, a certificate should be renewed.
const SOON: u64 = 30 * DAY;

/// Files, validity, key usage, and what the certificate allows.
pub(super) fn check(config: &Config) -> Vec<Check> {
    let Security::Keyed(_, files) = &config.security else {
        return vec![Check::note("certificate", "security: none: there is none")];
    };
    let mut checks = Vec::new();
    match nhrpd::doubts(config) {
        Ok(doubts) if doubts.is_empty() => {
            checks.push(Check::ok("certificate", "peers with these rules will accept it"));
        }
        Ok(doubts) => {
            let mend = "issue a certificate that says so (overlayctl pki issue, docs/certificates.md), \
                        or set the clock if it is the clock that is wrong";
            checks
                .extend(doubts.into_iter().map(|doubt| Check::finding("certificate", doubt, mend)));
        }
        Err(error) => {
            let mend = "see docs/certificates.md; nhrpd check says when it is good";
            checks.push(Check::finding("certificate", format!("{error:#}"), mend));
            return checks;
        }
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let Some(files) = &files.certificates else { return checks };
    for (what, file) in [("certificate", &files.certificate), ("CA certificate", &files.ca)] {
        for certificate in read(file) {
            let end = certificate.not_after.as_secs();
            let subject = &certificate.identity;
            let text = format!("{what} of {subject} ends at {}", pki::utc(certificate.not_after));
            // Its end is told as a doubt above.
            if end < now || (what == "certificate" && end - now < SOON) {
                continue;
            }
            checks.push(match end - now < SOON {
                true => Check::finding(
                    "expiry",
                    format!("{text}, in {} days", (end - now) / DAY),
                    "make a new CA (overlayctl pki init --name), trust both for a while, issue anew",
                ),
                false => Check::ok("expiry", text),
            });
        }
    }
    if let Some(file) = &files.crl {
        checks.extend(revocation_lists(file, &files.ca, now));
    }
    checks
}

fn read(file: &Path) -> Vec<Certificate> {
    let pem = fs::read(file).unwrap_or_default();
    let ders = pki::certificates(&pem).unwrap_or_default();
    ders.iter().filter_map(|der| Certificate::parse(der).ok()).collect()
}

fn revocation_lists(file: &Path, anchors: &Path, now: u64) -> Vec<Check> {
    let read = |path: &Path| fs::read(path).unwrap_or_default();
    // What is wrong with the files themselves is told as a doubt above.
    let anchors = pki::certificates(&read(anchors)).unwrap_or_default();
    let lists = pki::revocation_lists(&read(file)).unwrap_or_default();
    let Ok(verifier) = pki::Verifier::new(&anchors, &lists, pki::Policy::default()) else {
        return Vec::new();
    };
    let due = verifier.revocation_lists().iter().filter_map(|list| list.next_update);
    due.map(|due| {
        let text = format!("{}: the next one is due at {}", file.display(), pki::utc(due));
        match due.as_secs() < now {
            true => Check::finding(
                "revocation list",
                text,
                "overlayctl pki revoke (without a name) on the CA's machine, then carry crl.pem here",
            ),
            false => Check::ok("revocation list", text),
        }
    })
    .collect()
}
