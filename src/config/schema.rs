//! The JSON Schema of a configuration, for editors and other checkers.

use super::ROOT;
use super::description::{Key, Kind, Presence, Table};
use super::secrets::SOURCES;
use serde_json::{Map, Value, json};
use std::time::Duration;
use toml::de::DeValue;

/// The JSON Schema (draft 2020-12) of a configuration. It knows each key by itself; what several keys say together
/// only `postern check` can judge.
pub fn schema() -> Value {
    let mut schema = table(&ROOT);
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!("Configuration of Postern");
    let mut secret = table(&SOURCES);
    secret["description"] = json!("Where a secret is read from.");
    let inline =
        json!({ "type": "string", "minLength": 1, "description": "In the file itself: only for `postern dev`." });
    schema["$defs"] = json!({ "secret": { "anyOf": [secret, inline] } });
    schema
}

fn table(table: &Table) -> Value {
    let properties: Map<String, Value> = table.keys.iter().map(|key| (key.name.to_owned(), property(key))).collect();
    let mut schema = json!({ "type": "object", "additionalProperties": false, "properties": properties });
    let required: Vec<_> =
        table.keys.iter().filter(|key| matches!(key.presence, Presence::Required)).map(|key| key.name).collect();
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    if table.is_choice {
        schema["minProperties"] = json!(1);
        schema["maxProperties"] = json!(1);
    }
    schema
}

fn property(key: &Key) -> Value {
    let mut schema = kind(&key.kind);
    schema["description"] = match key.presence {
        Presence::Optional(absent) if !absent.is_empty() => json!(format!("{} Default: {absent}.", key.doc)),
        _ => json!(key.doc),
    };
    if let Presence::Default(text) = key.presence {
        schema["default"] = value(text);
    }
    if !key.example.is_empty() {
        schema["examples"] = json!([value(key.example)]);
    }
    schema
}

fn kind(kind: &Kind) -> Value {
    match kind {
        Kind::Flag => json!({ "type": "boolean" }),
        Kind::Integer { least, most } => json!({ "type": "integer", "minimum": least, "maximum": most }),
        Kind::Duration { least, .. } => json!({ "type": "string", "pattern": duration_pattern(*least) }),
        Kind::Size { least, most } => json!({ "anyOf": [
            { "type": "string", "pattern": "^[0-9]+(B|KiB|MiB|GiB)$" },
            { "type": "integer", "minimum": least, "maximum": most },
        ] }),
        Kind::Text(_) | Kind::File | Kind::Path => json!({ "type": "string", "minLength": 1 }),
        Kind::AnyText => json!({ "type": "string" }),
        Kind::Word { words, .. } => json!({ "enum": words }),
        Kind::Secret => json!({ "$ref": "#/$defs/secret" }),
        Kind::Scalar => json!({ "type": ["string", "integer", "boolean"] }),
        Kind::List { of, can_be_empty } => {
            let least = u8::from(!can_be_empty);
            json!({ "type": "array", "items": self::kind(of), "minItems": least, "uniqueItems": true })
        }
        Kind::OneOrMany(of) => json!({ "anyOf": [self::kind(of), self::kind(&Kind::list(of))] }),
        Kind::Map { value, .. } => json!({ "type": "object", "additionalProperties": self::kind(value) }),
        Kind::Table(description) => table(description),
        Kind::WordOr(words, description) => json!({ "anyOf": [{ "enum": words }, table(description)] }),
        Kind::Named(description) => json!({ "type": "object", "additionalProperties": table(description) }),
        Kind::Tables(description) => json!({ "type": "array", "items": table(description), "minItems": 1 }),
    }
}

/// A pattern tells zero from the rest; the other bounds are for `postern check`.
fn duration_pattern(least: Duration) -> &'static str {
    if least.is_zero() { "^[0-9]+(ms|s|m|h|d)$" } else { "^0*[1-9][0-9]*(ms|s|m|h|d)$" }
}

/// A value of the description, from TOML to JSON.
fn value(text: &str) -> Value {
    DeValue::parse(text).map(|value| to_json(value.get_ref())).expect("a test reads every default and example")
}

fn to_json(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::Integer(integer) => json!(i64::from_str_radix(integer.as_str(), integer.radix()).ok()),
        DeValue::Boolean(flag) => json!(flag),
        DeValue::Array(array) => array.iter().map(|member| to_json(member.get_ref())).collect(),
        DeValue::Table(table) => {
            table.iter().map(|(key, value)| (key.get_ref().to_string(), to_json(value.get_ref()))).collect()
        }
        DeValue::String(text) => json!(text),
        DeValue::Float(float) => json!(float.as_str()),
        DeValue::Datetime(time) => json!(time.to_string()),
    }
}
