//! Replicas: reused, capped, queued for, gone when idle; deployments: listed, deleted, back after a restart.

use std::time::Duration;

use anyhow::Result;
use samovar_tests::{Server, eventually};
use serde_json::Value;

#[tokio::test]
async fn sixty_four_clients_at_once_are_all_served() -> Result<()> {
    let server = Server::start()?;
    server.push("count", "[autoscaling]\nmax_replica = 4\n")?;
    let client = server.client();
    let url = server.at("/models/count/production/predict");
    let clients = (0..64).map(|_| {
        let (client, url) = (client.clone(), url.clone());
        tokio::spawn(async move {
            for _ in 0..20 {
                let answer = client.get(&url).send().await?;
                anyhow::ensure!(answer.status() == 200, "{}", answer.text().await?);
            }
            anyhow::Ok(())
        })
    });
    for one in clients.collect::<Vec<_>>() {
        one.await??;
    }
    let status = server.cli_json(&["status"])?;
    assert!(status["active_replicas"].as_u64().unwrap() <= 4, "{status}");
    Ok(())
}

#[tokio::test]
async fn a_replica_is_reused_and_goes_when_it_is_idle() -> Result<()> {
    let server = Server::start()?;
    server.push(
        "count",
        "[autoscaling]\nmax_replica = 1\nautoscaling_window = 10\nscale_down_delay = 0\n",
    )?;
    let url = server.at("/models/count/production/predict");
    let ask =
        async || -> Result<String> { Ok(server.client().get(&url).send().await?.text().await?) };
    assert_eq!(ask().await?, "1");
    assert_eq!(ask().await?, "2");
    eventually("the idle replica goes", async || {
        let list = server.cli_json(&["deployment", "list", "count"]).unwrap();
        list["deployments"][0]["status"] == "SCALED_TO_ZERO"
    })
    .await?;
    let cold = server.client().get(&url).send().await?;
    assert!(cold.headers().contains_key("server-timing"));
    assert_eq!(cold.text().await?, "1");
    let wake = server.at("/models/count/production/wake");
    assert_eq!(server.client().post(wake).send().await?.status(), 202);
    Ok(())
}

#[tokio::test]
async fn a_full_queue_answers_429_and_who_waits_too_long_504() -> Result<()> {
    let server = Server::start_with(&["--max-queued-requests", "1"])?;
    server.push(
        "hostile",
        "[autoscaling]\nmax_replica = 1\n[limits]\ntimeout = \"2s\"\n",
    )?;
    let ask = |path: &str| {
        let request = server
            .client()
            .get(server.at(&format!("/models/hostile/production{path}")));
        tokio::spawn(async move { request.send().await })
    };
    // One runs, one waits, and none of the others comes so late that both are done.
    let answers = [(); 5].map(|()| ask("/sleep?800"));
    let mut statuses = Vec::new();
    for answer in answers {
        let answer = answer.await??;
        if answer.status() == 429 {
            assert_eq!(answer.headers()["retry-after"], "1");
            let body: Value = answer.json().await?;
            assert_eq!(body["error_code"], "rate_limited");
            statuses.push(429);
        } else {
            statuses.push(answer.status().as_u16());
        }
    }
    assert!(statuses.contains(&429), "{statuses:?}");
    assert!(statuses.contains(&200), "{statuses:?}");

    let long = ask("/sleep?60000");
    let waited = ask("/sleep?60000");
    for one in [long, waited] {
        assert_eq!(one.await??.status(), 504);
    }
    Ok(())
}

#[tokio::test]
async fn deployments_and_models_are_deleted_for_good() -> Result<()> {
    let server = Server::start()?;
    let first = server.push("count", "")?["deployment"]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let second = server.push("count", "")?["deployment"]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let call = async |id: &str| -> Result<u16> {
        let url = server.at(&format!("/models/count/deployment/{id}/predict"));
        Ok(server.client().get(url).send().await?.status().as_u16())
    };
    assert_eq!(call(&second).await?, 200);
    let refused = server.cli(&["deployment", "delete", "--yes", "count", &first])?;
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("production"));
    server.cli_json(&["deployment", "delete", "--yes", "count", &second])?;
    assert_eq!(call(&second).await?, 404);
    assert_eq!(call(&first).await?, 200);
    server.cli_json(&["model", "delete", "--yes", "count"])?;
    assert_eq!(call(&first).await?, 404);
    assert_eq!(
        server.cli_json(&["model", "list"])?["models"],
        serde_json::json!([])
    );
    let blobs = walk(&server.folder().join("data/blobs"));
    assert_eq!(blobs, 0, "blobs that nothing names");
    Ok(())
}

