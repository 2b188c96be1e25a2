//! JSON objects as strangers send them: no member twice, no deep nesting (RFC 7519 §4, RFC 8725 §2.4).
//!
//! What is read borrows from its text where no escape stands in the way: a token's claims are looked at once and then thrown away.

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Number, Value};
use std::borrow::Cow;
use std::fmt;

/// How deep arrays and objects may be nested. Keycloak's own tokens reach 4.
const MAX_DEPTH: usize = 16;

/// So many members are compared one with another; more are sorted, so that a text of many names takes no square of its length.
const FEW: usize = 32;

/// Reads exactly one JSON object; `None` where it is anything else, holds a member twice at any level (compared after
/// unescaping), is nested deeper than 16 levels, or is not UTF-8.
pub fn parse_object(text: &[u8]) -> Option<Object<'_>> {
    // All of it at once: from bytes each string would be looked at by itself.
    serde_json::from_str(std::str::from_utf8(text).ok()?).ok()
}

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub enum Json<'a> {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A finite number.
    Number(Number),
    /// A string.
    String(Cow<'a, str>),
    /// An array.
    Array(Vec<Json<'a>>),
    /// An object.
    Object(Object<'a>),
}

/// The members of an object, in the order of the text; no name stands twice.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Object<'a>(Vec<(Cow<'a, str>, Json<'a>)>);

impl<'a> Object<'a> {
    /// The member of this name.
    pub fn get(&self, name: &str) -> Option<&Json<'a>> {
        self.iter().find_map(|(known, value)| (known == name).then_some(value))
    }

    /// The names and what they stand for.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Json<'a>)> {
        self.0.iter().map(|(name, value)| (&**name, value))
    }

    /// How many members there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Both, and where both have a member, that of `other`.
    #[must_use]
    pub fn overlaid(mut self, other: Self) -> Self {
        self.0.retain(|(name, _)| other.get(name).is_none());
        self.0.extend(other.0);
        self
    }

    /// The same, without the text.
    pub fn into_owned(self) -> Object<'static> {
        let owned = |(name, value): (Cow<'a, str>, Json<'a>)| (name.into_owned().into(), value.into_owned());
        Object(self.0.into_iter().map(owned).collect())
    }

    /// The same, to keep and to write.
    pub fn to_value(&self) -> Value {
        self.iter().map(|(name, value)| (name.to_owned(), value.to_value())).collect()
    }

    fn has_twice(&self) -> bool {
        if self.len() <= FEW {
            // A name whose mark no other has before it is no second one, so few are compared.
            let mut marks = 0;
            return self.0.iter().enumerate().any(|(place, (name, _))| {
                let is_marked = marks & mark(name) != 0;
                marks |= mark(name);
                is_marked && self.0[..place].iter().any(|(before, _)| before == name)
            });
        }
        let mut names: Vec<_> = self.iter().map(|(name, _)| name).collect();
        names.sort_unstable();
        names.windows(2).any(|pair| pair[0] == pair[1])
    }
}

/// One of 64 bits, the same for the same name; the usual claims of a token have each another one.
fn mark(name: &str) -> u64 {
    let ends = name.as_bytes().first().zip(name.as_bytes().last());
    let (first, last) = ends.map_or((0, 0), |(first, last)| (usize::from(*first), usize::from(*last)));
    1 << ((name.len() + 9 * first + 31 * last) % 64)
}

impl<'a> Json<'a> {
    /// The text of a string.
    pub fn as_str(&self) -> Option<&str> {
        if let Self::String(text) = self { Some(text) } else { None }
    }

    /// A whole number from 0.
    pub fn as_u64(&self) -> Option<u64> {
        if let Self::Number(number) = self { number.as_u64() } else { None }
    }

    /// A whole number.
    pub fn as_i64(&self) -> Option<i64> {
        if let Self::Number(number) = self { number.as_i64() } else { None }
    }

    /// What an array holds.
    pub fn as_array(&self) -> Option<&[Self]> {
        if let Self::Array(items) = self { Some(items) } else { None }
    }

    /// The members of an object.
    pub fn as_object(&self) -> Option<&Object<'a>> {
        if let Self::Object(members) = self { Some(members) } else { None }
    }

    /// The same, to keep and to write.
    pub fn to_value(&self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Bool(value) => Value::Bool(*value),
            Self::Number(number) => Value::Number(number.clone()),
            Self::String(text) => Value::String(text.clone().into_owned()),
            Self::Array(items) => items.iter().map(Self::to_value).collect(),
            Self::Object(members) => members.to_value(),
        }
    }

    fn into_owned(self) -> Json<'static> {
        match self {
            Self::Null => Json::Null,
            Self::Bool(value) => Json::Bool(value),
            Self::Number(number) => Json::Number(number),
            Self::String(text) => Json::String(text.into_owned().into()),
            Self::Array(items) => Json::Array(items.into_iter().map(Json::into_owned).collect()),
            Self::Object(members) => Json::Object(members.into_owned()),
        }
    }
}

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match (Strict { depth: 0 }).deserialize(deserializer)? {
            Json::Object(members) => Ok(members),
            _ => Err(D::Error::custom("not an object")),
        }
    }
}

