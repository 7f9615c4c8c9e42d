//! Which token follows: the likeliest, or one that is drawn.

use std::hash::{BuildHasher, Hasher, RandomState};

/// How a token is drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Over 1 it is bolder, under 1 it is more careful; at 0 it takes the likeliest.
    pub temperature: f32,
    /// Only of the likeliest that have this probability together.
    pub top_p: f32,
}

/// A source of numbers (splitmix64): the same for the same seed.
#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    /// For a seed, or unlike any before.
    pub fn new(seed: Option<u64>) -> Self {
        // The standard library's hash maps are keyed with the host's random numbers.
        Self(seed.unwrap_or_else(|| RandomState::new().build_hasher().finish()))
    }

    /// From 0 up to 1.
    fn roll(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 40) as f32 / (1u64 << 24) as f32
    }
}

/// Picks a token by its logits.
pub fn pick(logits: &[f32], sampling: Sampling, dice: &mut Dice) -> usize {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    // The first of equals, as numpy's argmax has it.
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
    let Some(&likeliest) = order.first() else {
        return 0;
    };
    if sampling.temperature <= 0.0 {
        return likeliest;
    }
    let weight = |token: usize| ((logits[token] - logits[likeliest]) / sampling.temperature).exp();
    let all: f32 = order.iter().map(|&token| weight(token)).sum();
    let mut together = 0.0;
    let enough = order.iter().position(|&token| {
        together += weight(token) / all;
        together >= sampling.top_p
    });
    let chosen = &order[..enough.map_or(order.len(), |at| at + 1)];
    let mut left = dice.roll() * chosen.iter().map(|&token| weight(token)).sum::<f32>();
    for &token in chosen {
        left -= weight(token);
        if left < 0.0 {
            return token;
        }
    }
    likeliest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(logits: &[f32], temperature: f32, top_p: f32) -> Vec<f32> {
        let mut dice = Dice::new(Some(7));
        let mut counts = vec![0.0; logits.len()];
        for _ in 0..20_000 {
            counts[pick(logits, Sampling { temperature, top_p }, &mut dice)] += 1.0 / 20_000.0;
        }
        counts
    }

    fn close(found: &[f32], wanted: &[f32]) -> bool {
        found.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 0.015)
    }

    #[test]
    fn tokens_are_drawn_by_their_probability() {
        let logits: Vec<f32> = [0.1f32, 0.6, 0.3].iter().map(|p| p.ln()).collect();
        assert!(close(&shares(&logits, 1.0, 1.0), &[0.1, 0.6, 0.3]));
        assert!(close(
            &shares(&logits, 0.5, 1.0),
            &[0.01 / 0.46, 0.36 / 0.46, 0.09 / 0.46]
        ));
        assert!(close(&shares(&logits, 1.0, 0.9), &[0.0, 0.667, 0.333]));
        assert!(close(&shares(&logits, 1.0, 0.0), &[0.0, 1.0, 0.0]));
        assert_eq!(
            pick(
                &logits,
                Sampling {
                    temperature: 0.0,
                    top_p: 1.0
                },
                &mut Dice::new(None)
            ),
            1
        );
    }

    #[test]
    fn extremes_draw_something() {
        let mut dice = Dice::new(Some(1));
        let any = Sampling {
            temperature: 2.0,
            top_p: 1.0,
        };
        assert_eq!(pick(&[f32::NEG_INFINITY, 3.0], any, &mut dice), 1);
        assert_eq!(pick(&[1e30, -1e30], any, &mut dice), 0);
        assert_eq!(
            pick(
                &[5.0, 5.0],
                Sampling {
                    temperature: 0.0,
                    ..any
                },
                &mut dice
            ),
            0
        );
    }

    #[test]
    fn a_seed_gives_the_same_again() {
        let rolls = |seed| {
            let mut dice = Dice::new(seed);
            [dice.roll(), dice.roll(), dice.roll()]
        };
        assert_eq!(rolls(Some(5)), rolls(Some(5)));
        assert_ne!(rolls(Some(5)), rolls(Some(6)));
        assert_ne!(rolls(None), rolls(None));
    }
}
