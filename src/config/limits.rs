//! `[limits]`: what one address may ask for before anybody knows who is asking.

use super::description::{Key, Kind, Table};
use super::diagnostic::Mistake;
use super::reader::Reader;
use super::tree::Section;
use std::time::Duration;

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
    /// `rate`: so many in each `per`, in the long run; at least 1.
    pub rate: u32,
    /// `per`. Default `1s`.
    pub per: Duration,
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

/// A table that is a [`Rate`].
pub(super) static RATE: Table = Table::of(&[
    Key::required("rate", MANY, "So many in the long run, in each `per`.").example("200"),
    Key::default("per", Kind::duration(Duration::from_secs(1), A_DAY), "\"1s\"", "The time that `rate` is for."),
    Key::optional("burst", MANY, "the same as `rate`", "So many at once after a rest.").example("400"),
]);

const MANY: Kind = Kind::Integer { least: 1, most: 1_000_000 };

/// A budget that was used up is whole again in this time at most: only then is its key forgotten.
const A_DAY: Duration = Duration::from_hours(24);

impl Limits {
    pub(super) fn read(section: &Section, reader: &mut Reader<'_>) -> Option<Self> {
        Some(Self {
            address: Rate::read_or_off(section, "address", reader)?,
            failed_authentications: Rate::read_or_off(section, "failed_authentications", reader)?,
        })
    }
}

impl Rate {
    /// The time in which one comes back.
    pub fn interval(&self) -> Duration {
        let nanos = self.per.as_nanos().div_ceil(u128::from(self.rate.max(1)));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// The word `off` is no rate.
    fn read_or_off(section: &Section, key: &str, reader: &mut Reader<'_>) -> Option<Option<Self>> {
        match section.section(key) {
            Some(rate) => Self::read(rate, reader).map(Some),
            None => section.text(key).map(|_| None),
        }
    }

    pub(super) fn read(section: &Section, reader: &mut Reader<'_>) -> Option<Self> {
        let (rate, per) = (section.integer("rate")?, section.duration("per")?);
        let burst = if section.is_given("burst") { section.integer("burst")? } else { rate };
        let read = Self { rate, per, burst };
        if read.interval().saturating_mul(burst) > A_DAY + Duration::from_secs(1) {
            let message = "`burst` takes more than a day to come back at this `rate`";
            let mistake = Mistake::at(section.value_span("burst"), message);
            reader.note(mistake.related(section.value_span("rate"), "so many in each `per`"));
        }
        Some(read)
    }
}
