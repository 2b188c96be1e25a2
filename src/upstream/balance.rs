//! A request to an upstream that has several endpoints, or `retry`, or limits: which endpoint it goes to, and where it goes next when
//! that fails.
//!
//! A request that no endpoint has seen, because no connection could be made, goes on to the next endpoint whatever it is. One that an
//! endpoint may have seen is sent again only with `retry`, if it is idempotent and its body is at hand, and only before anything of an
//! answer was passed on.

use crate::base::tick::{self, Deadline, TICK};
use crate::upstream::connect::ConnectError;
use crate::upstream::group::{Group, Tried};
use crate::upstream::patience::Patience;
use crate::upstream::pool::{Failed, Pool, is_idempotent};
use crate::upstream::pools::Worker;
use crate::upstream::request::{OutgoingRequest, Payload};
use crate::upstream::{Answer, Failure, SendError, Upstream, limits};
use http::HeaderMap;
use std::rc::Rc;
use std::time::Duration;

/// The tries of one request.
struct Tries<'a> {
    upstream: &'a Upstream,
    group: Rc<Group>,
    worker: &'a Worker,
    response_timeout: Duration,
    /// In ticks.
    began: u64,
    tried: Tried,
    retries: u32,
    may_repeat: bool,
}

/// What follows a try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// Its outcome is that of the request.
    Done,
    /// No connection was made: the next endpoint.
    Failover,
    /// It is sent again.
    Retry,
}

/// Sends a request, with as many tries as are safe and worth it.
pub(super) async fn send(
    worker: &Worker,
    upstream: &Upstream,
    group: Rc<Group>,
    request: &OutgoingRequest<'_>,
    mut payload: Payload,
    answer_fields: &mut HeaderMap,
    response_timeout: Duration,
) -> Result<Answer, SendError> {
    if let Some(budget) = &upstream.shared.budget {
        budget.deposit();
    }
    let may_repeat = is_idempotent(request.method) && payload.is_replayable();
    let (tried, began) = (Tried::default(), tick::count());
    let mut tries = Tries { upstream, group, worker, response_timeout, began, tried, retries: 0, may_repeat };
    let mut place = tries.group.pick(worker, tried).ok_or(SendError::Unavailable)?;
    loop {
        tries.tried.add(place);
        let pool = Rc::clone(&tries.group.pools[place]);
        let outcome = tries.once(&pool, request, &mut payload, answer_fields).await;
        tries.judge(&pool, &outcome);
        let next = tries.next(&outcome);
        if next == Next::Done {
            return outcome.map_err(|failed| failed.error);
        }
        let Some(other) = tries.place(next).await else { return outcome.map_err(|failed| failed.error) };
        place = other;
        // With it goes the connection, if there was an answer.
        drop(outcome);
        answer_fields.clear();
    }
}

