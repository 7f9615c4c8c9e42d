//! Rectangles at any angle: the smallest around points, one grown on all sides, the mean under one.

use std::f64::consts::PI;

const ARC_TOLERANCE: f64 = 0.25;

/// A point: across, down.
pub type Point = [f64; 2];

/// Four corners, clockwise from the top left one.
pub type Quad = [Point; 4];

/// The smallest rectangle around points, and its shorter side; `None` for fewer than three that are not in a row.
pub fn smallest_rectangle(points: &[Point]) -> Option<(Quad, f64)> {
    let hull = hull(points);
    let mut best: Option<(f64, Quad, f64)> = None;
    for (at, from) in hull.iter().enumerate() {
        let to = hull[(at + 1) % hull.len()];
        let length = distance(*from, to);
        if length == 0.0 {
            continue;
        }
        let along = [(to[0] - from[0]) / length, (to[1] - from[1]) / length];
        let down = [-along[1], along[0]];
        let (left, right) = extent(&hull, along);
        let (top, bottom) = extent(&hull, down);
        let (width, height) = (right - left, bottom - top);
        if width * height == 0.0 || best.as_ref().is_some_and(|best| best.0 <= width * height) {
            continue;
        }
        let corner = |a: f64, d: f64| [a * along[0] + d * down[0], a * along[1] + d * down[1]];
        let corners = [
            corner(left, top),
            corner(right, top),
            corner(right, bottom),
            corner(left, bottom),
        ];
        best = Some((width * height, corners, width.min(height)));
    }
    best.map(|(_, corners, shorter)| (clockwise(corners), shorter))
}

/// Corners in order: of the two on the left the upper and the lower one, and likewise on the right.
pub fn clockwise(mut corners: Quad) -> Quad {
    corners.sort_by(|a, b| a[0].total_cmp(&b[0]));
    let by_height = |a: Point, b: Point| if b[1] > a[1] { (a, b) } else { (b, a) };
    let (top_left, bottom_left) = by_height(corners[0], corners[1]);
    let (top_right, bottom_right) = by_height(corners[2], corners[3]);
    [top_left, top_right, bottom_right, bottom_left]
}

/// The outline of a box that grew: text is found by its kernel, which is smaller than the text. By the network's
/// training, the distance is `ratio` times the area over the perimeter.
pub fn grown(corners: &Quad, ratio: f64) -> Vec<Point> {
    let edges = |at: usize| (corners[at], corners[(at + 1) % 4]);
    let perimeter: f64 = (0..4).map(|at| distance(edges(at).0, edges(at).1)).sum();
    let area: f64 = (0..4)
        .map(edges)
        .map(|(a, b)| a[0] * b[1] - b[0] * a[1])
        .sum::<f64>()
        .abs()
        / 2.0;
    let by = area * ratio / perimeter;
    // From here on as the library for polygons does it that the original uses, to the rounding: a pixel less at a
    // corner turns the box. It takes corners on whole pixels, and an arc is at most a quarter of a pixel off.
    let corners = corners.map(|corner| corner.map(f64::trunc));
    let steps = PI / (1.0 - ARC_TOLERANCE.min(by * ARC_TOLERANCE) / by).acos();
    let steps = steps.min(by * PI);
    let (sin, cos) = (2.0 * PI / steps).sin_cos();
    let mut outline = Vec::new();
    for at in 0..4 {
        let corner = corners[at];
        let mut push = |normal: Point| {
            outline.push([
                (corner[0] + normal[0] * by).round(),
                (corner[1] + normal[1] * by).round(),
            ]);
        };
        let before = outward(corners[(at + 3) % 4], corner);
        let after = outward(corner, corners[(at + 1) % 4]);
        let turn = f64::atan2(
            before[0] * after[1] - after[0] * before[1],
            before[0] * after[0] + before[1] * after[1],
        );
        let mut normal = before;
        for _ in 0..((steps / (2.0 * PI) * turn.abs()).round() as u32).max(1) {
            push(normal);
            normal = [
                normal[0] * cos - normal[1] * sin,
                normal[0] * sin + normal[1] * cos,
            ];
        }
        push(after);
    }
    outline
}

/// The mean of a map of `width` columns over the pixels in a box, its edges among them.
pub fn mean_under(map: &[f32], width: usize, corners: &Quad) -> f32 {
    let height = map.len() / width.max(1);
    let corners = corners.map(|corner| corner.map(f64::trunc));
    let rows = |pick: fn(f64, f64) -> f64| corners.iter().map(|corner| corner[1]).reduce(pick);
    let clamp =
        |row: Option<f64>| (row.unwrap_or(0.0).max(0.0) as usize).min(height.saturating_sub(1));
    let (mut sum, mut count) = (0.0, 0);
    for row in clamp(rows(f64::min))..=clamp(rows(f64::max)) {
        let Some((left, right)) = columns(&corners, row as f64) else {
            continue;
        };
        let left = left.round().max(0.0) as usize;
        let right = (right.round().max(0.0) as usize).min(width - 1);
        for value in map[row * width..].iter().take(right + 1).skip(left) {
            sum += f64::from(*value);
            count += 1;
        }
    }
    (sum / f64::from(count.max(1))) as f32
}

