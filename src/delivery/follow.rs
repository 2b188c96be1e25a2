//! What others do in a cluster, as it is told: the records that the leading replica keeps, users' Secrets, their namespaces.
//!
//! Every replica follows all of it, so one that takes over has nothing to load.

use super::book::{Book, Entry};
use super::home::{LOOK_EVERY_MS, Place};
use super::record::{Record, Seen, User, gist_of};
use super::secrets::{found, owner};
use super::sink::{Content, Flaw, Found};
use super::store::Store;
use super::store::shared::{REMOVALS, SHARDS, removals, user_of};
use super::{Delivery, Roster};
use crate::base::clock::Now;
use crate::kubernetes::state::{Shard, State};
use crate::kubernetes::{Change, Cluster, KubernetesError, Namespace, Present, Revision, UserSecret, Watch, Watched};
use crate::users::UserId;
use std::collections::BTreeSet;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Changes that wait to be taken up.
const ROOM: usize = 64;

/// Something that was told.
#[derive(Debug)]
pub(super) enum Event {
    Part(usize, Change<Shard>),
    Secret(Change<UserSecret>),
    Namespace(Change<Namespace>),
}

/// All watches. Dropping it ends them.
pub(super) struct Follow {
    records: mpsc::Receiver<Event>,
    objects: mpsc::Receiver<Event>,
    _tasks: JoinSet<()>,
}

impl Follow {
    pub(super) fn start(cluster: &Cluster, state: &State) -> Result<Self, KubernetesError> {
        let mut tasks = JoinSet::new();
        let (to, records) = mpsc::channel(ROOM);
        for (index, watch) in state.watches()?.into_iter().enumerate() {
            tell(&mut tasks, watch, to.clone(), move |change| Event::Part(index, change));
        }
        let (to, objects) = mpsc::channel(ROOM);
        tell(&mut tasks, Watch::user_secrets(cluster)?, to.clone(), Event::Secret);
        tell(&mut tasks, Watch::namespaces(cluster)?, to, Event::Namespace);
        Ok(Self { records, objects, _tasks: tasks })
    }

    /// The next event. What stands in namespaces is told once it is known whose they are; records come first.
    pub(super) async fn next(&mut self, is_restored: bool) -> Option<Event> {
        tokio::select! {
            biased;
            event = self.records.recv() => event,
            event = self.objects.recv(), if is_restored => event,
        }
    }

    pub(super) fn try_next(&mut self, is_restored: bool) -> Option<Event> {
        let record = self.records.try_recv().ok();
        record.or_else(|| if is_restored { self.objects.try_recv().ok() } else { None })
    }
}

fn note_present(present: &Present, change: &Change<UserSecret>) {
    match change {
        Change::Seen(secret) => present.seen(&secret.namespace),
        Change::Gone { key, .. } => present.gone(key),
        Change::Synced => present.set_known(true),
        Change::Interrupted(_) => present.set_known(false),
    }
}

fn tell<T: Watched + Sync>(
    tasks: &mut JoinSet<()>,
    watch: Watch<T>,
    to: mpsc::Sender<Event>,
    event: impl Fn(Change<T>) -> Event + Send + 'static,
) {
    let (from, mut changes) = mpsc::channel(1);
    tasks.spawn(watch.run(from));
    tasks.spawn(async move {
        while let Some(change) = changes.recv().await {
            if to.send(event(change)).await.is_err() {
                return;
            }
        }
    });
}

