//! JSON documents: what is read of one, written and read again is the same, also when a later release has added a field.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// What a document says, if it can be read.
pub fn read_and_write<T>(document: &[u8]) -> Option<T>
where
    T: DeserializeOwned + Serialize + PartialEq,
{
    let value: T = serde_json::from_slice(document).ok()?;
    let written = serde_json::to_vec(&value).expect("what was read can be written");
    let again: T = serde_json::from_slice(&written).expect("what was written can be read");
    assert!(again == value, "another value: {}", shown(&written));
    let twice = serde_json::to_vec(&again).expect("what was read can be written");
    assert!(twice == written, "another text: {}", shown(&written));
    if let Some(later) = with_unknown_field(document) {
        let read: T = serde_json::from_slice(&later).expect("an unknown field is passed over");
        assert!(read == value, "an unknown field counts: {}", shown(&later));
    }
    Some(value)
}

/// An object with one more field, which no release has.
pub fn with_unknown_field(document: &[u8]) -> Option<Vec<u8>> {
    let open = document
        .iter()
        .position(|byte| !byte.is_ascii_whitespace())?;
    let (front, rest) = document.split_at_checked(open + 1)?;
    if front.last() != Some(&b'{') {
        return None;
    }
    let is_empty = rest.trim_ascii_start().starts_with(b"}");
    let field = br#""field_of_a_later_release":{"a":[null]}"#;
    let comma = if is_empty { &b""[..] } else { b"," };
    Some([front, field, comma, rest].concat())
}

fn shown(document: &[u8]) -> String {
    String::from_utf8_lossy(document).into_owned()
}
