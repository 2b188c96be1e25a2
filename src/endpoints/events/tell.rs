//! What has to be told to whom: the difference between what is known of users now and what was told.
//!
//! A decision is no more than a reason to look. Each holder remembers the block epoch that they were told of, and each ended session
//! whether it was told, in the same file and transaction as what is queued. So nothing depends on having heard every decision: one
//! that was made while nobody listened, or just before the process was killed, is found by looking at everybody.

use super::outbox::{Holder, Tables};
use super::set::{self, Event, Reason};
use crate::config::Config;
use crate::token_service::Receipt;
use crate::users::{Cause, Decision, EndedSession, State, Target, Tokens, UserId, UserView, Users};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What of a configuration decides about it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Receivers {
    /// `iss` of the tokens.
    issuer: String,
    /// Clients and their audiences.
    clients: Vec<(String, String)>,
    /// Issuers' names and URLs.
    issuers: Vec<(Arc<str>, String)>,
}

impl Receivers {
    pub(super) fn new(config: &Config) -> Self {
        let service = &config.token_service;
        Self {
            issuer: service.issuer.clone(),
            clients: service.clients.iter().map(|client| (client.name.clone(), client.audience.clone())).collect(),
            issuers: config.issuers.iter().map(|issuer| (issuer.name.as_str().into(), issuer.url.clone())).collect(),
        }
    }

    pub(super) fn has(&self, client: &str) -> bool {
        self.clients.iter().any(|(name, _)| name == client)
    }

    fn name(&self, url: &str) -> Option<&Arc<str>> {
        self.issuers.iter().find(|(_, known)| known == url).map(|(name, _)| name)
    }

    fn url(&self, name: &str) -> Option<&str> {
        self.issuers.iter().find(|(known, _)| **known == *name).map(|(_, url)| url.as_str())
    }
}

/// Tells, within one change of the outbox.
pub(super) struct Teller<'a, 't> {
    pub(super) tables: &'a mut Tables<'t>,
    pub(super) receivers: &'a Receivers,
    pub(super) users: &'a Users,
    /// In seconds since 1970.
    pub(super) now: i64,
}

impl Teller<'_, '_> {
    /// A token was minted.
    pub(super) fn receipt(&mut self, receipt: &Receipt) -> Result<(), redb::Error> {
        let Receipt { original_issuer: url, subject, audience, expires, epoch } = receipt;
        self.tables.note((url, subject, audience), *expires, *epoch, self.now)?;
        // For a request that was let in a moment before a block, and so after what follows from the block was told.
        let name = self.receivers.name(url);
        if name.is_some_and(|name| self.users.epoch(name, subject) > *epoch) {
            self.user(url, subject, None)?;
        }
        Ok(())
    }

    /// What follows from a decision.
    pub(super) fn decision(&mut self, decision: &Decision) -> Result<(), redb::Error> {
        let at = decision.at_ms.saturating_sub(decision.delay_ms.unwrap_or(0)) / 1000;
        let reason = Reason { cause: decision.cause, at };
        match &decision.target {
            Target::User(user) => self.user_named(user.issuer(), user.subject(), Some(reason)),
            Target::Issuer(issuer) | Target::Tokens { issuer, tokens: Tokens::All { .. } } => {
                self.everybody(Some(issuer), Some(reason))
            }
            Target::Cluster => self.everybody(None, Some(reason)),
            Target::Tokens { issuer, tokens: Tokens::User { subject, .. } } => {
                self.user_named(issuer, subject, Some(reason))
            }
            // Who had the session is noted with its end.
            Target::Tokens { issuer, tokens: Tokens::Session(session) } => {
                self.users.ended_session(issuer, session).map_or(Ok(()), |ended| self.session(&ended))
            }
            // No minted token is tied to it.
            Target::Tokens { tokens: Tokens::Id(_), .. } => Ok(()),
        }
    }

    /// Whatever was not told yet.
    pub(super) fn all(&mut self) -> Result<(), redb::Error> {
        self.everybody(None, None)?;
        self.users.ended_sessions().iter().try_for_each(|ended| self.session(ended))
    }

    fn everybody(&mut self, issuer: Option<&str>, reason: Option<Reason>) -> Result<(), redb::Error> {
        let url = match issuer.map(|issuer| self.receivers.url(issuer)) {
            None => "",
            Some(Some(url)) => url,
            Some(None) => return Ok(()),
        };
        let holders = self.tables.holders(url, "", self.now)?.into_iter().map(|(holder, _)| holder);
        let disabled = self.tables.disabled(url, "")?.into_iter().map(|(holder, _)| holder);
        let users: BTreeSet<_> = holders.chain(disabled).map(|(issuer, subject, _)| (issuer, subject)).collect();
        for (url, subject) in users {
            self.user(&url, &subject, reason)?;
        }
        Ok(())
    }

