//! Steps as they are printed: what was done, what was promised, what was seen.

use std::io::{self, Write};

/// How many steps came out as promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Outcome {
    /// As promised.
    pub passed: u32,
    /// Otherwise.
    pub failed: u32,
}

/// Writes each step as it ends.
pub(super) struct Report<'a> {
    out: &'a mut dyn Write,
    outcome: Outcome,
}

impl<'a> Report<'a> {
    pub(super) fn new(out: &'a mut dyn Write) -> Self {
        Self { out, outcome: Outcome::default() }
    }

    pub(super) fn line(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.out, "{text}")?;
        self.out.flush()
    }

    pub(super) fn chapter(&mut self, title: &str) -> io::Result<()> {
        self.line(&format!("\n{title}"))
    }

    /// A step that must come out as `expected`.
    pub(super) fn check(&mut self, step: &str, expected: &str, observed: &str) -> io::Result<()> {
        self.judge(step, expected, observed, expected == observed)
    }

    /// A step that was judged by its own rule.
    pub(super) fn judge(&mut self, step: &str, expected: &str, observed: &str, is_ok: bool) -> io::Result<()> {
        if is_ok {
            self.outcome.passed += 1;
            self.line(&format!("  ok      {step} → {observed}"))
        } else {
            self.outcome.failed += 1;
            self.line(&format!("  FAILED  {step} → expected {expected}, observed {observed}"))
        }
    }

    pub(super) fn finish(self) -> io::Result<Outcome> {
        let Outcome { passed, failed } = self.outcome;
        writeln!(self.out, "\n{passed} passed, {failed} failed, 0 skipped")?;
        self.out.flush()?;
        Ok(self.outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_that_came_out_otherwise_is_shown_with_both_and_counted() {
        let mut out = Vec::new();
        let mut report = Report::new(&mut out);
        report.check("GET /a without a token", "401 missing_token", "401 missing_token").unwrap();
        report.check("GET /b", "404 no_route", "200").unwrap();
        let outcome = report.finish().unwrap();
        assert_eq!(outcome, Outcome { passed: 1, failed: 1 });
        let expected = "  ok      GET /a without a token → 401 missing_token\n  FAILED  GET /b → expected 404 no_route, \
                        observed 200\n\n1 passed, 1 failed, 0 skipped\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
