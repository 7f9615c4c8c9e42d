//! The templates of new projects: the files of `host/templates/`, which can be built and pushed as they lie there.

/// The name that stands in the templates for the model's.
const NAME: &str = "my-model";
/// The line of the Rust template that finds the SDK from where it lies.
const SDK: &str = r#"samovar-sdk = { path = "../../../sdk" }"#;

/// A file of a template.
#[derive(Debug)]
pub struct File {
    /// Its path in the project.
    pub path: &'static str,
    bytes: &'static [u8],
}

impl File {
    /// What it holds in a project of this name, which finds the SDK by this line of Cargo.toml.
    pub fn named(&self, name: &str, sdk: &str) -> Vec<u8> {
        match std::str::from_utf8(self.bytes) {
            Ok(text) if !self.path.ends_with(".onnx") => {
                text.replace(SDK, sdk).replace(NAME, name).into_bytes()
            }
            _ => self.bytes.to_vec(),
        }
    }
}

macro_rules! template {
    ($name:ident, $folder:literal, [$($path:literal),* $(,)?]) => {
        #[doc = concat!("The files of `host/templates/", $folder, "/`.")]
        pub const $name: &[File] = &[$(File {
            path: $path,
            bytes: include_bytes!(concat!(
                env!("CARGO_MANIFEST_DIR"), "/templates/", $folder, "/", $path
            )),
        }),*];
    };
}

template!(
    RUST,
    "rust",
    [
        "samovar.toml",
        ".gitignore",
        "Cargo.toml",
        "README.md",
        "model.onnx",
        "src/lib.rs",
    ]
);
template!(
    PYTHON,
    "python",
    [
        "samovar.toml",
        ".gitignore",
        "README.md",
        "app.py",
        "build.py",
        "model.onnx",
        "requirements.txt",
        "test_app.py",
        "wit/deps/clocks.wit",
        "wit/deps/http.wit",
        "wit/deps/io.wit",
        "wit/deps/nn.wit",
        "wit/world.wit",
    ]
);
template!(
    JS,
    "js",
    [
        "samovar.toml",
        ".gitignore",
        "README.md",
        "app.js",
        "app.test.js",
        "build.js",
        "fake/hooks.js",
        "fake/host.js",
        "fake/register.js",
        "model.onnx",
        "package.json",
        "wit/deps/clocks.wit",
        "wit/deps/http.wit",
        "wit/deps/io.wit",
        "wit/deps/nn.wit",
        "wit/world.wit",
    ]
);
template!(ONNX, "onnx", ["samovar.toml", "README.md", "model.onnx",]);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Manifest;
    use std::path::Path;
    use std::process::Command;

    const ALL: [(&str, &[File]); 4] = [
        ("rust", RUST),
        ("python", PYTHON),
        ("js", JS),
        ("onnx", ONNX),
    ];

    #[test]
    fn no_file_of_a_template_is_forgotten() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("templates");
        for (template, files) in ALL {
            // What was built there is not part of it.
            let listed = Command::new("git")
                .args(["ls-files", "--cached", "--others", "--exclude-standard"])
                .current_dir(folder.join(template))
                .output()
                .unwrap();
            let mut found: Vec<_> = std::str::from_utf8(&listed.stdout)
                .unwrap()
                .lines()
                .collect();
            found.retain(|path| *path != "Cargo.lock" && *path != "package-lock.json");
            let mut known: Vec<_> = files.iter().map(|file| file.path).collect();
            found.sort_unstable();
            known.sort_unstable();
            assert_eq!(known, found, "{template}");
        }
    }

    #[test]
    fn a_project_bears_its_name_and_nothing_is_left_to_fill_in() {
        for (template, files) in ALL {
            for file in files {
                let text = file.named("iris", "samovar-sdk = { path = \"/x\" }");
                let text = String::from_utf8_lossy(&text).into_owned();
                assert!(!text.contains(NAME), "{template}/{}", file.path);
                assert!(!text.contains("../"), "{template}/{}", file.path);
                if file.path == "samovar.toml" && template != "onnx" {
                    let manifest = Manifest::parse(Path::new("samovar.toml"), &text).unwrap();
                    assert_eq!(manifest.name, "iris");
                    assert!(manifest.build.is_some());
                }
            }
        }
    }
}