    fn user_named(&mut self, issuer: &str, subject: &str, reason: Option<Reason>) -> Result<(), redb::Error> {
        let receivers = self.receivers;
        receivers.url(issuer).map_or(Ok(()), |url| self.user(url, subject, reason))
    }

    /// Brings everybody who may hold a token of one user, or was told that the account is disabled, up to date.
    pub(super) fn user(&mut self, url: &str, subject: &str, reason: Option<Reason>) -> Result<(), redb::Error> {
        let Some(user) = self.receivers.name(url).and_then(|name| UserId::new(Arc::clone(name), subject)) else {
            return Ok(());
        };
        // Read before the state: what happens in between is told once more.
        let epoch = self.users.epoch(user.issuer(), user.subject());
        let view = self.users.state(&user);
        let state = view.as_ref().map_or(State::Active, |view| view.state);
        let reason = reason.unwrap_or_else(|| self.reason(view.as_ref()));
        let mut audiences: BTreeMap<Holder, (bool, Option<bool>)> = BTreeMap::new();
        for (holder, told) in self.tables.holders(url, subject, self.now)? {
            audiences.insert(holder, (told < epoch, None));
        }
        for (holder, awaits) in self.tables.disabled(url, subject)? {
            audiences.entry(holder).or_default().1 = Some(awaits);
        }
        for (holder, (is_behind, disabled)) in audiences {
            let is_known = view.is_some();
            if is_behind && (state != State::Active || disabled.is_none()) {
                self.emit(&holder, Event::of(state), reason)?;
            }
            match (state, disabled) {
                (State::Blocked | State::Removed, _) if is_behind => {
                    self.tables.set_disabled(&holder, Some(false))?;
                }
                // Blocked again after the block was lifted; no token was made in between.
                (State::Blocked | State::Removed, Some(true)) => {
                    self.emit(&holder, Event::AccountDisabled, reason)?;
                    self.tables.set_disabled(&holder, Some(false))?;
                }
                (State::AwaitingSignIn, Some(false)) => {
                    if !is_behind {
                        self.emit(&holder, Event::SessionRevoked, reason)?;
                    }
                    self.tables.set_disabled(&holder, Some(true))?;
                }
                (State::Active, Some(_)) => {
                    // A removed user who was forgotten did not sign in.
                    if is_known {
                        self.emit(&holder, Event::AccountEnabled, reason)?;
                    }
                    self.tables.set_disabled(&holder, None)?;
                }
                _ => {}
            }
            if is_behind {
                self.tables.set_told(&holder, epoch)?;
            }
        }
        Ok(())
    }

    /// The end of a session, if it was not told yet.
    fn session(&mut self, ended: &EndedSession) -> Result<(), redb::Error> {
        let (issuer, subject) = (ended.user.issuer(), ended.user.subject());
        let is_new = self.tables.set_ended(issuer, &ended.session, ended.until_ms)?;
        let Some(url) = self.receivers.url(issuer).filter(|_| is_new) else { return Ok(()) };
        let reason = Reason { cause: ended.cause, at: ended.at_ms / 1000 };
        for (holder, _) in self.tables.holders(url, subject, self.now)? {
            self.emit(&holder, Event::SessionRevoked, reason)?;
        }
        Ok(())
    }

    fn emit(&mut self, holder: &Holder, event: Event, reason: Reason) -> Result<(), redb::Error> {
        let (url, subject, audience) = holder;
        let receivers = self.receivers;
        for (client, _) in receivers.clients.iter().filter(|(_, known)| known == audience) {
            let claims = set::claims(&receivers.issuer, audience, (url, subject), event, reason, self.now);
            self.tables.push(client, claims, self.now)?;
        }
        Ok(())
    }

    /// Where no decision says why: what is known of the user does.
    fn reason(&self, view: Option<&UserView>) -> Reason {
        let now = u64::try_from(self.now).unwrap_or(0);
        let Some(view) = view else { return Reason { cause: Cause::SignInTooOld, at: now } };
        let cause = match view.state {
            State::Active => Cause::SignedIn,
            State::AwaitingSignIn => Cause::SignInTooOld,
            State::Blocked | State::Removed => view.by_issuer.unwrap_or(Cause::Operator),
        };
        Reason { cause, at: view.changed_ms / 1000 }
    }
}
