//! What an upstream does about endpoints that fail: `health_check`, `outlier_detection`, `retry`, `circuit_breaker`.

use crate::config::description::{Key, Kind, Table};
use crate::config::diagnostic::Mistake;
use crate::config::reader::Reader;
use crate::config::tree::{Section, Value};
use http::StatusCode;
use http::uri::PathAndQuery;
use std::time::Duration;

/// `upstream.NAME.health_check`: endpoints are asked how they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// `path` of the `GET`; any 2xx is healthy.
    pub path: PathAndQuery,
    /// `interval` between two checks of an endpoint. Default `5s`.
    pub interval: Duration,
    /// `timeout` of one check, connection included. Default `2s`.
    pub timeout: Duration,
    /// `healthy_threshold`: so many good checks in a row bring an endpoint back. Default 2.
    pub healthy_threshold: u32,
    /// `unhealthy_threshold`: so many bad checks in a row take it out. Default 3.
    pub unhealthy_threshold: u32,
}

/// `upstream.NAME.outlier_detection`: endpoints that fail requests are left out for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutlierDetection {
    /// `consecutive_failures`: no connection, no answer in time, or a 5xx, so often in a row. Default 5.
    pub consecutive_failures: u32,
    /// `base_ejection_time`: times how often in a row the endpoint was ejected. Default `30s`.
    pub base_ejection_time: Duration,
    /// `max_ejection_time`: it grows no longer. Default `5m`.
    pub max_ejection_time: Duration,
    /// `max_ejection_percent`: of the endpoints that may be out at once. Default 50.
    pub max_ejection_percent: u8,
}

/// `upstream.NAME.retry`: requests that may safely be sent again are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// `max_retries` of one request. Default 2.
    pub max_retries: u32,
    /// `statuses` that are tried again, beside failures of the connection. Default 502, 503, 504.
    pub statuses: Vec<StatusCode>,
    /// `per_try_timeout`: until the head of the answer to one try. Default: all the time that there is.
    pub per_try_timeout: Option<Duration>,
    /// `budget_percent`: retries, of all requests. Default 20.
    pub budget_percent: u8,
    /// `min_retries_per_second` that the budget never denies. Default 10.
    pub min_retries_per_second: u32,
}

/// `upstream.NAME.circuit_breaker`: what there may be at once, of all workers together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CircuitBreaker {
    /// `max_connections`, idle ones included. Default: no limit.
    pub max_connections: Option<u32>,
    /// `max_pending_requests` that wait for a connection. Default 1024, where there is a limit of connections.
    pub max_pending_requests: Option<u32>,
    /// `max_requests` that are under way, those that wait included. Default: no limit.
    pub max_requests: Option<u32>,
}

/// How many requests wait for a connection, where nothing is said.
const PENDING: u32 = 1024;

/// Any number of something countable.
const COUNT: Kind = Kind::Integer { least: 1, most: 1_000_000 };

pub(super) static HEALTH_CHECK: Table = Table::of(&[
    Key::required("path", Kind::Text("a path"), "What is asked for, by `GET`. Any 2xx is healthy.")
        .example("\"/healthz\""),
    Key::default(
        "interval",
        Kind::at_least(Duration::from_millis(100)),
        "\"5s\"",
        "The time between two checks of an endpoint.",
    ),
    Key::default("timeout", Kind::DURATION, "\"2s\"", "How long a check may take, connection included."),
    Key::default("healthy_threshold", COUNT, "2", "So many good checks in a row bring an endpoint back."),
    Key::default("unhealthy_threshold", COUNT, "3", "So many bad checks in a row take an endpoint out."),
]);

pub(super) static OUTLIER_DETECTION: Table = Table::of(&[
    Key::default(
        "consecutive_failures",
        COUNT,
        "5",
        "Requests in a row that found no connection or no answer in time, or were answered 5xx, until the endpoint is ejected.",
    ),
    Key::default(
        "base_ejection_time",
        Kind::at_least(Duration::from_secs(1)),
        "\"30s\"",
        "How long an endpoint is out, times how often in a row it was ejected.",
    ),
    Key::default(
        "max_ejection_time",
        Kind::at_least(Duration::from_secs(1)),
        "\"5m\"",
        "The time out grows no longer than this.",
    ),
    Key::default(
        "max_ejection_percent",
        Kind::Integer { least: 0, most: 100 },
        "50",
        "How many of the endpoints may be out at once, rounded down. With 100, requests are answered 503 while all are.",
    ),
]);

