//! Requests that are answered later: accepted means answered, whatever happens to the server meanwhile.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::StatusCode;
use samovar_tests::receiver::Receiver;
use samovar_tests::{Server, eventually};
use serde_json::{Value, json};

/// Hands a request in, and answers its id.
async fn hand_in(server: &Server, model: &str, body: Value) -> Result<String> {
    let url = server.at(&format!("/models/{model}/production/async_predict"));
    let answer = server.client().post(url).json(&body).send().await?;
    let header = answer.headers()["x-samovar-request-id"]
        .to_str()?
        .to_owned();
    ensure!(answer.status() == 201, "{}", answer.text().await?);
    let answer: Value = answer.json().await?;
    let id = answer["request_id"].as_str().context("request_id")?;
    assert_eq!(id, header);
    Ok(id.to_owned())
}

async fn status(server: &Server, model: &str, id: &str) -> Result<Value> {
    let url = server.at(&format!("/models/{model}/async_request/{id}"));
    let answer = server.client().get(url).send().await?;
    ensure!(answer.status() == 200, "{}", answer.text().await?);
    Ok(answer.json().await?)
}

async fn result(server: &Server, model: &str, id: &str) -> Result<(StatusCode, String)> {
    let url = server.at(&format!("/models/{model}/async_request/{id}/result"));
    let answer = server.client().get(url).send().await?;
    Ok((answer.status(), answer.text().await?))
}

/// Waits until a request stands somewhere, and answers how.
async fn until(server: &Server, model: &str, id: &str, wanted: &str) -> Result<Value> {
    eventually(&format!("{id} is {wanted}"), async || {
        status(server, model, id).await.unwrap()["status"] == wanted
    })
    .await?;
    status(server, model, id).await
}

async fn queue(server: &Server, model: &str) -> Result<(u64, u64)> {
    let url = server.at(&format!("/models/{model}/production/async_queue_status"));
    let status: Value = server.client().get(url).send().await?.json().await?;
    let count = |name: &str| status[name].as_u64().context("a count");
    Ok((
        count("num_queued_requests")?,
        count("num_in_progress_requests")?,
    ))
}

/// Keeps the only replica of `routes` busy until it is dropped: the guest writes, and nobody reads.
async fn occupy(server: &Server) -> Result<reqwest::Response> {
    let url = server.at("/models/routes/production/stream?bytes=1000000000");
    let answer = server.client().get(url).send().await?;
    assert_eq!(answer.status(), 200);
    Ok(answer)
}

/// The receivers of these tests are on this machine.
const LOCAL_WEBHOOKS: &[&str] = &["--webhook-allow", "loopback"];
const ONE: &str = "[autoscaling]\nmax_replica = 1\n";

