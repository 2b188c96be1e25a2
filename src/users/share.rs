//! What replicas tell each other: keys and values as they are shared, and the outbox of what is decided here and not shared yet.
//!
//! Whoever carries it (Secrets of Kubernetes, Redis) reads a key, asks [`Users::offer`] what is to stand there, puts that if nothing
//! came in between, and gives to [`Users::adopt`] what stands there then, and whatever else it reads. Only reads that show the newest
//! may be given to it, one after the other for each key.

use super::Users;
use super::memory::{By, ClusterRecord, IssuerRecord, Memory, Refusal, TokenKey, Write};
use super::merge;
use super::state::Record;
use super::store::StoreError;
use super::terms::UserId;
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::broadcast;

/// An id that is longer is named by its hash. Issuer and `sub` fit beside it into what any carrier takes for a key.
const LONGEST_ID: usize = 256;

/// What goes before the hash.
const HASHED: char = '~';

/// Why what is shared cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum ShareError {
    /// What stands there is not as any version writes it. It is never taken for "nothing known".
    #[error("what is shared under `{}` cannot be read", .0.escape_debug())]
    Unreadable(String),
    /// It holds, and cannot be stored here.
    #[error("what is shared cannot be stored")]
    Store(#[from] StoreError),
}

/// What is to stand under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The value.
    pub value: Vec<u8>,
    /// Whether something else stands there.
    pub is_new: bool,
    /// Whether others decided about it meanwhile.
    pub is_conflict: bool,
}

/// What a value is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Key {
    User(UserId),
    Tokens(TokenKey),
    Issuer(Arc<str>),
    Cluster,
}

impl Key {
    /// As it is shared.
    pub(super) fn text(&self) -> String {
        match self {
            Self::User(user) => format!("u/{}/{}", user.issuer(), user.subject()),
            Self::Tokens(TokenKey { issuer, by, id }) => {
                let id = shared_id(id);
                format!("t/{issuer}/{}/{id}", by.word())
            }
            Self::Issuer(issuer) => format!("i/{issuer}"),
            Self::Cluster => "c".to_owned(),
        }
    }

    /// `id`: what stands beside the value where the id was too long.
    pub(super) fn parse(text: &str, id: Option<&str>) -> Option<Self> {
        let Some((kind, rest)) = text.split_once('/') else { return (text == "c").then_some(Self::Cluster) };
        match kind {
            "u" => {
                let (issuer, subject) = rest.split_once('/')?;
                UserId::new(issuer, subject).map(Self::User)
            }
            "t" => {
                let (issuer, rest) = rest.split_once('/')?;
                let (by, shared) = rest.split_once('/')?;
                let id = if shared.starts_with(HASHED) { id? } else { shared };
                let key = TokenKey { issuer: issuer.into(), by: By::parse(by)?, id: id.into() };
                (shared_id(id) == shared).then_some(Self::Tokens(key))
            }
            "i" => Some(Self::Issuer(rest.into())),
            _ => None,
        }
    }

    /// The id, where [`Self::text`] does not tell it.
    pub(super) fn hidden_id(&self) -> Option<&str> {
        match self {
            Self::Tokens(key) if is_hashed(&key.id) => Some(&key.id),
            _ => None,
        }
    }
}

fn is_hashed(id: &str) -> bool {
    id.len() > LONGEST_ID || id.starts_with(HASHED)
}

fn shared_id(id: &str) -> String {
    if !is_hashed(id) {
        return id.to_owned();
    }
    format!("{HASHED}{}", URL_SAFE_NO_PAD.encode(digest(&SHA256, id.as_bytes())))
}

/// What is known under a key, without what is of one process.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    User(Record),
    Refusal(Refusal),
    Issuer(IssuerRecord),
    Cluster(ClusterRecord),
}