pub(super) static RETRY: Table = Table::of(&[
    Key::default(
        "max_retries",
        Kind::Integer { least: 1, most: 10 },
        "2",
        "How often one request is sent again: only an idempotent one without a body, and never after a byte of its \
         answer was passed on.",
    ),
    Key::default(
        "statuses",
        Kind::list_or_empty(&Kind::Integer { least: 500, most: 599 }),
        "[502, 503, 504]",
        "Answers that are reason to try again, beside broken connections.",
    ),
    Key::optional(
        "per_try_timeout",
        Kind::DURATION,
        "all of `response_timeout`",
        "How long the head of the answer to one try may take. `response_timeout` is for all tries together.",
    )
    .example("\"5s\""),
    Key::default(
        "budget_percent",
        Kind::Integer { least: 0, most: 100 },
        "20",
        "How many retries there may be, of all requests: a service that is down is not asked several times as much.",
    ),
    Key::default(
        "min_retries_per_second",
        Kind::Integer { least: 0, most: 1_000_000 },
        "10",
        "So many the budget never denies, of all workers.",
    ),
]);

pub(super) static CIRCUIT_BREAKER: Table = Table::of(&[
    Key::optional(
        "max_connections",
        COUNT,
        "no limit",
        "Connections at once, of all workers and idle ones included. HTTP/2 is one connection a worker and endpoint, \
         and does not wait.",
    )
    .example("512"),
    Key::optional(
        "max_pending_requests",
        Kind::Integer { least: 0, most: 1_000_000 },
        "1024",
        "Requests that wait for a connection at once, each for at most `connect_timeout`. Needs `max_connections`.",
    )
    .example("1024"),
    Key::optional(
        "max_requests",
        COUNT,
        "no limit",
        "Requests that are under way at once, of all workers, streams and those that wait included.",
    )
    .example("1024"),
]);

impl HealthCheck {
    pub(super) fn read(section: &Section, reader: &mut Reader<'_>) -> Option<Self> {
        let path = reader.parse(section, "path", |text| {
            let path = text.parse::<PathAndQuery>().ok().filter(|_| text.starts_with('/'));
            path.ok_or_else(|| format!("`{text}` is no path: write one such as `/healthz`"))
        });
        let (interval, timeout) = (section.duration("interval")?, section.duration("timeout")?);
        if timeout > interval {
            let message = "`timeout` is longer than `interval`: checks of an endpoint would overtake each other";
            reader.note(Mistake::at(section.value_span("timeout"), message.to_owned()));
        }
        Some(Self {
            path: path?,
            interval,
            timeout,
            healthy_threshold: section.integer("healthy_threshold")?,
            unhealthy_threshold: section.integer("unhealthy_threshold")?,
        })
    }
}

impl OutlierDetection {
    pub(super) fn read(section: &Section, reader: &mut Reader<'_>) -> Option<Self> {
        let (base, max) = (section.duration("base_ejection_time")?, section.duration("max_ejection_time")?);
        if base > max {
            let message = "`max_ejection_time` is shorter than `base_ejection_time`";
            reader.note(Mistake::at(section.value_span("max_ejection_time"), message.to_owned()));
        }
        Some(Self {
            consecutive_failures: section.integer("consecutive_failures")?,
            base_ejection_time: base,
            max_ejection_time: max,
            max_ejection_percent: section.integer("max_ejection_percent")?,
        })
    }
}

impl Retry {
    /// `response_timeout` is that of the upstream.
    pub(super) fn read(section: &Section, response_timeout: Duration, reader: &mut Reader<'_>) -> Option<Self> {
        let per_try_timeout = section.duration("per_try_timeout");
        if per_try_timeout.is_some_and(|per_try| per_try > response_timeout) {
            let message = "`per_try_timeout` is longer than `response_timeout`, which is for all tries together";
            reader.note(Mistake::at(section.value_span("per_try_timeout"), message.to_owned()));
        }
        let statuses = section.list("statuses").iter().filter_map(|status| match status.value {
            Value::Integer(code) => StatusCode::from_u16(u16::try_from(code).ok()?).ok(),
            _ => None,
        });
        Some(Self {
            max_retries: section.integer("max_retries")?,
            statuses: statuses.collect(),
            per_try_timeout,
            budget_percent: section.integer("budget_percent")?,
            min_retries_per_second: section.integer("min_retries_per_second")?,
        })
    }
}

impl CircuitBreaker {
    pub(super) fn read(section: &Section, reader: &mut Reader<'_>) -> Self {
        let max_connections = section.integer("max_connections");
        if section.is_given("max_pending_requests") && !section.is_given("max_connections") {
            let message = "`max_pending_requests` needs `max_connections` beside it: without, nothing waits";
            reader.note(Mistake::at(section.key_span("max_pending_requests"), message.to_owned()));
        }
        Self {
            max_connections,
            max_pending_requests: max_connections
                .map(|_: u32| section.integer("max_pending_requests").unwrap_or(PENDING)),
            max_requests: section.integer("max_requests"),
        }
    }
}
