//! A client that hangs up in the middle of a change: it is carried out to its end or was never begun.

use std::cell::RefCell;
use std::io::Write as _;
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use samovar_client::Client;
use samovar_tests::dice::Dice;
use samovar_tests::{PATIENCE, Server, eventually};
use samovar_types::api::deployments::DeploymentResponse;
use samovar_types::api::environments::UpdateEnvironmentRequest;
use samovar_types::api::models::PushRequest;
use samovar_types::api::promotions::PromoteRequest;
use samovar_types::api::secrets::SetSecretRequest;
use samovar_types::bundle::Bundle;
use samovar_types::deployment::DeploymentStatus as Status;
use samovar_types::names::PRODUCTION;
use samovar_types::promotion::PromotionStatus;
use samovar_types::promotion_settings::{CleanupStrategy, PromotionSettingsUpdate};
use serde_json::{Value, json};

/// Clients of each kind that hang up.
const ROUNDS: usize = 12;
/// Within this time of sending their request. A build of the guest here takes less.
const WITHIN_MS: u64 = 60;

/// Sends a request whole, waits a moment, and hangs up.
fn hang_up(server: &Server, dice: &mut Dice, method: &str, path: &str, body: &Value) -> Result<()> {
    hang_up_after(server, dice.within_ms(WITHIN_MS), method, path, body)
}

/// Sends a request whole, and hangs up after this time.
pub fn hang_up_after(
    server: &Server,
    pause: Duration,
    method: &str,
    path: &str,
    body: &Value,
) -> Result<()> {
    let address = server.url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address)?;
    let body = match body {
        Value::Null => String::new(),
        body => body.to_string(),
    };
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        server.key(),
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    // Chosen instants are what is tested; nothing is waited for.
    std::thread::sleep(pause);
    let _ = stream.shutdown(Shutdown::Both);
    Ok(())
}

/// The statuses of a model's deployments, once none of them is on its way to another; none without the model.
async fn settled(server: &Server, model: &str) -> Result<Vec<Status>> {
    let client = server.api();
    let last = RefCell::new(Vec::new());
    eventually(&format!("the deployments of {model} settle"), async || {
        let list = match client.deployments(model).await {
            Ok(shown) => shown.into_inner().deployments,
            Err(error) => {
                assert!(error.is_not_found(), "{error}");
                return true;
            }
        };
        let known = |one: &DeploymentResponse| *one.status.known().expect("a known status");
        let statuses: Vec<Status> = list.iter().map(known).collect();
        last.replace(statuses.clone());
        !statuses
            .iter()
            .any(|status| status.is_unfinished() || *status == Status::Deactivating)
    })
    .await
    .with_context(|| format!("{last:?}; {:?}", server.log()))?;
    Ok(last.into_inner())
}

/// A model that has one deployment, with its bundle as a push names it.
async fn pushed(server: &Server, model: &str) -> Result<(String, Bundle)> {
    let pushed = server.push_as(model, "echo", "")?;
    let id = pushed["deployment"]["id"].as_str().context("an id")?;
    let shown = server.api().config(model, id).await?.into_inner();
    let bundle = shown.config.context("a bundle")?;
    let bundle = bundle.known().context("a bundle of this release")?;
    Ok((id.to_owned(), bundle.clone()))
}

fn works(status: Status) -> bool {
    matches!(
        status,
        Status::Active | Status::ScaledToZero | Status::WakingUp
    )
}

/// What is switched off and on: a deployment, or that of an environment.
enum Switched<'a> {
    Deployment(&'a str),
    Environment(&'a str),
}

impl Switched<'_> {
    fn path(&self) -> String {
        match self {
            Self::Deployment(id) => format!("/v1/models/m/deployments/{id}"),
            Self::Environment(name) => format!("/v1/models/m/environments/{name}"),
        }
    }

    async fn off(&self, client: &Client) -> Result<()> {
        match self {
            Self::Deployment(id) => client.deactivate("m", id).await?,
            Self::Environment(name) => client.deactivate_environment("m", name).await?,
        };
        Ok(())
    }

    async fn on(&self, client: &Client) -> Result<()> {
        match self {
            Self::Deployment(id) => client.activate("m", id, PATIENCE).await?,
            Self::Environment(name) => client.activate_environment("m", name, PATIENCE).await?,
        };
        Ok(())
    }
}

