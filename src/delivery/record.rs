//! What is known of one user: what is kept over a restart ([`Record`]), and what this process alone knows ([`Live`]).

use super::home::Home;
use super::names::NameProblem;
use super::offboard::Gone;
use super::sink::Stand;
use crate::base::clock::Now;
use crate::base::secret::Secret;
use crate::kubernetes::Revision;
use crate::token_service::{Grant, NamespaceKind, Said};
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What is kept of a user.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// What the issuer said last.
    pub facts: Facts,
    /// When it was asked, by our wall clock, in milliseconds since 1970; 0: of a list only, or never.
    #[serde(default)]
    pub read_unix_ms: u64,
    /// The user's namespace. Given once, and theirs from then on, whatever they are called later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Since when it is surely theirs, by our wall clock, in milliseconds since 1970: what acts for a namesake of before acts for nobody.
    /// 0: not yet. In a cluster a Namespace of that name may be there, and somebody else's.
    #[serde(default)]
    pub named_unix_ms: u64,
    /// Whether they ever signed in. Whether they have to do so again is for [`crate::users::Users`] to say.
    #[serde(default)]
    pub has_signed_in: bool,
    /// Since when the issuer knows no such user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gone: Option<Gone>,
    /// What was theirs is removed; only the namespace is kept.
    #[serde(default)]
    pub is_offboarded: bool,
}

/// What an issuer says about a user, as far as tokens tell it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// The name that they sign in with. Empty: never read.
    pub username: String,
    /// Absent if they have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// Realm roles, sorted.
    #[serde(default)]
    pub roles: Vec<String>,
    /// Paths of groups, sorted.
    #[serde(default)]
    pub groups: Vec<String>,
    /// May act.
    pub enabled: bool,
}

/// A user, as the delivery has them in memory.
#[derive(Debug, Clone, Default)]
pub struct User {
    /// What is kept.
    pub record: Record,
    /// What is not.
    pub live: Live,
}

/// What only this process knows. Times are of the monotonic clock, in milliseconds.
#[derive(Debug, Clone, Default)]
pub struct Live {
    /// What a reader finds, as it was last read back.
    pub seen: Seen,
    /// In which state that is, where it has one: what the next write is decided on.
    pub stand: Option<Stand>,
    /// When it was last deleted. What was read of it before is no news.
    pub lost: Option<Revision>,
    /// Whether a token was there, and nothing was against the user since: whoever reads is to find one.
    pub is_promised: bool,
    /// What stands around it.
    pub home: Home,
    /// When the read was begun that gave the facts.
    pub read_ms: Option<u64>,
    /// The newest reason to think that the facts are no longer right.
    pub doubted_ms: Option<u64>,
    /// Reads, and writes, that failed in a row.
    pub failures: Failures,
    /// Why the user has no namespace, or not the one that their name asks for.
    pub name_problem: Option<NameProblem>,
}

/// What failed, and until when it is left alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Failures {
    /// Reads of the user.
    pub reads: u32,
    /// Writes of their token.
    pub writes: u32,
    /// Since when every read failed, if any did.
    pub unread_since_ms: u64,
    /// No read begins before this.
    pub read_after_ms: u64,
    /// No write begins before this.
    pub write_after_ms: u64,
}

/// What a reader finds.
#[derive(Debug, Clone, Default)]
pub enum Seen {
    /// Not looked at yet.
    #[default]
    Unknown,
    /// Nothing is there.
    Absent,
    /// It is there, and empty.
    Empty,
    /// A text.
    Token(Arc<Held>),
    /// Something that cannot be read, or is no text.
    Foreign,
}

/// A token where its readers find it.
#[derive(Debug)]
pub struct Held {
    /// The token.
    pub token: Secret,
    /// Its digest.
    pub digest: String,
    /// What it says, if a key signed it that was published when it was found.
    pub said: Option<Said>,
    /// `exp`, in seconds since 1970; 0 if it is none of ours.
    pub expires: i64,
    /// When it ends.
    pub ends_ms: u64,
    /// When it was written, or found.
    pub learned_ms: u64,
}

