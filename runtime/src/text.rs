//! Texts of bounded length. Errors quote names that a guest chooses, at whatever length.

use std::fmt::{self, Write};

/// Longest error text that the host holds for a guest, in bytes.
pub(crate) const MAX_TEXT_BYTES: usize = 1 << 10;

/// Bytes that a text shows of a name that a guest chose.
const MAX_QUOTED_BYTES: usize = 200;

/// The end of a truncated text.
const CUT: &str = "…";

/// Formats at most [`MAX_TEXT_BYTES`]. Formatting stops there, so a long value costs no more than a short one.
pub(crate) fn bounded(text: impl fmt::Display) -> String {
    bounded_to(MAX_TEXT_BYTES, text)
}

/// Formats at most `max_bytes`.
pub(crate) fn bounded_to(max_bytes: usize, text: impl fmt::Display) -> String {
    let mut bounded = Bounded {
        text: String::new(),
        max_bytes,
    };
    // Only `write_str` can fail, when the limit is reached.
    let _ = write!(bounded, "{text}");
    bounded.text
}

/// Formats like `format!`, but no more than [`MAX_TEXT_BYTES`].
macro_rules! bounded_format {
    ($($arg:tt)*) => {
        $crate::text::bounded(format_args!($($arg)*))
    };
}
pub(crate) use bounded_format;

/// Shows a name that a guest chose in backquotes; of a long one only the beginning, so that the text behind it is not cut off.
pub(crate) struct Quoted<'a>(pub &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.0.floor_char_boundary(MAX_QUOTED_BYTES);
        let cut = if shown < self.0.len() { CUT } else { "" };
        write!(f, "`{}{cut}`", &self.0[..shown])
    }
}

struct Bounded {
    text: String,
    max_bytes: usize,
}

impl Write for Bounded {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        let room = self.max_bytes - self.text.len();
        if part.len() <= room {
            self.text.push_str(part);
            return Ok(());
        }
        self.text.push_str(&part[..part.floor_char_boundary(room)]);
        let end = self.max_bytes.saturating_sub(CUT.len());
        self.text.truncate(self.text.floor_char_boundary(end));
        self.text.push_str(CUT);
        Err(fmt::Error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Endless;
    impl fmt::Display for Endless {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            loop {
                f.write_str("and on ")?;
            }
        }
    }

    #[test]
    fn formatting_stops_at_the_limit() {
        let text = bounded(Endless);
        assert!(text.len() <= MAX_TEXT_BYTES);
        assert!(text.starts_with("and on and on") && text.ends_with(CUT));
    }

    proptest! {
        #[test]
        fn short_texts_stay_and_long_ones_are_cut_at_a_character(parts: Vec<String>, times in 1usize..50) {
            let whole = parts.concat().repeat(times);
            let text = bounded(&whole);
            prop_assert!(text.len() <= MAX_TEXT_BYTES);
            match text.strip_suffix(CUT) {
                Some(start) if whole.len() > MAX_TEXT_BYTES => prop_assert!(whole.starts_with(start)),
                _ => prop_assert_eq!(text, whole),
            }
        }
    }
}
