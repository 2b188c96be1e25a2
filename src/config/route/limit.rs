//! `limit`: how often a route may be asked for.

use super::Access;
use crate::config::Rate;
use crate::config::description::{Key, Kind, Table};
use crate::config::diagnostic::Mistake;
use crate::config::limits::RATE;
use crate::config::reader::Reader;
use crate::config::tree::Section;

/// `route.limit`: each that is given must have room for a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteLimit {
    /// `address`: requests of one client address, IPv6 by its network of 64 bits, judged before the token is looked at.
    pub address: Option<Rate>,
    /// `user`: requests of one user, by issuer and `sub`.
    pub user: Option<Rate>,
    /// `namespace`: requests of the users of one namespace together; those of users without one count together, too.
    pub namespace: Option<Rate>,
    /// `route`: requests of all callers together that may pass the route.
    pub route: Option<Rate>,
    /// `shared`: replicas count together. Default: where there is a `[redis]`.
    pub shared: bool,
}

pub(super) static LIMIT: Table = Table::of(&[
    Key::optional(
        "address",
        Kind::Table(&RATE),
        "no limit",
        "Requests of one client address, IPv6 by its network of 64 bits; counted before a token is looked at.",
    )
    .example("{ rate = 50, burst = 100 }"),
    Key::optional(
        "user",
        Kind::Table(&RATE),
        "no limit",
        "Requests of one user, by issuer and `sub`. This and what follows counts requests that may pass the route.",
    )
    .example("{ rate = 10, burst = 20 }"),
    Key::optional(
        "namespace",
        Kind::Table(&RATE),
        "no limit",
        "Requests of all users of one namespace; users who have none count as one namespace.",
    )
    .example("{ rate = 100 }"),
    Key::optional("route", Kind::Table(&RATE), "no limit", "Requests of all callers together.")
        .example("{ rate = 60000, per = \"1m\", burst = 2000 }"),
    Key::optional(
        "shared",
        Kind::Flag,
        "`true` with `[redis]`",
        "Whether replicas count together, through the Redis of `[redis]`; with `false` each counts for itself.",
    )
    .example("false"),
]);

/// Those that are limits.
const LIMITS: [&str; 4] = ["address", "user", "namespace", "route"];

impl RouteLimit {
    pub(super) fn read(
        route: &Section,
        access: Option<&Access>,
        root: &Section,
        reader: &mut Reader<'_>,
    ) -> Option<Self> {
        let section = route.section("limit")?;
        if access == Some(&Access::Public) {
            for key in ["user", "namespace"].into_iter().filter(|key| section.is_given(key)) {
                let message = format!("a public route has no user, so it cannot be limited by `{key}`");
                let mistake = Mistake::at(section.value_span(key), message);
                reader.note(mistake.related(route.value_span("access"), "everybody passes, and no token is checked"));
            }
        }
        if !LIMITS.iter().any(|key| section.is_given(key)) {
            let mistake = Mistake::at(section.span.clone(), "`limit` limits nothing");
            reader.note(mistake.label("expected at least one of `address`, `user`, `namespace` and `route`"));
        }
        let has_redis = !reader.is_absent(root, "redis");
        if section.flag("shared") == Some(true) && !has_redis {
            let mistake = Mistake::at(section.value_span("shared"), "replicas count together through a Redis");
            reader.note(mistake.absence().help("add `[redis]`; in a cluster each replica counts for itself"));
        }
        let shared = section.flag("shared").unwrap_or(has_redis);
        let mut rate = |key| section.section(key).and_then(|rate| Rate::read(rate, reader));
        let (address, user, namespace, route) = (rate("address"), rate("user"), rate("namespace"), rate("route"));
        Some(Self { address, user, namespace, route, shared })
    }
}
