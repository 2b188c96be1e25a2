//! `[state]` and `[cluster]`: what Postern remembers, and until when it lets anybody in.

use super::description::{Key, Kind, Table};
use super::reader::Reader;
use super::tree::Section;
use std::path::PathBuf;
use std::time::SystemTime;

/// `[state]`: the embedded store. Used where [`super::Config::has_state`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// `path` of its folder, made with mode 0700 if absent. Default: `postern-state` beside the file.
    pub path: PathBuf,
}

/// `[cluster]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cluster {
    /// `valid_until`: every user is refused from then on. Default: never. May lie in the past.
    pub valid_until: Option<SystemTime>,
}

/// `[state]`.
pub(super) static STATE: Table = Table::of(&[Key::default(
    "path",
    Kind::Path,
    "\"postern-state\"",
    "The folder of the embedded store, made with mode 0700 if absent. Used where an issuer has `user_status.keycloak`, \
     with `[kubernetes]` or `[redis]`, where `[operator]` is on, or `[token_service.clients]` exist.",
)]);

/// `[cluster]`.
pub(super) static CLUSTER: Table = Table::of(&[Key::optional(
    "valid_until",
    Kind::Text("a time in UTC"),
    "for ever",
    "Every user is refused from then on, until it is changed; then each must sign in again.",
)
.example("\"2027-01-01T00:00:00Z\"")]);

impl State {
    pub(super) fn read(section: &Section) -> Option<Self> {
        Some(Self { path: section.path("path")? })
    }
}

impl Cluster {
    pub(super) fn read(section: &Section, reader: &mut Reader<'_>) -> Option<Self> {
        let valid_until = reader.parse(section, "valid_until", time);
        (valid_until.is_some() || !section.is_given("valid_until")).then_some(Self { valid_until })
    }
}

/// Why a time is refused.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no time: write one in UTC, as in `2027-01-01T00:00:00Z`")]
struct TimeError(String);

fn time(text: &str) -> Result<SystemTime, TimeError> {
    humantime::parse_rfc3339(text).map_err(|_| TimeError(text.to_owned()))
}
