//! Which token an issuer is asked about next: first sights, each user in turn, and tokens in use before their answers are too old.
//!
//! All of it happens on the control plane. [`Verifier::want`] brings a token that a request waits for; [`Verifier::tasks`] are the
//! loops that look at the clock and hear hints. Every call begins in [`Verifier::pump`], under the issuer's ceiling.

use super::ask::Answered;
use super::ceiling::{Kind, Permit};
use super::fair::{FairQueue, Who};
use super::in_use::{Begun, InUse};
use super::link::Hint;
use super::opaque::Stranger;
use super::source::{Asking, Numbers, RETRY_AFTER_MS, Source};
use super::verifier::{VerifiedToken, Verifier};
use crate::base::clock::Now;
use crate::users::Cause;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;

/// What waits for calls to one issuer.
#[derive(Debug)]
pub(super) struct Calls {
    known: FairQueue<Arc<VerifiedToken>>,
    strangers: FairQueue<Arc<Stranger>>,
    is_strangers_turn: bool,
    in_use: InUse<Arc<VerifiedToken>>,
    /// Calls a second that a user's tokens in use may take before those of others.
    share: u32,
    /// A token in use is being asked about although the last call failed.
    is_probing: bool,
}

/// What a call is about.
enum Subject {
    Token(Arc<VerifiedToken>),
    Stranger(Arc<Stranger>),
}

/// A call that may begin.
struct Start {
    subject: Subject,
    begun: Begun,
    permit: Permit,
    is_probe: bool,
}

/// How often the clock is looked at while tokens are in use.
const TICK: Duration = Duration::from_millis(100);

impl Calls {
    pub(super) fn new(most_calls: u32) -> Self {
        // More than can be asked about while their requests wait would wait in vain.
        let room = (most_calls as usize * 2).clamp(256, 8192);
        Self {
            known: FairQueue::new(room),
            strangers: FairQueue::new(room / 4),
            is_strangers_turn: false,
            in_use: InUse::new(),
            share: (most_calls / 8).max(1),
            is_probing: false,
        }
    }

    /// Forgets all of it.
    pub(super) fn clear(&mut self) {
        while let Some(stranger) = self.strangers.pop() {
            stranger.give_up();
        }
        while self.known.pop().is_some() {}
        self.in_use = InUse::new();
    }

    /// All but the use of the ceiling.
    pub(super) fn numbers(&self, now: Now) -> Numbers {
        let age_ms = self.in_use.tokens().filter_map(|token| token.age_ms(now)).max();
        Numbers {
            in_use: self.in_use.tokens().count() as u64,
            first_sights: (self.known.len() + self.strangers.len()) as u64,
            revalidations: self.in_use.waiting(now.monotonic_ms) as u64,
            age_ms: age_ms.unwrap_or(0),
            ..Numbers::default()
        }
    }

    /// The next call, or after how long there may be one.
    fn next(&mut self, source: &Source, asking: &Asking, now: Now) -> Result<Start, Duration> {
        let mut after = TICK;
        for _ in 0..2 {
            self.is_strangers_turn = !self.is_strangers_turn;
            let kind = if self.is_strangers_turn { Kind::Stranger } else { Kind::FirstSight };
            match self.first_sight(kind, asking, now) {
                Ok(Some(start)) => return Ok(start),
                Ok(None) => {}
                Err(until) => after = after.min(until),
            }
        }
        let left_alone = source.left_alone_until_ms();
        if left_alone.is_some_and(|until| self.is_probing || now.monotonic_ms < until) {
            // One call finds out whether it answers again; the others wait for that.
            return Err(after);
        }
        if let Err(until) = asking.ceiling().may_begin(Kind::Revalidation) {
            return Err(after.min(until));
        }
        while let Some((place, token)) = self.next_in_use(asking, now) {
            // A request may be about to bring it.
            if token.status.is_asking.swap(true, Ordering::AcqRel) {
                self.in_use.retry(place, now.monotonic_ms.saturating_add(RETRY_AFTER_MS));
                continue;
            }
            let Ok(permit) = asking.ceiling().try_begin(Kind::Revalidation) else {
                token.status.is_asking.store(false, Ordering::Release);
                self.in_use.retry(place, now.monotonic_ms);
                return Err(after.min(Duration::from_millis(10)));
            };
            let is_probe = left_alone.is_some();
            self.is_probing |= is_probe;
            return Ok(Start { subject: Subject::Token(token), begun: self.in_use.begin(), permit, is_probe });
        }
        let due =
            self.in_use.next_due_ms().map(|due_ms| Duration::from_millis(due_ms.saturating_sub(now.monotonic_ms)));
        Err(due.map_or(after, |due| after.min(due.max(Duration::from_millis(1)))))
    }

