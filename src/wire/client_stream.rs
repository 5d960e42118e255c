//! The sender's end of a stream on the wire.
//!
//! Owns the bytes between one [`super::SenderPipe`] and one HTTP/2 stream. Promises that frames keep the lane's order,
//! that reading answers never waits for writing parcels, and that the lane hears of the stream's end.

use super::body::{chain, next_piece};
use super::cap::LinkCap;
use super::client::{LinkBytes, LinkStatus};
use super::pipe::StreamEvent;
use crate::link::{Batcher, Decoder, Frame, Packing};
use crate::model::{Answer, Parcel};
use bytes::Bytes;
use hyper::body::Incoming;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

/// Frames that wait for HTTP/2 before no more parcels are taken from the lane.
const FRAMES_WAITING_MAX: usize = 2;

/// A round trip from which on a link is compressed: another site's.
const FAR: Duration = Duration::from_millis(5);

/// A frame that is soon full may wait for an eighth of the round trip, and no longer than this.
const PATIENCE_MAX: Duration = Duration::from_millis(6);

/// Both channels of a lane, and both directions of its stream.
pub(super) struct ClientStream {
    pub(super) parcels: mpsc::Receiver<Parcel>,
    pub(super) events: mpsc::Sender<StreamEvent>,
    pub(super) out: mpsc::Sender<Bytes>,
    pub(super) body: Incoming,
    pub(super) message_max: usize,
    pub(super) bytes: Arc<LinkBytes>,
    pub(super) cap: Arc<LinkCap>,
    pub(super) status: watch::Receiver<LinkStatus>,
}

#[expect(
    clippy::large_enum_variant,
    reason = "one lives on the stack for one turn; a box per parcel would cost more"
)]
enum Event<'a> {
    Unwanted,
    Piece(Option<Result<Bytes, hyper::Error>>),
    Room(mpsc::Permit<'a, Bytes>),
    /// The link's cap may let a frame go again.
    Uncapped,
    RequestClosed,
    Parcel(Option<Parcel>),
    Due,
}

/// How far the lane's side has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sending {
    Open,
    /// No more parcels come; what waits still goes.
    Flushing,
    /// The request is closed; answers still come.
    Closed,
}

struct State {
    decoder: Decoder,
    batcher: Batcher,
    frames: VecDeque<Bytes>,
    sending: Sending,
    ended: bool,
    events: mpsc::Sender<StreamEvent>,
    bytes: Arc<LinkBytes>,
    cap: Arc<LinkCap>,
    status: watch::Receiver<LinkStatus>,
}

impl ClientStream {
    /// Runs until either side ends it.
    pub(super) async fn run(self) {
        let Self {
            mut parcels,
            events,
            out,
            mut body,
            message_max,
            bytes,
            cap,
            status,
        } = self;
        let mut out = Some(out);
        let mut state = State {
            // Only answers come back: the smallest bound there is.
            decoder: Decoder::new(0),
            batcher: Batcher::new(message_max),
            frames: VecDeque::new(),
            sending: Sending::Open,
            ended: false,
            events: events.clone(),
            bytes,
            cap,
            status,
        };
        while !state.ended {
            if state.sending == Sending::Closed {
                out = None;
            }
            let taking = state.sending == Sending::Open && state.frames.len() < FRAMES_WAITING_MAX;
            // A timer would be a millisecond late, or two.
            let deadline = state.batcher.deadline().map(Instant::from_std);
            let due = deadline.is_some_and(|deadline| deadline <= Instant::now());
            // A frame that waits for the cap keeps its place: two of them, and the lane gives no more.
            let closed_until = match state.frames.front() {
                Some(_) => state.cap.closed_until(Instant::now().into_std()),
                None => None,
            };
            let event = tokio::select! {
                biased;
                () = events.closed() => Event::Unwanted,
                piece = next_piece(&mut body) => Event::Piece(piece),
                room = room(out.as_ref()), if !state.frames.is_empty() && closed_until.is_none() => {
                    room.map_or(Event::RequestClosed, Event::Room)
                }
                () = until(closed_until.map(Instant::from_std)), if closed_until.is_some() => {
                    Event::Uncapped
                }
                parcel = parcels.recv(), if taking => Event::Parcel(parcel),
                () = std::future::ready(()), if due => Event::Due,
                () = until(deadline) => Event::Due,
            };
            state.handle(event, Instant::now().into_std());
        }
    }
}

