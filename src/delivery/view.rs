//! What is seen from outside: who has a token, for how long, and what is to be known of whom.

use super::book::{Book, Entry};
use super::counts::Standing;
use super::home::Place;
use super::names::NameProblem;
use super::plan::why_empty;
use super::record::Seen;
use super::reserve::READER_MS;
use super::{Delivery, Roster};
use crate::base::clock::Now;
use crate::users::UserId;
use serde_json::{Value, json};

/// So long it is told that others changed something.
const TAMPERED_MS: u64 = 60 * 60_000;

/// Something to be known of a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// No namespace can be called as they would be.
    NameInvalid,
    /// That name belongs to the system.
    NameOfSystem,
    /// That name is another user's: perhaps of the same name, under an earlier id.
    NameTaken,
    /// They are called otherwise than the namespace that they have.
    Renamed,
    /// The issuer gives no usable answer about them.
    Unreadable,
    /// Their token cannot be written or emptied.
    Unwritable,
    /// The issuer knows no such user: they will be off-boarded.
    Gone,
    /// They would be off-boarded, but too many would.
    Held,
    /// The namespace of their name is not theirs: others made it, or it lost its mark.
    NamespaceTaken,
    /// Their namespace is being deleted.
    NamespaceTerminating,
    /// Not all that belongs in their namespace can be put there.
    NamespaceUnsettled,
    /// Others changed or deleted their Secret within the last hour; it was put right, or will be.
    Tampered,
    /// They are to have a token, and it has less left than is promised.
    BelowFloor,
}

impl Condition {
    /// All of them.
    pub const EVERY: [Self; 13] = [
        Self::NameInvalid,
        Self::NameOfSystem,
        Self::NameTaken,
        Self::Renamed,
        Self::Unreadable,
        Self::Unwritable,
        Self::Gone,
        Self::Held,
        Self::NamespaceTaken,
        Self::NamespaceTerminating,
        Self::NamespaceUnsettled,
        Self::Tampered,
        Self::BelowFloor,
    ];

    /// The word, in lists and metrics.
    pub fn code(self) -> &'static str {
        match self {
            Self::NameInvalid => "name_invalid",
            Self::NameOfSystem => "name_of_system",
            Self::NameTaken => "name_taken",
            Self::Renamed => "renamed",
            Self::Unreadable => "unreadable",
            Self::Unwritable => "unwritable",
            Self::Gone => "gone",
            Self::Held => "held",
            Self::NamespaceTaken => "namespace_taken",
            Self::NamespaceTerminating => "namespace_terminating",
            Self::NamespaceUnsettled => "namespace_unsettled",
            Self::Tampered => "tampered",
            Self::BelowFloor => "below_floor",
        }
    }
}

impl From<&NameProblem> for Condition {
    fn from(problem: &NameProblem) -> Self {
        match problem {
            NameProblem::Invalid(_) => Self::NameInvalid,
            NameProblem::System(_) => Self::NameOfSystem,
            NameProblem::Taken { .. } => Self::NameTaken,
            NameProblem::Renamed(_) => Self::Renamed,
        }
    }
}

/// What there is to see.
#[derive(Debug, Clone)]
pub struct Shown {
    /// Everybody, by id.
    pub users: Vec<ShownUser>,
    /// Who would go now, but for the guard over how many go at once.
    pub would_go: Vec<UserId>,
    /// How many would go within a day, and how many may; only where that holds them.
    pub held: Option<(usize, usize)>,
}

/// One user.
#[derive(Debug, Clone)]
pub struct ShownUser {
    /// Who.
    pub id: UserId,
    /// The name that they sign in with; empty if it is not known yet.
    pub username: String,
    /// Their namespace.
    pub namespace: Option<String>,
    /// Whether they ever signed in.
    pub has_signed_in: bool,
    /// Where they stand: the word of [`crate::users::State`].
    pub state: &'static str,
    /// How long the token lives that its readers find, in seconds; `None`: they find none.
    pub seconds_left: Option<u64>,
    /// What is to be known.
    pub conditions: Vec<Condition>,
    /// The problem with their name, in words.
    pub name_problem: Option<String>,
    /// For how long they are known to be gone, in seconds.
    pub gone_seconds: Option<u64>,
}

impl Entry {
    fn left_ms(&self, now: Now) -> Option<u64> {
        match &self.user.live.seen {
            Seen::Token(held) => Some(held.ends_ms.saturating_sub(now.monotonic_ms)),
            Seen::Unknown | Seen::Absent | Seen::Empty | Seen::Foreign => None,
        }
    }
}

impl<R: Roster> Delivery<R> {
    /// Everybody, and what is to be known of them.
    pub fn shown(&self) -> Shown {
        let now = self.clock.now();
        let mut book = self.book();
        let would_go = self.to_remove(&mut book, now);
        let mut users: Vec<_> = book.users.iter().map(|(id, entry)| self.show(&book, id, entry, now)).collect();
        users.sort_unstable_by(|one, other| one.id.cmp(&other.id));
        Shown { users, would_go, held: book.held.map(|many| (many.would_go, many.most)) }
    }

