//! Environments and promotions by the command line: what each command does, says, and ends with.

use anyhow::{Context, Result};
use samovar_tests::{Server, guest};
use serde_json::{Value, json};

/// A model whose first deployment, in production, echoes and whose second, called `v2.0`, counts.
fn two_versions(server: &Server) -> Result<(String, String)> {
    let folder = server.bundle("m", "echo", "")?;
    let path = folder.to_str().context("path")?;
    let id = |answer: Value| answer["deployment"]["id"].as_str().map(str::to_owned);
    let old = id(server.cli_json(&["push", path])?).context("an id")?;
    std::fs::copy(guest("count"), folder.join("guest.wasm"))?;
    let new = id(server.cli_json(&["push", path, "--name", "v2.0"])?).context("an id")?;
    Ok((old, new))
}

fn words(server: &Server, args: &[&str]) -> Result<String> {
    let output = server.cli(args)?;
    let error = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{args:?}: {error}");
    Ok(String::from_utf8(output.stdout)?)
}

fn failed(server: &Server, args: &[&str], code: i32) -> Result<String> {
    let output = server.cli(args)?;
    let error = String::from_utf8(output.stderr)?;
    anyhow::ensure!(output.status.code() == Some(code), "{args:?}: {error}");
    Ok(error)
}

fn current(server: &Server, environment: &str) -> Result<Value> {
    let shown = server.cli_json(&["environment", "show", "m", environment])?;
    Ok(shown["current_deployment"]["id"].clone())
}

/// Whether production echoes, as the first version does.
fn echoes(server: &Server) -> Result<bool> {
    Ok(words(server, &["predict", "m", "-d", "x"])? == "x")
}

#[test]
fn environments_are_made_shown_changed_and_deleted() -> Result<()> {
    let server = Server::start()?;
    two_versions(&server)?;
    let told = words(
        &server,
        &[
            "environment",
            "create",
            "m",
            "staging",
            "--min-replica",
            "1",
            "--ramp-up",
            "--ramp-up-duration",
            "20s",
            "--sticky-header",
            "X-Client",
        ],
    )?;
    assert!(
        told.contains("samovar promote m DEPLOYMENT --to staging"),
        "{told}"
    );
    let list = words(&server, &["environment", "list", "m"])?;
    assert!(
        list.contains("production") && list.contains("deployment-1"),
        "{list}"
    );
    assert!(list.contains("staging"), "{list}");
    let shown = words(&server, &["environment", "show", "m", "staging"])?;
    for line in [
        "ramp_up_duration_seconds",
        "x-client",
        "/models/m/environments/staging/predict",
    ] {
        assert!(shown.contains(line), "{shown}");
    }
    let changed = server.cli_json(&[
        "environment",
        "update",
        "m",
        "staging",
        "--no-ramp-up",
        "--no-sticky-header",
        "--cleanup",
        "deactivate",
        "--on-full",
        "reject",
        "--scale-down-delay",
        "1m",
    ])?;
    assert_eq!(changed["status"], "ACCEPTED");
    let settings = &changed["environment"]["promotion_settings"];
    assert_eq!(settings["ramp_up_while_promoting"], false);
    assert_eq!(settings["ramp_up_duration_seconds"], 20);
    assert_eq!(settings["sticky_header"], Value::Null);
    assert_eq!(settings["promotion_cleanup_strategy"], "DEACTIVATE");
    let autoscaling = &changed["environment"]["autoscaling_settings"];
    assert_eq!(autoscaling["scale_down_delay"], 60);
    assert_eq!(autoscaling["min_replica"], 1);
    let policy = &changed["environment"]["request_backpressure_settings"]["policy"];
    assert_eq!(policy, "REJECT_ON_FULL");
    let again = words(
        &server,
        &["environment", "update", "m", "staging", "--no-ramp-up"],
    )?;
    assert!(again.contains("so already"), "{again}");

    let nothing = failed(&server, &["environment", "update", "m", "staging"], 2)?;
    assert!(nothing.contains("no setting"), "{nothing}");
    let wrong = [
        "environment",
        "update",
        "m",
        "staging",
        "--max-scale-down-rate",
        "51",
    ];
    let wrong = failed(&server, &wrong, 1)?;
    assert!(
        wrong.contains("max_scale_down_rate: found 51, wanted 1 to 50"),
        "{wrong}"
    );
    let production = failed(
        &server,
        &["environment", "delete", "m", "production", "--yes"],
        1,
    )?;
    assert!(production.contains("only with its model"), "{production}");
    let unasked = failed(&server, &["environment", "delete", "m", "staging"], 2)?;
    assert!(unasked.contains("--yes"), "{unasked}");
    let gone = words(&server, &["environment", "delete", "m", "staging", "--yes"])?;
    assert!(gone.contains("but not its deployments"), "{gone}");
    failed(&server, &["environment", "show", "m", "staging"], 1)?;
    Ok(())
}