#[tokio::test]
async fn a_deployment_whose_client_hung_up_is_switched_on_or_stays_off() -> Result<()> {
    let server = Server::start()?;
    let mut dice = Dice::new();
    let (id, _) = pushed(&server, "m").await?;
    let client = server.api();
    for what in [Switched::Deployment(&id), Switched::Environment(PRODUCTION)] {
        let at = what.path();
        for _ in 0..ROUNDS {
            what.off(&client).await?;
            settled(&server, "m").await?;
            let on = format!("{at}/activate");
            hang_up(&server, &mut dice, "POST", &on, &Value::Null)?;
            // A request may arrive after its client was waited for: one to switch off then stops the build of the next.
            let ended = |status: Status| {
                works(status) || matches!(status, Status::Inactive | Status::BuildStopped)
            };
            let status = settled(&server, "m").await?.remove(0);
            ensure!(ended(status), "{status:?}");

            what.on(&client).await?;
            let off = format!("{at}/deactivate");
            hang_up(&server, &mut dice, "POST", &off, &Value::Null)?;
            let status = settled(&server, "m").await?.remove(0);
            ensure!(ended(status), "{status:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn activate_returns_when_the_deployment_can_be_called() -> Result<()> {
    let server = Server::start()?;
    let (id, _) = pushed(&server, "m").await?;
    let client = server.api();
    for _ in 0..ROUNDS {
        client.deactivate("m", &id).await?;
        settled(&server, "m").await?;
        let on = async || {
            client.activate("m", &id, PATIENCE).await?;
            let url = server.at(&format!("/models/m/deployment/{id}/"));
            let answer = server.client().post(url).body("x").send().await?;
            ensure!(answer.status() == 200, "{}", answer.status());
            Ok(())
        };
        tokio::try_join!(on(), on(), on())?;
    }
    Ok(())
}

#[tokio::test]
async fn a_failed_deployment_whose_client_hung_up_is_built_again_or_stays_failed() -> Result<()> {
    let server = Server::start()?;
    let mut dice = Dice::new();
    let manifest = "[environment_variables]\nINIT_ERROR = \"no weights\"\n";
    let folder = server.bundle("m", "init", manifest)?;
    let output = server.cli(&["push", folder.to_str().context("path")?])?;
    ensure!(!output.status.success(), "its init fails");
    let shown = server.api().deployments("m").await?;
    let id = shown.deployments.first().context("an id")?.id;
    let path = format!("/v1/models/m/deployments/{id}/retry");
    for _ in 0..ROUNDS {
        hang_up(&server, &mut dice, "POST", &path, &Value::Null)?;
        let status = settled(&server, "m").await?.remove(0);
        ensure!(status == Status::DeployFailed, "{status:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_push_whose_client_hung_up_is_built_or_never_begun() -> Result<()> {
    let server = Server::start()?;
    let mut dice = Dice::new();
    let (_, bundle) = pushed(&server, "m").await?;
    for round in 0..ROUNDS {
        let body = json!({ "bundle": bundle });
        hang_up(
            &server,
            &mut dice,
            "POST",
            "/v1/models/m/deployments",
            &body,
        )?;
        let name = format!("n{round}");
        let body = json!({ "name": name, "bundle": bundle });
        hang_up(&server, &mut dice, "POST", "/v1/models", &body)?;
        for status in settled(&server, "m").await? {
            ensure!(works(status), "{status:?}");
        }
        for status in settled(&server, &name).await? {
            ensure!(works(status), "{status:?}");
        }
        let development = json!({ "name": "dev", "bundle": bundle, "development": true });
        hang_up(&server, &mut dice, "POST", "/v1/models", &development)?;
        let reload = json!({ "bundle": bundle, "labels": { "round": name } });
        let path = "/v1/models/dev/deployments/development/bundle";
        hang_up(&server, &mut dice, "PUT", path, &reload)?;
        for status in settled(&server, "dev").await? {
            ensure!(works(status), "{status:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_promotion_whose_client_hung_up_ends_or_was_never_begun() -> Result<()> {
    let server = Server::start()?;
    let mut dice = Dice::new();
    let (first, _) = pushed(&server, "m").await?;
    let second = server.push_as("m", "count", "")?;
    let second = second["deployment"]["id"]
        .as_str()
        .context("an id")?
        .to_owned();
    let production = "/v1/models/m/environments/production";
    let client = server.api();
    let request = UpdateEnvironmentRequest {
        promotion_settings: Some(PromotionSettingsUpdate {
            redeploy_on_promotion: Some(true),
            promotion_cleanup_strategy: Some(CleanupStrategy::Keep),
            ..PromotionSettingsUpdate::default()
        }),
        ..UpdateEnvironmentRequest::default()
    };
    client.update_environment("m", PRODUCTION, &request).await?;
    for round in 0..ROUNDS {
        let source = [&first, &second][round % 2];
        let body = json!({ "deployment_id": source });
        hang_up(
            &server,
            &mut dice,
            "POST",
            &format!("{production}/promote"),
            &body,
        )?;
        for status in settled(&server, "m").await? {
            ensure!(works(status), "{status:?}");
        }
        let cancel = format!("{production}/cancel_promotion");
        hang_up(&server, &mut dice, "POST", &cancel, &Value::Null)?;
        eventually("no promotion goes on", async || {
            let shown = client.environment("m", PRODUCTION).await.unwrap();
            shown.in_progress_promotion.is_none()
        })
        .await?;
        settled(&server, "m").await?;
    }
    // Whatever became of each, the next one works.
    let request = PromoteRequest::new(second.parse()?);
    client.promote("m", PRODUCTION, &request).await?;
    eventually("it is promoted", async || {
        let shown = client.environment("m", PRODUCTION).await.unwrap();
        let last = shown.last_promotion.as_ref();
        last.is_some_and(|last| last.status == PromotionStatus::Succeeded)
    })
    .await?;
    let answer = server.client().post(server.at("/models/m/production/"));
    ensure!(answer.send().await?.status() == 200);
    Ok(())
}

#[tokio::test]
async fn what_was_deleted_for_a_client_that_hung_up_is_gone_or_whole() -> Result<()> {
    let server = Server::start()?;
    let mut dice = Dice::new();
    let (_, bundle) = pushed(&server, "other").await?;
    let client = server.api();
    for round in 0..ROUNDS {
        let model = format!("m{round}");
        let request = PushRequest {
            name: Some(model.clone()),
            ..PushRequest::new(bundle.clone())
        };
        let made = client.push(&request, PATIENCE).await?;
        let first = made.deployment.id.to_string();
        let request = PushRequest::new(bundle.clone());
        let made = client.push_to_model(&model, &request, PATIENCE).await?;
        let second = made.deployment.id.to_string();
        let path = format!("/v1/models/{model}/deployments/{second}");
        hang_up(&server, &mut dice, "DELETE", &path, &Value::Null)?;
        answers_or_is_gone(&server, &model, &second).await?;
        hang_up(
            &server,
            &mut dice,
            "DELETE",
            &format!("/v1/models/{model}"),
            &Value::Null,
        )?;
        answers_or_is_gone(&server, &model, &first).await?;
    }
    // Nothing of what others have was taken away.
    let answer = server.client().post(server.at("/models/other/production/"));
    ensure!(answer.body("x").send().await?.text().await? == "x");
    Ok(())
}

/// What the API shows of a deployment is what its address does.
async fn answers_or_is_gone(server: &Server, model: &str, deployment: &str) -> Result<()> {
    let client = server.api();
    let show = async || match client.deployment(model, deployment).await {
        Ok(_) => 200,
        Err(error) => error.status().unwrap().as_u16(),
    };
    let url = server.at(&format!("/models/{model}/deployment/{deployment}/"));
    eventually("the API and the address say the same", async || {
        let shown = show().await;
        let answer = server.client().post(&url).body("x").send().await.unwrap();
        // The change may come between the two looks.
        let again = show().await;
        shown == again && answer.status().as_u16() == shown
    })
    .await
}

#[tokio::test]
async fn settings_and_secrets_of_a_client_that_hung_up_hold_or_are_as_before() -> Result<()> {
    let server = Server::start()?;
    let mut dice = Dice::new();
    let (id, _) = pushed(&server, "m").await?;
    let client = server.api();
    for round in 0..ROUNDS {
        let name = format!("e{round}");
        let (environments, one) = (
            "/v1/models/m/environments".to_owned(),
            format!("/v1/models/m/environments/{name}"),
        );
        hang_up(
            &server,
            &mut dice,
            "POST",
            &environments,
            &json!({ "name": name }),
        )?;
        let settings = json!({ "promotion_settings": { "ramp_up_duration_seconds": 77 } });
        hang_up(&server, &mut dice, "PATCH", &one, &settings)?;
        hang_up(&server, &mut dice, "DELETE", &one, &Value::Null)?;

        let least = 1 + round % 2;
        let settings = json!({ "min_replica": least });
        let path = format!("/v1/models/m/deployments/{id}/autoscaling_settings");
        hang_up(&server, &mut dice, "PATCH", &path, &settings)?;
        let secret = json!({ "name": format!("S{round}"), "value": "v" });
        hang_up(&server, &mut dice, "POST", "/v1/secrets", &secret)?;
        let key = json!({ "type": "WORKSPACE_INVOKE", "name": "gone" });
        hang_up(&server, &mut dice, "POST", "/v1/api_keys", &key)?;
        // What is stored is what is served: as many replicas as the settings say, in the end.
        eventually("the replicas follow", async || {
            let shown = client.deployment("m", &id).await.unwrap();
            let least = shown.autoscaling_settings.min_replica;
            shown.active_replica_count >= least as usize
        })
        .await?;
    }
    // Whatever became of each, the server takes the next.
    server.set_secret("LAST", "v")?;
    let all = client.environments("m").await?;
    ensure!(!all.environments.is_empty());
    for one in &all.environments {
        let settings = one.promotion_settings.known().context("settings")?;
        let seconds = settings.ramp_up_duration_seconds;
        ensure!(seconds == 600 || seconds == 77, "{one:?}");
    }
    Ok(())
}

/// Many at once, so that builds, their stops and what is stored of them overtake each other.
#[tokio::test]
async fn many_clients_that_hang_up_at_once_leave_nothing_unfinished() -> Result<()> {
    let server = Server::start()?;
    let mut dice = Dice::new();
    let (id, _) = pushed(&server, "m").await?;
    let address = server.url.trim_start_matches("http://").to_owned();
    for _ in 0..ROUNDS {
        let clients: Vec<_> = (0..8)
            .map(|_| {
                let what = *dice.choose(&["activate", "deactivate", "retry"]);
                let (pause, address) = (dice.within_ms(WITHIN_MS), address.clone());
                let head = format!(
                    "POST /v1/models/m/deployments/{id}/{what} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {}\r\n\
                     content-length: 0\r\n\r\n",
                    server.key()
                );
                std::thread::spawn(move || -> Result<()> {
                    let mut stream = TcpStream::connect(address)?;
                    stream.write_all(head.as_bytes())?;
                    std::thread::sleep(pause.min(Duration::from_secs(1)));
                    Ok(())
                })
            })
            .collect();
        for client in clients {
            client.join().expect("a client does not panic")?;
        }
        let status = settled(&server, "m").await?.remove(0);
        ensure!(
            works(status) || matches!(status, Status::Inactive | Status::BuildStopped),
            "{status:?}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn more_changes_at_once_than_are_carried_out_at_once_are_all_made() -> Result<()> {
    const CHANGES: usize = 300;
    let server = Server::start()?;
    let set = |number: usize| {
        let request = SetSecretRequest {
            name: format!("secret{number}"),
            value: "x".into(),
        };
        // A connection of its own for each.
        let client = server.api();
        tokio::spawn(async move { client.set_secret(&request).await })
    };
    let all: Vec<_> = (0..CHANGES).map(set).collect();
    for (number, one) in all.into_iter().enumerate() {
        one.await?.with_context(|| format!("change {number}"))?;
    }
    let listed = server.api().secrets().await?;
    assert_eq!(listed.secrets.len(), CHANGES);
    Ok(())
}
