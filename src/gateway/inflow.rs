//! Whether a source's exchange still fills what is taken of it.
//!
//! A binding goes with its exchange, and nothing in AMQP tells: the lane would wait for ever beside an exchange that was
//! deleted and declared again. So the source's task makes the bindings again at each look, and this remembers what came of
//! it. Promises that what hinders them is a fault on the status page and one line in the log. Never talks to a broker.

use super::status::StatusHub;
use crate::broker::DeclareError;
use crate::model::SourceName;

/// What came of the last attempt to bind a source's exchange.
pub(super) struct Inflow {
    subject: String,
    state: State,
}

enum State {
    /// It fills what it should.
    Flows,
    /// Nothing comes of it any more.
    Dry {
        /// Why.
        cause: String,
    },
}

impl Inflow {
    pub(super) fn new(source: &SourceName) -> Self {
        Self {
            subject: format!("inflow of source {source}"),
            state: State::Flows,
        }
    }

    /// Whether it did at the last attempt.
    pub(super) fn flows(&self) -> bool {
        match self.state {
            State::Flows => true,
            State::Dry { .. } => false,
        }
    }

    /// Takes in what came of an attempt.
    pub(super) fn heard(&mut self, status: &StatusHub, bound: Result<(), DeclareError>) {
        let error = match bound {
            Ok(()) => return self.end(status),
            // The broker is away, or the queue has just gone: its lane says so.
            Err(DeclareError::Broker(_) | DeclareError::Busy { .. }) => return,
            Err(
                error @ (DeclareError::NoExchange { .. }
                | DeclareError::NotAllowed { .. }
                | DeclareError::NoPlugin { .. }
                | DeclareError::Different { .. }),
            ) => error,
        };
        let cause = error.to_string();
        if let State::Dry { cause: said } = &self.state
            && *said == cause
        {
            return;
        }
        let subject = &self.subject;
        tracing::warn!(%subject, %cause, "nothing is taken in: its publishers' messages go nowhere");
        let mend = "mend what the message names; the bindings are made again within seconds";
        status.set_fault(subject, cause.clone(), mend);
        self.state = State::Dry { cause };
    }

    /// All is well, or the source isn't taken any more.
    pub(super) fn end(&mut self, status: &StatusHub) {
        match self.state {
            State::Flows => {}
            State::Dry { .. } => {
                tracing::info!(subject = %self.subject, "it flows again");
                status.clear_fault(&self.subject);
                self.state = State::Flows;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{GatewayId, SpaceId, UnitId};

    fn missing() -> Result<(), DeclareError> {
        Err(DeclareError::NoExchange {
            exchange: "orders".to_owned(),
            vhost: "/".to_owned(),
        })
    }

    #[test]
    fn a_missing_exchange_is_a_fault_until_it_is_bound_again() {
        let status = StatusHub::new(
            SpaceId::parse("t").unwrap(),
            UnitId::parse("sh-1").unwrap(),
            GatewayId::parse("sh-1-a").unwrap(),
        );
        let mut inflow = Inflow::new(&SourceName::parse("orders").unwrap());
        for _ in 0..2 {
            inflow.heard(&status, missing());
            let faults = status.snapshot().faults;
            assert_eq!(faults.len(), 1);
            assert!(faults[0].message.contains("declare it"), "{faults:?}");
        }
        let busy = DeclareError::Busy {
            text: String::new(),
        };
        inflow.heard(&status, Err(busy));
        assert_eq!(status.snapshot().faults.len(), 1, "nothing is known anew");
        inflow.heard(&status, Ok(()));
        assert!(status.snapshot().faults.is_empty());
    }
}
