//! The templates of new projects: the files of `host/cli/templates/`, and the WIT that several of them share.

/// The placeholder for the model's name in the templates.
const NAME: &str = "my-model";
/// The line of the Rust template with the SDK's path in this repository.
const SDK: &str = r#"samovar-sdk = { path = "../../../../sdk" }"#;
/// Occurs in all lines that mark parts of a template for the book.
const MARK: &str = "ANCHOR";

/// A file of a template.
#[derive(Debug)]
pub struct File {
    /// Its path in the project.
    pub path: &'static str,
    /// Its content in this repository.
    pub bytes: &'static [u8],
}

impl File {
    /// A file that a project gets at `path`.
    pub const fn new(path: &'static str, bytes: &'static [u8]) -> Self {
        Self { path, bytes }
    }

    /// The file's contents in a project of this name with this line for the SDK in its Cargo.toml.
    pub fn named(&self, name: &str, sdk: &str) -> Vec<u8> {
        match std::str::from_utf8(self.bytes) {
            Ok(text) if !self.path.ends_with(".onnx") => {
                let lines = text.split_inclusive('\n');
                let text: String = lines.filter(|line| !line.contains(MARK)).collect();
                text.replace(SDK, sdk).replace(NAME, name).into_bytes()
            }
            _ => self.bytes.to_vec(),
        }
    }
}

macro_rules! file {
    ($path:literal, $($source:tt)+) => {
        File::new(
            $path,
            include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/", $($source)+)),
        )
    };
}

macro_rules! template {
    ($name:ident, $folder:literal, [$($path:literal),* $(,)?]) => {
        #[doc = concat!("The files of `host/cli/templates/", $folder, "/`.")]
        pub const $name: &[File] = &[$(
            file!($path, "templates/", $folder, "/", $path)
        ),*];
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
        "requirements.txt",
        "test_app.py",
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
        "install.js",
        "package-lock.json",
        "package.json",
    ]
);
template!(ONNX, "onnx", ["samovar.toml", "README.md"]);

/// The graph of every new project.
pub const GRAPH: &[File] = &[file!("model.onnx", "templates/shared/model.onnx")];

/// The WIT of a component, for languages without an SDK.
pub const WIT: &[File] = &[
    file!(
        "wit/deps/clocks.wit",
        "templates/shared/wit/deps/clocks.wit"
    ),
    file!("wit/deps/http.wit", "templates/shared/wit/deps/http.wit"),
    file!("wit/deps/io.wit", "templates/shared/wit/deps/io.wit"),
    file!("wit/deps/nn.wit", "../../runtime/wit/wasi-nn/wasi-nn.wit"),
    file!("wit/world.wit", "templates/shared/wit/world.wit"),
];

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use samovar_bundle::manifest::Manifest;

    use super::*;

    /// The folders of `host/cli/templates/`, and what is taken from each.
    const ALL: [(&str, &[&[File]]); 5] = [
        ("rust", &[RUST]),
        ("python", &[PYTHON]),
        ("js", &[JS]),
        ("onnx", &[ONNX]),
        ("shared", &[GRAPH, WIT]),
    ];

    fn all() -> impl Iterator<Item = (&'static str, &'static File)> {
        ALL.into_iter().flat_map(|(folder, parts)| {
            let files = parts.iter().copied().flatten();
            files.map(move |file| (folder, file))
        })
    }

    #[test]
    fn no_file_of_a_template_is_forgotten() {
        let templates = Path::new(env!("CARGO_MANIFEST_DIR")).join("templates");
        for (folder, _) in ALL {
            // What was built there is not part of it.
            let listed = Command::new("git")
                .args(["ls-files", "--cached", "--others", "--exclude-standard"])
                .current_dir(templates.join(folder))
                .output()
                .unwrap();
            let mut found: Vec<_> = std::str::from_utf8(&listed.stdout)
                .unwrap()
                .lines()
                .filter(|path| *path != "Cargo.lock")
                .collect();
            let known = all().filter(|(from, _)| *from == folder);
            let mut known: Vec<_> = known.map(|(_, file)| file.path).collect();
            // It comes from the runtime, which has the one copy.
            known.retain(|path| *path != "wit/deps/nn.wit");
            found.sort_unstable();
            known.sort_unstable();
            assert_eq!(known, found, "{folder}");
        }
    }

    #[test]
    fn a_project_bears_its_name_and_nothing_is_left_to_fill_in() {
        for (folder, file) in all() {
            let text = file.named("iris", "samovar-sdk = { path = \"/x\" }");
            let text = String::from_utf8_lossy(&text).into_owned();
            for left in [NAME, "../", MARK] {
                assert!(!text.contains(left), "{folder}/{}: {left}", file.path);
            }
            if file.path == "samovar.toml" && folder != "onnx" {
                let manifest = Manifest::parse(Path::new("samovar.toml"), &text).unwrap();
                assert_eq!(manifest.name, "iris");
                assert!(manifest.build.is_some());
            }
        }
    }
}
