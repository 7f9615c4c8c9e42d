//! Starts the real `samovar` binary on a free port in a temporary folder, and drives it as users do.

pub mod attack;
pub mod bombs;
pub mod canary;
pub mod children;
pub mod dice;
pub mod disk;
pub mod http2;
pub mod onnx;
pub mod python;
pub mod receiver;
pub mod recorder;
pub mod skip;
pub mod watching;
pub mod withheld;

use std::collections::BTreeMap;
use std::fs::{DirBuilder, Permissions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use samovar_client::Client;
use samovar_types::bundle::Blob;
use samovar_types::digest::Digest;
use serde_json::Value;

/// The longest that anything here is waited for.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A node with a folder of its own.
pub struct Server {
    child: Child,
    folder: Arc<tempfile::TempDir>,
    args: Vec<String>,
    /// Where it listens, as `http://127.0.0.1:PORT`.
    pub url: String,
    log: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// A node with default settings.
    pub fn start() -> Result<Self> {
        Self::start_with(&[])
    }

    /// A node with more arguments for `samovar serve`.
    pub fn start_with(args: &[&str]) -> Result<Self> {
        let folder = Arc::new(tempfile::tempdir()?);
        let args = args.iter().map(ToString::to_string).collect();
        Self::start_in(folder, args, "127.0.0.1:0")
    }

    /// A node that is started by a shell after commands that set limits.
    pub fn start_under(limits: &str, args: &[&str]) -> Result<Self> {
        let folder = Arc::new(tempfile::tempdir()?);
        let args = args.iter().map(ToString::to_string).collect();
        let mut shell = Command::new("sh");
        let script = format!("{limits} && exec \"$0\" \"$@\"");
        shell.args(["-c", &script]).arg(binary());
        let command = configured(shell, folder.path());
        Self::start_by(command, folder, args, "127.0.0.1:0")
    }

    /// A node on a copy of a data folder, with a key of it that may do everything.
    pub fn start_on_copy(data: &Path, key: &str, args: &[&str]) -> Result<Self> {
        let folder = Arc::new(tempfile::tempdir()?);
        copy_private(data, &folder.path().join("data"))?;
        let config = format!("url = \"http://127.0.0.1:1\"\napi_key = \"{key}\"\n");
        std::fs::write(folder.path().join("config.toml"), config)?;
        let args = args.iter().map(ToString::to_string).collect();
        Self::start_in(folder, args, "127.0.0.1:0")
    }

    pub(crate) fn start_in(
        folder: Arc<tempfile::TempDir>,
        args: Vec<String>,
        address: &str,
    ) -> Result<Self> {
        let command = samovar(folder.path());
        Self::start_by(command, folder, args, address)
    }

    /// Starts it by this command, which may set up its process.
    pub(crate) fn start_by(
        mut command: Command,
        folder: Arc<tempfile::TempDir>,
        args: Vec<String>,
        address: &str,
    ) -> Result<Self> {
        let mut child = command
            .args(["--json", "serve", "--addr", address, "--data"])
            .arg(folder.path().join("data"))
            .args(&args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("the samovar binary does not start")?;
        let stderr = child.stderr.take().context("no stderr")?;
        let log = Arc::new(Mutex::new(Vec::new()));
        let kept = log.clone();
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                kept.lock().expect("no panic holds it").push(line);
            }
        });
        let stdout = child.stdout.take().context("no stdout")?;
        let mut lines = BufReader::new(stdout).lines();
        let Some(Ok(line)) = lines.next() else {
            let status = child.wait()?;
            let _ = reader.join();
            bail!(
                "samovar serve ended with {status}: {:?}",
                log.lock().expect("no panic holds it")
            );
        };
        // Nobody may be killed by a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        let ready: Value = serde_json::from_str(&line)?;
        let url = ready["url"]
            .as_str()
            .context("the first line has no url")?
            .to_owned();
        Ok(Self {
            child,
            folder,
            args,
            url,
            log,
        })
    }

    /// Kills it as a power cut would.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Kills it as a power cut would, a while from now; done when it is. Meanwhile it can be called.
    pub async fn kill_after(&self, delay: Duration) {
        tokio::time::sleep(delay).await;
        self.signal(libc::SIGKILL);
    }

    /// Asks it to stop, as a supervisor would.
    pub fn terminate(&self) {
        self.signal(libc::SIGTERM);
    }

    fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.child.id()).expect("a pid fits");
        // SAFETY: the child is ours and not yet waited for, so the pid is its.
        unsafe { libc::kill(pid, signal) };
    }

    /// Whether it has not ended.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> Result<std::process::ExitStatus> {
        Ok(self.child.wait()?)
    }

    /// Starts it again on the same folder; the port may be another.
    pub fn restart(mut self) -> Result<Self> {
        let _ = self.kill();
        let (folder, args) = (self.folder.clone(), self.args.clone());
        drop(self);
        Self::start_in(folder, args, "127.0.0.1:0")
    }

    /// Starts it again on the same folder with other arguments for `samovar serve`.
    pub fn restart_with(mut self, args: &[&str]) -> Result<Self> {
        let _ = self.kill();
        let folder = self.folder.clone();
        drop(self);
        let args = args.iter().map(ToString::to_string).collect();
        Self::start_in(folder, args, "127.0.0.1:0")
    }

    /// Starts it again on the same folder and port, after it was killed.
    pub fn start_again(self) -> Result<Self> {
        let (folder, args) = (self.folder.clone(), self.args.clone());
        let address = self.url.trim_start_matches("http://").to_owned();
        drop(self);
        Self::start_in(folder, args, &address)
    }

    /// What it wrote to standard error so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().expect("no panic holds it").clone()
    }

    /// Its folder, for files of a test.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The process, to read `/proc` about it.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lets its data segment grow by so much beyond what it has reserved, so that a server which takes too much fails instead
    /// of the machine.
    pub fn limit_memory(&self, bytes: u64) -> Result<()> {
        let pid = i32::try_from(self.child.id()).expect("a pid fits");
        let most = self.status_bytes("VmData:")? + bytes;
        let limit = libc::rlimit {
            rlim_cur: most,
            rlim_max: most,
        };
        // SAFETY: the child is ours and not yet waited for; the limit outlives the call.
        let done = unsafe { libc::prlimit(pid, libc::RLIMIT_DATA, &limit, std::ptr::null_mut()) };
        ensure!(done == 0, "prlimit: {}", std::io::Error::last_os_error());
        Ok(())
    }

    /// Begins to measure its peak memory anew.
    pub fn forget_peak_memory(&self) -> Result<()> {
        let path = format!("/proc/{}/clear_refs", self.pid());
        std::fs::write(&path, "5").with_context(|| path)
    }

    /// The most memory that it had since, in bytes.
    pub fn peak_memory(&self) -> Result<u64> {
        self.status_bytes("VmHWM:")
    }

    /// A size that the kernel tells of it.
    fn status_bytes(&self, name: &str) -> Result<u64> {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        let kib: u64 = kib.with_context(|| format!("no {name}"))?.parse()?;
        Ok(kib << 10)
    }

    /// The admin key that the first start wrote.
    pub fn key(&self) -> String {
        let text =
            std::fs::read_to_string(self.folder.path().join("config.toml")).unwrap_or_default();
        text.lines()
            .find_map(|line| line.trim().strip_prefix("api_key"))
            .and_then(|rest| rest.split('"').nth(1))
            .unwrap_or_default()
            .to_owned()
    }

    /// The address of a path.
    pub fn at(&self, path: &str) -> String {
        format!("{}{path}", self.url)
    }

    /// The client of the API, with the admin key.
    pub fn api(&self) -> Client {
        self.api_with(&self.key())
    }

    /// The client of the API, with another key.
    pub fn api_with(&self, key: &str) -> Client {
        let key = (!key.is_empty()).then(|| key.to_owned());
        Client::new(&self.url, key).expect("a server has an address")
    }

    /// A client of HTTP that bears the admin key, for what the client of the API does not send.
    pub fn client(&self) -> reqwest::Client {
        let mut headers = reqwest::header::HeaderMap::new();
        let key = format!("Bearer {}", self.key());
        headers.insert("authorization", key.parse().expect("a key is plain text"));
        reqwest::Client::builder()
            .default_headers(headers)
            .no_proxy()
            .timeout(PATIENCE)
            .build()
            .expect("a client")
    }

    /// A command of the CLI against this node.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = samovar(self.folder.path());
        command
            .env("SAMOVAR_URL", &self.url)
            .env("SAMOVAR_API_KEY", self.key())
            .args(args);
        command
    }

    /// Runs a command of the CLI against this node.
    pub fn cli(&self, args: &[&str]) -> Result<Output> {
        Ok(self.command(args).stdin(Stdio::null()).output()?)
    }

    /// Runs a command of the CLI that reads this from its standard input.
    pub fn cli_reading(&self, args: &[&str], input: &[u8]) -> Result<Output> {
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut stdin = child.stdin.take().context("no stdin")?;
        // Whether it reads to the end is for it to say.
        let _ = stdin.write_all(input);
        drop(stdin);
        Ok(child.wait_with_output()?)
    }

    pub fn set_secret(&self, name: &str, value: &str) -> Result<()> {
        let output = self.cli_reading(&["secret", "set", name], value.as_bytes())?;
        ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    /// Runs a command that must succeed, and reads its JSON.
    pub fn cli_json(&self, args: &[&str]) -> Result<Value> {
        let output = self.cli(&[&["--json"], args].concat())?;
        ensure!(
            output.status.success(),
            "samovar {args:?} ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("not JSON: {}", String::from_utf8_lossy(&output.stdout)))
    }

    /// Uploads bytes as a push does, and answers how a bundle names them.
    pub async fn upload(&self, bytes: &[u8]) -> Result<Blob> {
        let blob = Blob {
            digest: Digest::of(bytes),
            size: bytes.len() as u64,
        };
        let api = self.api();
        api.upload(blob.digest, blob.size, bytes.to_vec()).await?;
        Ok(blob)
    }

    /// Pushes one of the guests with lines of a manifest added to it, as the model of the guest's name.
    pub fn push(&self, guest: &str, manifest: &str) -> Result<Value> {
        self.push_as(guest, guest, manifest)
    }

    /// Pushes one of the guests under another model's name.
    pub fn push_as(&self, model: &str, guest: &str, manifest: &str) -> Result<Value> {
        let folder = self.bundle(model, guest, manifest)?;
        self.cli_json(&["push", folder.to_str().context("path")?])
    }

    /// Writes the folder of a bundle around one of the guests.
    pub fn bundle(&self, model: &str, guest: &str, manifest: &str) -> Result<PathBuf> {
        let folder = self.folder.path().join("bundles").join(model);
        std::fs::create_dir_all(&folder)?;
        std::fs::copy(self::guest(guest), folder.join("guest.wasm"))
            .with_context(|| format!("no guest {guest}: run `cargo xtask guests`"))?;
        let text = format!("name = \"{model}\"\ncomponent = \"guest.wasm\"\n{manifest}");
        std::fs::write(folder.join("samovar.toml"), text)?;
        Ok(folder)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Copies a folder to one that only its owner may use: permissions that Git does not keep.
fn copy_private(from: &Path, to: &Path) -> Result<()> {
    DirBuilder::new().mode(0o700).create(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_private(&entry.path(), &to)?;
        } else {
            std::fs::copy(entry.path(), &to)?;
            std::fs::set_permissions(&to, Permissions::from_mode(0o600))?;
        }
    }
    Ok(())
}

pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests/ has a parent")
}

/// A component that `cargo xtask guests` built.
pub fn guest(name: &str) -> PathBuf {
    repository()
        .join("target/guests/components")
        .join(format!("{name}.wasm"))
}

/// The variables with which `cargo` builds components here, as `cargo xtask guests` found out: none where the target is installed.
pub fn guest_variables() -> Result<BTreeMap<String, String>> {
    let path = repository().join("target/guests/variables.json");
    let text = std::fs::read(&path)
        .with_context(|| format!("no {}: run `cargo xtask guests`", path.display()))?;
    Ok(serde_json::from_slice(&text)?)
}

/// The binary under test, beside the tests' own folder of the build.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("SAMOVAR_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().expect("a test knows its path");
    let built = test.ancestors().nth(2).expect("target/PROFILE/deps/test");
    built.join("samovar")
}

pub(crate) fn samovar(folder: &Path) -> Command {
    configured(Command::new(binary()), folder)
}

fn configured(mut command: Command, folder: &Path) -> Command {
    command
        .env_remove("SAMOVAR_API_KEY")
        .env("SAMOVAR_CONFIG", folder.join("config.toml"))
        .env("NO_COLOR", "1");
    command
}

/// Waits until a condition holds, looking often.
pub async fn eventually<F, Fut>(what: &str, mut holds: F) -> Result<()>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    let begun = Instant::now();
    while !holds().await {
        ensure!(
            begun.elapsed() < PATIENCE,
            "not within {PATIENCE:?}: {what}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}
