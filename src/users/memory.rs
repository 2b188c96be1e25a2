//! Everything that is known, in memory: what requests are held against. Changed only by the same [`Write`]s that were stored before.

use super::share::{Key, Outbox, Sharing, Unshared, Value};
use super::state::Record;
use super::terms::{Act, Cause, Judgement, TokenClaims, Tokens, UserId, is_subject};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::Arc;

/// One thing to be stored and then remembered. Each replaces what was there, so doing it twice is doing it once.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Write {
    User(UserId, Record),
    ForgetUser(UserId),
    Refuse(TokenKey, Refusal),
    Accept(TokenKey),
    Issuer(Arc<str>, IssuerRecord),
    Cluster(ClusterRecord),
    Position {
        issuer: Arc<str>,
        feed: Arc<str>,
        at_ms: u64,
    },
    /// What is decided from now on is to be shared.
    Sharing,
    /// It is not, and what was not shared yet is not known any more.
    NotSharing,
    /// What is known under the key is not shared; what was there last.
    Unshared(Key, Option<Value>),
    /// It is.
    Shared(Key),
}

/// What names the tokens that are refused.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct TokenKey {
    pub(super) issuer: Arc<str>,
    pub(super) by: By,
    /// Empty for [`By::All`].
    pub(super) id: Arc<str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum By {
    Id,
    Session,
    User,
    All,
}

impl By {
    const EVERY: [Self; 4] = [Self::Id, Self::Session, Self::User, Self::All];

    /// As it is stored.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Id => "id",
            Self::Session => "session",
            Self::User => "user",
            Self::All => "all",
        }
    }

    pub(super) fn parse(word: &str) -> Option<Self> {
        Self::EVERY.into_iter().find(|by| by.word() == word)
    }
}

impl TokenKey {
    pub(super) fn of(issuer: &Arc<str>, tokens: &Tokens) -> Self {
        let (by, id) = match tokens {
            Tokens::Id(id) => (By::Id, id.as_str()),
            Tokens::Session(session) => (By::Session, session.as_str()),
            Tokens::User { subject, .. } => (By::User, subject.as_str()),
            Tokens::All { .. } => (By::All, ""),
        };
        Self { issuer: Arc::clone(issuer), by, id: id.into() }
    }
}

/// Why tokens are refused, and until when that has to be remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Refusal {
    pub(super) cause: Cause,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) act: Option<Act>,
    /// Only tokens issued before this, by the issuer's clock; 0: whenever issued.
    #[serde(default)]
    pub(super) issued_before_ms: u64,
    /// By our clock.
    pub(super) until_ms: u64,
    /// Whose session it was, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) subject: Option<String>,
    /// When it was decided, by our clock.
    #[serde(default)]
    pub(super) at_ms: u64,
}

impl Refusal {
    fn meets(&self, claims: &TokenClaims<'_>) -> bool {
        self.issued_before_ms == 0 || !claims.is_issued_from(self.issued_before_ms)
    }
}

/// What holds for everybody of one issuer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct IssuerRecord {
    pub(super) threshold_ms: u64,
    pub(super) epoch: u64,
}

/// What holds for everybody.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ClusterRecord {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) closed: Option<Act>,
    #[serde(default)]
    pub(super) is_expired: bool,
    /// For issuers that have no record of their own; by our clock.
    #[serde(default)]
    pub(super) threshold_ms: u64,
    #[serde(default)]
    pub(super) epoch: u64,
}

#[derive(Debug, Default)]
pub(super) struct Memory {
    users: HashMap<Arc<str>, HashMap<Arc<str>, Entry>>,
    refused: HashMap<Arc<str>, Refused>,
    pub(super) issuers: HashMap<Arc<str>, IssuerRecord>,
    pub(super) cluster: ClusterRecord,
    positions: HashMap<Arc<str>, HashMap<Arc<str>, u64>>,
    pub(super) sharing: Sharing,
}

#[derive(Debug, Default)]
struct Entry {
    record: Record,
    /// Sessions of which the issuer was asked and showed nothing that counts. Not stored: asking again is cheap.
    unproven: Vec<Box<str>>,
}