#[test]
fn a_promotion_is_waited_for_and_gone_back_on() -> Result<()> {
    let server = Server::start()?;
    let (old, new) = two_versions(&server)?;
    let none = failed(&server, &["rollback", "m"], 1)?;
    assert!(none.contains("samovar promote m DEPLOYMENT"), "{none}");
    let told = words(&server, &["promote", "m", "v2.0", "--wait"])?;
    assert!(told.contains(&format!("is now {new} (v2.0)")), "{told}");
    assert!(!echoes(&server)?);
    let again = failed(&server, &["promote", "m", &new], 1)?;
    assert!(again.contains("already"), "{again}");
    let missing = failed(&server, &["promote", "m", "none"], 1)?;
    assert!(missing.contains("samovar deployment list m"), "{missing}");

    let back = words(&server, &["rollback", "m"])?;
    assert!(
        back.contains(&format!("{old} (deployment-1) again")),
        "{back}"
    );
    assert!(echoes(&server)?);
    // And once more is forth again.
    let forth = server.cli_json(&["rollback", "m"])?;
    assert_eq!(forth["rollback"], "PROMOTED");
    assert_eq!(forth["environment"]["current_deployment"]["id"], json!(new));
    Ok(())
}

#[test]
fn who_goes_back_in_an_emergency_needs_no_stages_and_no_activation_by_hand() -> Result<()> {
    let server = Server::start()?;
    let (old, new) = two_versions(&server)?;
    server.cli_json(&[
        "environment",
        "update",
        "m",
        "production",
        "--cleanup",
        "deactivate",
    ])?;
    server.cli_json(&["promote", "m", &new, "--wait"])?;
    // An hour of canary would be too long now.
    let hour = [
        "environment",
        "update",
        "m",
        "production",
        "--ramp-up",
        "--ramp-up-duration",
        "1h",
    ];
    server.cli_json(&hour)?;
    let output = server.cli(&["rollback", "m", "production"])?;
    let told = String::from_utf8(output.stderr)?;
    assert!(
        output.status.success() && told.contains("activating"),
        "{told}"
    );
    assert_eq!(current(&server, "production")?, json!(old));
    assert!(echoes(&server)?);
    Ok(())
}

#[test]
fn a_canary_is_shown_halted_taken_up_called_off_and_forced() -> Result<()> {
    let server = Server::start()?;
    let (old, new) = two_versions(&server)?;
    let nothing = words(&server, &["promotion", "show", "m"])?;
    assert!(nothing.contains("no promotion to"), "{nothing}");
    let ramp = [
        "environment",
        "update",
        "m",
        "production",
        "--ramp-up",
        "--ramp-up-duration",
        "1h",
    ];
    server.cli_json(&ramp)?;
    let begun = server.cli_json(&["promote", "m", &new])?;
    assert_eq!(begun["deployment"]["id"], json!(new));
    let status = || -> Result<Value> {
        let shown = server.cli_json(&["promotion", "show", "m"])?;
        Ok(shown["in_progress_promotion"]["status"].clone())
    };
    let until = |wanted: &str| -> Result<()> {
        let begun = std::time::Instant::now();
        while status()? != wanted {
            anyhow::ensure!(begun.elapsed() < samovar_tests::PATIENCE, "never {wanted}");
        }
        Ok(())
    };
    until("RAMPING_UP")?;
    let shown = words(&server, &["promotion", "show", "m"])?;
    assert!(
        shown.contains("10 %") && shown.contains("next stage"),
        "{shown}"
    );
    let paused = words(&server, &["promotion", "pause", "m"])?;
    assert!(
        paused.contains("samovar promotion resume m production"),
        "{paused}"
    );
    assert_eq!(status()?, "PAUSED");
    words(&server, &["promotion", "resume", "m"])?;
    assert_eq!(status()?, "RAMPING_UP");
    let resumed = failed(&server, &["promotion", "resume", "m"], 1)?;
    assert!(resumed.contains("wanted PAUSED"), "{resumed}");

    // During a canary a rollback is its end.
    let back = server.cli_json(&["rollback", "m"])?;
    assert_eq!(back["rollback"], "CANCELED");
    assert_eq!(current(&server, "production")?, json!(old));
    let last = server.cli_json(&["promotion", "show", "m"])?;
    assert_eq!(last["last_promotion"]["status"], "CANCELED");
    let over = failed(&server, &["promotion", "cancel", "m"], 1)?;
    assert!(over.contains("no promotion"), "{over}");

    // Who waits for a promotion that somebody calls off is told so.
    let waited = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| failed(&server, &["promote", "m", &new, "--wait"], 1));
        until("RAMPING_UP")?;
        server.cli_json(&["promotion", "force-cancel", "m"])?;
        waiting.join().expect("no panic")
    })?;
    assert!(waited.contains("CANCELED"), "{waited}");

    let waited = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| server.cli_json(&["promote", "m", "v2.0", "--wait"]));
        until("RAMPING_UP")?;
        words(&server, &["promotion", "force-roll-forward", "m"])?;
        waiting.join().expect("no panic")
    })?;
    assert_eq!(
        waited["environment"]["current_deployment"]["id"],
        json!(new)
    );
    assert_eq!(current(&server, "production")?, json!(new));
    Ok(())
}

