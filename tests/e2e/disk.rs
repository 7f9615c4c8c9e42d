//! A disk that is full, fails or hangs costs writes, no more: models serve on, and what was refused works again once
//! the disk does, without a restart.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use reqwest::StatusCode;
use samovar_client::ClientError;
use samovar_tests::disk::Disk;
use samovar_tests::{Server, eventually};
use samovar_types::api::health::{NotReadyCode, ReadinessResponse};
use samovar_types::api::secrets::SetSecretRequest;
use samovar_types::api::usage::UsageParams;
use samovar_types::digest::Digest;
use samovar_types::error::ErrorCode;
use samovar_types::usage::Resolution;

async fn set_secret(server: &Server, value: &str) -> Result<(), ClientError> {
    let request = SetSecretRequest {
        name: "token".into(),
        value: value.to_owned(),
    };
    server.api().set_secret(&request).await.map(drop)
}

async fn predict(server: &Server) -> Result<StatusCode> {
    let url = server.at("/models/echo/production/predict");
    Ok(server.client().post(url).body("x").send().await?.status())
}

/// Inference and everything that only reads.
async fn reads_work(server: &Server) -> Result<()> {
    assert_eq!(predict(server).await?, 200);
    let api = server.api();
    api.check_alive().await?;
    api.models().await?;
    api.deployments("echo").await?;
    api.secrets().await?;
    Ok(())
}

/// Writes until one is refused, and answers how.
async fn refused_write(server: &Server) -> Result<String> {
    let value = "x".repeat(16 << 10);
    // SQLite's log may still have room.
    for _ in 0..1000 {
        if let Err(error) = set_secret(server, &value).await {
            assert_eq!(error.status(), Some(StatusCode::SERVICE_UNAVAILABLE));
            assert_eq!(error.code(), Some(ErrorCode::StoreUnavailable), "{error}");
            return Ok(error.to_string());
        }
    }
    anyhow::bail!("every write was taken");
}

async fn upload(server: &Server, bytes: &[u8]) -> Result<(), ClientError> {
    let size = bytes.len() as u64;
    let digest = Digest::of(bytes);
    server.api().upload(digest, size, bytes.to_vec()).await
}

/// Waits until the node is ready or is not, and gives what it says.
async fn readiness(server: &Server, wanted: bool) -> Result<ReadinessResponse> {
    let api = server.api();
    eventually("readiness follows the disk", async || {
        let told = api.readiness().await;
        told.is_ok_and(|told| told.ready == wanted)
    })
    .await?;
    let told = api.readiness().await?.into_inner();
    assert_eq!(told.ready, wanted, "{told:?}");
    Ok(told)
}

/// The node says that the store takes no writes.
async fn is_not_ready(server: &Server) -> Result<()> {
    let told = readiness(server, false).await?;
    let first = told.reasons.first().context("a reason")?;
    assert_eq!(first.code, NotReadyCode::StoreUnavailable, "{told:?}");
    assert!(first.reason.contains("disk of the data folder"), "{told:?}");
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
    let error = upload(server, &large).await.unwrap_err();
    assert_eq!(error.status(), Some(StatusCode::SERVICE_UNAVAILABLE));
    assert_eq!(error.code(), Some(ErrorCode::StorageUnavailable), "{error}");
    let is_there = server.api().has_blob(Digest::of(&large)).await?;
    assert!(!is_there, "a part was taken for all");
    let folder = server.bundle("late", "count", "")?;
    let pushed = server.cli(&["push", folder.to_str().unwrap()])?;
    ensure!(!pushed.status.success(), "pushed to a broken disk");
    reads_work(server).await?;
    is_not_ready(server).await?;

    heals()?;
    // Nobody else writes: a server that waited for that would never get requests again.
    readiness(server, true).await?;
    set_secret(server, "later").await?;
    upload(server, &large).await?;
    server.push("count", "")?;
    reads_work(server).await?;
    // What was used meanwhile is told once the store takes it.
    let api = server.api();
    let by_minutes = UsageParams {
        resolution: Resolution::Minute,
        ..UsageParams::default()
    };
    eventually("usage is written again", async || {
        let used = api.usage(&by_minutes).await;
        used.is_ok_and(|used| used.usage.iter().any(|one| one.model_name == "echo"))
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
    let api = server.api();
    let reads = async {
        // More often than there are threads that could be held up.
        for _ in 0..50 {
            assert_eq!(predict(&server).await?, 200);
            api.check_alive().await?;
        }
        disk.thaw()
    };
    let (written, read) = tokio::time::timeout(Duration::from_secs(50), async {
        tokio::join!(writes, reads)
    })
    .await?;
    read?;
    for error in written.into_iter().filter_map(Result::err) {
        let refused = error.status() == Some(StatusCode::SERVICE_UNAVAILABLE);
        assert!(refused, "{error}");
    }
    set_secret(&server, "after").await?;
    Ok(())
}
