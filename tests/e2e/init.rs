//! `samovar init` makes projects that build, test and push as they are, in each of the languages.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context as _, Result, ensure};
use samovar_tests::python::Python;
use samovar_tests::skip::{Need, skip};
use samovar_tests::{Server, binary, eventually, guest_variables};
use samovar_types::api::logs::LogsQuery;
use samovar_types::names::PRODUCTION;
use serde_json::{Value, json};

/// What a component of the SDK may weigh. One of `wasip2` alone, such as `examples/hello`, weighs 59,000.
const MAX_RUST_BYTES: u64 = 150_000;
const FLOWER: &str = "[6.4, 3.2, 4.5, 1.5]";

/// A project that was just made, in a folder of the server's.
struct Project<'s> {
    server: &'s Server,
    name: &'static str,
    made: Value,
    /// What programs are called with besides.
    variables: Vec<(String, OsString)>,
}

impl<'s> Project<'s> {
    fn init(server: &'s Server, name: &'static str, template: &str) -> Result<Self> {
        let args = ["--json", "init", name, "--template", template];
        let output = samovar(server, server.folder(), &args).output()?;
        let made = serde_json::from_slice(&ran(&output, "samovar init")?)?;
        Ok(Self {
            server,
            name,
            made,
            variables: Vec::new(),
        })
    }

    fn folder(&self) -> PathBuf {
        self.server.folder().join(self.name)
    }

    /// What `init` says to do next, as far as it is for a shell and not for samovar.
    fn test(&self) -> Result<()> {
        let steps = self.made["next"].as_array().context("no next steps")?;
        let commands: Vec<&str> = steps
            .iter()
            .filter_map(Value::as_str)
            .filter(|step| !step.starts_with("samovar ") && !step.starts_with("cd "))
            .collect();
        ensure!(!commands.is_empty(), "nothing tests it: {steps:?}");
        for command in commands {
            let mut shell = Command::new("sh");
            shell
                .args(["-c", command])
                .current_dir(self.folder())
                .envs(self.variables.iter().map(|(name, value)| (name, value)));
            ran(&as_a_user_would(&mut shell).output()?, command)?;
        }
        Ok(())
    }

    fn push(&self) -> Result<()> {
        let mut command = samovar(self.server, &self.folder(), &["push", "--wait"]);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        ran(&command.output()?, "samovar push").map(drop)
    }

    fn predict(&self, args: &[&str]) -> Result<Output> {
        let all = [&["predict", self.name], args].concat();
        Ok(samovar(self.server, &self.folder(), &all).output()?)
    }

    /// The right answer to a right request, the model's own refusal of a wrong one.
    fn tells_irises_apart(&self) -> Result<()> {
        // Twice: a replica has to serve more than one request.
        for _ in 0..2 {
            let answer = ran(&self.predict(&["-d", FLOWER])?, "samovar predict")?;
            let answer: Value = serde_json::from_slice(&answer)?;
            assert_eq!(answer["species"], "versicolor");
            let probability = answer["probability"].as_f64().context("a number")?;
            assert!((probability - 0.8597).abs() < 1e-3, "{answer}");
        }
        let refused = self.predict(&["-d", "[6.4, 3.2]"])?;
        assert_eq!(refused.status.code(), Some(1));
        Ok(())
    }

    /// The wrong method is told the right one.
    async fn refuses_other_methods(&self) -> Result<()> {
        let url = format!("/models/{}/production/predict", self.name);
        let answer = self
            .server
            .client()
            .get(self.server.at(&url))
            .send()
            .await?;
        assert_eq!(answer.status(), 405);
        let allow = answer.headers().get("allow").context("no Allow")?;
        assert_eq!(allow, "POST");
        Ok(())
    }

    /// Bodies that are no four finite numbers are the caller's fault, and cost no replica. An answer is JSON, always.
    async fn refuses_what_is_no_number(&self) -> Result<()> {
        self.refuses_other_methods().await?;
        let url = format!("/models/{}/production/predict", self.name);
        let url = self.server.at(&url);
        let many = format!("[1{}, 1, 2, 3]", "0".repeat(400));
        let deep = "[".repeat(100_000);
        for body in [
            "[NaN, 1, 2, 3]",
            "[Infinity, 1, 2, 3]",
            "[1e39, 1, 2, 3]",
            "[1e400, 1, 2, 3]",
            &many,
            "[null, 1, 2, 3]",
            "\u{feff}[1, 2",
            &deep,
            // Finite, but what the graph makes of them is not.
            "[3e38, -3e38, 3e38, -3e38]",
        ] {
            let client = self.server.client();
            let answer = client.post(&url).body(body.to_owned()).send().await?;
            let status = answer.status();
            let text = answer.text().await?;
            let shown = body.get(..20).unwrap_or(body);
            ensure!(status == 400, "{shown}: {status} {text}");
            let told: Value = serde_json::from_str(&text).context(text)?;
            // The component's own refusal, not the platform's.
            ensure!(told["request_id"].is_null(), "{shown}: {told}");
        }
        self.tells_irises_apart()
    }

