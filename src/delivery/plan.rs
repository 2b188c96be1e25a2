//! What to do about one user now, and when to look again: a function of values, without a clock and without I/O.
//!
//! The one rule: what a reader finds is **empty** until the first sign-in and while anything is against the user, and else a
//! token whose every claim is as the issuer says now, with at least [`super::reserve::FLOOR_MS`] left.

use super::home::{Place, Session};
use super::record::{Held, Seen, User};
use super::reserve::{OUTAGE_MS, REFILL_MS, due_ms};
use super::sink::{Flaw, Stand};
use crate::base::clock::Now;
use crate::users::State;

/// What the plan depends on beside the user.
#[derive(Debug, Clone, Copy)]
pub struct World<'a> {
    /// The time.
    pub now: Now,
    /// Where the user stands.
    pub state: State,
    /// Their block epoch.
    pub epoch: u64,
    /// The digest of what a token for them would say.
    pub claims: &'a str,
    /// The ids of the keys that are published. A token by any other is refused everywhere.
    pub keys: &'a [&'a str],
    /// Whether our clock and the issuer's agree, as far as is known.
    pub are_clocks_right: bool,
    /// Whether the issuer answered when it was last asked, or may be asked again.
    pub is_answering: bool,
    /// How long ago the issuer last told about users; `None`: not known.
    pub silent_ms: Option<u64>,
    /// For how long tokens are minted on what was known before it fell silent.
    pub allow_for_ms: u64,
    /// The user's place among all ([`due_ms`]).
    pub phase_ms: u64,
    /// Whether this process may fill. Every process may empty.
    pub leads: bool,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Nothing now.
    Rest,
    /// Look what a reader finds.
    Look,
    /// Ask the issuer about the user.
    Read,
    /// Make the user's namespace with what belongs in it, or put it right.
    Settle,
    /// Mint, and write.
    Fill,
    /// Write nothing, so that nobody finds anything; and for who is out, end what their own credentials are bound to.
    Empty,
}

/// What is to be done, and when to look again at the latest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Now.
    pub act: Act,
    /// Of the monotonic clock; `None`: not before something happens.
    pub next_ms: Option<u64>,
}

/// Why nothing is to be found by a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The user never signed in.
    NeverSignedIn,
    /// They are blocked, or have to sign in again.
    Out(State),
    /// The issuer says that they are disabled or gone, and it is not decided yet what follows.
    SaidToBeOut,
    /// They have no namespace.
    NoNamespace,
}

/// Facts of this age are as good as asked for now.
const FRESH_MS: u64 = 30_000;

/// While something stands in the way, it is looked at again after this.
const AGAIN_MS: u64 = 1_000;

/// Why a reader is to find nothing; `None`: they are to find a token.
pub fn why_empty(user: &User, state: State) -> Option<Why> {
    let record = &user.record;
    match state {
        State::Active if !record.has_signed_in => Some(Why::NeverSignedIn),
        State::Active if record.gone.is_some() || record.is_offboarded || !record.facts.enabled => {
            Some(Why::SaidToBeOut)
        }
        State::Active if record.namespace.is_none() => Some(Why::NoNamespace),
        State::Active => None,
        state => Some(Why::Out(state)),
    }
}

impl Why {
    /// Whether nothing that acts for the user may go on.
    pub fn is_out(self) -> bool {
        matches!(self, Self::Out(_) | Self::SaidToBeOut)
    }
}

/// The plan for a user.
pub fn plan(user: &User, world: &World<'_>) -> Plan {
    let why = why_empty(user, world.state);
    let plan = match (&user.live.seen, why) {
        (Seen::Unknown, _) if user.live.home.place == Place::Elsewhere => Plan { act: Act::Rest, next_ms: None },
        (Seen::Unknown, _) => return at(Act::Look, user.live.failures.write_after_ms, world.now),
        (_, Some(why)) => empty(user, world, why),
        (_, None) => fill(user, world),
    };
    match plan.act {
        // Who does not lead sees to it that nobody keeps what they must not have, and leaves the rest to who does.
        Act::Read | Act::Settle | Act::Fill if !world.leads => Plan { act: Act::Rest, next_ms: None },
        Act::Empty if !world.leads && why.is_none() => Plan { act: Act::Rest, next_ms: None },
        Act::Rest => match user.live.home.next_ms(&user.record) {
            Some(look_ms) if world.leads => plan.sooner(look_ms),
            _ => plan,
        },
        _ => plan,
    }
}

