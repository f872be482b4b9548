//! When certificates and revocation lists end, told in time while the daemon runs.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use overlay::Credentials;
use pki::UnixTime;

const HOUR: i64 = 3_600;
const DAY: i64 = 24 * HOUR;

/// Something that ends.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ending {
    what: What,
    /// Subject of the certificate, issuer of the revocation list.
    pub(crate) name: String,
    at: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Own,
    Anchor,
    RevocationList,
}

impl Ending {
    /// The end of our own certificate.
    pub(crate) fn own(credentials: &Credentials) -> Option<Self> {
        let own = credentials.certificate()?;
        Some(Self::new(What::Own, own.identity.to_string(), own.not_after))
    }

    /// All that the daemon knows of.
    pub(crate) fn all(credentials: &Credentials) -> Vec<Self> {
        let verifier = credentials.verifier().into_iter();
        let others = verifier.flat_map(|verifier| {
            let anchors = verifier.anchors().iter().map(|anchor| {
                Self::new(What::Anchor, anchor.identity.to_string(), anchor.not_after)
            });
            let lists = verifier.revocation_lists().iter().filter_map(|list| {
                Some(Self::new(What::RevocationList, list.issuer.clone(), list.next_update?))
            });
            anchors.chain(lists)
        });
        Self::own(credentials).into_iter().chain(others).collect()
    }

    fn new(what: What, name: String, at: UnixTime) -> Self {
        Self { what, name, at: at.as_secs() }
    }

    /// When that is, in words.
    pub(crate) fn at(&self) -> String {
        pki::utc(UnixTime::since_unix_epoch(Duration::from_secs(self.at)))
    }

    /// Seconds until then; negative: since then.
    pub(crate) fn left(&self, wall: SystemTime) -> i64 {
        let now = wall.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.at.cast_signed().saturating_sub(now.cast_signed())
    }

    /// Told anew whenever this changes: 30 and 14 days before the end, then every day, also
    /// afterwards. A revocation list is followed by the next one only shortly before.
    fn stage(&self, wall: SystemTime) -> Option<i64> {
        let left = self.left(wall);
        let days = left.div_euclid(DAY) + i64::from(left.rem_euclid(DAY) > 0);
        match (days, self.what) {
            (31.., _) | (1.., What::RevocationList) => None,
            (15.., _) => Some(30),
            (8.., _) => Some(14),
            (days, _) => Some(days),
        }
    }

    /// What there is to say of it now, if it is time.
    pub(crate) fn warning(&self, wall: SystemTime) -> Option<String> {
        self.stage(wall)?;
        let (left, name, at) = (self.left(wall), &self.name, self.at());
        let span = match left.abs() {
            span @ ..HOUR => format!("{} min", span / 60),
            span if span < 2 * DAY => format!("{} h", span / HOUR),
            span => format!("{} days", span / DAY),
        };
        let when = match left > 0 {
            true => format!("ends at {at}, in {span}"),
            false => format!("ended at {at}, {span} ago"),
        };
        Some(match self.what {
            What::Own => {
                format!("our certificate ({name}) {when}: renew it (overlayctl pki renew)")
            }
            What::Anchor => format!(
                "the certificate of the CA {name} {when}: make a new CA (overlayctl pki init --name), \
                 trust both for a while, issue anew"
            ),
            What::RevocationList => format!(
                "the revocation list of {name} {when}: get the next one (overlayctl pki revoke \
                 without a name)"
            ),
        })
    }
}

/// What has been told already.
#[derive(Debug, Default)]
pub(crate) struct Expiry {
    told: BTreeMap<Ending, i64>,
}

impl Expiry {
    /// Everything is to be told again.
    pub(crate) fn forget(&mut self) {
        self.told.clear();
    }

    /// Those of `endings` that are to be told at this time of day, which may jump.
    pub(crate) fn due(&mut self, endings: Vec<Ending>, wall: SystemTime) -> Vec<Ending> {
        let stages = endings.into_iter().filter_map(|e| e.stage(wall).map(|stage| (e, stage)));
        let now: BTreeMap<Ending, i64> = stages.collect();
        let before = std::mem::replace(&mut self.told, now);
        let fresh = self.told.iter().filter(|(ending, stage)| before.get(ending) != Some(stage));
        fresh.map(|(ending, _)| ending.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: u64 = 1_800_000_000;

    fn ending(what: What) -> Ending {
        Ending { what, name: "CN=spoke-a".into(), at: END }
    }

    fn at(left: i64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(END.checked_add_signed(-left).unwrap())
    }

    /// Hours before the end at which something is told, when asked every hour.
    fn hours(what: What) -> Vec<i64> {
        let mut expiry = Expiry::default();
        let told = (-60..24 * 40).rev().filter(|hour| {
            // Not on the hour, as in life.
            !expiry.due(vec![ending(what)], at(hour * HOUR - 600)).is_empty()
        });
        told.collect()
    }

    #[test]
    fn the_last_month_the_last_fortnight_then_every_day() {
        let days = [30, 14, 7, 6, 5, 4, 3, 2, 1, 0, -1, -2];
        assert_eq!(hours(What::Own), days.map(|day| day * 24));
        assert_eq!(hours(What::Anchor), days.map(|day| day * 24));
        assert_eq!(hours(What::RevocationList), [0, -24, -48]);
    }

    #[test]
    fn a_start_a_reload_and_a_renewed_certificate_begin_anew() {
        let mut expiry = Expiry::default();
        let now = at(3 * DAY);
        let own = || vec![ending(What::Own)];
        assert_eq!(expiry.due(own(), now), own());
        assert!(expiry.due(own(), now).is_empty());
        expiry.forget();
        assert_eq!(expiry.due(own(), now), own());
        let renewed = Ending { at: END + 90 * DAY.unsigned_abs(), ..ending(What::Own) };
        assert!(expiry.due(vec![renewed], now).is_empty());
        assert_eq!(expiry.due(own(), now), own(), "the old one is back");
        assert!(expiry.due(own(), at(100 * DAY)).is_empty(), "the clock was set back");
        assert_eq!(expiry.due(own(), now), own());
    }

    #[test]
    fn words() {
        let warning = |what, left| ending(what).warning(at(left));
        let own = "our certificate (CN=spoke-a) ends at 2027-01-15 08:00:00 UTC, in";
        let mend = "renew it (overlayctl pki renew)";
        assert_eq!(warning(What::Own, 29 * DAY + HOUR), Some(format!("{own} 29 days: {mend}")));
        assert_eq!(warning(What::Own, DAY + HOUR), Some(format!("{own} 25 h: {mend}")));
        assert_eq!(warning(What::Own, 90), Some(format!("{own} 1 min: {mend}")));
        let ended = "our certificate (CN=spoke-a) ended at 2027-01-15 08:00:00 UTC, 3 days ago";
        assert_eq!(warning(What::Own, -3 * DAY), Some(format!("{ended}: {mend}")));
        assert_eq!(warning(What::Own, 31 * DAY), None);
        assert!(warning(What::Anchor, DAY).unwrap().contains("trust both for a while"));
        assert_eq!(warning(What::RevocationList, DAY), None);
        assert!(warning(What::RevocationList, -DAY).unwrap().contains("24 h ago"));
    }
}
