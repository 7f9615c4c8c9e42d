//! Killed at any instant, the server comes back with everything that it acknowledged, goes on by itself, and shows
//! nothing half-made.

use anyhow::{Context, Result, ensure};
use reqwest::Method;
use samovar_tests::dice::Dice;
use samovar_tests::{Server, eventually, guest};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::Notify;

/// What came back: an answer, or nothing because the server was killed before.
type Heard = Option<(u16, Value)>;

async fn call(server: &Server, method: Method, path: &str, body: &Value) -> Heard {
    let request = server.client().request(method, server.at(path)).json(body);
    let answer = request.send().await.ok()?;
    let status = answer.status().as_u16();
    Some((status, answer.json().await.ok()?))
}

async fn get(server: &Server, path: &str) -> Result<Value> {
    let (status, answer) = call(server, Method::GET, path, &Value::Null)
        .await
        .context("no answer")?;
    ensure!(status == 200, "{path}: {status} {answer}");
    Ok(answer)
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

/// Hands in blobs as a push does.
async fn upload(server: &Server, bytes: &[u8]) -> Result<String> {
    let digest = hex::encode(Sha256::digest(bytes));
    let url = server.at(&format!("/v1/blobs/{digest}"));
    let answer = server.client().put(url).body(bytes.to_vec()).send().await?;
    ensure!(answer.status().is_success(), "{}", answer.status());
    Ok(digest)
}

/// Pushes a component with a file that makes its bundle another one. Answers the deployment, if that was acknowledged.
async fn push(server: &Server, model: &str, component: &[u8], extra: &[u8]) -> Option<String> {
    let blob = async |bytes: &[u8]| {
        let digest = upload(server, bytes).await.ok()?;
        Some(json!({ "digest": digest, "size": bytes.len() }))
    };
    let component = blob(component).await?;
    let bundle =
        json!({ "name": model, "component": component, "files": { "extra": blob(extra).await? } });
    let body = json!({ "name": model, "bundle": bundle });
    let (status, answer) = call(server, Method::POST, "/v1/models", &body).await?;
    assert_eq!(status, 200, "{answer}");
    Some(answer["deployment"]["id"].as_str()?.to_owned())
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
async fn all_serve(server: &Server) -> Result<Vec<String>> {
    let mut ids = Vec::new();
    let models = get(server, "/v1/models").await?;
    for model in models["models"].as_array().context("models")? {
        let name = model["name"].as_str().context("name")?;
        let list = get(server, &format!("/v1/models/{name}/deployments")).await?;
        let list = list["deployments"].as_array().context("deployments")?;
        ensure!(!list.is_empty(), "{name} is listed without a deployment");
        for deployment in list {
            let id = deployment["id"].as_str().context("id")?;
            let path = format!("/models/{name}/deployment/{id}/predict");
            eventually(&format!("{name} {id} serves"), async || {
                is_called(server, &path).await.unwrap() == 200
            })
            .await?;
            ids.push(id.to_owned());
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
        let path = match whole {
            true => format!("/v1/models/{model}"),
            false => format!("/v1/models/{model}/deployments/{second}"),
        };
        let (back, heard) = kill_during(server, &mut dice, 60, async |server| {
            call(server, Method::DELETE, &path, &Value::Null).await
        })
        .await?;
        server = back;
        let ids = all_serve(&server).await?;
        let there = (ids.contains(&first), ids.contains(&second));
        let (before, after) = ((true, true), (!whole, false));
        if let Some((status, answer)) = &heard {
            assert_eq!(*status, 200, "{answer}");
            assert_eq!(there, after, "acknowledged: {answer}");
        }
        assert!(there == before || there == after, "{path}: {there:?}");
        if there == after {
            let path = format!("/models/{model}/deployment/{second}/predict");
            assert_eq!(is_called(&server, &path).await?, 404);
        }
    }
    // Nothing of what is gone is in the way of the rest, or of its own name.
    for round in 0..20 {
        let path = format!("/v1/models/model-{round}");
        let heard = call(&server, Method::DELETE, &path, &Value::Null).await;
        let (status, answer) = heard.context("no answer")?;
        assert!(status == 200 || status == 404, "{answer}");
    }
    push(&server, "model-0", &component, b"again")
        .await
        .context("no answer")?;
    assert_eq!(all_serve(&server).await?.len(), 1);
    Ok(())
}

const PRODUCTION: &str = "/v1/models/canary/environments/production";

/// What an environment shows of its promotion.
fn shown_status(environment: &Value) -> Option<String> {
    let promotion = match &environment["in_progress_promotion"] {
        Value::Null => &environment["last_promotion"],
        going => going,
    };
    promotion["status"].as_str().map(str::to_owned)
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
    let settings = json!({ "ramp_up_while_promoting": true, "ramp_up_duration_seconds": 15 });
    let body = json!({ "promotion_settings": settings });
    let heard = call(&server, Method::PATCH, PRODUCTION, &body).await;
    assert_eq!(heard.context("no answer")?.0, 200);

    let mut before = "SUCCEEDED".to_owned();
    let mut percent = 0;
    for round in 0..30 {
        let doing = match &*before {
            "RAMPING_UP" => *dice.choose(&["pause", "cancel", "look", "look"]),
            "PAUSED" => *dice.choose(&["resume", "resume", "cancel", "look"]),
            "RELEASING" => "look",
            _ => "promote",
        };
        let (back, heard) = kill_during(server, &mut dice, 80, async |server| {
            let (path, body) = match doing {
                "look" => return call(server, Method::GET, PRODUCTION, &Value::Null).await,
                "promote" => (
                    format!("{PRODUCTION}/promote"),
                    json!({ "deployment_id": new }),
                ),
                what => (format!("{PRODUCTION}/{what}_promotion"), Value::Null),
            };
            call(server, Method::POST, &path, &body).await
        })
        .await?;
        server = back;
        let acknowledged = match heard {
            Some((200, _)) => true,
            // It came to its end by itself meanwhile.
            Some((409, _)) if doing != "promote" => false,
            Some((status, answer)) => panic!("round {round}, {doing}: {status} {answer}"),
            None => false,
        };
        let environment = get(&server, PRODUCTION).await?;
        let status = shown_status(&environment).context("a promotion")?;
        let came_of_it: &[&str] = match doing {
            "promote" => &["RELEASING", "RAMPING_UP"],
            "pause" => &["PAUSED"],
            "resume" => &["RAMPING_UP", "SUCCEEDED"],
            "cancel" => &["CANCELED"],
            _ => &[],
        };
        let goes_on: &[&str] = match &*before {
            "RELEASING" | "RAMPING_UP" => &["RELEASING", "RAMPING_UP", "SUCCEEDED"],
            "PAUSED" => &["PAUSED"],
            "CANCELED" => &["CANCELED"],
            _ => &["SUCCEEDED"],
        };
        let in_order = came_of_it.contains(&&*status)
            || (!acknowledged || doing == "look") && goes_on.contains(&&*status);
        assert!(
            in_order,
            "round {round}: {doing} while {before}, acknowledged {acknowledged}: {environment}"
        );
        // Whole: a candidate while it goes on, none otherwise; the old one until the end.
        let going = ["RELEASING", "RAMPING_UP", "PAUSED"].contains(&&*status);
        assert_eq!(
            environment["candidate_deployment"].is_object(),
            going,
            "{environment}"
        );
        assert_eq!(
            environment["in_progress_promotion"].is_object(),
            going,
            "{environment}"
        );
        let is_over = environment["current_deployment"]["id"] == *new;
        assert!(
            is_over || environment["current_deployment"]["id"] == *old,
            "{environment}"
        );
        if is_over {
            break;
        }
        let now = environment["in_progress_promotion"]["percent_traffic_to_new_version"]
            .as_u64()
            .unwrap_or(0);
        if going && before != "CANCELED" && before != "SUCCEEDED" {
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
    let path = match &*before {
        "PAUSED" => Some(("resume_promotion", Value::Null)),
        "CANCELED" => Some(("promote", json!({ "deployment_id": new }))),
        _ => None,
    };
    if let Some((path, body)) = path {
        let heard = call(
            &server,
            Method::POST,
            &format!("{PRODUCTION}/{path}"),
            &body,
        )
        .await;
        assert_eq!(heard.context("no answer")?.0, 200);
    }
    eventually("it ends by itself", async || {
        let environment = get(&server, PRODUCTION).await.unwrap();
        environment["current_deployment"]["id"] == *new
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
            let (mut accepted, mut cancelled) = (Vec::new(), Vec::new());
            for number in 0..100 {
                let numbers: Vec<u64> = (0..500).chain([round * 100 + number]).collect();
                let sum = numbers.iter().sum();
                let body = json!({ "model_input": numbers });
                let path = "/models/routes/production/async_predict";
                let Some((201, answer)) = call(server, Method::POST, path, &body).await else {
                    break;
                };
                if number == enough {
                    reached.notify_one();
                }
                let id = answer["request_id"].as_str().unwrap().to_owned();
                if number % 7 == 3 {
                    let path = format!("/models/routes/async_request/{id}");
                    match call(server, Method::DELETE, &path, &Value::Null).await {
                        Some((200, answer)) if answer["canceled"] == true => {
                            cancelled.push(id);
                            continue;
                        }
                        // Neither way is wrong when nobody heard.
                        None => break,
                        Some(_) => {}
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
    for (id, sum) in &accepted {
        let path = format!("/models/routes/async_request/{id}");
        eventually(&format!("{id} is done"), async || {
            let status = get(&server, &path).await.unwrap();
            assert_ne!(status["status"], "FAILED", "{status}");
            status["status"] == "SUCCEEDED"
        })
        .await?;
        let answer = get(&server, &format!("{path}/result")).await?;
        assert_eq!(answer["sum"].as_f64(), Some(*sum as f64), "{id}");
    }
    for id in &cancelled {
        let status = get(&server, &format!("/models/routes/async_request/{id}")).await?;
        assert_eq!(status["status"], "CANCELED", "{id}");
    }
    Ok(())
}
