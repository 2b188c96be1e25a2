//! Why something could not be had from a Redis.

use std::io;
use std::time::Duration;

/// Why something could not be had from a Redis.
#[derive(Debug, thiserror::Error)]
pub enum RedisError {
    /// No connection can be had.
    #[error("redis at `{place}` cannot be reached")]
    Connect {
        /// Its URL.
        place: String,
        /// What the system, or TLS, said.
        #[source]
        source: io::Error,
    },
    /// It took too long.
    #[error("redis at `{place}` did not answer within {}", humantime::format_duration(*.after))]
    TimedOut {
        /// Its URL.
        place: String,
        /// The time.
        after: Duration,
    },
    /// It said no, or broke off.
    #[error("redis at `{place}` did not do what it was asked")]
    Refused {
        /// Its URL.
        place: String,
        /// What it said.
        #[source]
        source: redis::RedisError,
    },
    /// What it said is not what it was asked for.
    #[error("redis: `{0}` is not as postern wrote it")]
    Unexpected(String),
    /// Others change the same without end.
    #[error("redis: `{0}` is being changed by others all the time")]
    Conflict(String),
}
