//! A node, put together: reads top-down what it consists of.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use jiff::Timestamp;
use samovar_runtime::backend::{BackendOptions, CacheAccess, Libraries};
use samovar_runtime::{
    Barrier, Compilation, Confinement, EngineOptions, Engines, Program, Runtime, RuntimeOptions,
    WorkerOptions,
};
use samovar_store::DocStore;
use samovar_store::blobs::Blobs;
use samovar_store::sqlite::SqliteStore;
use samovar_store::vault::{KEY_FILE, Vault};
use samovar_types::api_key::KeyType;
use samovar_types::bundle::GraphBackend;
pub use samovar_types::origins::Origin;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::api::health::Readiness;
use crate::api::{self, Api};
use crate::catalog::cache::Cache;
use crate::catalog::informer::{Informer, Observer};
use crate::control::access::Access;
pub use crate::control::access::AuthMode;
use crate::control::async_queue::AsyncQueue;
use crate::control::webhook::Courier;
use crate::control::{async_worker, engine_events, scrub};
use crate::controllers::autoscale;
use crate::controllers::blob_gc::BlobGc;
use crate::controllers::deployment::DeploymentController;
use crate::controllers::dev_reload::DevReload;
use crate::controllers::guest_secrets::GuestSecretsController;
use crate::controllers::leadership::Leadership;
use crate::controllers::rollout::RolloutController;
use crate::data_folder::DataFolder;
use crate::domain::api_key::ApiKey;
use crate::domain::webhook_address::{Allowance, WebhookAddresses};
use crate::events::bus::EventBus;
use crate::events::status_poller;
pub use crate::front::BaseDomain;
use crate::front::Front;
use crate::gateway::Gateway;
pub use crate::registry::LostSecrets;
use crate::registry::{Registry, Secrets, UnreadableDocuments, WebhookSecrets, open_vault};
use crate::server::open_files::{MAX_CONNECTIONS, connections_within, raise_limit};
use crate::server::{Server, Timeouts};
use crate::serving::blob_pins::BlobPins;
use crate::serving::drains::Drains;
use crate::serving::guest_secrets::GuestSecrets;
use crate::serving::reconciler::Reconciler;
use crate::serving::{NodeLimits, Serving, ServingParts, graphs, layout};
use crate::tasks::Tasks;
use crate::telemetry::logs::Logs;
use crate::telemetry::meters::Meters;
use crate::telemetry::usage::Usage;

/// How a node says what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Words.
    Text,
    /// JSON Lines on standard output.
    Json,
}

pub use crate::serving::EngineMode;

/// What compiling components may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompileLimits {
    /// Components at once.
    pub workers: usize,
    /// Memory for each of them.
    pub memory_bytes: u64,
    /// Processor time for each of them.
    pub processor_time: Duration,
}

/// What a node is started with.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Where it listens; port 0 takes a free one.
    pub addr: SocketAddr,
    /// Its folder.
    pub data: PathBuf,
    /// Whether callers need a key.
    pub auth: AuthMode,
    /// Whose names `model-{id}` are the addresses of models.
    pub base_domain: Option<BaseDomain>,
    /// The key of the secrets; in its folder without it.
    pub secrets_key: Option<PathBuf>,
    /// What to do with secrets whose key is lost.
    pub lost_secrets: LostSecrets,
    /// Begin without models although blobs of an earlier database are there.
    pub new_store: bool,
    /// ONNX Runtime's library, instead of the one that is found.
    pub onnxruntime: Option<PathBuf>,
    /// Which backend runs a graph that chooses none.
    pub default_backend: GraphBackend,
    /// Bytes of memory that all graphs together may take in engines; three quarters of what there is without it.
    pub memory_bytes: Option<u64>,
    /// Bytes of each card that graphs may take; what is free of it without it.
    pub gpu_memory_bytes: Option<u64>,
    /// Where graphs run.
    pub engines: EngineMode,
    /// How long a graph may take to load in an engine.
    pub load_timeout: Duration,
    /// What compiling components may take.
    pub compile_limits: CompileLimits,
    /// Requests of one deployment that may wait for a replica.
    pub max_queued_requests: usize,
    /// Requests after which a replica is replaced.
    pub max_requests_per_replica: Option<u64>,
    /// Replicas of all deployments together; from the machine's memory without it.
    pub max_replicas: Option<u32>,
    /// How long running requests may go on after the node was told to stop, or after their deployment has ended.
    pub drain_timeout: Duration,
    /// The web pages that may call any model from a browser.
    pub allowed_origins: Vec<Origin>,
    /// Connections at once; from the limit of open files without it.
    pub max_connections: Option<usize>,
    /// How long connections may be silent.
    pub timeouts: Timeouts,
    /// Where webhooks may go besides public addresses.
    pub webhook_allow: Vec<Allowance>,
    /// How it says what it does.
    pub output: Output,
    /// Saves the key that the first start of a data folder makes.
    pub save_first_key: SaveKey,
}

