//! How guests fail, in the words that callers see.

/// Longest reason, given by a guest, that the host keeps; in bytes.
pub(crate) const MAX_REASON_BYTES: usize = 4 << 10;

/// Truncates a reason to [`MAX_REASON_BYTES`], and says so.
pub(crate) fn truncate_reason(mut text: String) -> String {
    let whole = text.len();
    if whole > MAX_REASON_BYTES {
        text.truncate(text.floor_char_boundary(MAX_REASON_BYTES));
        text.shrink_to_fit();
        text.push_str(&format!("… ({whole} bytes, cut)"));
    }
    text
}

/// How a guest failed. Its replica was dropped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GuestFailure {
    /// The guest trapped; the text names the trap.
    #[error("the model crashed: {0}")]
    Trap(String),
    /// The guest, with what the host holds for it, needed more memory than its deployment allows.
    #[error(
        "the model ran out of memory: it asked for {wanted_bytes} bytes, its limit is {limit_bytes}; raise `limits.memory` in samovar.toml"
    )]
    Memory {
        /// Bytes that it would have held.
        wanted_bytes: u64,
        /// Bytes that it may hold.
        limit_bytes: u64,
    },
    /// The guest called `exit` with this code instead of responding.
    #[error("the model called exit({0}) instead of answering")]
    Exit(i32),
    /// The handler returned without a response.
    #[error("the model returned without an answer")]
    NoResponse,
    /// The handler returned without finishing the response body.
    #[error(
        "the model returned without finishing the body of its answer, which was cut off: finish the `outgoing-body` with `outgoing-body.finish`, or close the stream of the response, before the handler returns"
    )]
    Unfinished,
    /// The handler responded with an error code of `wasi:http`.
    #[error("the model answered with the error {0}")]
    ErrorCode(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_between_characters_and_say_so() {
        assert_eq!(truncate_reason("short".into()), "short");
        let cut = truncate_reason("ä".repeat(5_000_000));
        assert!(cut.len() < MAX_REASON_BYTES + 100);
        assert!(cut.ends_with("… (10000000 bytes, cut)"), "{cut}");
        let uneven = truncate_reason(format!("x{}", "ä".repeat(MAX_REASON_BYTES)));
        assert!(uneven.starts_with("xää"));
    }
}
