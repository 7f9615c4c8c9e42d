//! Finds the highest of many scores.

/// Number of independent comparisons at a time. In a single chain each comparison would wait for the one before it.
const LANES: usize = 16;

/// The position and the value of the highest score; the first of equal ones. `None` if there are no scores, or if all are NaN.
///
/// Much faster than a fold with [`f32::max`], which in WebAssembly calls a function for each score.
///
/// ```
/// assert_eq!(samovar_sdk::argmax(&[0.1, 0.7, 0.2]), Some((1, 0.7)));
/// assert_eq!(samovar_sdk::argmax(&[]), None);
/// ```
pub fn argmax(scores: &[f32]) -> Option<(usize, f32)> {
    let most = highest(scores);
    Some((place(scores, most)?, most))
}

/// The highest score, or negative infinity.
#[cfg_attr(target_family = "wasm", target_feature(enable = "simd128"))]
fn highest(scores: &[f32]) -> f32 {
    // False for what is not a number, on either side.
    let higher = |a: f32, b: f32| if b > a { b } else { a };
    let (rows, rest) = scores.as_chunks::<LANES>();
    let mut most = [f32::NEG_INFINITY; LANES];
    for row in rows {
        for (most, score) in most.iter_mut().zip(row) {
            *most = higher(*most, *score);
        }
    }
    let most = most.iter().chain(rest).copied();
    most.fold(f32::NEG_INFINITY, higher)
}

/// The first position of this score.
#[cfg_attr(target_family = "wasm", target_feature(enable = "simd128"))]
fn place(scores: &[f32], wanted: f32) -> Option<usize> {
    let is_in = |row: &[f32; LANES]| {
        // All of them, without a way out between two.
        row.iter()
            .fold(false, |found, score| found | (*score == wanted))
    };
    let (rows, rest) = scores.as_chunks::<LANES>();
    let begin = rows.iter().position(is_in).unwrap_or(rows.len()) * LANES;
    let within = match scores.get(begin..begin + LANES) {
        Some(row) => row,
        None => rest,
    };
    let at = within.iter().position(|score| *score == wanted)?;
    Some(begin + at)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What it means, one score after the other.
    fn slowly(scores: &[f32]) -> Option<(usize, f32)> {
        let numbers = scores.iter().copied().enumerate();
        let numbers = numbers.filter(|(_, score)| !score.is_nan());
        numbers.fold(None, |best, (at, score)| match best {
            Some((_, most)) if score <= most => best,
            _ => Some((at, score)),
        })
    }

    #[test]
    fn it_is_the_first_of_the_highest_whatever_stands_beside_it() {
        let (nan, inf) = (f32::NAN, f32::INFINITY);
        let strange = [nan, -inf, inf, 0.0, -0.0, 1.0, -1.0];
        // Every score of these in every place, in rows that end in and beside a lane's end.
        for length in 0..50 {
            for (shift, filler) in strange.into_iter().enumerate() {
                let scores: Vec<f32> = (0..length)
                    .map(|at| match at % 7 {
                        3 => strange[(at + shift) % strange.len()],
                        _ => filler,
                    })
                    .collect();
                let (found, wanted) = (argmax(&scores), slowly(&scores));
                assert_eq!(found, wanted, "{scores:?}");
            }
        }
    }
}
