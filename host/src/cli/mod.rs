//! The command line: which commands there are, and what runs them.

mod async_request;
mod audit;
mod backends;
mod build;
mod client;
mod compile_worker;
mod completions;
mod confirm;
mod deployment;
mod engine;
mod environment;
mod events;
mod failure;
mod init;
mod key;
mod login;
mod logs;
mod model;
mod named;
mod output;
mod predict;
mod progress;
mod promotion;
mod promotion_wait;
mod push;
mod pushed;
mod ready;
mod secret;
mod serve;
mod settings;
mod status;
mod upload;
mod usage;
mod watch;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use samovar_runtime::TimeSlice;

use client::Client;
use output::Format;

/// Serverless platform for machine-learning models in WebAssembly sandboxes.
///
/// Commands call the server that SAMOVAR_URL names, with the key of SAMOVAR_API_KEY, or else the one that `samovar serve`
/// or `samovar login` saved.
#[derive(Debug, Parser)]
#[command(name = "samovar", version, propagate_version = true)]
struct Cli {
    /// Print JSON on standard output, and nothing else there
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a server
    Serve(serve::Arguments),
    /// Make a folder with a model that builds, tests and pushes as it is
    Init(init::Arguments),
    /// Build a model, upload what the server lacks, and deploy it
    Push(push::Arguments),
    /// Keep the development deployment at what lies in a folder: build and push with each change, and follow its log
    Watch(watch::Arguments),
    /// Call a model and stream its answer
    Predict(predict::Arguments),
    /// List, show, rename and delete models
    #[command(subcommand)]
    Model(model::Action),
    /// List, show, scale, switch and delete deployments, and read their logs
    #[command(subcommand)]
    Deployment(deployment::Action),
    /// List, show, create, change and delete environments
    #[command(subcommand)]
    Environment(environment::Action),
    /// Move an environment to a deployment, production unless another is named
    Promote(promotion::Promote),
    /// Show, halt, call off and finish promotions
    #[command(subcommand)]
    Promotion(promotion::Action),
    /// Go back: call a promotion off, or bring back the deployment that was there before
    Rollback(promotion::Where),
    /// Show, read and cancel requests that `predict --async` handed in
    #[command(subcommand)]
    AsyncRequest(async_request::Action),
    /// Read the logs of a model's production deployment
    Logs(logs::Arguments),
    /// List, set and delete the secrets that models read
    #[command(subcommand)]
    Secret(secret::Action),
    /// List, make and delete API keys
    #[command(subcommand)]
    Key(key::Action),
    /// List the server's inference backends, and fetch ONNX Runtime
    Backends(backends::Arguments),
    /// Show how the server is
    Status,
    /// Show what deployments used, those that are gone included
    Usage(usage::Arguments),
    /// Show who changed what in the last 90 days
    Audit(audit::Arguments),
    /// Show what happens, as it happens
    Events(events::Arguments),
    /// Save which server to call, with a key read from standard input
    Login(login::Arguments),
    /// Print a script that completes commands in a shell
    Completions(completions::Arguments),
    /// Run graphs for a server, which starts this itself
    #[command(hide = true)]
    Engine,
    /// Compile components for a server, which starts this itself
    #[command(hide = true)]
    CompileWorker,
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    // SAFETY: no other thread runs yet.
    unsafe { samovar_runtime::backend::disable_telemetry() };
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure::report(&error),
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    match &cli.command {
        Command::Engine => return engine::run(),
        Command::CompileWorker => return compile_worker::run(),
        _ => {}
    }
    let format = if cli.json { Format::Json } else { Format::Text };
    let mut builder = match &cli.command {
        Command::Serve(_) => {
            // Engines begin with it, too, so that a short run need not wait for the slice of a long one.
            samovar_runtime::set_time_slice(TimeSlice::Short);
            tokio::runtime::Builder::new_multi_thread()
        }
        _ => tokio::runtime::Builder::new_current_thread(),
    };
    let runtime = builder
        .enable_all()
        .build()
        .context("starting the asynchronous runtime")?;
    let result = runtime.block_on(dispatch(cli.command, format));
    // Reading a terminal cannot be cancelled, and waiting for it would keep a failed command alive.
    runtime.shutdown_background();
    result
}

async fn dispatch(command: Command, format: Format) -> anyhow::Result<()> {
    let client = Client::from_environment;
    match command {
        Command::Serve(arguments) => serve::run(arguments, format).await,
        Command::Init(arguments) => init::run(arguments, format),
        Command::Push(arguments) => push::run(&client()?, arguments, format).await,
        Command::Watch(arguments) => watch::run(&client()?, arguments, format).await,
        Command::Predict(arguments) => predict::run(&client()?, arguments, format).await,
        Command::Model(action) => model::run(&client()?, action, format).await,
        Command::Deployment(action) => deployment::run(&client()?, action, format).await,
        Command::Environment(action) => environment::run(&client()?, action, format).await,
        Command::Promote(arguments) => promotion::promote(&client()?, arguments, format).await,
        Command::Promotion(action) => promotion::run(&client()?, action, format).await,
        Command::Rollback(at) => promotion::rollback(&client()?, at, format).await,
        Command::AsyncRequest(action) => async_request::run(&client()?, action, format).await,
        Command::Logs(arguments) => logs::run(&client()?, arguments, format).await,
        Command::Secret(action) => secret::run(&client()?, action, format).await,
        Command::Key(action) => key::run(&client()?, action, format).await,
        Command::Backends(arguments) => backends::run(arguments, format).await,
        Command::Status => status::run(&client()?, format).await,
        Command::Usage(arguments) => usage::run(&client()?, arguments, format).await,
        Command::Audit(arguments) => audit::run(&client()?, arguments, format).await,
        Command::Events(arguments) => events::run(&client()?, arguments, format).await,
        Command::Login(arguments) => login::run(arguments, format).await,
        // Before there is an executor.
        Command::Engine | Command::CompileWorker => Ok(()),
        Command::Completions(arguments) => completions::run(&arguments),
    }
}