impl Failures {
    /// A read failed.
    pub fn note_read(&mut self, now_ms: u64) {
        if self.reads == 0 {
            self.unread_since_ms = now_ms;
        }
        self.reads = self.reads.saturating_add(1);
        self.read_after_ms = now_ms.saturating_add(back_off_ms(self.reads));
    }

    /// For how long every read failed, in milliseconds; 0 if the last did not.
    pub fn unread_ms(&self, now_ms: u64) -> u64 {
        if self.reads == 0 { 0 } else { now_ms.saturating_sub(self.unread_since_ms) }
    }

    /// A write failed.
    pub fn note_write(&mut self, now_ms: u64) {
        self.writes = self.writes.saturating_add(1);
        self.write_after_ms = now_ms.saturating_add(back_off_ms(self.writes).min(LONGEST_WRITE_PAUSE_MS));
    }
}

impl Failures {
    /// What was theirs could not be removed: that is in no hurry.
    pub fn note_removal(&mut self, now_ms: u64) {
        self.writes = self.writes.saturating_add(1);
        self.write_after_ms = now_ms.saturating_add(back_off_ms(self.writes));
    }
}

/// A blocked user's token must not stay where it is for longer than it has to.
const LONGEST_WRITE_PAUSE_MS: u64 = 2_000;

fn back_off_ms(failures: u32) -> u64 {
    (500 << failures.min(6)).min(20_000)
}

impl Record {
    /// The user's namespace, once it is surely theirs.
    pub fn own_namespace(&self) -> Option<&str> {
        self.namespace.as_deref().filter(|_| self.named_unix_ms > 0)
    }

    /// The namespace was found to be theirs, or not. Whether that is news.
    pub(super) fn set_owned(&mut self, is_owned: bool, now: Now) -> bool {
        let was_owned = self.named_unix_ms > 0;
        if was_owned != is_owned {
            self.named_unix_ms = if is_owned { now.unix_ms } else { 0 };
        }
        was_owned != is_owned
    }

    /// What a token for this user says, for whom it is minted and by whom that is read; `None` without a namespace.
    pub fn grant<'a>(&'a self, issue: &'a Issue, subject: &'a str, epoch: u64) -> Option<Grant<'a>> {
        Some(Grant {
            template: &issue.template,
            subject,
            original_issuer: &issue.original_issuer,
            namespace: self.namespace.as_deref()?,
            kind: NamespaceKind::Own,
            email: self.facts.email.as_deref().unwrap_or_default(),
            username: Some(&self.facts.username),
            authorized_party: None,
            epoch,
            roles: &self.facts.roles,
            groups: &self.facts.groups,
        })
    }

    /// The same in a few bytes: whether there is anything to store. When the facts were read does not count where `counts_reads` is
    /// not set, but whether they ever were.
    pub fn gist(&self, counts_reads: bool) -> u64 {
        let read_unix_ms = if counts_reads { self.read_unix_ms } else { self.read_unix_ms.min(1) };
        let text = serde_json::to_vec(&Self { read_unix_ms, ..self.clone() }).unwrap_or_default();
        gist_of(&text)
    }
}

/// What the tokens of everybody have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issue {
    /// Audience, and which roles and groups are carried.
    pub template: Arc<crate::config::NamespaceToken>,
    /// `orig_iss`: the URL of the users' issuer.
    pub original_issuer: String,
}

/// The first bytes of SHA-256, as a number.
pub fn gist_of(bytes: &[u8]) -> u64 {
    let digest = digest(&SHA256, bytes);
    digest.as_ref().iter().take(8).fold(0, |gist, byte| (gist << 8) | u64::from(*byte))
}

/// SHA-256, as text.
pub fn digest_of(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(digest(&SHA256, bytes))
}
