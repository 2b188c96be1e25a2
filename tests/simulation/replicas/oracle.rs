//! What is promised, held against what readers find: at each write, and once a second.
//!
//! - **floor**: whoever is in finds a token with ten minutes left and the three that a kubelet may be behind, from the first fill on;
//! - **ceiling**: and none with more than thirty;
//! - **blocked means empty**: whoever is out finds nothing after the bound, and nothing from then on, until they sign in again;
//! - **one writer**: nobody fills who does not hold the Lease by its own reckoning, no two hold it at once, and none undoes the other.
//!
//! Where readers find all that, no replica counts a token below the floor.
//!
//! While something is wrong nothing new is demanded, but what was so must stay so.

use super::people::{Filled, Person, Standing};
use super::world::{EPOCH, Ms, Shared, World};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::Value;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Ten minutes for the reader, three for the kubelet.
const FLOOR_S: i64 = 13 * 60;

/// Thirty minutes, and by how much the clock of who mints may be ahead.
const CEILING_S: i64 = 30 * 60;
const AHEAD_S: i64 = 13;

/// How long after all is well whoever is in has a token: a takeover, and the longest pause after failures.
const FILL_MS: Ms = 45_000;

/// The bound.
const EMPTY_MS: Ms = 30_000;

/// Nobody's token is made again so soon, if nothing about it changed.
const AGAIN_MS: Ms = 40_000;

/// Whoever holds a Lease has seen by then that somebody took it away.
const LEASE_MS: Ms = 10_000;

/// What a reader finds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Reader {
    /// Nothing, or not even a Secret.
    pub(crate) is_empty: bool,
    pub(crate) token: Option<Token>,
    text: String,
}

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    expires: i64,
    issued: i64,
    subject: String,
    roles: Value,
    epoch: Value,
}

impl Reader {
    fn of(secret: Option<&Value>) -> Self {
        let text = secret.and_then(|secret| secret["data"]["AUTH_TOKEN"].as_str()).unwrap_or_default();
        let bytes = STANDARD.decode(text).unwrap_or_default();
        let text = String::from_utf8(bytes).unwrap_or_default();
        Self { is_empty: text.is_empty(), token: Token::of(&text), text }
    }
}

impl Person {
    /// So recently that it may not be put right yet.
    fn was_edited(&self, now: Ms) -> bool {
        self.edited.is_some_and(|edited| now < edited + 2 * FILL_MS)
    }
}

impl Token {
    fn of(text: &str) -> Option<Self> {
        let payload = URL_SAFE_NO_PAD.decode(text.split('.').nth(1)?).ok()?;
        let claims: Value = serde_json::from_slice(&payload).ok()?;
        Some(Self {
            expires: claims["exp"].as_i64()?,
            issued: claims["iat"].as_i64()?,
            subject: claims["sub"].as_str()?.to_owned(),
            roles: claims["roles"].clone(),
            epoch: claims["epoch"].clone(),
        })
    }
}

impl World {
    /// What a reader finds there now. `by`: the replica that just wrote.
    pub(crate) fn look_at(&mut self, namespace: &str, by: Option<usize>) {
        let secret = self.memory.get("api/v1", "secrets", Some(namespace), "access-token");
        let reader = Reader::of(secret.as_ref());
        let before = self.readers.insert(namespace.to_owned(), reader.clone()).unwrap_or_default();
        if before.text == reader.text {
            return;
        }
        let id = format!("id-{namespace}");
        match (by, &reader.token) {
            (Some(slot), Some(token)) => {
                self.counts.fills += 1;
                let left = token.expires - self.unix_s();
                self.log(|| format!("  {slot} fills {namespace}: {left} s"));
                self.check_fill(&id, slot, token);
            }
            (Some(slot), None) => {
                self.counts.empties += 1;
                self.log(|| format!("  {slot} empties {namespace}"));
                let now = self.now();
                if let Some(person) = self.people.get_mut(&id) {
                    // Whoever takes a token away knows why.
                    person.is_unheard = false;
                    let is_for_edit = person.was_edited(now);
                    person.is_settled |= person.standing == Standing::Out && reader.is_empty && !is_for_edit;
                }
            }
            (None, _) => {}
        }
        self.judge(&id);
    }

    fn unix_s(&self) -> i64 {
        i64::try_from(EPOCH + self.now() / 1000).unwrap()
    }

