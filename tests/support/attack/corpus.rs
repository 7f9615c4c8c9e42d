//! The models that are attacked with: those of the ONNX standard's own tests and mutants of them, as `tests/e2e/attack_models.py`
//! writes them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::values::Tensor;

/// A model and inputs that it is made for.
#[derive(Clone, Debug)]
pub struct Case {
    pub name: String,
    /// Its operators, for people.
    pub operators: String,
    /// Whether two runs of the same inputs may differ.
    pub is_random: bool,
    /// Whether fields of it were changed.
    pub is_mutant: bool,
    pub file: PathBuf,
    pub inputs: Vec<Tensor>,
}

/// Reads what the script printed, a document a line, for the files that it wrote into a folder.
///
/// # Errors
/// When it is not what that script prints.
pub fn read(folder: &Path, printed: &str) -> Result<Vec<Case>> {
    let cases = printed.lines().map(|line| {
        let case: Value = serde_json::from_str(line)?;
        let text = |of: &Value, key: &str| -> Result<String> {
            let text = of[key].as_str();
            Ok(text
                .with_context(|| format!("no {key} in {of}"))?
                .to_owned())
        };
        let inputs = case["inputs"].as_array().context("no inputs")?.iter();
        let inputs = inputs.map(|input| {
            let shape = input["shape"].as_array().context("no shape")?.iter();
            Ok(Tensor {
                name: text(input, "name")?,
                datatype: text(input, "datatype")?,
                shape: shape.filter_map(Value::as_i64).collect(),
                data: hex::decode(text(input, "data")?)?,
            })
        });
        Ok(Case {
            name: text(&case, "name")?,
            operators: text(&case, "operators")?,
            is_random: case["random"] == true,
            is_mutant: case["mutant"] == true,
            file: folder.join(text(&case, "file")?),
            inputs: inputs.collect::<Result<_>>()?,
        })
    });
    let cases: Vec<Case> = cases.collect::<Result<_>>()?;
    ensure!(!cases.is_empty(), "the script printed no case");
    Ok(cases)
}
