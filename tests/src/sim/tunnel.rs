//! A model of one WireGuard session: its message pattern, its timers and its protection against
//! replay, as the userspace data plane has them; without the cryptography. Who knows the
//! pre-shared key of the IKE SA has the keys.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::plane::Inner;

/// The pre-shared key, which tells one session from all others.
pub type Key = [u8; 32];

/// A WireGuard message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Handshake initiation; the number is its timestamp.
    Initiation(u64),
    /// Answer to the initiation with that number.
    Response(u64),
    /// Data under the keys of that handshake: its counter, and what is inside (`None` = keepalive).
    Data(u64, u64, Option<Inner>),
}

/// What the peer did to the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    New,
    Up,
    Down,
}

// WireGuard's constants, as its paper names them.
const REKEY_AFTER_TIME: Duration = Duration::from_secs(120);
const REJECT_AFTER_TIME: Duration = Duration::from_secs(180);
const REKEY_ATTEMPT_TIME: Duration = Duration::from_secs(90);
const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// The data plane's own: the first initiation of a session is repeated sooner.
const FIRST_RETRY: Duration = Duration::from_millis(250);
/// Persistent keepalive.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// Packets that wait for keys.
const QUEUE: usize = 64;
/// Handshakes whose keys are kept.
const EPOCHS: usize = 4;
/// How far behind the newest a counter may be.
const WINDOW: u64 = 1024;

/// One handshake's keys.
#[derive(Debug)]
struct Epoch {
    number: u64,
    since: Instant,
    initiator: bool,
    sent: u64,
    seen: Window,
}

impl Epoch {
    fn new(number: u64, since: Instant, initiator: bool) -> Self {
        Self { number, since, initiator, sent: 0, seen: Window::default() }
    }
}

/// The counters that were seen lately: what protects against replay.
#[derive(Debug, Default)]
pub(super) struct Window(BTreeSet<u64>);

impl Window {
    /// Whether this counter is fresh (RFC 6479).
    pub(super) fn admit(&mut self, counter: u64) -> bool {
        let floor = self.0.last().map_or(0, |last| last.saturating_sub(WINDOW));
        let fresh = counter >= floor && self.0.insert(counter);
        self.0 = self.0.split_off(&floor);
        fresh
    }
}

/// An initiation that has no answer yet.
#[derive(Debug)]
struct Attempt {
    /// The last two that were sent: the answer to either counts.
    numbers: [u64; 2],
    began: Instant,
    pause: Duration,
    due: Instant,
}

#[derive(Debug)]
pub(super) struct Tunnel {
    initiate: bool,
    pub(super) life: Life,
    created: Instant,
    attempt: Option<Attempt>,
    /// The newest initiation of the peer.
    heard: Option<u64>,
    /// Newest first: of these the first seals, and all open.
    epochs: VecDeque<Epoch>,
    /// Answered as a responder, but the peer has not yet shown that it has the keys.
    next: VecDeque<Epoch>,
    queue: VecDeque<Inner>,
    last_sent: Instant,
    /// Data was received since, and nothing sent after it.
    owes_answer: Option<Instant>,
    /// Data was sent since, and nothing received after it.
    awaits_answer: Option<Instant>,
}

impl Tunnel {
    pub(super) fn new(now: Instant, initiate: bool) -> Self {
        Self {
            initiate,
            life: Life::New,
            created: now,
            attempt: None,
            heard: None,
            epochs: VecDeque::new(),
            next: VecDeque::new(),
            queue: VecDeque::new(),
            last_sent: now,
            owes_answer: None,
            awaits_answer: None,
        }
    }

    /// The initiating side of a new session speaks first.
    pub(super) fn start(&mut self, now: Instant, out: &mut Vec<Message>) {
        if self.initiate {
            self.begin(now, FIRST_RETRY, out);
        }
    }

    /// Grows from one initiation to the next; the two sides never use the same.
    fn stamp(&self, now: Instant) -> u64 {
        let nanos = u64::try_from((now - self.created).as_nanos()).unwrap_or(u64::MAX / 2);
        nanos * 2 + u64::from(self.initiate)
    }

    fn begin(&mut self, now: Instant, pause: Duration, out: &mut Vec<Message>) {
        if self.attempt.is_some() || self.life == Life::Down {
            return;
        }
        let number = self.stamp(now);
        self.attempt = Some(Attempt { numbers: [number; 2], began: now, pause, due: now + pause });
        out.push(Message::Initiation(number));
    }

    fn sealing(&self, now: Instant) -> bool {
        self.epochs.front().is_some_and(|epoch| now - epoch.since < REJECT_AFTER_TIME)
    }