    fn check_fill(&mut self, id: &str, slot: usize, token: &Token) {
        let (now, unix_s) = (self.now(), self.unix_s());
        let Some(person) = self.people.get_mut(id) else {
            return self.fail(format!("{id} is nobody, and has a token"));
        };
        let minted_s = u64::try_from(token.issued + AHEAD_S).unwrap().saturating_sub(EPOCH);
        let before = person.filled.replace(Filled { at: now, by: slot, minted: now.min(minted_s * 1000) });
        let says = (token.roles.clone(), token.epoch.clone());
        let says_more = person.said.as_ref() != Some(&says);
        person.said = Some(says);
        let mut wrong = None;
        if token.subject != id {
            wrong = Some(format!("{id} has a token of {}", token.subject));
        }
        if token.expires - token.issued > CEILING_S || token.expires - unix_s > CEILING_S + AHEAD_S {
            wrong = Some(format!("{id} has a token for {} s", token.expires - unix_s));
        }
        if let Some(before) = before {
            let is_caused = says_more || person.cause.max(person.edited.unwrap_or(0)) + EMPTY_MS > before.at;
            if now < before.minted + AGAIN_MS && !is_caused {
                wrong = Some(format!("{slot} fills {id} anew, {} ms after {}", now - before.at, before.by));
            }
        }
        if let Some(wrong) = wrong {
            self.fail(wrong);
        }
    }

    /// Holds what a reader of this user's token finds against what is promised.
    pub(crate) fn judge(&mut self, id: &str) {
        let (now, unix_s, crisp_since) = (self.now(), self.unix_s(), self.crisp_since);
        let Some(person) = self.people.get_mut(id) else { return };
        let nothing = Reader { is_empty: true, ..Reader::default() };
        let reader = self.readers.get(&person.name).unwrap_or(&nothing);
        let begin = person.since.max(crisp_since).max(person.edited.unwrap_or(0));
        let mut wrong = None;
        if person.standing == Standing::In {
            let left = reader.token.as_ref().map_or(0, |token| token.expires - unix_s);
            // What lay there before they signed in is void.
            let is_held = left >= FLOOR_S && person.filled.is_some_and(|filled| filled.at >= person.since);
            if !is_held && (person.is_settled || now > begin + FILL_MS) {
                wrong = Some(format!("{id} is in and finds {left} s"));
            }
            let is_due = now > begin.max(person.changed) + FILL_MS;
            if is_due
                && is_held
                && reader.token.as_ref().is_some_and(|token| token.roles != Value::from(person.roles.clone()))
            {
                wrong = Some(format!("{id} finds the roles that they had"));
            }
            person.is_unheard &= now <= begin + FILL_MS;
            person.is_settled |= is_held && !person.is_unheard;
            self.counts.must_hold += u64::from(person.is_settled);
        } else {
            let is_due = now > begin + EMPTY_MS;
            let is_new = person.standing == Standing::New && person.edited.is_none();
            if !reader.is_empty && (person.is_settled || is_due || is_new) {
                let state = if is_new { "new" } else { "out" };
                wrong = Some(format!("{id} is {state} and finds a token"));
            }
            person.is_settled |= is_due;
            self.counts.must_be_empty += u64::from(person.is_settled);
        }
        if let Some(wrong) = wrong {
            self.fail(wrong);
        }
    }

    fn tick(&mut self) {
        if !self.is_crisp() {
            self.crisp_since = self.now();
        }
        let leaders: Vec<_> = self.slots.iter().flat_map(|slot| &slot.line).filter(|line| line.leads()).collect();
        // A Lease that somebody else edits is another's while its holder does not know yet.
        let is_edited = self.lease_edited.is_some_and(|edited| self.now() < edited + LEASE_MS);
        if leaders.len() > 1 && !is_edited {
            let who: Vec<_> = leaders.iter().map(|line| line.slot).collect();
            self.fail(format!("{who:?} lead at once"));
        }
        self.hold_alarms();
        let everybody: Vec<_> = self.people.keys().cloned().collect();
        everybody.iter().for_each(|id| self.judge(id));
    }

    /// Who did not see that a user edited their Secret may count what its repair takes.
    fn hold_alarms(&mut self) {
        let is_repaired = self.people.values().any(|person| person.was_edited(self.now()));
        let lines: Vec<_> = self.slots.iter().flat_map(|slot| &slot.line).cloned().collect();
        for line in lines {
            let counted = line.counts.violations();
            if line.counted.swap(counted, Ordering::Relaxed) < counted && !is_repaired {
                self.fail(format!("{} counts a token below the floor", line.slot));
            }
        }
    }
}

/// Looks once a second.
pub(crate) async fn judge_for_ever(world: Shared) {
    loop {
        world.lock().unwrap().tick();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
