//! What the verifier and the watch over an issuer say to each other. One for each issuer that is watched; it outlives reloads.

use super::ceiling::Ceiling;
use crate::users::UserId;
use std::sync::Arc;
use tokio::sync::{broadcast, mpsc, oneshot};

/// The verifier's end.
#[derive(Debug, Clone)]
pub struct Link {
    hints: broadcast::Sender<Hint>,
    questions: mpsc::Sender<SignInQuestion>,
    rereads: mpsc::Sender<UserId>,
    ceiling: Arc<Ceiling>,
}

/// The watch's end.
#[derive(Debug)]
pub struct WatchEnd {
    /// Reasons to ask about tokens in use now: send to it.
    pub hints: broadcast::Sender<Hint>,
    /// Users of whom it matters whether they signed in again, each to be answered soon.
    pub questions: mpsc::Receiver<SignInQuestion>,
    /// Users one of whose tokens the issuer calls inactive: to be read again, by a call that begins after this.
    pub rereads: mpsc::Receiver<UserId>,
    /// Under which every call to the issuer about users is made: [`Ceiling::begin_read`].
    pub ceiling: Arc<Ceiling>,
}

/// Something happened at the issuer: tokens in use are to be asked about by calls that begin now.
#[derive(Debug, Clone)]
pub enum Hint {
    /// To a user.
    Reintrospect(UserId),
    /// Perhaps to everybody.
    ReintrospectAll,
}

/// Did the user sign in again since the block was lifted? What is found is told to [`crate::users::Users`] before the reply.
#[derive(Debug)]
pub struct SignInQuestion {
    /// Who.
    pub user: UserId,
    /// Where to say that it was looked for.
    pub reply: oneshot::Sender<SignInReply>,
}

/// How it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignInReply {
    /// What there is to know is told.
    Looked,
    /// The issuer did not say.
    Unreachable,
}

/// Hints that may wait; whoever misses some asks about all tokens.
const HINTS: usize = 1024;

/// Questions that may wait.
const QUESTIONS: usize = 1024;

impl Link {
    /// Both ends, over one ceiling of so many calls a second.
    pub fn new(most_calls: u32) -> (Self, WatchEnd) {
        let hints = broadcast::Sender::new(HINTS);
        let (questions, asked) = mpsc::channel(QUESTIONS);
        let (rereads, wanted) = mpsc::channel(QUESTIONS);
        let ceiling = Arc::new(Ceiling::new(most_calls));
        let end = WatchEnd { hints: hints.clone(), questions: asked, rereads: wanted, ceiling: Arc::clone(&ceiling) };
        (Self { hints, questions, rereads, ceiling }, end)
    }

    /// Where to send reasons to ask about tokens in use.
    pub fn hints(&self) -> &broadcast::Sender<Hint> {
        &self.hints
    }

    /// The ceiling of calls to the issuer.
    pub fn ceiling(&self) -> &Arc<Ceiling> {
        &self.ceiling
    }

    /// Has a user read again. Where the watch is behind with that, it reads all of them soon enough.
    pub(super) fn reread(&self, user: &UserId) {
        let _ = self.rereads.try_send(user.clone());
    }

    /// Has the watch look for a user's sign-in. `None` if no watch answers.
    pub(super) async fn ask_for_sign_in(&self, user: &UserId) -> Option<SignInReply> {
        let (reply, answer) = oneshot::channel();
        self.questions.send(SignInQuestion { user: user.clone(), reply }).await.ok()?;
        answer.await.ok()
    }
}
