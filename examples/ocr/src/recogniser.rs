//! What a line says: a network that gives for each step along it the chances of all characters.

use image::RgbImage;
use samovar_sdk::{Error, Graph, TensorView};

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
        let shape = |line: &RgbImage| f64::from(line.width()) / f64::from(line.height());
        let mut order: Vec<usize> = (0..lines.len()).collect();
        order.sort_by(|a, b| shape(&lines[*a]).total_cmp(&shape(&lines[*b])));
        let mut texts = vec![(String::new(), 0.0); lines.len()];
        let mut rest = &order[..];
        while !rest.is_empty() {
            let widest = |count: usize| {
                let last = rest[..count.min(rest.len())]
                    .last()
                    .map_or(0.0, |at| shape(&lines[*at]));
                ((HEIGHT as f64 * last) as usize).max(MIN_WIDTH)
            };
            let mut count = BATCH.min(rest.len());
            while count > 1 && widest(count) * count > MAX_BATCH_WIDTH {
                count -= 1;
            }
            let width = widest(count).min(MAX_BATCH_WIDTH);
            let (batch, later) = rest.split_at(count);
            let pixels: Vec<f32> = batch
                .iter()
                .flat_map(|at| {
                    let own = (HEIGHT as f64 * shape(&lines[*at])).ceil() as usize;
                    let own = own.clamp(1, width);
                    planes(&resize(&lines[*at], own as u32, HEIGHT as u32), width)
                })
                .collect();
            let dimensions = [count as u32, 3, HEIGHT as u32, width as u32];
            let input = TensorView::new(dimensions, &pixels)?;
            let outputs = self.graph.compute(&[("x", input)])?;
            let output = outputs.first::<f32>()?;
            let [_, steps, classes] = output.dimensions() else {
                return Err(Error::internal(
                    "the recogniser's output has no three dimensions",
                ));
            };
            let (steps, classes) = (*steps as usize, *classes as usize);
            if classes != self.characters.len() {
                return Err(Error::internal(format!(
                    "the recogniser tells {classes} characters apart, {} are known",
                    self.characters.len()
                )));
            }
            for (at, chances) in batch.iter().zip(output.as_slice().chunks(steps * classes)) {
                texts[*at] = self.text(chances);
            }
            rest = later;
        }
        Ok(texts)
    }

    /// The likeliest character of each step, without repetitions and the steps that say nothing.
    fn text(&self, chances: &[f32]) -> (String, f32) {
        let (mut text, mut sum, mut count) = (String::new(), 0.0, 0u16);
        let mut before = 0;
        for step in chances.chunks(self.characters.len()) {
            let best = step.iter().copied().fold(f32::MIN, f32::max);
            let at = step.iter().position(|chance| *chance == best).unwrap_or(0);
            if at != 0 && at != before {
                text.push_str(&self.characters[at]);
                sum += best;
                count += 1;
            }
            before = at;
        }
        (text, sum / f32::from(count.max(1)))
    }
}
