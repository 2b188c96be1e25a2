//! The formulas of docs/scaling.md, in its words: what is asked of whom in so many seconds. Constants are named as in the code, and
//! written out: what is changed there has to be changed in the document too.

use super::cluster::Cast;
use super::gateway::{BOUND_S, Case};
use super::redis::Load;

/// A kind of call, and how many there are.
pub(crate) type Row = (&'static str, f64);

/// `watch/feed.rs` EACH.
const FEEDS_EVERY_S: f64 = 1.0;
/// `watch/sweep.rs` `pause_after`: of the bound.
const SWEEP: f64 = 2.0 / 3.0;
/// `issuer/keycloak/user.rs` PAGE and OVERLAP.
const USERS_PAGE: f64 = 500.0;
const USERS_OVERLAP: f64 = 20.0;
/// `issuer/keycloak/account.rs` `RENEW_AFTER_MS`.
const OWN_TOKEN_EVERY_S: f64 = 60.0;
/// `keys.refresh`, five minutes, less the twentieth that `issuer/refresh.rs` `pause_after` draws on average.
const KEYS_EVERY_S: f64 = 300.0 * 0.95;
/// `identity/calls.rs` `due_ms`: of the bound, on average of 0.6 to 0.75; and TICK, which is half of it late on average.
const REVALIDATED: f64 = 0.675;
const TICK_S: f64 = 0.1;

/// What all replicas ask Keycloak.
pub(crate) fn keycloak(case: &Case) -> Vec<Row> {
    let (r, s) = (case.replicas as f64, case.seconds as f64);
    let [t, k] = [case.tokens, case.seen_by].map(|number| number as f64);
    let [events, for_many] = [case.user_events, case.events_for_many].map(|number| number as f64);
    let pages = pages(case.disabled as f64);
    let sweeps = s / (BOUND_S * SWEEP);
    let in_use = t * k * s / (BOUND_S * REVALIDATED + TICK_S / 2.0);
    let most = f64::from(case.ceiling) * r * s;
    vec![
        ("events", 2.0 * r * s / FEEDS_EVERY_S),
        ("events config", r * sweeps),
        ("realm", r * (sweeps + for_many)),
        ("disabled users", r * sweeps * pages),
        ("own token", r * s / OWN_TOKEN_EVERY_S),
        ("discovery", r * s / KEYS_EVERY_S),
        ("key set", r * s / KEYS_EVERY_S),
        ("user", r * events),
        // A token that is asked about early comes later next time: half a turn each is saved.
        ("introspection", (in_use + (events + for_many * t) * k / 2.0).min(most)),
    ]
}

/// Pages of a list, of which the last rows of each are asked for again.
fn pages(users: f64) -> f64 {
    ((users - USERS_OVERLAP).max(0.0) / (USERS_PAGE - USERS_OVERLAP)).floor() + 1.0
}

/// `kubernetes/lease/mod.rs` `RENEW_EVERY` and `LOOK_EVERY`.
const RENEW_EVERY_S: f64 = 2.0;
const LOOK_EVERY_S: f64 = 1.0;
/// `kubernetes/watch/mod.rs` WATCH.
const WATCH_S: f64 = 60.0;
/// `replica/mod.rs` PARTS, `delivery/store/shared.rs` SHARDS.
const PARTS: f64 = 16.0;
/// `replica/carrier.rs` `until_look`: `CONFIRM_EVERY`, and up to a quarter more by the part: on average.
const CONFIRM_EVERY_S: f64 = 60.0 * (1.0 + 15.0 / 16.0 / 8.0);
/// `delivery/reserve.rs` `PERIOD_MS`.
const PERIOD_S: f64 = 660.0;
/// `delivery/home.rs` `LOOK_EVERY_MS`.
const HOME_EVERY_S: f64 = 3600.0;

/// `delivery/offboard.rs` `look_every`, for 24 hours.
const LIST_EVERY_S: f64 = 3600.0;

/// What all replicas ask the API server, and who leads Keycloak; all users have a token that is kept.
/// Before each refill `fenced_parts` Secrets are read (`delivery/write.rs` `start_fences`).
pub(crate) fn cluster(cast: &Cast, fenced_parts: f64) -> Vec<Row> {
    let [services, gateways] = [cast.services, cast.gateways].map(|number| number as f64);
    let (r, s, u) = (services + gateways, cast.seconds as f64, cast.users as f64);
    let [refills, homes, lists] = [u * s / PERIOD_S, u * s / HOME_EVERY_S, s / LIST_EVERY_S];
    vec![
        // All replicas.
        ("watch users", r * PARTS * s / WATCH_S),
        ("get users", r * PARTS * s / CONFIRM_EVERY_S + refills * fenced_parts),
        // Token services.
        ("watch records", services * PARTS * s / WATCH_S),
        ("watch tokens", services * s / WATCH_S),
        ("watch namespaces", services * s / WATCH_S),
        ("get lease", (services - 1.0) * s / LOOK_EVERY_S),
        // Who leads.
        ("put lease", s / RENEW_EVERY_S),
        ("patch token", refills),
        ("get namespace", homes),
        ("get token", homes),
        ("get account", homes),
        ("get binding", homes),
        ("get session", homes),
        // Who leads, at Keycloak: three calls each (`delivery/reserve.rs` `CALLS_PER_REFILL`), a page of the list, the realm around it.
        ("person", refills),
        ("list", lists),
        ("realm", 2.0 * lists),
    ]
}

/// What follows from blocks: at least, and at most.
pub(crate) fn blocks(cast: &Cast) -> Vec<(&'static str, f64, f64)> {
    let [services, gateways] = [cast.services, cast.gateways].map(|number| number as f64);
    let (r, b) = (services + gateways, cast.blocks as f64);
    vec![
        // All replicas: each reads the user at Keycloak, and the part in which they lie whenever another wrote; those write it who decided
        // before they heard.
        ("user", r * b, r * b),
        ("get users", r * b, 3.0 * r * b),
        ("patch users", b, (3.0 + r / 20.0) * b),
        // Token services: each may empty, and look what is there if another was first.
        ("patch token", b, services * b),
        ("get token", 0.0, services * b),
        ("delete session", b, 2.0 * services * b),
    ]
}

/// `replica/carrier.rs` `LOOK_EVERY`.
const LOOKS_EVERY_S: f64 = 0.2;
/// `rates/mod.rs` EVERY, `CONFIRM_EVERY` and PAGE.
const TOLD_EVERY_S: f64 = 0.04;
const ASKED_EVERY_S: f64 = 1.0;
const KEYS_PAGE: f64 = 200.0;

/// What all replicas ask Redis.
pub(crate) fn redis(load: &Load) -> Vec<Row> {
    let (r, s, keys) = (load.replicas as f64, load.seconds as f64, load.keys as f64);
    let exchanges = if load.keys == 0 { s / ASKED_EVERY_S } else { (keys / KEYS_PAGE).ceil() * s / TOLD_EVERY_S };
    vec![("look", r * s / LOOKS_EVERY_S), ("tell", r * exchanges)]
}
