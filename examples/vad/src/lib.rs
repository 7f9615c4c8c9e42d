//! Silero's voice activity detector: audio streams in, and each segment of speech goes out as soon as it has ended.

mod audio;
mod detector;
mod segments;

use std::io::Write;

use samovar_sdk::{Error, Graph, Model, Request, Response};

use crate::audio::Audio;
use crate::detector::Detector;
use crate::segments::{Segments, Settings};

struct Vad {
    graph: Graph,
}

#[samovar_sdk::model]
impl Model for Vad {
    fn load() -> Result<Self, Error> {
        Ok(Self {
            graph: Graph::load("default")?,
        })
    }

    // ANCHOR: stream
    fn predict(&self, mut request: Request) -> Result<Response, Error> {
        let settings = Settings::read(|name| request.query(name))?;
        // What is no audio is refused before the answer begins.
        let start = Audio::open(request.body())?;
        let mut detector = Detector::new(self.graph.clone())?;
        let write = move |lines: &mut samovar_sdk::http::BodyWriter<'_>| {
            // The head of the answer: some clients wait for it before they send more.
            lines.flush()?;
            let mut audio = start.of(request.body());
            let mut segments = Segments::new(settings);
            while let Some(frame) = audio.next()? {
                let probability = detector.hear(&frame.samples)?;
                if let Some(segment) = segments.push(probability) {
                    writeln!(lines, "{}", segment.to_json())?;
                    lines.flush()?;
                }
            }
            if let Some(segment) = segments.end(audio.samples()) {
                writeln!(lines, "{}", segment.to_json())?;
            }
            Ok(())
        };
        Ok(Response::stream("application/jsonl", write))
    }
    // ANCHOR_END: stream
}
