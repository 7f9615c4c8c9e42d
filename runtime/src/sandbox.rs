//! What one store holds: the WASI views of a replica, with exactly the capabilities its manifest names.

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use http::HeaderName;
use wasmtime::component::{Linker, ResourceTable};
use wasmtime::{Engine, Store};
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_config::{WasiConfig, WasiConfigVariables};
use wasmtime_wasi_http::{
    Error as HttpError, ForbiddenHeaderFilter, RequestOptions, WasiBody, WasiHttpCtx,
    WasiHttpCtxView, WasiHttpHooks, WasiHttpView,
};

use crate::config::Config;
use crate::engine::{Calls, SharedEngine, yield_at_epochs};
use crate::infer::nn::{NnCtx, NnView};
use crate::limits::{HOSTCALL_SLACK_BYTES, Limits, MAX_HANDLES, MAX_HEADER_BYTES, StoreLimiter};
use crate::log::{Level, LogStream, ReplicaLog};
use crate::logging::LoggingView;
use crate::snapshot::Watch;

/// What a deployment's replicas may see and do beyond computing.
#[derive(Clone, Debug, Default)]
pub struct Capabilities {
    /// Environment variables, in order.
    pub environment: Vec<(String, String)>,
    /// Secrets and other values read through `wasi:config/store`.
    pub config: Config,
    /// A folder shown read-only at `/`; nothing is shown without one.
    pub files: Option<PathBuf>,
    /// `host:port` pairs that outgoing HTTP may reach.
    pub network_allow: Arc<[String]>,
    /// Whether it may load graphs from bytes of its own.
    pub load_graphs_from_bytes: bool,
}

/// The data of a replica's store.
pub struct Sandbox {
    table: ResourceTable,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    outgoing: Outgoing,
    config: WasiConfigVariables,
    /// Which values of the deployment's config these are.
    pub config_generation: u64,
    nn: NnCtx,
    /// Holds the store's memories to the limit of the deployment.
    pub limiter: StoreLimiter,
    /// Where the replica's lines go.
    pub log: Arc<ReplicaLog>,
    stdout: LogStream,
    stderr: LogStream,
    /// Notices what an `init` asks for whose memory is taken.
    pub watch: Option<Watch>,
}

impl Sandbox {
    /// Makes the store of a new replica.
    ///
    /// # Errors
    /// When the folder of the bundle's files cannot be opened.
    pub fn store(
        engine: &Engine,
        capabilities: &Capabilities,
        limits: &Limits,
        nn: NnCtx,
        log: Arc<ReplicaLog>,
    ) -> wasmtime::Result<Store<Self>> {
        let stdout = LogStream::new(log.clone(), Level::Info);
        let stderr = LogStream::new(log.clone(), Level::Warning);
        let mut wasi = WasiCtxBuilder::new();
        wasi.stdout(stdout.clone());
        wasi.stderr(stderr.clone());
        wasi.envs(&capabilities.environment);
        wasi.allow_tcp(false);
        wasi.allow_udp(false);
        if let Some(files) = &capabilities.files {
            wasi.preopened_dir(files, "/", FsPerms::ReadOnly)?;
        }
        let mut table = ResourceTable::new();
        table.set_max_capacity(MAX_HANDLES);
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(MAX_HEADER_BYTES);
        let (config_generation, config) = capabilities.config.snapshot();
        let sandbox = Self {
            table,
            wasi: wasi.build(),
            http,
            outgoing: Outgoing {
                allow: capabilities.network_allow.clone(),
            },
            config,
            config_generation,
            nn,
            limiter: StoreLimiter::new(limits.memory_bytes),
            log,
            stdout,
            stderr,
            watch: None,
        };
        let mut store = Store::new(engine, sandbox);
        store.limiter(|sandbox| &mut sandbox.limiter);
        let fuel = limits.memory_bytes.saturating_add(HOSTCALL_SLACK_BYTES);
        store.set_hostcall_fuel(usize::try_from(fuel).unwrap_or(usize::MAX));
        yield_at_epochs(&mut store);
        Ok(store)
    }

    /// Its values for `wasi:config/store`.
    pub fn config(&self) -> &WasiConfigVariables {
        &self.config
    }

    /// Its `wasi:nn`.
    pub fn nn(&mut self) -> NnView<'_> {
        NnView {
            ctx: &mut self.nn,
            table: &mut self.table,
        }
    }

    /// Handles of the host that the guest holds.
    pub fn open_handles(&mut self) -> usize {
        self.table.iter_mut().count()
    }

    /// Ends the lines that a finished request left open.
    pub fn finish_lines(&self) {
        self.stdout.finish_line();
        self.stderr.finish_line();
    }
}

