//! What is heard: decisions about users, who signed in, who changed, who asks for their token.

use super::book::Book;
use super::{Delivery, Roster};
use crate::base::clock::Now;
use crate::identity::{KeptToken, News, NoToken};
use crate::users::{Decision, Kind, State, Target, Tokens, UserId};
use std::sync::Arc;

/// The most who wait for the token of one user.
const MOST_WAITERS: usize = 64;

impl<R: Roster> Delivery<R> {
    /// A decision: whoever it may concern is planned for anew.
    pub(super) fn take_up_decision(&self, book: &mut Book, decision: &Decision) {
        match &decision.target {
            Target::User(user) => {
                if decision.kind == Kind::SignIn {
                    self.note_sign_in(book, user);
                }
                book.wake(user);
            }
            Target::Tokens { issuer, tokens: Tokens::User { subject, .. } } => {
                if let Some(user) = UserId::new(Arc::clone(issuer), subject.as_str()) {
                    book.wake(&user);
                }
            }
            // Of one session or token: what is kept for the user is bound to neither.
            Target::Tokens { tokens: Tokens::Id(_) | Tokens::Session(_), .. } => {}
            Target::Tokens { tokens: Tokens::All { .. }, .. } | Target::Issuer(_) | Target::Cluster => book.wake_all(),
        }
    }

    pub(super) fn take_up_news(&self, book: &mut Book, news: News, now: Now) {
        match news {
            News::Created(user) if self.is_ours(&user) => {
                book.entry(&user).user.live.doubted_ms = Some(now.monotonic_ms);
                book.wake(&user);
            }
            News::SignedIn(user) if self.is_ours(&user) => self.note_sign_in(book, &user),
            News::Changed(user) if self.is_ours(&user) => {
                // Who is known is not read yet when a replica begins.
                let is_unread = book.is_shared && !book.followed.is_restored;
                if is_unread || book.users.contains_key(&user) {
                    book.entry(&user).user.live.doubted_ms = Some(now.monotonic_ms);
                    book.wake(&user);
                }
            }
            News::Swept { issuer, began_ms } if issuer == self.settings.issuer => {
                book.issuer.heard_ms = book.issuer.heard_ms.max(Some(began_ms));
                self.bulletin.hear(&issuer, began_ms);
            }
            News::Wanted { user, reply } if self.is_ours(&user) => match self.kept_now(&user, now) {
                Some(kept) => drop(reply.send(Ok(kept))),
                // Another replica makes it.
                None if book.is_shared && !book.leads => drop(reply.send(Err(NoToken::NotNow))),
                None => {
                    let waiters = book.waiters.entry(user.clone()).or_default();
                    waiters.retain(|waiter| !waiter.is_closed());
                    if waiters.len() < MOST_WAITERS {
                        waiters.push(reply);
                    }
                    book.wake(&user);
                }
            },
            News::Wanted { reply, .. } => drop(reply.send(Err(NoToken::NoNamespace))),
            News::Created(_) | News::Changed(_) | News::SignedIn(_) | News::Swept { .. } => {}
        }
    }

    /// The token that is kept for a user, if it is as good as one that is made now.
    fn kept_now(&self, user: &UserId, now: Now) -> Option<Arc<KeptToken>> {
        let (state, epoch) = self.users.standing(user, now);
        self.bulletin.kept(user).filter(|kept| {
            let least = i64::try_from(super::reserve::READER_MS / 1000).unwrap_or(i64::MAX);
            state == State::Active && kept.epoch == epoch && kept.expires - now.unix_seconds() >= least
        })
    }

    /// A user signed in. Whether that counts after a block is not for here to say: [`crate::users::Users`] calls them active then.
    fn note_sign_in(&self, book: &mut Book, user: &UserId) {
        if !self.is_ours(user) {
            return;
        }
        let entry = book.entry(user);
        if !std::mem::replace(&mut entry.user.record.has_signed_in, true) {
            // Of whom nothing is known yet, it is not known either whether there is anything to store.
            if !entry.user.record.facts.username.is_empty() {
                book.note(user);
            }
            book.wake(user);
        }
    }

    pub(super) fn is_ours(&self, user: &UserId) -> bool {
        *user.issuer() == self.settings.issuer
    }
}