/// Takes an id or a name, of which nothing needs an escape in a path.
fn identifier(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if !text.is_empty() && text.len() <= 128 && text.bytes().all(plain) {
        Ok(text.to_owned())
    } else {
        Err("wanted an id or a name of letters, digits, `-` and `_`".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_is_parsed() {
        for line in [
            "serve --addr 127.0.0.1:0 --data d --no-auth --max-replicas 4",
            "init iris",
            "init iris --template onnx --json",
            "init iris --template rust --sdk ../sdk",
            "push",
            "push p --model m --name n --environment e --label a=b --label c=d --no-build --wait",
            "predict m -d {} -H a:b -X PUT --path /x",
            "predict m --deployment abcd1234 -f -",
            "predict m --async -d {} --webhook https://h/x --priority 2",
            "async-request show m 0a",
            "async-request result m 0a --json",
            "async-request cancel m 0a",
            "push --development --model m --label a=b",
            "push --environment staging --promote --wait",
            "push --promote",
            "watch",
            "watch p --model m --also ../shared --also ../other --no-build --json",
            "predict m --development -d {}",
            "environment list m",
            "environment show m production",
            "environment create m staging --min-replica 1 --ramp-up --ramp-up-duration 20s",
            "environment update m staging --no-ramp-up --cleanup scale-to-zero --sticky-header x-client",
            "environment delete m staging --yes",
            "promote m deployment-2",
            "promote m v1.2_b --to staging --keep-previous --wait",
            "promotion show m",
            "promotion cancel m staging",
            "promotion pause m",
            "promotion resume m",
            "promotion force-cancel m",
            "promotion force-roll-forward m staging --json",
            "rollback m",
            "rollback m staging",
            "model rename m n",
            "--json model list",
            "model show m --json",
            "model delete m --yes",
            "deployment list m",
            "deployment show m d",
            "deployment activate m d",
            "deployment deactivate m production",
            "deployment retry m d --json",
            "deployment wake m development",
            "deployment rename m d n.1",
            "deployment scale m d --min 0 --max 4 --window 60 --scale-down-delay 0 --concurrency-target 2",
            "deployment scale m d --target-utilization 70 --max-scale-down-rate 50",
            "deployment replicas m d",
            "deployment replicas m d --kill ab12z",
            "deployment logs m d -f",
            "deployment delete m d --yes",
            "logs m -f",
            "secret list",
            "secret set HF_TOKEN",
            "secret set HF_TOKEN --from-file f",
            "secret delete HF_TOKEN --yes",
            "key list",
            "key create --type invoke --name ci --model m --model n",
            "key create --type WORKSPACE_MANAGE_ALL",
            "key delete abcd1234 --yes",
            "backends",
            "status",
            "usage --start 2026-01-01 --end 2026-01-31 --model m --by hour --csv",
            "audit --model m --since 24h --actor system --type A --type B --limit 7",
            "events --model m --limit 3 --json",
            "login http://h",
            "completions bash",
        ] {
            let words = std::iter::once("samovar").chain(line.split(' '));
            if let Err(error) = Cli::try_parse_from(words) {
                panic!("{line}: {error}");
            }
        }
    }

    #[test]
    fn wrong_usage_is_refused_with_exit_code_2() {
        for line in [
            "model show ..",
            "model show a/b",
            "predict m --environment e --deployment d",
            "predict m -d x -f y",
            "predict m -d x --priority 1",
            "predict m -d x --async --priority 3",
            "predict m -d x --async --path /x",
            "predict m -d x --webhook https://h",
            "init",
            "init My_Model",
            "init a/b",
            "init iris --template go",
            "push --label novalue",
            "push --development --name n",
            "push --development --environment e",
            "push --development --promote",
            "watch --promote",
            "watch --model a/b",
            "predict m --development --deployment d",
            "environment create m",
            "environment update m e --ramp-up-duration 20",
            "environment update m e --cleanup never",
            "promote m",
            "promote m a/b",
            "model rename m a/b",
            "deployment scale m d --min -1",
            "deployment replicas m d --kill a/b",
            "secret set HF_TOKEN value",
            "secret set a-b",
            "key create",
            "key create --type root",
            "serve --max-replicas 0",
            "serve --addr nowhere",
            "usage --by year",
            "audit --since yesterday",
            "audit --limit 0",
        ] {
            let words = std::iter::once("samovar").chain(line.split(' '));
            let Err(error) = Cli::try_parse_from(words) else {
                panic!("{line} was taken")
            };
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }
}