fn empty(user: &User, world: &World<'_>, why: Why) -> Plan {
    if why == Why::SaidToBeOut && is_outdated(user, world) {
        return read(user, world);
    }
    if !is_emptied(user, world, why) {
        return at(Act::Empty, user.live.failures.write_after_ms, world.now);
    }
    if user.live.home.is_due(&user.record, !why.is_out(), is_absent(user), world.now) {
        return at(Act::Settle, user.live.home.after_ms, world.now);
    }
    // Somebody who signed in and is said to be out may be back; who has no name yet gets one by a read.
    let is_nameless = user.record.facts.username.is_empty();
    let is_unread = is_nameless || (why == Why::SaidToBeOut && user.record.gone.is_none());
    match user.live.doubted_ms {
        Some(_) => read(user, world),
        None if is_unread && !is_fresh(user, world) => read(user, world),
        None if is_unread => Plan { act: Act::Rest, next_ms: Some(world.now.monotonic_ms + FRESH_MS) },
        None => Plan { act: Act::Rest, next_ms: None },
    }
}

/// Whether the read that showed the user disabled is older than the token that another replica may have filled: it knew better, and they
/// were enabled since.
fn is_outdated(user: &User, world: &World<'_>) -> bool {
    let is_gone = user.record.gone.is_some() || user.record.is_offboarded;
    let Seen::Token(held) = &user.live.seen else { return false };
    let is_as_new = held.said.as_ref().is_some_and(|said| said.epoch >= world.epoch);
    let is_alone = user.live.home.place == Place::Elsewhere;
    is_as_new && !is_gone && !is_alone && user.live.read_ms.is_none_or(|read_ms| held.learned_ms > read_ms)
}

fn is_absent(user: &User) -> bool {
    matches!(user.live.seen, Seen::Absent)
}

/// Whether nobody finds anything, nor will by a write that was decided on before.
fn is_emptied(user: &User, world: &World<'_>, why: Why) -> bool {
    let is_elsewhere = user.live.home.place == Place::Elsewhere;
    let must_close = why.is_out() && !is_elsewhere && user.record.namespace.is_some();
    let is_empty = match user.live.seen {
        Seen::Empty => match &user.live.stand {
            Some(stand) if stand.flaw == Some(Flaw::Keyless) => false,
            stand => !must_close || stand.as_ref().is_some_and(|stand| stand.epoch >= world.epoch),
        },
        // What was removed stays away; and of whom nothing is known, nothing was ever written. In a cluster it is made otherwise.
        Seen::Absent => !is_elsewhere || user.record.is_offboarded || user.record.facts.username.is_empty(),
        Seen::Unknown | Seen::Token(_) | Seen::Foreign => false,
    };
    is_empty && (!must_close || user.live.home.session == Session::Closed)
}