impl<R: Roster> Delivery<R> {
    pub(super) fn take_up_event(&self, book: &mut Book, event: Event, now: Now) {
        if let (Some((_, present)), Event::Secret(change)) = (&self.cluster, &event) {
            note_present(present, change);
        }
        match event {
            Event::Part(index, change) => self.take_up_part(book, index, change, now),
            Event::Secret(Change::Seen(secret)) => self.take_up_secret(book, &secret, now),
            Event::Secret(Change::Gone { key, revision }) => self.take_up_lost_secret(book, &key, &revision, now),
            Event::Secret(Change::Synced) => {
                (book.followed.secrets, book.followed.is_behind) = (true, false);
            }
            Event::Namespace(Change::Seen(namespace)) => take_up_namespace(book, &namespace, now),
            Event::Namespace(Change::Gone { key, .. }) => disturb(book, &key, Place::Unready),
            Event::Namespace(Change::Synced) => book.followed.namespaces = true,
            Event::Secret(Change::Interrupted(error)) | Event::Namespace(Change::Interrupted(error)) => {
                tell_interrupted(book, &error);
            }
        }
        let followed = &book.followed;
        if followed.is_restored && !followed.is_whole && followed.secrets && followed.namespaces {
            self.begin_shared(book);
        }
    }

    /// Everything was told: what was not told of is not there.
    fn begin_shared(&self, book: &mut Book) {
        book.followed.is_whole = true;
        for entry in book.users.values_mut() {
            if matches!(entry.user.live.seen, Seen::Unknown) {
                entry.user.live.seen = Seen::Absent;
                entry.user.live.home.disturb(Place::Unready);
            }
        }
        tracing::info!(users = book.users.len(), "what is known of users and their Secrets is here");
        self.note_returned(book);
        book.wake_all();
    }

    fn take_up_part(&self, book: &mut Book, index: usize, change: Change<Shard>, now: Now) {
        match change {
            Change::Seen(part) => {
                if matches!(&self.store, Store::Shared(store) if store.state().is_behind(index, &part)) {
                    // Told late: later ones are on their way, with what was stored here since.
                    return;
                }
                let mut users = BTreeSet::new();
                for (key, value) in part.pairs() {
                    if key == REMOVALS {
                        book.removals = removals(value);
                    } else if let Some(id) = user_of(key) {
                        self.adopt(book, &id, value, now);
                        users.insert(id);
                    }
                }
                let before = book.followed.users.insert(index, users.clone()).unwrap_or_default();
                before.into_iter().filter(|id| !users.contains(id)).for_each(|id| self.take_up_lost(book, &id));
            }
            // Somebody deleted it. What lay in it is known here, and is put again by who leads.
            Change::Gone { key, .. } => {
                tracing::error!(secret = key, "a part of what is known of users was deleted: it is stored again");
                let lost = book.followed.users.remove(&index).unwrap_or_default();
                lost.iter().for_each(|id| forget_stored(book, id));
            }
            Change::Synced => {
                book.followed.parts.insert(index);
                book.followed.is_restored |= book.followed.parts.len() == usize::from(SHARDS);
            }
            Change::Interrupted(error) => tell_interrupted(book, &error),
        }
    }

    /// Takes over what stands in the shared state about a user.
    pub(super) fn adopt(&self, book: &mut Book, id: &UserId, value: &[u8], now: Now) {
        let base = Some(gist_of(value));
        if !self.is_ours(id) || book.users.get(id).is_some_and(|entry| entry.base == base) {
            return;
        }
        let Ok(told) = serde_json::from_slice::<Record>(value) else {
            tracing::error!(user = %id, "what is stored of a user cannot be read: it is stored again when it is known");
            return;
        };
        let is_new = !book.users.contains_key(id);
        let leads = book.leads;
        let entry = book.entry(id);
        if is_new {
            entry.user.live.seen = Seen::Unknown;
        }
        (entry.base, entry.stored) = (base, Some(told.gist(false)));
        let known = std::mem::take(&mut entry.user.record);
        let had = known.namespace.clone();
        let was_owned = known.own_namespace().is_some();
        let is_newer_here = leads && entry.is_unstored;
        if known.facts != told.facts && known.read_unix_ms > told.read_unix_ms {
            // By two clocks: who leads asks which of them holds.
            entry.user.live.doubted_ms = Some(now.monotonic_ms);
        }
        entry.user.record = if is_newer_here { joined(known, told) } else { adopted(known, told) };
        let has = entry.user.record.namespace.clone();
        let is_owned = entry.user.record.own_namespace().is_some();
        self.bulletin.record(id, entry.user.record.own_namespace());
        if had != has {
            entry.user.live.seen = Seen::Unknown;
            entry.user.live.home.disturb(Place::Unready);
            if let Some(name) = had {
                book.names.release(id, &name);
            }
            if let Some(name) = &has {
                book.names.restore(id, name);
            }
        }
        let is_whole = book.followed.is_whole;
        let user = &mut book.entry(id).user;
        if is_whole && !leads && is_owned && !was_owned && user.live.home.place == Place::Unready {
            // Their namespace was told of before it was known that it is theirs.
            settle_later(user, id, now);
        }
        book.issuer.heard_unix_ms = book.issuer.heard_unix_ms.max(book.entry(id).user.record.read_unix_ms);
        book.note(id);
        book.wake(id);
    }

