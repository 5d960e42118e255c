//! The receiver's end of a stream on the wire.
//!
//! Owns the bytes between one HTTP/2 stream and one [`ReceiverPipe`]. Promises that reading never waits for writing,
//! so that a receiver that is slow to answer can't hold the connection's window; and that a peer that sends more than
//! its credit is turned away before it costs memory.

use super::body::{chain, next_piece};
use super::clock::boottime;
use super::pipe::{PARCELS_CAPACITY, ReceiverPipe, StreamEvent, WORDS_CAPACITY};
use super::server::Port;
use crate::link::{
    Arrival, Canary, CreditGrant, CreditPool, CreditWindow, Decoder, Frame, Hello, Peer, Refusal,
    RefusalReason, Welcome, admit,
};
use crate::model::{Answer, Epoch, Lineage, Parcel, ParcelNumber, Reason};
use bytes::Bytes;
use hyper::body::Incoming;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// How long a new stream has to say its hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// Answers in one frame: with a cause of 256 bytes each they are 300 KiB, below the bound for answers.
const ANSWERS_PER_FRAME: usize = 1_024;

/// Serves one lane's stream until either side ends it.
pub(super) async fn serve_lane(
    port: &Port,
    peer: Peer,
    pool: CreditPool,
    mut body: Incoming,
    out: mpsc::Sender<Bytes>,
) {
    let mut decoder = Decoder::new(port.message_max);
    let hello = match timeout(HELLO_TIMEOUT, first_hello(&mut body, &mut decoder)).await {
        Ok(hello) => hello.and_then(|hello| {
            let standing = port.standing.borrow().clone();
            admit(&hello, &peer, &port.here, standing.as_deref()).map(|()| hello)
        }),
        Err(_) => Err(Refusal::new(
            RefusalReason::HandshakeTimeout,
            format!("no hello within {HELLO_TIMEOUT:?}"),
        )),
    };
    match hello {
        Err(refusal) => {
            port.refuse(&refusal);
            if let Ok(frame) = Frame::Refusal(refusal).encode() {
                let _ = out.send(frame).await;
            }
        }
        Ok(hello) => {
            let standing = port.standing.borrow().clone();
            let grant = pool.grant(standing.map_or(1, |standing| standing.lanes_elsewhere));
            let (parcels_in, parcels) = mpsc::channel(PARCELS_CAPACITY);
            let (words, words_out) = mpsc::channel(WORDS_CAPACITY);
            let pipe = ReceiverPipe {
                hello,
                peer,
                credit: grant.credit(),
                parcels,
                words,
            };
            if port.incoming.send(pipe).await.is_ok() {
                let stream = LaneStream::new(port, grant, decoder, parcels_in);
                stream.run(body, words_out, out).await;
            }
        }
    }
}

async fn first_hello(body: &mut Incoming, decoder: &mut Decoder) -> Result<Hello, Refusal> {
    let garbage = |cause: String| Refusal::new(RefusalReason::Garbage, cause);
    loop {
        match decoder.frame() {
            Ok(Some(Frame::Hello(hello))) => return Ok(hello),
            Ok(Some(_)) => return Err(garbage("a stream that doesn't begin with a hello".into())),
            Ok(None) => {}
            Err(error) => return Err(garbage(chain(&error))),
        }
        match next_piece(body).await {
            Some(Ok(piece)) => decoder.push(&piece),
            Some(Err(error)) => return Err(garbage(chain(&error))),
            None => return Err(garbage("a stream that ended before its hello".into())),
        }
    }
}

enum Event<'a> {
    Room(mpsc::Permit<'a, Bytes>),
    Word(Option<StreamEvent>),
    Piece(Option<Result<Bytes, hyper::Error>>),
    SenderGone,
}

/// Whether a stream goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Running,
    /// What is still to be said is said, then it ends.
    Ending,
    Ended,
}

struct LaneStream<'p> {
    port: &'p Port,
    window: CreditWindow,
    decoder: Decoder,
    /// None once the sender has said that no more will come.
    parcels: Option<mpsc::Sender<Parcel>>,
    /// To be sent before any answer.
    frames: VecDeque<Bytes>,
    answers: Vec<(ParcelNumber, Answer)>,
    stage: Stage,
    _grant: CreditGrant,
}

