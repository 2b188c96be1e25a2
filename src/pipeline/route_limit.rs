//! Stage 3, its second half, and stage 7: how often a route may be asked for, in all, and by one address, user or namespace.
//!
//! What is asked of a limit is one question, `Ask`: may this key have one more? The answer is given here, from a table that all
//! workers share and that nobody waits for ([`crate::base::rate_table`]). What a route does not limit costs it a look at an
//! empty place. Of limits that replicas count together, what is taken is noted too ([`Ledger`]), and others are told later.

use super::{Context, Rejection};
use crate::base::budget::{Pace, network};
use crate::base::clock::Now;
use crate::base::ledger::{Ledger, Name};
use crate::base::rate_table::{RateTable, Single};
use crate::config::{self, Rate, Route};
use crate::telemetry::reason::Reason;
use aws_lc_rs::digest::{Context as Digest, SHA256};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// The limits of the routes of one configuration. A limit that stays the same outlives a reload, with what is counted.
#[derive(Debug, Default)]
pub struct RouteLimits {
    /// By index of the route; nothing where no route has any.
    by_route: Vec<Option<Box<OfRoute>>>,
    tables: Option<Tables>,
    /// Where it is noted what other replicas are to be told: callers before addresses.
    ledgers: Arc<[Arc<Ledger>]>,
}

/// Where it is counted. Addresses have a table of their own: they are counted before anybody knows who is asking, so that whoever has
/// many could fill it, and must not take the places of users.
#[derive(Debug, Clone)]
struct Tables {
    addresses: Table,
    callers: Table,
}

/// One of them, and the notes of what others are to be told of it.
#[derive(Debug, Clone)]
struct Table {
    places: Arc<RateTable>,
    notes: Arc<Ledger>,
}

/// The limits of one route.
#[derive(Debug)]
struct OfRoute {
    name: String,
    address: Option<Limit>,
    user: Option<Limit>,
    namespace: Option<Limit>,
    route: Option<Limit>,
}

/// One of them.
#[derive(Debug, Clone)]
struct Limit {
    rate: Rate,
    pace: Pace,
    reason: Reason,
    /// What tells its keys from those of others: the route, and what is counted.
    of: u64,
    table: Arc<RateTable>,
    /// For keys that find no place in the table.
    shared: Arc<Single>,
    /// Where replicas count together.
    told: Option<Arc<Told>>,
}

/// What others are told of a limit.
#[derive(Debug)]
struct Told {
    notes: Arc<Ledger>,
    /// What all replicas know the limit by.
    name: String,
}

/// Whether one key may have one more.
struct Ask<'a> {
    limit: &'a Limit,
    of: Counted<'a>,
    key: u64,
}

/// Whose requests are counted.
#[derive(Debug, Clone, Copy, Hash)]
enum Counted<'a> {
    Address(IpAddr),
    User { issuer: &'a str, subject: &'a str },
    Namespace(Option<&'a str>),
    Everybody,
}

/// How many keys a table remembers, of all routes together: 4 MiB.
const CAPACITY: usize = 1 << 18;

/// Of how many keys others can be told at a time: 1.6 MiB while there are so many.
const NOTES: usize = 1 << 14;

impl RouteLimits {
    /// The limits that the routes ask for; what is counted of those that `former` has with the same rate goes on.
    pub(super) fn new(routes: &[Arc<Route>], former: Option<&Self>) -> Self {
        if routes.iter().all(|route| route.limit.is_none()) {
            return Self::default();
        }
        let tables = former.and_then(|former| former.tables.clone()).unwrap_or_else(Tables::new);
        let by_route = routes.iter().map(|route| {
            let former = former.and_then(|former| former.named(&route.name));
            route.limit.as_deref().map(|limit| Box::new(OfRoute::new(&route.name, limit, &tables, former)))
        });
        let by_route: Vec<_> = by_route.collect();
        let told = || by_route.iter().flatten().flat_map(|of| of.limits()).filter_map(|limit| limit.told.as_ref());
        let is_told = |notes: &&Arc<Ledger>| told().any(|told| Arc::ptr_eq(&told.notes, notes));
        let ledgers = [&tables.callers.notes, &tables.addresses.notes];
        let ledgers = ledgers.into_iter().filter(is_told).cloned().collect();
        Self { by_route, tables: Some(tables), ledgers }
    }

    /// Lets a request of an address go on, or not; counts it.
    ///
    /// # Errors
    /// 429.
    pub(super) fn admit_address(&self, context: &Context) -> Result<(), Rejection> {
        match self.of(context).and_then(|of| of.address.as_ref()) {
            Some(limit) => limit.ask(Counted::Address(network(context.client))).take(context.now),
            None => Ok(()),
        }
    }

    /// Lets a request that may pass the route go on, or not; counts it.
    ///
    /// # Errors
    /// 429.
    pub(super) fn admit_caller(&self, context: &Context) -> Result<(), Rejection> {
        match self.of(context) {
            Some(limits) => limits.admit_caller(context),
            None => Ok(()),
        }
    }