fn fill(user: &User, world: &World<'_>) -> Plan {
    let now_ms = world.now.monotonic_ms;
    let home = &user.live.home;
    if home.is_due(&user.record, true, is_absent(user), world.now) && now_ms >= home.after_ms {
        return Plan { act: Act::Settle, next_ms: None };
    }
    if let Seen::Token(held) = &user.live.seen
        && is_current(held, user.live.stand.as_ref(), world)
    {
        let due_ms = due_ms(held.learned_ms, held.ends_ms, world.phase_ms);
        if now_ms < due_ms {
            return match user.live.doubted_ms {
                Some(_) => Plan { next_ms: Some(due_ms), ..read(user, world) }.sooner(now_ms + AGAIN_MS),
                None => Plan { act: Act::Rest, next_ms: Some(due_ms) },
            };
        }
    }
    // There is no place for it: whoever makes one, or sees that there is one, says so.
    if !home.is_placed() || (home.place == Place::Ready && is_absent(user)) {
        return Plan { act: Act::Rest, next_ms: Some(home.look_ms.max(home.after_ms).max(now_ms + 1)) };
    }
    // Facts that may be wrong are never signed, nor anything by a clock that may be.
    if !world.are_clocks_right {
        return Plan { act: Act::Rest, next_ms: Some(now_ms + AGAIN_MS) };
    }
    let is_doubted = user.live.doubted_ms.is_some();
    if is_fresh(user, world) && !is_doubted {
        return write(user, world);
    }
    if world.is_answering && now_ms >= user.live.failures.read_after_ms {
        return read(user, world);
    }
    // The issuer may answer about everybody else.
    let unread_ms = user.live.failures.unread_ms(now_ms);
    let is_excused = world.silent_ms.is_some_and(|silent_ms| silent_ms.max(unread_ms) <= world.allow_for_ms);
    if is_excused && !is_doubted && user.record.read_unix_ms > 0 {
        return write(user, world);
    }
    Plan { act: Act::Rest, next_ms: Some(now_ms + AGAIN_MS) }
}

/// A refill never overrides what others have set: that is taken out before.
fn write(user: &User, world: &World<'_>) -> Plan {
    let flaw = user.live.stand.as_ref().and_then(|stand| stand.flaw);
    // Somebody emptied it who knows of a block that is not known here yet.
    let is_marked = matches!(flaw, None | Some(Flaw::Keyless));
    if is_marked && user.live.stand.as_ref().is_some_and(|stand| stand.epoch > world.epoch) {
        return Plan { act: Act::Rest, next_ms: Some(world.now.monotonic_ms + AGAIN_MS) };
    }
    let act = if matches!(flaw, Some(Flaw::Held | Flaw::Fixed)) { Act::Empty } else { Act::Fill };
    at(act, user.live.failures.write_after_ms, world.now)
}

/// Until when a refill can wait for its turn, where a token merely comes to its end and nothing about it is in doubt.
pub fn can_wait_until(user: &User, world: &World<'_>) -> Option<u64> {
    let Seen::Token(held) = &user.live.seen else { return None };
    let until_ms = held.ends_ms.saturating_sub(REFILL_MS - OUTAGE_MS / 2);
    let is_plain = user.live.doubted_ms.is_none() && is_current(held, user.live.stand.as_ref(), world);
    (is_plain && world.now.monotonic_ms < until_ms).then_some(until_ms)
}

/// Whether what is found is a token of ours, marked as such, that says what it should.
fn is_current(held: &Held, stand: Option<&Stand>, world: &World<'_>) -> bool {
    let is_marked = stand.is_none_or(|stand| stand.flaw != Some(Flaw::Unmarked));
    let is_right = held.said.as_ref().is_some_and(|said| {
        said.epoch == world.epoch && said.claims == world.claims && world.keys.contains(&said.key.as_str())
    });
    is_marked && is_right
}

fn is_fresh(user: &User, world: &World<'_>) -> bool {
    user.live.read_ms.is_some_and(|read_ms| world.now.monotonic_ms.saturating_sub(read_ms) <= FRESH_MS)
}

fn read(user: &User, world: &World<'_>) -> Plan {
    if world.is_answering {
        return at(Act::Read, user.live.failures.read_after_ms, world.now);
    }
    Plan { act: Act::Rest, next_ms: Some(world.now.monotonic_ms + AGAIN_MS) }
}

/// The act, or its time.
fn at(act: Act, after_ms: u64, now: Now) -> Plan {
    if now.monotonic_ms < after_ms {
        return Plan { act: Act::Rest, next_ms: Some(after_ms) };
    }
    // If it comes to nothing, whoever does it says so.
    Plan { act, next_ms: None }
}

impl Plan {
    fn sooner(self, at_ms: u64) -> Self {
        match self.act {
            Act::Rest => Self { next_ms: self.next_ms.map_or(Some(at_ms), |next_ms| Some(next_ms.min(at_ms))), ..self },
            Act::Look | Act::Read | Act::Settle | Act::Fill | Act::Empty => self,
        }
    }
}