impl<'p> LaneStream<'p> {
    fn new(
        port: &'p Port,
        grant: CreditGrant,
        decoder: Decoder,
        parcels: mpsc::Sender<Parcel>,
    ) -> Self {
        Self {
            port,
            window: CreditWindow::new(grant.credit()),
            decoder,
            parcels: Some(parcels),
            frames: VecDeque::new(),
            answers: Vec::new(),
            stage: Stage::Running,
            _grant: grant,
        }
    }

    async fn run(
        mut self,
        mut body: Incoming,
        mut words: mpsc::Receiver<StreamEvent>,
        out: mpsc::Sender<Bytes>,
    ) {
        // What came behind the hello in one piece.
        self.read();
        while self.stage != Stage::Ended {
            let reading = self.parcels.is_some() && self.stage == Stage::Running;
            let event = tokio::select! {
                biased;
                permit = out.reserve(), if self.has_output() => {
                    permit.map_or(Event::SenderGone, Event::Room)
                }
                () = out.closed() => Event::SenderGone,
                word = words.recv(), if self.stage == Stage::Running => Event::Word(word),
                piece = next_piece(&mut body), if reading => Event::Piece(piece),
            };
            self.handle(event);
        }
    }

    fn has_output(&self) -> bool {
        !self.frames.is_empty() || !self.answers.is_empty()
    }

    fn handle(&mut self, event: Event<'_>) {
        match event {
            Event::Room(permit) => {
                if let Some(frame) = self.next_output() {
                    permit.send(frame);
                }
            }
            Event::Word(Some(word)) => self.say(word),
            Event::Word(None) => self.stage = Stage::Ending,
            Event::Piece(Some(Ok(piece))) => {
                self.decoder.push(&piece);
                self.read();
            }
            Event::Piece(None) => self.parcels = None,
            Event::Piece(Some(Err(_))) | Event::SenderGone => self.stage = Stage::Ended,
        }
        if self.stage == Stage::Ending && !self.has_output() {
            self.stage = Stage::Ended;
        }
    }

    fn next_output(&mut self) -> Option<Bytes> {
        if let Some(frame) = self.frames.pop_front() {
            return Some(frame);
        }
        let count = self.answers.len().min(ANSWERS_PER_FRAME);
        let answers = self.answers.drain(..count).collect();
        Frame::Answers(answers).encode().ok()
    }

    fn say(&mut self, word: StreamEvent) {
        match word {
            StreamEvent::Up { receiver, credit } => {
                self.queue(&Frame::Welcome(Welcome {
                    gateway: receiver,
                    credit,
                }));
            }
            StreamEvent::Answers(answers) => {
                for (number, answer) in answers {
                    self.answer(number, answer);
                }
            }
            // The receiver counts its own refusals: not every one of them comes by a link.
            StreamEvent::Refused { reason, cause } => self.end(Refusal::new(reason, cause)),
            StreamEvent::Down { cause } => self.end(Refusal::new(RefusalReason::BrokerAway, cause)),
        }
    }

    /// Answers a parcel that is under way; another answer for it would confuse the sender's ledger.
    fn answer(&mut self, number: ParcelNumber, answer: Answer) {
        if self.window.release(number) {
            self.answers.push((number, answer));
        } else {
            debug_assert!(
                false,
                "an answer for parcel {number}, which isn't under way"
            );
        }
    }

    fn refuse(&mut self, refusal: Refusal) {
        self.port.refuse(&refusal);
        self.end(refusal);
    }

    /// Answers that were given still go out before it: the sender need not send those parcels again.
    fn end(&mut self, refusal: Refusal) {
        while !self.answers.is_empty() {
            let count = self.answers.len().min(ANSWERS_PER_FRAME);
            let answers: Vec<_> = self.answers.drain(..count).collect();
            self.queue(&Frame::Answers(answers));
        }
        self.queue(&Frame::Refusal(refusal));
        self.parcels = None;
        self.stage = Stage::Ending;
    }

