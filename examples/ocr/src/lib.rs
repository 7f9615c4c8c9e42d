//! PP-OCR: `POST /predict` with a page as PNG or JPEG finds its lines of text and reads them.

mod blobs;
mod crop;
mod detector;
mod geometry;
mod page;
mod recogniser;

use samovar_sdk::{Error, Model, Request, Response};
use serde::Serialize;

use crate::detector::Detector;
use crate::geometry::Quad;
use crate::page::Page;
use crate::recogniser::Recogniser;

/// Lines that were read with less are not told.
const MIN_SCORE: f32 = 0.5;

struct Ocr {
    detector: Detector,
    recogniser: Recogniser,
}

#[derive(Serialize)]
struct Answer {
    lines: Vec<Line>,
}

#[derive(Serialize)]
struct Line {
    text: String,
    score: f32,
    /// Corners in pixels of the page, clockwise from the top left one.
    #[serde(rename = "box")]
    corners: [[f64; 2]; 4],
}

#[samovar_sdk::model]
impl Model for Ocr {
    fn load() -> Result<Self, Error> {
        Ok(Self {
            detector: Detector::load("detector")?,
            recogniser: Recogniser::load("recogniser", "/characters.txt")?,
        })
    }

    fn predict(&mut self, mut request: Request) -> Result<Response, Error> {
        let page = Page::decode(&request.bytes()?)?;
        let mut boxes = self.detector.find(&page.image)?;
        sort_as_read(&mut boxes);
        let crops: Vec<_> = boxes
            .iter()
            .map(|corners| crop::cut(&page.image, corners))
            .collect();
        let texts = self.recogniser.read(&crops)?;
        let lines = boxes
            .iter()
            .zip(texts)
            .filter(|(_, (_, score))| *score >= MIN_SCORE)
            .map(|(corners, (text, score))| Line {
                text,
                score,
                corners: page.to_original(corners),
            });
        Response::json(&Answer {
            lines: lines.collect(),
        })
    }
}

/// From top to bottom, and from left to right where lines begin at nearly the same height.
fn sort_as_read(boxes: &mut [Quad]) {
    const SAME_LINE: f64 = 10.0;
    boxes.sort_by(|a, b| {
        let [ax, ay] = a[0];
        let [bx, by] = b[0];
        ay.total_cmp(&by).then(ax.total_cmp(&bx))
    });
    for sorted in 1..boxes.len() {
        for at in (1..=sorted).rev() {
            let ([left, above], [x, y]) = (boxes[at - 1][0], boxes[at][0]);
            if (y - above).abs() >= SAME_LINE || x >= left {
                break;
            }
            boxes.swap(at - 1, at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_from_left_to_right_where_they_are_level() {
        let at = |x: f64, y: f64| [[x, y]; 4];
        let mut boxes = [at(300.0, 12.0), at(10.0, 100.0), at(10.0, 15.0)];
        sort_as_read(&mut boxes);
        assert_eq!(boxes, [at(10.0, 15.0), at(300.0, 12.0), at(10.0, 100.0)]);
    }
}
