//! The bundles that are pushed: copies of examples, and guests around a model.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A bundle of the smallest guest with these lines of `[autoscaling]`.
pub fn hello(folder: &Path, name: &str, autoscaling: &str) -> Result<PathBuf> {
    let example = crate::repository().join("examples/hello");
    variant(folder, name, &example, autoscaling)
}

/// A copy of an example with these lines of `[autoscaling]`.
pub fn variant(folder: &Path, name: &str, example: &Path, autoscaling: &str) -> Result<PathBuf> {
    let bundle = folder.join(name);
    std::fs::create_dir_all(&bundle)?;
    for entry in std::fs::read_dir(example)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            std::fs::copy(entry.path(), bundle.join(entry.file_name()))?;
        }
    }
    let manifest = bundle.join("samovar.toml");
    let text = std::fs::read_to_string(&manifest)?;
    std::fs::write(&manifest, format!("{text}\n[autoscaling]\n{autoscaling}\n"))?;
    Ok(bundle)
}

/// One of the guests with a model, which lies in the bundle's folder already or is copied there.
pub struct Around<'a> {
    pub guest: &'a str,
    pub model: &'a Path,
    /// As the manifest has it.
    pub backend: &'a str,
    /// More lines of `[graphs.default]`.
    pub graph: &'a str,
    /// Lines of `[autoscaling]`.
    pub autoscaling: &'a str,
}

impl Around<'_> {
    pub fn write(&self, folder: &Path, name: &str) -> Result<PathBuf> {
        let bundle = folder.join(name);
        std::fs::create_dir_all(&bundle)?;
        let component = crate::repository()
            .join("target/guests/components")
            .join(format!("{}.wasm", self.guest));
        std::fs::copy(&component, bundle.join("guest.wasm"))
            .with_context(|| format!("no guest {}", component.display()))?;
        let place = bundle.join("model.onnx");
        if place != self.model {
            std::fs::copy(self.model, &place)
                .with_context(|| format!("no model {}", self.model.display()))?;
        }
        let Self {
            backend,
            graph,
            autoscaling,
            ..
        } = self;
        let manifest = format!(
            "name = \"{name}\"\ncomponent = \"guest.wasm\"\n\n\
             [graphs.default]\nfile = \"model.onnx\"\nbackend = \"{backend}\"\n{graph}\n\n\
             [limits]\nbody = \"200MiB\"\n\n[autoscaling]\n{autoscaling}\n"
        );
        std::fs::write(bundle.join("samovar.toml"), manifest)?;
        Ok(bundle)
    }
}
