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

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Address to listen on; port 0 picks a free port
    #[arg(long, default_value = "127.0.0.1:8080")]
    addr: SocketAddr,
    /// Folder for models, logs and keys
    #[arg(long, default_value = "./samovar-data")]
    data: PathBuf,
    /// Require no keys; allowed on loopback addresses only
    #[arg(long)]
    no_auth: bool,
    /// Domain for host names of models: model-ID.DOMAIN is the same as /models/ID
    #[arg(long, value_name = "DOMAIN")]
    base_domain: Option<BaseDomain>,
    /// Origin of web pages that may call models from a browser, such as https://app.example, or `*` for any; may be repeated
    #[arg(long = "allow-origin", value_name = "ORIGIN")]
    allow_origins: Vec<Origin>,
    /// File with the key that encrypts secrets [default: secrets.key in the data folder]
    #[arg(long, value_name = "FILE")]
    secrets_key: Option<PathBuf>,
    /// Delete secrets whose key is lost; without this option, the server does not start then
    #[arg(long)]
    discard_secrets: bool,
    /// Start without models although the data folder holds blobs of a lost database
    #[arg(long)]
    new_store: bool,
    /// ONNX Runtime library to use, instead of searching for one
    #[arg(long, value_name = "FILE")]
    onnxruntime: Option<PathBuf>,
    /// Backend of graphs that do not choose one
    #[arg(long, value_name = "BACKEND", value_enum, default_value = "auto")]
    default_backend: Backend,
    /// Memory that all graphs together may use in engines, such as 8GiB [default: three quarters of the machine's memory]
    #[arg(long, value_name = "SIZE", value_parser = size_bytes)]
    memory: Option<u64>,
    /// Memory of each GPU that all graphs together may use, such as 8GiB [default: all that is free]
    #[arg(long, value_name = "SIZE", value_parser = size_bytes)]
    gpu_memory: Option<u64>,
    /// Where graphs run
    #[arg(long, value_name = "WHERE", value_enum, default_value = "shared")]
    engines: Engines,
    /// Longest time to load a graph in an engine
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = timeout)]
    load_timeout: Duration,
    /// Number of components that compile at once, each in its own process
    #[arg(long, value_name = "N", default_value = "2")]
    compile_workers: std::num::NonZeroUsize,
    /// Memory to compile one component
    #[arg(long, value_name = "SIZE", default_value = "2GiB", value_parser = compile_memory_bytes)]
    compile_memory: u64,
    /// Processor time to compile one component, summed over all cores
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = timeout)]
    compile_time: Duration,
    /// Number of requests of one deployment that may wait for a replica; further ones get 429
    #[arg(long, value_name = "N", default_value_t = 1000)]
    max_queued_requests: usize,
    /// Number of requests after which a replica is replaced [default: no limit]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max_requests_per_replica: Option<u64>,
    /// How long running requests may continue after SIGTERM, or after their deployment was deactivated or deleted
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "60s")]
    drain_timeout: Duration,
    /// Number of replicas of all deployments together [default: 1 per MiB of memory, 64 to 1000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_replicas: Option<u32>,
    /// Number of connections at once [default: three quarters of the limit of open files, at most 10000]
    #[arg(long, value_name = "N")]
    max_connections: Option<std::num::NonZeroUsize>,
    /// Longest time from accepting a connection to the end of its first request's head
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = timeout)]
    header_timeout: Duration,
    /// Longest time from a response to the end of the head of the connection's next request
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = timeout)]
    idle_timeout: Duration,
    /// Where webhooks may go besides public addresses: loopback, private, or a network such as 10.1.0.0/16; may be repeated
    #[arg(long, value_name = "NETWORK")]
    webhook_allow: Vec<Allowance>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Backend {
    /// ONNX Runtime if it is available and can run the graph, otherwise rten
    Auto,
    /// ONNX Runtime
    Onnxruntime,
    /// rten, which is always available
    Rten,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Engines {
    /// In one separate process for each backend
    Shared,
    /// In separate processes for each deployment
    PerDeployment,
    /// In the server's process, which a model can then crash
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

/// A timeout of connections, of loading, or of compiling. A shorter one would cut off clients with slow connections.
fn timeout(text: &str) -> Result<Duration, String> {
    let wanted = || "wanted a duration from 1s to 1h, such as 30s or 5m".to_owned();
    let duration = Duration::from_millis(units::parse_duration_ms(text).ok_or_else(wanted)?);
    let range = Duration::from_secs(1)..=Duration::from_secs(3600);
    range
        .contains(&duration)
        .then_some(duration)
        .ok_or_else(wanted)
}

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
