//! Calls for the event stream.

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

/// The event stream of a server.
pub struct EventStream {
    body: BoxStream<'static, reqwest::Result<bytes::Bytes>>,
    reader: EventReader,
}

/// An item of the stream.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamItem {
    /// Id of the event. Pass it to [`Client::events`] to continue with the next event.
    pub id: Option<String>,
    /// The event; none if the server only sends a position.
    pub event: Option<Received<Event>>,
}

/// An event that this release knows, or an unknown one from a newer server.
pub type Event = Reported<EventData, Value>;

impl EventStream {
    /// Waits for the next item. Returns `None` when the stream ended or the connection broke.
    ///
    /// # Errors
    /// An event exceeds the client's limit.
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
    /// Follows the events of one model or of all, from now on or after the item with an id.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request.
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
