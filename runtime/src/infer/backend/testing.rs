//! For tests of inference: the backends, because a process can open ONNX Runtime only once, and small graphs.

#[allow(dead_code, reason = "others use the rest of it")]
#[path = "../../../../tests/support/onnx.rs"]
pub mod onnx;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::{BackendChoice, BackendOptions, Backends};
use onnx::{Node, Value, model};

#[path = "../../../../tests/support/skip.rs"]
#[allow(dead_code, reason = "other tests need other things")]
pub mod skip;

/// The backends of this machine, or of the Python environment of the tests.
pub fn backends() -> Arc<Backends> {
    static BACKENDS: OnceLock<Arc<Backends>> = OnceLock::new();
    let backends = BACKENDS.get_or_init(|| {
        let onnxruntime = library();
        Arc::new(Backends::discover(BackendOptions {
            onnxruntime,
            ..BackendOptions::default()
        }))
    });
    backends.clone()
}

/// The backends that tests can use here.
pub fn choices() -> Vec<BackendChoice> {
    match &backends().onnxruntime {
        Ok(_) => vec![BackendChoice::Rten, BackendChoice::Onnxruntime],
        Err(missing) => {
            let reason = missing.reason.as_deref().unwrap_or_default();
            skip::skip(skip::Need::Onnxruntime, reason);
            vec![BackendChoice::Rten]
        }
    }
}

fn library() -> Option<PathBuf> {
    let python = PathBuf::from(std::env::var_os("SAMOVAR_TEST_PYTHON")?);
    let lib = python.parent()?.parent()?.join("lib");
    let entries = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().flatten();
    let versions: Vec<PathBuf> = entries(&lib).map(|entry| entry.path()).collect();
    let mut libraries = versions
        .iter()
        .flat_map(|version| entries(&version.join("site-packages/onnxruntime/capi")))
        .map(|entry| entry.path());
    libraries.find(|path| path.to_string_lossy().contains("libonnxruntime.so"))
}

/// `sum = softmax(x) + y` and `positive = relu(x)`, all `[?, ?]`. Computes each row independently.
pub fn row_by_row() -> Vec<u8> {
    let softmax = Node {
        op: "Softmax",
        inputs: &["x"],
        output: "soft",
        attribute: Some(("axis", 1)),
    };
    let sum = Node {
        op: "Add",
        inputs: &["soft", "y"],
        output: "sum",
        attribute: None,
    };
    let positive = Node {
        op: "Relu",
        inputs: &["x"],
        output: "positive",
        attribute: None,
    };
    let ports = |names: [&'static str; 2]| {
        names.map(|name| Value {
            name,
            ty: 1,
            dims: &[None, None],
        })
    };
    let (inputs, outputs) = (ports(["x", "y"]), ports(["sum", "positive"]));
    model(13, &[softmax, sum, positive], &inputs, &outputs)
}

/// `mean = mean(x)` over all rows, but declared with as many rows as `x`.
pub fn mixes_rows() -> Vec<u8> {
    let mean = Node {
        op: "ReduceMean",
        inputs: &["x"],
        output: "mean",
        attribute: Some(("keepdims", 1)),
    };
    let port = |name| Value {
        name,
        ty: 1,
        dims: &[None, None],
    };
    model(13, &[mean], &[port("x")], &[port("mean")])
}

/// Returns `x` unchanged, without a node.
pub fn identity() -> Vec<u8> {
    let port = || Value {
        name: "x",
        ty: 1,
        dims: &[None, None],
    };
    model(13, &[], &[port()], &[port()])
}
