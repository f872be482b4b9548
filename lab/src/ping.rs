//! `ping`, and what its replies tell.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::ops::RangeInclusive;
use std::process::{Child, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::process::{Process, only_child};
use crate::{Error, Node};

/// A ping under way.
pub struct Ping {
    wrapper: Child,
    process: Option<Process>,
    news: Receiver<(u16, Reply)>,
    replies: Replies,
    sent: Option<u32>,
}

/// One reply.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Reply {
    /// Time to live on arrival.
    pub ttl: u8,
    /// Round trip in milliseconds.
    pub ms: f64,
}

/// What came back, by the number of the ping: 1 is the first.
#[derive(Debug, Clone, Default)]
pub struct Replies {
    replies: BTreeMap<u32, Reply>,
    sent: u32,
    interval_ms: u32,
}

impl Ping {
    /// Sends so many, or without end.
    ///
    /// # Errors
    /// When the program does not start.
    pub fn start(
        from: &Node,
        to: &str,
        count: Option<u32>,
        interval_ms: u32,
    ) -> Result<Self, Error> {
        let interval = format!("{}.{:03}", interval_ms / 1000, interval_ms % 1000);
        let mut argv = vec!["ping".to_owned(), "-n".into(), "-i".into(), interval];
        argv.extend(["-W".into(), "1".into(), to.into()]);
        if let Some(count) = count {
            argv.extend(["-c".into(), count.to_string()]);
        }
        let failed = |source| Error::Io { what: "run ping".into(), source };
        let mut wrapper = from
            .command(&argv)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let stdout =
            wrapper.stdout.take().ok_or_else(|| failed(std::io::Error::other("no pipe")))?;
        let process = only_child(&mut wrapper);
        let (sender, news) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if let Some(reply) = reply(&line)
                    && sender.send(reply).is_err()
                {
                    return;
                }
            }
        });
        let replies = Replies { interval_ms, ..Replies::default() };
        Ok(Self { wrapper, process, news, replies, sent: count })
    }

    /// What came back so far.
    pub fn replies(&mut self) -> &Replies {
        while let Ok((number, reply)) = self.news.try_recv() {
            self.replies.insert(number, reply);
        }
        &self.replies
    }

    /// Waits until the replies are enough.
    ///
    /// # Errors
    /// [`Error::Timeout`], also when the ping is at its end before.
    pub fn until(
        &mut self,
        what: &str,
        within: Duration,
        enough: impl Fn(&Replies) -> bool,
    ) -> Result<(), Error> {
        let give_up = Instant::now() + within;
        while !enough(&self.replies) {
            match self.news.recv_timeout(give_up.saturating_duration_since(Instant::now())) {
                Ok((number, reply)) => self.replies.insert(number, reply),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    let last = format!("{} replies", self.replies.received());
                    let seconds = within.as_secs();
                    return Err(Error::Timeout { what: what.into(), seconds, last });
                }
            }
        }
        Ok(())
    }

    /// Waits for its end.
    pub fn finish(mut self) -> Replies {
        for (number, reply) in &self.news {
            self.replies.insert(number, reply);
        }
        self.replies.sent = self.sent.unwrap_or(self.replies.sent);
        std::mem::take(&mut self.replies)
    }

    /// Ends it now; what was sent after the last reply does not count.
    pub fn stop(mut self) -> Replies {
        self.interrupt();
        self.sent = None;
        self.finish()
    }

    fn interrupt(&self) {
        if let Some(process) = self.process {
            process.signal(Signal::SIGINT);
        }
    }
}

impl Drop for Ping {
    fn drop(&mut self) {
        self.interrupt();
        let _ = self.wrapper.wait();
    }
}

/// `64 bytes from 192.168.2.10: icmp_seq=1 ttl=61 time=0.531 ms`
fn reply(line: &str) -> Option<(u16, Reply)> {
    let field = |name: &str| line.split(' ').find_map(|word| word.strip_prefix(name));
    let reply = Reply { ttl: field("ttl=")?.parse().ok()?, ms: field("time=")?.parse().ok()? };
    Some((field("icmp_seq=")?.parse().ok()?, reply))
}

