//! What the verifier and the watch over an issuer say to each other. One for each issuer that is watched; it outlives reloads.

use super::ceiling::Ceiling;
use super::news::Bulletin;
use crate::users::UserId;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{broadcast, mpsc, oneshot};

/// The links of all issuers, by name. One a process.
#[derive(Debug, Default)]
pub struct Links {
    by_issuer: Mutex<HashMap<String, Link>>,
    bulletin: Arc<Bulletin>,
}

/// The verifier's end.
#[derive(Debug, Clone)]
pub struct Link {
    hints: broadcast::Sender<Hint>,
    ceiling: Arc<Ceiling>,
    watch: Arc<Mutex<Option<ToWatch>>>,
    bulletin: Arc<Bulletin>,
}

/// The ways to a watch that is there, or was.
#[derive(Debug, Clone)]
struct ToWatch {
    questions: mpsc::Sender<SignInQuestion>,
    rereads: mpsc::Sender<UserId>,
}

/// The watch's end.
#[derive(Debug)]
pub struct WatchEnd {
    /// Reasons to ask about tokens in use now: send to it.
    pub hints: broadcast::Sender<Hint>,
    /// Sessions of which it matters when they began: one question for each request that waits, each to be answered soon.
    pub questions: mpsc::Receiver<SignInQuestion>,
    /// Users one of whose tokens the issuer calls inactive: to be read again, by a call that begins after this.
    pub rereads: mpsc::Receiver<UserId>,
    /// Under which single users are asked about: [`Ceiling::begin_read`].
    pub ceiling: Arc<Ceiling>,
    /// Where to tell what matters to tokens that are kept.
    pub bulletin: Arc<Bulletin>,
}

/// Something happened at the issuer: tokens in use are to be asked about by calls that begin now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hint {
    /// To a user.
    Reintrospect(UserId),
    /// A session ended: its tokens are refused from now on, and whoever listens is told whose it was.
    SessionEnded {
        /// The NAME of `[issuer.NAME]`.
        issuer: Arc<str>,
        /// `sid`.
        session: String,
    },
    /// Perhaps to everybody of an issuer.
    ReintrospectAll {
        /// The NAME of `[issuer.NAME]`.
        issuer: Arc<str>,
    },
}

/// Did this session of a user begin since their block was lifted? What is found is told to [`crate::users::Users`] before the reply.
#[derive(Debug)]
pub struct SignInQuestion {
    /// Who.
    pub user: UserId,
    /// `sid` of a token that came.
    pub session: String,
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

impl Links {
    /// The link of an issuer, which is made when first asked for; from now on at most so many calls a second are made to it.
    pub fn of(&self, issuer: &str, most_calls: u32) -> Link {
        let mut links = self.by_issuer.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Link::new(most_calls, Arc::clone(&self.bulletin));
        let link = links.entry(issuer.to_owned()).or_insert_with(new);
        link.ceiling.set_most(most_calls);
        link.clone()
    }

    /// The link of an issuer, if its users are asked about.
    pub fn get(&self, issuer: &str) -> Option<Link> {
        self.by_issuer.lock().unwrap_or_else(PoisonError::into_inner).get(issuer).cloned()
    }

    /// What is told to whoever keeps users' tokens, and what they keep.
    pub fn bulletin(&self) -> &Arc<Bulletin> {
        &self.bulletin
    }

    /// Passes a hint on to whoever asks about tokens of its issuer.
    pub fn hint(&self, hint: Hint) {
        let issuer = match &hint {
            Hint::Reintrospect(user) => user.issuer(),
            Hint::SessionEnded { issuer, .. } | Hint::ReintrospectAll { issuer } => issuer,
        };
        if let Some(link) = self.get(issuer) {
            // Without a verifier there are no tokens in use.
            let _ = link.hints.send(hint);
        }
    }
}

impl Link {
    /// A link over a ceiling of so many calls a second, without a watch.
    fn new(most_calls: u32, bulletin: Arc<Bulletin>) -> Self {
        Self {
            bulletin,
            hints: broadcast::Sender::new(HINTS),
            ceiling: Arc::new(Ceiling::new(most_calls)),
            watch: Arc::default(),
        }
    }

    /// The end of a watch that begins. A former watch is asked nothing any more; without one, nobody is.
    pub fn watch_end(&self) -> WatchEnd {
        let (questions, asked) = mpsc::channel(QUESTIONS);
        let (rereads, wanted) = mpsc::channel(QUESTIONS);
        *self.watch.lock().unwrap_or_else(PoisonError::into_inner) = Some(ToWatch { questions, rereads });
        let ceiling = Arc::clone(&self.ceiling);
        let bulletin = Arc::clone(&self.bulletin);
        WatchEnd { hints: self.hints.clone(), questions: asked, rereads: wanted, ceiling, bulletin }
    }

    /// Where to send reasons to ask about tokens in use.
    pub fn hints(&self) -> &broadcast::Sender<Hint> {
        &self.hints
    }

    /// Where to tell what matters to tokens that are kept.
    pub(super) fn bulletin(&self) -> &Bulletin {
        &self.bulletin
    }

    /// The ceiling of calls to the issuer.
    pub fn ceiling(&self) -> &Arc<Ceiling> {
        &self.ceiling
    }

    /// Has a user read again. Where the watch is behind with that, it reads all of them soon enough.
    pub fn reread(&self, user: UserId) {
        if let Some(watch) = self.watch() {
            let _ = watch.rereads.try_send(user);
        }
    }

    /// Has the watch look for a user's sign-in. `None` if no watch answers.
    pub(super) async fn ask_for_sign_in(&self, user: UserId, session: String) -> Option<SignInReply> {
        let (reply, answer) = oneshot::channel();
        self.watch()?.questions.send(SignInQuestion { user, session, reply }).await.ok()?;
        answer.await.ok()
    }

    fn watch(&self) -> Option<ToWatch> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
