//! What a model does wrong hurts nobody but its own request.

use std::time::{Duration, Instant};

use anyhow::Result;
use reqwest::StatusCode;
use samovar_tests::Server;
use samovar_types::api::logs::LogsQuery;
use serde_json::Value;

const MANIFEST: &str = "[limits]\nmemory = \"32MiB\"\ntimeout = \"2s\"\nbody = \"1MiB\"\n";

async fn ask(server: &Server, path: &str) -> Result<(StatusCode, Value)> {
    let url = server.at(&format!("/models/hostile/production{path}"));
    let answer = server.client().get(url).send().await?;
    let status = answer.status();
    let text = answer.text().await?;
    Ok((
        status,
        serde_json::from_str(&text).unwrap_or(Value::String(text)),
    ))
}

#[tokio::test]
async fn each_failure_has_its_answer_and_the_next_request_is_served() -> Result<()> {
    let server = Server::start()?;
    server.push("hostile", MANIFEST)?;
    for (path, status, code, text) in [
        ("/trap", 500, "application_error", "unreachable"),
        ("/memory", 500, "application_error", "limits.memory"),
        ("/stack", 500, "application_error", "crashed"),
        ("/exit", 500, "application_error", "exit(1)"),
        ("/noanswer", 500, "application_error", "without an answer"),
        ("/loop", 504, "timeout", "2s"),
        ("/sleep?5000", 504, "timeout", "2s"),
        ("/budget", 504, "timeout", "2s"),
    ] {
        let (found, body) = ask(&server, path).await?;
        assert_eq!(found.as_u16(), status, "{path}: {body}");
        assert_eq!(body["error_code"], code, "{path}");
        assert!(
            body["error"].as_str().unwrap().contains(text),
            "{path}: {body}"
        );
        let (found, body) = ask(&server, "/").await?;
        assert_eq!(
            (found.as_u16(), body),
            (200, Value::String("ok".into())),
            "after {path}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_guest_that_keeps_its_handles_is_told_which_limit_it_reached() -> Result<()> {
    let server = Server::start()?;
    server.push("hostile", "")?;
    let (status, body) = ask(&server, "/hold?io-pollable").await?;
    assert_eq!(status.as_u16(), 500, "{body}");
    let words = "it holds 10000 handles of the host";
    let error = body["error"].as_str().unwrap();
    assert!(
        error.contains(words) && error.contains("limit of a replica"),
        "{body}"
    );
    let logs = server.cli(&["logs", "hostile"])?;
    let logs = String::from_utf8(logs.stdout)?;
    assert!(logs.contains(words), "{logs}");
    Ok(())
}

#[tokio::test]
async fn a_trap_after_the_head_cuts_the_answer_off() -> Result<()> {
    let server = Server::start()?;
    server.push("hostile", MANIFEST)?;
    let url = server.at("/models/hostile/production/late");
    // The head may be gone with the connection before it was sent.
    let whole = match server.client().get(url).send().await {
        Ok(answer) => answer.bytes().await,
        Err(error) => Err(error),
    };
    assert!(whole.is_err(), "half an answer must not look whole");
    assert_eq!(ask(&server, "/").await?.0, 200);
    Ok(())
}

#[tokio::test]
async fn an_endless_loop_does_not_slow_its_neighbours() -> Result<()> {
    let server = Server::start()?;
    server.push("hostile", MANIFEST)?;
    server.push("count", "")?;
    let client = server.client();
    let loops: Vec<_> = (0..4)
        .map(|_| {
            let request = client.get(server.at("/models/hostile/production/loop"));
            tokio::spawn(async move { request.send().await.map(|answer| answer.status()) })
        })
        .collect();
    let begun = Instant::now();
    let mut served = 0;
    while !loops.iter().all(tokio::task::JoinHandle::is_finished) {
        let answer = client
            .get(server.at("/models/count/production/x"))
            .send()
            .await?;
        assert_eq!(answer.status(), 200);
        served += 1;
    }
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "the loops outlived their timeout"
    );
    // Were a loop to hold its thread, at most a handful would get through.
    assert!(served > 20, "{served} requests beside four endless loops");
    for one in loops {
        assert_eq!(one.await??, StatusCode::GATEWAY_TIMEOUT);
    }
    Ok(())
}

#[tokio::test]
async fn a_client_that_hangs_up_frees_its_replica() -> Result<()> {
    let server = Server::start()?;
    server.push(
        "hostile",
        "[autoscaling]\nmax_replica = 1\n[limits]\ntimeout = \"600s\"\n",
    )?;
    for path in ["/loop", "/sleep?600000", "/slow"] {
        let url = server.at(&format!("/models/hostile/production{path}"));
        let asked = server.client().get(url).send();
        let hung_up = tokio::time::timeout(Duration::from_millis(300), async {
            let mut answer = asked.await?;
            while answer.chunk().await?.is_some() {}
            anyhow::Ok(())
        });
        assert!(hung_up.await.is_err(), "{path} was meant to take long");
        // The only replica was busy with it: an answer means that it was let go.
        let (status, _) = ask(&server, "/").await?;
        assert_eq!(status, 200, "after {path}");
    }
    Ok(())
}

#[tokio::test]
async fn files_and_network_are_those_of_the_manifest() -> Result<()> {
    let server = Server::start()?;
    let folder = server.bundle(
        "hostile",
        "hostile",
        "files = [\"labels.txt\"]\n[environment_variables]\nMODE = \"fast\"\n",
    )?;
    std::fs::write(folder.join("labels.txt"), "cat\ndog\n")?;
    server.cli_json(&["push", folder.to_str().unwrap()])?;
    let text = async |path: &str| -> Result<String> {
        Ok(ask(&server, path)
            .await?
            .1
            .as_str()
            .unwrap_or_default()
            .to_owned())
    };
    assert_eq!(text("/read?/labels.txt").await?, "cat\ndog\n");
    assert!(text("/read?/etc/passwd").await?.starts_with("error"));
    assert!(text("/read?../../state.db").await?.starts_with("error"));
    assert!(text("/write?/labels.txt").await?.starts_with("error"));
    assert_eq!(text("/env?MODE").await?, "fast");
    assert_eq!(text("/env?SAMOVAR_MODEL").await?, "hostile");
    assert_eq!(text("/env?HOME").await?, "not set");
    let authority = server.url.trim_start_matches("http://").to_owned();
    let denied = text(&format!("/fetch?{authority}")).await?;
    assert!(denied.contains("HttpRequestDenied"), "{denied}");

    server.push_as(
        "allowed",
        "hostile",
        &format!("[network]\nallow = [\"{authority}\"]\n"),
    )?;
    let url = server.at(&format!("/models/allowed/production/fetch?{authority}"));
    assert_eq!(server.client().get(url).send().await?.text().await?, "200");
    Ok(())
}

#[tokio::test]
async fn what_a_model_prints_is_its_log() -> Result<()> {
    let server = Server::start()?;
    server.push("hostile", MANIFEST)?;
    ask(&server, "/stderr?hello-from-inside").await?;
    ask(&server, "/trap").await?;
    let output = server.cli(&["--json", "logs", "hostile"])?;
    let text = String::from_utf8(output.stdout)?;
    assert!(text.contains("unreachable"), "{text}");
    ask(&server, "/flood?4000").await?;
    let deployment = server.cli_json(&["deployment", "list", "hostile"])?;
    let id = deployment["deployments"][0]["id"].as_str().unwrap();
    let query = LogsQuery {
        includes: vec!["hello-from-inside".into()],
        ..LogsQuery::default()
    };
    let found = server.api().deployment_logs("hostile", id, &query).await?;
    assert_eq!(found.logs[0].message, "hello-from-inside", "{found:?}");
    assert_eq!(found.logs[0].level, "WARNING");
    assert!(found.logs[0].request_id.is_some());
    Ok(())
}