    /// What was known of a user stands there no more: they were removed.
    fn take_up_lost(&self, book: &mut Book, id: &UserId) {
        let Some(entry) = book.users.get(id) else { return };
        if entry.is_removing {
            return;
        }
        if book.leads || entry.user.record.gone.is_none() {
            // Not by us, and nobody else may: it still matters.
            return forget_stored(book, id);
        }
        if let Some(entry) = book.users.remove(id)
            && let Some(name) = &entry.user.record.namespace
        {
            book.names.release(id, name);
        }
        self.bulletin.record(id, None);
        self.bulletin.keep(id, None);
    }

    fn take_up_secret(&self, book: &mut Book, secret: &UserSecret, now: Now) {
        let Some(id) = book.names.owner(&secret.namespace).cloned() else { return };
        let Some(entry) = book.users.get_mut(&id) else { return };
        self.see(&id, entry, found(secret, &owner(&id)), &(self.token_service)(), now);
        book.wake(&id);
    }

    /// What others do to a Secret breaks no promise of ours: nothing is promised until it is put right. Nor where another of us emptied
    /// it who knows of a block: it may not be known here yet.
    pub(super) fn note_change(&self, id: &UserId, entry: &mut Entry, found: &Found, now: Now) {
        let Some(known) = &entry.user.live.stand else { return };
        let is_off = found
            .stand
            .as_ref()
            .is_none_or(|stand| stand.flaw.is_some() || found.content == Content::Empty && stand.epoch > known.epoch);
        entry.user.live.is_promised &= !is_off;
        if let (None, Some(flaw)) = (known.flaw, found.stand.as_ref().and_then(|stand| stand.flaw)) {
            let namespace = entry.user.record.namespace.as_deref().unwrap_or_default();
            tracing::warn!(user = %id, namespace, how = how(flaw), "a user's Secret was changed by others");
            self.note_tampered(entry, now);
        }
    }

    fn note_tampered(&self, entry: &mut Entry, now: Now) {
        entry.tampered_ms = Some(now.monotonic_ms);
        self.counts.tampered();
    }

    fn take_up_lost_secret(&self, book: &mut Book, namespace: &str, revision: &Revision, now: Now) {
        let Some(id) = book.names.owner(namespace).cloned() else { return };
        let is_whole = book.followed.is_whole;
        let Some(entry) = book.users.get_mut(&id) else { return };
        if entry.user.live.stand.as_ref().is_some_and(|stand| revision.is_before(&stand.version.revision())) {
            // Told late: it was made anew since.
            return;
        }
        let is_meant =
            entry.is_removing || entry.user.record.is_offboarded || matches!(entry.user.live.seen, Seen::Absent);
        if is_whole && !is_meant {
            tracing::warn!(user = %id, namespace, "a user's Secret was deleted by others");
            self.note_tampered(entry, now);
        }
        entry.user.live.lost = Some(revision.clone());
        self.see(&id, entry, Found::stateless(Content::Absent), &(self.token_service)(), now);
        if !is_meant {
            entry.user.live.home.disturb(Place::Unready);
        }
        book.wake(&id);
    }
}

