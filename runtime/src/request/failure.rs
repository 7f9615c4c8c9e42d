//! How a guest fails.

/// Bytes of a text of a guest's that are kept to tell why it failed.
pub(crate) const MAX_REASON_BYTES: usize = 4 << 10;

/// A guest's text, cut where it is longer than anybody reads.
pub(crate) fn shortened(mut text: String) -> String {
    let whole = text.len();
    if whole > MAX_REASON_BYTES {
        text.truncate(text.floor_char_boundary(MAX_REASON_BYTES));
        text.shrink_to_fit();
        text.push_str(&format!("… ({whole} bytes, cut)"));
    }
    text
}

/// How a guest failed. Its replica is gone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GuestFailure {
    /// It trapped; the text names the trap.
    #[error("the model crashed: {0}")]
    Trap(String),
    /// It asked for more memory than its deployment allows, for itself or for what the host holds for it, and could not go on.
    #[error(
        "the model ran out of memory: it asked for {wanted_bytes} bytes, its limit is {limit_bytes}; raise `limits.memory` in samovar.toml"
    )]
    Memory {
        /// What it would have held.
        wanted_bytes: u64,
        /// What it may hold.
        limit_bytes: u64,
    },
    /// It called `exit` instead of answering.
    #[error("the model called exit({0}) instead of answering")]
    Exit(i32),
    /// It returned without an answer.
    #[error("the model returned without an answer")]
    NoAnswer,
    /// It returned without finishing the body of its answer.
    #[error(
        "the model returned without finishing the body of its answer, which was cut off: finish the `outgoing-body` with `outgoing-body.finish`, or close the stream of the response, before the handler returns"
    )]
    Unfinished,
    /// It answered with an error of `wasi:http` instead of a response.
    #[error("the model answered with the error {0}")]
    ErrorCode(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_between_characters_and_say_so() {
        assert_eq!(shortened("short".into()), "short");
        let cut = shortened("ä".repeat(5_000_000));
        assert!(cut.len() < MAX_REASON_BYTES + 100);
        assert!(cut.ends_with("… (10000000 bytes, cut)"), "{cut}");
        let uneven = shortened(format!("x{}", "ä".repeat(MAX_REASON_BYTES)));
        assert!(uneven.starts_with("xää"));
    }
}
