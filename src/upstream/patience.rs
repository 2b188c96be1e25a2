//! How long an upstream, or a client that is still sending, is waited for.

use crate::base::tick::Deadline;
use crate::upstream::{RequestBodyError, SendError};
use std::task::{Context, Poll};
use std::time::Duration;

/// Who is being waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waiting {
    /// The client, for the rest of the request's body.
    Client,
    /// The upstream, to take more of the request.
    Upstream,
    /// The upstream, for its answer: the request has been sent whole.
    Answer,
}

/// The time limits of one request until the head of its answer.
///
/// While the request is being sent, what counts is the time without progress: a long upload is not an error.
/// Once it is sent, one deadline runs, which interim responses do not restart.
#[derive(Debug)]
pub(super) struct Patience {
    response: Duration,
    idle: Duration,
    armed: Option<Armed>,
}

#[derive(Debug)]
struct Armed {
    waiting: Waiting,
    sent: u64,
    deadline: Deadline,
}

impl Patience {
    /// `response` bounds what the upstream may take, `idle` what the client may.
    pub(super) fn new(response: Duration, idle: Duration) -> Self {
        Self { response, idle, armed: None }
    }

    /// Called when nothing more can be done now: ready when that has lasted too long. `sent` is the number of
    /// bytes of the request that have been sent; a change of it is progress.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, waiting: Waiting, sent: u64) -> Poll<SendError> {
        if !self.armed.as_ref().is_some_and(|armed| armed.waiting == waiting && armed.sent == sent) {
            let limit = if waiting == Waiting::Client { self.idle } else { self.response };
            self.armed = Some(Armed { waiting, sent, deadline: Deadline::after(limit) });
        }
        let Some(armed) = &mut self.armed else { return Poll::Pending };
        armed.deadline.poll(cx).map(|()| match armed.waiting {
            Waiting::Client => SendError::RequestBody(RequestBodyError::Idle(self.idle)),
            Waiting::Upstream | Waiting::Answer => SendError::Timeout(self.response),
        })
    }
}
