//! How a guest fails.

/// How a guest failed. Its replica is gone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GuestFailure {
    /// It trapped; the text names the trap.
    #[error("the model crashed: {0}")]
    Trap(String),
    /// It asked for more memory than its deployment allows and could not go on.
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