    /// Puts `statement` before the one line of a file that begins with `line`.
    fn insert(&self, file: &str, line: &str, statement: &str) -> Result<()> {
        let path = self.folder().join(file);
        let text = std::fs::read_to_string(&path)?;
        let line = format!("\n{line}");
        let found = text.matches(&line).count();
        ensure!(found == 1, "{file}: {found} lines begin with {line:?}");
        let edited = text.replace(&line, &format!("\n{statement}{line}"));
        std::fs::write(path, edited)?;
        Ok(())
    }

    /// An exception of the model's own code is an error to its caller and a traceback with `frame` in the log, and the
    /// replica stays. The code was made to raise it when the first measure is 9.
    async fn answers_an_exception(&self, error: &str, frame: &str) -> Result<()> {
        let replicas = self.replicas().await?;
        let url = format!("/models/{}/production/predict", self.name);
        let request = self.server.client().post(self.server.at(&url));
        let answer = request.body("[9, 3.2, 4.5, 1.5]").send().await?;
        let (status, text) = (answer.status(), answer.text().await?);
        assert_eq!(status, 500, "{text}");
        let told: Value = serde_json::from_str(&text).context(text)?;
        assert_eq!(told, json!({ "error": error }));
        self.tells_irises_apart()?;
        let after = self.replicas().await?;
        let is_there = |replica| after.contains(replica);
        ensure!(
            replicas.iter().all(is_there),
            "{replicas:?}, then {after:?}"
        );
        let what = format!("{error:?} and {frame:?} are in the log");
        eventually(&what, async || {
            let query = LogsQuery {
                limit: Some(1000),
                ..LogsQuery::default()
            };
            let api = self.server.api();
            let read = api.deployment_logs(self.name, PRODUCTION, &query);
            let lines = read.await.unwrap().into_inner().logs;
            let is_there = |part: &str| lines.iter().any(|line| line.message.contains(part));
            is_there(error) && is_there(frame)
        })
        .await
    }

    /// Code at module level runs while the component is built, and never again. The code was made to answer the clock of module
    /// level, in whole seconds, when the first measure is 8. Then `load` of a graph is put there, before the one line of `file`
    /// that begins with `line`, which cannot work: the build says where.
    async fn runs_module_level_once(&self, file: &str, line: &str, load: &str) -> Result<()> {
        let now = || -> Result<f64> {
            let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
            Ok(since.as_secs_f64())
        };
        let begun = now()?;
        self.push()?;
        let built = now()?;
        let clock = || -> Result<f64> {
            let answer = ran(&self.predict(&["-d", "[8, 0, 0, 0]"])?, "samovar predict")?;
            let answer: Value = serde_json::from_slice(&answer)?;
            answer["species"]
                .as_str()
                .context("a text")?
                .parse::<f64>()
                .map_err(Into::into)
        };
        let first = clock()?;
        ensure!(
            begun - 1.0 <= first && first <= built,
            "{begun} {first} {built}"
        );
        for replica in self.replicas().await? {
            let args = [
                "deployment",
                "replicas",
                self.name,
                "production",
                "--kill",
                &replica,
            ];
            self.server.cli_json(&args)?;
        }
        assert_eq!(clock()?, first, "in another replica");

        self.insert(file, line, load)?;
        let mut command = samovar(self.server, &self.folder(), &["push", "--wait"]);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        let output = command.output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(!output.status.success(), "{said}");
        let told = "calls load-by-name of wasi:nn/graph@0.2.0-rc-2024-10-28 at module level";
        ensure!(said.contains(&format!("error: {file} {told}")), "{said}");
        assert_eq!(clock()?, first, "what serves is the last that was built");
        Ok(())
    }

    /// The ids of its replicas.
    async fn replicas(&self) -> Result<Vec<String>> {
        let api = self.server.api();
        let listed = api.replicas(self.name, PRODUCTION).await?.into_inner();
        Ok(listed.replicas.into_iter().map(|one| one.id).collect())
    }
}

fn samovar(server: &Server, folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(binary());
    as_a_user_would(&mut command)
        .args(args)
        .current_dir(folder)
        .env("SAMOVAR_URL", &server.url)
        .env("SAMOVAR_API_KEY", server.key())
        .env("SAMOVAR_CONFIG", server.folder().join("config.toml"));
    command
}