#[tokio::test]
async fn a_request_is_answered_later_and_its_result_can_be_read() -> Result<()> {
    let server = Server::start()?;
    let pushed = server.push("echo", "")?;
    let body = json!({ "model_input": {"b": [1, 2], "a": null} });
    let id = hand_in(&server, "echo", body).await?;
    let done = until(&server, "echo", &id, "SUCCEEDED").await?;
    assert_eq!(done["request_id"], id);
    assert_eq!(done["model_id"], pushed["model"]["id"]);
    assert_eq!(done["deployment_id"], pushed["deployment"]["id"]);
    assert_eq!(done["webhook_status"], "NO_WEBHOOK_PROVIDED");
    assert_eq!(done["errors"], json!([]));
    let (code, answer) = result(&server, "echo", &id).await?;
    assert_eq!(code, 200);
    assert_eq!(
        serde_json::from_str::<Value>(&answer)?,
        json!({"b": [1, 2], "a": null})
    );
    assert_eq!(queue(&server, "echo").await?, (0, 0));

    // Another model's address does not lead to it, and neither does no key.
    server.push("count", "")?;
    let url = server.at(&format!("/models/count/async_request/{id}"));
    assert_eq!(server.client().get(url).send().await?.status(), 404);
    let url = server.at(&format!("/models/echo/async_request/{id}/result"));
    assert_eq!(reqwest::get(url).await?.status(), 401);
    Ok(())
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_said_at_once() -> Result<()> {
    let server = Server::start()?;
    server.push("echo", "")?;
    let url = server.at("/models/echo/production/async_predict");
    let post = async |body: String| -> Result<(u16, Value)> {
        let answer = server.client().post(&url).body(body).send().await?;
        Ok((answer.status().as_u16(), answer.json().await?))
    };
    for (body, told) in [
        (json!({}), "model_input"),
        (json!({"model_input": 1, "prio": 1}), "prio"),
        (json!({"model_input": 1, "priority": 3}), "0 to 2"),
        (
            json!({"model_input": 1, "webhook_endpoint": "http://example.com"}),
            "https",
        ),
        (
            json!({"model_input": 1, "webhook_endpoint": "http://127.0.0.1:22/"}),
            "--webhook-allow loopback",
        ),
        (
            json!({"model_input": 1, "webhook_endpoint": "https://169.254.169.254/latest"}),
            "no public address",
        ),
    ] {
        let (code, error) = post(body.to_string()).await?;
        assert_eq!((code, &error["error_code"]), (400, &json!("client_error")));
        assert!(error["error"].as_str().unwrap().contains(told), "{error}");
    }
    let large = json!({ "model_input": "x".repeat(256 << 10) }).to_string();
    let (code, error) = post(large).await?;
    assert_eq!(
        (code, &error["error_code"]),
        (413, &json!("payload_too_large"))
    );
    let missing = server.at(&format!("/models/echo/async_request/{}", "0".repeat(32)));
    assert_eq!(server.client().get(missing).send().await?.status(), 404);
    assert_eq!(server.client().get(&url).send().await?.status(), 405);
    let nothing = server.at("/models/nothing/production/async_predict");
    assert_eq!(server.client().post(nothing).send().await?.status(), 404);
    Ok(())
}

#[tokio::test]
async fn an_error_is_tried_again_and_a_refused_input_is_not() -> Result<()> {
    let server = Server::start()?;
    // It panics at what it does not understand.
    server.push("tensors", "")?;
    server.push("routes", "")?;
    let body = json!({
        "model_input": "no tensors",
        "inference_retry_config": {"max_attempts": 2, "initial_delay_ms": 10, "max_delay_ms": 10},
    });
    let crashed = hand_in(&server, "tensors", body).await?;
    let refused = hand_in(&server, "routes", json!({ "model_input": "no list" })).await?;
    let failed = until(&server, "tensors", &crashed, "FAILED").await?;
    let codes: Vec<_> = failed["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| &e["code"])
        .collect();
    assert_eq!(codes, ["MODEL_PREDICT_ERROR", "MODEL_PREDICT_ERROR"]);
    let (code, error) = result(&server, "tensors", &crashed).await?;
    assert_eq!(code, 404);
    assert!(
        error.contains("no_result") && error.contains("MODEL_PREDICT_ERROR"),
        "{error}"
    );

    let failed = until(&server, "routes", &refused, "FAILED").await?;
    assert_eq!(failed["errors"].as_array().unwrap().len(), 1);
    assert_eq!(failed["errors"][0]["code"], "MODEL_INVALID_INPUT");
    let (code, _) = result(&server, "routes", &refused).await?;
    assert_eq!(code, 400, "what the model answered itself");
    Ok(())
}

#[tokio::test]
async fn others_go_first_and_then_priority_and_age_decide() -> Result<()> {
    let server = Server::start()?;
    server.push("routes", ONE)?;
    let occupied = occupy(&server).await?;
    let mut ids = Vec::new();
    for priority in [2, 0, 1, 0, 2, 1] {
        let body = json!({ "model_input": [priority], "priority": priority });
        ids.push(hand_in(&server, "routes", body).await?);
    }
    let canceled = hand_in(&server, "routes", json!({ "model_input": [9] })).await?;
    assert_eq!(queue(&server, "routes").await?, (7, 0));
    let url = server.at(&format!("/models/routes/async_request/{canceled}"));
    let answer: Value = server.client().delete(&url).send().await?.json().await?;
    assert_eq!(
        (&answer["canceled"], &answer["request_id"]),
        (&json!(true), &json!(canceled))
    );
    let answer: Value = server.client().delete(&url).send().await?.json().await?;
    assert_eq!(answer["canceled"], false);

    // Somebody waits for the replica too, and has it before all of them.
    let url = server.at("/models/routes/production/predict");
    let waiting = server.client().post(url).json(&json!([100]));
    let waiting = tokio::spawn(async move { waiting.send().await?.json::<Value>().await });
    // Only seen from outside: give it time to be in line.
    tokio::time::sleep(Duration::from_millis(300)).await;
    drop(occupied);
    assert_eq!(waiting.await??, json!({"sum": 100.0, "served": 1}));
    let mut served = Vec::new();
    for id in &ids {
        until(&server, "routes", id, "SUCCEEDED").await?;
        let (_, answer) = result(&server, "routes", id).await?;
        let answer: Value = serde_json::from_str(&answer)?;
        served.push(answer["served"].as_u64().context("served")?);
    }
    assert_eq!(served, [6, 2, 4, 3, 7, 5]);
    assert_eq!(
        status(&server, "routes", &canceled).await?["status"],
        "CANCELED"
    );
    Ok(())
}

#[tokio::test]
async fn a_request_that_nobody_has_time_for_expires() -> Result<()> {
    let server = Server::start_with(LOCAL_WEBHOOKS)?;
    let receiver = Receiver::start(&[200]).await?;
    server.push("routes", ONE)?;
    let occupied = occupy(&server).await?;
    let body = json!({
        "model_input": [1], "max_time_in_queue_seconds": 10, "webhook_endpoint": receiver.url,
    });
    let id = hand_in(&server, "routes", body).await?;
    let expired = until(&server, "routes", &id, "EXPIRED").await?;
    assert_eq!(expired["errors"][0]["code"], "MODEL_UNAVAILABLE");
    let told = receiver.next().await?;
    assert_eq!(
        (&told.json["request_id"], &told.json["data"]),
        (&json!(id), &Value::Null)
    );
    drop(occupied);
    assert_eq!(result(&server, "routes", &id).await?.0, 404);
    Ok(())
}

#[tokio::test]
async fn a_webhook_tells_the_answer_and_its_loss_is_told() -> Result<()> {
    let server = Server::start_with(LOCAL_WEBHOOKS)?;
    let pushed = server.push("routes", "")?;
    let receiver = Receiver::start(&[503, 200]).await?;
    let body = json!({ "model_input": [1, 2.5], "webhook_endpoint": receiver.url });
    let id = hand_in(&server, "routes", body).await?;
    receiver.next().await?;
    let told = receiver.next().await?;
    for name in ["x-samovar-request-id", "x-baseten-request-id"] {
        assert_eq!(told.header(name), Some(&*id));
    }
    assert_eq!(told.header("content-type"), Some("application/json"));
    assert_eq!(told.json["type"], "async_request_completed");
    assert_eq!(told.json["request_id"], id);
    assert_eq!(told.json["deployment_id"], pushed["deployment"]["id"]);
    assert_eq!(told.json["data"], json!({"sum": 3.5, "served": 1}));
    eventually("it is noted", async || {
        status(&server, "routes", &id).await.unwrap()["webhook_status"] == "SUCCEEDED"
    })
    .await?;

    let receiver = Receiver::start(&[400]).await?;
    let body = json!({ "model_input": [1], "webhook_endpoint": receiver.url });
    let id = hand_in(&server, "routes", body).await?;
    let lost = until(&server, "routes", &id, "WEBHOOK_FAILED").await?;
    assert_eq!(lost["webhook_status"], "FAILED");
    assert_eq!(lost["webhook"]["attempts"], 1);
    let why = lost["webhook"]["last_error"].as_str().context("why")?;
    assert!(why.contains("400"), "{why}");
    // The answer is not lost with it.
    assert_eq!(result(&server, "routes", &id).await?.0, 200);
    Ok(())
}

#[tokio::test]
async fn a_receiver_that_never_answers_holds_up_no_other() -> Result<()> {
    let server = Server::start_with(LOCAL_WEBHOOKS)?;
    server.push("echo", "")?;
    let (silent, good) = (Receiver::silent().await?, Receiver::start(&[]).await?);
    let mut held_up = Vec::new();
    for number in 0..60 {
        let body = json!({ "model_input": number, "webhook_endpoint": silent.url });
        held_up.push(hand_in(&server, "echo", body).await?);
    }
    for id in &held_up {
        until(&server, "echo", id, "SUCCEEDED").await?;
    }
    let body = json!({ "model_input": "good", "webhook_endpoint": good.url });
    hand_in(&server, "echo", body).await?;
    assert_eq!(good.next().await?.json["data"], "good");
    // One that has never answered is tried once at a time.
    assert!(silent.count().await < 10, "{}", silent.count().await);
    let last = status(&server, "echo", &held_up[59]).await?;
    assert_eq!(last["webhook_status"], "PENDING");
    Ok(())
}

#[tokio::test]
async fn receivers_of_one_model_that_never_answer_hold_up_no_new_one_of_another() -> Result<()> {
    // Far shorter than 60 deliveries of 10 s take in 8 places.
    const SOON: Duration = Duration::from_secs(20);
    let server = Server::start_with(LOCAL_WEBHOOKS)?;
    server.push_as("dead", "echo", "")?;
    server.push_as("alive", "echo", "")?;
    // The system accepts connections to them, and no answer ever comes.
    let mut silent = Vec::new();
    for _ in 0..60 {
        silent.push(std::net::TcpListener::bind("127.0.0.1:0")?);
    }
    let mut held_up = Vec::new();
    for (number, listener) in silent.iter().enumerate() {
        let hook = format!("http://{}/hook", listener.local_addr()?);
        let body = json!({ "model_input": number, "webhook_endpoint": hook });
        held_up.push(hand_in(&server, "dead", body).await?);
    }
    for id in &held_up {
        until(&server, "dead", id, "SUCCEEDED").await?;
    }
    let good = Receiver::start(&[]).await?;
    // By this name it comes after all the others, in an order by name too.
    let hook = good.url.replace("127.0.0.1", "localhost");
    let body = json!({ "model_input": "good", "webhook_endpoint": hook });
    hand_in(&server, "alive", body).await?;
    let told = tokio::time::timeout(SOON, good.next()).await;
    let told = told.context("the webhook of another model was held up")??;
    assert_eq!(told.json["data"], "good");
    let last = status(&server, "dead", &held_up[59]).await?;
    assert_eq!(last["webhook_status"], "PENDING");
    Ok(())
}

#[tokio::test]
async fn what_was_accepted_is_answered_although_the_server_is_killed() -> Result<()> {
    let mut server = Server::start()?;
    server.push("routes", ONE)?;
    let mut ids = Vec::new();
    let occupied = occupy(&server).await?;
    let numbers: Vec<u32> = (0..20_000).collect();
    for _ in 0..50 {
        ids.push(hand_in(&server, "routes", json!({ "model_input": numbers })).await?);
    }
    drop(occupied);
    eventually("some run", async || {
        let (queued, running) = queue(&server, "routes").await.unwrap();
        running > 0 && queued < 48
    })
    .await?;
    let last = status(&server, "routes", &ids[49]).await?;
    server.kill()?;
    assert_eq!(last["status"], "QUEUED", "it was killed too late");
    let server = server.restart()?;
    for id in &ids {
        until(&server, "routes", id, "SUCCEEDED").await?;
        let (code, answer) = result(&server, "routes", id).await?;
        assert_eq!(code, 200);
        let answer: Value = serde_json::from_str(&answer)?;
        assert_eq!(answer["sum"], 199_990_000.0);
    }
    Ok(())
}

#[tokio::test]
async fn a_webhook_that_was_due_at_a_stop_is_sent_after_it() -> Result<()> {
    let server = Server::start_with(LOCAL_WEBHOOKS)?;
    server.push("echo", "")?;
    // It takes the first one and never answers.
    let receiver = Receiver::start(&[0, 200]).await?;
    let body = json!({ "model_input": "late", "webhook_endpoint": receiver.url });
    let id = hand_in(&server, "echo", body).await?;
    receiver.next().await?;
    assert_eq!(
        status(&server, "echo", &id).await?["webhook_status"],
        "PENDING"
    );
    let server = server.restart()?;
    let told = receiver.next().await?;
    assert_eq!(
        (&told.json["request_id"], &told.json["data"]),
        (&json!(id), &json!("late"))
    );
    eventually("it is noted", async || {
        status(&server, "echo", &id).await.unwrap()["webhook_status"] == "SUCCEEDED"
    })
    .await
}

#[tokio::test]
async fn requests_of_a_deployment_that_goes_end_and_those_of_a_stopped_server_wait() -> Result<()> {
    let mut server = Server::start()?;
    server.push("routes", ONE)?;
    server.push("routes", ONE)?;
    let list = server.cli_json(&["deployment", "list", "routes"])?;
    let second = list["deployments"][1]["id"].as_str().context("id")?;
    let url = server.at(&format!(
        "/models/routes/deployment/{second}/stream?bytes=1000000000"
    ));
    let occupied = server.client().get(url).send().await?;
    let url = server.at(&format!("/models/routes/deployment/{second}/async_predict"));
    let body = json!({ "model_input": [1] });
    let answer: Value = server
        .client()
        .post(url)
        .json(&body)
        .send()
        .await?
        .json()
        .await?;
    let gone = answer["request_id"].as_str().context("id")?.to_owned();
    drop(occupied);
    until(&server, "routes", &gone, "SUCCEEDED").await?;

    let occupied = occupy(&server).await?;
    let waiting = hand_in(&server, "routes", body).await?;
    server.terminate();
    drop(occupied);
    // Beside this task, which has to close the connection meanwhile.
    let stopped = tokio::task::spawn_blocking(move || server.wait().map(|status| (server, status)));
    let (server, status) = stopped.await??;
    assert!(status.success());
    let server = server.restart()?;
    until(&server, "routes", &waiting, "SUCCEEDED").await?;
    Ok(())
}

#[tokio::test]
async fn the_command_line_hands_in_shows_reads_and_cancels() -> Result<()> {
    let server = Server::start()?;
    server.push("routes", ONE)?;
    let handed = server.cli(&[
        "predict",
        "routes",
        "--async",
        "-d",
        "[1, 2]",
        "--priority",
        "1",
    ])?;
    assert!(handed.status.success(), "{handed:?}");
    let id = String::from_utf8(handed.stdout)?.trim().to_owned();
    until(&server, "routes", &id, "SUCCEEDED").await?;
    let shown = server.cli(&["async-request", "show", "routes", &id])?;
    assert!(String::from_utf8(shown.stdout)?.contains("SUCCEEDED"));
    let read = server.cli_json(&["async-request", "result", "routes", &id])?;
    assert_eq!(read["sum"], 3.0);
    let late = server.cli(&["async-request", "cancel", "routes", &id])?;
    assert_eq!(late.status.code(), Some(1));
    assert!(String::from_utf8(late.stderr)?.contains("SUCCEEDED"));

    let _occupied = occupy(&server).await?;
    let handed = server.cli_json(&["predict", "routes", "--async", "-d", "[1]"])?;
    let id = handed["request_id"].as_str().context("id")?;
    let error = server.cli(&["async-request", "result", "routes", id])?;
    assert!(String::from_utf8(error.stderr)?.contains("QUEUED"));
    let canceled = server.cli_json(&["async-request", "cancel", "routes", id])?;
    assert_eq!(canceled["canceled"], true);
    let wrong = server.cli(&["predict", "routes", "--async", "-d", "text"])?;
    assert_eq!(wrong.status.code(), Some(2));
    Ok(())
}
