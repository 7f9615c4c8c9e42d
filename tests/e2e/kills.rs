//! Killed at any instant, the server comes back with everything that it acknowledged, goes on by itself, and shows
//! nothing half-made.

use anyhow::{Context, Result, ensure};
use samovar_client::{Client, ClientError, Received, Target};
use samovar_tests::dice::Dice;
use samovar_tests::{PATIENCE, Server, eventually, guest};
use samovar_types::api::async_requests::SubmitAsyncRequest;
use samovar_types::api::environments::{EnvironmentResponse, UpdateEnvironmentRequest};
use samovar_types::api::models::PushRequest;
use samovar_types::api::promotions::PromoteRequest;
use samovar_types::async_request::AsyncStatus;
use samovar_types::bundle::Bundle;
use samovar_types::id::DeploymentId;
use samovar_types::names::PRODUCTION;
use samovar_types::promotion::PromotionStatus;
use samovar_types::promotion_settings::PromotionSettingsUpdate;
use serde_json::Value;
use tokio::sync::Notify;

/// What came back; nothing when the server was killed before it answered.
///
/// # Errors
/// What the server refused.
fn heard<T>(answer: Result<Received<T>, ClientError>) -> Result<Option<T>, ClientError> {
    match answer {
        Ok(answer) => Ok(Some(answer.into_inner())),
        Err(ClientError::Broken { .. } | ClientError::NoServer { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Kills the server in the middle of something, and starts it again.
async fn kill_during<T>(
    server: Server,
    dice: &mut Dice,
    within_ms: u64,
    work: impl AsyncFnOnce(&Server) -> T,
) -> Result<(Server, T)> {
    let (done, ()) = tokio::join!(work(&server), server.kill_after(dice.within_ms(within_ms)));
    Ok((server.restart()?, done))
}

/// Pushes a component with a file that makes its bundle another one. Answers the deployment, if that was acknowledged.
async fn push(
    server: &Server,
    model: &str,
    component: &[u8],
    extra: &[u8],
) -> Option<DeploymentId> {
    let component = server.upload(component).await.ok()?;
    let extra = server.upload(extra).await.ok()?;
    let bundle = Bundle {
        files: [("extra".to_owned(), extra)].into(),
        ..Bundle::new(model, component)
    };
    let request = PushRequest {
        name: Some(model.to_owned()),
        ..PushRequest::new(bundle)
    };
    let pushed = heard(server.api().push(&request, PATIENCE).await);
    Some(pushed.expect("it is not refused")?.deployment.id)
}

async fn is_called(server: &Server, path: &str) -> Result<u16> {
    let answer = server
        .client()
        .post(server.at(path))
        .body("x")
        .send()
        .await?;
    Ok(answer.status().as_u16())
}

/// Every deployment that is listed comes to serve by itself; answers their ids.
async fn all_serve(server: &Server) -> Result<Vec<DeploymentId>> {
    let api = server.api();
    let mut ids = Vec::new();
    for model in api.models().await?.into_inner().models {
        let name = model.name;
        let list = api.deployments(&name).await?.into_inner().deployments;
        ensure!(!list.is_empty(), "{name} is listed without a deployment");
        for deployment in list {
            let id = deployment.id;
            let path = format!("/models/{name}/deployment/{id}/predict");
            eventually(&format!("{name} {id} serves"), async || {
                is_called(server, &path).await.unwrap() == 200
            })
            .await?;
            ids.push(id);
        }
        let path = format!("/models/{name}/production/predict");
        eventually(&format!("production of {name} serves"), async || {
            is_called(server, &path).await.unwrap() == 200
        })
        .await?;
    }
    Ok(ids)
}

#[tokio::test]
async fn a_push_is_whole_or_nothing() -> Result<()> {
    let mut dice = Dice::new();
    let component = std::fs::read(guest("count"))?;
    let mut server = Server::start()?;
    let mut acknowledged = Vec::new();
    for round in 0..24u8 {
        // Some are the first of their model, some are not.
        let model = *dice.choose(&["one", "two", "three"]);
        // The first compiles the component, which takes its time.
        let within_ms = if round < 3 { 2000 } else { 150 };
        let extra = vec![round; 1 << 20];
        let (back, pushed) = kill_during(server, &mut dice, within_ms, async |server| {
            push(server, model, &component, &extra).await
        })
        .await?;
        server = back;
        acknowledged.extend(pushed);
        let ids = all_serve(&server).await?;
        for id in &acknowledged {
            assert!(ids.contains(id), "{id} was acknowledged and is gone");
        }
    }
    // And it goes on working.
    let last = push(&server, "one", &component, b"last")
        .await
        .context("no answer")?;
    assert!(all_serve(&server).await?.contains(&last));
    Ok(())
}

#[tokio::test]
async fn a_deletion_is_whole_or_nothing() -> Result<()> {
    let mut dice = Dice::new();
    let component = std::fs::read(guest("count"))?;
    let mut server = Server::start()?;
    for round in 0..20u8 {
        let model = format!("model-{round}");
        let first = push(&server, &model, &component, &[round])
            .await
            .context("no answer")?;
        let second = push(&server, &model, &component, &[round, 1])
            .await
            .context("no answer")?;
        all_serve(&server).await?;
        let whole = dice.below(2) == 0;
        let (back, deleted) = kill_during(server, &mut dice, 60, async |server| {
            let api = server.api();
            match whole {
                true => heard(api.delete_model(&model).await).map(|one| one.is_some()),
                false => {
                    let deleted = api.delete_deployment(&model, second.as_str()).await;
                    heard(deleted).map(|one| one.is_some())
                }
            }
        })
        .await?;
        server = back;
        let ids = all_serve(&server).await?;
        let there = (ids.contains(&first), ids.contains(&second));
        let (before, after) = ((true, true), (!whole, false));
        if deleted? {
            assert_eq!(there, after, "it was acknowledged");
        }
        assert!(there == before || there == after, "{model}: {there:?}");
        if there == after {
            let path = format!("/models/{model}/deployment/{second}/predict");
            assert_eq!(is_called(&server, &path).await?, 404);
        }
    }
    // Nothing of what is gone is in the way of the rest, or of its own name.
    for round in 0..20 {
        match server.api().delete_model(&format!("model-{round}")).await {
            Ok(_) => {}
            Err(error) => assert!(error.is_not_found(), "{error}"),
        }
    }
    push(&server, "model-0", &component, b"again")
        .await
        .context("no answer")?;
    assert_eq!(all_serve(&server).await?.len(), 1);
    Ok(())
}

/// What an environment shows of its promotion.
fn shown_status(environment: &EnvironmentResponse) -> Option<PromotionStatus> {
    let going = environment.in_progress_promotion.as_ref();
    let promotion = going.or(environment.last_promotion.as_ref())?;
    promotion.status.known().copied()
}

/// What is done to a canary while the server is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    Look,
    Promote,
    Pause,
    Resume,
    Cancel,
}

impl Doing {
    fn next(before: PromotionStatus, dice: &mut Dice) -> Self {
        match before {
            PromotionStatus::RampingUp => {
                *dice.choose(&[Self::Pause, Self::Cancel, Self::Look, Self::Look])
            }
            PromotionStatus::Paused => {
                *dice.choose(&[Self::Resume, Self::Resume, Self::Cancel, Self::Look])
            }
            PromotionStatus::Releasing => Self::Look,
            _ => Self::Promote,
        }
    }

    /// Does it. Answers whether that was acknowledged, also with a refusal because the promotion had come to its end.
    async fn run(self, client: &Client, new: DeploymentId) -> Result<bool, ClientError> {
        let (model, at) = ("canary", PRODUCTION);
        let ended = |answer: Result<bool, ClientError>| match answer {
            Err(error) if error.status().is_some_and(|status| status == 409) => Ok(false),
            answer => answer,
        };
        match self {
            Self::Look => heard(client.environment(model, at).await).map(|one| one.is_some()),
            Self::Promote => {
                let request = PromoteRequest::new(new);
                heard(client.promote(model, at, &request).await).map(|one| one.is_some())
            }
            Self::Pause => {
                ended(heard(client.pause_promotion(model, at).await).map(|one| one.is_some()))
            }
            Self::Resume => {
                ended(heard(client.resume_promotion(model, at).await).map(|one| one.is_some()))
            }
            Self::Cancel => {
                ended(heard(client.cancel_promotion(model, at).await).map(|one| one.is_some()))
            }
        }
    }

    /// What may have come of it.
    fn outcomes(self) -> &'static [PromotionStatus] {
        use PromotionStatus as S;
        match self {
            Self::Promote => &[S::Releasing, S::RampingUp],
            Self::Pause => &[S::Paused],
            Self::Resume => &[S::RampingUp, S::Succeeded],
            Self::Cancel => &[S::Canceled],
            Self::Look => &[],
        }
    }
}

/// What a promotion may have become that nothing was done to.
fn goes_on(before: PromotionStatus) -> &'static [PromotionStatus] {
    use PromotionStatus as S;
    match before {
        S::Releasing | S::RampingUp => &[S::Releasing, S::RampingUp, S::Succeeded],
        S::Paused => &[S::Paused],
        S::Canceled => &[S::Canceled],
        _ => &[S::Succeeded],
    }
}

#[tokio::test]
async fn a_canary_goes_on_from_what_was_acknowledged() -> Result<()> {
    let mut dice = Dice::new();
    let mut server = Server::start()?;
    let echo = std::fs::read(guest("echo"))?;
    let count = std::fs::read(guest("count"))?;
    let old = push(&server, "canary", &echo, b"old")
        .await
        .context("no answer")?;
    all_serve(&server).await?;
    let new = push(&server, "canary", &count, b"new")
        .await
        .context("no answer")?;
    all_serve(&server).await?;
    let request = UpdateEnvironmentRequest {
        promotion_settings: Some(PromotionSettingsUpdate {
            ramp_up_while_promoting: Some(true),
            ramp_up_duration_seconds: Some(15),
            ..PromotionSettingsUpdate::default()
        }),
        ..UpdateEnvironmentRequest::default()
    };
    let api = server.api();
    api.update_environment("canary", PRODUCTION, &request)
        .await?;

    let mut before = PromotionStatus::Succeeded;
    let mut percent = 0;
    for round in 0..30 {
        let doing = Doing::next(before, &mut dice);
        let (back, acknowledged) = kill_during(server, &mut dice, 80, async |server| {
            doing.run(&server.api(), new).await
        })
        .await?;
        server = back;
        let acknowledged = acknowledged.with_context(|| format!("round {round}, {doing:?}"))?;
        let environment = server.api().environment("canary", PRODUCTION).await?;
        let status = shown_status(&environment).context("a promotion")?;
        let in_order = doing.outcomes().contains(&status)
            || (!acknowledged || doing == Doing::Look) && goes_on(before).contains(&status);
        assert!(
            in_order,
            "round {round}: {doing:?} while {before:?}, acknowledged {acknowledged}: {environment:?}"
        );
        // Whole: a candidate while it goes on, none otherwise; the old one until the end.
        let going = status.is_in_progress();
        let promotion = environment.in_progress_promotion.as_ref();
        assert_eq!(environment.candidate_deployment.is_some(), going);
        assert_eq!(promotion.is_some(), going, "{environment:?}");
        let current = environment.current_deployment.as_ref().map(|one| one.id);
        let is_over = current == Some(new);
        assert!(is_over || current == Some(old), "{environment:?}");
        if is_over {
            break;
        }
        let now = promotion.map_or(0, |one| one.percent_traffic_to_new_version);
        let began = [PromotionStatus::Canceled, PromotionStatus::Succeeded].contains(&before);
        if going && !began {
            assert!(now >= percent, "round {round}: {now} % after {percent} %");
        }
        percent = now;
        for _ in 0..10 {
            assert_eq!(
                is_called(&server, "/models/canary/production/predict").await?,
                200
            );
        }
        before = status;
    }
    let last = match before {
        PromotionStatus::Paused => Doing::Resume,
        PromotionStatus::Canceled => Doing::Promote,
        _ => Doing::Look,
    };
    ensure!(last.run(&server.api(), new).await?, "{last:?}");
    eventually("it ends by itself", async || {
        let shown = server.api().environment("canary", PRODUCTION).await;
        let shown = shown.unwrap();
        shown.current_deployment.as_ref().map(|one| one.id) == Some(new)
    })
    .await
}

#[tokio::test]
async fn async_requests_that_were_accepted_are_answered_or_stay_cancelled() -> Result<()> {
    let mut dice = Dice::new();
    let mut server = Server::start()?;
    server.push("routes", "[autoscaling]\nmax_replica = 1\n")?;
    let mut accepted: Vec<(String, u64)> = Vec::new();
    let mut cancelled = Vec::new();
    for round in 0..16u64 {
        // Killed shortly after so many are known to be accepted, however long that takes.
        let (enough, reached) = (dice.below(12), Notify::new());
        let work = async |server: &Server| {
            let api = server.api();
            let (mut accepted, mut cancelled) = (Vec::new(), Vec::new());
            for number in 0..100 {
                let numbers: Vec<u64> = (0..500).chain([round * 100 + number]).collect();
                let sum = numbers.iter().sum();
                let input = serde_json::value::to_raw_value(&numbers).unwrap();
                let request = SubmitAsyncRequest::new(input);
                let submitted = api.submit_async("routes", Target::Production, &request);
                let Ok(answer) = submitted.await else {
                    break;
                };
                if number == enough {
                    reached.notify_one();
                }
                let id = answer.into_inner().request_id;
                if number % 7 == 3 {
                    match heard(api.cancel_async("routes", &id).await) {
                        Ok(Some(answer)) if answer.canceled => {
                            cancelled.push(id);
                            continue;
                        }
                        // Neither way is wrong when nobody heard.
                        Ok(None) => break,
                        Ok(Some(_)) | Err(_) => {}
                    }
                }
                accepted.push((id, sum));
            }
            // Also when something else ended it.
            reached.notify_one();
            (accepted, cancelled)
        };
        let delay = dice.within_ms(50);
        let kill = async {
            reached.notified().await;
            server.kill_after(delay).await;
        };
        let (heard, ()) = tokio::join!(work(&server), kill);
        let back = server.restart()?;
        server = back;
        accepted.extend(heard.0);
        cancelled.extend(heard.1);
    }
    ensure!(
        accepted.len() >= 20,
        "only {} were accepted",
        accepted.len()
    );
    let api = server.api();
    for (id, sum) in &accepted {
        eventually(&format!("{id} is done"), async || {
            let shown = api.async_request("routes", id).await.unwrap();
            assert_ne!(shown.status, AsyncStatus::Failed, "{shown:?}");
            shown.status == AsyncStatus::Succeeded
        })
        .await?;
        let answer: Value = api.async_result("routes", id).await?.json().await?;
        assert_eq!(answer["sum"].as_f64(), Some(*sum as f64), "{id}");
    }
    for id in &cancelled {
        let shown = api.async_request("routes", id).await?;
        assert_eq!(shown.status, AsyncStatus::Canceled, "{id}");
    }
    Ok(())
}
