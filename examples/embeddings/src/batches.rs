//! Which sentences go through the graph together.

/// The most tokens of one batch, padding among them: enough to keep the cores busy, with intermediate results of some
/// 50 MB.
const MAX_TOKENS: usize = 4096;

/// Sentences side by side, each padded to the longest.
#[derive(Debug, PartialEq)]
pub struct Batch {
    /// Which sentences.
    pub rows: Vec<usize>,
    /// Tokens of each.
    pub width: usize,
    /// The tokens, row by row.
    pub ids: Vec<i64>,
    /// 1 for a token, 0 for padding.
    pub mask: Vec<i64>,
}

/// Puts sentences of like length together, so that little is padding.
pub fn batches(sentences: &[Vec<i64>]) -> Vec<Batch> {
    let mut order: Vec<usize> = (0..sentences.len()).collect();
    order.sort_by_key(|&row| sentences[row].len());
    let mut batches = Vec::new();
    let mut rows: Vec<usize> = Vec::new();
    for row in order {
        // In this order each sentence is the longest so far.
        if !rows.is_empty() && (rows.len() + 1) * sentences[row].len() > MAX_TOKENS {
            batches.push(Batch::of(std::mem::take(&mut rows), sentences));
        }
        rows.push(row);
    }
    if !rows.is_empty() {
        batches.push(Batch::of(rows, sentences));
    }
    batches
}

impl Batch {
    fn of(rows: Vec<usize>, sentences: &[Vec<i64>]) -> Self {
        let width = rows
            .iter()
            .map(|&row| sentences[row].len())
            .max()
            .unwrap_or(0);
        let mut ids = vec![0; rows.len() * width];
        let mut mask = vec![0; rows.len() * width];
        for (place, &row) in rows.iter().enumerate() {
            let start = place * width;
            let end = start + sentences[row].len();
            ids[start..end].copy_from_slice(&sentences[row]);
            mask[start..end].fill(1);
        }
        Self {
            rows,
            width,
            ids,
            mask,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_are_padded_to_the_longest_of_their_batch() {
        let found = batches(&[vec![1, 2, 3], vec![4], vec![5, 6]]);
        let wanted = Batch {
            rows: vec![1, 2, 0],
            width: 3,
            ids: vec![4, 0, 0, 5, 6, 0, 1, 2, 3],
            mask: vec![1, 0, 0, 1, 1, 0, 1, 1, 1],
        };
        assert_eq!(found, [wanted]);
        assert_eq!(batches(&[]), []);
    }

    #[test]
    fn no_batch_is_larger_than_the_bound_and_no_sentence_is_lost() {
        let sentences: Vec<Vec<i64>> = (0..500).map(|n| vec![7; 2 + n * 37 % 255]).collect();
        let found = batches(&sentences);
        assert!(found.iter().all(|batch| batch.ids.len() <= MAX_TOKENS));
        let mut rows: Vec<usize> = found.iter().flat_map(|batch| batch.rows.clone()).collect();
        rows.sort_unstable();
        assert_eq!(rows, (0..500).collect::<Vec<_>>());
        let tokens: i64 = found.iter().flat_map(|batch| &batch.mask).sum();
        assert_eq!(
            tokens as usize,
            sentences.iter().map(Vec::len).sum::<usize>()
        );
    }
}