    fn next_in_use(&mut self, asking: &Asking, now: Now) -> Option<(super::in_use::Place, Arc<VerifiedToken>)> {
        self.in_use.next(now.monotonic_ms, self.share, |token| {
            let is_wanted = token.is_in_use(asking, now);
            if !is_wanted {
                token.set_place(None);
            }
            is_wanted
        })
    }

    /// A first sight, if one waits that somebody still waits for.
    fn first_sight(&mut self, kind: Kind, asking: &Asking, now: Now) -> Result<Option<Start>, Duration> {
        let is_empty = if kind == Kind::Stranger { self.strangers.len() == 0 } else { self.known.len() == 0 };
        if is_empty {
            return Ok(None);
        }
        asking.ceiling().may_begin(kind)?;
        let is_wanted = |until_ms: u64| until_ms >= now.monotonic_ms;
        let subject = loop {
            if kind == Kind::Stranger {
                let Some(stranger) = self.strangers.pop() else { return Ok(None) };
                if is_wanted(stranger.wanted_ms.load(Ordering::Relaxed)) {
                    break Subject::Stranger(stranger);
                }
                stranger.give_up();
            } else {
                let Some(token) = self.known.pop() else { return Ok(None) };
                if is_wanted(token.status.wanted_ms.load(Ordering::Relaxed)) {
                    break Subject::Token(token);
                }
                self.put_off(&token, now);
            }
        };
        match asking.ceiling().try_begin(kind) {
            Ok(permit) => Ok(Some(Start { subject, begun: self.in_use.begin(), permit, is_probe: false })),
            Err(after) => {
                // Another configuration's calls took it between the two. The next request asks again.
                match subject {
                    Subject::Token(token) => self.put_off(&token, now),
                    Subject::Stranger(stranger) => stranger.give_up(),
                }
                Err(after)
            }
        }
    }

    /// A token is not asked about now; whoever waits for it hears nothing.
    fn put_off(&mut self, token: &Arc<VerifiedToken>, now: Now) {
        if let Some(place) = token.place() {
            self.in_use.retry(place, now.monotonic_ms);
        }
        token.status.is_asking.store(false, Ordering::Release);
        token.status.answered.notify_waiters();
    }

    /// Adds a token that a former verifier asked about.
    pub(super) fn take_over(&mut self, token: &Arc<VerifiedToken>, asked_ms: u64, asking: &Asking) {
        if token.place().is_none() {
            let begun = self.in_use.begin();
            self.put(token, begun, asked_ms, asking);
            self.in_use.end(begun);
        }
    }

    /// Gives a token its place, in which it waits for the next question.
    fn put(&mut self, token: &Arc<VerifiedToken>, begun: Begun, asked_ms: u64, asking: &Asking) {
        let user = token.status.user.get().map(|user| Arc::clone(&user.subject));
        let place = token.place().or_else(|| Some(self.in_use.add(user?, Arc::clone(token))));
        token.set_place(place);
        if let Some(place) = place {
            self.in_use.again(place, begun, due_ms(asked_ms, asking.bound_ms, begun));
        }
    }

    /// Puts a token that was asked about in its place.
    fn ended(&mut self, token: &Arc<VerifiedToken>, begun: Begun, answered: Answered, asking: &Asking, now: Now) {
        let place = token.place();
        match answered {
            Answered::Active { asked_ms } => self.put(token, begun, asked_ms, asking),
            Answered::Ended => {
                if let Some(place) = place {
                    self.in_use.remove(place);
                }
                token.set_place(None);
            }
            Answered::Failed => {
                if let Some(place) = place {
                    self.in_use.retry(place, now.monotonic_ms.saturating_add(RETRY_AFTER_MS));
                }
            }
        }
        self.in_use.end(begun);
    }
}

/// When an answer is to be replaced: after six to seven and a half tenths of the bound, so that tokens that came together do not stay so.
fn due_ms(asked_ms: u64, bound_ms: u64, begun: Begun) -> u64 {
    let spread = begun.mixed() % 1000;
    asked_ms.saturating_add(bound_ms.saturating_mul(600 + spread * 150 / 1000) / 1000)
}

