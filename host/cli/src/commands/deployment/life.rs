//! A deployment switched on and off, woken, tried again, renamed.

use std::time::Duration;

use clap::Subcommand;
use reqwest::Method;
use samovar_client::{ANSWER_TIMEOUT, Client};
use serde_json::{Value, json};

use super::Place;
use crate::output::{self, Format, cell};

/// What builds a deployment answers when that is done.
const BUILD_TIMEOUT: Duration = Duration::from_secs(3600);

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Switch a deployment on again, with the settings that it had
    Activate(#[command(flatten)] Place),
    /// Switch a deployment off: running requests finish, further ones are answered with 404
    Deactivate(#[command(flatten)] Place),
    /// Build a deployment again that failed, or let requests to one again that is unhealthy
    Retry(#[command(flatten)] Place),
    /// Start a replica before a request comes
    Wake(#[command(flatten)] Place),
    /// Give a deployment another name
    Rename {
        #[command(flatten)]
        place: Place,
        /// Its new name
        name: String,
    },
}

impl Action {
    pub(super) fn place_mut(&mut self) -> &mut Place {
        match self {
            Self::Activate(place)
            | Self::Deactivate(place)
            | Self::Retry(place)
            | Self::Wake(place)
            | Self::Rename { place, .. } => place,
        }
    }
}

/// Does it.
pub async fn run(client: &Client, action: Action, format: Format) -> anyhow::Result<()> {
    let (answer, told) = match action {
        Action::Activate(place) => {
            let answer = post(client, &format!("{}/activate", place.path()), BUILD_TIMEOUT).await?;
            let told = match answer["no_op"] == true {
                true => format!("{place} is on already"),
                false => format!("switched on {place}"),
            };
            (answer, told)
        }
        Action::Deactivate(place) => {
            let path = format!("{}/deactivate", place.path());
            let answer = post(client, &path, ANSWER_TIMEOUT).await?;
            let told = match answer["no_op"] == true {
                true => format!("{place} is off already"),
                false => format!(
                    "switched off {place}; `samovar deployment activate {} {}` switches it on again",
                    place.model, place.deployment
                ),
            };
            (answer, told)
        }
        Action::Retry(place) => {
            let answer = post(client, &format!("{}/retry", place.path()), BUILD_TIMEOUT).await?;
            let told = match answer["retried"] == true {
                true => format!("{place} is {}", cell(&answer["deployment"]["status"])),
                false => format!("nothing to do for {place}: {}", cell(&answer["reason"])),
            };
            (answer, told)
        }
        Action::Wake(place) => {
            let answer = post(client, &place.wake_path(), ANSWER_TIMEOUT).await?;
            let told = format!(
                "{place} starts a replica; see `samovar deployment replicas {} {}`",
                place.model, place.deployment
            );
            (answer, told)
        }
        Action::Rename { place, name } => {
            let request = client.request(Method::PATCH, &place.path())?;
            let request = request.json(&json!({ "name": name }));
            let answer = client.json(request.timeout(ANSWER_TIMEOUT)).await?;
            let told = format!(
                "the deployment {} of {} is named {} now",
                cell(&answer["id"]),
                place.model,
                cell(&answer["name"])
            );
            (answer, told)
        }
    };
    match format {
        Format::Json => output::document(&answer),
        Format::Text => output::line(&told),
    }
}

async fn post(client: &Client, path: &str, timeout: Duration) -> anyhow::Result<Value> {
    let request = client.request(Method::POST, path)?;
    client.json(request.timeout(timeout)).await
}