impl Tries<'_> {
    /// One try. The first has the time of any request; those after it have what is left.
    async fn once(
        &self,
        pool: &Rc<Pool>,
        request: &OutgoingRequest<'_>,
        payload: &mut Payload,
        answer_fields: &mut HeaderMap,
    ) -> Result<Answer, Failed> {
        let config = &*self.upstream.config;
        let per_try = config.retry.as_ref().and_then(|retry| retry.per_try_timeout).filter(|_| self.may_repeat);
        let left = self.left();
        let response = per_try.unwrap_or(left).min(left);
        let mut patience = Patience::new(response, config.idle_timeout);
        let host = if config.targets.len() > 1 { &pool.endpoint.host } else { request.host };
        let request = OutgoingRequest { host, ..*request };
        let sent = pool.send(self.upstream, &request, payload, answer_fields, &mut patience);
        if self.retries == 0 {
            return sent.await;
        }
        let outcome = Deadline::after(left).bound(sent).await;
        outcome.unwrap_or_else(|| Err(SendError::Timeout(self.response_timeout).into()))
    }

    fn spent(&self) -> Duration {
        TICK.saturating_mul(u32::try_from(tick::count() - self.began).unwrap_or(u32::MAX))
    }

    fn left(&self) -> Duration {
        self.response_timeout.saturating_sub(self.spent())
    }

    /// Books the outcome on the endpoint, and ejects it where that was one failure too many.
    fn judge(&self, pool: &Pool, outcome: &Result<Answer, Failed>) {
        let Some(detection) = &self.upstream.config.outlier_detection else { return };
        let endpoint = &pool.endpoint;
        match has_failed(outcome) {
            Some(false) => endpoint.health.succeeded(),
            Some(true) if endpoint.health.failed(detection) => {
                if let Some(time) = self.upstream.endpoints.eject(endpoint, detection) {
                    self.upstream.shared.metrics.ejections.inc();
                    let (name, seconds) = (&self.upstream.config.name, time.as_secs());
                    tracing::warn!(upstream = name, endpoint = %endpoint.address, seconds, "endpoint ejected");
                }
            }
            Some(true) | None => {}
        }
    }

    fn next(&mut self, outcome: &Result<Answer, Failed>) -> Next {
        let is_unsent =
            matches!(outcome, Err(Failed { error: SendError::Unreachable(_) | SendError::ConnectTimeout(_), .. }));
        if is_unsent
            && self.spent() < self.upstream.config.connect_timeout
            && self.group.pick(self.worker, self.tried).is_some()
        {
            return Next::Failover;
        }
        let (Some(retry), Some(budget)) = (&self.upstream.config.retry, &self.upstream.shared.budget) else {
            return Next::Done;
        };
        let is_worth_it = match outcome {
            Ok(Answer::Response { status, .. }) => self.may_repeat && retry.statuses.contains(status),
            Ok(Answer::Switched(_)) => false,
            // A try that took all the time there is leaves none.
            Err(Failed { error: SendError::Timeout(_), .. }) => self.may_repeat,
            // Nothing of a head is passed on before it is whole, so it makes no difference how much of it came.
            Err(Failed { error: SendError::Failed(Failure::Io(_) | Failure::Closed | Failure::Head(_)), .. }) => {
                self.may_repeat
            }
            Err(Failed { before_answer, .. }) => is_unsent || (self.may_repeat && *before_answer),
        };
        if !is_worth_it || self.retries >= retry.max_retries || self.left().is_zero() {
            return Next::Done;
        }
        let metrics = &self.upstream.shared.metrics;
        if !budget.withdraw() {
            metrics.retries_denied.inc();
            return Next::Done;
        }
        metrics.retries.inc();
        self.retries += 1;
        Next::Retry
    }

    /// Where the next try goes: to an endpoint that was not tried; else, after a while, to any.
    async fn place(&mut self, next: Next) -> Option<usize> {
        if let Some(place) = self.group.pick(self.worker, self.tried) {
            return Some(place);
        }
        if next == Next::Failover {
            return None;
        }
        self.tried = Tried::default();
        let most = limits::backoff(self.retries - 1);
        let part = u32::try_from(self.worker.random() % 512).unwrap_or(0) + 512;
        tokio::time::sleep(most * part / 1024).await;
        self.group.pick(self.worker, self.tried)
    }
}

/// Whether a try failed for a reason that lies with the endpoint; `None` if it says nothing about it.
fn has_failed(outcome: &Result<Answer, Failed>) -> Option<bool> {
    match outcome {
        Ok(Answer::Response { status, .. }) => Some(status.is_server_error()),
        Ok(Answer::Switched(_)) => Some(false),
        Err(failed) => match &failed.error {
            // One connection that was not made is one failure, however many requests waited for it.
            SendError::Unreachable(ConnectError::Shared) => None,
            SendError::Unreachable(_) | SendError::ConnectTimeout(_) | SendError::Timeout(_) | SendError::Failed(_) => {
                Some(true)
            }
            SendError::RequestBody(_) | SendError::Overloaded(_) | SendError::Unavailable => None,
        },
    }
}
