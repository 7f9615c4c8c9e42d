//! Models whose bytes were changed as damage or an attacker would.

use super::dice::Dice;

/// The bytes of a model with some of them changed, cut off, or put in from another.
pub fn mutate(dice: &mut Dice, model: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = model.to_vec();
    for _ in 0..1 + dice.below(3) {
        if bytes.is_empty() {
            return bytes;
        }
        let length = bytes.len() as u64;
        let at = dice.below(length) as usize;
        match dice.below(7) {
            0 => bytes[at] ^= 1 << dice.below(8),
            1 => bytes[at] = *dice.choose(&[0x00, 0x01, 0x7f, 0x80, 0xff]),
            2 => bytes.truncate(at),
            3 => {
                let end = (at + 1 + dice.below(16) as usize).min(bytes.len());
                bytes.drain(at..end);
            }
            4 => {
                // A length or a size that is far too large.
                let varint = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
                let cut = 1 + dice.below(varint.len() as u64) as usize;
                bytes.splice(at..at, varint[varint.len() - cut..].iter().copied());
            }
            5 => {
                let end = (at + 1 + dice.below(64) as usize).min(bytes.len());
                let copy = bytes[at..end].to_vec();
                let to = dice.below(length) as usize;
                bytes.splice(to..to, copy);
            }
            _ => {
                let from = dice.below(other.len().max(1) as u64) as usize;
                bytes.truncate(at);
                bytes.extend(other.iter().skip(from));
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_mutants_are_other_models_and_a_seed_always_gives_the_same() {
        let (model, other) = ([7u8; 100], [9u8; 50]);
        let mut same = 0;
        for seed in 0..1_000 {
            let found = mutate(&mut Dice::of(seed), &model, &other);
            assert_eq!(found, mutate(&mut Dice::of(seed), &model, &other));
            assert!(found.len() < 1_000);
            same += u32::from(found == model);
        }
        assert!(same < 100, "{same} of 1000 are unchanged");
    }
}
