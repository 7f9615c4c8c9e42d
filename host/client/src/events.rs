//! What happens, as a stream.

use futures::StreamExt as _;
use futures::stream::BoxStream;
use reqwest::Method;
use samovar_types::api::events::EventData;
use serde::Serialize;
use serde_json::Value;

use crate::Client;
use crate::error::ClientError;
use crate::event_stream::{EventReader, TooLongEvent};

/// What the server sends of what happens.
pub struct EventStream {
    body: BoxStream<'static, reqwest::Result<bytes::Bytes>>,
    reader: EventReader,
}

/// An item of the stream.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamItem {
    /// The position of the event. A stream that is opened with it starts with the next event.
    pub id: Option<String>,
    /// What happened; nothing where the server only tells how far the stream is.
    pub event: Option<Received>,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Received {
    /// Something that this release knows.
    Known(EventData),
    /// Something that a newer server tells of.
    Unknown(Value),
}

impl EventStream {
    /// The next item; nothing when the stream ended or the connection broke.
    ///
    /// # Errors
    /// An event is longer than any that is read.
    pub async fn next(&mut self) -> Result<Option<StreamItem>, TooLongEvent> {
        loop {
            if let Some(sent) = self.reader.next_event() {
                return Ok(Some(StreamItem {
                    id: sent.id,
                    event: received(&sent.data),
                }));
            }
            match self.body.next().await {
                Some(Ok(bytes)) => self.reader.add(&bytes)?,
                Some(Err(_)) | None => return Ok(None),
            }
        }
    }
}

fn received(data: &str) -> Option<Received> {
    match serde_json::from_str(data) {
        Ok(known) => Some(Received::Known(known)),
        Err(_) => serde_json::from_str(data).ok().map(Received::Unknown),
    }
}

impl Client {
    /// Follows what happens, of one model or of all, from now on or after the item of an id.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub async fn events(
        &self,
        model: Option<&str>,
        last: Option<&str>,
    ) -> Result<EventStream, ClientError> {
        let call = self.call(Method::GET, &["v1", "events"]).patiently();
        let call = call.query(model.map(|model| ("model", model.to_owned())));
        let mut request = call.into_request();
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = self.send(request).await?;
        Ok(EventStream {
            body: response.bytes_stream().boxed(),
            reader: EventReader::default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_newer_servers_are_passed_on() {
        assert_eq!(
            received(r#"{"type":"ready"}"#),
            Some(Received::Known(EventData::Ready))
        );
        let newer = r#"{"type":"comet","tail":1}"#;
        let Some(Received::Unknown(value)) = received(newer) else {
            panic!("it is known");
        };
        assert_eq!(value["type"], "comet");
        assert_eq!(received(""), None);
    }
}
