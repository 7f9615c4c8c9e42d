//! The SDK's sources, which `samovar init --template rust` copies into a project: the SDK is in no registry, and a path on the
//! machine that built this binary does not exist on others.

use super::templates::File;

/// The folder of a project that holds the copy. Below it, paths are those of Samovar's repository.
pub const FOLDER: &str = "vendor/samovar";
/// The crate's folder in that folder.
pub const CRATE: &str = "sdk";

macro_rules! sources {
    ($($path:literal),* $(,)?) => {
        &[$(File::new(
            concat!("vendor/samovar/", $path),
            include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../", $path)),
        )),*]
    };
}

pub const SOURCES: &[File] = sources![
    "runtime/wit/logging/logging.wit",
    "runtime/wit/wasi-nn/wasi-nn.wit",
    "sdk/Cargo.toml",
    "sdk/README.md",
    "sdk/macros/Cargo.toml",
    "sdk/macros/src/lib.rs",
    "sdk/src/bindings.rs",
    "sdk/src/config.rs",
    "sdk/src/error.rs",
    "sdk/src/files.rs",
    "sdk/src/graph.rs",
    "sdk/src/host_tensor.rs",
    "sdk/src/http/mod.rs",
    "sdk/src/http/request.rs",
    "sdk/src/http/response.rs",
    "sdk/src/http/serve.rs",
    "sdk/src/http/trace.rs",
    "sdk/src/json/mod.rs",
    "sdk/src/json/read.rs",
    "sdk/src/json/write.rs",
    "sdk/src/lib.rs",
    "sdk/src/log.rs",
    "sdk/src/model.rs",
    "sdk/src/nn_host.rs",
    "sdk/src/nn_native.rs",
    "sdk/src/scores.rs",
    "sdk/src/tensor.rs",
    "sdk/src/testing.rs",
    "sdk/wit/deps/config/store.wit",
    "sdk/wit/world.wit",
];

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use super::*;

    #[test]
    fn no_file_of_the_sdk_is_missing() {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let listed = Command::new("git")
            .args(["ls-files", "--cached", "--others", "--exclude-standard"])
            .args(["sdk", "runtime/wit/wasi-nn", "runtime/wit/logging"])
            .current_dir(repository)
            .output()
            .unwrap();
        let listed = String::from_utf8(listed.stdout).unwrap();
        let expected: Vec<String> = listed
            .lines()
            .map(|path| format!("{FOLDER}/{path}"))
            .collect();
        let copied: Vec<&str> = SOURCES.iter().map(|file| file.path).collect();
        assert_eq!(copied, expected);
    }

    #[test]
    fn its_manifests_need_no_workspace_around_them() {
        let manifests = SOURCES
            .iter()
            .filter(|file| file.path.ends_with("Cargo.toml"));
        let texts: Vec<&str> = manifests
            .map(|file| std::str::from_utf8(file.bytes).unwrap())
            .collect();
        assert_eq!(texts.len(), 2);
        for text in texts {
            assert!(!text.contains("workspace = true"), "{text}");
            let version = concat!("version = \"", env!("CARGO_PKG_VERSION"), "\"");
            assert!(text.contains(version), "{text}");
        }
    }
}