impl Replies {
    /// The sequence number on the wire has 16 bits (RFC 792) and begins again after 65,535; ours goes on.
    fn insert(&mut self, sequence: u16, reply: Reply) {
        /// So much later than its successors a reply may come.
        const LATE: u32 = 1024;
        let first = self.last().saturating_sub(LATE);
        let number = first + u32::from(sequence.wrapping_sub(first as u16));
        self.replies.entry(number).or_insert(reply);
        self.sent = self.sent.max(number);
    }

    /// The number of the last one so far; 0 before the first.
    pub fn last(&self) -> u32 {
        self.replies.keys().next_back().copied().unwrap_or(0)
    }

    /// Those with these numbers, as if only they had been sent.
    pub fn between(&self, numbers: RangeInclusive<u32>) -> Self {
        let shift = numbers.start().saturating_sub(1);
        let replies = self.replies.range(numbers.clone());
        Self {
            replies: replies.map(|(number, reply)| (number - shift, *reply)).collect(),
            sent: numbers.end().saturating_sub(shift),
            interval_ms: self.interval_ms,
        }
    }

    /// How many were sent.
    pub fn sent(&self) -> u32 {
        self.sent
    }

    /// How many came back.
    pub fn received(&self) -> u32 {
        u32::try_from(self.replies.len()).unwrap_or(u32::MAX)
    }

    /// How many did not; of an endless ping, among those before the last reply.
    pub fn lost(&self) -> u32 {
        self.sent.saturating_sub(self.received())
    }

    /// The numbers of those.
    pub fn missing(&self) -> Vec<u32> {
        (1..=self.sent).filter(|number| !self.replies.contains_key(number)).collect()
    }

    /// The first reply from which on all came over this many routers.
    pub fn over_routers_from(&self, routers: u8) -> Option<u32> {
        let ttl = 64 - routers;
        let others = self.replies.iter().rev().find(|(_, reply)| reply.ttl != ttl);
        let after = others.map_or(0, |(number, _)| *number);
        self.replies.keys().copied().find(|number| *number > after)
    }

    /// Were the last so many all answered?
    pub fn last_answered(&self, count: u32) -> bool {
        (self.sent.saturating_sub(count) + 1..=self.sent).all(|n| self.replies.contains_key(&n))
    }

    /// The longest time without a reply that was due.
    pub fn longest_gap_ms(&self) -> u32 {
        let numbers = self.replies.keys().copied().chain([self.sent + 1]);
        let gaps = numbers.scan(0, |last, number| {
            let gap = number - *last - 1;
            *last = number;
            Some(gap)
        });
        gaps.max().unwrap_or(self.sent) * self.interval_ms
    }

    /// The median round trip in milliseconds of replies `from..`.
    pub fn median_ms(&self, from: u32) -> f64 {
        let mut times: Vec<_> = self.replies.range(from..).map(|(_, reply)| reply.ms).collect();
        times.sort_by(f64::total_cmp);
        times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replies(sent: u32, lines: &[&str]) -> Replies {
        let mut replies = Replies { interval_ms: 10, ..Replies::default() };
        lines.iter().filter_map(|line| reply(line)).for_each(|(n, reply)| replies.insert(n, reply));
        Replies { sent, ..replies }
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
        assert_eq!(replies.missing(), [3, 4, 6]);
        assert_eq!(replies.longest_gap_ms(), 20);
        assert!(!replies.last_answered(1));
        assert_eq!(replies.median_ms(2), 0.5);
    }

    #[test]
    fn numbers_go_on_where_those_of_ping_begin_again() {
        let mut replies = Replies::default();
        let reply = Reply { ttl: 62, ms: 1.0 };
        const AGAIN: u32 = 1 << 16;
        // Two are lost; one comes late, one twice.
        let late = AGAIN - 9;
        let order = (1..late).chain(late + 1..=AGAIN + 500).chain([late, late, AGAIN + 501]);
        let lost = [AGAIN, 2 * AGAIN + 1];
        let order = order.chain(AGAIN + 502..=2 * AGAIN + 10).filter(|n| !lost.contains(n));
        order.for_each(|number| replies.insert(number as u16, reply));
        assert_eq!((replies.last(), replies.sent()), (2 * AGAIN + 10, 2 * AGAIN + 10));
        assert_eq!(replies.missing(), lost);
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
        let part = replies.between(3..=5);
        assert_eq!((part.sent, part.received(), part.lost()), (3, 2, 1));
        assert!(replies.between(5..=6).last_answered(2));
    }
}
