//! Holds a file against its description, and collects every mistake on the way.

use super::description::{Key, Kind, Presence, Table, choices};
use super::diagnostic::{Diagnostics, Mistake, Span};
use super::nearest::did_you_mean;
use super::tree::{Entry, Placed, Section, Value};
use super::{scalar, secrets};
use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

/// What is known while one file is read.
pub(super) struct Reader<'a> {
    text: &'a str,
    origin: &'a Path,
    /// Whether the file says `dev = true`.
    is_dev: bool,
    /// The files that it names.
    files: Vec<PathBuf>,
    mistakes: Vec<Mistake>,
    /// The places of secrets, which are never shown.
    masked: Vec<Span>,
    /// Where the lines with syntax errors begin.
    broken: HashSet<usize>,
    /// Keys at the top that were probably meant by unknown ones.
    misspelt: Vec<&'static str>,
}

impl<'a> Reader<'a> {
    /// Reads the text as far as it goes. The mistakes stay with the reader.
    pub(super) fn read(text: &'a str, origin: &'a Path, root: &'static Table) -> (Self, Section) {
        let (tree, errors) = DeTable::parse_recoverable(text);
        let is_dev = matches!(tree.get_ref().get("dev").map(Spanned::get_ref), Some(DeValue::Boolean(true)));
        let mut reader = Self {
            text,
            origin,
            is_dev,
            files: Vec::new(),
            mistakes: Vec::new(),
            masked: Vec::new(),
            broken: HashSet::new(),
            misspelt: Vec::new(),
        };
        reader.masked = secrets::passwords_in_urls(text);
        if !errors.is_empty() {
            reader.masked.extend(secrets::spans_in_text(text));
        }
        reader.syntax_errors(errors);
        let section = reader.section(tree.get_ref(), 0..0, "", root);
        (reader, section)
    }

    /// The value, if there was no mistake at all.
    pub(super) fn finish<T>(mut self, value: Option<T>) -> Result<T, Diagnostics> {
        if self.mistakes.is_empty()
            && let Some(value) = value
        {
            return Ok(value);
        }
        if self.mistakes.is_empty() {
            self.note(Mistake::of_file("the configuration is not complete"));
        }
        Err(Diagnostics::new(self.origin, self.text, &self.masked, self.mistakes))
    }

    /// Whether a key at the top is absent, and not merely misspelt.
    pub(super) fn is_absent(&self, root: &Section, key: &str) -> bool {
        !root.is_given(key) && !self.misspelt.contains(&key)
    }