impl Value {
    pub(super) fn encode(&self, key: &Key) -> Vec<u8> {
        let json = match self {
            Self::User(record) => serde_json::to_value(record),
            Self::Refusal(refusal) => serde_json::to_value(refusal),
            Self::Issuer(record) => serde_json::to_value(record),
            Self::Cluster(record) => serde_json::to_value(record),
        };
        let mut json = json.unwrap_or_default();
        if let Some(id) = key.hidden_id() {
            json["id"] = id.into();
        }
        json.to_string().into_bytes()
    }

    pub(super) fn parse(key: &Key, json: serde_json::Value) -> Option<Self> {
        match key {
            Key::User(_) => serde_json::from_value(json).ok().map(Self::User),
            Key::Tokens(_) => serde_json::from_value(json).ok().map(Self::Refusal),
            Key::Issuer(_) => serde_json::from_value(json).ok().map(Self::Issuer),
            Key::Cluster => serde_json::from_value(json).ok().map(Self::Cluster),
        }
    }

    /// Whether this may come after `before`, by whoever decided it. Else somebody put back what was there before.
    pub(super) fn may_follow(&self, before: &Self) -> bool {
        match (self, before) {
            (Self::User(new), Self::User(old)) => new.epoch >= old.epoch && new.threshold_ms >= old.threshold_ms,
            (Self::Refusal(new), Self::Refusal(old)) => new.until_ms >= old.until_ms,
            (Self::Issuer(new), Self::Issuer(old)) => new.epoch >= old.epoch && new.threshold_ms >= old.threshold_ms,
            (Self::Cluster(new), Self::Cluster(old)) => new.epoch >= old.epoch && new.threshold_ms >= old.threshold_ms,
            _ => false,
        }
    }
}

/// Three-way, as [`merge`] says. What is not there is nothing known.
pub(super) fn merged(base: Option<&Value>, found: Option<&Value>, mine: &Value) -> Value {
    let Some(found) = found else { return mine.clone() };
    // Else somebody put back what was there before, and nothing of it can be taken for decided.
    let base = base.filter(|base| found.may_follow(base));
    match (found, mine) {
        (Value::User(found), Value::User(mine)) => {
            let default = Record::default();
            let base = if let Some(Value::User(base)) = base { base } else { &default };
            Value::User(merge::user(base, found, mine))
        }
        (Value::Refusal(found), Value::Refusal(mine)) => Value::Refusal(merge::refusal(found, mine)),
        (Value::Issuer(found), Value::Issuer(mine)) => {
            let base = if let Some(Value::Issuer(base)) = base { *base } else { IssuerRecord::default() };
            Value::Issuer(merge::issuer(base, *found, *mine))
        }
        (Value::Cluster(found), Value::Cluster(mine)) => {
            let default = ClusterRecord::default();
            let base = if let Some(Value::Cluster(base)) = base { base } else { &default };
            Value::Cluster(merge::cluster(base, found, mine))
        }
        // A key has values of one kind.
        _ => mine.clone(),
    }
}

/// A key that was decided about here since it was last seen shared.
#[derive(Debug)]
pub(super) struct Unshared {
    pub(super) key: Key,
    /// As it was last seen shared; `None`: it was not there.
    pub(super) base: Option<Value>,
    /// What was known here when something was offered, and what was offered. Nobody may have taken it.
    pub(super) offered: Option<(Value, Value)>,
}

impl Unshared {
    /// What both `found` and what is known here come from.
    pub(super) fn ancestor(&self, found: Option<&Value>) -> Option<&Value> {
        match &self.offered {
            Some((mine, offered)) if Some(offered) == found => Some(mine),
            _ => self.base.as_ref(),
        }
    }
}

/// An entry of the outbox as it is stored.
#[derive(Serialize, Deserialize)]
pub(super) struct Stored {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) id: Option<String>,
    pub(super) base: Option<serde_json::Value>,
}

/// The outbox, by the keys as they are shared.
pub(super) type Outbox = BTreeMap<String, Unshared>;