    /// Sends a packet, or keeps it until there are keys; `false` where there is no room for that.
    pub(super) fn seal(
        &mut self,
        now: Instant,
        inner: Option<Inner>,
        out: &mut Vec<Message>,
    ) -> bool {
        if !self.sealing(now) {
            if self.initiate || self.life != Life::New {
                self.begin(now, REKEY_TIMEOUT, out);
            }
            let room = self.queue.len() < QUEUE;
            self.queue.extend(inner.filter(|_| room));
            return room;
        }
        if inner.is_some() {
            self.awaits_answer.get_or_insert(now);
        }
        let Some(epoch) = self.epochs.front_mut() else { return false };
        epoch.sent += 1;
        out.push(Message::Data(epoch.number, epoch.sent, inner));
        self.last_sent = now;
        self.owes_answer = None;
        if epoch.initiator && now - epoch.since >= REKEY_AFTER_TIME {
            self.begin(now, REKEY_TIMEOUT, out);
        }
        true
    }

    /// Takes a message; the packet that was in it, and whether the message was genuine and new.
    pub(super) fn open(
        &mut self,
        now: Instant,
        message: Message,
        out: &mut Vec<Message>,
    ) -> (bool, Option<Inner>) {
        match message {
            Message::Initiation(number) => {
                if self.heard.is_some_and(|heard| heard >= number) {
                    return (false, None);
                }
                self.heard = Some(number);
                self.next.push_front(Epoch::new(number, now, false));
                self.next.truncate(EPOCHS);
                out.push(Message::Response(number));
                self.last_sent = now;
                (true, None)
            }
            Message::Response(number) => {
                if self.attempt.as_ref().is_none_or(|attempt| !attempt.numbers.contains(&number)) {
                    return (false, None);
                }
                self.established(now, Epoch::new(number, now, true));
                if self.queue.is_empty() {
                    self.seal(now, None, out);
                }
                self.flush(now, out);
                (true, None)
            }
            Message::Data(number, counter, inner) => {
                if let Some(at) = self.next.iter().position(|next| next.number == number)
                    && let Some(next) = self.next.remove(at)
                {
                    self.established(now, next);
                }
                let epoch = self.epochs.iter_mut().find(|epoch| epoch.number == number);
                let Some(epoch) = epoch.filter(|epoch| now - epoch.since < REJECT_AFTER_TIME)
                else {
                    return (false, None);
                };
                if !epoch.seen.admit(counter) {
                    return (false, None);
                }
                self.life = Life::Up;
                self.awaits_answer = None;
                if inner.is_some() {
                    self.owes_answer.get_or_insert(now);
                }
                self.flush(now, out);
                (true, inner)
            }
        }
    }

    fn established(&mut self, now: Instant, epoch: Epoch) {
        self.life = Life::Up;
        self.attempt = None;
        self.awaits_answer = None;
        self.last_sent = now;
        self.epochs.push_front(epoch);
        self.epochs.truncate(EPOCHS);
    }

    fn flush(&mut self, now: Instant, out: &mut Vec<Message>) {
        while self.sealing(now)
            && let Some(inner) = self.queue.pop_front()
        {
            self.seal(now, Some(inner), out);
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let timers = match (self.life, &self.attempt) {
            (Life::Down, _) => return None,
            (_, Some(attempt)) => [Some(attempt.due), None, None],
            (Life::New, None) if self.initiate => [None; 3],
            (Life::New, None) => [Some(self.created + REKEY_ATTEMPT_TIME), None, None],
            (Life::Up, None) => [
                Some(self.last_sent + KEEPALIVE),
                self.owes_answer.map(|at| at + KEEPALIVE_TIMEOUT),
                self.awaits_answer.map(|at| at + KEEPALIVE_TIMEOUT + REKEY_TIMEOUT),
            ],
        };
        timers.into_iter().flatten().min()
    }

    /// Runs what is due.
    pub(super) fn tick(&mut self, now: Instant, out: &mut Vec<Message>) {
        if self.deadline().is_none_or(|at| at > now) {
            return;
        }
        let number = self.stamp(now);
        let Some(attempt) = &mut self.attempt else {
            if self.life == Life::New {
                self.life = Life::Down;
            } else if self
                .awaits_answer
                .is_some_and(|at| now - at >= KEEPALIVE_TIMEOUT + REKEY_TIMEOUT)
            {
                self.begin(now, REKEY_TIMEOUT, out);
            } else {
                self.seal(now, None, out);
                self.last_sent = now;
                self.owes_answer = None;
            }
            return;
        };
        if now - attempt.began >= REKEY_ATTEMPT_TIME {
            self.life = Life::Down;
            self.attempt = None;
            self.queue.clear();
            return;
        }
        attempt.numbers = [attempt.numbers[1], number];
        attempt.pause = (attempt.pause * 2).min(REKEY_TIMEOUT);
        attempt.due = now + attempt.pause;
        out.push(Message::Initiation(number));
    }
}
