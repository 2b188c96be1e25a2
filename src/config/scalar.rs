//! Single values: durations, sizes, words, paths and the like, from TOML to their Rust type.

use super::description::{Kind, choices};
use super::diagnostic::{Mistake, Span};
use super::nearest::did_you_mean;
use super::secrets::{self, SecretError};
use super::tree::Value;
use std::path::Path;
use std::time::Duration;
use toml::de::{DeInteger, DeValue};

/// Why a value is not of its kind.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ScalarError {
    WrongType { found: &'static str },
    Malformed { text: String, expected: &'static str },
    OutOfRange { bounds: String },
    UnknownWord { word: String },
    Empty,
    File { reason: String },
}

/// Reads a value of a kind that holds no other values.
pub(super) fn read(kind: &Kind, value: &DeValue<'_>, base: &Path) -> Result<Value, ScalarError> {
    match (kind, value) {
        (Kind::Flag, DeValue::Boolean(flag)) => Ok(Value::Flag(*flag)),
        (Kind::Integer { least, most }, DeValue::Integer(integer)) => {
            let bounds = || match least == most {
                true => format!("expected {least}"),
                false => format!("expected {least} to {most}"),
            };
            whole(integer).and_then(|n| in_range(n, *least, *most, bounds)).map(Value::Integer)
        }
        (Kind::Size { least, most }, DeValue::Integer(integer)) => whole(integer).and_then(|n| sized(n, *least, *most)),
        (Kind::Size { least, most }, DeValue::String(text)) => size(text).and_then(|n| sized(n, *least, *most)),
        (Kind::Duration { least, most }, DeValue::String(text)) => {
            let bounds = || format!("expected `{}` to `{}`", duration_text(*least), duration_text(*most));
            duration(text).and_then(|time| in_range(time, *least, *most, bounds)).map(Value::Duration)
        }
        (Kind::Duration { .. }, DeValue::Integer(integer)) => Err(ScalarError::Malformed {
            text: integer.to_string(),
            expected: "a duration has a unit, as in `\"30s\"`: one of `ms`, `s`, `m`, `h` or `d`",
        }),
        (Kind::Text(_) | Kind::File | Kind::Path, DeValue::String(text)) if text.is_empty() => Err(ScalarError::Empty),
        (Kind::Text(_) | Kind::AnyText, DeValue::String(text)) => Ok(Value::Text(text.to_string())),
        (Kind::Word { words, .. } | Kind::WordOr(words, _), DeValue::String(text)) => match words.contains(&&**text) {
            true => Ok(Value::Text(text.to_string())),
            false => Err(ScalarError::UnknownWord { word: text.to_string() }),
        },
        (Kind::Path, DeValue::String(text)) => Ok(Value::Path(base.join(&**text))),
        (Kind::File, DeValue::String(text)) => {
            let path = base.join(&**text);
            secrets::open(&path).map_err(|error: SecretError| ScalarError::File { reason: error.to_string() })?;
            Ok(Value::Path(path))
        }
        (Kind::Scalar, DeValue::String(text)) => Ok(Value::Scalar(text.to_string().into())),
        (Kind::Scalar, DeValue::Boolean(flag)) => Ok(Value::Scalar((*flag).into())),
        (Kind::Scalar, DeValue::Integer(integer)) => signed(integer).map(|n| Value::Scalar(n.into())),
        (_, value) => Err(ScalarError::WrongType { found: found(value) }),
    }
}

impl ScalarError {
    /// The mistake that it is, at its place.
    pub(super) fn at(self, span: Span, kind: &Kind, path: &str) -> Mistake {
        let expected = format!("expected {}", kind.words());
        match self {
            Self::WrongType { found } => {
                let expected = match kind {
                    Kind::Tables(_) => format!("expected a section `[[{path}]]`, in two brackets"),
                    Kind::Named(_) => format!("expected sections `[{path}.NAME]`"),
                    _ => expected,
                };
                Mistake::at(span, format!("`{path}` has the wrong type")).label(format!("{expected}, found {found}"))
            }
            Self::Malformed { text, expected } => {
                Mistake::at(span, format!("`{text}` cannot be read as `{path}`")).label(expected)
            }
            Self::OutOfRange { bounds } => Mistake::at(span, format!("`{path}` is out of range")).label(bounds),
            Self::Empty => Mistake::at(span, format!("`{path}` is empty")).label(expected),
            Self::File { reason } => Mistake::at(span, reason),
            Self::UnknownWord { word } => {
                let (words, note) = match kind {
                    Kind::Word { words, note } => (*words, *note),
                    Kind::WordOr(words, _) => (*words, ""),
                    _ => (&[][..], ""),
                };
                let meant = did_you_mean(&word, words.iter().copied());
                let mistake = Mistake::at(span, format!("`{word}` is no value of `{path}`{meant}"));
                let mistake =
                    mistake.label(if note.is_empty() { expected } else { format!("expected {}", choices(words)) });
                if note.is_empty() { mistake } else { mistake.help(note) }
            }
        }
    }
}

/// A whole number and one unit, as in `500ms`, `30s`, `5m`, `1h` and `30d`.
fn duration(text: &str) -> Result<Duration, ScalarError> {
    const EXPECTED: &str = "a duration is a whole number and one of `ms`, `s`, `m`, `h` or `d`, as in `\"30s\"`";
    let malformed = || ScalarError::Malformed { text: text.to_owned(), expected: EXPECTED };
    let (number, unit) = number_and_unit(text).ok_or_else(malformed)?;
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(malformed()),
    };
    number.checked_mul(milliseconds).map(Duration::from_millis).ok_or_else(malformed)
}