async fn room(out: Option<&mpsc::Sender<Bytes>>) -> Option<mpsc::Permit<'_, Bytes>> {
    out?.reserve().await.ok()
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

impl State {
    fn handle(&mut self, event: Event<'_>, now: std::time::Instant) {
        match event {
            Event::Unwanted => self.ended = true,
            Event::Piece(Some(Ok(piece))) => {
                self.bytes.add_in(piece.len());
                self.decoder.push(&piece);
                self.read();
            }
            Event::Piece(Some(Err(error))) => {
                self.down(format!("the stream broke: {}", chain(&error)));
            }
            Event::Piece(None) => self.down("the receiver ended the stream".to_owned()),
            Event::Room(permit) => {
                if let Some(frame) = self.frames.pop_front() {
                    self.bytes.add_out(frame.len());
                    self.cap.spend(frame.len(), now);
                    permit.send(frame);
                }
            }
            // The peer takes no more; what it still says tells why.
            Event::RequestClosed => {
                self.frames.clear();
                self.sending = Sending::Closed;
            }
            Event::Uncapped => {}
            Event::Due => self.frames.extend(self.batcher.take(now)),
            Event::Parcel(Some(parcel)) => self.send(&parcel, now),
            Event::Parcel(None) => {
                self.frames.extend(self.batcher.take(now));
                self.sending = Sending::Flushing;
            }
        }
        if self.sending == Sending::Flushing && self.frames.is_empty() {
            self.sending = Sending::Closed;
        }
    }

    fn send(&mut self, parcel: &Parcel, now: std::time::Instant) {
        let mut full = Vec::new();
        if self.batcher.deadline().is_none() {
            self.batcher.set_packing(self.packing());
        }
        let pushed = self.batcher.push(parcel, now, &mut full);
        self.frames.extend(full);
        if let Err(unsendable) = pushed {
            self.tell(StreamEvent::Answers(vec![(
                unsendable.number,
                Answer::Refused {
                    reason: unsendable.reason,
                    cause: unsendable.cause,
                },
            )]));
        }
    }

    /// Within a site, a message's bytes cost less than the time to make them fewer.
    fn packing(&self) -> Packing {
        let round_trip = self.status.borrow().distance.round_trip();
        let round_trip = round_trip.unwrap_or_default();
        if self.cap.is_set() || round_trip >= FAR {
            Packing::On {
                patience: (round_trip / 8).min(PATIENCE_MAX),
            }
        } else {
            Packing::Off
        }
    }

    fn read(&mut self) {
        while !self.ended {
            match self.decoder.frame() {
                Ok(None) => return,
                Ok(Some(Frame::Welcome(welcome))) => self.tell(StreamEvent::Up {
                    receiver: welcome.gateway,
                    credit: welcome.credit,
                }),
                Ok(Some(Frame::Answers(answers))) => self.tell(StreamEvent::Answers(answers)),
                Ok(Some(Frame::Refusal(refusal))) => {
                    self.tell(StreamEvent::Refused {
                        reason: refusal.reason,
                        cause: refusal.cause,
                    });
                    self.ended = true;
                }
                Ok(Some(
                    Frame::Hello(_)
                    | Frame::Batch(_)
                    | Frame::Canary(_)
                    | Frame::CanaryEcho(_)
                    | Frame::Ask(_)
                    | Frame::Known(_),
                )) => self.down("the receiver sent a frame that has no place there".to_owned()),
                Err(error) => self.down(format!("the receiver sent garbage: {}", chain(&error))),
            }
        }
    }

    /// A lane that keeps to its credit leaves room for every word; a peer that says more than it may is cut off.
    fn tell(&mut self, event: StreamEvent) {
        if self.events.try_send(event).is_err() {
            self.ended = true;
        }
    }

    fn down(&mut self, cause: String) {
        self.tell(StreamEvent::Down { cause });
        self.ended = true;
    }
}
