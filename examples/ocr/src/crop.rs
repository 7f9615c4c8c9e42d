//! A line of text cut out of its page and set upright.

use image::{Rgb, RgbImage, imageops};

use crate::geometry::{Point, Quad, distance};

/// From so many times its width on, a box is a line that runs down.
const UPRIGHT: f64 = 1.5;

/// Cuts a box out; one that is much higher than wide is turned to the left.
pub fn cut(page: &RgbImage, corners: &Quad) -> RgbImage {
    let side = |a: usize, b: usize, c: usize, d: usize| {
        let longer = distance(corners[a], corners[b]).max(distance(corners[c], corners[d]));
        (longer as u32).max(1)
    };
    let (width, height) = (side(0, 1, 2, 3), side(0, 3, 1, 2));
    let projection = Projection::onto(corners);
    let line = RgbImage::from_fn(width, height, |x, y| {
        let across = f64::from(x) / f64::from(width);
        let down = f64::from(y) / f64::from(height);
        cubic(page, projection.place(across, down))
    });
    if f64::from(height) / f64::from(width) >= UPRIGHT {
        imageops::rotate270(&line)
    } else {
        line
    }
}

/// From the unit square onto a box, in perspective.
struct Projection {
    x: [f64; 3],
    y: [f64; 3],
    w: [f64; 2],
}

impl Projection {
    fn onto(corners: &Quad) -> Self {
        let [p0, p1, p2, p3] = *corners;
        let minus = |a: Point, b: Point| [a[0] - b[0], a[1] - b[1]];
        let (d1, d2) = (minus(p1, p2), minus(p3, p2));
        let bend = [p0[0] - p1[0] + p2[0] - p3[0], p0[1] - p1[1] + p2[1] - p3[1]];
        let area = d1[0] * d2[1] - d2[0] * d1[1];
        let w = if area == 0.0 {
            [0.0, 0.0]
        } else {
            [
                (bend[0] * d2[1] - d2[0] * bend[1]) / area,
                (d1[0] * bend[1] - bend[0] * d1[1]) / area,
            ]
        };
        let axis = |axis: usize| {
            [
                p1[axis] - p0[axis] + w[0] * p1[axis],
                p3[axis] - p0[axis] + w[1] * p3[axis],
                p0[axis],
            ]
        };
        Self {
            x: axis(0),
            y: axis(1),
            w,
        }
    }

    fn place(&self, across: f64, down: f64) -> Point {
        let depth = self.w[0] * across + self.w[1] * down + 1.0;
        let on = |axis: [f64; 3]| (axis[0] * across + axis[1] * down + axis[2]) / depth;
        [on(self.x), on(self.y)]
    }
}

/// The colour at a place between pixels, by the cubic curve that OpenCV uses; beyond the edge is what is at the edge.
fn cubic(page: &RgbImage, [x, y]: Point) -> Rgb<u8> {
    let (left, top) = (x.floor(), y.floor());
    let (across, down) = (weights(x - left), weights(y - top));
    let inside = |at: f64, size: u32| at.clamp(0.0, f64::from(size - 1)) as u32;
    let mut sums = [0.0; 3];
    for (row, weight_down) in down.iter().enumerate() {
        let y = inside(top + row as f64 - 1.0, page.height());
        for (column, weight_across) in across.iter().enumerate() {
            let x = inside(left + column as f64 - 1.0, page.width());
            for (sum, value) in sums.iter_mut().zip(page.get_pixel(x, y).0) {
                *sum += weight_down * weight_across * f64::from(value);
            }
        }
    }
    Rgb(sums.map(|sum| sum.round().clamp(0.0, 255.0) as u8))
}

fn weights(along: f64) -> [f64; 4] {
    const A: f64 = -0.75;
    let near = |t: f64| ((A + 2.0) * t - (A + 3.0)) * t * t + 1.0;
    let far = |t: f64| ((A * t - 5.0 * A) * t + 8.0 * A) * t - 4.0 * A;
    [
        far(1.0 + along),
        near(along),
        near(1.0 - along),
        far(2.0 - along),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> RgbImage {
        RgbImage::from_fn(20, 10, |x, y| Rgb([(x * 10) as u8, (y * 20) as u8, 7]))
    }

    #[test]
    fn an_upright_box_is_copied() {
        let line = cut(&page(), &[[3.0, 2.0], [9.0, 2.0], [9.0, 6.0], [3.0, 6.0]]);
        assert_eq!(line.dimensions(), (6, 4));
        assert_eq!(line.get_pixel(0, 0).0, [30, 40, 7]);
        assert_eq!(line.get_pixel(5, 3).0, [80, 100, 7]);
    }

    #[test]
    fn a_box_that_runs_down_is_turned_to_the_left() {
        let line = cut(&page(), &[[3.0, 1.0], [6.0, 1.0], [6.0, 9.0], [3.0, 9.0]]);
        assert_eq!(line.dimensions(), (8, 3));
        // What was at the top right is at the top left.
        assert_eq!(line.get_pixel(0, 0).0, [50, 20, 7]);
    }

    #[test]
    fn a_projection_meets_the_corners() {
        let corners = [[1.0, 2.0], [9.0, 1.0], [11.0, 7.0], [0.0, 6.0]];
        let projection = Projection::onto(&corners);
        for (at, (x, y)) in [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)]
            .into_iter()
            .enumerate()
        {
            assert!(distance(projection.place(x, y), corners[at]) < 1e-9);
        }
    }
}