#[tokio::test]
async fn what_runs_and_waits_when_a_deployment_goes_is_answered() -> Result<()> {
    let server = Server::start()?;
    server.push("hostile", "")?;
    let one_replica = "[autoscaling]\nmax_replica = 1\n";
    for way in ["deactivate", "delete"] {
        let pushed = server.push("hostile", one_replica)?;
        let id = pushed["deployment"]["id"].as_str().unwrap();
        let ask = |path: &str| {
            let url = server.at(&format!("/models/hostile/deployment/{id}{path}"));
            let request = server.client().get(url);
            tokio::spawn(async move { anyhow::Ok(request.send().await?.status().as_u16()) })
        };
        // The replica is lost with the first, so the next needs another of a deployment that is gone by then.
        let first = ask("/sleep?1000");
        tokio::time::sleep(Duration::from_millis(200)).await;
        let others = [ask("/trap"), ask("/env?X"), ask("/env?X")];
        tokio::time::sleep(Duration::from_millis(200)).await;
        let api = server.api();
        match way {
            "delete" => drop(api.delete_deployment("hostile", id).await?),
            _ => drop(api.deactivate("hostile", id).await?),
        }
        assert_eq!(ask("/env?X").await??, 404, "{way}");
        assert_eq!(first.await??, 200, "{way}");
        for one in others {
            // The trap is the guest's own; a request that came too late on a slow machine found nothing there.
            let status = one.await??;
            assert!(matches!(status, 200 | 404 | 500), "{status} {way}");
        }
    }
    Ok(())
}

fn walk(folder: &std::path::Path) -> usize {
    std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| {
            let path = entry.path();
            if path.is_dir() { walk(&path) } else { 1 }
        })
        .sum()
}

#[tokio::test]
async fn a_restart_serves_what_was_served_also_with_a_damaged_artifact() -> Result<()> {
    let server = Server::start()?;
    server.push("count", "")?;
    let artifacts = server.folder().join("data/artifacts");
    let mut damaged = 0;
    for engine in std::fs::read_dir(&artifacts)?.flatten() {
        for file in std::fs::read_dir(engine.path())?.flatten() {
            if file.path().extension().is_some_and(|e| e == "cwasm") {
                let mut bytes = std::fs::read(file.path())?;
                let middle = bytes.len() / 2;
                bytes[middle] ^= 0xff;
                std::fs::remove_file(file.path())?;
                std::fs::write(file.path(), bytes)?;
                damaged += 1;
            }
        }
    }
    assert_eq!(damaged, 1);
    let server = server.restart()?;
    let url = server.at("/models/count/production/predict");
    let answer = server.client().get(url).send().await?;
    assert_eq!(answer.status(), 200);
    assert!(
        server.log().iter().any(|line| line.contains("damaged")),
        "{:?}",
        server.log()
    );
    Ok(())
}

#[tokio::test]
async fn sigterm_lets_running_requests_finish() -> Result<()> {
    let mut server = Server::start()?;
    server.push("hostile", "")?;
    let request = server
        .client()
        .get(server.at("/models/hostile/production/sleep?1000"));
    let running = tokio::spawn(async move { request.send().await?.text().await });
    eventually("it runs", async || {
        server.cli_json(&["status"]).unwrap()["active_replicas"] == 1
    })
    .await?;
    tokio::time::sleep(Duration::from_millis(100)).await;
    server.terminate();
    assert_eq!(running.await??, "slept");
    assert!(server.wait()?.success());
    Ok(())
}

#[tokio::test]
async fn a_handler_of_wasi_0_3_runs_as_one_of_0_2_does() -> Result<()> {
    let server = Server::start()?;
    server.push("p3-hello", "[autoscaling]\nmax_replica = 2\n")?;
    let url = server.at("/models/p3-hello/production/predict");
    for _ in 0..20 {
        let answer = server.client().get(&url).send().await?;
        assert_eq!(answer.status(), 200);
        assert!(answer.text().await?.to_lowercase().contains("hello"));
    }
    Ok(())
}
