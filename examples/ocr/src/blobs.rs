//! Blobs of a bitmap, and the holes in them: the points that their outlines are made of.

use crate::geometry::Point;

/// A bitmap in rows.
pub struct Bitmap {
    width: usize,
    set: Vec<bool>,
}

impl Bitmap {
    /// What of a map is above a threshold, each pixel grown by one to the right and down.
    pub fn above(map: &[f32], width: usize, threshold: f32) -> Self {
        let above: Vec<bool> = map.iter().map(|value| *value > threshold).collect();
        let mut set = above.clone();
        for (at, _) in above.iter().enumerate().filter(|(_, above)| **above) {
            let right = (at + 1) % width != 0;
            for (grown, inside) in [(at + 1, right), (at + width, true), (at + width + 1, right)] {
                if inside && grown < set.len() {
                    set[grown] = true;
                }
            }
        }
        Self { width, set }
    }

    /// For each blob, whose pixels touch by sides or corners, and for each hole in one the points around it: of each
    /// row the first and the last, between which the rest lies.
    pub fn outlines(&self) -> Vec<Vec<Point>> {
        let mut seen = vec![false; self.set.len()];
        let mut found = Vec::new();
        for start in 0..self.set.len() {
            if seen[start] {
                continue;
            }
            let mut ends = Ends::default();
            if self.set[start] {
                self.flood(start, &mut seen, Touch::Corners, |at, _| {
                    ends.take(self.place(at))
                });
                found.push(ends.points());
            } else {
                let mut is_hole = true;
                self.flood(start, &mut seen, Touch::Sides, |at, edge| {
                    is_hole &= !edge;
                    for around in self.around(at, Touch::Sides).flatten() {
                        if self.set[around] {
                            ends.take(self.place(around));
                        }
                    }
                });
                if is_hole {
                    found.push(ends.points());
                }
            }
        }
        found
    }

    /// Visits all that is connected with `start` and like it; tells of each whether it lies at the bitmap's edge.
    fn flood(
        &self,
        start: usize,
        seen: &mut [bool],
        touch: Touch,
        mut visit: impl FnMut(usize, bool),
    ) {
        let mut waiting = vec![start];
        seen[start] = true;
        while let Some(at) = waiting.pop() {
            let mut edge = false;
            for around in self.around(at, touch) {
                match around {
                    None => edge = true,
                    Some(next) if !seen[next] && self.set[next] == self.set[start] => {
                        seen[next] = true;
                        waiting.push(next);
                    }
                    Some(_) => {}
                }
            }
            visit(at, edge);
        }
    }

    /// The pixels that touch one; `None` for those beyond the edge.
    fn around(&self, at: usize, touch: Touch) -> impl Iterator<Item = Option<usize>> {
        const STEPS: [(isize, isize); 8] = [
            (0, -1),
            (-1, 0),
            (1, 0),
            (0, 1),
            (-1, -1),
            (1, -1),
            (-1, 1),
            (1, 1),
        ];
        let (x, y) = (at % self.width, at / self.width);
        let height = self.set.len() / self.width;
        let count = if touch == Touch::Sides { 4 } else { 8 };
        STEPS.into_iter().take(count).map(move |(across, down)| {
            let x = x.checked_add_signed(across).filter(|x| *x < self.width)?;
            let y = y.checked_add_signed(down).filter(|y| *y < height)?;
            Some(y * self.width + x)
        })
    }

    fn place(&self, at: usize) -> (usize, usize) {
        (at % self.width, at / self.width)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Touch {
    Sides,
    Corners,
}

/// The first and the last point of each row.
#[derive(Default)]
struct Ends(std::collections::BTreeMap<usize, (usize, usize)>);

impl Ends {
    fn take(&mut self, (x, y): (usize, usize)) {
        let (first, last) = self.0.entry(y).or_insert((x, x));
        *first = x.min(*first);
        *last = x.max(*last);
    }

    fn points(self) -> Vec<Point> {
        let rows = self.0.into_iter();
        rows.flat_map(|(y, (first, last))| [[first as f64, y as f64], [last as f64, y as f64]])
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bitmap(rows: &[&str]) -> Bitmap {
        Bitmap {
            width: rows[0].len(),
            set: rows.concat().bytes().map(|byte| byte == b'#').collect(),
        }
    }

    #[test]
    fn blobs_touch_by_corners() {
        let found = bitmap(&["##..", "..#.", "....", "#..."]).outlines();
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(found[0], [[0.0, 0.0], [1.0, 0.0], [2.0, 1.0], [2.0, 1.0]]);
    }

    #[test]
    fn a_hole_is_told_by_what_is_around_it() {
        let found = bitmap(&["#####", "#...#", "#####"]).outlines();
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(found[1].len(), 6);
        assert_eq!(found[1][2..4], [[0.0, 1.0], [4.0, 1.0]]);
        assert_eq!(bitmap(&["####", "#...", "####"]).outlines().len(), 1);
    }

    #[test]
    fn pixels_grow_right_and_down() {
        let map = [0.9, 0.0, 0.0, 0.0, 0.0, 0.9, 0.0, 0.0, 0.0];
        let found = Bitmap::above(&map, 3, 0.3);
        let wanted = bitmap(&["##.", "###", "..#"]);
        assert_eq!(found.set, wanted.set);
    }
}
