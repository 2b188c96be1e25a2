//! Where secrets come from, and how none is ever shown.

use super::description::{Key, Kind, Table};
use super::diagnostic::Span;
use crate::base::secret::Secret;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use toml::de::DeValue;
use zeroize::Zeroizing;

/// `{ file = "PATH" }` or `{ env = "NAME" }`.
pub(super) static SOURCES: Table = Table::one_of(&[
    Key::optional("file", Kind::Text("a path"), "", "A file that holds the secret; one line end after it is dropped.")
        .example("\"/run/secrets/keycloak\""),
    Key::optional("env", Kind::Text("a name"), "", "An environment variable that holds the secret.")
        .example("\"KEYCLOAK_SECRET\""),
]);

/// What stands beside an inline secret.
pub(super) const EXPECTED: &str = "expected `{ file = \"PATH\" }` or `{ env = \"NAME\" }`";

/// No header holds more.
const MOST_BYTES: u64 = 64 * 1024;

/// Why a secret cannot be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum SecretError {
    #[error("must not stand in the file itself")]
    Inline,
    #[error("is no string")]
    NoString,
    #[error("cannot read `{path}`: {source}")]
    Unreadable { path: String, source: io::Error },
    #[error("`{0}` is not a regular file")]
    NotAFile(String),
    #[error("`{0}` is larger than 64 KiB")]
    TooLarge(String),
    #[error("environment variable `{0}` is not set")]
    NotSet(String),
    #[error("environment variable `{0}` is not UTF-8")]
    NotUtf8(String),
    #[error("the secret is empty")]
    Empty,
}

/// A secret in the file itself: only with `dev = true`.
pub(super) fn inline(value: &DeValue<'_>, is_dev: bool) -> Result<Secret, SecretError> {
    match (value, is_dev) {
        (DeValue::String(text), true) => not_empty(text),
        (DeValue::String(_), false) => Err(SecretError::Inline),
        _ => Err(SecretError::NoString),
    }
}

/// The content of a file, without one line end after it.
pub(super) fn from_file(path: &Path) -> Result<Secret, SecretError> {
    let name = || path.display().to_string();
    let unreadable = |source| SecretError::Unreadable { path: name(), source };
    open(path)?;
    let mut text = Zeroizing::new(String::new());
    let file = File::open(path).map_err(unreadable)?;
    file.take(MOST_BYTES + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > MOST_BYTES {
        return Err(SecretError::TooLarge(name()));
    }
    let line = text.strip_suffix('\n').unwrap_or(&text);
    not_empty(line.strip_suffix('\r').unwrap_or(line))
}

/// The value of an environment variable.
pub(super) fn from_env(name: &str) -> Result<Secret, SecretError> {
    match std::env::var(name) {
        Ok(text) => not_empty(&text),
        Err(std::env::VarError::NotPresent) => Err(SecretError::NotSet(name.to_owned())),
        Err(std::env::VarError::NotUnicode(_)) => Err(SecretError::NotUtf8(name.to_owned())),
    }
}

/// Makes sure that a regular file is there and can be read. A pipe or a terminal would keep the reader waiting.
pub(super) fn open(path: &Path) -> Result<(), SecretError> {
    let unreadable = |source| SecretError::Unreadable { path: path.display().to_string(), source };
    if !path.metadata().map_err(unreadable)?.is_file() {
        return Err(SecretError::NotAFile(path.display().to_string()));
    }
    File::open(path).map(drop).map_err(unreadable)
}

/// Whether a value under that key may be a secret, though the key is not known.
pub(super) fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["secret", "password", "token", "value"].iter().any(|word| name.contains(word))
}

/// Where a text that cannot be read as TOML may hold secrets: what follows such a key on its line.
pub(super) fn spans_in_text(text: &str) -> Vec<Span> {
    let mut spans = Vec::new();
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let end = start + line.trim_end().len();
        if let Some(name) = ["secret", "password"].iter().filter_map(|word| line.to_ascii_lowercase().find(word)).min()
            && let Some(equals) = line[name..].find('=')
        {
            spans.push((start + name + equals + 1).min(end)..end);
        }
        start += line.len();
    }
    spans
}

/// Where a URL of the text holds a user and a password.
pub(super) fn passwords_in_urls(text: &str) -> Vec<Span> {
    let mut spans = Vec::new();
    for (scheme_end, separator) in text.match_indices("://") {
        let start = scheme_end + separator.len();
        let length = text[start..].find(['"', '\'', '\n', '/', '?', '#']).unwrap_or(text.len() - start);
        if let Some(at) = text[start..start + length].rfind('@') {
            spans.push(start..start + at);
        }
    }
    spans
}

fn not_empty(text: &str) -> Result<Secret, SecretError> {
    if text.is_empty() { Err(SecretError::Empty) } else { Ok(Secret::new(text)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        file
    }

    #[test]
    fn one_line_end_after_a_secret_is_dropped() {
        for (content, secret) in [("a", "a"), ("a\n", "a"), ("a\r\n", "a"), ("a\n\n", "a\n"), (" a ", " a ")] {
            assert_eq!(from_file(file(content).path()).unwrap().expose(), secret, "{content:?}");
        }
    }

    #[test]
    fn an_empty_absent_or_endless_file_holds_no_secret() {
        assert!(matches!(from_file(file("\n").path()), Err(SecretError::Empty)));
        assert!(matches!(from_file(Path::new("/dev/zero")), Err(SecretError::NotAFile(_))));
        assert!(matches!(from_file(Path::new("/no/such/file")), Err(SecretError::Unreadable { .. })));
        let large = file(&"x".repeat(MOST_BYTES as usize + 1));
        assert!(matches!(from_file(large.path()), Err(SecretError::TooLarge(_))));
    }

    #[test]
    fn a_password_in_a_url_is_found() {
        let text = "a = \"https://u:p@ss@host/x@y\"\nb = 'http://host:80/'\nc = \"http://host";
        let spans = passwords_in_urls(text);
        assert_eq!(spans.iter().map(|span| &text[span.clone()]).collect::<Vec<_>>(), ["u:p@ss"]);
    }

    #[test]
    fn a_secret_on_a_broken_line_is_found() {
        let text = "a = 1\nclient_SECRET = \"x\nb = 2\n";
        let spans = spans_in_text(text);
        assert_eq!(spans.iter().map(|span| &text[span.clone()]).collect::<Vec<_>>(), [" \"x"]);
    }
}
