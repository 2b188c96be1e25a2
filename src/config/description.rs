//! What a configuration may hold: the one description that the reader, the JSON Schema and the reference page
//! are all made from.
//!
//! Each section's table stands beside its type: [`super::server`], [`super::issuer`], and so on. To add a key, add
//! a [`Key`] to the table and a field to the type, and take the value in the section's `read`.

use std::time::Duration;

/// A table of the file.
#[derive(Debug)]
pub(super) struct Table {
    /// Its keys, in the order of the reference.
    pub(super) keys: &'static [Key],
    /// Exactly one of the keys must be given.
    pub(super) is_choice: bool,
}

impl Table {
    pub(super) const fn of(keys: &'static [Key]) -> Self {
        Self { keys, is_choice: false }
    }

    pub(super) const fn one_of(keys: &'static [Key]) -> Self {
        Self { keys, is_choice: true }
    }

    pub(super) fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.keys.iter().map(|key| key.name)
    }
}

/// One key of a table.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) presence: Presence,
    /// What it is for, in sentences.
    pub(super) doc: &'static str,
    /// A value, in TOML. Empty where the default or the keys of a table show enough.
    pub(super) example: &'static str,
}

impl Key {
    pub(super) const fn required(name: &'static str, kind: Kind, doc: &'static str) -> Self {
        Self { name, kind, presence: Presence::Required, doc, example: "" }
    }

    /// A key whose default is a value, in TOML. The reader takes it from here.
    pub(super) const fn default(name: &'static str, kind: Kind, value: &'static str, doc: &'static str) -> Self {
        Self { name, kind, presence: Presence::Default(value), doc, example: "" }
    }

    /// A key whose absence is no value: the words say what it means.
    pub(super) const fn optional(name: &'static str, kind: Kind, absent: &'static str, doc: &'static str) -> Self {
        Self { name, kind, presence: Presence::Optional(absent), doc, example: "" }
    }

    pub(super) const fn example(mut self, example: &'static str) -> Self {
        self.example = example;
        self
    }
}

/// What it means that a key is absent.
#[derive(Debug, Clone, Copy)]
pub(super) enum Presence {
    /// A mistake.
    Required,
    /// This value, in TOML.
    Default(&'static str),
    /// What these words say.
    Optional(&'static str),
}

/// What a key may hold.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// `true` or `false`.
    Flag,
    /// A whole number.
    Integer { least: u64, most: u64 },
    /// A string such as `"30s"`.
    Duration { least: Duration, most: Duration },
    /// A string such as `"64KiB"`, or a number of bytes.
    Size { least: u64, most: u64 },
    /// A string that is not empty; the words say what it is.
    Text(&'static str),
    /// A string that may be empty.
    AnyText,
    /// One of these words; the note is for those who write another.
    Word { words: &'static [&'static str], note: &'static str },
    /// `{ file = … }` or `{ env = … }`.
    Secret,
    /// A file that must be readable.
    File,
    /// A file or folder that Postern makes.
    Path,
    /// A string, a whole number, `true` or `false`.
    Scalar,
    /// A list.
    List { of: &'static Kind, can_be_empty: bool },
    /// One, or a list of at least one.
    OneOrMany(&'static Kind),
    /// A table with keys of the user's choice; the words say what they are.
    Map { key: &'static str, value: &'static Kind },
    /// A table.
    Table(&'static Table),
    /// One of these words, or a table.
    WordOr(&'static [&'static str], &'static Table),
    /// `[section.NAME]`: tables by names of the user's choice.
    Named(&'static Table),
    /// `[[section]]`: at least one table.
    Tables(&'static Table),
}

impl Kind {
    /// Any time that is not zero.
    pub(super) const DURATION: Self = Self::duration(Duration::from_millis(1), MOST);

    /// Any time, zero as well.
    pub(super) const DURATION_OR_ZERO: Self = Self::duration(Duration::ZERO, MOST);

    pub(super) const fn duration(least: Duration, most: Duration) -> Self {
        Self::Duration { least, most }
    }

    pub(super) const fn at_least(least: Duration) -> Self {
        Self::duration(least, MOST)
    }

    pub(super) const fn word(words: &'static [&'static str]) -> Self {
        Self::Word { words, note: "" }
    }

    /// At least one.
    pub(super) const fn list(of: &'static Self) -> Self {
        Self::List { of, can_be_empty: false }
    }

    pub(super) const fn list_or_empty(of: &'static Self) -> Self {
        Self::List { of, can_be_empty: true }
    }

    /// The kind in words, as in «expected …».
    pub(super) fn words(&self) -> String {
        match self {
            Self::Flag => "`true` or `false`".to_owned(),
            Self::Integer { .. } => "a whole number".to_owned(),
            Self::Duration { .. } => "a duration such as `\"30s\"`".to_owned(),
            Self::Size { .. } => "a size such as `\"64KiB\"`, or a number of bytes".to_owned(),
            Self::Text(what) => format!("a string: {what}"),
            Self::AnyText => "a string".to_owned(),
            Self::Word { words, .. } => choices(words),
            Self::Secret => "`{ file = \"PATH\" }` or `{ env = \"NAME\" }`".to_owned(),
            Self::File => "the path of a file".to_owned(),
            Self::Path => "a path".to_owned(),
            Self::Scalar => "a string, a whole number, `true` or `false`".to_owned(),
            Self::List { of, .. } => format!("a list, each {}", of.words()),
            Self::OneOrMany(of) => format!("{}, or a list of such", of.words()),
            Self::Map { key, value } => format!("a table: {key} = {}", value.words()),
            Self::Table(table) => table_words(table),
            Self::WordOr(words, table) => format!("{}, or {}", choices(words), table_words(table)),
            Self::Named(_) => "tables by name".to_owned(),
            Self::Tables(_) => "tables".to_owned(),
        }
    }
}

/// Longer than any timeout is meant to be, and short enough to be added to any point in time.
const MOST: Duration = Duration::from_hours(10 * 365 * 24);

/// `` `a`, `b` or `c` ``.
pub(super) fn choices(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}

fn table_words(table: &Table) -> String {
    let names: Vec<&str> = table.names().collect();
    if table.is_choice { format!("a table with {}", choices(&names)) } else { "a table".to_owned() }
}