    /// The files that were named so far: secrets, keys, certificates.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        self.files.clone()
    }

    /// Whether the file says `dev = true`.
    pub(super) fn is_dev(&self) -> bool {
        self.is_dev
    }

    /// Notes a mistake, unless it may be a mere consequence of a syntax error.
    pub(super) fn note(&mut self, mistake: Mistake) {
        let on_broken_line = |span: &Span| self.broken.contains(&self.line_of(span.start));
        if (mistake.is_absence && !self.broken.is_empty()) || mistake.span().is_some_and(on_broken_line) {
            return;
        }
        self.mistakes.push(mistake);
    }

    /// Notes the error, if it is one.
    pub(super) fn keep<T, E: Display>(&mut self, span: &Span, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.note(Mistake::at(span.clone(), error.to_string()))).ok()
    }

    /// Reads a string key by `parse`.
    pub(super) fn parse<T, E: Display>(
        &mut self,
        section: &Section,
        key: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let text = section.text(key)?;
        self.keep(&text.span, parse(text.value))
    }

    /// Reads each string of a list by `parse`.
    pub(super) fn parse_all<T, E: Display>(
        &mut self,
        section: &Section,
        key: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Vec<T> {
        section.texts(key).filter_map(|text| self.keep(&text.span, parse(text.value))).collect()
    }

    fn syntax_errors(&mut self, mut errors: Vec<toml::de::Error>) {
        errors.sort_by_key(|error| error.span().map_or(usize::MAX, |span| span.start));
        let mut is_in_wake = false;
        for error in errors {
            let span = error.span().unwrap_or(self.text.len()..self.text.len());
            let line = self.line_of(span.start);
            let starts_line = line == span.start;
            is_in_wake = is_consequence(error.message()) && !self.broken.is_empty() && (starts_line || is_in_wake);
            if !is_in_wake {
                self.syntax_error(error.message(), span);
            }
            // A key that is given twice is wrong in meaning, not in form: what else its line holds can be judged.
            if error.message() != DUPLICATE {
                self.broken.insert(line);
            }
        }
    }

    fn syntax_error(&mut self, message: &str, span: Span) {
        let message = match message {
            DUPLICATE => {
                let name = self.text.get(span.clone()).unwrap_or_default();
                format!("duplicate key `{}`", name.trim_matches(['"', '\'']))
            }
            message => message.to_owned(),
        };
        self.mistakes.push(Mistake::at(span, message));
    }

    fn line_of(&self, byte: usize) -> usize {
        let before = &self.text.as_bytes()[..byte.min(self.text.len())];
        before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1)
    }

    /// `path` names the table in messages, as in `issuer.main.keys`.
    fn section(&mut self, table: &DeTable<'_>, span: Span, path: &str, description: &'static Table) -> Section {
        let mut section = Section { span, description, entries: Vec::new() };
        let mut suspects = Vec::new();
        for (key, value) in in_order(table) {
            match description.key(key.get_ref()) {
                Some(known) => {
                    let value = self.value(&known.kind, value, &join(path, known.name));
                    section.entries.push(Entry { key: known.name, key_span: Some(key.span()), value });
                }
                None => suspects.extend(self.unknown_key(key, value, description)),
            }
        }
        if description.is_choice {
            self.check_choice(&section, path, suspects.is_empty() && table.len() == section.entries.len());
            return section;
        }
        for key in description.keys {
            if !section.is_given(key.name) && !suspects.contains(&key.name) {
                self.absent(&mut section, key, path);
            }
        }
        if path.is_empty() {
            self.misspelt = suspects;
        }
        section
    }

    /// Notes an unknown key, and says which known one was probably meant.
    fn unknown_key(
        &mut self,
        key: &Spanned<Cow<'_, str>>,
        value: &Spanned<DeValue<'_>>,
        description: &'static Table,
    ) -> Option<&'static str> {
        let name = key.get_ref();
        let meant = super::nearest::nearest(name, description.names());
        let is_secret =
            meant.and_then(|name| description.key(name)).is_some_and(|key| matches!(key.kind, Kind::Secret));
        if is_secret || secrets::is_secret_name(name) {
            self.masked.push(value.span());
        }
        let message = format!("unknown key `{name}`{}", did_you_mean(name, description.names()));
        let mistake = Mistake::at(key.span(), message);
        self.note(match meant {
            Some(_) => mistake,
            None => mistake.help(format!("known here: {}", description.names().collect::<Vec<_>>().join(", "))),
        });
        meant
    }

    fn check_choice(&mut self, section: &Section, path: &str, is_all_known: bool) {
        let names: Vec<_> = section.description.names().collect();
        let message = format!("`{path}` holds exactly one of {}", choices(&names));
        match section.entries.as_slice() {
            [_] => {}
            [] if is_all_known => self.note(Mistake::at(section.span.clone(), message).absence()),
            [] => {}
            [_, second, ..] => self.note(Mistake::at(second.key_span.clone().unwrap_or_default(), message)),
        }
    }

    fn absent(&mut self, section: &mut Section, key: &'static Key, path: &str) {
        match key.presence {
            Presence::Optional(_) => {}
            Presence::Default(text) => {
                let default = DeValue::parse(text).expect("a test reads every default");
                let place = section.span.clone();
                let value = self.value(&key.kind, &Spanned::new(place, default.into_inner()), &join(path, key.name));
                section.entries.push(Entry { key: key.name, key_span: None, value });
            }
            Presence::Required => {
                let place = if path.is_empty() { String::new() } else { format!(" in `{path}`") };
                let written = match key.kind {
                    Kind::Tables(_) => format!("[[{}]]", key.name),
                    _ => format!("{} = {}", key.name, key.example),
                };
                let mistake = Mistake::at(section.span.clone(), format!("missing key `{}`{place}", key.name));
                self.note(mistake.help(format!("{} Example: `{written}`", key.doc)).absence());
            }
        }
    }

    fn value(&mut self, kind: &Kind, value: &Spanned<DeValue<'_>>, path: &str) -> Option<Placed<Value>> {
        let span = value.span();
        let found = match (kind, value.get_ref()) {
            (Kind::Secret, _) => Some(Value::Secret(self.secret(value, path)?)),
            (Kind::List { of, can_be_empty }, DeValue::Array(array)) => {
                if array.is_empty() && !can_be_empty {
                    self.note(Mistake::at(span, format!("`{path}` is empty")).label("expected at least one"));
                    return None;
                }
                Some(Value::List(self.list(of, array, path)))
            }
            (Kind::OneOrMany(of), DeValue::Array(_)) => return self.value(&Kind::list(of), value, path),
            (Kind::OneOrMany(of), _) => Some(Value::List(vec![self.value(of, value, path)?])),
            (Kind::Map { value: of, .. }, DeValue::Table(table)) => Some(self.map(of, table, path)),
            (Kind::Named(description), DeValue::Table(table)) => {
                if table.values().any(|member| !member.get_ref().is_table()) {
                    let mistake = Mistake::at(span, format!("`{path}` needs a name"));
                    self.note(mistake.label(format!("expected `[{path}.NAME]`, where NAME is of your choice")));
                    return None;
                }
                Some(self.map(&Kind::Table(description), table, path))
            }
            (Kind::Tables(description), DeValue::Array(array)) if !array.is_empty() => {
                Some(Value::List(self.list(&Kind::Table(description), array, path)))
            }
            (Kind::Table(description) | Kind::WordOr(_, description), DeValue::Table(table)) => {
                Some(Value::Section(self.section(table, span.clone(), path, description)))
            }
            _ => {
                let base = self.origin.parent().unwrap_or(Path::new(""));
                return match scalar::read(kind, value.get_ref(), base) {
                    Ok(value) => {
                        if let (Kind::File, Value::Path(path)) = (kind, &value) {
                            self.files.push(path.clone());
                        }
                        Some(Placed::new(value, span))
                    }
                    Err(error) => {
                        let name = path.rsplit('.').next().unwrap_or(path);
                        if value.get_ref().is_str() && secrets::is_secret_name(name) {
                            self.masked.push(span.clone());
                        }
                        self.note(error.at(span, kind, path));
                        None
                    }
                };
            }
        };
        found.map(|found| Placed::new(found, value.span()))
    }

    fn list(&mut self, of: &Kind, array: &DeArray<'_>, path: &str) -> Vec<Placed<Value>> {
        let mut members: Vec<Placed<Value>> = Vec::new();
        for member in array.iter() {
            let Some(member) = self.value(of, member, path) else { continue };
            let first = member.text().and_then(|text| {
                members.iter().find(|other| other.text().is_some_and(|other| other.value == text.value))
            });
            match (first.map(|first| first.span.clone()), member.text()) {
                (Some(first), Some(text)) => {
                    let message = format!("`{}` is given twice in `{path}`", text.value);
                    self.note(Mistake::at(text.span, message).related(first, "first here"));
                }
                _ => members.push(member),
            }
        }
        members
    }

    fn map(&mut self, of: &Kind, table: &DeTable<'_>, path: &str) -> Value {
        let mut members = Vec::new();
        for (key, value) in in_order(table) {
            let name = key.get_ref().to_string();
            if let Some(value) = self.value(of, value, &join(path, &name)) {
                members.push((Placed::new(name, key.span()), value));
            }
        }
        Value::Map(members)
    }

    /// Reads a secret from where the file says it lies. Its place is masked where it stands in the file itself.
    fn secret(&mut self, value: &Spanned<DeValue<'_>>, path: &str) -> Option<crate::base::secret::Secret> {
        let span = value.span();
        let DeValue::Table(table) = value.get_ref() else {
            self.masked.push(span.clone());
            let result = secrets::inline(value.get_ref(), self.is_dev);
            return result
                .map_err(|error| self.note(Mistake::at(span, format!("`{path}` {error}")).label(secrets::EXPECTED)))
                .ok();
        };
        // What stands under a mistyped key may be the secret itself.
        self.masked.extend(
            table.iter().filter(|(key, _)| secrets::SOURCES.key(key.get_ref()).is_none()).map(|(_, v)| v.span()),
        );
        let section = self.section(table, span, path, &secrets::SOURCES);
        let base = self.origin.parent().unwrap_or(Path::new(""));
        let file = section.text("file").map(|file| {
            let path = base.join(file.value);
            let content = secrets::from_file(&path);
            self.files.push(path);
            (content, file.span)
        });
        let env = section.text("env").map(|env| (secrets::from_env(env.value), env.span));
        let (result, span) = file.or(env)?;
        self.keep(&span, result)
    }
}

/// The keys in the order of the file; the parser keeps them by name.
fn in_order<'t, 'i>(table: &'t DeTable<'i>) -> Vec<(&'t Spanned<Cow<'i, str>>, &'t Spanned<DeValue<'i>>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

/// What the TOML parser says of a key that is given twice.
const DUPLICATE: &str = "duplicate key";

/// What the TOML parser says of the lines after an inline table or a list that was never closed. It takes them for a
/// part of it, so that each would be a mistake of its own.
fn is_consequence(message: &str) -> bool {
    ["missing key for inline table", "missing comma between", "unclosed"].iter().any(|start| message.starts_with(start))
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// What is wrong with a value of a key, for tests of the description itself.
#[cfg(test)]
pub(super) fn mistakes_of(key: &Key, text: &str) -> Vec<Mistake> {
    let (mut reader, _) = Reader::read("", Path::new(""), &EMPTY);
    let value = DeValue::parse(text).expect("a test gives TOML");
    reader.value(&key.kind, &value, key.name);
    reader.mistakes
}

#[cfg(test)]
static EMPTY: Table = Table::of(&[]);