    fn show(&self, book: &Book, id: &UserId, entry: &Entry, now: Now) -> ShownUser {
        let record = &entry.user.record;
        ShownUser {
            id: id.clone(),
            username: record.facts.username.clone(),
            namespace: record.namespace.clone(),
            has_signed_in: record.has_signed_in,
            state: self.users.standing(id, now).0.code(),
            seconds_left: entry.left_ms(now).map(|left_ms| left_ms / 1000),
            conditions: self.conditions(book, id, entry, now),
            name_problem: entry.user.live.name_problem.as_ref().map(ToString::to_string),
            gone_seconds: record.gone.map(|gone| gone.elapsed_ms / 1000),
        }
    }

    fn conditions(&self, book: &Book, id: &UserId, entry: &Entry, now: Now) -> Vec<Condition> {
        let (record, live) = (&entry.user.record, &entry.user.live);
        let is_below = self.is_promised(id, entry, now) && entry.left_ms(now).unwrap_or(0) < self.floor_ms();
        let found = [
            live.name_problem.as_ref().map(Condition::from),
            (live.failures.reads > 0).then_some(Condition::Unreadable),
            (live.failures.writes > 0).then_some(Condition::Unwritable),
            (record.gone.is_some() && !record.is_offboarded).then_some(Condition::Gone),
            (record.gone.is_some() && book.held.is_some()).then_some(Condition::Held),
            (live.home.place == Place::Taken).then_some(Condition::NamespaceTaken),
            (live.home.place == Place::Terminating).then_some(Condition::NamespaceTerminating),
            (live.home.failures > 0).then_some(Condition::NamespaceUnsettled),
            entry.tampered_ms.filter(|at_ms| at_ms + TAMPERED_MS > now.monotonic_ms).map(|_| Condition::Tampered),
            is_below.then_some(Condition::BelowFloor),
        ];
        found.into_iter().flatten().collect()
    }

    /// Whether whoever reads is to find a token: it was there before, and nothing is against the user.
    fn is_promised(&self, id: &UserId, entry: &Entry, now: Now) -> bool {
        let (state, _) = self.users.standing(id, now);
        entry.user.live.is_promised && why_empty(&entry.user, state).is_none()
    }

    /// So much is to be left where the token was written.
    fn floor_ms(&self) -> u64 {
        READER_MS + self.sink.behind_ms()
    }

    /// Counts what a reader of this user's token finds. Whether that is less than is promised.
    pub(super) fn observe(&self, id: &UserId, entry: &Entry, now: Now) -> bool {
        self.is_promised(id, entry, now) && self.counts.found(entry.left_ms(now).unwrap_or(0), self.floor_ms())
    }

    /// Counts what all readers find.
    pub(super) fn observe_all(&self, book: &Book, now: Now) {
        let mut below = book.users.iter().filter(|(id, entry)| self.observe(id, entry, now)).map(|(id, _)| id);
        if let Some(user) = below.next() {
            let others = below.count();
            tracing::error!(%user, others, "a token has less left than is promised");
        }
    }

    /// What is so at this moment, for the metrics.
    pub(super) fn measure(&self, book: &Book, now: Now) {
        let (mut floor_ms, mut filled, mut conditions) = (u64::MAX, 0, [0; Condition::EVERY.len()]);
        for (id, entry) in &book.users {
            if self.is_promised(id, entry, now) {
                filled += 1;
                let until_ms = now.monotonic_ms + entry.left_ms(now).unwrap_or(0).saturating_sub(self.floor_ms());
                floor_ms = floor_ms.min(until_ms);
            }
            for condition in self.conditions(book, id, entry, now) {
                let at = Condition::EVERY.iter().position(|known| *known == condition);
                conditions[at.unwrap_or_default()] += 1;
            }
        }
        let empty = book.users.len() as u64 - filled;
        self.counts.set(&Standing { floor_ms, filled, empty, conditions, is_held: book.held.is_some() });
    }
}

impl Shown {
    /// For the operators' API.
    pub fn to_json(&self) -> Value {
        let users = self.users.iter().map(|user| {
            json!({
                "issuer": **user.id.issuer(),
                "subject": **user.id.subject(),
                "username": user.username,
                "namespace": user.namespace,
                "state": user.state,
                "has_signed_in": user.has_signed_in,
                "seconds_left": user.seconds_left,
                "conditions": user.conditions.iter().map(|condition| condition.code()).collect::<Vec<_>>(),
                "name": user.name_problem,
                "gone_seconds": user.gone_seconds,
            })
        });
        json!({
            "users": users.collect::<Vec<_>>(),
            "would_go": self.would_go.iter().map(|id| id.subject().to_string()).collect::<Vec<_>>(),
            "held": self.held.map(|(would_go, most)| json!({ "would_go": would_go, "most": most })),
        })
    }
}
