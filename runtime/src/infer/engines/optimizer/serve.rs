//! The worker's side: makes the form of one model, then ends the process.

use std::io;
use std::os::unix::net::UnixStream;

use super::{ExitCode, Job};
use crate::infer::backend::forms::FormMaker;
use crate::infer::backend::model_cache::MAX_CACHED_BYTES;
use crate::infer::compute::guarded;
use crate::process::confine::confine;
use crate::process::{background, frames};

/// Stack of the thread that loads: libraries recurse over the operators of a model.
const STACK_BYTES: usize = 64 << 20;

/// Makes the form of the model in the job from the node, then ends the process with a code that tells the result. `stream` is the
/// worker's end of the socket pair that the node created.
///
/// # Errors
/// If the node violates the protocol, or the process cannot be confined.
pub fn serve(stream: UnixStream) -> io::Result<()> {
    background::lower_priority();
    let Some(job) = frames::read_frame::<Job>(&stream)? else {
        return Ok(());
    };
    background::limit_file_size(MAX_CACHED_BYTES)?;
    // Before the process is confined, because the library may be anywhere; before the model is read.
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
    let code = match made {
        Ok(true) => ExitCode::Made,
        Ok(false) => ExitCode::NotWorthIt,
        Err(error) => {
            tracing::warn!(error, "optimized form of a model cannot be made");
            ExitCode::Failed
        }
    };
    // At once: does not unload libraries, whose threads may still run.
    // SAFETY: has no preconditions; ends the process at once.
    unsafe { libc::_exit(code as i32) }
}
