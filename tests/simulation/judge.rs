//! Tokens come all the time, and what each gets is held against what is promised.

use crate::oracle::Verdict;
use crate::world::{REALMS, Shared, Token, World};
use postern::users::{Judgement, TokenClaims};
use std::sync::Arc;
use std::time::Duration;

/// Every token is judged after a pause from this to that, in milliseconds.
const PAUSE_MS: (u64, u64) = (200, 1_800);

/// Judges every token, and asks for a proof for some.
pub(crate) async fn judge_for_ever(world: Shared) {
    loop {
        let pause = world.lock().unwrap().luck.between(PAUSE_MS.0, PAUSE_MS.1);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        judge_all(&world);
        let asked = {
            let mut world = world.lock().unwrap();
            let mut all = tokens(&world);
            let count = all.len().min(3);
            (0..count).map(|_| all.swap_remove(world.luck.below(all.len()))).collect::<Vec<_>>()
        };
        for (realm, name, token) in asked {
            tokio::spawn(ask(Arc::clone(&world), realm, name, token));
        }
    }
}

fn claims<'a>(realm: usize, name: &'a str, token: &'a Token) -> TokenClaims<'a> {
    TokenClaims {
        issuer: REALMS[realm],
        subject: name,
        session: token.session.as_deref(),
        issued: Some(token.issued_s),
        id: Some(&token.id),
        epoch: None,
    }
}

/// Every token that anybody holds.
pub(crate) fn tokens(world: &World) -> Vec<(usize, String, Token)> {
    let of_realm = |realm: usize| world.realms[realm].people.iter().map(move |(name, person)| (realm, name, person));
    let people = (0..2).flat_map(of_realm);
    people
        .flat_map(|(realm, name, person)| person.tokens.iter().map(move |token| (realm, name.clone(), token.clone())))
        .collect()
}

/// Judges every token at this moment, without asking the issuer.
pub(crate) fn judge_all(world: &Shared) {
    let mut world = world.lock().unwrap();
    for realm in 0..2 {
        world.settle(realm);
    }
    let Some(process) = world.process.clone() else { return };
    let now = process.clock.now();
    for realm in 0..2 {
        let mut people = std::mem::take(&mut world.realms[realm].people);
        for (name, person) in &mut people {
            let mut tokens = std::mem::take(&mut person.tokens);
            for token in &mut tokens {
                world.counts.judgements += 1;
                let judgement = process.users.judge(&claims(realm, name, token), now);
                let verdict = world.verdict(realm, person, token);
                world.hold(verdict, Some(judgement), realm, name, token, false);
                let passes = judgement == Judgement::Admitted;
                if passes && token.passed.is_none() && world.is_settled(realm, person, token) {
                    token.passed = Some(world.now());
                }
            }
            person.tokens = tokens;
        }
        world.realms[realm].people = people;
    }
}

/// Judges a token as a request would have it judged.
pub(crate) async fn ask(world: Shared, realm: usize, name: String, token: Token) {
    let (process, before) = {
        let mut world = world.lock().unwrap();
        let Some(process) = world.process.clone() else { return };
        world.counts.proofs_asked += 1;
        let before = world.verdict(realm, &world.realms[realm].people[&name], &token);
        (process, before)
    };
    let judgement = process.ask(realm, &claims(realm, &name, &token)).await;
    let mut world = world.lock().unwrap();
    if !world.process.as_ref().is_some_and(|now| Arc::ptr_eq(now, &process)) {
        return;
    }
    world.settle(realm);
    let after = world.verdict(realm, &world.realms[realm].people[&name], &token);
    let must_pass = matches!(before, Verdict::In(_) | Verdict::InIfAsked);
    if must_pass || matches!(after, Verdict::Out(_)) {
        world.hold(after, judgement, realm, &name, &token, true);
    }
}

impl World {
    fn hold(
        &mut self,
        verdict: Verdict,
        judgement: Option<Judgement>,
        realm: usize,
        name: &str,
        token: &Token,
        was_asked: bool,
    ) {
        let passes = judgement == Some(Judgement::Admitted);
        let what = |promise: &str| {
            let Token { id, session, began, .. } = token;
            let (realm, session) = (REALMS[realm], session.as_deref().unwrap_or("none"));
            format!("{realm} {name}, {id} of {session} begun at {began:?} got {judgement:?}, but must {promise}")
        };
        match verdict {
            Verdict::Out(why) => {
                self.counts.must_be_out += 1;
                if passes {
                    self.fail(what(&format!("not pass: {why}")));
                }
            }
            Verdict::In(why) => {
                self.counts.must_be_in += 1;
                if !passes {
                    self.fail(what(&format!("pass: {why}")));
                }
            }
            Verdict::InIfAsked if was_asked => {
                self.counts.must_be_in += 1;
                if !passes {
                    self.fail(what("pass: the user signed in anew"));
                }
            }
            Verdict::InIfAsked | Verdict::Open => {}
        }
    }
}
