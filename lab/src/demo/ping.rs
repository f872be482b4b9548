//! `ping`, and what its replies tell.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStdout, Stdio};

use lab::{Error, Node};

/// A ping under way.
pub(super) struct Ping {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    replies: BTreeMap<u32, Reply>,
    sent: u32,
    interval_ms: u32,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Reply {
    ttl: u8,
    ms: f64,
}

/// What came back.
#[derive(Debug)]
pub(super) struct Replies {
    replies: BTreeMap<u32, Reply>,
    pub(super) sent: u32,
    interval_ms: u32,
}

impl Ping {
    pub(super) fn start(
        from: &Node,
        to: &str,
        count: u32,
        interval_ms: u32,
    ) -> Result<Self, Error> {
        let interval = format!("{}.{:03}", interval_ms / 1000, interval_ms % 1000);
        let failed = |source| Error::Io { what: "run ping".into(), source };
        let mut child = from
            .command(["ping", "-n", "-c", &count.to_string(), "-i", &interval, "-W", "1", to])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let stdout = child.stdout.take().ok_or_else(|| failed(std::io::Error::other("no pipe")))?;
        let lines = BufReader::new(stdout).lines();
        Ok(Self { child, lines, replies: BTreeMap::new(), sent: count, interval_ms })
    }

    /// Reads on until this many replies are there, or the end.
    pub(super) fn until_replies(&mut self, count: usize) {
        while self.replies.len() < count {
            let Some(Ok(line)) = self.lines.next() else { return };
            if let Some((number, reply)) = reply(&line) {
                self.replies.entry(number).or_insert(reply);
            }
        }
    }

    pub(super) fn finish(mut self) -> Replies {
        self.until_replies(usize::MAX);
        let _ = self.child.wait();
        Replies { replies: self.replies, sent: self.sent, interval_ms: self.interval_ms }
    }
}

/// `64 bytes from 192.168.2.10: icmp_seq=1 ttl=61 time=0.531 ms`
fn reply(line: &str) -> Option<(u32, Reply)> {
    let field = |name: &str| line.split(' ').find_map(|word| word.strip_prefix(name));
    let reply = Reply { ttl: field("ttl=")?.parse().ok()?, ms: field("time=")?.parse().ok()? };
    Some((field("icmp_seq=")?.parse().ok()?, reply))
}

impl Replies {
    pub(super) fn received(&self) -> u32 {
        u32::try_from(self.replies.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn lost(&self) -> u32 {
        self.sent.saturating_sub(self.received())
    }

    /// The first reply from which on all came over this many routers.
    pub(super) fn over_routers_from(&self, routers: u8) -> Option<u32> {
        let ttl = 64 - routers;
        let others = self.replies.iter().rev().find(|(_, reply)| reply.ttl != ttl);
        let after = others.map_or(0, |(number, _)| *number);
        self.replies.keys().copied().find(|number| *number > after)
    }

    /// Were the last so many all answered?
    pub(super) fn last_answered(&self, count: u32) -> bool {
        (self.sent.saturating_sub(count) + 1..=self.sent).all(|n| self.replies.contains_key(&n))
    }

    /// The longest time without a reply that was due.
    pub(super) fn longest_gap_ms(&self) -> u32 {
        let numbers = self.replies.keys().copied().chain([self.sent + 1]);
        let gaps = numbers.scan(0, |last, number| {
            let gap = number - *last - 1;
            *last = number;
            Some(gap)
        });
        gaps.max().unwrap_or(self.sent) * self.interval_ms
    }

    /// The median round trip in milliseconds of replies `from..`.
    pub(super) fn median_ms(&self, from: u32) -> f64 {
        let mut times: Vec<_> = self.replies.range(from..).map(|(_, reply)| reply.ms).collect();
        times.sort_by(f64::total_cmp);
        times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replies(sent: u32, lines: &[&str]) -> Replies {
        let replies = lines.iter().filter_map(|line| reply(line)).collect();
        Replies { replies, sent, interval_ms: 10 }
    }

    #[test]
    fn loss_gap_and_path() {
        let replies = replies(
            6,
            &[
                "PING 192.168.2.10 (192.168.2.10) 56(84) bytes of data.",
                "64 bytes from 192.168.2.10: icmp_seq=1 ttl=61 time=1.50 ms",
                "64 bytes from 192.168.2.10: icmp_seq=2 ttl=62 time=0.5 ms",
                "From 192.168.1.1 icmp_seq=3 Destination Net Unreachable",
                "64 bytes from 192.168.2.10: icmp_seq=5 ttl=62 time=0.25 ms",
            ],
        );
        assert_eq!((replies.received(), replies.lost()), (3, 3));
        assert_eq!(replies.longest_gap_ms(), 20);
        assert!(!replies.last_answered(1));
        assert_eq!(replies.median_ms(2), 0.5);
    }

    #[test]
    fn direct_from_where_on() {
        let line = |n: u32, ttl| format!("64 bytes from x: icmp_seq={n} ttl={ttl} time=1 ms");
        let lines = [line(1, 61), line(2, 62), line(3, 61), line(5, 62), line(6, 62)];
        let replies = replies(6, &lines.each_ref().map(String::as_str));
        assert_eq!(replies.over_routers_from(2), Some(5));
        assert_eq!(replies.over_routers_from(3), None);
        assert_eq!(replies.longest_gap_ms(), 10);
        assert!(replies.last_answered(2) && !replies.last_answered(3));
    }
}
