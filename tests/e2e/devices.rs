//! GPUs: listed with the reason why they cannot be used; a graph that wants one gets one or fails, never the CPU unasked.

use anyhow::{Context as _, Result};
use samovar_tests::skip::{Need, skip};
use samovar_tests::{Server, onnx};

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

/// Weights of a graph of [`product`].
const PRODUCT_BYTES: u64 = 192 << 20;

/// `y = x · W`, where every element of W is `factor`.
fn product(factor: f32) -> Vec<u8> {
    let (rows, columns) = (4096, PRODUCT_BYTES / 4096 / 4);
    let weights = factor.to_le_bytes().repeat((rows * columns) as usize);
    onnx::model_with(
        17,
        &[onnx::Node {
            op: "MatMul",
            inputs: &["x", "w"],
            output: "y",
            attribute: None,
        }],
        &[onnx::Weight {
            name: "w",
            ty: 1,
            dims: &[rows, columns],
            data: &weights,
        }],
        &[onnx::Value {
            name: "x",
            ty: 1,
            dims: &[None, Some(rows)],
        }],
        &[onnx::Value {
            name: "y",
            ty: 1,
            dims: &[None, Some(columns)],
        }],
    )
}

/// A node whose graphs may take so much of a card; nothing on a machine without one that can be used.
fn node_with_card(gpu_memory: &str) -> Result<Option<Server>> {
    if !has_card() {
        skip(Need::Card, "there is no /dev/nvidiactl");
        return Ok(None);
    }
    let server = Server::start_with(&["--gpu-memory", gpu_memory])?;
    let backends = server.cli_json(&["backends"])?;
    let reason = backends["devices_reason"].as_str();
    if let Some(reason) = reason {
        skip(Need::Card, reason);
    }
    Ok(reason.is_none().then_some(server))
}

fn push_product(server: &Server, name: &str, factor: f32) -> Result<std::process::Output> {
    let manifest = "[graphs.default]\nfile = \"model.onnx\"\ntarget = \"gpu\"\n\
                    [limits]\nbody = \"1MiB\"\n";
    let folder = server.bundle(name, "raw", manifest)?;
    std::fs::write(folder.join("model.onnx"), product(factor))?;
    server.cli(&["push", folder.to_str().context("path")?])
}

#[tokio::test]
async fn graphs_take_turns_on_a_card_that_is_too_small_for_all() -> Result<()> {
    // The first one that is loaded counts for what CUDA itself takes.
    let Some(server) = node_with_card("1200MiB")? else {
        return Ok(());
    };
    let names: Vec<String> = (1..=8).map(|factor| format!("by-{factor}")).collect();
    for (name, factor) in names.iter().zip(1u8..) {
        let pushed = push_product(&server, name, f32::from(factor))?;
        assert!(
            pushed.status.success(),
            "{}",
            String::from_utf8_lossy(&pushed.stderr)
        );
    }
    let mut body = format!("{:<64}", "f32:1x4096").into_bytes();
    body.extend(1f32.to_le_bytes().repeat(4096));
    let client = server.client();
    let mut asked = tokio::task::JoinSet::new();
    for round in 0..3 {
        for (name, factor) in names.iter().zip(1u16..) {
            let url = server.at(&format!("/models/{name}/production/predict"));
            let request = client.post(url).body(body.clone());
            asked.spawn(async move {
                let answer = request.send().await?.error_for_status()?.bytes().await?;
                let first = f32::from_le_bytes(answer[..4].try_into()?);
                // Every product is a power of two times a small number, which no rounding touches.
                assert_eq!(first, f32::from(factor) * 4096.0, "round {round}");
                anyhow::Ok(())
            });
        }
    }
    while let Some(ended) = asked.join_next().await {
        ended??;
    }
    let backends = server.cli_json(&["backends"])?;
    let used = backends["devices"][0]["graph_memory_bytes"].as_u64();
    let used = used.with_context(|| format!("no graph_memory_bytes in {backends}"))?;
    assert!(used > PRODUCT_BYTES && used <= 1200 << 20, "{backends}");
    Ok(())
}

#[tokio::test]
async fn a_graph_that_does_not_fit_on_a_card_alone_is_refused() -> Result<()> {
    let Some(server) = node_with_card("128MiB")? else {
        return Ok(());
    };
    let pushed = push_product(&server, "large", 1.0)?;
    let told = String::from_utf8(pushed.stderr)?;
    assert!(!pushed.status.success(), "{told}");
    assert!(
        told.contains("needs about") && told.contains("cuda:0"),
        "{told}"
    );
    Ok(())
}

/// `det` has no kernel for cards.
#[tokio::test]
async fn an_operator_that_has_no_place_on_a_card_is_named() -> Result<()> {
    let Some(server) = node_with_card("2GiB")? else {
        return Ok(());
    };
    let value = |name| onnx::Value {
        name,
        ty: 1,
        dims: &[None, Some(2), Some(2)],
    };
    let det = onnx::model(
        17,
        &[
            onnx::Node {
                op: "Det",
                inputs: &["x"],
                output: "d",
                attribute: None,
            },
            onnx::Node {
                op: "Exp",
                inputs: &["d"],
                output: "y",
                attribute: None,
            },
        ],
        &[value("x")],
        &[onnx::Value {
            name: "y",
            ty: 1,
            dims: &[None],
        }],
    );
    let manifest = "[graphs.default]\nfile = \"model.onnx\"\ntarget = \"gpu\"\n";
    let folder = server.bundle("det", "raw", manifest)?;
    std::fs::write(folder.join("model.onnx"), det)?;
    let pushed = server.cli(&["push", folder.to_str().context("path")?])?;
    let told = String::from_utf8(pushed.stderr)?;
    assert!(!pushed.status.success(), "{told}");
    assert!(told.contains("no kernel for Det (the-node)"), "{told}");
    Ok(())
}