/// The most sessions remembered as unproven, of one user.
const UNPROVEN_KEPT: usize = 64;

#[derive(Debug, Default)]
struct Refused {
    by_id: HashMap<Arc<str>, Refusal>,
    by_session: HashMap<Arc<str>, Refusal>,
    by_user: HashMap<Arc<str>, Refusal>,
    all: HashMap<Arc<str>, Refusal>,
}

impl Refused {
    fn part(&self, by: By) -> &HashMap<Arc<str>, Refusal> {
        match by {
            By::Id => &self.by_id,
            By::Session => &self.by_session,
            By::User => &self.by_user,
            By::All => &self.all,
        }
    }

    fn part_mut(&mut self, by: By) -> &mut HashMap<Arc<str>, Refusal> {
        match by {
            By::Id => &mut self.by_id,
            By::Session => &mut self.by_session,
            By::User => &mut self.by_user,
            By::All => &mut self.all,
        }
    }
}

impl Memory {
    /// Holds a token against everything. Does not allocate.
    pub(super) fn judge(&self, claims: &TokenClaims<'_>, is_expired: bool) -> Judgement {
        if self.cluster.closed.is_some() {
            return Judgement::Refused(Cause::ClusterClosed);
        }
        if self.cluster.is_expired || is_expired {
            return Judgement::Refused(Cause::ClusterExpired);
        }
        self.judge_beside_cluster(claims)
    }

    /// The same while the cluster is closed.
    pub(super) fn judge_beside_cluster(&self, claims: &TokenClaims<'_>) -> Judgement {
        if !is_subject(claims.subject) {
            return Judgement::Refused(Cause::NoUser);
        }
        let of_user = self.judge_user(claims);
        let is_void = claims.epoch.is_some_and(|epoch| epoch != self.epoch(claims.issuer, claims.subject));
        // What ended for good is said rather than asked about.
        match self.refusal(claims).or(is_void.then_some(Cause::SignInTooOld)) {
            Some(cause) if !matches!(of_user, Judgement::Refused(_)) => Judgement::Refused(cause),
            _ => of_user,
        }
    }

    fn judge_user(&self, claims: &TokenClaims<'_>) -> Judgement {
        let floor = self.floor(claims.issuer);
        let entry = self.users.get(claims.issuer).and_then(|users| users.get(claims.subject));
        let Some(entry) = entry else {
            return if floor == 0 { Judgement::Admitted } else { Record::default().judge(claims, floor) };
        };
        match entry.record.judge(claims, floor) {
            Judgement::NeedsSignInProof
                if claims.session.is_some_and(|session| entry.unproven.iter().any(|known| **known == *session)) =>
            {
                Judgement::Refused(Cause::SignInTooOld)
            }
            judgement => judgement,
        }
    }

    fn refusal(&self, claims: &TokenClaims<'_>) -> Option<Cause> {
        let refused = self.refused.get(claims.issuer)?;
        let keys =
            [(By::Id, claims.id), (By::Session, claims.session), (By::User, Some(claims.subject)), (By::All, Some(""))];
        keys.into_iter()
            .filter_map(|(by, key)| refused.part(by).get(key?))
            .find(|refusal| refusal.meets(claims))
            .map(|refusal| refusal.cause)
    }

    /// From when on sessions of any user of an issuer count; 0: all do.
    pub(super) fn floor(&self, issuer: &str) -> u64 {
        self.issuers.get(issuer).map_or(self.cluster.threshold_ms, |record| record.threshold_ms)
    }

    /// What holds for everybody of an issuer.
    pub(super) fn issuer(&self, issuer: &str) -> IssuerRecord {
        let default = IssuerRecord { threshold_ms: self.cluster.threshold_ms, epoch: 0 };
        self.issuers.get(issuer).copied().unwrap_or(default)
    }

    pub(super) fn record(&self, user: &UserId) -> Option<&Record> {
        Some(&self.users.get(user.issuer())?.get(user.subject())?.record)
    }

