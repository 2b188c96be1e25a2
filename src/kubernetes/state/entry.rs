//! How a key and its value lie in a Secret, whose own keys may hold only a few characters.

use super::Edit;
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::Value;
use std::collections::BTreeMap;

/// Where a key lies.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// Its key in the data of the Secret.
    pub(super) slot: String,
    pub(super) shard: usize,
    pub(super) key: String,
}

/// What is to become of which keys.
pub(super) type Entries = BTreeMap<Place, Edit>;

impl Place {
    pub(super) fn of(key: &str, shards: usize) -> Self {
        let hash = digest(&SHA256, key.as_bytes());
        let hash = hash.as_ref();
        let number = usize::from(u16::from_be_bytes([hash[0], hash[1]]));
        Self { slot: URL_SAFE_NO_PAD.encode(hash), shard: number % shards, key: key.to_owned() }
    }
}

/// What is patched: the key's length, the key, the value; `null` removes.
pub(super) fn encode(place: &Place, edit: &Edit) -> Value {
    match edit {
        Edit::Put(value) => {
            let length = u16::try_from(place.key.len()).unwrap_or(u16::MAX);
            let mut bytes = length.to_be_bytes().to_vec();
            bytes.extend_from_slice(place.key.as_bytes());
            bytes.extend_from_slice(value);
            Value::String(STANDARD.encode(bytes))
        }
        Edit::Keep | Edit::Remove => Value::Null,
    }
}

/// The key and the value of what lies in `slot`; `None` if it is not as we write it.
pub(super) fn decode(slot: &str, bytes: &[u8]) -> Option<(String, Vec<u8>)> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    let (key, value) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    let key = std::str::from_utf8(key).ok()?;
    (Place::of(key, 1).slot == slot).then(|| (key.to_owned(), value.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_and_nothing_else_is() {
        for key in ["main/alice", "ü\0/", &"x".repeat(2048)] {
            let place = Place::of(key, 16);
            assert!(place.shard < 16 && place.slot.len() == 43);
            let Value::String(text) = encode(&place, &Edit::Put(b"value".to_vec())) else { panic!("no text") };
            let bytes = STANDARD.decode(text).unwrap();
            assert_eq!(decode(&place.slot, &bytes), Some((key.to_owned(), b"value".to_vec())));
            assert_eq!(decode(&Place::of("other", 16).slot, &bytes), None);
        }
        for bytes in [&b""[..], b"\0", b"\0\x05abc", b"\xff\xff", b"\0\x01\xff"] {
            assert_eq!(decode(&Place::of("a", 1).slot, bytes), None);
        }
    }
}
