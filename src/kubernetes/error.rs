//! What the API server may answer instead of what was asked for, told apart as far as callers must.

use kube::core::Status;
use std::time::Duration;

/// The longest text of the server that is kept, in characters.
const LONGEST_MESSAGE: usize = 300;

/// Why something was not done, or may not have been done.
///
/// None of them holds what was sent: a message of the server is kept only where it cannot quote a body.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KubernetesError {
    /// 404: the object is not there, or its namespace is not.
    #[error("`{what}` is not there")]
    NotFound {
        /// Kind, namespace and name.
        what: String,
    },
    /// 409: the object is another than the one the write was decided on. Read again, decide again.
    #[error("`{what}` has changed since it was read")]
    Conflict {
        /// Kind, namespace and name.
        what: String,
    },
    /// 409: somebody else has set fields that a server-side apply would change.
    #[error("`{what}` has fields that were set by {}", managers.join(", "))]
    Held {
        /// Kind, namespace and name.
        what: String,
        /// Who set them: names of field managers, each once.
        managers: Vec<String>,
    },
    /// 409: something of this name is there already.
    #[error("`{what}` is there already")]
    Exists {
        /// Kind, namespace and name.
        what: String,
    },
    /// 403: the namespace is being deleted, so nothing can be made in it.
    #[error("the namespace of `{what}` is being deleted")]
    Terminating {
        /// Kind, namespace and name.
        what: String,
    },
    /// 410: the resource version asked for is too old; list again.
    #[error("what was asked of `{what}` is too long ago")]
    Expired {
        /// What was listed or watched.
        what: String,
    },
    /// 403: our account may not do this, or an admission rule forbids it.
    #[error("`{what}`: forbidden: {message}")]
    Forbidden {
        /// Kind, namespace and name.
        what: String,
        /// The server's words, which name the missing right.
        message: String,
    },
    /// 401, by the status alone: over HTTP/2 its body may be cut off.
    #[error("the API server refuses our credentials")]
    Unauthorized,
    /// 429.
    #[error("the API server asks for fewer requests")]
    Throttled {
        /// How long to wait at least, where the server says so.
        after: Option<Duration>,
    },
    /// 400, 422 and their like: asking again the same cannot help.
    #[error("`{what}` is not accepted: {message}")]
    Invalid {
        /// Kind, namespace and name.
        what: String,
        /// The server's reason and the fields that it names.
        message: String,
    },
    /// No answer, or not all of one. A write may have been done.
    #[error("`{what}`: no answer of the API server: {cause}")]
    Unreachable {
        /// Kind, namespace and name.
        what: String,
        /// What the connection says.
        cause: String,
    },
    /// 5xx. A write may have been done.
    #[error("`{what}`: the API server failed with {status}")]
    Server {
        /// Kind, namespace and name.
        what: String,
        /// The status.
        status: u16,
        /// How long to wait at least, where the server says so.
        after: Option<Duration>,
    },
    /// An answer that is not what was asked for: another status, not JSON of that shape, or too much of it.
    #[error("`{what}`: the API server answered something else than what was asked for")]
    Unexpected {
        /// Kind, namespace and name.
        what: String,
    },
    /// A write was answered with an object that does not hold what was written.
    #[error("`{what}` does not hold what was written")]
    NotKept {
        /// Kind, namespace and name.
        what: String,
    },
    /// No client can be made of what was configured.
    #[error("{0}")]
    Setup(String),
}

impl KubernetesError {
    /// The error that an answer of `status` is. `body` is what could be read of it.
    pub(super) fn of_answer(what: &str, status: u16, after: Option<Duration>, body: &[u8]) -> Self {
        let told: Status = serde_json::from_slice(body).unwrap_or_default();
        Self::of_status(what, status, after, &told)
    }

    /// As [`Self::of_answer`], of a status that came inside a watch.
    pub(super) fn of_status(what: &str, status: u16, after: Option<Duration>, told: &Status) -> Self {
        let what = what.to_owned();
        let after = after.or_else(|| told_wait(told));
        match status {
            401 => Self::Unauthorized,
            403 if has_cause(told, "NamespaceTerminating") => Self::Terminating { what },
            403 => Self::Forbidden { what, message: shown(&told.message) },
            404 => Self::NotFound { what },
            409 if told.reason == "AlreadyExists" => Self::Exists { what },
            409 if has_cause(told, "FieldManagerConflict") => Self::Held { what, managers: managers(told) },
            409 => Self::Conflict { what },
            410 => Self::Expired { what },
            429 => Self::Throttled { after },
            400..=499 => Self::Invalid { what, message: summary(status, told) },
            500..=599 => Self::Server { what, status, after },
            _ => Self::Unexpected { what },
        }
    }

    /// How long the server asks to be left alone, where it does.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Throttled { after } | Self::Server { after, .. } => *after,
            _ => None,
        }
    }

    /// Whether the same request may succeed when it is sent again as it is.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Throttled { .. } | Self::Unreachable { .. } | Self::Server { .. } | Self::Unauthorized)
    }
}

/// What became of a write that was decided on what was read before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write<T> {
    /// Done; this is what the server holds now.
    Done(T),
    /// Not done: the object changed, went or came meanwhile. Read again, decide again.
    Stale,
    /// Not done: others have set fields that are ours to set, and this write does not override them.
    Held {
        /// Their names as field managers.
        managers: Vec<String>,
    },
}