/// A whole number and one unit, as in `64KiB`; in bytes.
fn size(text: &str) -> Result<u64, ScalarError> {
    const EXPECTED: &str = "a size is a whole number and one of `B`, `KiB`, `MiB` or `GiB`, as in `\"64KiB\"`";
    let malformed = || ScalarError::Malformed { text: text.to_owned(), expected: EXPECTED };
    let (number, unit) = number_and_unit(text).ok_or_else(malformed)?;
    let bytes = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(malformed()),
    };
    number.checked_mul(bytes).ok_or_else(malformed)
}

fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    Some((number.parse().ok()?, unit))
}

/// The longest unit that gives a whole number.
pub(super) fn duration_text(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    match units.into_iter().find(|(unit, _)| milliseconds > 0 && milliseconds.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{}{name}", milliseconds / unit),
        None if milliseconds == 0 => "0s".to_owned(),
        None => format!("{milliseconds}ms"),
    }
}

/// The longest unit that gives a whole number.
pub(super) fn size_text(bytes: u64) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.into_iter().find(|(unit, _)| bytes > 0 && bytes.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{}{name}", bytes / unit),
        None => format!("{bytes}B"),
    }
}

fn sized(bytes: u64, least: u64, most: u64) -> Result<Value, ScalarError> {
    let bounds = || format!("expected `{}` to `{}`", size_text(least), size_text(most));
    in_range(bytes, least, most, bounds).map(Value::Integer)
}

fn in_range<T: PartialOrd>(value: T, least: T, most: T, bounds: impl Fn() -> String) -> Result<T, ScalarError> {
    if value < least || value > most { Err(ScalarError::OutOfRange { bounds: bounds() }) } else { Ok(value) }
}

fn signed(integer: &DeInteger<'_>) -> Result<i64, ScalarError> {
    let out_of_range = |_| ScalarError::OutOfRange { bounds: "expected a number of 64 bits".to_owned() };
    i64::from_str_radix(integer.as_str(), integer.radix()).map_err(out_of_range)
}

fn whole(integer: &DeInteger<'_>) -> Result<u64, ScalarError> {
    let negative = |_| ScalarError::OutOfRange { bounds: "expected no negative number".to_owned() };
    u64::try_from(signed(integer)?).map_err(negative)
}

fn found(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a fraction",
        DeValue::Boolean(_) => "`true` or `false`",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_a_whole_number_and_a_unit() {
        for (text, milliseconds) in
            [("500ms", 500), ("30s", 30_000), ("5m", 300_000), ("1h", 3_600_000), ("30d", 2_592_000_000), ("0s", 0)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in
            ["", "s", "30", "30 s", "-1s", "1.5s", "1h30m", "30S", "99999999999999999999s", "999999999999999999d"]
        {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_size_is_a_whole_number_and_a_unit() {
        for (text, bytes) in [("1B", 1), ("64KiB", 65_536), ("10MiB", 10_485_760), ("2GiB", 2_147_483_648)] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "KiB", "64", "64KB", "64 KiB", "-1B", "99999999999999GiB"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_duration_or_size_is_written_as_it_is_read() {
        for text in ["500ms", "90s", "5m", "25h", "30d", "0s"] {
            assert_eq!(duration_text(duration(text).unwrap()), text);
        }
        for text in ["0B", "1025B", "64KiB", "1GiB"] {
            assert_eq!(size_text(size(text).unwrap()), text);
        }
    }
}
