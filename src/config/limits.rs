//! `[limits]`: what one address may ask for before anybody knows who is asking.

use super::description::{Key, Kind, Table};
use super::tree::Section;

/// `[limits]`: judged by the client's address, IPv6 by its network of 64 bits, before a token is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// `address`: requests of one address. Default: no limit.
    pub address: Option<Rate>,
    /// `failed_authentications`: requests of one address whose token is not valid. Default 100 a second, 1,000 at once.
    pub failed_authentications: Option<Rate>,
}

/// How often something may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// `rate`: so many a second in the long run; at least 1.
    pub per_second: u32,
    /// `burst`: so many at once after a rest; at least 1. Default: the rate.
    pub burst: u32,
}

/// `[limits]`.
pub(super) static LIMITS: Table = Table::of(&[
    Key::default(
        "address",
        Kind::WordOr(&["off"], &RATE),
        "\"off\"",
        "Requests of one client address; those beyond are answered with 429.",
    ),
    Key::default(
        "failed_authentications",
        Kind::WordOr(&["off"], &RATE),
        "{ rate = 100, burst = 1000 }",
        "Requests of one client address whose token is not valid. An address beyond it is answered with 429, \
         unless it shows a token that was verified before.",
    ),
]);

static RATE: Table = Table::of(&[
    Key::required("rate", MANY, "So many a second in the long run.").example("200"),
    Key::optional("burst", MANY, "the same as `rate`", "So many at once after a rest.").example("400"),
]);

const MANY: Kind = Kind::Integer { least: 1, most: 1_000_000 };

impl Limits {
    pub(super) fn read(section: &Section) -> Option<Self> {
        Some(Self {
            address: Rate::read(section, "address")?,
            failed_authentications: Rate::read(section, "failed_authentications")?,
        })
    }
}

impl Rate {
    /// The word `off` is no rate.
    fn read(section: &Section, key: &str) -> Option<Option<Self>> {
        let Some(rate) = section.section(key) else { return section.text(key).map(|_| None) };
        let per_second = rate.integer("rate")?;
        let burst = if rate.is_given("burst") { rate.integer("burst")? } else { per_second };
        Some(Some(Self { per_second, burst }))
    }
}