impl Verifier {
    /// The loops of this verifier, to be run on the control plane; they end with the verifier.
    pub fn tasks(self: &Arc<Self>) -> impl Iterator<Item = impl Future<Output = ()> + Send + 'static> {
        let asked = self.sources.iter().filter(|source| source.status.is_some());
        asked.map(|source| run(Arc::downgrade(self), Arc::clone(source)))
    }

    /// Brings a token that a request waits for; its `is_asking` was set for this.
    pub(super) fn want(self: &Arc<Self>, token: Arc<VerifiedToken>) {
        let Some(asking) = &token.source.status else { return };
        let who = match (token.status.user.get(), &token.facts.session) {
            (Some(user), _) => Who::User(Arc::clone(&user.subject)),
            (None, Some(session)) => Who::Session(session.as_str().into()),
            (None, None) => Who::Anybody,
        };
        let mut calls = asking.calls();
        if let Some(place) = token.place() {
            calls.in_use.taken(place);
        }
        if let Err(token) = calls.known.push(who, Arc::clone(&token)) {
            self.counts.crowded.fetch_add(1, Ordering::Relaxed);
            calls.put_off(&token, self.clock.now());
        }
        drop(calls);
        self.pump(&token.source);
        asking.wake.notify_one();
    }

    /// Brings an opaque token that a request waits for.
    pub(super) fn want_stranger(self: &Arc<Self>, stranger: Arc<Stranger>) {
        let source = Arc::clone(&stranger.source);
        let Some(asking) = &source.status else { return };
        let pushed = asking.calls().strangers.push(Who::at(stranger.client), stranger);
        if let Err(stranger) = pushed {
            self.counts.crowded.fetch_add(1, Ordering::Relaxed);
            stranger.give_up();
        }
        self.pump(&source);
        asking.wake.notify_one();
    }

    /// Begins every call that may begin now; after how long to look again.
    fn pump(self: &Arc<Self>, source: &Arc<Source>) -> Duration {
        let Some(asking) = &source.status else { return TICK };
        loop {
            let next = asking.calls().next(source, asking, self.clock.now());
            match next {
                Ok(start) => {
                    let (verifier, source) = (Arc::clone(self), Arc::clone(source));
                    self.control.spawn(async move { verifier.call(&source, start).await });
                }
                Err(after) => return after,
            }
        }
    }

    async fn call(self: Arc<Self>, source: &Arc<Source>, start: Start) {
        let Some(asking) = &source.status else { return };
        let Start { subject, begun, permit, is_probe } = start;
        let (token, answered) = match subject {
            Subject::Token(token) => {
                let answered = self.ask(&token, asking).await;
                (Some(token), answered)
            }
            Subject::Stranger(stranger) => self.meet(&stranger).await,
        };
        {
            let mut calls = asking.calls();
            match &token {
                Some(token) => calls.ended(token, begun, answered, asking, self.clock.now()),
                None => calls.in_use.end(begun),
            }
            calls.is_probing &= !is_probe;
        }
        drop(permit);
        if let Some(token) = token {
            token.status.is_asking.store(false, Ordering::Release);
            token.status.answered.notify_waiters();
        }
        self.pump(source);
        asking.wake.notify_one();
    }

    /// Brings tokens forward.
    fn heed(self: &Arc<Self>, asking: &Asking, hint: Result<Hint, RecvError>) {
        let mut calls = asking.calls();
        match hint {
            Ok(Hint::Reintrospect(user)) => calls.in_use.hint(user.subject()),
            Ok(Hint::SessionEnded { session, .. }) => {
                let is_of_it = |token: &VerifiedToken| token.facts.session.as_deref() == Some(&session);
                calls.in_use.hint_for(|token| is_of_it(token));
                drop(calls);
                // The issuer named the session alone; whose it was its tokens say, those that were found inactive before this came too.
                let token = self.cache().find(is_of_it);
                if let Some(user) = token.and_then(|token| token.status.user.get()?.id())
                    && let Err(error) = self.users.end_session_of(&user, session, Cause::SessionGone)
                {
                    tracing::error!(%error, "the end of a session cannot be stored");
                }
            }
            // Whoever missed hints does not know whom they were about.
            Ok(Hint::ReintrospectAll { .. }) | Err(RecvError::Lagged(_)) => calls.in_use.hint_for_all(),
            Err(RecvError::Closed) => {}
        }
    }

    /// How asking each issuer goes.
    pub fn numbers(&self) -> impl Iterator<Item = (&str, Numbers)> {
        let now = self.clock.now();
        self.sources.iter().filter_map(move |source| Some((source.issuer.config().name.as_str(), source.numbers(now)?)))
    }
}

/// Looks after one issuer's calls as long as its verifier lives.
async fn run(verifier: Weak<Verifier>, source: Arc<Source>) {
    let Some(asking) = &source.status else { return };
    let mut hints = asking.link.hints().subscribe();
    loop {
        let after = match verifier.upgrade() {
            Some(verifier) => verifier.pump(&source),
            None => return,
        };
        tokio::select! {
            hint = hints.recv() => {
                let Some(verifier) = verifier.upgrade() else { return };
                verifier.heed(asking, hint);
            }
            () = asking.wake.notified() => {}
            () = tokio::time::sleep(after) => {}
        }
    }
}
