//! One JSON line for each decision about users and each act of an operator. Never dropped, and handed to the system at once.
//!
//! The control plane writes; a request never waits here.

use super::access_log::{open, write_text, write_time};
use crate::config;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// What a line says. Members that are `None` are left out.
#[derive(Debug, Clone, Copy, Default)]
#[allow(missing_docs)] // The fields are the line's members.
pub struct Record<'a> {
    pub unix_ms: u64,
    pub event: &'a str,
    pub issuer: Option<&'a str>,
    pub subject: Option<&'a str>,
    /// `sid`, where only a session is meant.
    pub session: Option<&'a str>,
    /// `jti`, where only a token is meant.
    pub token: Option<&'a str>,
    /// Where tokens issued before a time are meant, by the issuer's clock.
    pub issued_before_ms: Option<u64>,
    pub cause: Option<&'a str>,
    /// The operator.
    pub by: Option<&'a str>,
    /// The operator's words.
    pub reason: Option<&'a str>,
    /// Where the user stands now.
    pub state: Option<&'a str>,
    /// When it happened by the issuer's clock.
    pub issuer_time_ms: Option<u64>,
    /// From then to the decision.
    pub delay_ms: Option<u64>,
    pub epoch: Option<u64>,
    /// The user's name, where the issuer said it.
    pub username: Option<&'a str>,
    /// Who asked for tokens.
    pub client: Option<&'a str>,
    /// How it did.
    pub grant: Option<&'a str>,
    /// From where.
    pub address: Option<&'a str>,
    pub outcome: Option<&'a str>,
}

/// Where the lines go. Clones write to the same place.
#[derive(Debug, Clone)]
pub struct Audit(Option<Arc<Place>>);

#[derive(Debug)]
struct Place {
    /// `None`: standard output.
    path: Option<PathBuf>,
    file: Mutex<Option<File>>,
}

impl Audit {
    /// Opens the place.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn start(place: &config::LogPlace) -> io::Result<Self> {
        let (path, file) = match place {
            config::LogPlace::Off => return Ok(Self::off()),
            config::LogPlace::Stdout => (None, None),
            config::LogPlace::File(path) => (Some(path.clone()), Some(open(path)?)),
        };
        Ok(Self(Some(Arc::new(Place { path, file: Mutex::new(file) }))))
    }

    /// Lines go nowhere.
    pub fn off() -> Self {
        Self(None)
    }

    /// Writes a line. If that fails the operator's log has it instead.
    pub fn write(&self, record: &Record<'_>) {
        let Some(place) = &self.0 else { return };
        let mut line = String::with_capacity(256);
        // Writing to a string does not fail.
        let _ = record.write(&mut line);
        // A panic between two lines leaves a file that is still sound.
        let mut file = place.file.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = match &mut *file {
            Some(file) => file.write_all(line.as_bytes()),
            None => {
                let mut out = io::stdout().lock();
                out.write_all(line.as_bytes()).and_then(|()| out.flush())
            }
        };
        if let Err(error) = outcome {
            tracing::error!(%error, record = line.trim_end(), "audit log cannot be written");
        }
    }

    /// Opens the file again, after it was moved away.
    pub fn reopen(&self) {
        let Some(place) = &self.0 else { return };
        let Some(path) = &place.path else { return };
        match open(path) {
            Ok(opened) => *place.file.lock().unwrap_or_else(PoisonError::into_inner) = Some(opened),
            Err(error) => tracing::error!(%error, "audit log cannot be opened again"),
        }
    }
}

impl Record<'_> {
    fn write(&self, out: &mut String) -> std::fmt::Result {
        out.push_str("{\"time\":\"");
        write_time(out, self.unix_ms);
        out.push_str("\",\"event\":");
        write_text(out, self.event);
        let texts = [
            ("issuer", self.issuer),
            ("subject", self.subject),
            ("session", self.session),
            ("token", self.token),
            ("cause", self.cause),
            ("by", self.by),
            ("reason", self.reason),
            ("state", self.state),
            ("username", self.username),
            ("client", self.client),
            ("grant", self.grant),
            ("address", self.address),
            ("outcome", self.outcome),
        ];
        for (name, value) in texts {
            if let Some(value) = value {
                write!(out, ",\"{name}\":")?;
                write_text(out, value);
            }
        }
        for (name, time) in [("issued_before", self.issued_before_ms), ("issuer_time", self.issuer_time_ms)] {
            if let Some(time) = time {
                write!(out, ",\"{name}\":\"")?;
                write_time(out, time);
                out.push('"');
            }
        }
        for (name, number) in [("delay_ms", self.delay_ms), ("epoch", self.epoch)] {
            if let Some(number) = number {
                write!(out, ",\"{name}\":{number}")?;
            }
        }
        out.push_str("}\n");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_one_line_of_json_and_is_there_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let audit = Audit::start(&config::LogPlace::File(path.clone())).unwrap();
        let record = Record {
            unix_ms: 1_800_000_000_007,
            event: "user_block",
            issuer: Some("main"),
            subject: Some("al\"ice\nЖ"),
            cause: Some("disabled"),
            issuer_time_ms: Some(1_799_999_999_000),
            delay_ms: Some(1007),
            epoch: Some(3),
            ..Record::default()
        };
        audit.write(&record);
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 1);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["time"], "2027-01-15T08:00:00.007Z");
        assert_eq!(value["issuer_time"], "2027-01-15T07:59:59.000Z");
        assert_eq!(
            (&value["subject"], &value["delay_ms"], &value["epoch"]),
            (&"al\"ice\nЖ".into(), &1007.into(), &3.into())
        );
        assert!(value.get("by").is_none());
    }

    #[test]
    fn a_file_that_was_moved_is_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let audit = Audit::start(&config::LogPlace::File(path.clone())).unwrap();
        audit.clone().write(&Record::default());
        std::fs::rename(&path, folder.path().join("old.log")).unwrap();
        audit.reopen();
        audit.write(&Record::default());
        for name in ["old.log", "audit.log"] {
            let text = std::fs::read_to_string(folder.path().join(name)).unwrap();
            assert_eq!(text.lines().count(), 1, "{name}");
        }
    }
}
