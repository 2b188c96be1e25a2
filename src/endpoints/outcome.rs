//! How calls end.

/// How a call ended; the word of the metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Active,
    Inactive,
    Done,
    Repeated,
    Malformed,
    Unauthorized,
    Forged,
    Refused,
    Limited,
    Unavailable,
}

impl Outcome {
    /// The word.
    pub(super) fn code(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Inactive => "inactive",
            Self::Done => "ok",
            Self::Repeated => "repeated",
            Self::Malformed => "malformed",
            Self::Unauthorized => "unauthorized",
            Self::Forged => "forged",
            Self::Refused => "refused",
            Self::Limited => "limited",
            Self::Unavailable => "unavailable",
        }
    }
}
