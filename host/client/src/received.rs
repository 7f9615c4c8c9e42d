//! A response as this release reads it, with everything that the server sent.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;

use serde::de::DeserializeOwned;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

/// A JSON document from the server, read as a `T`.
///
/// It is used like the `T`. Serialized, it is what the server sent: fields that only a newer release knows are kept.
#[derive(Clone)]
pub struct Received<T> {
    value: T,
    json: Box<RawValue>,
}

impl<T: DeserializeOwned> Received<T> {
    /// Reads a document.
    ///
    /// # Errors
    /// It is no JSON, or no `T`.
    pub fn read(json: &[u8]) -> serde_json::Result<Self> {
        Ok(Self {
            json: serde_json::from_slice(json)?,
            value: serde_json::from_slice(json)?,
        })
    }
}

impl<T> Received<T> {
    /// The value alone.
    pub fn into_inner(self) -> T {
        self.value
    }

    /// The document as it was sent.
    pub fn json(&self) -> &str {
        self.json.get()
    }

    /// A field of it, with everything that was sent of the field. `part` is where the value has it.
    pub fn part<U: Clone + Serialize>(
        &self,
        field: &str,
        part: impl FnOnce(&T) -> &U,
    ) -> Received<U> {
        let fields: BTreeMap<String, Box<RawValue>> = read_or_default(&self.json);
        Received::of(part(&self.value).clone(), fields.get(field).cloned())
    }

    /// The items of a list, each with everything that was sent of it.
    pub fn items<U: Clone + Serialize>(
        &self,
        field: &str,
        items: impl FnOnce(&T) -> &Vec<U>,
    ) -> Vec<Received<U>> {
        let list = self.part(field, items);
        let mut sent = read_or_default::<Vec<Box<RawValue>>>(&list.json).into_iter();
        let values = list.value.into_iter();
        values.map(|one| Received::of(one, sent.next())).collect()
    }
}

/// A value that no server sent, as if one of this release had.
impl<T: Serialize> From<T> for Received<T> {
    fn from(value: T) -> Self {
        Self::of(value, None)
    }
}

impl<T: Serialize> Received<T> {
    fn of(value: T, sent: Option<Box<RawValue>>) -> Self {
        // A field that was not sent has a default, and types of the API can all be written.
        let written = || serde_json::value::to_raw_value(&value);
        let json = sent.or_else(|| written().ok());
        Self {
            json: json.unwrap_or_else(|| RawValue::NULL.to_owned()),
            value,
        }
    }
}

/// A document has been read before, so that its parts are known to be there.
fn read_or_default<T: DeserializeOwned + Default>(json: &RawValue) -> T {
    serde_json::from_str(json.get()).unwrap_or_default()
}

impl<T> Deref for Received<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: fmt::Debug> fmt::Debug for Received<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

impl<T: PartialEq> PartialEq for Received<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl<T> Serialize for Received<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // A raw value would be written in one line whatever surrounds it, and could not be flattened.
        let mut sent = serde_json::Deserializer::from_str(self.json.get());
        serde_transcode::transcode(&mut sent, serializer)
    }
}

#[cfg(test)]
mod tests {
    use samovar_types::api::logs::LogsResponse;
    use samovar_types::api::models::DeleteModelResponse;
    use serde_json::json;

    use super::*;

    const SENT: &str = r#"{"newer":[1,{"z":null,"a":0.5}],"id":"abcd1234","deleted":true}"#;

    #[test]
    fn what_a_newer_server_adds_is_kept_in_its_order() {
        let read = Received::<DeleteModelResponse>::read(SENT.as_bytes()).unwrap();
        assert!(read.deleted);
        assert_eq!(read.json(), SENT);
        assert_eq!(serde_json::to_string(&read).unwrap(), SENT);
        let pretty = serde_json::to_string_pretty(&read).unwrap();
        assert!(
            pretty.starts_with("{\n  \"newer\": [\n    1,\n    {\n"),
            "{pretty}"
        );
        assert!(Received::<DeleteModelResponse>::read(b"{}").is_err());
        assert!(Received::<DeleteModelResponse>::read(&SENT.as_bytes()[1..]).is_err());
    }

    #[test]
    fn it_can_be_flattened_into_another_document() {
        #[derive(Serialize)]
        struct Outer {
            #[serde(flatten)]
            inner: Received<DeleteModelResponse>,
            more: u32,
        }
        let inner = Received::read(SENT.as_bytes()).unwrap();
        let written = serde_json::to_value(Outer { inner, more: 1 }).unwrap();
        assert_eq!(
            written,
            json!({"newer": [1, {"z": null, "a": 0.5}], "id": "abcd1234", "deleted": true, "more": 1})
        );
    }

    #[test]
    fn parts_keep_what_was_sent_of_them() {
        let line = r#"{"timestamp":"2026-01-01T00:00:00Z","level":"INFO","message":"m","replica":"r","request_id":null,"span":7}"#;
        let sent = format!(r#"{{"logs":[{line},{line}]}}"#);
        let read = Received::<LogsResponse>::read(sent.as_bytes()).unwrap();
        let lines = read.items("logs", |answer| &answer.logs);
        assert_eq!(lines.len(), 2);
        assert_eq!((lines[1].json(), &*lines[1].message), (line, "m"));
        let none = read.items("nothing of this name", |answer| &answer.logs);
        assert_eq!(
            (none.len(), none[0].json().contains("span")),
            (2, false),
            "{none:?}"
        );
    }
}
