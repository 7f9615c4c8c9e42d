//! A deployment switched on and off, woken, tried again, renamed.

use std::time::Duration;

use clap::Subcommand;
use samovar_client::Client;
use samovar_client::text::printable;
use serde::Serialize;

use super::Place;
use crate::output::{self, Format, or_dash, word};

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
    match action {
        Action::Activate(place) => {
            let Place { model, deployment } = &place;
            let answer = client.activate(model, deployment, BUILD_TIMEOUT).await?;
            let told = match answer.no_op {
                true => format!("{place} is on already"),
                false => format!("switched on {place}"),
            };
            tell(&answer, &told, format)
        }
        Action::Deactivate(place) => {
            let Place { model, deployment } = &place;
            let answer = client.deactivate(model, deployment).await?;
            let told = match answer.no_op {
                true => format!("{place} is off already"),
                false => format!(
                    "switched off {place}; `samovar deployment activate {model} {deployment}` switches it on again"
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
                "{place} starts a replica; see `samovar deployment replicas {} {}`",
                place.model, place.deployment
            );
            tell(&answer, &told, format)
        }
        Action::Rename { place, name } => {
            let Place { model, deployment } = &place;
            let answer = client.rename_deployment(model, deployment, &name).await?;
            let told = format!(
                "the deployment {} of {model} is named {} now",
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
