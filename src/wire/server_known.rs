//! The end of a link that is asked what its unit has delivered.
//!
//! Promises that nobody of another life of the space gets an answer, and that an answer which broke off isn't taken for a
//! whole one.

use super::body::{chain, next_piece};
use super::pipe::{KnownPipe, PIECES_CAPACITY};
use super::server::Port;
use crate::link::{Ask, Decoder, Frame, Refusal, RefusalReason};
use bytes::Bytes;
use hyper::body::Incoming;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// How long a question may take to come.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);

/// Answers one question.
pub(super) async fn serve_known(port: &Port, mut body: Incoming, out: mpsc::Sender<Bytes>) {
    let refusal = match timeout(ASK_TIMEOUT, first_ask(&mut body)).await {
        Ok(Ok(ask)) => {
            let lineage = port
                .standing
                .borrow()
                .as_deref()
                .map(|one| one.lineage.clone());
            if lineage.as_ref() == Some(&ask.lineage) {
                return answer(port, ask, &out).await;
            }
            Refusal::new(
                RefusalReason::Lineage,
                "the question is of another life of the space",
            )
        }
        Ok(Err(refusal)) => refusal,
        Err(_) => Refusal::new(
            RefusalReason::HandshakeTimeout,
            format!("no question within {ASK_TIMEOUT:?}"),
        ),
    };
    port.refuse(&refusal);
    if let Ok(frame) = Frame::Refusal(refusal).encode() {
        let _ = out.send(frame).await;
    }
}

async fn answer(port: &Port, ask: Ask, out: &mpsc::Sender<Bytes>) {
    let (answer, mut pieces) = mpsc::channel(PIECES_CAPACITY);
    if port.asked.send(KnownPipe { ask, answer }).await.is_err() {
        return;
    }
    while let Some(records) = pieces.recv().await {
        let Ok(frame) = Frame::Known(records).encode() else {
            return;
        };
        if out.send(frame).await.is_err() {
            return;
        }
    }
}

async fn first_ask(body: &mut Incoming) -> Result<Ask, Refusal> {
    let garbage = |cause: String| Refusal::new(RefusalReason::Garbage, cause);
    let mut decoder = Decoder::new(0);
    loop {
        match decoder.frame() {
            Ok(Some(Frame::Ask(ask))) => return Ok(ask),
            Ok(Some(_)) => return Err(garbage("a frame that is no question".to_owned())),
            Err(error) => return Err(garbage(chain(&error))),
            Ok(None) => match next_piece(body).await {
                Some(Ok(piece)) => decoder.push(&piece),
                Some(Err(error)) => return Err(garbage(chain(&error))),
                None => return Err(garbage("a question that broke off".to_owned())),
            },
        }
    }
}
