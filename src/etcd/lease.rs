//! A lease: what is written under it goes away when its holder does.

use super::error::{Asked, EtcdError};
use etcd_client::{LeaseKeepAliveStream, LeaseKeeper};

/// A lease that this process holds until it runs out.
pub struct Lease {
    id: i64,
    keeper: LeaseKeeper,
    answers: LeaseKeepAliveStream,
    asked: Asked,
}

impl Lease {
    pub(super) fn new(
        id: i64,
        keeper: LeaseKeeper,
        answers: LeaseKeepAliveStream,
        asked: Asked,
    ) -> Self {
        Self {
            id,
            keeper,
            answers,
            asked,
        }
    }

    /// Renews it. `LeaseLost`: it had run out, and all under it is gone; grant another.
    pub async fn renew(&mut self) -> Result<(), EtcdError> {
        let (keeper, answers) = (&mut self.keeper, &mut self.answers);
        let renewal = async {
            keeper.keep_alive().await?;
            answers.message().await
        };
        match self.asked.call("renewing a lease", renewal).await? {
            Some(answer) if answer.ttl() > 0 => Ok(()),
            Some(_) | None => Err(EtcdError::LeaseLost {
                endpoint: self.asked.endpoint.clone(),
            }),
        }
    }

    pub(super) fn id(&self) -> i64 {
        self.id
    }
}