/// From where to where a row crosses a box.
fn columns(corners: &Quad, row: f64) -> Option<(f64, f64)> {
    let mut found: Option<(f64, f64)> = None;
    let mut take = |x: f64| {
        let (left, right) = found.unwrap_or((x, x));
        found = Some((left.min(x), right.max(x)));
    };
    for at in 0..4 {
        let (a, b) = (corners[at], corners[(at + 1) % 4]);
        if row < a[1].min(b[1]) || row > a[1].max(b[1]) {
            continue;
        }
        if a[1] == b[1] {
            take(a[0]);
            take(b[0]);
        } else {
            take(a[0] + (b[0] - a[0]) * (row - a[1]) / (b[1] - a[1]));
        }
    }
    found
}

/// The length of the way between two points.
pub fn distance(a: Point, b: Point) -> f64 {
    f64::hypot(a[0] - b[0], a[1] - b[1])
}

/// Of an edge of a clockwise outline, where down is positive.
fn outward(from: Point, to: Point) -> Point {
    let length = distance(from, to).max(f64::MIN_POSITIVE);
    [(to[1] - from[1]) / length, (from[0] - to[0]) / length]
}

fn extent(points: &[Point], axis: Point) -> (f64, f64) {
    let along = points.iter().map(|p| p[0] * axis[0] + p[1] * axis[1]);
    along.fold((f64::MAX, f64::MIN), |(low, high), at| {
        (low.min(at), high.max(at))
    })
}

/// Andrew's monotone chain.
fn hull(points: &[Point]) -> Vec<Point> {
    let mut sorted = points.to_vec();
    sorted.sort_by(|a, b| a[0].total_cmp(&b[0]).then(a[1].total_cmp(&b[1])));
    sorted.dedup();
    let chain = |points: &mut dyn Iterator<Item = Point>| {
        let mut chain: Vec<Point> = Vec::new();
        for point in points {
            while let [.., a, b] = chain[..] {
                if (b[0] - a[0]) * (point[1] - a[1]) - (b[1] - a[1]) * (point[0] - a[0]) > 0.0 {
                    break;
                }
                chain.pop();
            }
            chain.push(point);
        }
        chain.pop();
        chain
    };
    let mut hull = chain(&mut sorted.iter().copied());
    hull.extend(chain(&mut sorted.iter().rev().copied()));
    hull
}

#[cfg(test)]
mod tests {
    use super::*;

    const UPRIGHT: Quad = [[2.0, 1.0], [12.0, 1.0], [12.0, 5.0], [2.0, 5.0]];

    fn near(a: &Quad, b: &Quad) -> bool {
        a.iter().zip(b).all(|(a, b)| distance(*a, *b) < 1e-9)
    }

    #[test]
    fn the_smallest_rectangle_is_found_at_any_angle() {
        let (found, shorter) = smallest_rectangle(&UPRIGHT).unwrap();
        assert!(near(&found, &UPRIGHT) && shorter == 4.0, "{found:?}");
        let diamond = [[5.0, 0.0], [10.0, 5.0], [5.0, 10.0], [0.0, 5.0], [5.0, 5.0]];
        let (_, shorter) = smallest_rectangle(&diamond).unwrap();
        assert!((shorter - 50f64.sqrt()).abs() < 1e-9);
        assert!(smallest_rectangle(&[[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]).is_none());
        assert!(smallest_rectangle(&[[3.0, 3.0]]).is_none());
    }

    #[test]
    fn a_box_grows_by_area_over_perimeter() {
        // 40 * 1.4 / 28 = 2.
        let (found, _) = smallest_rectangle(&grown(&UPRIGHT, 1.4)).unwrap();
        assert!(
            near(
                &found,
                &[[0.0, -1.0], [14.0, -1.0], [14.0, 7.0], [0.0, 7.0]]
            ),
            "{found:?}"
        );
    }

    #[test]
    fn the_mean_counts_the_edges() {
        let mut map = vec![0.0; 20 * 10];
        for row in 1..=5 {
            map[row * 20 + 2..=row * 20 + 12].fill(0.5);
        }
        assert_eq!(mean_under(&map, 20, &UPRIGHT), 0.5);
        let outside = UPRIGHT.map(|[x, y]| [x + 100.0, y + 100.0]);
        assert_eq!(mean_under(&map, 20, &outside), 0.0);
    }
}