/// Without the variables of the cargo that runs the tests, which are not for that of a project.
fn as_a_user_would(command: &mut Command) -> &mut Command {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG")
            || ["CARGO_TARGET_DIR", "RUSTFLAGS", "LD_LIBRARY_PATH"].contains(&&*text)
        {
            command.env_remove(&name);
        }
    }
    command
        .env("npm_config_prefer_offline", "true")
        .env("npm_config_update_notifier", "false")
}

fn ran(output: &Output, what: &str) -> Result<Vec<u8>> {
    ensure!(
        output.status.success(),
        "{what} ended with {}: {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(output.stdout.clone())
}

fn is_here(program: &str, args: &[&str]) -> bool {
    let output = Command::new(program).args(args).output();
    let here = output.is_ok_and(|output| output.status.success());
    if !here {
        skip(Need::Npm, &format!("{program} {args:?} does not work here"));
    }
    here
}

/// `PATH` with the programs of this Python first.
fn path_with(python: &Python) -> Result<OsString> {
    let own = python.path().parent().context("no folder of programs")?;
    let others = std::env::var_os("PATH").unwrap_or_default();
    let others = std::env::split_paths(&others);
    let path = [own.to_owned()].into_iter().chain(others);
    Ok(std::env::join_paths(path)?)
}

#[tokio::test]
async fn rust() -> Result<()> {
    let server = Server::start()?;
    let mut project = Project::init(&server, "flowers-rs", "rust")?;
    // The project works on every machine: nothing in it names a folder of this one.
    let manifest = std::fs::read_to_string(project.folder().join("Cargo.toml"))?;
    assert!(
        manifest.contains("path = \"vendor/samovar/sdk\""),
        "{manifest}"
    );
    project.test()?;
    let variables = guest_variables()?.into_iter();
    project.variables = variables
        .map(|(name, value)| (name, value.into()))
        .collect();
    project.push()?;
    let built = "target/wasm32-wasip2/release/model.wasm";
    let size = std::fs::metadata(project.folder().join(built))?.len();
    assert!(size < MAX_RUST_BYTES, "{size} bytes");
    project.tells_irises_apart()?;
    project.refuses_what_is_no_number().await
}

#[tokio::test]
async fn python() -> Result<()> {
    let Some(python) = Python::with("venv") else {
        return Ok(());
    };
    let server = Server::start()?;
    let mut project = Project::init(&server, "flowers-py", "python")?;
    project.variables = vec![("PATH".into(), path_with(&python)?)];
    project.test()?;
    project.insert(
        "app.py",
        "    x = Tensor(",
        "    if measurements[0] == 9:\n        raise RuntimeError(\"no petals\")",
    )?;
    project.push()?;
    project.tells_irises_apart()?;
    project.refuses_what_is_no_number().await?;
    let error = "RuntimeError: no petals";
    project.answers_an_exception(error, "in predict").await
}

#[tokio::test]
async fn python_at_module_level() -> Result<()> {
    let Some(python) = Python::with("venv") else {
        return Ok(());
    };
    let server = Server::start()?;
    let mut project = Project::init(&server, "early-py", "python")?;
    project.variables = vec![("PATH".into(), path_with(&python)?)];
    project.insert("app.py", "import traceback", "import time")?;
    project.insert("app.py", "class Lifecycle:", "STARTED = time.time()\n\n")?;
    project.insert(
        "app.py",
        "    x = Tensor(",
        "    if measurements[0] == 8:\n        return {\"species\": str(STARTED)}",
    )?;
    let load = "GRAPH = load_by_name(\"default\")\n\n";
    project
        .runs_module_level_once("app.py", "class Lifecycle:", load)
        .await
}

#[tokio::test]
async fn javascript_at_module_level() -> Result<()> {
    if !is_here("npm", &["--version"]) {
        return Ok(());
    }
    let server = Server::start()?;
    let project = Project::init(&server, "early-js", "js")?;
    project.insert(
        "app.js",
        "export const lifecycle",
        "const started = Date.now() / 1000;",
    )?;
    project.insert(
        "app.js",
        "  const x = new Tensor(",
        "  if (measurements[0] === 8) return [200, { species: String(started) }];",
    )?;
    let load = "const graph = loadByName(\"default\");";
    project
        .runs_module_level_once("app.js", "export const lifecycle", load)
        .await
}

#[tokio::test]
async fn javascript() -> Result<()> {
    if !is_here("npm", &["--version"]) {
        return Ok(());
    }
    let server = Server::start()?;
    let project = Project::init(&server, "flowers-js", "js")?;
    project.test()?;
    project.insert(
        "app.js",
        "  const x = new Tensor(",
        "  if (measurements[0] === 9) throw new RangeError(\"no petals\");",
    )?;
    // Twice: the second build finds what the first installed, and must install or remove nothing that the first needed.
    for _ in 0..2 {
        project.push()?;
        std::fs::remove_file(project.folder().join("app.wasm"))?;
    }
    project.tells_irises_apart()?;
    project.refuses_what_is_no_number().await?;
    let error = "RangeError: no petals";
    project.answers_an_exception(error, "predict@").await
}

/// With a fake npm, which notes how it was called.
#[test]
fn the_javascript_template_installs_what_its_lock_says_when_that_changed() -> Result<()> {
    if !is_here("node", &["--version"]) {
        return Ok(());
    }
    let server = Server::start()?;
    let project = Project::init(&server, "installed", "js")?;
    let programs = server.folder().join("programs");
    std::fs::create_dir(&programs)?;
    let npm = programs.join("npm");
    let script = "#!/bin/sh\necho \"$@\" >> called\nmkdir -p node_modules\ntouch node_modules/.package-lock.json\nexit $NPM_ENDS\n";
    std::fs::write(&npm, script)?;
    std::fs::set_permissions(&npm, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let others = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths([programs].into_iter().chain(std::env::split_paths(&others)))?;
    let install = |npm_ends: i32| -> Result<Option<i32>> {
        let mut command = Command::new("node");
        command.arg("install.js").current_dir(project.folder());
        command
            .env("PATH", &path)
            .env("NPM_ENDS", npm_ends.to_string());
        Ok(command.status()?.code())
    };
    let calls = || -> Result<Vec<String>> {
        let text = std::fs::read_to_string(project.folder().join("called"))?;
        Ok(text.lines().map(str::to_owned).collect())
    };
    assert_eq!(install(0)?, Some(0));
    assert_eq!(calls()?, ["ci --no-audit --no-fund --loglevel=error"]);
    assert_eq!(install(0)?, Some(0));
    assert_eq!(calls()?.len(), 1, "it was installed already");
    let at = |file: &str, seconds: u64| -> Result<()> {
        let file = std::fs::File::options()
            .write(true)
            .open(project.folder().join(file))?;
        let at = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        Ok(file.set_modified(at)?)
    };
    for (number, changed) in ["package.json", "package-lock.json"]
        .into_iter()
        .enumerate()
    {
        at("package.json", 1)?;
        at("package-lock.json", 1)?;
        at("node_modules/.package-lock.json", 2)?;
        assert_eq!(install(0)?, Some(0));
        assert_eq!(calls()?.len(), 1 + number, "nothing has changed");
        at(changed, 3)?;
        assert_eq!(install(0)?, Some(0));
        assert_eq!(calls()?.len(), 2 + number, "{changed} has changed");
    }
    std::fs::remove_dir_all(project.folder().join("node_modules"))?;
    assert_eq!(install(7)?, Some(7), "npm's failure is the build's");
    Ok(())
}

#[test]
fn onnx() -> Result<()> {
    let server = Server::start()?;
    let project = Project::init(&server, "flowers", "onnx")?;
    project.push()?;
    // As `init` says it.
    let body = json!({"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 4], "data": [6.4, 3.2, 4.5, 1.5]}]});
    let path = ["--path", "/v2/models/default/infer", "-d"];
    let body = body.to_string();
    let args = [&path[..], &[&body]].concat();
    let answer = ran(&project.predict(&args)?, "samovar predict")?;
    let answer: Value = serde_json::from_slice(&answer)?;
    assert_eq!(answer["outputs"][0]["name"], "probabilities");
    let versicolor = answer["outputs"][0]["data"][1]
        .as_f64()
        .context("a number")?;
    assert!((versicolor - 0.8597).abs() < 1e-3, "{answer}");
    Ok(())
}

#[test]
fn what_is_there_is_left_alone() -> Result<()> {
    let server = Server::start()?;
    let folder = server.folder();
    std::fs::create_dir(folder.join("taken"))?;
    std::fs::write(folder.join("taken/notes.txt"), "mine")?;
    for (name, reason) in [
        ("taken", "not empty"),
        ("Flowers", "[a-z0-9-]"),
        ("../out", "[a-z0-9-]"),
        ("3d", "digit"),
    ] {
        let output = samovar(&server, folder, &["init", name]).output()?;
        let error = String::from_utf8(output.stderr)?;
        assert_eq!(output.status.code(), Some(2), "{name}: {error}");
        assert!(error.contains(reason), "{name}: {error}");
    }
    let left: Vec<_> = std::fs::read_dir(folder.join("taken"))?.collect();
    assert_eq!(left.len(), 1);
    let args = ["init", "bare", "--template", "onnx"];
    let output = samovar(&server, folder, &args).output()?;
    let words = String::from_utf8(ran(&output, "samovar init")?)?;
    assert!(words.contains("samovar push"), "{words}");
    Ok(())
}
