//! The links between gateways, and the pipes within one: streams that delay, stall and break, but never reorder.
//!
//! What a broken stream had under way arrives in part; a new stream has nothing to do with the old one's delay, and may
//! overtake it. Between units the parcels and answers are bytes, as the real link has them.

use crate::facts::{GATEWAYS, unit_of};
use bytes::Bytes;
use fastrand::Rng;
use setgate::link::{Credit, Hello};
use setgate::model::{Answer, Parcel, ParcelNumber};
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// A link that has been silent for so long is given up.
const SILENCE_MAX: Duration = Duration::from_secs(3);

/// What arrives on a stream.
#[derive(Debug)]
pub(crate) enum Piece {
    Hello(Box<Hello>, For),
    /// A link's frame: a batch or answers.
    Frame(Bytes),
    Parcel(Box<Parcel>),
    Answers(Vec<(ParcelNumber, Answer)>),
    Up(Credit),
    Down(String),
    /// Nothing more comes from there.
    End,
}

/// What a stream's parcels are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum For {
    Lane,
    Diversion(usize),
    Park,
}

#[derive(Debug, Default)]
struct Way {
    pieces: VecDeque<(Instant, Piece)>,
    /// The end that hears it is there.
    is_heard: bool,
}

#[derive(Debug)]
struct Stream {
    from: usize,
    to: usize,
    down: Way,
    up: Way,
    delay: Duration,
    /// Its receiver has taken it in hand.
    is_taken: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Wire {
    streams: BTreeMap<u64, Stream>,
    next: u64,
    /// Directions between units in which nothing arrives, and since when.
    cuts: BTreeMap<(usize, usize), Instant>,
    /// Gateways that say nothing, and since when.
    silent: BTreeMap<usize, Instant>,
}

impl Wire {
    pub(crate) fn open(
        &mut self,
        from: usize,
        to: usize,
        hello: Piece,
        now: Instant,
        random: &mut Rng,
    ) -> u64 {
        self.next += 1;
        let delay = if from == to { 0 } else { random.u64(1..60) };
        let way = || Way {
            pieces: VecDeque::new(),
            is_heard: true,
        };
        let stream = Stream {
            from,
            to,
            down: way(),
            up: way(),
            delay: Duration::from_millis(delay),
            is_taken: false,
        };
        self.streams.insert(self.next, stream);
        self.say_down(self.next, hello, now);
        self.next
    }

    pub(crate) fn is_link(&self, stream: u64) -> bool {
        let stream = self.streams.get(&stream);
        stream.is_some_and(|stream| unit_of(stream.from) != unit_of(stream.to))
    }

    /// Streams that a gateway has not taken in hand yet.
    pub(crate) fn incoming(&mut self, gateway: usize) -> Vec<u64> {
        let of_it = self.streams.iter_mut();
        let of_it = of_it.filter(|(_, one)| one.to == gateway && !one.is_taken);
        let new = of_it.map(|(id, stream)| {
            stream.is_taken = true;
            *id
        });
        new.collect()
    }

    pub(crate) fn say_down(&mut self, stream: u64, piece: Piece, now: Instant) {
        if let Some(Stream { down, delay, .. }) = self.streams.get_mut(&stream) {
            down.say(piece, now + *delay);
        }
    }

    pub(crate) fn say_up(&mut self, stream: u64, piece: Piece, now: Instant) {
        if let Some(Stream { up, delay, .. }) = self.streams.get_mut(&stream) {
            up.say(piece, now + *delay);
        }
    }

    /// What has come from the sender.
    pub(crate) fn hear_down(&mut self, stream: u64, now: Instant) -> Option<Piece> {
        let Some(open) = self.streams.get_mut(&stream) else {
            return Some(Piece::End);
        };
        let way = (unit_of(open.from), unit_of(open.to));
        if self.cuts.contains_key(&way) {
            return None;
        }
        open.down.hear(now)
    }

    /// What has come from the receiver.
    pub(crate) fn hear_up(&mut self, stream: u64, now: Instant) -> Option<Piece> {
        let Some(open) = self.streams.get_mut(&stream) else {
            return Some(Piece::End);
        };
        let way = (unit_of(open.to), unit_of(open.from));
        if self.cuts.contains_key(&way) {
            return None;
        }
        open.up.hear(now)
    }

    /// The sender is gone: some of what it has said arrives.
    pub(crate) fn leave_sender(&mut self, stream: u64, now: Instant, random: &mut Rng) {
        if let Some(Stream { down, up, .. }) = self.streams.get_mut(&stream) {
            up.is_heard = false;
            down.breaks(now, random);
        }
        self.tidy(stream);
    }

    /// The receiver is gone: some of what it has said arrives.
    pub(crate) fn leave_receiver(&mut self, stream: u64, now: Instant, random: &mut Rng) {
        if let Some(Stream { down, up, .. }) = self.streams.get_mut(&stream) {
            down.is_heard = false;
            up.breaks(now, random);
        }
        self.tidy(stream);
    }