/// Saves a key for the server at this URL where its operator finds it.
pub type SaveKey = fn(url: &str, key: &str) -> anyhow::Result<SavedKey>;

/// Where a key was saved.
#[derive(Debug)]
pub struct SavedKey {
    /// The file.
    pub file: PathBuf,
    /// A copy of what the file held before, if that was another key.
    pub earlier: Option<PathBuf>,
}

/// How long the last counts may take on their way to the disk.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Runs a node until SIGTERM or Ctrl-C, then lets running requests finish.
///
/// # Errors
/// When the address, the folder or the settings do not work.
pub async fn serve(options: ServeOptions) -> anyhow::Result<()> {
    start_logging();
    if options.auth == AuthMode::None && !options.addr.ip().is_loopback() {
        bail!(
            "--no-auth works on loopback addresses alone, found {}; leave it out, or listen on 127.0.0.1",
            options.addr
        );
    }
    if options.auth == AuthMode::None && options.allowed_origins.iter().any(Origin::is_any) {
        bail!(
            "--allow-origin '*' lets every web page call the models of a server that asks for no keys: name the pages' \
             origins, as https://app.example, or leave out --no-auth"
        );
    }
    ignore_file_size_signal();
    let mut folder = DataFolder::open(&options.data)?;
    let data = folder.path().to_owned();
    let open_files = raise_limit();
    let max_connections = max_connections(&options, open_files)?;
    tracing::info!(open_files, max_connections, "limits of the process");
    let server = Server::bind(options.addr, max_connections, options.timeouts)
        .await
        .with_context(|| format!("cannot listen on {}", options.addr))?;
    let url = format!("http://{}", server.local_addr()?);

    let sqlite = open_store(&folder, options.new_store).await?;
    let store: Arc<dyn DocStore> = sqlite.clone();
    let closing = store.clone();
    let registry = Registry::new(store.clone());
    let unreadable = registry.unreadable().clone();
    let vault = vault(&*store, &options, &data, &unreadable).await?;
    registry.make_organization(Timestamp::now()).await?;
    let secrets = Secrets::new(store.clone(), vault.clone()).reporting_to(&unreadable);
    let guest_secrets = Arc::new(GuestSecrets::new(secrets.clone()));
    let webhooks = WebhookAddresses::new(options.webhook_allow.clone());
    let async_queue = AsyncQueue::new(sqlite.clone(), webhooks);
    let webhook_secrets = WebhookSecrets::new(store.clone(), vault);
    let blobs = Blobs::open(&data.join("blobs")).await?;
    let mut tasks = Tasks::default();
    let logs = Logs::open(&data.join("logs"), &mut tasks).context("cannot keep logs")?;
    let meters = Arc::new(Meters::default());
    let usage = Usage::open(&data.join("usage.spool"), sqlite, meters.clone())
        .context("cannot keep usage")?;
    let bundles = data.join("bundles");
    layout::sweep(&bundles);
    let runtime = runtime_options(&options, &data, &bundles);
    let runtime = Arc::new(Runtime::new(runtime)?);
    log_confinement(&runtime);
    let engine_events = runtime.engine_events();
    let limits = NodeLimits {
        max_queued_requests: options.max_queued_requests,
        max_requests_per_replica: options.max_requests_per_replica,
        drain_timeout: options.drain_timeout,
        engines: options.engines,
    };
    let (released, garbage) = tokio::sync::mpsc::unbounded_channel();
    let (ended, drained) = tokio::sync::mpsc::unbounded_channel();
    let pins = BlobPins::new(released);
    let serving = Arc::new(Serving::new(ServingParts {
        runtime: runtime.clone(),
        blobs: blobs.clone(),
        pins: pins.clone(),
        logs: logs.clone(),
        meters,
        secrets: guest_secrets.clone(),
        drains: Drains::new(ended),
        folder: bundles,
        limits,
    }));
    tasks.spawn("usage", usage.clone().run());
    let first_key = match options.auth {
        AuthMode::Keys => first_key(&registry, &url, options.save_first_key).await?,
        AuthMode::None => None,
    };
    let access = Arc::new(Access::new(options.auth));
    let stop = CancellationToken::new();
    let cache = Arc::new(Cache::default());
    let bus = Arc::new(EventBus::new(store.clone(), cache.clone(), stop.clone()));
    let readiness = Readiness::new(cache.clone(), stop.clone(), store.clone());
    let leadership = Arc::new(Leadership::new(store.clone(), folder.node_id()));
    tasks.spawn("leases", leadership.clone().run());
    let reconciler = Arc::new(Reconciler::new(cache.clone(), serving.clone()));
    let blob_gc = BlobGc::new(
        registry.clone(),
        cache.clone(),
        blobs.clone(),
        pins,
        serving.clone(),
        leadership.clone(),
    );
    let dev_reload = DevReload::new(
        registry.clone(),
        serving.clone(),
        reconciler.clone(),
        blob_gc.clone(),
    );
    let deployments = Arc::new(DeploymentController::new(
        registry.clone(),
        cache.clone(),
        serving.clone(),
        reconciler.clone(),
        leadership.clone(),
    ));
    let secrets_controller = Arc::new(GuestSecretsController::new(
        guest_secrets.clone(),
        serving.clone(),
    ));
    let rollouts = RolloutController::new(
        registry.clone(),
        serving.clone(),
        reconciler.clone(),
        leadership.clone(),
    );
    let observers: Vec<Arc<dyn Observer>> = vec![
        access.clone(),
        reconciler.clone(),
        deployments.clone(),
        secrets_controller.clone(),
        Arc::new(blob_gc.clone()),
    ];
    let mut informer = Informer::new(
        store.clone(),
        registry.clone(),
        cache.clone(),
        bus.sender(),
        observers,
    );
    folder.begin();
    informer.read_everything().await?;
    if folder.after_crash() {
        deployments.expect_cut_off();
    }
    tasks.spawn("reconciler", reconciler.clone().run());
    reconciler.caught_up().await;
    tasks.spawn("informer", informer.run());
    tasks.spawn("deployments", deployments.clone().run(drained));
    tasks.spawn("rollouts", Arc::new(rollouts).run());
    tasks.spawn("autoscale", autoscale::run(serving.clone()));
    tasks.spawn("guest secrets", secrets_controller.clone().run());
    tasks.spawn("blob garbage", blob_gc.clone().run(garbage));
    tasks.spawn("blob scrub", scrub::run(registry.clone(), blobs.clone()));
    let poller = status_poller::run(bus.clone(), serving.clone(), dev_reload.clone());
    tasks.spawn("status poller", poller);
    if let Some(events) = engine_events {
        let telling = engine_events::run(events, bus.clone(), serving.clone());
        tasks.spawn("engine events", telling);
    }
    tasks.spawn("audit log", registry.audit_log().keep_short());
    let courier = Courier::new(
        Arc::new(webhook_secrets.clone()),
        async_queue.webhooks().clone(),
    )
    .context("cannot send webhooks")?;
    let worker = async_worker::start(async_queue.clone(), serving.clone(), courier, stop.clone());
    let (worked, worker_done) = tokio::sync::oneshot::channel();
    let (worker, stopped) = (worker.await?, stop.clone());
    tasks.spawn("async requests", async move {
        worker.await;
        if stopped.is_cancelled() {
            let _ = worked.send(());
            std::future::pending::<()>().await;
        }
    });
    let gateway = Gateway {
        serving: serving.clone(),
        access: access.clone(),
        async_queue: async_queue.clone(),
    };
    let management = api::router(Api {
        registry,
        secrets,
        guest_secrets,
        secrets_controller,
        reconciler,
        deployments,
        webhook_secrets,
        blobs,
        serving: serving.clone(),
        access,
        async_queue,
        bus,
        logs,
        usage: usage.clone(),
        runtime: runtime.clone(),
        dev_reload,
        blob_gc,
        readiness,
        connections: server.connections(),
        open_files,
        started: Instant::now(),
    });
    let front = Arc::new(Front {
        gateway,
        management,
        base_domain: options.base_domain.clone(),
        allowed_origins: options.allowed_origins.clone(),
    });
    announce(&options, &url, &data, first_key.as_deref(), &runtime);
    let mut failure = None;
    let stopped = OnceLock::new();
    let stopping = async {
        tokio::select! {
            () = stop_signal() => {}
            ended = tasks.ended() => {
                tracing::error!(task = ended.task, reason = ended.reason, "background task ended; the node stops");
                failure = Some(ended);
            }
        }
        let _ = stopped.set(Instant::now());
        // Async requests go back to the queue at once: whoever waits for an answer needs the time more.
        stop.cancel();
    };
    let drain = options.drain_timeout;
    server.serve(front, stopping, drain).await;
    tasks.stop("rollouts");
    tasks.stop("leases");
    tasks.stop("autoscale");
    // All of it ends with the drain time, whatever goes on yet: what cannot be waited for is cut off.
    let spent = stopped.get().map_or(drain, Instant::elapsed);
    let left = drain.saturating_sub(spent);
    // An error of `worker_done` says that the worker itself has failed.
    let worked = tokio::join!(timeout(left, worker_done), serving.drain(left)).0;
    if worked.is_err() {
        tracing::warn!("async requests are cut off: they are tried again after the next start");
        tasks.stop("async requests");
    }
    if timeout(CLOSE_TIMEOUT, usage.close()).await.is_err() {
        tracing::warn!("usage of the last moments is counted after the next start");
    }
    if timeout(CLOSE_TIMEOUT, leadership.release()).await.is_err() {
        tracing::warn!("leases were not released; they end by themselves");
    }
    // So that `state.db` alone is the whole database, and can be copied.
    if timeout(CLOSE_TIMEOUT, closing.close()).await.is_err() {
        tracing::warn!("state.db-wal holds the newest changes: copy it together with state.db");
    }
    folder.close();
    match failure {
        None => Ok(()),
        Some(ended) => Err(ended.into()),
    }
}

