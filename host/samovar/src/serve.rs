//! `samovar serve`: runs a node.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use samovar_bundle::manifest::units;
use samovar_cli::output::Format;
use samovar_server::domain::webhook_address::Allowance;
use samovar_server::node::{
    self, AuthMode, BaseDomain, CompileLimits, EngineMode, LostSecrets, Origin, Output, SavedKey,
    ServeOptions,
};
use samovar_server::server::Timeouts;
use samovar_types::bundle::GraphBackend;

/// What it is given.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Where to listen; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:8080")]
    addr: SocketAddr,
    /// Folder for models, logs and keys
    #[arg(long, default_value = "./samovar-data")]
    data: PathBuf,
    /// Ask for no keys; on loopback addresses alone
    #[arg(long)]
    no_auth: bool,
    /// Domain whose names model-ID are the addresses of models, beside /models/MODEL
    #[arg(long, value_name = "DOMAIN")]
    base_domain: Option<BaseDomain>,
    /// Origin of web pages that may call models from a browser, as https://app.example, or `*` for any; may be repeated
    #[arg(long = "allow-origin", value_name = "ORIGIN")]
    allow_origins: Vec<Origin>,
    /// File with the key of the secrets; `secrets.key` in the data folder without it
    #[arg(long, value_name = "FILE")]
    secrets_key: Option<PathBuf>,
    /// Delete secrets whose key is lost, rather than not start
    #[arg(long)]
    discard_secrets: bool,
    /// Begin without models although the data folder holds blobs of a database that is gone
    #[arg(long)]
    new_store: bool,
    /// The ONNX Runtime library, instead of the one that is found
    #[arg(long, value_name = "FILE")]
    onnxruntime: Option<PathBuf>,
    /// Backend of the graphs that choose none
    #[arg(long, value_name = "BACKEND", value_enum, default_value = "auto")]
    default_backend: Backend,
    /// Memory that all graphs together may take in engines, as 8GiB; three quarters of the machine's without it
    #[arg(long, value_name = "SIZE", value_parser = size_bytes)]
    memory: Option<u64>,
    /// Memory of each GPU that graphs may take, as 8GiB; all that is free without it
    #[arg(long, value_name = "SIZE", value_parser = size_bytes)]
    gpu_memory: Option<u64>,
    /// Where graphs run
    #[arg(long, value_name = "WHERE", value_enum, default_value = "shared")]
    engines: Engines,
    /// Longest time that a graph may take to load in an engine
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = timeout)]
    load_timeout: Duration,
    /// Components that compile at once, each in a process of its own
    #[arg(long, value_name = "N", default_value = "2")]
    compile_workers: std::num::NonZeroUsize,
    /// Memory that compiling one component may take
    #[arg(long, value_name = "SIZE", default_value = "2GiB", value_parser = compile_memory_bytes)]
    compile_memory: u64,
    /// Processor time that compiling one component may take, of all cores together
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = timeout)]
    compile_time: Duration,
    /// Requests of one deployment that may wait for a replica
    #[arg(long, value_name = "N", default_value_t = 1000)]
    max_queued_requests: usize,
    /// Requests after which a replica is replaced
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max_requests_per_replica: Option<u64>,
    /// How long running requests may go on after SIGTERM, or after their deployment was switched off or deleted
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "60s")]
    drain_timeout: Duration,
    /// Replicas of all deployments together
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_replicas: Option<u32>,
    /// Connections at once; without it three quarters of the files that may be open, 10,000 at most
    #[arg(long, value_name = "N")]
    max_connections: Option<std::num::NonZeroUsize>,
    /// Longest time from the acceptance of a connection to the head of its first request
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = timeout)]
    header_timeout: Duration,
    /// Longest time between an answer and the next request of a connection
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = timeout)]
    idle_timeout: Duration,
    /// Where webhooks may go besides public addresses: loopback, private, or a network as 10.1.0.0/16; may be given again
    #[arg(long, value_name = "NETWORK")]
    webhook_allow: Vec<Allowance>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Backend {
    /// ONNX Runtime where there is one and it can run the graph, else rten
    Auto,
    /// ONNX Runtime
    Onnxruntime,
    /// rten, which is always there
    Rten,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Engines {
    /// In one process for each backend, beside the server's
    Shared,
    /// In processes of each deployment's own
    PerDeployment,
    /// In the server's own process, which a model can end then
    InProcess,
}

fn size_bytes(text: &str) -> Result<u64, String> {
    units::parse_size_bytes(text).ok_or_else(|| format!("wanted {}", units::SIZE_WANTED))
}

/// With less, a worker does not compile the smallest component.
const MIN_COMPILE_BYTES: u64 = 128 << 20;

fn compile_memory_bytes(text: &str) -> Result<u64, String> {
    let bytes = size_bytes(text)?;
    match bytes < MIN_COMPILE_BYTES {
        true => Err(format!("wanted at least {}MiB", MIN_COMPILE_BYTES >> 20)),
        false => Ok(bytes),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let time = units::parse_duration_ms(text).map(Duration::from_millis);
    time.ok_or_else(|| format!("wanted {}", units::DURATION_WANTED))
}

/// A timeout of connections, of loading, or of compiling. Shorter ones would cut off clients that are far away.
fn timeout(text: &str) -> Result<Duration, String> {
    let wanted = || "wanted 1s to 1h, as 500ms, 30s or 5m are written".to_owned();
    let duration = Duration::from_millis(units::parse_duration_ms(text).ok_or_else(wanted)?);
    let range = Duration::from_secs(1)..=Duration::from_secs(3600);
    range
        .contains(&duration)
        .then_some(duration)
        .ok_or_else(wanted)
}

/// Runs until it is told to stop.
pub async fn run(arguments: Arguments, format: Format) -> anyhow::Result<()> {
    node::serve(options(arguments, format)).await
}

fn options(arguments: Arguments, format: Format) -> ServeOptions {
    ServeOptions {
        addr: arguments.addr,
        data: arguments.data,
        auth: if arguments.no_auth {
            AuthMode::None
        } else {
            AuthMode::Keys
        },
        base_domain: arguments.base_domain,
        allowed_origins: arguments.allow_origins,
        secrets_key: arguments.secrets_key,
        lost_secrets: if arguments.discard_secrets {
            LostSecrets::Discard
        } else {
            LostSecrets::Refuse
        },
        new_store: arguments.new_store,
        onnxruntime: arguments.onnxruntime,
        default_backend: match arguments.default_backend {
            Backend::Auto => GraphBackend::Auto,
            Backend::Onnxruntime => GraphBackend::Onnxruntime,
            Backend::Rten => GraphBackend::Rten,
        },
        memory_bytes: arguments.memory,
        gpu_memory_bytes: arguments.gpu_memory,
        engines: match arguments.engines {
            Engines::Shared => EngineMode::Shared,
            Engines::PerDeployment => EngineMode::PerDeployment,
            Engines::InProcess => EngineMode::InProcess,
        },
        load_timeout: arguments.load_timeout,
        compile_limits: CompileLimits {
            workers: arguments.compile_workers.into(),
            memory_bytes: arguments.compile_memory,
            processor_time: arguments.compile_time,
        },
        max_queued_requests: arguments.max_queued_requests,
        max_requests_per_replica: arguments.max_requests_per_replica,
        max_replicas: arguments.max_replicas,
        drain_timeout: arguments.drain_timeout,
        max_connections: arguments.max_connections.map(Into::into),
        timeouts: Timeouts {
            header: arguments.header_timeout,
            idle: arguments.idle_timeout,
        },
        webhook_allow: arguments.webhook_allow,
        output: match format {
            Format::Text => Output::Text,
            Format::Json => Output::Json,
        },
        save_first_key: |url, key| {
            let (file, earlier) = samovar_client::config::save_beside(url, key)?;
            Ok(SavedKey { file, earlier })
        },
    }
}