struct Strict {
    depth: usize,
}

impl Strict {
    fn deeper<E: Error>(&self) -> Result<usize, E> {
        if self.depth == MAX_DEPTH { Err(E::custom("nested too deep")) } else { Ok(self.depth + 1) }
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Json<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Json<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Json<'de>, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json<'de>, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json<'de>, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json<'de>, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Json<'de>, E> {
        Number::from_f64(value).map(Json::Number).ok_or_else(|| E::custom("not a finite number"))
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Json<'de>, E> {
        Ok(Json::String(Cow::Borrowed(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json<'de>, E> {
        Ok(Json::String(Cow::Owned(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Json<'de>, A::Error> {
        let depth = self.deeper()?;
        let mut items = Vec::new();
        while let Some(item) = sequence.next_element_seed(Strict { depth })? {
            items.push(item);
        }
        Ok(Json::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Json<'de>, A::Error> {
        let depth = self.deeper()?;
        // A token's claims are some twenty, and what lies in them is small.
        let mut members = Object(Vec::with_capacity(if self.depth == 0 { 24 } else { 0 }));
        while let Some(name) = access.next_key_seed(Strict { depth })? {
            let Json::String(name) = name else { return Err(A::Error::custom("a name is a string")) };
            members.0.push((name, access.next_value_seed(Strict { depth })?));
        }
        if members.has_twice() {
            return Err(A::Error::custom("a member stands twice"));
        }
        Ok(Json::Object(members))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::json;

    /// The object that is written so.
    pub(crate) fn object(value: impl Into<Value>) -> Object<'static> {
        parse_object(value.into().to_string().as_bytes()).unwrap().into_owned()
    }

    #[track_caller]
    fn check(text: &str, is_good: bool) {
        assert_eq!(parse_object(text.as_bytes()).is_some(), is_good, "{text}");
    }

    #[test]
    fn an_object_with_any_white_space_is_read() {
        check(" {\r\n\t\"a\" : [1, -2.5, null, true, {\"b\":\"\\u0041\"}] } ", true);
    }

    #[test]
    fn a_member_that_stands_twice_is_refused_at_any_level() {
        check(r#"{"a":1,"a":1}"#, false);
        check(r#"{"x":{"a":1,"a":2}}"#, false);
        check(r#"{"x":[{"a":1,"a":2}]}"#, false);
        check(r#"{"sub":"alice","s\u0075b":"root"}"#, false);
    }

    #[test]
    fn one_of_many_members_that_stands_twice_is_found() {
        let text = |names: &[usize]| {
            let members: Vec<_> = names.iter().map(|name| format!("\"{name}\":0")).collect();
            format!("{{{}}}", members.join(","))
        };
        for many in [FEW - 1, FEW, FEW + 1, 1000] {
            let mut names: Vec<_> = (0..many).rev().collect();
            check(&text(&names), true);
            names.push(many / 2);
            check(&text(&names), false);
        }
    }

    #[test]
    fn what_is_read_is_what_another_parser_reads() {
        let text = r#"{"b":[null,true,-1,2,0.5,"\u00e4\n",{"c":{}}],"a":"x","":"","\u0041":"\\"}"#;
        let members = parse_object(text.as_bytes()).unwrap();
        assert_eq!(members.to_value(), serde_json::from_str::<Value>(text).unwrap());
        assert_eq!(members.into_owned(), parse_object(text.as_bytes()).unwrap());
    }

    #[test]
    fn of_two_objects_the_later_counts() {
        let both = object(json!({"a": 1, "b": {"c": 1}})).overlaid(object(json!({"b": {"d": 2}, "e": null})));
        assert_eq!(both.to_value(), json!({"a": 1, "b": {"d": 2}, "e": null}));
    }

    #[test]
    fn anything_but_one_object_is_refused() {
        for text in
            ["", "[]", "null", "\"x\"", "1", "{}{}", "{}x", "{\"a\":1,}", "{\"a\":1", "\u{feff}{}", "{\"a\":1e400}"]
        {
            check(text, false);
        }
        assert!(parse_object(b"{\"a\":\"\xff\"}").is_none());
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |n: usize| format!("{{\"a\":{}1{}}}", "[".repeat(n), "]".repeat(n));
        check(&nested(MAX_DEPTH - 1), true);
        check(&nested(MAX_DEPTH), false);
        check(&nested(10_000), false);
    }
}
