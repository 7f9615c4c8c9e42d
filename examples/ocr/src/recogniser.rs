//! What a line says: a network that gives for each step along it the chances of all characters.

use image::RgbImage;
use samovar_sdk::{Error, Graph, TensorView, argmax};

use crate::detector::planes;
use crate::page::resize;

const HEIGHT: usize = 48;
/// Lines are at least so wide for the network: shorter ones are filled up.
const MIN_WIDTH: usize = 320;
/// Lines that are read together, and the width of all of them together at most.
const BATCH: usize = 6;
const MAX_BATCH_WIDTH: usize = 24_000;

/// The recogniser.
pub struct Recogniser {
    graph: Graph,
    characters: Vec<String>,
}

impl Recogniser {
    /// Loads the graph of this name, and the characters that it knows, one a line.
    pub fn load(graph: &str, characters: &str) -> Result<Self, Error> {
        let text = std::fs::read_to_string(characters)
            .map_err(|error| Error::internal(format!("{characters}: {error}")))?;
        // The first class says that there is nothing, the last is a space.
        let characters = std::iter::once("")
            .chain(text.lines())
            .chain(std::iter::once(" "));
        Ok(Self {
            graph: Graph::load(graph)?,
            characters: characters.map(str::to_owned).collect(),
        })
    }

    /// The text of each line, and how sure it is.
    pub fn read(&self, lines: &[RgbImage]) -> Result<Vec<(String, f32)>, Error> {
        let mut order: Vec<usize> = (0..lines.len()).collect();
        order.sort_by(|a, b| shape(&lines[*a]).total_cmp(&shape(&lines[*b])));
        let mut texts = vec![(String::new(), 0.0); lines.len()];
        let mut rest = &order[..];
        while !rest.is_empty() {
            // Lines in order of their width, so that little is filled up.
            let widest = |count: usize| network_width(shape(&lines[rest[count - 1]]));
            let mut count = BATCH.min(rest.len());
            while count > 1 && widest(count) * count > MAX_BATCH_WIDTH {
                count -= 1;
            }
            let batch: Vec<&RgbImage> = rest[..count].iter().map(|at| &lines[*at]).collect();
            let read = self.read_batch(&batch, widest(count).min(MAX_BATCH_WIDTH))?;
            for (at, text) in rest.iter().zip(read) {
                texts[*at] = text;
            }
            rest = &rest[count..];
        }
        Ok(texts)
    }

    fn read_batch(&self, lines: &[&RgbImage], width: usize) -> Result<Vec<(String, f32)>, Error> {
        let pixels: Vec<f32> = lines
            .iter()
            .flat_map(|line| {
                let own = (HEIGHT as f64 * shape(line)).ceil() as usize;
                let line = resize(line, own.clamp(1, width) as u32, HEIGHT as u32);
                planes(&line, width)
            })
            .collect();
        let dimensions = [lines.len() as u32, 3, HEIGHT as u32, width as u32];
        let input = TensorView::new(dimensions, &pixels)?;
        let outputs = self.graph.compute(&[("x", input)])?;
        let output = outputs.first::<f32>()?;
        let classes = output.dimensions().last().copied().unwrap_or(0) as usize;
        if classes != self.characters.len() {
            return Err(Error::internal(format!(
                "the recogniser tells {classes} characters apart, {} are known",
                self.characters.len()
            )));
        }
        let chances = output.as_slice();
        let each = chances.len() / lines.len();
        Ok(chances
            .chunks(each.max(1))
            .map(|chances| text(&self.characters, chances))
            .collect())
    }
}

/// How many times its height a line is wide.
fn shape(line: &RgbImage) -> f64 {
    f64::from(line.width()) / f64::from(line.height())
}

fn network_width(shape: f64) -> usize {
    ((HEIGHT as f64 * shape) as usize).max(MIN_WIDTH)
}

/// The likeliest character of each step, without repetitions and the steps that say nothing, and the mean chance of
/// those that are left.
fn text(characters: &[String], chances: &[f32]) -> (String, f32) {
    let (mut text, mut sum, mut count) = (String::new(), 0.0, 0u16);
    let mut before = 0;
    for step in chances.chunks(characters.len()) {
        let (at, best) = argmax(step).unwrap_or_default();
        if at != 0 && at != before {
            text.push_str(&characters[at]);
            sum += best;
            count += 1;
        }
        before = at;
    }
    (text, sum / f32::from(count.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetitions_and_silence_are_left_out() {
        let characters = ["", "a", "b"].map(str::to_owned);
        let steps = [1, 1, 0, 1, 2, 2, 0];
        let chances: Vec<f32> = steps
            .iter()
            .flat_map(|said| (0..3).map(move |at| if at == *said { 0.8 } else { 0.1 }))
            .collect();
        let (found, score) = text(&characters, &chances);
        assert_eq!(found, "aab");
        assert!((score - 0.8).abs() < 1e-6);
        assert_eq!(text(&characters, &[0.9, 0.05, 0.05]), (String::new(), 0.0));
    }
}
