//! The commands of Samovar that call a server, or create projects and bundles.
//!
//! The binary adds the commands that run server code, such as `serve`, and parses the command line.

#![forbid(unsafe_code)]
// A test that meets an error it did not ask for has failed; unwrapping says where.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod build;
mod commands;
mod confirm;
pub mod failure;
mod named;
pub mod output;
pub mod progress;
mod promotion_wait;
mod pushed;
mod ready;
mod settings;
mod upload;

use clap::Subcommand;
use samovar_client::Client;

use commands::{
    async_request, audit, deployment, environment, events, init, key, login, logs, model, predict,
    promotion, push, secret, status, usage, watch,
};
use output::Format;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create a project with a model that builds, tests and pushes without changes
    Init(init::Arguments),
    /// Build a model, upload missing files, and deploy it
    Push(push::Arguments),
    /// Build and push to the development deployment whenever a file changes, and follow its log
    Watch(watch::Arguments),
    /// Call a model and stream its response
    Predict(predict::Arguments),
    /// List, show, rename and delete models
    #[command(subcommand)]
    Model(model::Action),
    /// List, show, scale, activate, deactivate and delete deployments, and show their logs
    #[command(subcommand)]
    Deployment(deployment::Action),
    /// List, show, create, update and delete environments
    #[command(subcommand)]
    Environment(environment::Action),
    /// Move production or another environment to a deployment
    Promote(promotion::Promote),
    /// Show, pause, cancel and finish promotions
    #[command(subcommand)]
    Promotion(promotion::Action),
    /// Cancel the running promotion, or bring back the previous deployment
    Rollback(promotion::Where),
    /// Show, read and cancel requests that `predict --async` submitted
    #[command(subcommand)]
    AsyncRequest(async_request::Action),
    /// Show the log of a model's production deployment
    Logs(logs::Arguments),
    /// List, set and delete the secrets that models read
    #[command(subcommand)]
    Secret(secret::Action),
    /// List, create and delete API keys
    #[command(subcommand)]
    Key(key::Action),
    /// Show the server's state
    Status,
    /// Show the usage of deployments, including deleted ones
    Usage(usage::Arguments),
    /// Show who changed what in the last 90 days
    Audit(audit::Arguments),
    /// Stream changes on the server as they happen
    Events(events::Arguments),
    /// Save the address of the server to call, and a key read from standard input
    Login(login::Arguments),
}

/// Runs a command to its end.
///
/// # Errors
/// The reason why the command failed; [`failure::report`] prints it.
pub async fn run(command: Command, format: Format) -> anyhow::Result<()> {
    let client = Client::from_environment;
    match command {
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
        Command::Status => status::run(&client()?, format).await,
        Command::Usage(arguments) => usage::run(&client()?, arguments, format).await,
        Command::Audit(arguments) => audit::run(&client()?, arguments, format).await,
        Command::Events(arguments) => events::run(&client()?, arguments, format).await,
        Command::Login(arguments) => login::run(arguments, format).await,
    }
}

/// Parses an id or a name. Its characters need no escapes in a URL's path.
fn identifier(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if !text.is_empty() && text.len() <= 128 && text.bytes().all(plain) {
        Ok(text.to_owned())
    } else {
        Err("wanted an id or a name of letters, digits, `-` and `_`".into())
    }
}
