//! `samovar backends`: which inference backends and GPUs the server has, why others cannot be used, and what confines the
//! processes that run graphs.

mod install;

use indicatif::HumanBytes;
use samovar_cli::output::{self, Format, or_dash};
use samovar_client::Client;
use samovar_client::text::printable;
use samovar_types::api::status::{Backend, Confinement, Device, ListBackendsResponse};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List the server's inference backends
    List,
    /// Install ONNX Runtime with pip into the data folder, where `samovar serve` finds it
    #[command(disable_version_flag = true)]
    Install(install::Arguments),
}

pub async fn run(arguments: Arguments, format: Format) -> anyhow::Result<()> {
    match arguments.action {
        None | Some(Action::List) => list(&Client::from_environment()?, format).await,
        Some(Action::Install(arguments)) => install::run(arguments, format).await,
    }
}

async fn list(client: &Client, format: Format) -> anyhow::Result<()> {
    let answer = client.backends().await?;
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
                "graphs run in the server's own process without confinement (`serve --engines in-process`)",
            )
        }
    }
}

fn no_devices(answer: &ListBackendsResponse) -> String {
    match &answer.devices_reason {
        Some(reason) => format!("no GPU: {}", printable(reason)),
        None => "no GPU".into(),
    }
}

fn devices(answer: &ListBackendsResponse) -> Vec<Vec<String>> {
    let size = |bytes: u64| HumanBytes(bytes).to_string();
    let row = |device: &Device| {
        vec![
            printable(&device.name),
            printable(&device.model),
            size(device.memory_bytes),
            size(device.free_memory_bytes),
            size(device.graph_memory_bytes),
            printable(&device.driver_version),
            available(device.available, device.reason.as_ref()),
        ]
    };
    answer.devices.iter().map(row).collect()
}

fn confinement(answer: &ListBackendsResponse) -> Vec<Vec<String>> {
    let active = |barrier: &Confinement| {
        let reason = barrier.reason.as_deref().map(printable);
        match (barrier.active, reason) {
            (true, None) => "yes".into(),
            (true, Some(lacks)) => format!("yes, but {lacks}"),
            (false, reason) => format!("no: {}", reason.unwrap_or_default()),
        }
    };
    let row = |barrier: &Confinement| {
        vec![
            printable(&barrier.name),
            or_dash(barrier.version),
            active(barrier),
        ]
    };
    answer.confinement.iter().map(row).collect()
}

fn available(is_available: bool, reason: Option<&String>) -> String {
    match is_available {
        true => "yes".into(),
        false => format!("no: {}", or_dash(reason)),
    }
}

fn rows(answer: &ListBackendsResponse) -> Vec<Vec<String>> {
    let row = |backend: &Backend| {
        let targets: Vec<_> = backend.targets.iter().map(|one| printable(one)).collect();
        let path = backend.path.as_ref();
        vec![
            printable(&backend.name),
            or_dash(backend.version.as_ref()),
            targets.join(", "),
            available(backend.available, backend.reason.as_ref()),
            or_dash(path.map(|path| path.display())),
        ]
    };
    answer.backends.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What a server answers that has only what is given.
    fn answer(given: serde_json::Value) -> ListBackendsResponse {
        let mut all =
            json!({ "backends": [], "devices": [], "devices_reason": null, "confinement": [] });
        let fields = given.as_object().unwrap().clone();
        all.as_object_mut().unwrap().extend(fields);
        serde_json::from_value(all).unwrap()
    }

    #[test]
    fn a_card_shows_its_memory_and_what_it_lacks() {
        let card = json!({
            "name": "cuda:0", "model": "NVIDIA H100", "memory_bytes": 80_u64 << 30, "free_memory_bytes": 79_u64 << 30,
            "graph_memory_bytes": 1 << 30, "driver_version": "580.1", "available": false, "reason": "built without CUDA",
        });
        assert_eq!(
            devices(&answer(json!({"devices": [card]}))),
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
        let none = answer(json!({"devices": [], "devices_reason": "no NVIDIA driver"}));
        assert!(devices(&none).is_empty());
        assert_eq!(no_devices(&none), "no GPU: no NVIDIA driver");
    }

    #[test]
    fn what_does_not_confine_says_why() {
        let answer = answer(json!({"confinement": [
            {"name": "rlimits", "active": true, "version": null, "reason": null},
            {"name": "landlock", "active": true, "version": 3, "reason": "this version of it does not confine signals"},
            {"name": "seccomp", "active": false, "version": null, "reason": "the kernel takes no filter"},
        ]}));
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
        let answer = answer(json!({"backends": [
            {"name": "rten", "version": "0.27", "path": null, "targets": ["cpu"], "available": true, "reason": null},
            {"name": "onnxruntime", "version": null, "path": null, "targets": ["cpu", "gpu"], "available": false, "reason": "not found"},
        ]}));
        assert_eq!(
            rows(&answer),
            [
                ["rten", "0.27", "cpu", "yes", "-"],
                ["onnxruntime", "-", "cpu, gpu", "no: not found", "-"],
            ]
        );
    }
}