#[test]
fn a_deployment_is_found_by_its_name() -> Result<()> {
    let server = Server::start()?;
    let (old, new) = two_versions(&server)?;
    let shown = server.cli_json(&["deployment", "show", "m", "v2.0"])?;
    assert_eq!(shown["id"], json!(new));
    // A name that looks like an id.
    server.cli_json(&["deployment", "rename", "m", "v2.0", "version2"])?;
    server.cli_json(&["deployment", "deactivate", "m", "version2"])?;
    let shown = server.cli_json(&["deployment", "show", "m", "version2"])?;
    assert_eq!(shown["id"], json!(new));
    assert_ne!(shown["status"], "ACTIVE");
    let missing = failed(&server, &["deployment", "show", "m", "version3"], 1)?;
    assert!(missing.contains("samovar deployment list m"), "{missing}");
    server.cli_json(&["deployment", "rename", "m", &old, "version2"])?;
    let twice = failed(
        &server,
        &["deployment", "delete", "m", "version2", "--yes"],
        2,
    )?;
    assert!(twice.contains(&old) && twice.contains(&new), "{twice}");
    Ok(())
}

#[test]
fn the_development_deployment_is_published_by_a_promotion() -> Result<()> {
    let server = Server::start()?;
    let folder = server.bundle("m", "echo", "")?;
    let path = folder.to_str().context("path")?;
    let pushed = server.cli_json(&["push", "--development", path])?;
    let promoted = server.cli_json(&["promote", "m", "development", "--wait"])?;
    let id = &promoted["deployment"]["id"];
    assert_ne!(id, &pushed["deployment"]["id"]);
    assert_eq!(promoted["environment"]["current_deployment"]["id"], *id);
    assert!(echoes(&server)?);
    Ok(())
}

#[test]
fn a_push_goes_to_its_environment_and_waits_for_it() -> Result<()> {
    let server = Server::start()?;
    two_versions(&server)?;
    server.cli_json(&["environment", "create", "m", "staging"])?;
    let folder = server.folder().join("bundles/m");
    let path = folder.to_str().context("path")?;
    let pushed = server.cli_json(&[
        "push",
        path,
        "--environment",
        "staging",
        "--promote",
        "--wait",
    ])?;
    assert_eq!(pushed["deployment"]["environment"], "staging");
    assert_eq!(current(&server, "staging")?, pushed["deployment"]["id"]);
    assert!(echoes(&server)?, "production stays");
    let pushed = server.cli_json(&["push", path, "--promote", "--wait"])?;
    assert_eq!(pushed["deployment"]["is_production"], true);
    assert!(!echoes(&server)?);
    let missing = failed(&server, &["push", path, "--environment", "none"], 1)?;
    assert!(missing.contains("no environment"), "{missing}");
    Ok(())
}

#[test]
fn a_model_that_is_renamed_is_found_by_its_new_name_and_by_its_id() -> Result<()> {
    let server = Server::start()?;
    two_versions(&server)?;
    let id = server.cli_json(&["model", "show", "m"])?["id"].clone();
    let told = words(&server, &["model", "rename", "m", "n"])?;
    assert!(told.contains("/models/n"), "{told}");
    failed(&server, &["model", "show", "m"], 1)?;
    assert_eq!(server.cli_json(&["model", "show", "n"])?["id"], id);
    assert_eq!(words(&server, &["predict", "n", "-d", "x"])?, "x");
    let by_id = words(&server, &["predict", id.as_str().context("id")?, "-d", "x"])?;
    assert_eq!(by_id, "x");
    Ok(())
}
