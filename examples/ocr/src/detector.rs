//! Where text is: a network that says for each pixel whether it is text, and boxes around what it says.

use image::RgbImage;
use samovar_sdk::{Error, Graph, TensorView};

use crate::blobs::Bitmap;
use crate::geometry::{Quad, clockwise, distance, grown, mean_under, smallest_rectangle};
use crate::page::{in_32s, resize};

/// The shorter side of what the network sees is at least so long.
const SHORTER_SIDE: f64 = 736.0;
/// Pixels that the network sees at most: very long pages would take all memory.
const MAX_PIXELS: u64 = 6_000_000;
/// A pixel is text above this, a box from that mean on.
const PIXEL_THRESHOLD: f32 = 0.3;
const BOX_THRESHOLD: f32 = 0.5;
const MAX_BOXES: usize = 1000;
/// Shorter sides that are no text: of a blob, of its grown box, of a box on the page.
const MIN_BLOB: f64 = 3.0;
const MIN_GROWN: f64 = 5.0;
const MIN_BOX: f64 = 4.0;
const GROWTH: f64 = 1.6;

/// The detector.
pub struct Detector {
    graph: Graph,
}

impl Detector {
    /// Loads the graph of this name.
    pub fn load(graph: &str) -> Result<Self, Error> {
        Ok(Self {
            graph: Graph::load(graph)?,
        })
    }

    /// Boxes around lines of text, in pixels of the image.
    pub fn find(&self, image: &RgbImage) -> Result<Vec<Quad>, Error> {
        let shorter = f64::from(image.width().min(image.height()));
        let ratio = (SHORTER_SIDE / shorter).max(1.0);
        let side = |side: u32| in_32s(f64::from(side) * ratio);
        let (width, height) = (side(image.width()), side(image.height()));
        if u64::from(width) * u64::from(height) > MAX_PIXELS {
            return Err(Error::bad_request(format!(
                "the page is {} × {} pixels: too long for its width",
                image.width(),
                image.height()
            )));
        }
        let pixels = planes(&resize(image, width, height), width as usize);
        let input = TensorView::new([1, 3, height, width], &pixels)?;
        let outputs = self.graph.compute(&[("x", input)])?;
        let output = outputs.first::<f32>()?;
        Ok(boxes(output.as_slice(), width as usize, image))
    }
}

/// The channels one after the other, blue first, from -1 to 1, in rows of `width`: what is missing at the end is zero.
pub fn planes(image: &RgbImage, width: usize) -> Vec<f32> {
    let (own, height) = (image.width() as usize, image.height() as usize);
    let mut planes = vec![0.0; 3 * width * height];
    for (row, pixels) in image.as_raw().chunks_exact(own * 3).enumerate() {
        for (column, rgb) in pixels.chunks_exact(3).enumerate() {
            for channel in 0..3 {
                planes[(channel * height + row) * width + column] =
                    f32::from(rgb[2 - channel]) / 127.5 - 1.0;
            }
        }
    }
    planes
}

/// What the network's map says, in pixels of the image.
fn boxes(map: &[f32], width: usize, image: &RgbImage) -> Vec<Quad> {
    let height = map.len() / width;
    let size = [f64::from(image.width()), f64::from(image.height())];
    let scale = [size[0] / width as f64, size[1] / height as f64];
    let outlines = Bitmap::above(map, width, PIXEL_THRESHOLD).outlines();
    outlines
        .iter()
        .take(MAX_BOXES)
        .filter_map(|outline| {
            let (kernel, shorter) = smallest_rectangle(outline)?;
            if shorter < MIN_BLOB || mean_under(map, width, &kernel) < BOX_THRESHOLD {
                return None;
            }
            let (grown, shorter) = smallest_rectangle(&grown(&kernel, GROWTH))?;
            if shorter < MIN_GROWN {
                return None;
            }
            let on_page = grown.map(|[x, y]| {
                let place = |at: f64, axis: usize| {
                    let at = (at * scale[axis]).round_ties_even();
                    at.clamp(0.0, size[axis] - 1.0)
                };
                [place(x, 0), place(y, 1)]
            });
            let corners = clockwise(on_page);
            let wide = distance(corners[0], corners[1]) >= MIN_BOX;
            let high = distance(corners[0], corners[3]) >= MIN_BOX;
            (wide && high).then_some(corners)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_becomes_a_grown_box() {
        let (width, height) = (64, 32);
        let mut map = vec![0.0; width * height];
        for row in 10..19 {
            map[row * width + 10..row * width + 49].fill(0.9);
        }
        // The blob grows by one pixel right and down: 39 × 9, and by 39 * 9 * 1.6 / 96 = 5.85 on each side.
        let found = boxes(&map, width, &RgbImage::new(128, 64));
        assert_eq!(
            found,
            [[[8.0, 8.0], [110.0, 8.0], [110.0, 50.0], [8.0, 50.0]]]
        );
        assert!(boxes(&vec![0.0; width * height], width, &RgbImage::new(128, 64)).is_empty());
    }

    #[test]
    fn planes_begin_with_blue() {
        let image = RgbImage::from_pixel(2, 1, image::Rgb([255, 0, 255]));
        assert_eq!(
            planes(&image, 3),
            [1.0, 1.0, 0.0, -1.0, -1.0, 0.0, 1.0, 1.0, 0.0]
        );
    }
}