/// How many connections there may be: what was asked for, if the limit of open files has room for it.
fn max_connections(options: &ServeOptions, open_files: Option<u64>) -> anyhow::Result<usize> {
    let room = connections_within(open_files);
    match (options.max_connections, open_files) {
        (Some(wanted), Some(limit)) if wanted > room => bail!(
            "--max-connections {wanted} does not fit the limit of {limit} open files, some of which are for other files: \
             ask for at most {room}, or raise the limit (`ulimit -n`, or `LimitNOFILE=` of systemd)"
        ),
        (Some(wanted), _) => Ok(wanted),
        (None, _) => Ok(room.min(MAX_CONNECTIONS)),
    }
}

async fn vault(
    store: &dyn DocStore,
    options: &ServeOptions,
    data: &Path,
    unreadable: &UnreadableDocuments,
) -> anyhow::Result<Arc<Vault>> {
    let key_file = match &options.secrets_key {
        Some(path) => path.clone(),
        None => data.join(KEY_FILE),
    };
    Ok(Arc::new(
        open_vault(store, &key_file, options.lost_secrets, unreadable).await?,
    ))
}

/// The program that runs, also after another was put in its place.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// What an engine takes besides its graphs: its program and libraries, and what runs take before that was measured.
const ENGINE_OVERHEAD_BYTES: u64 = 1 << 30;

