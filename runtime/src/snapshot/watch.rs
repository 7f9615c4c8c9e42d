//! The imports of an `init` while a snapshot is taken. Calls whose results a snapshot must not hold are recorded.

use wasmtime::component::Linker;
use wasmtime_wasi::cli::{WasiCli, WasiCliView};
use wasmtime_wasi::clocks::{WasiClocks, WasiClocksView};
use wasmtime_wasi::filesystem::{WasiFilesystem, WasiFilesystemView};
use wasmtime_wasi::random::{WasiRandom, WasiRandomView};
use wasmtime_wasi::{p2, p3};
use wasmtime_wasi_config::WasiConfig;
use wasmtime_wasi_http::{WasiHttp, WasiHttpView};

use crate::engine::{AsyncSupport, SharedEngine};
use crate::infer::nn::{self, NnView};
use crate::sandbox::{self, Sandbox};

type S = Sandbox;

/// Records a call of `import` in a store that is watched.
fn record<'a>(sandbox: &'a mut Sandbox, import: &'static str) -> &'a mut Sandbox {
    if let Some(watch) = &sandbox.watch {
        watch.record(import);
    }
    sandbox
}

/// The linker of replicas, but with calls recorded, except for what a snapshot may depend on: the files of the bundle, log lines,
/// and the seeds of hash tables, which need be neither secret nor different.
///
/// # Errors
/// When an import cannot be redefined, which would be a bug.
pub(super) fn linker(
    engine: &SharedEngine,
    support: AsyncSupport,
) -> wasmtime::Result<Linker<Sandbox>> {
    let mut linker = sandbox::linker(engine, support)?;
    linker.allow_shadowing(true);
    let l = &mut linker;

    p2::bindings::cli::environment::add_to_linker::<S, WasiCli>(l, |s| {
        record(s, "wasi:cli/environment (environment variables)").cli()
    })?;
    p2::bindings::cli::stdin::add_to_linker::<S, WasiCli>(l, |s| {
        record(s, "wasi:cli/stdin").cli()
    })?;
    p2::bindings::clocks::wall_clock::add_to_linker::<S, WasiClocks>(l, |s| {
        record(s, "wasi:clocks/wall-clock").clocks()
    })?;
    p2::bindings::clocks::monotonic_clock::add_to_linker::<S, WasiClocks>(l, |s| {
        record(s, "wasi:clocks/monotonic-clock").clocks()
    })?;
    p2::bindings::random::random::add_to_linker::<S, WasiRandom>(l, |s| {
        record(s, "wasi:random/random").random()
    })?;
    wasmtime_wasi_http::p2::bindings::http::outgoing_handler::add_to_linker::<S, WasiHttp>(
        l,
        |s| record(s, "wasi:http/outgoing-handler").http(),
    )?;

    if support == AsyncSupport::On {
        record_p3(l)?;
    }
    wasmtime_wasi_config::add_to_linker(l, |s: &mut S| {
        WasiConfig::from(record(s, "wasi:config/store (secrets)").config())
    })?;
    nn::add_to_linker(l, |s: &mut S| -> NnView<'_> { record(s, "wasi:nn").nn() })?;
    Ok(linker)
}

/// Also records what returns a stream of WASI 0.3, because such streams are not among the handles that are counted afterwards.
fn record_p3(l: &mut Linker<S>) -> wasmtime::Result<()> {
    p3::bindings::cli::environment::add_to_linker::<S, WasiCli>(l, |s| {
        record(s, "wasi:cli/environment (environment variables)").cli()
    })?;
    p3::bindings::cli::stdin::add_to_linker::<S, WasiCli>(l, |s| {
        record(s, "wasi:cli/stdin").cli()
    })?;
    p3::bindings::cli::stdout::add_to_linker::<S, WasiCli>(l, |s| {
        record(s, "wasi:cli/stdout").cli()
    })?;
    p3::bindings::cli::stderr::add_to_linker::<S, WasiCli>(l, |s| {
        record(s, "wasi:cli/stderr").cli()
    })?;
    p3::bindings::filesystem::preopens::add_to_linker::<S, WasiFilesystem>(l, |s| {
        record(s, "wasi:filesystem/preopens").filesystem()
    })?;
    p3::bindings::clocks::monotonic_clock::add_to_linker::<S, WasiClocks>(l, |s| {
        record(s, "wasi:clocks/monotonic-clock").clocks()
    })?;
    p3::bindings::clocks::system_clock::add_to_linker::<S, WasiClocks>(l, |s| {
        record(s, "wasi:clocks/system-clock").clocks()
    })?;
    p3::bindings::random::random::add_to_linker::<S, WasiRandom>(l, |s| {
        record(s, "wasi:random/random").random()
    })?;
    wasmtime_wasi_http::p3::bindings::http::client::add_to_linker::<S, WasiHttp>(l, |s| {
        record(s, "wasi:http/client").http()
    })?;
    Ok(())
}
