//! What happens, as a stream.

use futures::StreamExt as _;
use futures::stream::BoxStream;
use reqwest::Method;
use samovar_types::api::events::EventData;
use samovar_types::api::reported::Reported;
use serde_json::Value;

use crate::Client;
use crate::error::ClientError;
use crate::event_stream::{EventReader, TooLongEvent};
use crate::received::Received;

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
    pub event: Option<Received<Event>>,
}

/// What happened: something that this release knows, or what a newer server tells of.
pub type Event = Reported<EventData, Value>;

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
                    event: Received::read(sent.data.as_bytes()).ok(),
                }));
            }
            match self.body.next().await {
                Some(Ok(bytes)) => self.reader.add(&bytes)?,
                Some(Err(_)) | None => return Ok(None),
            }
        }
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
        let read = |data: &str| Received::<Event>::read(data.as_bytes()).ok();
        let ready = read(r#"{"type":"ready"}"#).unwrap();
        assert_eq!(*ready, EventData::Ready);
        let newer = r#"{"type":"comet","tail":1}"#;
        let comet = read(newer).unwrap();
        assert_eq!((comet.known(), comet.json()), (None, newer));
        assert!(read("").is_none());
    }
}