fn runtime_options(options: &ServeOptions, data: &Path, bundles: &Path) -> RuntimeOptions {
    let graph_memory_bytes = options
        .memory_bytes
        .unwrap_or_else(|| samovar_runtime::memory_limit_bytes() / 4 * 3);
    let mut engine = EngineOptions::default();
    if let Some(max_replicas) = options.max_replicas {
        engine.max_replicas = max_replicas;
    }
    RuntimeOptions {
        artifacts: data.join("artifacts"),
        engine,
        backends: BackendOptions {
            onnxruntime: options.onnxruntime.clone(),
            optimized: Some(data.join("optimized")),
            default: graphs::backend(options.default_backend),
            installed: Some(installed_backends(data)),
            scratch: Some(data.join("graphs")),
            gpu_memory_bytes: options.gpu_memory_bytes,
            libraries: Libraries::All,
            cache_access: CacheAccess::ReadWrite,
        },
        engines: match options.engines {
            EngineMode::InProcess => Engines::InProcess,
            EngineMode::Shared | EngineMode::PerDeployment => Engines::Processes {
                program: Program::Process(OWN_PROGRAM.into()),
                confinement: Confinement {
                    read: vec![data.join("blobs")],
                    write: Vec::new(),
                    memory_bytes: Some(graph_memory_bytes.saturating_add(ENGINE_OVERHEAD_BYTES)),
                },
                load_timeout: options.load_timeout,
                memory_bytes: graph_memory_bytes,
            },
        },
        compilation: Compilation::Workers(WorkerOptions {
            program: OWN_PROGRAM.into(),
            max_workers: options.compile_limits.workers,
            memory_bytes: options.compile_limits.memory_bytes,
            processor_time: options.compile_limits.processor_time,
            files: bundles.to_owned(),
        }),
    }
}