    fn of(&self, context: &Context) -> Option<&OfRoute> {
        self.by_route.get(context.route?)?.as_deref()
    }

    fn named(&self, route: &str) -> Option<&OfRoute> {
        self.by_route.iter().flatten().map(|limits| &**limits).find(|limits| limits.name == route)
    }

    /// How often a key found no place in its table, and shared a budget with others like it.
    pub fn crowded(&self) -> u64 {
        self.tables().map(|table| table.places.crowded()).sum()
    }

    /// How many requests others are not told of, since too many keys were in use at once.
    pub fn untold(&self) -> u64 {
        self.tables().map(|table| table.notes.untold()).sum()
    }

    /// Where it is noted what other replicas are to be told; nothing where replicas count for themselves.
    pub fn ledgers(&self) -> Arc<[Arc<Ledger>]> {
        Arc::clone(&self.ledgers)
    }

    fn tables(&self) -> impl Iterator<Item = &Table> {
        self.tables.iter().flat_map(|tables| [&tables.callers, &tables.addresses])
    }
}

impl Tables {
    fn new() -> Self {
        Self { addresses: Table::new(), callers: Table::new() }
    }
}

impl Table {
    fn new() -> Self {
        let places = Arc::new(RateTable::new(CAPACITY));
        Self { notes: Arc::new(Ledger::new(Arc::clone(&places), NOTES)), places }
    }
}

impl OfRoute {
    fn new(name: &str, config: &config::RouteLimit, tables: &Tables, former: Option<&Self>) -> Self {
        let limit = |rate: Option<Rate>, reason: Reason, former: Option<&Limit>| {
            let rate = rate?;
            let is_same = |former: &&Limit| former.rate == rate && former.told.is_some() == config.shared;
            let known = former.filter(is_same).cloned();
            let table = if reason == Reason::TooManyRequests { &tables.addresses } else { &tables.callers };
            Some(known.unwrap_or_else(|| Limit::new(name, (rate, config.shared), reason, table)))
        };
        let kept = |pick: fn(&Self) -> Option<&Limit>| former.and_then(pick);
        Self {
            name: name.to_owned(),
            address: limit(config.address, Reason::TooManyRequests, kept(|former| former.address.as_ref())),
            user: limit(config.user, Reason::TooManyRequestsOfUser, kept(|former| former.user.as_ref())),
            namespace: limit(
                config.namespace,
                Reason::TooManyRequestsOfNamespace,
                kept(|former| former.namespace.as_ref()),
            ),
            route: limit(config.route, Reason::TooManyRequestsOfRoute, kept(|former| former.route.as_ref())),
        }
    }

    fn limits(&self) -> impl Iterator<Item = &Limit> {
        [&self.address, &self.user, &self.namespace, &self.route].into_iter().flatten()
    }

    #[inline(never)]
    fn admit_caller(&self, context: &Context) -> Result<(), Rejection> {
        let caller = context.caller.as_ref().map(|caller| &*caller.identity);
        let user = self.user.as_ref().zip(caller);
        let namespace = self.namespace.as_ref().zip(caller);
        let asks = [
            user.map(|(limit, caller)| {
                limit.ask(Counted::User { issuer: &caller.issuer.name, subject: &caller.subject })
            }),
            namespace.map(|(limit, caller)| limit.ask(Counted::Namespace(caller.namespace.as_deref()))),
            self.route.as_ref().map(|limit| limit.ask(Counted::Everybody)),
        ];
        let asks = || asks.iter().flatten();
        // Whom one limit refuses takes nothing of the others. (Of two at the same moment the second may: it is the lesser fault.)
        if asks().count() > 1 {
            asks().try_for_each(|ask| ask.check(context.now))?;
        }
        asks().try_for_each(|ask| ask.take(context.now))
    }
}

impl Limit {
    fn new(route: &str, (rate, is_shared): (Rate, bool), reason: Reason, table: &Table) -> Self {
        let pace = Pace::new(rate.burst, rate.interval());
        // What was counted at another pace says nothing at this one; nor what replicas with another file count.
        let of = table.places.key((route, reason, pace));
        let name = || format!("{}\0{}\0{}\0{route}\0", reason.code(), rate.burst, rate.interval().as_nanos());
        let told = is_shared.then(|| Arc::new(Told { notes: Arc::clone(&table.notes), name: name() }));
        Self { rate, pace, reason, of, table: Arc::clone(&table.places), shared: Arc::default(), told }
    }

    fn ask<'a>(&'a self, of: Counted<'a>) -> Ask<'a> {
        Ask { limit: self, of, key: self.table.key((self.of, of)) }
    }
}

impl Told {
    /// What all replicas know one key of the limit by.
    fn name_of(&self, of: Counted<'_>) -> Name {
        let mut digest = Digest::new(&SHA256);
        digest.update(self.name.as_bytes());
        match of {
            Counted::Address(IpAddr::V4(address)) => digest.update(&address.octets()),
            Counted::Address(IpAddr::V6(address)) => digest.update(&address.octets()),
            Counted::User { issuer, subject } => {
                digest.update(issuer.as_bytes());
                // No name of an issuer has one.
                digest.update(b"\0");
                digest.update(subject.as_bytes());
            }
            // No namespace is empty.
            Counted::Namespace(namespace) => digest.update(namespace.unwrap_or_default().as_bytes()),
            Counted::Everybody => {}
        }
        let mut name = Name::default();
        name.copy_from_slice(digest.finish().as_ref());
        name
    }
}