impl<T> Write<T> {
    /// Makes values of the two errors that every writer must expect.
    pub(super) fn of(result: Result<T, KubernetesError>) -> Result<Self, KubernetesError> {
        match result {
            Ok(value) => Ok(Self::Done(value)),
            Err(KubernetesError::Conflict { .. }) => Ok(Self::Stale),
            Err(KubernetesError::Held { managers, .. }) => Ok(Self::Held { managers }),
            Err(error) => Err(error),
        }
    }
}

fn told_wait(told: &Status) -> Option<Duration> {
    let seconds = told.details.as_ref()?.retry_after_seconds;
    (seconds > 0).then(|| Duration::from_secs(u64::from(seconds)))
}

fn has_cause(told: &Status, reason: &str) -> bool {
    told.details.as_ref().is_some_and(|details| details.causes.iter().any(|cause| cause.reason == reason))
}

/// The field managers of an apply conflict: each cause says `conflict with "NAME" using VERSION`.
fn managers(told: &Status) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for cause in told.details.iter().flat_map(|details| &details.causes) {
        if let Some(name) = cause.message.split('"').nth(1).map(shown)
            && !names.contains(&name)
        {
            names.push(name);
        }
    }
    names
}

/// The server's own message may quote what was sent, so only the names of fields are taken.
fn summary(status: u16, told: &Status) -> String {
    let mut text = format!("{status} {}", told.reason);
    for cause in told.details.iter().flat_map(|details| &details.causes) {
        text.push_str(&format!(", {} {}", cause.field, cause.reason));
    }
    shown(&text)
}

/// A text of the server's, fit for one line of a log.
fn shown(text: &str) -> String {
    text.chars().take(LONGEST_MESSAGE).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(status: u16, body: &str) -> KubernetesError {
        KubernetesError::of_answer("secrets/a/access-token", status, None, body.as_bytes())
    }

    #[test]
    fn two_kinds_of_conflict_and_what_exists_are_told_apart() {
        let stale = r#"{"kind":"Status","reason":"Conflict","code":409,"message":"the object has been modified"}"#;
        assert!(matches!(error(409, stale), KubernetesError::Conflict { .. }));
        assert!(matches!(error(409, r#"{"reason":"AlreadyExists"}"#), KubernetesError::Exists { .. }));
        let held = r#"{"reason":"Conflict","details":{"causes":[
            {"reason":"FieldManagerConflict","message":"conflict with \"kubectl-edit\" using v1","field":".data.AUTH_TOKEN"},
            {"reason":"FieldManagerConflict","message":"conflict with \"kubectl-edit\" using v1","field":".metadata.labels.x"}]}}"#;
        let expected = KubernetesError::Held {
            what: "secrets/a/access-token".to_owned(),
            managers: vec!["kubectl-edit".to_owned()],
        };
        assert_eq!(error(409, held), expected);
    }

    #[test]
    fn a_status_tells_without_a_body() {
        assert_eq!(error(401, "{\"kind\":\"Stat"), KubernetesError::Unauthorized);
        assert!(matches!(error(403, ""), KubernetesError::Forbidden { .. }));
        assert!(matches!(error(404, "<html>"), KubernetesError::NotFound { .. }));
        assert!(matches!(error(410, ""), KubernetesError::Expired { .. }));
        assert!(matches!(error(422, ""), KubernetesError::Invalid { .. }));
        assert!(matches!(error(503, ""), KubernetesError::Server { status: 503, .. }));
        assert!(matches!(error(302, ""), KubernetesError::Unexpected { .. }));
    }

    #[test]
    fn only_what_may_pass_is_called_passing() {
        for (status, is_passing) in [(401, true), (403, false), (404, false), (409, false), (410, false), (422, false)]
        {
            assert_eq!(error(status, "").is_passing(), is_passing, "{status}");
        }
        assert!(error(429, "").is_passing() && error(500, "").is_passing());
    }

    #[test]
    fn a_namespace_that_goes_is_no_missing_right() {
        let body = r#"{"reason":"Forbidden","details":{"causes":[{"reason":"NamespaceTerminating"}]}}"#;
        assert!(matches!(error(403, body), KubernetesError::Terminating { .. }));
    }

    #[test]
    fn the_wait_is_taken_from_the_head_before_the_body() {
        let body = r#"{"details":{"retryAfterSeconds":7}}"#;
        assert_eq!(error(429, body).retry_after(), Some(Duration::from_secs(7)));
        let head = KubernetesError::of_answer("x", 429, Some(Duration::from_secs(2)), body.as_bytes());
        assert_eq!(head.retry_after(), Some(Duration::from_secs(2)));
        assert_eq!(error(429, "").retry_after(), None);
    }

    #[test]
    fn what_the_server_quotes_of_a_body_is_not_kept() {
        let body = r#"{"reason":"Invalid","message":"Secret invalid: data: eyJhbGciOi","details":{"causes":[
            {"reason":"FieldValueInvalid","message":"Invalid value: eyJhbGciOi","field":"data[AUTH_TOKEN]"}]}}"#;
        let text = error(422, body).to_string();
        assert!(text.contains("data[AUTH_TOKEN] FieldValueInvalid") && !text.contains("eyJ"), "{text}");
    }

    #[test]
    fn a_message_makes_one_line_of_a_log() {
        let text = error(403, "{\"message\":\"no\\n{\\\"level\\\":\\\"error\\\"}\"}").to_string();
        assert!(!text.contains('\n'), "{text}");
    }
}