/// Where a node whose folder is `data` looks for the libraries that `samovar backends install` fetched.
pub fn installed_backends(data: &Path) -> PathBuf {
    data.join("backends")
}

/// A write beyond `ulimit -f` then fails like one to a full disk, instead of ending the node.
fn ignore_file_size_signal() {
    let kind = SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw());
    // Once there is a handler, it stays.
    if let Err(error) = signal(kind) {
        tracing::warn!(%error, "writes beyond the limit of file sizes will end the node");
    }
}

/// Opens the database, unless it was lost: a new one beside old blobs would look like a first start.
async fn open_store(folder: &DataFolder, new_store: bool) -> anyhow::Result<Arc<SqliteStore>> {
    if !new_store && folder.lost_database()? {
        bail!(folder.explain_lost_database());
    }
    let store = SqliteStore::open(&folder.path().join("state.db")).await?;
    if !new_store && store.is_new().await? && folder.has_blobs()? {
        // So that no log is left which would be applied to a database that is put back.
        store.close().await;
        bail!(folder.explain_lost_database());
    }
    Ok(Arc::new(store))
}

/// Makes the first admin key of an empty folder; says which file it was written to.
async fn first_key(
    registry: &Registry,
    url: &str,
    save: SaveKey,
) -> anyhow::Result<Option<PathBuf>> {
    if registry.has_api_keys().await? {
        return Ok(None);
    }
    let name = Some("first start".to_owned());
    let (key, plain) = ApiKey::generate(KeyType::Personal, name, BTreeSet::new(), Timestamp::now());
    // Written before it is valid, so that there is never a valid key that nobody knows.
    let saved = save(url, plain.reveal())?;
    if let Some(earlier) = saved.earlier {
        tracing::warn!(
            config = %saved.file.display(),
            earlier = %earlier.display(),
            "the configuration held another key: it was kept beside the new one"
        );
    }
    registry.add_api_key(&key).await?;
    Ok(Some(saved.file))
}

fn announce(options: &ServeOptions, url: &str, data: &Path, key: Option<&Path>, runtime: &Runtime) {
    if options.output == Output::Json {
        println!(
            "{}",
            serde_json::json!({ "event": "ready", "url": url, "data": data, "config": key })
        );
        return;
    }
    eprintln!("samovar {} serves at {url}", env!("CARGO_PKG_VERSION"));
    eprintln!("  data in {}", data.display());
    match (options.auth, key) {
        (AuthMode::None, _) => eprintln!("  no keys asked for (--no-auth)"),
        (AuthMode::Keys, Some(path)) => {
            eprintln!("  first admin key written to {}", path.display());
        }
        (AuthMode::Keys, None) => {}
    }
    for backend in runtime.backends() {
        match (&backend.version, &backend.reason) {
            (_, Some(reason)) => eprintln!("  {}: {reason}", backend.name),
            (version, None) => eprintln!(
                "  {} {}",
                backend.name,
                version.as_deref().unwrap_or_default()
            ),
        }
    }
    if let Some(barriers) = runtime.engine_barriers() {
        let names = Barrier::names(&barriers).join(", ");
        eprintln!("  graphs run in engines of their own, confined by {names}");
        for barrier in barriers {
            if let Some(reason) = &barrier.reason {
                eprintln!("    {}: {reason}", barrier.name);
            }
        }
    } else {
        eprintln!("  graphs run in this process, which nothing confines (--engines in-process)");
    }
    eprintln!("try: samovar push PATH");
}

/// Notes in the log what confines engines on this machine, and what does not.
fn log_confinement(runtime: &Runtime) {
    let Some(barriers) = runtime.engine_barriers() else {
        return tracing::info!("graphs run in this process, which nothing confines");
    };
    let names = Barrier::names(&barriers).join(", ");
    tracing::info!(confined_by = names, "graphs run in engines");
    for barrier in barriers {
        if let Some(reason) = barrier.reason {
            let (name, active) = (barrier.name, barrier.active);
            tracing::warn!(barrier = name, active, reason, "engines are confined less");
        }
    }
}

/// Has this process say what it does on standard error.
pub fn start_logging() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("SAMOVAR_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn,samovar=info,ort=off"));
    // A second node in one process keeps the first one's logging.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .try_init();
}

async fn stop_signal() {
    let interrupt = tokio::signal::ctrl_c();
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = interrupt => {}
                _ = terminate.recv() => {}
            }
        }
        Err(_) => {
            let _ = interrupt.await;
        }
    }
}
