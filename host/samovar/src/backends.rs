//! `samovar backends`: which inference backends and GPUs the server has, why others cannot be used, and what confines the
//! processes that run graphs.

mod install;

use indicatif::HumanBytes;
use samovar_cli::output::{self, Format, cell};
use samovar_client::Client;
use serde_json::Value;

/// What is done with them; they are listed when nothing is said.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List the server's inference backends
    List,
    /// Fetch ONNX Runtime with pip into the data folder, where `samovar serve` finds it
    #[command(disable_version_flag = true)]
    Install(install::Arguments),
}

/// Does it.
pub async fn run(arguments: Arguments, format: Format) -> anyhow::Result<()> {
    match arguments.action {
        None | Some(Action::List) => list(&Client::from_environment()?, format).await,
        Some(Action::Install(arguments)) => install::run(arguments, format).await,
    }
}

/// Prints them.
async fn list(client: &Client, format: Format) -> anyhow::Result<()> {
    let answer = client.get("/v1/backends").await?;
    match format {
        Format::Json => output::document(&answer),
        Format::Text => {
            output::table(
                &["BACKEND", "VERSION", "TARGETS", "AVAILABLE", "WHERE"],
                rows(&answer),
                "no backends",
            )?;
            output::line("")?;
            output::table(
                &[
                    "DEVICE",
                    "MODEL",
                    "MEMORY",
                    "FREE",
                    "GRAPHS",
                    "DRIVER",
                    "AVAILABLE",
                ],
                devices(&answer),
                &no_devices(&answer),
            )?;
            output::line("")?;
            output::table(
                &["CONFINEMENT", "VERSION", "ACTIVE"],
                confinement(&answer),
                "graphs run in the server's own process, which nothing confines (`serve --engines in-process`)",
            )
        }
    }
}

fn no_devices(answer: &Value) -> String {
    match answer["devices_reason"].as_str() {
        Some(reason) => format!("no GPU: {}", samovar_client::text::printable(reason)),
        None => "no GPU".into(),
    }
}

fn devices(answer: &Value) -> Vec<Vec<String>> {
    let size = |bytes: &Value| HumanBytes(bytes.as_u64().unwrap_or_default()).to_string();
    let row = |device: &Value| {
        vec![
            cell(&device["name"]),
            cell(&device["model"]),
            size(&device["memory_bytes"]),
            size(&device["free_memory_bytes"]),
            size(&device["graph_memory_bytes"]),
            cell(&device["driver_version"]),
            available(device),
        ]
    };
    let devices = answer["devices"].as_array();
    devices.into_iter().flatten().map(row).collect()
}

fn confinement(answer: &Value) -> Vec<Vec<String>> {
    let active = |barrier: &Value| {
        let reason = barrier["reason"]
            .as_str()
            .map(samovar_client::text::printable);
        match (barrier["active"].as_bool(), reason) {
            (Some(true), None) => "yes".into(),
            (Some(true), Some(lacks)) => format!("yes, but {lacks}"),
            (_, reason) => format!("no: {}", reason.unwrap_or_default()),
        }
    };
    let row = |barrier: &Value| {
        vec![
            cell(&barrier["name"]),
            cell(&barrier["version"]),
            active(barrier),
        ]
    };
    let barriers = answer["confinement"].as_array();
    barriers.into_iter().flatten().map(row).collect()
}

fn available(one: &Value) -> String {
    match one["available"].as_bool() {
        Some(true) => "yes".into(),
        _ => format!("no: {}", cell(&one["reason"])),
    }
}

fn rows(answer: &Value) -> Vec<Vec<String>> {
    let backends = answer["backends"].as_array();
    let row = |backend: &Value| {
        let targets = backend["targets"].as_array().into_iter().flatten();
        let targets: Vec<_> = targets.map(cell).collect();
        vec![
            cell(&backend["name"]),
            cell(&backend["version"]),
            targets.join(", "),
            available(backend),
            cell(&backend["path"]),
        ]
    };
    backends.into_iter().flatten().map(row).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_card_shows_its_memory_and_what_it_lacks() {
        let card = json!({
            "name": "cuda:0", "model": "NVIDIA H100", "memory_bytes": 80_u64 << 30, "free_memory_bytes": 79_u64 << 30,
            "graph_memory_bytes": 1 << 30, "driver_version": "580.1", "available": false, "reason": "built without CUDA",
        });
        assert_eq!(
            devices(&json!({"devices": [card]})),
            [[
                "cuda:0",
                "NVIDIA H100",
                "80.00 GiB",
                "79.00 GiB",
                "1.00 GiB",
                "580.1",
                "no: built without CUDA"
            ]]
        );
        let none = json!({"devices": [], "devices_reason": "no NVIDIA driver"});
        assert!(devices(&none).is_empty());
        assert_eq!(no_devices(&none), "no GPU: no NVIDIA driver");
    }

    #[test]
    fn what_does_not_confine_says_why() {
        let answer = json!({"confinement": [
            {"name": "rlimits", "active": true, "version": null, "reason": null},
            {"name": "landlock", "active": true, "version": 3, "reason": "this version of it does not confine signals"},
            {"name": "seccomp", "active": false, "version": null, "reason": "the kernel takes no filter"},
        ]});
        assert_eq!(
            confinement(&answer),
            [
                ["rlimits", "-", "yes"],
                [
                    "landlock",
                    "3",
                    "yes, but this version of it does not confine signals"
                ],
                ["seccomp", "-", "no: the kernel takes no filter"],
            ]
        );
    }

    #[test]
    fn a_backend_that_lacks_says_why() {
        let answer = json!({"backends": [
            {"name": "rten", "version": "0.27", "path": null, "targets": ["cpu"], "available": true, "reason": null},
            {"name": "onnxruntime", "version": null, "path": null, "targets": ["cpu", "gpu"], "available": false, "reason": "not found"},
        ]});
        assert_eq!(
            rows(&answer),
            [
                ["rten", "0.27", "cpu", "yes", "-"],
                ["onnxruntime", "-", "cpu, gpu", "no: not found", "-"],
            ]
        );
    }
}
