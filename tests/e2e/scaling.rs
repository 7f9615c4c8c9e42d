//! Replicas follow the load, within bounds that can be changed while they serve; each can be seen and stopped.

use anyhow::{Context, Result};
use samovar_tests::{Server, eventually};
use serde_json::{Value, json};

fn replicas(server: &Server, model: &str) -> Vec<Value> {
    let answer = server
        .cli_json(&["deployment", "replicas", model, "production"])
        .unwrap();
    answer["replicas"].as_array().unwrap().clone()
}

/// Keeps so many requests in flight until the answer is dropped.
fn load(server: &Server, url: &str, count: usize) -> tokio::task::JoinSet<()> {
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..count {
        let (client, url) = (server.client(), server.at(url));
        clients.spawn(async move {
            loop {
                let answer = client.get(&url).send().await.unwrap();
                assert_eq!(answer.status(), 200);
                answer.bytes().await.unwrap();
            }
        });
    }
    clients
}

#[tokio::test]
async fn a_steady_load_gets_headroom_and_leaves_nothing_behind() -> Result<()> {
    let server = Server::start()?;
    server.push(
        "hostile",
        "[autoscaling]\nautoscaling_window = 10\nscale_down_delay = 0\n",
    )?;
    // Requests that take long beside what lies between them, however slow the machine is: what counts is how many are in
    // flight on average.
    let mut clients = load(&server, "/models/hostile/production/sleep?2000", 4);
    // 4 requests at once, 70 % of a replica each: 6 replicas, or 5 where the machine takes half a second between two.
    eventually("the load has its headroom", async || {
        replicas(&server, "hostile").len() > 4
    })
    .await?;
    assert!(clients.try_join_next().is_none(), "a request failed");
    drop(clients);
    eventually("all of them go", async || {
        replicas(&server, "hostile").is_empty()
    })
    .await
}

#[tokio::test]
async fn bounds_change_while_requests_run() -> Result<()> {
    let server = Server::start()?;
    server.push("hostile", "")?;
    let mut clients = load(&server, "/models/hostile/production/sleep?20", 3);
    let scale = |arguments: &[&str]| {
        let all = [&["deployment", "scale", "hostile", "production"], arguments].concat();
        server.cli_json(&all)
    };
    assert_eq!(scale(&["--min", "5", "--max", "6"])?["status"], "ACCEPTED");
    eventually("the minimum is there", async || {
        replicas(&server, "hostile").len() >= 5
    })
    .await?;
    assert_eq!(scale(&["--min", "0", "--max", "2"])?["status"], "ACCEPTED");
    eventually("the maximum holds", async || {
        replicas(&server, "hostile").len() <= 2
    })
    .await?;
    assert!(clients.try_join_next().is_none(), "a request failed");
    drop(clients);
    assert_eq!(scale(&["--max", "2"])?["status"], "UNCHANGED");
    let refused = server.cli(&[
        "deployment",
        "scale",
        "hostile",
        "production",
        "--window",
        "9",
    ])?;
    assert_eq!(refused.status.code(), Some(1));
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        text.contains("autoscaling_window") && text.contains("10 to 3600"),
        "{text}"
    );
    let nothing = server.cli(&["deployment", "scale", "hostile", "production"])?;
    assert_eq!(nothing.status.code(), Some(2));
    Ok(())
}

#[tokio::test]
async fn a_replica_that_is_killed_finishes_its_request_and_is_replaced() -> Result<()> {
    let server = Server::start()?;
    server.push(
        "hostile",
        "[autoscaling]\nmin_replica = 1\nmax_replica = 1\n",
    )?;
    let first = replicas(&server, "hostile")[0].clone();
    assert_eq!(
        (&first["state"], &first["requests_served"]),
        (&json!("IDLE"), &json!(0))
    );
    assert_eq!(first["id"].as_str().context("an id")?.len(), 5);
    let url = server.at("/models/hostile/production/sleep?1500");
    let request = server.client().get(&url);
    let running = tokio::spawn(async move { request.send().await?.text().await });
    eventually("it runs", async || {
        replicas(&server, "hostile")[0]["state"] == "BUSY"
    })
    .await?;
    let request = server.client().get(url.replace("1500", "0"));
    let waiting = tokio::spawn(async move { request.send().await?.text().await });
    let id = first["id"].as_str().context("an id")?;
    let kill = [
        "deployment",
        "replicas",
        "hostile",
        "production",
        "--kill",
        id,
    ];
    assert_eq!(server.cli_json(&kill)?["finishes_first"], true);
    assert_eq!(replicas(&server, "hostile")[0]["state"], "STOPPING");
    assert_eq!(running.await??, "slept");
    // Whoever waited for it has another.
    assert_eq!(waiting.await??, "slept");
    let second = replicas(&server, "hostile")[0]["id"].clone();
    assert_ne!(second, first["id"]);

    // An idle one goes at once, and the minimum comes back by itself.
    let second = second.as_str().context("an id")?;
    eventually("it is idle", async || {
        replicas(&server, "hostile")[0]["state"] == "IDLE"
    })
    .await?;
    let kill = [
        "deployment",
        "replicas",
        "hostile",
        "production",
        "--kill",
        second,
    ];
    assert_eq!(server.cli_json(&kill)?["finishes_first"], false);
    eventually("another has started", async || {
        let now = replicas(&server, "hostile");
        now.len() == 1 && now[0]["id"] != second && now[0]["state"] == "IDLE"
    })
    .await?;
    let gone = server.cli(&kill)?;
    assert_eq!(gone.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&gone.stderr).contains("no replica"));
    Ok(())
}

#[tokio::test]
async fn no_request_fails_while_replicas_are_killed() -> Result<()> {
    let server = Server::start()?;
    server.push("hostile", "[autoscaling]\nmax_replica = 4\n")?;
    let mut clients = load(&server, "/models/hostile/production/sleep?5", 8);
    for _ in 0..20 {
        for replica in replicas(&server, "hostile") {
            let id = replica["id"].as_str().context("an id")?;
            // It may be gone already.
            server.cli(&[
                "deployment",
                "replicas",
                "hostile",
                "production",
                "--kill",
                id,
            ])?;
        }
    }
    assert!(clients.try_join_next().is_none(), "a request failed");
    Ok(())
}
