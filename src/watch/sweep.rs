//! All disabled users, at least once each `bound`; and what else has no event: the realm's not-before, which events are kept.

use super::errands::NEWS_MS;
use super::{Directory, Watch, back_off, locked};
use crate::identity::News;
use crate::issuer::keycloak::{Answer, DisabledPage, EventsConfig, Feed, KeycloakError};
use crate::users::{Cause, IssuerCause, IssuerTime, Proof};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// The least time from one sweep to the next.
const LEAST: Duration = Duration::from_millis(500);

/// So many deleted users are asked about after each sweep, in turn: a directory behind the issuer may have lost them for a while.
const DELETED_ASKED: usize = 50;

impl<D: Directory> Watch<D> {
    /// Sweeps for ever.
    pub(super) async fn sweep_for_ever(&self) {
        let mut failures = 0;
        let mut deleted_from = 0;
        loop {
            let began = Instant::now();
            self.look_at_events().await;
            self.look_at_realm().await;
            let pause = match self.sweep(&mut deleted_from).await {
                Ok(()) => {
                    failures = 0;
                    self.pause_after(began.elapsed())
                }
                Err(error) => {
                    self.counters.sweep_failures.fetch_add(1, Ordering::Relaxed);
                    if failures == 0 {
                        tracing::warn!(issuer = &*self.settings.issuer, %error, "disabled users cannot be listed");
                    }
                    failures += 1;
                    back_off(failures).min(self.settings.bound / 2)
                }
            };
            self.wait_until(began + pause).await;
        }
    }

    async fn wait_until(&self, next: Instant) {
        loop {
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(next) => return,
                () = self.realm_changed.notified() => self.look_at_realm().await,
            }
        }
    }

    /// From the beginning of a sweep to that of the next. A user who is disabled just after their page was read is found by the
    /// next sweep, before it ends: both together must not take longer than `bound`.
    fn pause_after(&self, took: Duration) -> Duration {
        let bound = self.settings.bound;
        let is_late = took > bound / 2;
        if self.counters.sweep_is_late.swap(is_late, Ordering::Relaxed) != is_late && is_late {
            let (issuer, took) = (&*self.settings.issuer, took.as_millis());
            tracing::warn!(issuer, took, "a sweep of disabled users takes too long for `bound`");
        }
        (bound * 2 / 3).saturating_sub(took * 2).max(took).max(LEAST)
    }

    async fn sweep(&self, deleted_from: &mut usize) -> Result<(), KeycloakError> {
        let (began, began_ms) = (Instant::now(), self.clock.now().monotonic_ms);
        // What lifted a block before this sweep began is older than all that it will read.
        locked(&self.lifted).retain(|_, asked_ms| *asked_ms >= began_ms);
        let mut listed = BTreeSet::new();
        let mut next = Some(0);
        while let Some(first) = next {
            let answer = self.directory.disabled_users(first).await?;
            // However many there are, the list has an end.
            next = answer.value.next.filter(|next| *next > first);
            self.act_page(&answer).await;
            listed.extend(answer.value.users);
        }
        self.read_unlisted(&listed, deleted_from);
        let counters = &self.counters;
        counters.sweeps.fetch_add(1, Ordering::Relaxed);
        counters.sweep_users.store(listed.len() as u64, Ordering::Relaxed);
        counters.sweep_took_ms.store(u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        counters.sweep_began_ms.store(began_ms, Ordering::Relaxed);
        if let Some(bulletin) = self.bulletin.get() {
            let issuer = Arc::clone(&self.settings.issuer);
            bulletin.tell(|| Some(News::Swept { issuer, began_ms }));
        }
        Ok(())
    }

    /// Blocks the disabled users of a page who are not blocked yet, those never seen too.
    async fn act_page(&self, answer: &Answer<DisabledPage>) {
        let mut news = Vec::new();
        for user in answer.value.users.iter().filter_map(|subject| self.user(subject)) {
            let was_lifted = locked(&self.lifted).get(user.subject()).is_some_and(|asked| *asked >= answer.asked_ms);
            if was_lifted {
                // Enabled since the page was asked for, or disabled anew: one more look tells.
                self.errands.read(user.subject(), true);
                continue;
            }
            self.saw_disabled(user.subject(), answer.time);
            let known = self.users.state(&user).and_then(|view| view.by_issuer);
            if !matches!(known, Some(Cause::Disabled | Cause::LockedOut)) {
                news.push(user);
            }
        }
        if news.is_empty() {
            return;
        }
        let time = self.shown_until(answer.time).await;
        let proof = |time: IssuerTime| Proof::Issuer { cause: IssuerCause::Disabled, time, happened_ms: None };
        self.follow_blocks(self.users.block_all(news.into_iter().map(|user| (user, proof(time)))));
    }

    /// Asks about users who are blocked and not listed: enabled again, deleted, or disabled in a directory behind the issuer.
    fn read_unlisted(&self, listed: &BTreeSet<String>, deleted_from: &mut usize) {
        let mut blocked = self.users.blocked_by_issuer(&self.settings.issuer);
        blocked.retain(|user| !listed.contains(&**user.subject()));
        // In an order that is the same each time.
        blocked.sort_unstable();
        let is_deleted = |user: &_| self.users.state(user).is_some_and(|view| view.by_issuer == Some(Cause::Deleted));
        let (deleted, other): (Vec<_>, Vec<_>) = blocked.into_iter().partition(is_deleted);
        for user in other {
            self.errands.read(user.subject(), true);
        }
        let from = if *deleted_from < deleted.len() { *deleted_from } else { 0 };
        for user in deleted.iter().skip(from).take(DELETED_ASKED) {
            self.errands.read(user.subject(), false);
        }
        *deleted_from = from + DELETED_ASKED;
    }

    async fn look_at_realm(&self) {
        match self.directory.realm_not_before().await {
            Ok(not_before_ms) => {
                let now_ms = self.directory.time().map_or(0, |time| time.latest_ms);
                let is_news = not_before_ms > 0 && not_before_ms.saturating_add(NEWS_MS) > now_ms;
                if !is_news {
                    return;
                }
                if let Err(error) = self.users.issuer_not_before(&self.settings.issuer, not_before_ms) {
                    self.note_store(&error);
                }
            }
            Err(error) => tracing::debug!(issuer = &*self.settings.issuer, %error, "the realm cannot be read"),
        }
    }

    async fn look_at_events(&self) {
        let config = match self.directory.events_config().await {
            Ok(config) => config,
            Err(KeycloakError::NotAllowed { .. }) => EventsConfig {
                has_admin_events: false,
                has_details: false,
                has_user_events: false,
                has_lockouts: false,
            },
            Err(error) => {
                tracing::debug!(issuer = &*self.settings.issuer, %error, "it is not known which events are kept");
                return;
            }
        };
        let set = |feed: Feed, is_off: bool, missing: &'static str| {
            let flag: &AtomicBool = &self.counters.feed(feed).is_off;
            if flag.swap(is_off, Ordering::Relaxed) != is_off && is_off {
                let issuer = &*self.settings.issuer;
                tracing::warn!(
                    issuer,
                    missing,
                    "events are not kept or not shown: changes are noticed within `bound` only"
                );
            }
        };
        set(Feed::Admin, !config.has_admin_events || !config.has_details, "admin events with representation");
        set(Feed::User, !config.has_user_events || !config.has_lockouts, "user events");
    }
}