    fn queue(&mut self, frame: &Frame) {
        match frame.encode() {
            Ok(bytes) => self.frames.push_back(bytes),
            Err(error) => debug_assert!(false, "our own words can't be encoded: {error}"),
        }
    }

    fn read(&mut self) {
        while self.stage == Stage::Running {
            match self.decoder.frame() {
                Ok(None) => return,
                Ok(Some(Frame::Batch(arrivals))) => {
                    for arrival in arrivals {
                        self.take(arrival);
                    }
                }
                Ok(Some(_)) => self.refuse(Refusal::new(
                    RefusalReason::Garbage,
                    "a frame that has no place in a lane's stream",
                )),
                Err(error) => self.refuse(Refusal::new(RefusalReason::Garbage, chain(&error))),
            }
        }
    }

    fn take(&mut self, arrival: Arrival) {
        let (number, cost) = match &arrival {
            Arrival::Readable(parcel) => (parcel.number, parcel.cost_bytes()),
            Arrival::Unreadable { number, .. } => (*number, 0),
        };
        if let Err(breach) = self.window.take(number, cost) {
            self.refuse(Refusal::new(RefusalReason::Credit, breach.to_string()));
            return;
        }
        match arrival {
            Arrival::Unreadable { number, cause } => self.answer(
                number,
                Answer::Refused {
                    reason: Reason::Malformed,
                    cause,
                },
            ),
            Arrival::Readable(parcel) => {
                // The window bounds what lies in the channel; a closed one is seen at `words`.
                let full = self.parcels.as_ref().is_some_and(|parcels| {
                    matches!(
                        parcels.try_send(*parcel),
                        Err(mpsc::error::TrySendError::Full(_))
                    )
                });
                if full {
                    debug_assert!(false, "a channel smaller than the credit");
                    self.end(Refusal::new(
                        RefusalReason::Credit,
                        "the receiver has no room for a parcel within the credit",
                    ));
                }
            }
        }
    }
}

/// Serves a control stream: every canary comes back.
pub(super) async fn serve_control(
    port: &Port,
    peer: Peer,
    mut body: Incoming,
    out: mpsc::Sender<Bytes>,
) {
    let mut decoder = Decoder::new(0);
    loop {
        let refusal = match decoder.frame() {
            Ok(Some(Frame::Canary(canary))) => match &peer {
                Peer::Certified { unit, .. } if *unit != canary.unit => Refusal::new(
                    RefusalReason::WrongUnit,
                    format!(
                        "the peer says it is unit {}, its certificate says {unit}",
                        canary.unit
                    ),
                ),
                Peer::Certified { .. } | Peer::Unproven | Peer::Local => {
                    let Ok(echo) = Frame::CanaryEcho(echo(port, &canary)).encode() else {
                        return;
                    };
                    if out.send(echo).await.is_err() {
                        return;
                    }
                    continue;
                }
            },
            Ok(Some(_)) => Refusal::new(
                RefusalReason::Garbage,
                "a frame that has no place in a control stream",
            ),
            Err(error) => Refusal::new(RefusalReason::Garbage, chain(&error)),
            Ok(None) => match next_piece(&mut body).await {
                Some(Ok(piece)) => {
                    decoder.push(&piece);
                    continue;
                }
                Some(Err(_)) | None => return,
            },
        };
        port.refuse(&refusal);
        if let Ok(frame) = Frame::Refusal(refusal).encode() {
            let _ = out.send(frame).await;
        }
        return;
    }
}

fn echo(port: &Port, canary: &Canary) -> Canary {
    let standing = port.standing.borrow();
    let asks = (&canary.lineage, canary.epoch);
    let mut granter = port.granter.lock();
    let leave = granter.grants(&canary.unit, asks, standing.as_deref(), boottime());
    let (lineage, epoch) = match standing.as_deref() {
        Some(standing) => (standing.lineage.clone(), standing.epoch),
        None => (Lineage::default(), Epoch::default()),
    };
    Canary {
        sent_nanos: canary.sent_nanos,
        lineage,
        epoch,
        unit: port.here.unit.clone(),
        gateway: port.here.gateway.clone(),
        leave,
    }
}
