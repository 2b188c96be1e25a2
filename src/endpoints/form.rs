//! `application/x-www-form-urlencoded`, read strictly: nothing twice, nothing that two readers could take in two ways.

use std::collections::HashSet;

/// The parameters of a form.
#[derive(Debug, PartialEq, Eq)]
pub struct Form(Vec<(String, String)>);

/// Why a body is no form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FormError {
    /// A `%` without two hexadecimal digits, bytes that have to be encoded and are not, or text that is not UTF-8.
    #[error("the form is not encoded properly")]
    Encoding,
    /// RFC 6749 §3.1 forbids it.
    #[error("a parameter stands twice")]
    Twice,
    /// More than anybody has a use for.
    #[error("too many parameters")]
    TooMany,
}

/// How many parameters a form may have.
const MAX_PARAMETERS: usize = 32;

impl Form {
    /// Reads a body.
    ///
    /// # Errors
    /// [`FormError`].
    pub fn parse(body: &[u8]) -> Result<Self, FormError> {
        let mut parameters = Vec::new();
        let mut names = HashSet::new();
        for part in body.split(|byte| *byte == b'&') {
            let (name, value) = match part.iter().position(|byte| *byte == b'=') {
                None if part.is_empty() => continue,
                None => (part, &[][..]),
                Some(at) => (&part[..at], &part[at + 1..]),
            };
            let (name, value) = (decode(name)?, decode(value)?);
            if !names.insert(name.clone()) {
                return Err(FormError::Twice);
            }
            if parameters.len() == MAX_PARAMETERS {
                return Err(FormError::TooMany);
            }
            parameters.push((name, value));
        }
        Ok(Self(parameters))
    }

    /// A parameter's value; one without a value counts as absent (RFC 6749 §3.1).
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// All of them, in their order.
    pub fn parameters(&self) -> &[(String, String)] {
        &self.0
    }
}

/// Undoes the encoding of one name or value.
///
/// # Errors
/// [`FormError::Encoding`].
pub fn decode(text: &[u8]) -> Result<String, FormError> {
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16)).ok_or(FormError::Encoding);
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => {
                let (high, low) = (digit(bytes.next())?, digit(bytes.next())?);
                u8::try_from(high * 16 + low).map_err(|_| FormError::Encoding)?
            }
            byte if byte.is_ascii_graphic() && *byte != b'=' => *byte,
            _ => return Err(FormError::Encoding),
        });
    }
    String::from_utf8(decoded).map_err(|_| FormError::Encoding)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(body: &str, expected: Result<&[(&str, &str)], FormError>) {
        let parsed = Form::parse(body.as_bytes());
        let found =
            parsed.as_ref().map(|form| form.0.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect::<Vec<_>>());
        assert_eq!(found.map_err(|error| *error), expected.map(<[_]>::to_vec), "{body:?}");
    }

    #[test]
    fn a_form_is_read() {
        check(
            "token=a.b.c&token_type_hint=access_token",
            Ok(&[("token", "a.b.c"), ("token_type_hint", "access_token")]),
        );
        check("a=%C3%a9+%2b&b=&&c", Ok(&[("a", "é +"), ("b", ""), ("c", "")]));
        check("", Ok(&[]));
        assert_eq!(Form::parse(b"a=&b=x").unwrap().get("a"), None);
    }

    #[test]
    fn no_parameter_stands_twice_however_it_is_spelled() {
        check("token=a&token=a", Err(FormError::Twice));
        check("token=a&t%6fken=b", Err(FormError::Twice));
        check("token&token=", Err(FormError::Twice));
        check(&(0..33).map(|n| format!("p{n}=x&")).collect::<String>(), Err(FormError::TooMany));
    }

    #[test]
    fn what_is_not_encoded_properly_is_refused() {
        for bad in ["a=%", "a=%4", "a=%zz", "a=%+1", "a=b=c", "a=b c", "a=\r\n", "a=é", "a=%ff", "a=\0"] {
            check(bad, Err(FormError::Encoding));
        }
    }

    proptest! {
        /// What is taken, another library takes for the same.
        #[test]
        fn another_library_reads_the_same(body in "[a-c=&+%0-9A-F ]{0,40}") {
            if let Ok(form) = Form::parse(body.as_bytes()) {
                let theirs: Vec<_> = url::form_urlencoded::parse(body.as_bytes()).into_owned().collect();
                prop_assert_eq!(form.0, theirs);
            }
        }

        #[test]
        fn what_another_library_writes_is_read(pairs in proptest::collection::btree_map("\\PC{1,8}", "\\PC{0,8}", 0..5)) {
            let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(&pairs).finish();
            let pairs: Vec<_> = pairs.into_iter().collect();
            prop_assert_eq!(Form::parse(body.as_bytes()).unwrap().0, pairs);
        }
    }
}
