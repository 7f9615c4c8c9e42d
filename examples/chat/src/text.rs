//! From bytes to text that may go out: whole characters, and nothing that may be the beginning of a stop sequence.

/// Text that comes in bytes.
#[derive(Debug)]
pub struct Text {
    stops: Vec<String>,
    /// Bytes that are no whole character yet.
    bytes: Vec<u8>,
    /// Text that is held back.
    held: String,
    /// A stop sequence came.
    stopped: bool,
}

impl Text {
    /// No text yet; it will end before the first of these sequences.
    pub fn new(stops: Vec<String>) -> Self {
        Self {
            stops,
            bytes: Vec::new(),
            held: String::new(),
            stopped: false,
        }
    }

    /// Takes one more byte and gives what may go out, which is often nothing.
    pub fn push(&mut self, byte: u8) -> String {
        self.bytes.push(byte);
        match std::str::from_utf8(&self.bytes) {
            Ok(text) => self.held.push_str(text),
            Err(error) if error.error_len().is_none() => return String::new(),
            Err(_) => self.held.push_str(&String::from_utf8_lossy(&self.bytes)),
        }
        self.bytes.clear();
        if let Some(at) = self
            .stops
            .iter()
            .filter_map(|stop| self.held.find(stop))
            .min()
        {
            self.stopped = true;
            self.held.truncate(at);
            return std::mem::take(&mut self.held);
        }
        let kept = self
            .held
            .split_off(self.held.len() - self.beginning_of_a_stop());
        std::mem::replace(&mut self.held, kept)
    }

    /// What was held back, now that nothing follows.
    pub fn end(&mut self) -> String {
        let mut rest = std::mem::take(&mut self.held);
        rest.push_str(&String::from_utf8_lossy(&std::mem::take(&mut self.bytes)));
        rest
    }

    /// Whether a stop sequence came.
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    /// Bytes at the end of the held text that a stop sequence may begin with.
    fn beginning_of_a_stop(&self) -> usize {
        let held = self.held.as_bytes();
        let begins = |stop: &String| {
            let stop = stop.as_bytes();
            let longest = held.len().min(stop.len().saturating_sub(1));
            (1..=longest)
                .rev()
                .find(|&len| held.ends_with(&stop[..len]))
        };
        self.stops.iter().filter_map(begins).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(stops: &[&str], bytes: &[u8]) -> (Vec<String>, bool) {
        let mut text = Text::new(stops.iter().map(ToString::to_string).collect());
        let mut pieces = Vec::new();
        for &byte in bytes {
            pieces.push(text.push(byte));
            if text.stopped() {
                break;
            }
        }
        pieces.push(text.end());
        pieces.retain(|piece| !piece.is_empty());
        (pieces, text.stopped())
    }

    #[test]
    fn characters_go_out_whole() {
        let (found, stopped) = pieces(&[], "aé🫖".as_bytes());
        assert_eq!(
            (found, stopped),
            (vec!["a".to_owned(), "é".into(), "🫖".into()], false)
        );
        assert_eq!(pieces(&[], b"a\xffb\xc3").0.concat(), "a\u{fffd}b\u{fffd}");
    }

    #[test]
    fn a_stop_sequence_and_what_follows_do_not_go_out() {
        assert_eq!(
            pieces(&["lo w"], b"hello world"),
            (vec!["h".into(), "e".into(), "l".into()], true)
        );
        assert_eq!(pieces(&["x", "ell"], b"hello").0.concat(), "h");
        assert_eq!(pieces(&["lp", "o!"], b"hello").0.concat(), "hello");
        assert_eq!(pieces(&["ab"], b"aab").0.concat(), "a");
        assert_eq!(
            pieces(&["é"], "caféx".as_bytes()),
            (vec!["c".into(), "a".into(), "f".into()], true)
        );
    }
}
