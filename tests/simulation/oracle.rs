//! What is promised, held against what is so.
//!
//! Promises are counted from when a realm is well: a call that fails or is slow begins the count anew, as does a start of Postern.
//! Nothing here knows how Postern works, only what it could have been told.

use crate::world::{Incident, Ms, Person, REALMS, Realm, Token, World};

/// An event is acted on within this.
const TOLD_MS: Ms = 2_500;

/// After a failure the next try may be so far away.
const BACK_OFF_MS: Ms = 6_000;

/// The issuer's clock is looked at this often, and then all is as it should be.
const CLOCK_KNOWN_MS: Ms = 75_000;

/// What a token must get, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It must not pass.
    Out(&'static str),
    /// It must pass, at once.
    In(&'static str),
    /// It must pass, after the issuer was asked for the user's sessions.
    InIfAsked,
    /// Neither is promised.
    Open,
}

impl Realm {
    /// Since when whoever asks of it is answered well, and knows what time it is there.
    fn well_since(&self, up_since: Ms) -> Ms {
        let clock = self.stepped.map_or(0, |stepped| stepped + CLOCK_KNOWN_MS);
        (self.crisp_since.max(up_since) + BACK_OFF_MS).max(clock)
    }

    fn is_due(&self, incident: &Incident, now: Ms, up_since: Ms, bound: Ms) -> bool {
        let told = incident.from.at.max(self.well_since(up_since)) + TOLD_MS;
        let swept = incident.from.at.max(self.fair_since.max(up_since)) + bound;
        let is_swept = !incident.is_deletion && incident.until.is_none() && now >= swept;
        (incident.is_told && now >= told) || is_swept
    }
}

impl World {
    /// Notes what Postern must know by now. To be called before anything makes it less well.
    pub(crate) fn settle(&mut self, realm: usize) {
        if self.process.is_none() {
            return;
        }
        let (now, up_since, bound) = (self.now(), self.up_since, self.bound);
        let mut people = std::mem::take(&mut self.realms[realm].people);
        for incident in people.values_mut().flat_map(|person| &mut person.incidents) {
            incident.is_due |= self.realms[realm].is_due(incident, now, up_since, bound);
        }
        self.realms[realm].people = people;
    }

    /// Postern said that it blocked the user, for what was so at a time of the issuer's clock: then it knows of what was so before.
    pub(crate) fn heard_block(&mut self, realm: usize, name: &str, issuer_ms: u64) {
        let is_steady = self.realms[realm].stepped_back.is_none();
        let person = self.person(realm, name);
        if !person.is_touched {
            self.fail(format!("{} {name} is blocked, and nothing was ever held against them", REALMS[realm]));
            return;
        }
        for incident in &mut person.incidents {
            incident.is_due |= is_steady && incident.began_issuer_ms <= issuer_ms;
        }
    }

    /// Whether Postern can have noticed how the realm's clock was last set.
    pub(crate) fn is_clock_known(&self, realm: usize) -> bool {
        let realm = &self.realms[realm];
        realm.stepped.is_none() || (self.process.is_some() && realm.well_since(self.up_since) <= self.now())
    }

    /// What a token must get now.
    pub(crate) fn verdict(&self, realm: usize, person: &Person, token: &Token) -> Verdict {
        if let Some(why) = self.reason_to_be_out(person, token) {
            return Verdict::Out(why);
        }
        if !person.is_touched && !self.was_closed {
            return Verdict::In("nothing was ever held against them");
        }
        if person.is_barred || self.is_closed || token.is_revoked || person.is_busy {
            return Verdict::Open;
        }
        let is_over = |incident: &Incident| incident.until.is_some();
        if !person.incidents.iter().all(is_over) {
            return Verdict::Open;
        }
        if token.passed.is_some_and(|passed| passed > person.changed) {
            return Verdict::In("it passed, and nothing was held against them since");
        }
        match self.must_be_live(&self.realms[realm], person, token) {
            true => Verdict::InIfAsked,
            false => Verdict::Open,
        }
    }

    fn reason_to_be_out(&self, person: &Person, token: &Token) -> Option<&'static str> {
        let is_before = |at: Ms, issuer_ms: u64| token.began.at < at && token.began.issuer_ms < issuer_ms;
        if self.is_closed {
            return Some("the cluster is closed");
        }
        if person.is_barred {
            return Some("an operator blocks the user");
        }
        if token.is_revoked {
            return Some("it was revoked");
        }
        if let Some(floor) = person.floors.iter().find(|floor| is_before(floor.moment.at, floor.moment.issuer_ms)) {
            return Some(floor.why);
        }
        person.incidents.iter().filter(|incident| incident.is_due).find_map(|incident| match incident.until {
            None if incident.is_deletion => Some("the user is deleted"),
            None => Some("the user is disabled"),
            Some(until) => {
                let issuer_ms = incident.from.issuer_ms.min(until.issuer_ms);
                is_before(incident.from.at, issuer_ms).then_some("the user was disabled since it began")
            }
        })
    }

    /// Whether the sign-in is new enough, and everybody well enough, that its token must pass now.
    fn must_be_live(&self, realm: &Realm, person: &Person, token: &Token) -> bool {
        let now = self.now();
        let is_listed = match &token.session {
            Some(id) => person.sessions.iter().any(|session| session.id == *id),
            None => true,
        };
        // A clock that went back leaves thresholds that are still to come.
        let is_steady = realm.stepped_back.is_none();
        let was_told = person.incidents.iter().all(|incident| incident.is_told && incident.is_end_told);
        let well = realm.well_since(self.up_since);
        let quick = was_told && well <= person.changed && token.began.at >= person.changed + 2_000;
        let slow = token.began.at >= person.changed + self.bound + BACK_OFF_MS && well + self.bound <= token.began.at;
        is_listed && is_steady && now >= token.began.at + 3_000 && (quick || slow)
    }

    /// Whether a token that passes now must go on passing until there is news: all that was is known, and settled.
    pub(crate) fn is_settled(&self, realm: usize, person: &Person, token: &Token) -> bool {
        let realm = &self.realms[realm];
        let now = self.now();
        realm.well_since(self.up_since) + self.bound <= now
            && person.changed + self.bound + BACK_OFF_MS <= now
            && token.began.at > person.changed
            && realm.stepped_back.is_none()
            && !person.is_busy
    }
}