    /// The receiver has said its last word.
    pub(crate) fn end_receiver(&mut self, stream: u64, now: Instant) {
        self.say_up(stream, Piece::End, now);
        if let Some(Stream { down, .. }) = self.streams.get_mut(&stream) {
            down.is_heard = false;
        }
        self.tidy(stream);
    }

    fn tidy(&mut self, stream: u64) {
        let is_over = |one: &Stream| !one.down.is_heard && !one.up.is_heard;
        if self.streams.get(&stream).is_some_and(is_over) {
            self.streams.remove(&stream);
        }
    }

    /// A stream breaks for both ends.
    pub(crate) fn breaks(&mut self, stream: u64, now: Instant, random: &mut Rng) {
        if let Some(Stream { down, up, .. }) = self.streams.get_mut(&stream) {
            down.breaks(now, random);
            up.breaks(now, random);
        }
    }

    pub(crate) fn streams(&self) -> Vec<u64> {
        self.streams.keys().copied().collect()
    }

    /// A gateway's process has ended.
    pub(crate) fn dies(&mut self, gateway: usize, now: Instant, random: &mut Rng) {
        for id in self.streams() {
            let Some(stream) = self.streams.get(&id) else {
                continue;
            };
            let (from, to) = (stream.from, stream.to);
            if from == gateway {
                self.leave_sender(id, now, random);
            }
            if to == gateway {
                self.leave_receiver(id, now, random);
            }
        }
    }

    pub(crate) fn cut(&mut self, from: usize, to: usize, now: Instant) {
        self.cuts.entry((from, to)).or_insert(now);
    }

    pub(crate) fn mend(&mut self, from: usize, to: usize) {
        self.cuts.remove(&(from, to));
    }

    pub(crate) fn falls_silent(&mut self, gateway: usize, now: Instant) {
        self.silent.entry(gateway).or_insert(now);
    }

    pub(crate) fn speaks(&mut self, gateway: usize) {
        self.silent.remove(&gateway);
    }

    /// Whether one gateway sees its link to another as up.
    fn is_up(&self, from: usize, to: usize, now: Instant) -> bool {
        let (a, b) = (unit_of(from), unit_of(to));
        let since = [
            self.cuts.get(&(a, b)),
            self.cuts.get(&(b, a)),
            self.silent.get(&to),
        ];
        let long = |since: &Instant| now.saturating_duration_since(*since) >= SILENCE_MAX;
        !since.into_iter().flatten().any(long)
    }

    /// The gateways of a unit to which links are up.
    pub(crate) fn reached(&self, from: usize, unit: usize, now: Instant) -> Vec<usize> {
        let of_unit = (0..GATEWAYS).filter(|to| unit_of(*to) == unit);
        of_unit.filter(|to| self.is_up(from, *to, now)).collect()
    }

    /// Links that have been silent for too long are given up by the senders; receivers learn of it when something arrives.
    pub(crate) fn step(&mut self, now: Instant, random: &mut Rng) {
        for id in self.streams() {
            let Some(stream) = self.streams.get(&id) else {
                continue;
            };
            let is_local = stream.from == stream.to;
            if !is_local && !self.is_up(stream.from, stream.to, now) {
                if let Some(stream) = self.streams.get_mut(&id) {
                    stream.down.breaks(now, random);
                    stream.up.pieces.clear();
                    stream.up.say(Piece::End, now);
                }
                // No cut keeps a sender from knowing that it has given up.
                self.end_sender_of(id);
            }
        }
    }

    fn end_sender_of(&mut self, stream: u64) {
        if let Some(Stream { up, .. }) = self.streams.get_mut(&stream) {
            up.is_heard = false;
        }
        self.tidy(stream);
    }

    /// Whether its sender has given it up.
    pub(crate) fn is_given_up(&self, stream: u64) -> bool {
        self.streams.get(&stream).is_none_or(|one| !one.up.is_heard)
    }
}

impl Way {
    fn say(&mut self, piece: Piece, at: Instant) {
        let ended = matches!(self.pieces.back(), Some((_, Piece::End)));
        if self.is_heard && !ended {
            let before = self.pieces.back().map(|(at, _)| *at);
            let at = before.map_or(at, |before| before.max(at));
            self.pieces.push_back((at, piece));
        }
    }

    fn hear(&mut self, now: Instant) -> Option<Piece> {
        let front = self.pieces.front();
        if front.is_some_and(|(at, piece)| *at <= now && matches!(piece, Piece::End)) {
            return Some(Piece::End);
        }
        let (_, piece) = self.pieces.pop_front_if(|(at, _)| *at <= now)?;
        Some(piece)
    }

    fn breaks(&mut self, now: Instant, random: &mut Rng) {
        if !matches!(self.pieces.back(), Some((_, Piece::End))) {
            let arrives = random.usize(..=self.pieces.len());
            self.pieces.truncate(arrives);
            self.say(Piece::End, now);
        }
    }
}
