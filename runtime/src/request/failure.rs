//! How a guest fails.

/// Longest text of a guest in an error, in bytes.
pub(crate) const MAX_REASON_BYTES: usize = 4 << 10;

/// Truncates a guest's text.
pub(crate) fn shortened(mut text: String) -> String {
    let whole = text.len();
    if whole > MAX_REASON_BYTES {
        text.truncate(text.floor_char_boundary(MAX_REASON_BYTES));
        text.shrink_to_fit();
        text.push_str(&format!("… ({whole} bytes, cut)"));
    }
    text
}

/// How a guest failed. Its replica has been dropped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GuestFailure {
    /// It trapped, with a description of the trap.
    #[error("the model crashed: {0}")]
    Trap(String),
    /// It exceeded the memory limit of its deployment, with its own memory or with what the host holds for it.
    #[error(
        "the model ran out of memory: it asked for {wanted_bytes} bytes, its limit is {limit_bytes}; raise `limits.memory` in samovar.toml"
    )]
    Memory {
        /// Bytes that it would have used.
        wanted_bytes: u64,
        /// The limit in bytes.
        limit_bytes: u64,
    },
    /// It called `exit` instead of responding.
    #[error("the model called exit({0}) instead of answering")]
    Exit(i32),
    /// It returned without a response.
    #[error("the model returned without an answer")]
    NoAnswer,
    /// It returned without finishing its response body.
    #[error(
        "the model returned without finishing the body of its answer, which was cut off: finish the `outgoing-body` with `outgoing-body.finish`, or close the stream of the response, before the handler returns"
    )]
    Unfinished,
    /// It set an error of `wasi:http` instead of a response.
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