impl Ask<'_> {
    /// Whether there is one; takes nothing.
    fn check(&self, now: Now) -> Result<(), Rejection> {
        let Limit { table, pace, shared, .. } = self.limit;
        table.wait(self.key, *pace, shared, now).map_or(Ok(()), |wait| Err(self.refused(wait)))
    }

    /// Takes one.
    fn take(&self, now: Now) -> Result<(), Rejection> {
        let Limit { table, pace, shared, told, .. } = self.limit;
        table.take(self.key, *pace, shared, now).map_err(|wait| self.refused(wait))?;
        if let Some(told) = told {
            told.notes.note(self.key, *pace, now, || told.name_of(self.of));
        }
        Ok(())
    }

    fn refused(&self, wait: Duration) -> Rejection {
        Rejection::too_many(self.limit.reason, wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Clock;
    use std::path::Path;

    fn limits(rest: &str, limit: &str, former: Option<&RouteLimits>) -> RouteLimits {
        let text = format!(
            "version = 1\n[issuer.i]\nurl = 'https://i'\naudience = 'a'\nuser_status = 'none'\n[upstream.u]\n\
             to = 'http://127.0.0.1:1'\n{rest}\n[[route]]\npath = '/**'\nupstream = 'u'\nlimit = {{ {limit} }}\n"
        );
        let config = config::parse(&text, Path::new("t.toml")).unwrap_or_else(|mistakes| panic!("{mistakes}"));
        RouteLimits::new(&config.routes, former)
    }

    #[test]
    fn what_is_taken_is_noted_where_replicas_count_together_and_nowhere_else() {
        const REDIS: &str = "[redis]\nurl = 'unix:/r.sock'";
        let user = "user = { rate = 9 }";
        let now = Clock::manual(1).now();
        let noted = |limits: &RouteLimits| {
            let of = limits.by_route[0].as_deref().unwrap();
            assert!(of.limits().all(|limit| limit.ask(Counted::Everybody).take(now).is_ok()));
            limits.ledgers().iter().map(|ledger| ledger.drain().len()).collect::<Vec<_>>()
        };
        let both = limits(REDIS, "user = { rate = 9 }, route = { rate = 9 }, address = { rate = 9 }", None);
        assert_eq!(noted(&both), [2, 1]);
        assert_eq!(noted(&limits(REDIS, user, None)), [1]);
        for (rest, more) in [("", ""), (REDIS, ", shared = false")] {
            assert_eq!(noted(&limits(rest, &format!("{user}{more}"), Some(&both))), [] as [usize; 0]);
            let tables = both.tables.as_ref().unwrap();
            assert!(tables.callers.notes.drain().is_empty() && tables.addresses.notes.drain().is_empty());
        }
    }

    #[test]
    fn keys_that_differ_have_names_that_differ_and_each_replica_gives_the_same() {
        let names = || {
            let limits = limits("[redis]\nurl = 'unix:/r.sock'", "user = { rate = 1 }, route = { rate = 1 }", None);
            let of = limits.by_route[0].as_deref().unwrap();
            let told = of.user.as_ref().unwrap().told.as_ref().unwrap();
            let user = |issuer, subject| told.name_of(Counted::User { issuer, subject });
            let address = |text: &str| told.name_of(Counted::Address(text.parse().unwrap()));
            let route = of.route.as_ref().unwrap().told.as_ref().unwrap().name_of(Counted::Everybody);
            let users = [user("a", "bc"), user("ab", "c"), user("a", "bd")];
            let rest = [address("1.2.3.4"), address("::1.2.3.4"), told.name_of(Counted::Namespace(None)), route];
            [&users[..], &rest].concat()
        };
        assert_eq!(names(), names());
        assert_eq!(names().iter().collect::<std::collections::HashSet<_>>().len(), 7);
    }

    #[test]
    fn a_flood_of_addresses_takes_no_place_of_a_user() {
        let limit = "address = { rate = 1000000, per = '1d' }, user = { rate = 1, per = '1d' }";
        let limits = limits("", limit, None);
        let of = limits.by_route[0].as_deref().unwrap();
        let (address, user) = (of.address.as_ref().unwrap(), of.user.as_ref().unwrap());
        let now = Clock::manual(1).now();
        for n in 0..u32::try_from(CAPACITY * 5 / 4).unwrap() {
            assert!(address.ask(Counted::Address(network(n.to_be_bytes().into()))).take(now).is_ok());
        }
        let crowded = limits.crowded();
        let ask = |subject: &str| user.ask(Counted::User { issuer: "i", subject }).take(now);
        assert!(crowded > 0 && (0..1000).all(|n| ask(&n.to_string()).is_ok()));
        assert_eq!(limits.crowded(), crowded);
    }
}
