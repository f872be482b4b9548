//! The time of day: certificates are judged by it.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use control::Dmvpn;

use super::Check;

/// A file may be that much newer than now: clocks are set back a little.
const SLACK: Duration = Duration::from_secs(60);

const MEND: &str = "set the clock (timedatectl set-ntp true; chronyc makestep), then issue no new \
                    certificates before that";

/// Is the clock kept, and does anything contradict it?
pub(super) fn check(config: &Path, told: Option<&Dmvpn>) -> Vec<Check> {
    let mut checks = Vec::new();
    let now = SystemTime::now();
    let written = fs::metadata(config).and_then(|metadata| metadata.modified());
    if let Ok(ahead) = written.map(|written| written.duration_since(now).unwrap_or_default())
        && ahead > SLACK
    {
        let found = format!(
            "the clock is behind: {} was written {} in the future",
            config.display(),
            words(ahead)
        );
        checks.push(Check::finding("clock", found, MEND));
    }
    // What a peer proved with is too new for us, or ours is for him: one of the clocks is wrong.
    let refusals = told.into_iter().flat_map(|dmvpn| &dmvpn.interfaces).flat_map(|i| &i.refusals);
    let early = refusals.filter(|refusal| refusal.reason.contains("compare the clocks"));
    if let Some(refusal) = early.into_iter().next() {
        let found = format!("wrong here or at {}: {}", refusal.peer, refusal.reason);
        checks.push(Check::finding("clock", found, MEND));
    }
    if checks.is_empty() {
        checks.push(match synchronised() {
            Some(true) => Check::ok("clock", "synchronised"),
            Some(false) => {
                Check::note("clock", "not synchronised by NTP, as far as the kernel knows")
            }
            None => Check::note("clock", "the kernel does not say whether it is synchronised"),
        });
    }
    checks
}

fn words(time: Duration) -> String {
    match time.as_secs() {
        seconds @ ..7_200 => format!("{} min", seconds / 60),
        seconds @ 7_200..172_800 => format!("{} h", seconds / 3_600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

/// Whether somebody disciplines the kernel's clock (adjtimex(2)).
fn synchronised() -> Option<bool> {
    // SAFETY: all fields are integers, for which zero is a value; `modes` 0 only reads, into a
    // struct that lives until the call returns.
    #[allow(unsafe_code, reason = "no crate at hand has adjtimex")]
    let state = unsafe {
        let mut timex: libc::timex = std::mem::zeroed();
        libc::adjtimex(&mut timex)
    };
    match state {
        -1 => None,
        libc::TIME_ERROR => Some(false),
        _ => Some(true),
    }
}
