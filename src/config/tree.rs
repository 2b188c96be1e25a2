//! A table of the file after it was held against its description: every value has its type and place, absent
//! ones their default. What the sections' `read` take their fields from.

use super::description::Table;
use super::diagnostic::Span;
use crate::base::secret::Secret;
use std::path::PathBuf;
use std::time::Duration;

/// A value and where it stands. The place of a default is that of its table.
#[derive(Debug, Clone)]
pub(super) struct Placed<T> {
    pub(super) value: T,
    pub(super) span: Span,
}

impl<T> Placed<T> {
    pub(super) fn new(value: T, span: Span) -> Self {
        Self { value, span }
    }
}

/// A value of one of the kinds.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Flag(bool),
    /// Also of a size, in bytes.
    Integer(u64),
    Duration(Duration),
    /// Also of a word.
    Text(String),
    Secret(Secret),
    /// Seen from the folder of the file.
    Path(PathBuf),
    Scalar(serde_json::Value),
    List(Vec<Placed<Value>>),
    /// In the order of the file.
    Map(Vec<(Placed<String>, Placed<Value>)>),
    Section(Section),
}

/// A table. A key that is absent or was wrong has no value here; the mistake was noted.
#[derive(Debug, Clone)]
pub(super) struct Section {
    /// Its heading, or the key that it is the value of.
    pub(super) span: Span,
    pub(super) description: &'static Table,
    pub(super) entries: Vec<Entry>,
}

/// One key of a table.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: &'static str,
    /// The key's own place; absent for a default.
    pub(super) key_span: Option<Span>,
    /// Absent where it was wrong.
    pub(super) value: Option<Placed<Value>>,
}

impl Section {
    fn entry(&self, key: &str) -> Option<&Entry> {
        debug_assert!(self.description.key(key).is_some(), "`{key}` is not described");
        self.entries.iter().find(|entry| entry.key == key)
    }

    pub(super) fn value(&self, key: &str) -> Option<&Placed<Value>> {
        self.entry(key)?.value.as_ref()
    }

    /// Whether the file gives the key, be it wrongly.
    pub(super) fn is_given(&self, key: &str) -> bool {
        self.entry(key).is_some_and(|entry| entry.key_span.is_some())
    }

    /// Where the key stands, else the table.
    pub(super) fn key_span(&self, key: &str) -> Span {
        self.entry(key).and_then(|entry| entry.key_span.clone()).unwrap_or_else(|| self.span.clone())
    }

    /// Where the value stands, else the key, else the table.
    pub(super) fn value_span(&self, key: &str) -> Span {
        self.value(key).map_or_else(|| self.key_span(key), |value| value.span.clone())
    }

    pub(super) fn flag(&self, key: &str) -> Option<bool> {
        match self.value(key)?.value {
            Value::Flag(flag) => Some(flag),
            _ => None,
        }
    }

    /// A number or a size. The description keeps it within `T`; one that is not is none.
    pub(super) fn integer<T: TryFrom<u64>>(&self, key: &str) -> Option<T> {
        match self.value(key)?.value {
            Value::Integer(integer) => T::try_from(integer).ok(),
            _ => None,
        }
    }

    pub(super) fn duration(&self, key: &str) -> Option<Duration> {
        match self.value(key)?.value {
            Value::Duration(duration) => Some(duration),
            _ => None,
        }
    }

    pub(super) fn path(&self, key: &str) -> Option<PathBuf> {
        match &self.value(key)?.value {
            Value::Path(path) => Some(path.clone()),
            _ => None,
        }
    }

    pub(super) fn secret(&self, key: &str) -> Option<Secret> {
        match &self.value(key)?.value {
            Value::Secret(secret) => Some(secret.clone()),
            _ => None,
        }
    }

    /// A string, or a word that stands where a table may.
    pub(super) fn text(&self, key: &str) -> Option<Placed<&str>> {
        self.value(key)?.text()
    }

    pub(super) fn section(&self, key: &str) -> Option<&Section> {
        self.value(key)?.section()
    }

    /// The members of a list.
    pub(super) fn list(&self, key: &str) -> &[Placed<Value>] {
        match self.value(key).map(|value| &value.value) {
            Some(Value::List(list)) => list,
            _ => &[],
        }
    }

    /// The strings of a list.
    pub(super) fn texts(&self, key: &str) -> impl Iterator<Item = Placed<&str>> {
        self.list(key).iter().filter_map(Placed::text)
    }

    /// The strings of a list, without their places.
    pub(super) fn strings(&self, key: &str) -> Vec<String> {
        self.texts(key).map(|text| text.value.to_owned()).collect()
    }

    /// The paths of a list.
    pub(super) fn paths(&self, key: &str) -> Vec<PathBuf> {
        let paths = self.list(key).iter().filter_map(|path| match &path.value {
            Value::Path(path) => Some(path.clone()),
            _ => None,
        });
        paths.collect()
    }

    /// The members of a table whose keys the user chose.
    pub(super) fn map(&self, key: &str) -> &[(Placed<String>, Placed<Value>)] {
        match self.value(key).map(|value| &value.value) {
            Some(Value::Map(map)) => map,
            _ => &[],
        }
    }
}

impl Placed<Value> {
    pub(super) fn text(&self) -> Option<Placed<&str>> {
        match &self.value {
            Value::Text(text) => Some(Placed::new(text, self.span.clone())),
            _ => None,
        }
    }

    pub(super) fn section(&self) -> Option<&Section> {
        match &self.value {
            Value::Section(section) => Some(section),
            _ => None,
        }
    }
}
