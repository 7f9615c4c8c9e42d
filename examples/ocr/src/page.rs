//! The page: decoded, brought to a size that the detector is good at, and the way back to the original's pixels.

use std::io::Cursor;

use image::{DynamicImage, ImageReader, Limits, Rgb, RgbImage};
use samovar_sdk::Error;

use crate::geometry::Quad;

/// Larger pages are made smaller, smaller ones larger.
const MAX_SIDE: u32 = 2000;
const MIN_SIDE: u32 = 30;
/// Lower pages, and those that are wider than so many times their height, get a margin above and below.
const MIN_HEIGHT: u32 = 30;
const MAX_WIDTHS: u32 = 8;
/// Bounds of what is decoded.
const MAX_PIXELS: u64 = 25_000_000;
const MAX_DECODER_BYTES: u64 = 256 << 20;

/// A page in the size in which text is looked for.
pub struct Page {
    /// Its pixels.
    pub image: RgbImage,
    original: [u32; 2],
    scale: [f64; 2],
    margin: u32,
}

impl Page {
    /// Decodes PNG or JPEG.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let unreadable = |error: &dyn std::fmt::Display| {
            Error::bad_request(format!(
                "the page is no PNG or JPEG that can be read: {error}"
            ))
        };
        let open = || {
            ImageReader::new(Cursor::new(bytes))
                .with_guessed_format()
                .map_err(|error| unreadable(&error))
        };
        let (width, height) = open()?.into_dimensions().map_err(|e| unreadable(&e))?;
        if u64::from(width) * u64::from(height) > MAX_PIXELS {
            return Err(Error::new(
                413,
                "page_too_large",
                format!("the page has {width} × {height} pixels, {MAX_PIXELS} are taken at most"),
            ));
        }
        let mut reader = open()?;
        let mut limits = Limits::default();
        limits.max_alloc = Some(MAX_DECODER_BYTES);
        reader.limits(limits);
        let image = reader.decode().map_err(|error| unreadable(&error))?;
        Ok(Self::new(on_white(image)))
    }

    fn new(image: RgbImage) -> Self {
        let original = [image.width(), image.height()];
        let mut image = image;
        let longer = image.width().max(image.height());
        if longer > MAX_SIDE {
            image = scaled(&image, f64::from(MAX_SIDE) / f64::from(longer));
        }
        let shorter = image.width().min(image.height());
        if shorter < MIN_SIDE {
            image = scaled(&image, f64::from(MIN_SIDE) / f64::from(shorter));
        }
        let (width, height) = image.dimensions();
        let scale = [
            f64::from(original[0]) / f64::from(width),
            f64::from(original[1]) / f64::from(height),
        ];
        let mut margin = 0;
        if height <= MIN_HEIGHT || width > MAX_WIDTHS * height {
            let wanted = (width / MAX_WIDTHS).max(MIN_HEIGHT) * 2;
            margin = wanted.abs_diff(height) / 2;
            let mut larger = RgbImage::new(width, height + 2 * margin);
            image::imageops::replace(&mut larger, &image, 0, i64::from(margin));
            image = larger;
        }
        Self {
            image,
            original,
            scale,
            margin,
        }
    }

    /// A box in the pixels of the original.
    pub fn to_original(&self, corners: &Quad) -> Quad {
        let [width, height] = self.original.map(f64::from);
        corners.map(|[x, y]| {
            let x = x * self.scale[0];
            let y = (y - f64::from(self.margin)) * self.scale[1];
            [x.clamp(0.0, width), y.clamp(0.0, height)]
        })
    }
}

/// What is transparent shows white paper.
fn on_white(image: DynamicImage) -> RgbImage {
    if !image.color().has_alpha() {
        return image.into_rgb8();
    }
    let image = image.into_rgba8();
    let mut page = RgbImage::new(image.width(), image.height());
    for (to, from) in page.pixels_mut().zip(image.pixels()) {
        let [r, g, b, alpha] = from.0.map(u32::from);
        let over = |colour: u32| ((colour * alpha + 255 * (255 - alpha) + 127) / 255) as u8;
        *to = Rgb([over(r), over(g), over(b)]);
    }
    page
}

fn scaled(image: &RgbImage, ratio: f64) -> RgbImage {
    let side = |side: u32| in_32s(f64::from(side) * ratio);
    resize(image, side(image.width()), side(image.height()))
}

/// The nearest multiple of 32, the step of the networks, and at least one.
pub fn in_32s(size: f64) -> u32 {
    (((size.floor() / 32.0).round_ties_even() * 32.0) as u32).max(32)
}

/// Bilinear, between the centres of pixels, as OpenCV's `resize` does it: to the rounding, because a box can hang on it.
pub fn resize(image: &RgbImage, width: u32, height: u32) -> RgbImage {
    if image.dimensions() == (width, height) {
        return image.clone();
    }
    let columns = places(image.width(), width);
    let rows = places(image.height(), height);
    let stride = image.width() as usize * 3;
    let from = image.as_raw();
    let mut to = Vec::with_capacity(width as usize * height as usize * 3);
    for down in rows {
        let (above, below) = (&from[down.first * stride..], &from[down.second * stride..]);
        for along in &columns {
            for channel in 0..3 {
                let mixed = |row: &[u8]| {
                    let at = |column: usize| u32::from(row[column * 3 + channel]);
                    at(along.first) * (WHOLE - along.share) + at(along.second) * along.share
                };
                let above = ((mixed(above) >> 4) * (WHOLE - down.share)) >> 16;
                let below = ((mixed(below) >> 4) * down.share) >> 16;
                to.push(((above + below + 2) >> 2) as u8);
            }
        }
    }
    RgbImage::from_raw(width, height, to).unwrap_or_default()
}

/// Two places of an axis, and the share of the second in what lies between them, out of [`WHOLE`].
struct Between {
    first: usize,
    second: usize,
    share: u32,
}

const WHOLE: u32 = 2048;

/// What of the old axis each place of a new one lies between.
fn places(from: u32, to: u32) -> Vec<Between> {
    let scale = f64::from(from) / f64::from(to);
    let last = from.saturating_sub(1) as usize;
    (0..to)
        .map(|at| {
            let place = (((f64::from(at) + 0.5) * scale - 0.5) as f32).max(0.0);
            let first = (place as usize).min(last);
            Between {
                first,
                second: (first + 1).min(last),
                share: ((place - first as f32) * WHOLE as f32).round_ties_even() as u32,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resized_image_keeps_its_ramp() {
        let ramp = RgbImage::from_fn(4, 1, |x, _| Rgb([(x * 40) as u8; 3]));
        let twice = resize(&ramp, 8, 1);
        let found: Vec<u8> = twice.pixels().map(|pixel| pixel.0[0]).collect();
        assert_eq!(found, [0, 10, 30, 50, 70, 90, 110, 120]);
    }

    #[test]
    fn a_low_page_gets_a_margin_that_boxes_do_not_show() {
        let page = Page::new(RgbImage::new(640, 32));
        assert_eq!(page.image.dimensions(), (640, 160));
        assert_eq!(page.to_original(&[[5.0, 70.0]; 4]), [[5.0, 6.0]; 4]);
    }

    #[test]
    fn a_large_page_is_made_smaller() {
        let page = Page::new(RgbImage::new(4000, 1000));
        assert_eq!(page.image.dimensions(), (1984, 512));
        assert_eq!(page.to_original(&[[1984.0, 512.0]; 4])[0], [4000.0, 1000.0]);
    }

    #[test]
    fn what_is_no_image_is_refused() {
        assert_eq!(Page::decode(b"hello").err().map(|e| e.status()), Some(400));
    }
}
