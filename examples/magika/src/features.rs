//! What the model sees of a file: the beginning and the end, without the white space around them.

use std::io::{self, Read};

/// Inputs of the model.
pub const FEATURES: usize = 2 * HALF;

/// Inputs from the beginning, and as many from the end.
const HALF: usize = 1024;
/// Bytes looked at on each side.
const BLOCK: usize = 4096;
/// What stands where the file has no byte.
const PADDING: i32 = 256;
/// With fewer bytes the model is not asked.
const MIN_BYTES: usize = 8;

/// The first and the last block of a file, which is all that is kept of it.
#[derive(Debug, Default)]
pub struct Ends {
    first: Vec<u8>,
    last: Vec<u8>,
}

impl Ends {
    /// Reads a file of any size to its end.
    pub fn read(file: &mut impl Read) -> io::Result<Self> {
        let mut ends = Self::default();
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => return Ok(ends),
                Ok(len) => ends.push(&buffer[..len]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        let missing = BLOCK - self.first.len();
        self.first
            .extend_from_slice(&bytes[..missing.min(bytes.len())]);
        self.last
            .extend_from_slice(&bytes[bytes.len().saturating_sub(BLOCK)..]);
        self.last.drain(..self.last.len().saturating_sub(BLOCK));
    }

    /// The first block of the file.
    pub fn first(&self) -> &[u8] {
        &self.first
    }

    /// The inputs of the model, or none where too little but white space is there.
    pub fn features(&self) -> Option<Vec<i32>> {
        let beginning = strip_start(&self.first);
        let end = strip_end(&self.last);
        if beginning.len() < MIN_BYTES {
            return None;
        }
        let mut features = vec![PADDING; FEATURES];
        for (feature, &byte) in features[..HALF].iter_mut().zip(beginning) {
            *feature = byte.into();
        }
        for (feature, &byte) in features[HALF..].iter_mut().rev().zip(end.iter().rev()) {
            *feature = byte.into();
        }
        Some(features)
    }
}

fn strip_start(bytes: &[u8]) -> &[u8] {
    let start = bytes
        .iter()
        .position(|&byte| !is_space(byte))
        .unwrap_or(bytes.len());
    &bytes[start..]
}

fn strip_end(bytes: &[u8]) -> &[u8] {
    let end = bytes
        .iter()
        .rposition(|&byte| !is_space(byte))
        .map_or(0, |last| last + 1);
    &bytes[..end]
}

/// White space as Python's `bytes.strip` has it: with the vertical tab.
fn is_space(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == 0x0b
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(file: &[u8]) -> Ends {
        Ends::read(&mut &file[..]).expect("memory does not fail")
    }

    #[test]
    fn only_two_blocks_are_kept_however_the_file_arrives() {
        let file: Vec<u8> = (0..300_000u32).map(|at| (at % 251) as u8).collect();
        for piece in [1, 7, 4095, 4096, 4097, 65_536] {
            let mut ends = Ends::default();
            file.chunks(piece).for_each(|piece| ends.push(piece));
            assert_eq!(ends.first, file[..BLOCK]);
            assert_eq!(ends.last, file[file.len() - BLOCK..]);
        }
    }

    #[test]
    fn white_space_around_is_no_feature() {
        let features = ends(b" \n\x0b\tsome words here\r\n\x0c")
            .features()
            .expect("enough bytes");
        assert_eq!(features[..16], b"some words here\r".map(i32::from));
        assert_eq!(features[HALF - 1..=HALF], [PADDING, PADDING]);
        assert_eq!(features[FEATURES - 15..], b"some words here".map(i32::from));
    }

    #[test]
    fn a_short_file_is_not_for_the_model() {
        assert!(ends(b"").features().is_none());
        assert!(ends(b"1234567").features().is_none());
        assert!(ends(b"   \n  1234567").features().is_none());
        assert!(ends(b"12345678").features().is_some());
        assert!(ends(&[b' '; 10_000]).features().is_none());
    }
}
