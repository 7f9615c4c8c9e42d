//! Builds the guests, and puts everything that `samovar push` wants where the manifests look for it.

mod languages;
mod models;
mod ocr;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use cargo_metadata::MetadataCommand;

use crate::toolchain::{self, Toolchain};
pub use ocr::folder as ocr_folder;

/// The workspaces of guests.
const WORKSPACES: [&str; 2] = ["examples", "tests/guests"];

/// Builds every guest into `target/guests/components/` and completes the folders of the examples.
pub fn build() -> Result<()> {
    let toolchain = toolchain::find()?;
    let components = crate::repository().join("target/guests/components");
    std::fs::create_dir_all(&components)?;
    tell_tests(&toolchain)?;
    for workspace in WORKSPACES {
        let folder = crate::repository().join(workspace);
        compile(&toolchain, &folder)?;
        for name in members(&folder)? {
            place(&toolchain, &folder, &name, &components)?;
        }
    }
    place_magika_model()?;
    models::place();
    languages::place(&components);
    ocr::place();
    Ok(())
}

/// Builds `examples/magika` alone, and completes its folder.
pub fn build_magika() -> Result<()> {
    let toolchain = toolchain::find()?;
    let components = crate::repository().join("target/guests/components");
    std::fs::create_dir_all(&components)?;
    let examples = crate::repository().join("examples");
    compile(&toolchain, &examples.join("magika"))?;
    place(&toolchain, &examples, "magika", &components)?;
    place_magika_model()
}

/// Compiles the package or the workspace in a folder.
fn compile(toolchain: &Toolchain, folder: &Path) -> Result<()> {
    let status = toolchain.build().current_dir(folder).status()?;
    ensure!(
        status.success(),
        "building the guests in {} failed ({status})",
        folder.display()
    );
    Ok(())
}

/// Puts a component where tests look for it, and beside its manifest if it has one.
fn place(toolchain: &Toolchain, workspace: &Path, name: &str, components: &Path) -> Result<()> {
    let built = component(toolchain, name)?;
    let place = components.join(format!("{name}.wasm"));
    std::fs::copy(&built, &place)?;
    let size = std::fs::metadata(&place)?.len();
    eprintln!("    {name:<12} {:>7.1} KiB", size as f64 / 1024.0);
    let own = workspace.join(name);
    if own.join("samovar.toml").exists() {
        std::fs::copy(&built, own.join(format!("{name}.wasm")))?;
    }
    Ok(())
}

/// Writes down with which variables `cargo` builds components here, for tests that have it build some.
fn tell_tests(toolchain: &Toolchain) -> Result<()> {
    let place = crate::repository().join("target/guests/variables.json");
    std::fs::write(place, serde_json::to_vec_pretty(&toolchain.variables())?)?;
    Ok(())
}

/// The packages of a workspace, by the folders they lie in.
fn members(workspace: &Path) -> Result<Vec<String>> {
    let mut names: Vec<String> = std::fs::read_dir(workspace)?
        .flatten()
        .filter(|entry| entry.path().join("Cargo.toml").exists())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    Ok(names)
}

/// A component is a library (`name_with_underscores.wasm`) or a binary (`name-with-dashes.wasm`).
fn component(toolchain: &Toolchain, name: &str) -> Result<PathBuf> {
    let folder = toolchain.output();
    [name.replace('-', "_"), name.to_owned()]
        .iter()
        .map(|stem| folder.join(format!("{stem}.wasm")))
        .find(|path| path.exists())
        .with_context(|| format!("guest {name} built no component in {}", folder.display()))
}

/// The model of `examples/magika` comes with the crate `magika`, which nothing here compiles.
fn place_magika_model() -> Result<()> {
    let metadata = MetadataCommand::new()
        .current_dir(crate::repository().join("examples"))
        .exec()
        .context("cargo metadata")?;
    let package = metadata
        .packages
        .iter()
        .find(|package| package.name.as_str() == "magika" && package.source.is_some())
        .context("the crate magika is not among the dependencies of examples/magika")?;
    let folder = package
        .manifest_path
        .parent()
        .context("a manifest lies in a folder")?;
    let model = folder.join("src/model.onnx");
    let place = crate::repository().join("examples/magika/model.onnx");
    std::fs::copy(&model, &place).with_context(|| format!("cannot copy {model}"))?;
    Ok(())
}
