//! The imports of an `init` whose memory is taken: those whose answers must not be kept are noticed.

use wasmtime::component::Linker;
use wasmtime_wasi::cli::{WasiCli, WasiCliView};
use wasmtime_wasi::clocks::{WasiClocks, WasiClocksView};
use wasmtime_wasi::filesystem::{WasiFilesystem, WasiFilesystemView};
use wasmtime_wasi::random::{WasiRandom, WasiRandomView};
use wasmtime_wasi::{p2, p3};
use wasmtime_wasi_config::WasiConfig;
use wasmtime_wasi_http::{WasiHttp, WasiHttpView};

use crate::engine::{Calls, SharedEngine};
use crate::infer::nn::{self, NnView};
use crate::sandbox::{self, Sandbox};

type S = Sandbox;

/// Notices a call in a store that is watched.
fn noticed<'a>(sandbox: &'a mut Sandbox, import: &'static str) -> &'a mut Sandbox {
    if let Some(watch) = &sandbox.watch {
        watch.call(import);
    }
    sandbox
}

/// A linker like that of replicas, in which everything is noticed but what `init` may use: its own memory, the files of the
/// bundle, lines for the log, and the seeds of hash tables, which need not be secret nor differ.
///
/// # Errors
/// Only when a standard's name cannot be defined again, which would be a bug.
pub(super) fn linker(engine: &SharedEngine, calls: Calls) -> wasmtime::Result<Linker<Sandbox>> {
    let mut linker = sandbox::linker(engine, calls)?;
    linker.allow_shadowing(true);
    let l = &mut linker;

    p2::bindings::cli::environment::add_to_linker::<S, WasiCli>(l, |s| {
        noticed(s, "wasi:cli/environment (environment variables)").cli()
    })?;
    p2::bindings::cli::stdin::add_to_linker::<S, WasiCli>(l, |s| {
        noticed(s, "wasi:cli/stdin").cli()
    })?;
    p2::bindings::clocks::wall_clock::add_to_linker::<S, WasiClocks>(l, |s| {
        noticed(s, "wasi:clocks/wall-clock").clocks()
    })?;
    p2::bindings::clocks::monotonic_clock::add_to_linker::<S, WasiClocks>(l, |s| {
        noticed(s, "wasi:clocks/monotonic-clock").clocks()
    })?;
    p2::bindings::random::random::add_to_linker::<S, WasiRandom>(l, |s| {
        noticed(s, "wasi:random/random").random()
    })?;
    wasmtime_wasi_http::p2::bindings::http::outgoing_handler::add_to_linker::<S, WasiHttp>(
        l,
        |s| noticed(s, "wasi:http/outgoing-handler").http(),
    )?;

    if calls == Calls::Concurrent {
        notice_p3(l)?;
    }
    wasmtime_wasi_config::add_to_linker(l, |s: &mut S| {
        WasiConfig::from(noticed(s, "wasi:config/store (secrets)").config())
    })?;
    nn::add_to_linker(l, |s: &mut S| -> NnView<'_> { noticed(s, "wasi:nn").nn() })?;
    Ok(linker)
}

/// Streams of WASI 0.3 are not among the handles that can be counted afterwards: what gives one is noticed too.
fn notice_p3(l: &mut Linker<S>) -> wasmtime::Result<()> {
    p3::bindings::cli::environment::add_to_linker::<S, WasiCli>(l, |s| {
        noticed(s, "wasi:cli/environment (environment variables)").cli()
    })?;
    p3::bindings::cli::stdin::add_to_linker::<S, WasiCli>(l, |s| {
        noticed(s, "wasi:cli/stdin").cli()
    })?;
    p3::bindings::cli::stdout::add_to_linker::<S, WasiCli>(l, |s| {
        noticed(s, "wasi:cli/stdout").cli()
    })?;
    p3::bindings::cli::stderr::add_to_linker::<S, WasiCli>(l, |s| {
        noticed(s, "wasi:cli/stderr").cli()
    })?;
    p3::bindings::filesystem::preopens::add_to_linker::<S, WasiFilesystem>(l, |s| {
        noticed(s, "wasi:filesystem/preopens").filesystem()
    })?;
    p3::bindings::clocks::monotonic_clock::add_to_linker::<S, WasiClocks>(l, |s| {
        noticed(s, "wasi:clocks/monotonic-clock").clocks()
    })?;
    p3::bindings::clocks::system_clock::add_to_linker::<S, WasiClocks>(l, |s| {
        noticed(s, "wasi:clocks/system-clock").clocks()
    })?;
    p3::bindings::random::random::add_to_linker::<S, WasiRandom>(l, |s| {
        noticed(s, "wasi:random/random").random()
    })?;
    wasmtime_wasi_http::p3::bindings::http::client::add_to_linker::<S, WasiHttp>(l, |s| {
        noticed(s, "wasi:http/client").http()
    })?;
    Ok(())
}