/// What this process knows that is not stored yet, on top of what another stored meanwhile.
fn joined(known: Record, told: Record) -> Record {
    let facts = if known.read_unix_ms >= told.read_unix_ms { known.facts } else { told.facts };
    Record {
        facts,
        read_unix_ms: known.read_unix_ms.max(told.read_unix_ms),
        named_unix_ms: if told.namespace.is_some() { told.named_unix_ms } else { known.named_unix_ms },
        namespace: told.namespace.or(known.namespace),
        has_signed_in: known.has_signed_in || told.has_signed_in,
        gone: known.gone,
        is_offboarded: known.is_offboarded,
    }
}

/// What another stored; that somebody signed in may not have come to it yet.
fn adopted(known: Record, told: Record) -> Record {
    Record { has_signed_in: known.has_signed_in || told.has_signed_in, ..told }
}

fn forget_stored(book: &mut Book, id: &UserId) {
    if let Some(entry) = book.users.get_mut(id) {
        (entry.base, entry.stored) = (None, None);
        book.note(id);
    }
}

fn take_up_namespace(book: &mut Book, namespace: &Namespace, now: Now) {
    let Some(id) = book.names.owner(&namespace.name).cloned() else { return };
    let leads = book.leads;
    let Some(entry) = book.users.get_mut(&id) else { return };
    let is_theirs = namespace.mark.is_of(&owner(&id));
    let home = &mut entry.user.live.home;
    match home.place {
        _ if namespace.is_terminating => home.disturb(Place::Terminating),
        _ if !is_theirs => home.disturb(Place::Taken),
        Place::Ready | Place::Elsewhere => {}
        // Who leads looks for itself, beside what it was told before it led.
        Place::Taken | Place::Terminating | Place::Unready if leads => home.disturb(Place::Unready),
        Place::Taken | Place::Terminating | Place::Unready => settle_later(&mut entry.user, &id, now),
    }
    book.wake(&id);
}

/// It is in order, as far as was told; all that is in it is looked at in its turn.
fn settle_later(user: &mut User, id: &UserId, now: Now) {
    user.live.home.settle(Place::Ready, now);
    user.live.home.look_ms = look_ms(id, now);
}

/// Looks that fell due while this replica did not lead have their turn too: not all users' at once, with everybody new behind them.
pub(super) fn spread_looks(book: &mut Book, now: Now) {
    for (id, entry) in &mut book.users {
        let home = &mut entry.user.live.home;
        if home.place == Place::Ready && home.look_ms <= now.monotonic_ms {
            home.look_ms = look_ms(id, now);
        }
    }
}

/// Each user's turn comes once in the time of a look, whoever leads.
fn look_ms(id: &UserId, now: Now) -> u64 {
    let turn_ms = super::book::hash_of(id) % LOOK_EVERY_MS;
    now.monotonic_ms + (turn_ms + LOOK_EVERY_MS - now.unix_ms % LOOK_EVERY_MS) % LOOK_EVERY_MS
}

fn disturb(book: &mut Book, namespace: &str, place: Place) {
    let Some(id) = book.names.owner(namespace).cloned() else { return };
    if let Some(entry) = book.users.get_mut(&id) {
        entry.user.live.home.disturb(place);
        book.wake(&id);
    }
}

fn how(flaw: Flaw) -> &'static str {
    match flaw {
        Flaw::Unmarked => "its mark is gone",
        Flaw::Keyless => "its key is gone",
        Flaw::Held => "fields of ours were set",
        Flaw::Fixed => "nothing can be written into it",
    }
}

/// Said once, until all is told again.
fn tell_interrupted(book: &mut Book, error: &KubernetesError) {
    if !std::mem::replace(&mut book.followed.is_behind, true) {
        tracing::warn!(%error, "the cluster cannot be followed: what is known of Secrets and namespaces may be behind");
    }
}
