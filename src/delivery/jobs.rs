//! What is under way beside the loop, and for whom: so that a job that breaks off leaves nobody busy for ever.

use super::book::Lane;
use super::run::Done;
use crate::users::UserId;
use std::collections::HashMap;
use tokio::task::{Id, JoinError, JoinSet};

/// Jobs. Dropping them ends them.
#[derive(Debug, Default)]
pub(super) struct Jobs {
    set: JoinSet<Done>,
    running: HashMap<Id, Job>,
}

/// What a job does, and for whom.
#[derive(Debug)]
pub(super) enum Job {
    Read(UserId),
    Look(UserId),
    LookAll,
    Settle(UserId),
    Fence(Vec<UserId>),
    Write(Lane, Vec<UserId>),
    Store(Vec<UserId>),
    List,
    Remove(Vec<UserId>),
}

impl Jobs {
    pub(super) fn spawn(&mut self, job: Job, act: impl Future<Output = Done> + Send + 'static) {
        let handle = self.set.spawn(act);
        self.running.insert(handle.id(), job);
    }

    /// What came of the next that ends, or what broke off; waits for ever where there is none.
    pub(super) async fn next(&mut self) -> Result<Done, Job> {
        loop {
            let Some(ended) = self.set.join_next_with_id().await else { return std::future::pending().await };
            if let Some(ended) = self.ended(ended) {
                return ended;
            }
        }
    }

    /// The same of those that have ended already.
    pub(super) fn try_next(&mut self) -> Option<Result<Done, Job>> {
        loop {
            let ended = self.set.try_join_next_with_id()?;
            if let Some(ended) = self.ended(ended) {
                return Some(ended);
            }
        }
    }

    fn ended(&mut self, ended: Result<(Id, Done), JoinError>) -> Option<Result<Done, Job>> {
        match ended {
            Ok((id, done)) => {
                self.running.remove(&id);
                Some(Ok(done))
            }
            Err(error) => {
                tracing::error!(%error, "something about users' tokens broke off");
                self.running.remove(&error.id()).map(Err)
            }
        }
    }
}
