//! What was found, as a person or a script reads it.

use serde::Serialize;
use std::fmt;

/// How bad it is. The order is that of urgency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// A promise does not hold.
    Broken,
    /// A promise holds only as long as nothing else goes wrong.
    Risk,
    /// It could not be read.
    Unknown,
    /// Worth knowing.
    Note,
    /// As it should be.
    Ok,
}

impl Severity {
    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Broken => "broken",
            Self::Risk => "risk",
            Self::Unknown => "unknown",
            Self::Note => "note",
            Self::Ok => "ok",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What was looked at: a word that stays the same.
    pub check: &'static str,
    /// What was found.
    pub found: String,
    /// Which promise it breaks or endangers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub breaks: Option<String>,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Finding {
    fn new(severity: Severity, check: &'static str, found: impl Into<String>) -> Self {
        Self { severity, check, found: found.into(), breaks: None, remedy: None }
    }

    pub(super) fn broken(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(Severity::Broken, check, found)
    }

    pub(super) fn risk(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(Severity::Risk, check, found)
    }

    pub(super) fn unknown(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(Severity::Unknown, check, found)
    }

    pub(super) fn note(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(Severity::Note, check, found)
    }

    pub(super) fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self::new(Severity::Ok, check, found)
    }

    /// The promise, as a sentence that begins small and has no full stop.
    pub(super) fn breaks(mut self, promise: impl Into<String>) -> Self {
        self.breaks = Some(promise.into());
        self
    }

    /// What to do, in the same form.
    pub(super) fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

/// One line.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<8} {:<9} {}", self.severity.word(), self.check, self.found)?;
        if let Some(promise) = &self.breaks {
            let verb = if self.severity == Severity::Broken { "breaks" } else { "endangers" };
            write!(f, "; {verb}: {promise}")?;
        }
        match &self.remedy {
            Some(remedy) => write!(f, "; do: {remedy}"),
            None => Ok(()),
        }
    }
}

/// What was found about one issuer.
#[derive(Debug, Serialize)]
pub struct Examined {
    /// The NAME of `[issuer.NAME]`.
    pub issuer: String,
    /// Its `url`.
    pub url: String,
    /// In the order in which it was looked at.
    pub findings: Vec<Finding>,
}

/// What was found about all of them.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Nothing is broken.
    pub content: bool,
    /// One for each issuer, in the order of the file.
    pub issuers: Vec<Examined>,
}

impl Report {
    pub(super) fn new(issuers: Vec<Examined>) -> Self {
        let mut findings = issuers.iter().flat_map(|issuer| &issuer.findings);
        Self { content: findings.all(|finding| finding.severity != Severity::Broken), issuers }
    }

    fn count(&self, severity: Severity) -> usize {
        let findings = self.issuers.iter().flat_map(|issuer| &issuer.findings);
        findings.filter(|finding| finding.severity == severity).count()
    }
}

/// A heading for each issuer, a line for each finding, and how many there are of the kinds that want something done.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for issuer in &self.issuers {
            writeln!(f, "issuer `{}` at {}", issuer.issuer, issuer.url)?;
            for finding in &issuer.findings {
                writeln!(f, "  {finding}")?;
            }
        }
        let [broken, risk, unknown] =
            [Severity::Broken, Severity::Risk, Severity::Unknown].map(|severity| self.count(severity));
        writeln!(f, "{broken} broken, {risk} risk, {unknown} unknown")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_broken_makes_it_discontent() {
        let report = |findings| {
            Report::new(vec![Examined { issuer: "main".to_owned(), url: "https://kc".to_owned(), findings }])
        };
        let mild =
            [Finding::ok("a", "x"), Finding::note("a", "x"), Finding::risk("a", "x"), Finding::unknown("a", "x")];
        assert!(report(mild.to_vec()).content);
        assert!(!report([&mild[..], &[Finding::broken("a", "x")]].concat()).content);
    }

    #[test]
    fn a_finding_is_one_line_and_one_object() {
        let finding = Finding::risk("keys", "few").breaks("a promise").remedy("more");
        assert_eq!(finding.to_string(), "risk     keys      few; endangers: a promise; do: more");
        let json = serde_json::to_value(&finding).unwrap();
        let expected = serde_json::json!(
            {"severity": "risk", "check": "keys", "found": "few", "breaks": "a promise", "remedy": "more"}
        );
        assert_eq!(json, expected);
        assert_eq!(Finding::ok("keys", "good").to_string(), "ok       keys      good");
    }
}