/// Whether what is decided is shared.
#[derive(Debug, Default)]
pub(super) enum Sharing {
    /// It never was.
    #[default]
    Off,
    /// Not by this process so far. It was by the last one that wrote, which left this.
    Was(Outbox),
    On(Outbox),
}

impl Memory {
    pub(super) fn outbox(&self) -> Option<&Outbox> {
        match &self.sharing {
            Sharing::On(outbox) => Some(outbox),
            Sharing::Off | Sharing::Was(_) => None,
        }
    }

    /// The key of what is known, by how it is shared.
    pub(super) fn key_of(&self, text: &str) -> Option<Key> {
        Key::parse(text, None).or_else(|| self.keys().find(|key| key.text() == text))
    }

    /// What is known under a key, as it is shared.
    pub(super) fn value(&self, key: &Key) -> Option<Value> {
        match key {
            Key::User(user) => {
                let record = Record { proof_known_ms: 0, ..self.record(user)?.clone() };
                (record != Record::default()).then_some(Value::User(record))
            }
            Key::Tokens(key) => self.refused(key).cloned().map(Value::Refusal),
            Key::Issuer(issuer) => self.issuers.get(issuer).copied().map(Value::Issuer),
            Key::Cluster => Some(&self.cluster)
                .filter(|record| **record != ClusterRecord::default())
                .map(|record| Value::Cluster(record.clone())),
        }
    }

    /// Every key under which something is known.
    pub(super) fn keys(&self) -> impl Iterator<Item = Key> {
        let users = self.users().filter(|(_, record)| **record != Record::default());
        let users = users.map(|(user, _)| Key::User(user));
        let tokens = self.refusals().map(|(key, _)| Key::Tokens(key));
        let issuers = self.issuers.keys().map(|issuer| Key::Issuer(Arc::clone(issuer)));
        let cluster = (self.cluster != ClusterRecord::default()).then_some(Key::Cluster);
        users.chain(tokens).chain(issuers).chain(cluster)
    }

    /// What has to be done beside `writes`, which are decisions, so that they get shared.
    pub(super) fn marks(&self, writes: &[Write]) -> Vec<Write> {
        match &self.sharing {
            Sharing::Off => Vec::new(),
            Sharing::Was(_) if writes.is_empty() => Vec::new(),
            // What is decided from now on is not noted, so the next time all of it counts as not shared.
            Sharing::Was(_) => vec![Write::NotSharing],
            Sharing::On(outbox) => writes.iter().filter_map(|write| self.mark(outbox, write)).collect(),
        }
    }

    fn mark(&self, outbox: &Outbox, write: &Write) -> Option<Write> {
        let key = match write {
            Write::User(user, _) => Key::User(user.clone()),
            Write::Refuse(key, _) => Key::Tokens(key.clone()),
            Write::Issuer(issuer, _) => Key::Issuer(Arc::clone(issuer)),
            Write::Cluster(_) => Key::Cluster,
            // It is over, for everybody.
            Write::ForgetUser(user) => return self.unmark(outbox, Key::User(user.clone())),
            Write::Accept(key) => return self.unmark(outbox, Key::Tokens(key.clone())),
            Write::Position { .. } | Write::Sharing | Write::NotSharing | Write::Unshared(..) | Write::Shared(_) => {
                return None;
            }
        };
        // What was not shared before is still to be held against what was last seen shared.
        (!outbox.contains_key(&key.text())).then(|| Write::Unshared(key.clone(), self.value(&key)))
    }

    fn unmark(&self, outbox: &Outbox, key: Key) -> Option<Write> {
        outbox.contains_key(&key.text()).then_some(Write::Shared(key))
    }
}

