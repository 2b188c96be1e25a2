//! How much is asked of Keycloak, of the API server and of Redis: counted on their side, and held against the formulas of docs/scaling.md.

mod cluster;
mod formulas;
mod gateway;
mod keycloak;
mod redis;

use crate::say;
use cluster::Cast;
use formulas::Row;
use gateway::Case;
use redis::Load;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Mutex;

/// How far what was counted may be from a formula: of it, and one call of each replica, for a time that begins and ends.
const TOLERANCE: f64 = 0.05;

/// Whether it is played for as long as in earnest: without optimization what is enough to tell a wrong formula has to do.
fn is_long() -> bool {
    !cfg!(debug_assertions) || std::env::var_os("POSTERN_FULL").is_some()
}

/// How long is counted.
fn seconds() -> u64 {
    if is_long() { 3_600 } else { 120 }
}

/// Calls by kind.
#[derive(Debug, Default)]
pub(crate) struct Counted(Mutex<BTreeMap<&'static str, u64>>);

impl Counted {
    pub(crate) fn count(&self, kind: &'static str) {
        *self.0.lock().unwrap().entry(kind).or_default() += 1;
    }

    /// All until now, which are counted anew.
    pub(crate) fn take(&self) -> Vec<(&'static str, u64)> {
        std::mem::take(&mut *self.0.lock().unwrap()).into_iter().collect()
    }
}

/// Each row of the table is as was counted, and nothing was counted that is in no row.
fn compare(what: &dyn Debug, replicas: usize, rows: &[Row], counted: &[(&'static str, u64)]) {
    let mut wrong = Vec::new();
    for (kind, formula) in rows {
        let found = counted.iter().find(|(known, _)| known == kind).map_or(0, |(_, found)| *found);
        let apart = (found as f64 - formula).abs();
        say(&format!("  {kind:<16} {found:>7} counted, {formula:>9.1} by the formula"));
        if apart > formula * TOLERANCE + replicas as f64 {
            wrong.push(format!("{kind}: {found} counted, {formula:.1} by the formula"));
        }
    }
    let is_unknown = |kind: &str| rows.iter().all(|(known, _)| *known != kind);
    wrong.extend(
        counted.iter().filter(|(kind, _)| is_unknown(kind)).map(|(kind, found)| format!("{kind}: {found}, in no row")),
    );
    assert!(wrong.is_empty(), "{what:?}: {wrong:#?}");
}

/// As the suite counts cases.
fn say_passed(cases: usize) {
    say(&format!("{cases} passed, 0 failed, 0 skipped"));
}

#[test]
fn keycloak_is_asked_as_often_as_the_table_says() {
    let base = Case {
        replicas: 1,
        tokens: 20,
        seen_by: 1,
        disabled: 0,
        user_events: 0,
        events_for_many: 0,
        ceiling: 100,
        before: 20,
        seconds: seconds(),
    };
    let mut cases = vec![
        base,
        Case { replicas: 4, tokens: 10, seen_by: 4, disabled: 500, ..base },
        Case { replicas: 2, tokens: 20, seen_by: 2, user_events: 20, events_for_many: 2, ..base },
        // More than each may ask about in good time, and fewer than it may within the bound.
        Case { replicas: 2, tokens: 180, ceiling: 4, before: 70, ..base },
    ];
    if is_long() {
        cases.extend([2, 8].map(|replicas| Case { replicas, tokens: 40, ..base }));
    }
    for case in &cases {
        say(&format!("{case:?}"));
        let (counted, refused) = gateway::play(case);
        compare(case, case.replicas, &formulas::keycloak(case), &counted);
        assert_eq!(refused, 0, "{case:?}: nothing was known of users");
    }
    let crowded = Case { replicas: 1, tokens: 150, ceiling: 4, before: 70, ..base };
    let (counted, refused) = gateway::play(&crowded);
    compare(&crowded, 1, &formulas::keycloak(&crowded), &counted);
    assert!(refused > 0, "more tokens than the ceiling has calls within the bound");
    say_passed(cases.len() + 1);
}

#[test]
fn redis_is_asked_as_often_as_the_table_says() {
    let loads = [(1, 0), (2, 50), (4, 50), (2, 210)];
    for (replicas, keys) in loads {
        let load = Load { replicas, keys, seconds: seconds() / 20 };
        say(&format!("{load:?}"));
        compare(&load, replicas, &formulas::redis(&load), &redis::play(&load));
    }
    say_passed(loads.len());
}

#[test]
fn the_api_server_is_asked_as_often_as_the_table_says() {
    let quick = Cast { services: 2, gateways: 1, users: 6, before: 730, blocks: 0, seconds: 660 };
    let long = Cast { before: 1_500, seconds: 7_200, users: 50, ..quick };
    let long = vec![Cast { services: 1, gateways: 0, ..long }, long, Cast { services: 2, gateways: 14, ..long }];
    let casts = if is_long() { long } else { vec![quick] };
    for cast in &casts {
        say(&format!("{cast:?}"));
        let (counted, fenced_parts) = cluster::play(cast);
        compare(cast, cast.services + cast.gateways, &formulas::cluster(cast, fenced_parts), &counted);
    }
    say_passed(casts.len());
}

#[test]
fn a_block_costs_what_the_table_says_at_most() {
    let gateways = if is_long() { &[0, 2, 6, 14, 30, 98][..] } else { &[2, 14] };
    for gateways in gateways.iter().copied() {
        // Each part was read again in the half minute before, and is not a third time in two minutes: what is read follows from blocks.
        let cast = Cast { services: 2, gateways, users: 6, before: 76, blocks: 2, seconds: 33 };
        let (counted, fenced_parts) = cluster::play(&cast);
        say(&format!("{cast:?}: {counted:?}"));
        for (kind, least, most) in formulas::blocks(&cast) {
            let of = |kind| counted.iter().find(|(known, _)| *known == kind).map_or(0.0, |(_, found)| *found as f64);
            // Which of them had a fence of their own is not known.
            let refills = of("person") * if kind == "get users" { fenced_parts } else { 0.0 };
            let found = of(kind);
            assert!(
                (least..=most + refills).contains(&found),
                "{cast:?}: {kind}: {found} counted, {least} to {most} by the formula"
            );
        }
    }
    say_passed(gateways.len());
}
