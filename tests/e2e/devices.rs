//! GPUs: listed with the reason why they cannot be used; a graph that wants one gets one or fails, never the CPU unasked.

use anyhow::{Context as _, Result};
use samovar_tests::Server;

fn has_card() -> bool {
    std::path::Path::new("/dev/nvidiactl").exists()
}

#[tokio::test]
async fn a_machine_without_a_card_says_why() -> Result<()> {
    let server = Server::start()?;
    let backends = server.cli_json(&["backends"])?;
    let devices = backends["devices"].as_array().context("no devices")?;
    if has_card() {
        assert!(
            devices
                .iter()
                .all(|one| one["memory_bytes"].as_u64() > Some(0)),
            "{backends}"
        );
        return Ok(());
    }
    assert!(devices.is_empty(), "{backends}");
    let reason = backends["devices_reason"].as_str().context("no reason")?;
    assert!(reason.contains("no NVIDIA driver"), "{reason}");
    let told = String::from_utf8(server.cli(&["backends"])?.stdout)?;
    assert!(told.contains("no GPU: no NVIDIA driver"), "{told}");
    Ok(())
}

#[tokio::test]
async fn a_graph_that_wants_a_card_never_runs_on_the_cpu() -> Result<()> {
    let server = Server::start()?;
    let manifest =
        |target: &str| format!("[graphs.default]\nfile = \"model.onnx\"\ntarget = \"{target}\"\n");
    let model = samovar_tests::repository().join("examples/magika/model.onnx");
    let folder = server.bundle("wants", "magika", &manifest("gpu"))?;
    std::fs::copy(&model, folder.join("model.onnx"))?;
    let pushed = server.cli(&["push", folder.to_str().context("path")?])?;
    let list = server.cli_json(&["deployment", "list", "wants"])?;
    let deployment = &list["deployments"][0];
    if pushed.status.success() {
        // The machine has a card, and it is what the graph runs on.
        let device = deployment["graphs"][0]["device"].as_str().unwrap();
        assert!(device.starts_with("cuda:"), "{list}");
        return Ok(());
    }
    assert_eq!(deployment["status"], "DEPLOY_FAILED", "{list}");
    let reason = deployment["status_reason"].as_str().context("no reason")?;
    assert!(reason.contains("`target = \"gpu\"`"), "{reason}");
    assert!(
        reason.contains("no NVIDIA driver") || reason.contains("CUDA"),
        "{reason}"
    );
    let stderr = String::from_utf8(pushed.stderr)?;
    assert!(stderr.contains("`target = \"gpu\"`"), "{stderr}");
    assert!(deployment["graphs"][0]["device"].is_null());

    // With `auto` it runs, and is said to run on the CPU.
    std::fs::write(
        folder.join("samovar.toml"),
        format!(
            "name = \"wants\"\ncomponent = \"guest.wasm\"\n{}",
            manifest("auto")
        ),
    )?;
    let pushed = server.cli_json(&["push", folder.to_str().context("path")?])?;
    let graph = &pushed["deployment"]["graphs"][0];
    assert_eq!(
        (&graph["name"], &graph["device"]),
        (&"default".into(), &"cpu".into())
    );
    let id = pushed["deployment"]["id"].as_str().unwrap();
    let shown = server.cli(&["deployment", "show", "wants", id])?;
    let shown = String::from_utf8(shown.stdout)?;
    assert!(shown.contains(", cpu"), "{shown}");
    let status = server.cli_json(&["status"])?;
    assert_eq!(status["loaded_graphs"][0]["device"], "cpu");
    Ok(())
}
