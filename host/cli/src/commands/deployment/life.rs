//! Activates, deactivates, retries, wakes and renames deployments.

use std::time::Duration;

use clap::Subcommand;
use samovar_client::Client;
use samovar_client::text::printable;
use serde::Serialize;

use super::Place;
use crate::output::{self, Format, or_dash, word};

/// Requests that build a deployment return when the build is done.
const BUILD_TIMEOUT: Duration = Duration::from_secs(3600);

#[derive(Debug, Subcommand)]
pub enum Action {
    /// Serve a deactivated deployment again, with its previous settings
    Activate(#[command(flatten)] Place),
    /// Stop serving a deployment: running requests finish, new ones get 404
    Deactivate(#[command(flatten)] Place),
    /// Build a failed deployment again, or start a replica of an unhealthy one at once
    Retry(#[command(flatten)] Place),
    /// Start a replica ahead of a request
    Wake(#[command(flatten)] Place),
    /// Rename a deployment
    Rename {
        #[command(flatten)]
        place: Place,
        /// The new name
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

pub async fn run(client: &Client, action: Action, format: Format) -> anyhow::Result<()> {
    match action {
        Action::Activate(place) => {
            let Place { model, deployment } = &place;
            let answer = client.activate(model, deployment, BUILD_TIMEOUT).await?;
            let told = match answer.no_op {
                true => format!("{place} is already active"),
                false => format!("activated {place}"),
            };
            tell(&answer, &told, format)
        }
        Action::Deactivate(place) => {
            let Place { model, deployment } = &place;
            let answer = client.deactivate(model, deployment).await?;
            let told = match answer.no_op {
                true => format!("{place} is already inactive"),
                false => format!(
                    "deactivated {place}; `samovar deployment activate {model} {deployment}` serves it again"
                ),
            };
            tell(&answer, &told, format)
        }
        Action::Retry(place) => {
            let Place { model, deployment } = &place;
            let answer = client.retry(model, deployment, BUILD_TIMEOUT).await?;
            let told = match answer.retried {
                true => format!("{place} is {}", word(&answer.deployment.status)),
                false => format!(
                    "nothing to do for {place}: {}",
                    or_dash(answer.reason.as_ref())
                ),
            };
            tell(&answer, &told, format)
        }
        Action::Wake(place) => {
            let answer = client.wake(&place.model, place.target()).await?;
            let told = format!(
                "{place} starts a replica; `samovar deployment replicas {} {}` lists it",
                place.model, place.deployment
            );
            tell(&answer, &told, format)
        }
        Action::Rename { place, name } => {
            let Place { model, deployment } = &place;
            let answer = client.rename_deployment(model, deployment, &name).await?;
            let told = format!(
                "renamed deployment {} of {model} to {}",
                answer.id,
                printable(&answer.name)
            );
            tell(&answer, &told, format)
        }
    }
}

fn tell(answer: &impl Serialize, told: &str, format: Format) -> anyhow::Result<()> {
    match format {
        Format::Json => output::document(answer),
        Format::Text => output::line(told),
    }
}