impl WasiView for Sandbox {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

impl WasiHttpView for Sandbox {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            ctx: &mut self.http,
            table: &mut self.table,
            hooks: &mut self.outgoing,
        }
    }
}

/// A linker with every import that [`crate::admission`] lets through, as far as components of this kind can have them.
///
/// # Errors
/// Only when two of the standards define the same name, which would be a bug here.
pub fn linker(engine: &SharedEngine, calls: Calls) -> wasmtime::Result<Linker<Sandbox>> {
    let mut linker = Linker::new(engine.engine(calls));
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    if calls == Calls::Concurrent {
        wasmtime_wasi::p3::add_to_linker(&mut linker)?;
        wasmtime_wasi_http::p3::add_to_linker(&mut linker)?;
    }
    wasmtime_wasi_config::add_to_linker(&mut linker, |sandbox: &mut Sandbox| {
        WasiConfig::from(sandbox.config())
    })?;
    crate::logging::add_to_linker(&mut linker, |sandbox: &mut Sandbox| {
        LoggingView(&sandbox.log)
    })?;
    crate::infer::nn::add_to_linker(&mut linker, Sandbox::nn)?;
    Ok(linker)
}

/// Outgoing requests, to the hosts that the manifest allows and no others.
struct Outgoing {
    allow: Arc<[String]>,
}

impl WasiHttpHooks for Outgoing {
    fn is_forbidden_header(&mut self, name: &HeaderName) -> bool {
        is_forbidden(name)
    }

    fn forbidden_header_filter(&mut self) -> ForbiddenHeaderFilter {
        static FILTER: LazyLock<ForbiddenHeaderFilter> = LazyLock::new(|| Arc::new(is_forbidden));
        FILTER.clone()
    }

    // Room for a short answer as a whole, so that its guest is done without waiting for the client.
    fn p2_outgoing_body_buffer_chunks(&mut self) -> usize {
        8
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        256 << 10
    }

    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _sent: Box<dyn Future<Output = Result<(), HttpError>> + Send>,
    ) -> Box<
        dyn Future<
                Output = Result<
                    (
                        http::Response<WasiBody>,
                        Box<dyn Future<Output = Result<(), HttpError>> + Send>,
                    ),
                    HttpError,
                >,
            > + Send,
    > {
        let allowed = is_allowed(&self.allow, request.uri());
        Box::new(async move {
            if !allowed {
                return Err(HttpError::HttpRequestDenied);
            }
            let (response, io) = wasmtime_wasi_http::default_send_request(request, options).await?;
            Ok((
                response.map(http_body_util::BodyExt::boxed_unsync),
                Box::new(io) as Box<dyn Future<Output = Result<(), HttpError>> + Send>,
            ))
        })
    }
}

/// Whether a header belongs to a connection and not to a request: those of `DEFAULT_FORBIDDEN_HEADERS`, which is asked for
/// each header of each request and makes its nine names anew each time.
fn is_forbidden(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "transfer-encoding"
            | "upgrade"
            | "host"
            | "http2-settings"
    )
}

/// Whether the list of `host:port` pairs names where this request goes.
fn is_allowed(allow: &[String], uri: &http::Uri) -> bool {
    let Some(host) = uri.host() else { return false };
    let port = uri.port_u16().unwrap_or(match uri.scheme_str() {
        Some("http") => 80,
        _ => 443,
    });
    allow.iter().any(|entry| match entry.rsplit_once(':') {
        Some((name, wanted)) => name.eq_ignore_ascii_case(host) && wanted.parse() == Ok(port),
        None => entry.eq_ignore_ascii_case(host) && port == 443,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_the_connection_are_those_of_wasmtime() {
        let ours = wasmtime_wasi_http::DEFAULT_FORBIDDEN_HEADERS;
        assert_eq!(ours.len(), 9);
        assert!(ours.iter().all(is_forbidden));
        assert!(!is_forbidden(&http::header::ACCEPT));
    }

    #[test]
    fn outgoing_requests_reach_named_hosts_only() {
        let allow = [
            "api.example.com:443".to_owned(),
            "localhost:8080".to_owned(),
        ];
        let to = |uri: &str| is_allowed(&allow, &uri.parse().unwrap());
        assert!(to("https://api.example.com/x"));
        assert!(to("https://API.example.com:443/x"));
        assert!(to("http://localhost:8080/"));
        assert!(!to("http://api.example.com/x"));
        assert!(!to("https://example.com/"));
        assert!(!to("http://localhost:80/"));
        assert!(!to("/relative"));
    }
}
