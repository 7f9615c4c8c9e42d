//! A disk that is full, fails or hangs costs writes, no more: models serve on, and what was refused works again once
//! the disk does, without a restart.

use std::time::Duration;

use anyhow::{Result, ensure};
use reqwest::StatusCode;
use samovar_tests::disk::Disk;
use samovar_tests::{Server, eventually};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

async fn set_secret(server: &Server, value: &str) -> Result<(StatusCode, Value)> {
    let body = json!({ "name": "token", "value": value });
    let request = server.client().post(server.at("/v1/secrets")).json(&body);
    let answer = request.send().await?;
    Ok((answer.status(), answer.json().await?))
}

async fn status(server: &Server, path: &str) -> Result<StatusCode> {
    Ok(server.client().get(server.at(path)).send().await?.status())
}

async fn predict(server: &Server) -> Result<StatusCode> {
    let url = server.at("/models/echo/production/predict");
    Ok(server.client().post(url).body("x").send().await?.status())
}

/// Inference and everything that only reads.
async fn reads_work(server: &Server) -> Result<()> {
    assert_eq!(predict(server).await?, 200);
    for path in [
        "/healthz",
        "/v1/models",
        "/v1/models/echo/deployments",
        "/v1/secrets",
    ] {
        assert_eq!(status(server, path).await?, 200, "{path}");
    }
    Ok(())
}

/// Writes until one is refused, and answers how.
async fn refused_write(server: &Server) -> Result<String> {
    let value = "x".repeat(16 << 10);
    // SQLite's log may still have room.
    for _ in 0..1000 {
        let (status, answer) = set_secret(server, &value).await?;
        if status != 200 {
            assert_eq!(status, 503, "{answer}");
            assert_eq!(answer["error_code"], "store_unavailable", "{answer}");
            return Ok(answer["error"].to_string());
        }
    }
    anyhow::bail!("every write was taken");
}

async fn upload(server: &Server, bytes: &[u8]) -> Result<(String, StatusCode, String)> {
    let digest = hex::encode(Sha256::digest(bytes));
    let url = server.at(&format!("/v1/blobs/{digest}"));
    let answer = server.client().put(url).body(bytes.to_vec()).send().await?;
    Ok((digest, answer.status(), answer.text().await?))
}

/// Waits until `/readyz` answers so, and gives what it says.
async fn readiness(server: &Server, wanted: u16) -> Result<Value> {
    let ask = async || -> Result<(StatusCode, Value)> {
        let answer = server.client().get(server.at("/readyz")).send().await?;
        Ok((answer.status(), answer.json().await?))
    };
    eventually("readiness follows the disk", async || {
        ask().await.is_ok_and(|(status, _)| status == wanted)
    })
    .await?;
    let (status, told) = ask().await?;
    assert_eq!(status, wanted, "{told}");
    Ok(told)
}

/// `/readyz` says that the store takes no writes.
async fn is_not_ready(server: &Server) -> Result<()> {
    let told = readiness(server, 503).await?;
    assert_eq!(told["reasons"][0]["code"], "store_unavailable", "{told}");
    let reason = told["reasons"][0]["reason"].to_string();
    assert!(reason.contains("disk of the data folder"), "{told}");
    Ok(())
}

/// Refused while the disk is broken; all of it works again right after `heal`.
async fn survives(
    server: &Server,
    reason: &str,
    breaks: impl FnOnce() -> Result<()>,
    heals: impl FnOnce() -> Result<()>,
) -> Result<()> {
    server.push("echo", "")?;
    assert_eq!(predict(server).await?, 200);
    breaks()?;
    let error = refused_write(server).await?;
    assert!(error.contains(reason), "{error}");
    for _ in 0..3 {
        refused_write(server).await?;
        reads_work(server).await?;
    }
    is_not_ready(server).await?;
    let large = vec![7; 9 << 20];
    let (digest, code, text) = upload(server, &large).await?;
    assert_eq!(code, 503, "{text}");
    assert!(text.contains("storage_unavailable"), "{text}");
    let blob = format!("/v1/blobs/{digest}");
    assert_eq!(
        status(server, &blob).await?,
        404,
        "a part was taken for all"
    );
    let folder = server.bundle("late", "count", "")?;
    let pushed = server.cli(&["push", folder.to_str().unwrap()])?;
    ensure!(!pushed.status.success(), "pushed to a broken disk");
    reads_work(server).await?;
    is_not_ready(server).await?;

    heals()?;
    // Nobody else writes: a server that waited for that would never get requests again.
    readiness(server, 200).await?;
    let (code, answer) = set_secret(server, "later").await?;
    assert_eq!(code, 200, "{answer}");
    let (_, code, text) = upload(server, &large).await?;
    assert_eq!(code, 201, "{text}");
    server.push("count", "")?;
    reads_work(server).await?;
    // What was used meanwhile is told once the store takes it.
    eventually("usage is written again", async || {
        let url = server.at("/v1/usage?resolution=minute");
        let Ok(answer) = server.client().get(url).send().await else {
            return false;
        };
        answer.status() == 200 && answer.text().await.is_ok_and(|text| text.contains("echo"))
    })
    .await
}

#[tokio::test]
async fn a_disk_that_was_full_takes_writes_again() -> Result<()> {
    let Some(disk) = Disk::in_memory(40)? else {
        return Ok(());
    };
    let server = disk.serve()?;
    survives(&server, "disk is full", || disk.fill(), || disk.free()).await
}

#[tokio::test]
async fn files_that_could_not_be_written_can_be_again() -> Result<()> {
    let server = Server::start()?;
    survives(
        &server,
        "disk",
        || server.refuse_file_writes(true),
        || server.refuse_file_writes(false),
    )
    .await
}

#[tokio::test]
async fn a_disk_that_turned_read_only_serves_on() -> Result<()> {
    let Some(disk) = Disk::ext4(64)? else {
        return Ok(());
    };
    let server = disk.serve()?;
    server.push("echo", "")?;
    disk.turn_read_only()?;
    for _ in 0..3 {
        let error = refused_write(&server).await?;
        assert!(
            error.contains("disk") || error.contains("read-only"),
            "{error}"
        );
        reads_work(&server).await?;
    }
    is_not_ready(&server).await
}

#[tokio::test]
async fn a_disk_that_hangs_holds_up_writes_alone() -> Result<()> {
    let Some(disk) = Disk::ext4(64)? else {
        return Ok(());
    };
    let server = disk.serve()?;
    server.push("echo", "")?;
    reads_work(&server).await?;
    disk.freeze()?;
    let writes = (0..64).map(|_| set_secret(&server, "slow"));
    let writes = futures::future::join_all(writes);
    let reads = async {
        // More often than there are threads that could be held up.
        for _ in 0..50 {
            assert_eq!(predict(&server).await?, 200);
            assert_eq!(status(&server, "/healthz").await?, 200);
        }
        disk.thaw()
    };
    let (written, read) = tokio::time::timeout(Duration::from_secs(50), async {
        tokio::join!(writes, reads)
    })
    .await?;
    read?;
    for one in written {
        let (code, answer) = one?;
        assert!(code == 200 || code == 503, "{code} {answer}");
    }
    let (code, answer) = set_secret(&server, "after").await?;
    assert_eq!(code, 200, "{answer}");
    Ok(())
}