impl Users {
    /// Shares what is decided from now on, and first of all what was not shared by the last process. Nobody is let in until
    /// [`Users::is_loaded`] is told; to be called once, before anything is decided.
    ///
    /// # Errors
    /// It cannot be stored.
    pub fn share(&self) -> Result<(), StoreError> {
        self.is_unknown.store(true, Ordering::Release);
        self.generation.fetch_add(1, Ordering::Release);
        self.change(|plan, memory, _| {
            plan.is_adopted = true;
            plan.push(Write::Sharing);
            if matches!(memory.sharing, Sharing::Off) {
                // Nothing of it was ever held against what others know.
                memory.keys().for_each(|key| plan.push(Write::Unshared(key, None)));
            }
        })?;
        self.outbox_moved();
        Ok(())
    }

    /// All that is shared was adopted once: from now on what is known is enough to let somebody in.
    pub fn loaded(&self) {
        self.is_unknown.store(false, Ordering::Release);
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Whether what is shared, if anything is, was read since the start.
    pub fn is_loaded(&self) -> bool {
        !self.is_unknown.load(Ordering::Acquire)
    }

    /// Keys that were decided about here and are not known to be shared, in no order.
    pub fn unshared(&self) -> Vec<String> {
        self.memory().outbox().map(|outbox| outbox.keys().cloned().collect()).unwrap_or_default()
    }

    /// How many they are.
    pub fn unshared_len(&self) -> usize {
        self.memory().outbox().map_or(0, BTreeMap::len)
    }

    /// Told whenever there is something more to be shared.
    pub fn outbox_moves(&self) -> broadcast::Receiver<()> {
        self.outbox.subscribe()
    }

    pub(super) fn outbox_moved(&self) {
        // Nobody may share yet.
        let _ = self.outbox.send(());
    }

    /// The keys under which lies all that says whether a user is in, and in which epoch.
    pub fn shared_keys(user: &UserId) -> [String; 3] {
        [Key::User(user.clone()), Key::Issuer(Arc::clone(user.issuer())), Key::Cluster].map(|key| key.text())
    }

    /// Every key under which something is known here.
    pub fn known_keys(&self) -> Vec<String> {
        self.memory().keys().map(|key| key.text()).collect()
    }

    /// What is to stand under a key that is to be shared, where `found` stands now. `None`: leave it as it is. Changes nothing.
    ///
    /// # Errors
    /// [`ShareError::Unreadable`].
    pub fn offer(&self, key: &str, found: Option<&[u8]>) -> Result<Option<Offer>, ShareError> {
        let found_bytes = found;
        let found = found.map(|bytes| read(key, bytes)).transpose()?.map(|(_, value)| value);
        let mut memory = self.memory.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        let Some(known) = memory.outbox().and_then(|outbox| outbox.get(key)) else { return Ok(None) };
        let key_of = known.key.clone();
        let Some(mine) = memory.value(&key_of) else { return Ok(None) };
        let merged = merged(known.ancestor(found.as_ref()), found.as_ref(), &mine);
        let is_expected = found == known.base || found.as_ref() == known.offered.as_ref().map(|(_, offered)| offered);
        let value = merged.encode(&key_of);
        let is_new = found.as_ref() != Some(&merged);
        let value = if is_new { value } else { found_bytes.unwrap_or_default().to_vec() };
        let is_conflict = found.is_some() && !is_expected && found.as_ref() != Some(&mine);
        if let Sharing::On(outbox) = &mut memory.sharing
            && let Some(known) = outbox.get_mut(key)
        {
            known.offered = Some((mine, merged));
        }
        Ok(Some(Offer { value, is_new, is_conflict }))
    }
}

/// What stands under a key that is shared.
pub(super) fn read(key: &str, bytes: &[u8]) -> Result<(Key, Value), ShareError> {
    let unreadable = || ShareError::Unreadable(key.to_owned());
    let json: serde_json::Value = serde_json::from_slice(bytes).map_err(|_| unreadable())?;
    let key = Key::parse(key, json.get("id").and_then(serde_json::Value::as_str)).ok_or_else(unreadable)?;
    let value = Value::parse(&key, json).ok_or_else(unreadable)?;
    Ok((key, value))
}
