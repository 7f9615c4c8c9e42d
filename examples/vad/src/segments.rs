//! From probabilities to segments of speech, by the rules of `get_speech_timestamps` in the package `silero-vad`.
//!
//! One of them needs what comes later there: padding between two segments that are close is halved. Here the silence
//! between two is never shorter than both paddings, so that a segment can go out when it has ended.

use samovar_sdk::Error;
use serde_json::{Value, json};

use crate::audio::RATE;
use crate::detector::FRAME;

/// When speech begins and ends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// From this probability on it is speech.
    pub threshold: f32,
    /// Shorter speech is none.
    pub min_speech_duration_ms: u64,
    /// Shorter silence ends none.
    pub min_silence_duration_ms: u64,
    /// What is added on both sides.
    pub speech_pad_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            threshold: 0.5,
            min_speech_duration_ms: 250,
            min_silence_duration_ms: 100,
            speech_pad_ms: 30,
        }
    }
}

impl Settings {
    /// Reads those that a caller gave.
    pub fn read(given: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let default = Self::default();
        let ms = |name: &str, default: u64| match given(name) {
            None => Ok(default),
            Some(text) => match text.parse() {
                Ok(ms @ 0..=60_000) => Ok(ms),
                _ => Err(Error::bad_request(format!(
                    "{name} is {text:?}, wanted milliseconds from 0 to 60000"
                ))),
            },
        };
        let threshold = match given("threshold") {
            None => default.threshold,
            Some(text) => text
                .parse()
                .ok()
                .filter(|threshold| (0.01..=1.0).contains(threshold))
                .ok_or_else(|| {
                    Error::bad_request(format!(
                        "threshold is {text:?}, wanted a number from 0.01 to 1"
                    ))
                })?,
        };
        let settings = Self {
            threshold,
            min_speech_duration_ms: ms("min_speech_duration_ms", default.min_speech_duration_ms)?,
            min_silence_duration_ms: ms(
                "min_silence_duration_ms",
                default.min_silence_duration_ms,
            )?,
            speech_pad_ms: ms("speech_pad_ms", default.speech_pad_ms)?,
        };
        if 2 * settings.speech_pad_ms > settings.min_silence_duration_ms {
            return Err(Error::bad_request(format!(
                "speech_pad_ms is {}, wanted no more than half of min_silence_duration_ms, {}",
                settings.speech_pad_ms, settings.min_silence_duration_ms
            )));
        }
        Ok(settings)
    }

    /// Below this probability speech is at its end.
    fn lower_threshold(self) -> f32 {
        (self.threshold - 0.15).max(0.01)
    }
}

/// A stretch of speech, in samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    pub start: u64,
    pub end: u64,
}

impl Segment {
    /// One line of the answer.
    pub fn to_json(self) -> Value {
        let seconds = |samples: u64| samples as f64 / f64::from(RATE);
        json!({
            "start_sample": self.start,
            "end_sample": self.end,
            "start_s": seconds(self.start),
            "end_s": seconds(self.end),
        })
    }
}

/// Finds segments while probabilities come in.
#[derive(Debug)]
pub struct Segments {
    settings: Settings,
    /// Where the next piece begins.
    now: u64,
    /// Where the speech that goes on began.
    start: Option<u64>,
    /// Where the silence began that may be its end.
    silence: Option<u64>,
}

impl Segments {
    /// Before the first piece.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            now: 0,
            start: None,
            silence: None,
        }
    }

    /// The segment that ends with the next piece, if one does.
    pub fn push(&mut self, probability: f32) -> Option<Segment> {
        let now = self.now;
        self.now += FRAME as u64;
        if probability >= self.settings.threshold {
            self.silence = None;
            self.start.get_or_insert(now);
            return None;
        }
        let start = self
            .start
            .filter(|_| probability < self.settings.lower_threshold())?;
        // The package takes a silence that begins at sample 0 for none; there speech would have begun before it.
        let end = *self.silence.get_or_insert(now);
        if now - end < samples(self.settings.min_silence_duration_ms) {
            return None;
        }
        (self.start, self.silence) = (None, None);
        self.padded(start, end, now)
    }

    /// The segment that the end of the audio ends.
    pub fn end(self, length: u64) -> Option<Segment> {
        self.padded(self.start?, length, length)
    }

    fn padded(&self, start: u64, end: u64, length: u64) -> Option<Segment> {
        let pad = samples(self.settings.speech_pad_ms);
        (end - start > samples(self.settings.min_speech_duration_ms)).then(|| Segment {
            start: start.saturating_sub(pad),
            end: (end + pad).min(length),
        })
    }
}

fn samples(ms: u64) -> u64 {
    ms * u64::from(RATE) / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segments(settings: Settings, probabilities: &[f32]) -> Vec<(u64, u64)> {
        let mut segments = Segments::new(settings);
        let mut found: Vec<Segment> = probabilities
            .iter()
            .filter_map(|&probability| segments.push(probability))
            .collect();
        found.extend(segments.end((probabilities.len() * FRAME) as u64));
        found
            .iter()
            .map(|segment| (segment.start, segment.end))
            .collect()
    }

    #[test]
    fn speech_ends_after_silence_that_is_long_enough() {
        let mut probabilities = vec![0.1; 3];
        probabilities.extend([0.9; 10]);
        // Two pieces of silence, one that is neither, and speech again: one segment.
        probabilities.extend([0.1, 0.1, 0.4, 0.9, 0.9]);
        probabilities.extend([0.1; 5]);
        let found = segments(Settings::default(), &probabilities);
        assert_eq!(found, [(3 * 512 - 480, 18 * 512 + 480)]);
    }

    #[test]
    fn short_speech_is_none_and_the_end_of_the_audio_ends_it() {
        assert_eq!(
            segments(Settings::default(), &[0.9, 0.9, 0.1, 0.1, 0.1, 0.1, 0.1]),
            []
        );
        assert_eq!(segments(Settings::default(), &[0.9; 7]), []);
        assert_eq!(segments(Settings::default(), &[0.9; 8]), [(0, 8 * 512)]);
        assert_eq!(segments(Settings::default(), &[]), []);
    }

    #[test]
    fn settings_are_read_and_checked() {
        let read = |name: &'static str, value: &'static str| {
            Settings::read(|wanted| (wanted == name).then(|| value.to_owned()))
        };
        assert_eq!(read("other", "1"), Ok(Settings::default()));
        assert_eq!(
            read("threshold", "0.3").map(|settings| settings.threshold),
            Ok(0.3)
        );
        assert!(read("threshold", "2").is_err());
        assert!(read("threshold", "NaN").is_err());
        assert!(read("min_speech_duration_ms", "-1").is_err());
        let error = read("speech_pad_ms", "60").expect_err("too much");
        assert!(error.message().contains("no more than half"), "{error}");
    }
}
