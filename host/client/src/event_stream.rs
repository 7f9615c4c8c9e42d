//! A parser of server-sent events.

/// Longest event, in bytes.
const MAX_EVENT_BYTES: usize = 4 << 20;

/// An event exceeds the client's limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the server sent an event of more than {MAX_EVENT_BYTES} bytes")]
pub struct TooLongEvent;

/// Parses server-sent events from the chunks of a body.
#[derive(Default)]
pub struct EventReader {
    bytes: Vec<u8>,
}

/// A server-sent event.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ServerSentEvent {
    /// Id of the event: its position in the stream.
    pub id: Option<String>,
    /// Data of the event; empty if the server only sends a position.
    pub data: String,
}

impl EventReader {
    /// Adds the next chunk of the body.
    ///
    /// # Errors
    /// An event exceeds the client's limit.
    pub fn add(&mut self, bytes: &[u8]) -> Result<(), TooLongEvent> {
        self.bytes.extend_from_slice(bytes);
        match self.bytes.len() > MAX_EVENT_BYTES {
            true => Err(TooLongEvent),
            false => Ok(()),
        }
    }

    /// The next complete event.
    pub fn next_event(&mut self) -> Option<ServerSentEvent> {
        loop {
            let end = self.bytes.windows(2).position(|two| two == b"\n\n")?;
            let block: Vec<u8> = self.bytes.drain(..end + 2).collect();
            let mut event = ServerSentEvent::default();
            let mut has_data = false;
            for line in String::from_utf8_lossy(&block).lines() {
                let (name, value) = line.split_once(':').unwrap_or((line, ""));
                let value = value.strip_prefix(' ').unwrap_or(value);
                match name {
                    "id" => event.id = Some(value.to_owned()),
                    "data" => {
                        if has_data {
                            event.data.push('\n');
                        }
                        has_data = true;
                        event.data.push_str(value);
                    }
                    // A comment, or the name, which the data has too.
                    _ => {}
                }
            }
            if has_data || event.id.is_some() {
                return Some(event);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_put_together_from_any_pieces() {
        let stream =
            b":\n\nid: 6-0\n\nevent: a\nid: 7-0\ndata: {\"x\":\ndata:1}\n\ndata: 2\n\ndata: 3";
        for size in 1..stream.len() {
            let mut lines = EventReader::default();
            let mut events = Vec::new();
            for piece in stream.chunks(size) {
                lines.add(piece).unwrap();
                events.extend(std::iter::from_fn(|| lines.next_event()));
            }
            let progress = ServerSentEvent {
                id: Some("6-0".into()),
                data: String::new(),
            };
            let first = ServerSentEvent {
                id: Some("7-0".into()),
                data: "{\"x\":\n1}".into(),
            };
            let second = ServerSentEvent {
                id: None,
                data: "2".into(),
            };
            assert_eq!(events, [progress, first, second]);
        }
    }

    #[test]
    fn an_event_without_end_is_refused() {
        let mut lines = EventReader::default();
        assert!(lines.add(&vec![b'x'; MAX_EVENT_BYTES + 1]).is_err());
    }
}