    /// All blocks that concern a user, counted.
    pub(super) fn epoch(&self, issuer: &str, subject: &str) -> u64 {
        let own = self.users.get(issuer).and_then(|users| users.get(subject)).map_or(0, |entry| entry.record.epoch);
        own + self.issuer(issuer).epoch + self.cluster.epoch
    }

    pub(super) fn users(&self) -> impl Iterator<Item = (UserId, &Record)> {
        self.users.iter().flat_map(|(issuer, users)| {
            users.iter().filter_map(move |(subject, entry)| {
                Some((UserId::new(Arc::clone(issuer), Arc::clone(subject))?, &entry.record))
            })
        })
    }

    pub(super) fn records(&self) -> impl Iterator<Item = &Record> {
        self.users.values().flat_map(|users| users.values().map(|entry| &entry.record))
    }

    pub(super) fn refused(&self, key: &TokenKey) -> Option<&Refusal> {
        self.refused.get(&key.issuer)?.part(key.by).get(&key.id)
    }

    pub(super) fn refusals(&self) -> impl Iterator<Item = (TokenKey, &Refusal)> {
        self.refused.iter().flat_map(|(issuer, refused)| {
            By::EVERY.into_iter().flat_map(move |by| {
                refused.part(by).iter().map(move |(id, refusal)| {
                    (TokenKey { issuer: Arc::clone(issuer), by, id: Arc::clone(id) }, refusal)
                })
            })
        })
    }

    pub(super) fn position(&self, issuer: &str, feed: &str) -> Option<u64> {
        self.positions.get(issuer)?.get(feed).copied()
    }

    /// The issuer was asked about a session and showed nothing that counts.
    pub(super) fn set_unproven(&mut self, user: &UserId, session: &str) {
        let users = self.users.entry(Arc::clone(user.issuer())).or_default();
        let entry = users.entry(Arc::clone(user.subject())).or_default();
        if entry.unproven.iter().any(|known| **known == *session) {
            return;
        }
        if entry.unproven.len() >= UNPROVEN_KEPT {
            entry.unproven.remove(0);
        }
        entry.unproven.push(session.into());
    }

    /// Forgets what is not stored and known no longer to matter.
    pub(super) fn shrink(&mut self) {
        for users in self.users.values_mut() {
            users.retain(|_, entry| entry.record != Record::default());
        }
    }

    pub(super) fn apply(&mut self, write: Write) {
        match write {
            Write::User(user, record) => {
                let users = self.users.entry(Arc::clone(user.issuer())).or_default();
                let entry = users.entry(Arc::clone(user.subject())).or_default();
                entry.unproven.retain(|session| record.sessions.iter().all(|known| *known.session != **session));
                entry.record = record;
            }
            Write::ForgetUser(user) => {
                self.users.get_mut(user.issuer()).and_then(|users| users.remove(user.subject()));
            }
            Write::Refuse(key, refusal) => {
                self.refused.entry(key.issuer).or_default().part_mut(key.by).insert(key.id, refusal);
            }
            Write::Accept(key) => {
                self.refused.get_mut(&key.issuer).and_then(|refused| refused.part_mut(key.by).remove(&key.id));
            }
            Write::Issuer(issuer, record) => {
                self.issuers.insert(issuer, record);
            }
            Write::Cluster(record) => self.cluster = record,
            Write::Position { issuer, feed, at_ms } => {
                self.positions.entry(issuer).or_default().insert(feed, at_ms);
            }
            Write::Sharing => self.sharing = Sharing::On(self.take_outbox()),
            Write::NotSharing => self.sharing = Sharing::Off,
            Write::Unshared(key, base) => {
                if let Sharing::On(outbox) | Sharing::Was(outbox) = &mut self.sharing {
                    outbox.insert(key.text(), Unshared { key, base, offered: None });
                }
            }
            Write::Shared(key) => {
                if let Sharing::On(outbox) = &mut self.sharing {
                    outbox.remove(&key.text());
                }
            }
        }
    }

    fn take_outbox(&mut self) -> Outbox {
        match std::mem::take(&mut self.sharing) {
            Sharing::Off => Outbox::new(),
            Sharing::Was(outbox) | Sharing::On(outbox) => outbox,
        }
    }
}
