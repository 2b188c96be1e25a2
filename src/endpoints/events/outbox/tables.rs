//! The outbox within one change of it.

use super::{Holder, KEPT, MAX_DISABLED, Tally, jti};
use redb::{ReadableTable, ReadableTableMetadata, Table};
use serde_json::Value;
use std::collections::BTreeMap;

/// The outbox within one change.
pub(in crate::endpoints::events) struct Tables<'t> {
    pub(super) queue: Table<'t, (&'static str, u64), (i64, &'static [u8])>,
    pub(super) holders: Table<'t, (&'static str, &'static str, &'static str), (i64, u64)>,
    pub(super) disabled: Table<'t, (&'static str, &'static str, &'static str), bool>,
    pub(super) ended: Table<'t, (&'static str, &'static str), u64>,
    pub(super) numbers: Table<'t, &'static str, u64>,
    pub(super) waiting: BTreeMap<Box<str>, u64>,
    pub(in crate::endpoints::events) tally: Tally,
    pub(super) id: u64,
    pub(super) most: u64,
}

impl Tables<'_> {
    /// Queues a token for a client.
    pub(in crate::endpoints::events) fn push(
        &mut self,
        client: &str,
        mut claims: Value,
        now: i64,
    ) -> Result<(), redb::Error> {
        let number = self.numbers.get("next")?.map_or(1, |next| next.value());
        self.numbers.insert("next", number + 1)?;
        claims["jti"] = jti(self.id, number).into();
        self.queue.insert((client, number), (now, claims.to_string().as_bytes()))?;
        self.tally.queued += 1;
        let waiting = self.waiting.entry(client.into()).or_default();
        *waiting += 1;
        if *waiting > self.most {
            let oldest = self.queue.range((client, 0)..)?.next().transpose()?.map(|(key, _)| key.value().1);
            if let Some(oldest) = oldest {
                self.queue.remove((client, oldest))?;
            }
            self.lower(client, 1);
            self.tally.dropped += 1;
        }
        Ok(())
    }

    pub(super) fn lower(&mut self, client: &str, by: u64) {
        if let Some(waiting) = self.waiting.get_mut(client) {
            *waiting = waiting.saturating_sub(by);
        }
    }

    /// A token was minted, under a block epoch of its user.
    pub(in crate::endpoints::events) fn note(
        &mut self,
        holder: (&str, &str, &str),
        until: i64,
        epoch: u64,
        now: i64,
    ) -> Result<(), redb::Error> {
        // What was minted under an earlier epoch may still live, and its end not be told yet.
        let known = self.holders.get(holder)?.map(|known| known.value()).filter(|(until, _)| *until > now);
        let (until, epoch) = known.map_or((until, epoch), |(known, told)| (known.max(until), told.min(epoch)));
        self.holders.insert(holder, (until, epoch))?;
        Ok(())
    }

    /// Everybody for whom a token lives, of one user or (with an empty `subject`) of an issuer, or of all (both empty).
    pub(in crate::endpoints::events) fn holders(
        &self,
        issuer: &str,
        subject: &str,
        now: i64,
    ) -> Result<Vec<(Holder, u64)>, redb::Error> {
        let mut found = Vec::new();
        for entry in self.holders.range((issuer, subject, "")..)? {
            let (key, value) = entry?;
            let ((its_issuer, its_subject, audience), (until, epoch)) = (key.value(), value.value());
            if (!issuer.is_empty() && its_issuer != issuer) || (!subject.is_empty() && its_subject != subject) {
                break;
            }
            if until > now {
                found.push(((its_issuer.to_owned(), its_subject.to_owned(), audience.to_owned()), epoch));
            }
        }
        Ok(found)
    }

    /// A holder was told what happened up to this epoch.
    pub(in crate::endpoints::events) fn set_told(
        &mut self,
        (issuer, subject, audience): &Holder,
        epoch: u64,
    ) -> Result<(), redb::Error> {
        let key = (issuer.as_str(), subject.as_str(), audience.as_str());
        let until = self.holders.get(key)?.map(|known| known.value().0);
        if let Some(until) = until {
            self.holders.insert(key, (until, epoch))?;
        }
        Ok(())
    }

    /// Who was told that the account of one user, or of all (both empty), is disabled, and whether that it awaits a sign-in.
    pub(in crate::endpoints::events) fn disabled(
        &self,
        issuer: &str,
        subject: &str,
    ) -> Result<Vec<(Holder, bool)>, redb::Error> {
        let mut found = Vec::new();
        for entry in self.disabled.range((issuer, subject, "")..)? {
            let (key, awaits) = entry?;
            let (its_issuer, its_subject, audience) = key.value();
            if !subject.is_empty() && (its_issuer != issuer || its_subject != subject) {
                break;
            }
            found.push(((its_issuer.to_owned(), its_subject.to_owned(), audience.to_owned()), awaits.value()));
        }
        Ok(found)
    }

    /// Remembers, or with `None` forgets, that an account was told to be disabled.
    pub(in crate::endpoints::events) fn set_disabled(
        &mut self,
        (issuer, subject, audience): &Holder,
        awaits: Option<bool>,
    ) -> Result<(), redb::Error> {
        let key = (issuer.as_str(), subject.as_str(), audience.as_str());
        match awaits {
            Some(awaits) if self.disabled.len()? < MAX_DISABLED || self.disabled.get(key)?.is_some() => {
                self.disabled.insert(key, awaits)?;
            }
            Some(_) => tracing::warn!("too many disabled accounts to remember who was told of them"),
            None => drop(self.disabled.remove(key)?),
        }
        Ok(())
    }

    /// Notes that the end of a session was told; `false` if it was already.
    pub(in crate::endpoints::events) fn set_ended(
        &mut self,
        issuer: &str,
        session: &str,
        until_ms: u64,
    ) -> Result<bool, redb::Error> {
        let is_new = self.ended.get((issuer, session))?.is_none();
        self.ended.insert((issuer, session), until_ms)?;
        Ok(is_new)
    }

    /// Lets go of what nobody needs any more, and of the queues of clients that are gone.
    pub(in crate::endpoints::events) fn sweep(
        &mut self,
        is_client: impl Fn(&str) -> bool,
        now: i64,
    ) -> Result<(), redb::Error> {
        let mut gone = BTreeMap::<Box<str>, u64>::new();
        self.queue.retain(|(client, _), (made, _)| {
            let is_kept = now - made < KEPT && is_client(client);
            if !is_kept {
                *gone.entry(client.into()).or_default() += 1;
            }
            is_kept
        })?;
        for (client, count) in gone {
            self.lower(&client, count);
            self.tally.dropped += count;
        }
        self.waiting.retain(|client, _| is_client(client));
        self.holders.retain(|_, (until, _)| until > now)?;
        let now_ms = u64::try_from(now).unwrap_or(0).saturating_mul(1000);
        self.ended.retain(|_, until_ms| until_ms > now_ms)?;
        Ok(())
    }
}
