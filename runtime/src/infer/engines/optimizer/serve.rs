//! The worker's side: makes the form of one model, in a process that ends with that.

use std::io;
use std::os::unix::net::UnixStream;

use super::{Job, Outcome};
use crate::infer::backend::forms::FormMaker;
use crate::infer::backend::keep::MAX_KEPT_BYTES;
use crate::infer::compute::guarded;
use crate::process::confine::confine;
use crate::process::{background, frames};

/// The stack of the thread that loads: libraries recurse over the operators of a model.
const STACK_BYTES: usize = 64 << 20;

/// Makes the form of the model that the node names. `stream` is the worker's end of the socket pair that the node made. Ends the
/// process: its code says what became of the form.
///
/// # Errors
/// When the node does not send a job, or the system cannot confine the process.
pub fn serve(stream: UnixStream) -> io::Result<()> {
    background::lower_priority();
    let Some(job) = frames::read_frame::<Job>(&stream)? else {
        return Ok(());
    };
    background::limit_file_size(MAX_KEPT_BYTES)?;
    // Before it is confined, because the library lies anywhere; before the model is read.
    let maker = FormMaker::open(&job.backend, job.library.as_deref()).map_err(io::Error::other)?;
    confine(&job.confinement)?;
    background::exit_with_node(&stream)?;
    let thread = std::thread::Builder::new()
        .name("optimize".into())
        .stack_size(STACK_BYTES);
    let making = thread.spawn(move || {
        let made = guarded(|| maker.make(&job.model, job.threads, &job.to));
        made.map_err(|e| e.to_string()).flatten()
    })?;
    let made = making.join().map_err(|_| io::Error::other("it panicked"))?;
    let outcome = match made {
        Ok(true) => Outcome::Made,
        Ok(false) => Outcome::NotWorthIt,
        Err(error) => {
            tracing::warn!(
                error,
                "the form of a model that loads quickest cannot be made"
            );
            Outcome::Failed
        }
    };
    // At once: libraries are not taken down, whose threads may still run.
    // SAFETY: ends the process, and nothing after it.
    unsafe { libc::_exit(outcome as i32) }
}
