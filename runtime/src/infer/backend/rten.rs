//! rten: pure Rust, part of this program, takes any batch from one loaded model.
//!
//! It computes i64 and bool as i32, so values are converted at the border and refused where they do not fit.

mod adapted;
mod defaults;
mod overflow;
mod refusals;
mod rewrites;
mod wide;

use std::path::{Path, PathBuf};

use rten::{
    DataType, Model as RtenModel, ModelOptions, NodeId, RunOptions, Value, ValueOrView, ValueType,
    ValueView,
};
use samovar_onnx::folding::Folding;
use samovar_onnx::port::{Port, PortType};
use samovar_onnx::{ModelProto, mixing};

use adapted::Adaptable;
use defaults::{Defaults, Optional, computes};

use super::keep::{Keep, KeptForms, MAX_KEPT_BYTES};
use super::tensor::{Data, ElementType, Tensor};
use super::{BackendInfo, Device, Loaded, Model, RunError, Runs, Wanted};
use crate::infer::backend::arrange::carrier;
use crate::infer::compute::Worker;

pub(super) const NAME: &str = "rten";
/// Ending of the files of adapted models. Without it rten does not know what they are.
pub(super) const FORM_ENDING: &str = "onnx";
const VERSION: &str = "0.27";

pub(crate) fn info() -> BackendInfo {
    BackendInfo {
        name: NAME,
        version: Some(VERSION.into()),
        path: None,
        targets: vec!["cpu"],
        reason: None,
    }
}

struct Loadable {
    model: RtenModel,
    /// Those that a run must give.
    inputs: Vec<(NodeId, Port)>,
    /// Those after them.
    optional: Vec<Optional>,
    outputs: Vec<(NodeId, Port)>,
    /// What counts elements that do not fit into 32 bits, and where.
    guards: Vec<(NodeId, String)>,
}

/// rten, with the models that were adapted to it before.
pub(super) struct Rten {
    adapted: Option<Keep>,
    /// Where it lays out models whose weights lie in other files.
    scratch: PathBuf,
}

impl Rten {
    /// Keeps adapted models in a folder of its own in `optimized`.
    pub fn new(optimized: Option<&Path>, forms: KeptForms, scratch: PathBuf) -> Self {
        let adapted = optimized.and_then(|folder| {
            let folder = folder.join(NAME);
            let failed = |error: &std::io::Error| {
                tracing::warn!(folder = %folder.display(), %error, "adapted models are not kept");
            };
            let opened = Keep::open(&folder, &adapted::key(), FORM_ENDING, forms);
            opened.inspect_err(failed).ok()
        });
        Self { adapted, scratch }
    }

    /// The name of the folder that adapted models lie in, if any are kept.
    pub fn kept_forms(&self) -> Option<&str> {
        self.adapted.as_ref().map(Keep::name)
    }

    /// Forgets what is kept of a model.
    pub fn forget(&self, digest: &str) {
        if let Some(adapted) = &self.adapted {
            adapted.remove(digest);
        }
    }

    /// Loads a model from its bytes; what of it lies in other files is in `folder`, which may go afterwards.
    ///
    /// # Errors
    /// In words, when rten cannot run the model or would run it wrongly.
    pub fn load(
        &self,
        onnx: &ModelProto,
        bytes: &[u8],
        folder: Option<&Path>,
        wanted: Wanted<'_>,
    ) -> Result<Loaded, String> {
        let inputs = onnx.inputs()?;
        let outputs = onnx.outputs()?;
        let needed = inputs.iter().filter(|port| !port.optional);
        let needed: Vec<Port> = needed.cloned().collect();
        for port in needed.iter().chain(&outputs) {
            if !computes(port.ty) {
                return Err(format!(
                    "`{}` is {}, which rten does not compute",
                    port.name, port.ty
                ));
            }
        }
        let (model, optional, lacks_form) = self.open(onnx, bytes, &inputs, folder, wanted)?;
        let placed = |ports: &[Port]| -> Result<Vec<(NodeId, Port)>, String> {
            ports
                .iter()
                .map(|port| {
                    let id = model.node_id(&port.name).map_err(|e| e.to_string())?;
                    Ok((id, port.clone()))
                })
                .collect()
        };
        let guards = model.output_ids().iter().filter_map(|id| {
            let info = model.node_info(*id)?;
            Some((*id, overflow::guarded(info.name()?)?.to_owned()))
        });
        let loadable = Loadable {
            guards: guards.collect(),
            optional,
            inputs: placed(&needed)?,
            outputs: placed(&outputs)?,
            model,
        };
        Ok(Loaded {
            model: Box::new(loadable),
            backend: NAME,
            device: Device::Cpu,
            runs: Runs::OnWorkers,
            inputs,
            outputs,
            mixes_rows: mixing::operator(onnx),
            lacks_form,
        })
    }

    /// Opens a model, if possible with its optional inputs as inputs, otherwise with their defaults as constants. Also says whether
    /// a form of it is to be made elsewhere.
    fn open(
        &self,
        onnx: &ModelProto,
        bytes: &[u8],
        inputs: &[Port],
        folder: Option<&Path>,
        wanted: Wanted<'_>,
    ) -> Result<(RtenModel, Vec<Optional>, bool), String> {
        let options = options(wanted.folding);
        let from = Adaptable {
            model: onnx,
            bytes,
            open: None,
            folder,
        };
        let load = |model: Vec<u8>| match folder {
            Some(folder) => mapped(model, folder, &self.scratch, &options),
            None => opened(model, &options),
        };
        let Some(defaults) = Defaults::of(inputs, bytes)? else {
            let (model, lacks_form) = match (folder, wanted.digest, &self.adapted) {
                (None, Some(digest), Some(keep)) => kept(keep, digest, &from, &options)?,
                _ => (load(adapted::adapted(&from)?)?, false),
            };
            return Ok((model, defaults::constant(inputs), lacks_form));
        };
        // No form of a model with defaults is kept: which of the two forms works is only known after loading it.
        let with_inputs = || {
            let open = Some(defaults.open.as_slice());
            let model = load(adapted::adapted(&Adaptable { open, ..from })?)?;
            let optional = defaults::of_opened(&model, inputs, || load(defaults.alone()?))?;
            Ok::<_, String>((model, optional))
        };
        let (model, optional) = match with_inputs() {
            Ok(open) => open,
            Err(why) => {
                tracing::info!(why, "rten cannot replace the defaults of a graph");
                let model = load(adapted::adapted(&from)?)?;
                (model, defaults::constant(inputs))
            }
        };
        Ok((model, optional, false))
    }
}

/// rten folds all constants or none, and with none of them it optimizes nothing.
fn options(folding: Folding) -> ModelOptions {
    let mut options = ModelOptions::with_all_ops();
    options.enable_optimization(folding == Folding::On);
    options
}

fn opened(model: Vec<u8>, options: &ModelOptions) -> Result<RtenModel, String> {
    options.load(model).map_err(|e| e.to_string())
}

/// Writes the adapted form of a model to a file that is there; false if no form of it is kept.
///
/// # Errors
/// With operator and node, when rten would compute something wrongly.
pub(super) fn make_form(onnx: &ModelProto, bytes: &[u8], to: &Path) -> Result<bool, String> {
    if Defaults::of(&onnx.inputs()?, bytes)?.is_some() {
        return Ok(false);
    }
    let adapted = adapted::adapted(&Adaptable {
        model: onnx,
        bytes,
        open: None,
        folder: None,
    })?;
    if adapted.len() as u64 > MAX_KEPT_BYTES {
        return Ok(false);
    }
    std::fs::write(to, adapted).map_err(|e| format!("it cannot be written: {e}"))?;
    Ok(true)
}

/// Opens a model as it was adapted before; or adapts it, and keeps that if this process makes forms. Also says whether a form is
/// to be made elsewhere.
fn kept(
    keep: &Keep,
    digest: &str,
    from: &Adaptable<'_>,
    options: &ModelOptions,
) -> Result<(RtenModel, bool), String> {
    if let Some(path) = keep.find(digest) {
        // SAFETY: the file is our own, lies in a folder that only this node writes to, and is replaced by rename, never
        // changed in place.
        match unsafe { options.load_mmap(path) } {
            Ok(model) => return Ok((model, false)),
            Err(error) => tracing::warn!(digest, %error, "an adapted model does not load"),
        }
    }
    let adapted = adapted::adapted(from)?;
    let is_kept = adapted.len() as u64 <= MAX_KEPT_BYTES && !keep.is_declined(digest);
    if is_kept && keep.is_written_here() {
        let made = keep.fresh().and_then(|made| {
            std::fs::write(made.as_ref(), &adapted)?;
            keep.adopt(digest, made)
        });
        if let Err(error) = made {
            tracing::warn!(digest, %error, "an adapted model cannot be kept");
        }
    }
    let lacks_form = is_kept && !keep.is_written_here();
    Ok((opened(adapted, options)?, lacks_form))
}

/// Opens a model whose weights lie in `folder`, and maps them. rten looks for weights beside the model, and engines cannot write
/// to the weights' folder: so the model is written to one below `scratch`, beside links to the weights.
fn mapped(
    model: Vec<u8>,
    folder: &Path,
    scratch: &Path,
    options: &ModelOptions,
) -> Result<RtenModel, String> {
    let failed = |e: std::io::Error| format!("cannot write the model for rten: {e}");
    std::fs::create_dir_all(scratch).map_err(failed)?;
    // It goes at the end; what is mapped stays.
    let made = tempfile::Builder::new()
        .prefix("rten-")
        .tempdir_in(scratch)
        .map_err(failed)?;
    for weights in std::fs::read_dir(folder).map_err(failed)?.flatten() {
        let link = made.path().join(weights.file_name());
        std::os::unix::fs::symlink(weights.path(), link).map_err(failed)?;
    }
    // The folder also holds the model as it was pushed, by another name.
    let path = made.path().join("rten.onnx");
    std::fs::write(&path, model).map_err(failed)?;
    // SAFETY: the files are links to blobs, which nobody changes once they are stored under their digest.
    unsafe { options.load_mmap(&path) }.or_else(|_| {
        // Weights that do not lie at a multiple of their size cannot be used where they are.
        options.load_file(&path).map_err(|e| e.to_string())
    })
}

impl Model for Loadable {
    fn run(&self, inputs: Vec<Tensor>, worker: &Worker) -> Result<Vec<Tensor>, RunError> {
        let mut values = Vec::with_capacity(inputs.len());
        // What came as a guest's bytes is lent to the run, which ends before this does.
        let mut lent = Vec::with_capacity(inputs.len());
        let mut inputs = inputs.into_iter();
        let needed = self.inputs.iter().map(|(id, port)| (port, Some(*id), None));
        let optional = self.optional.iter().map(|one| match &one.replaceable {
            Some((id, default)) => (&one.port, Some(*id), Some(default)),
            None => (&one.port, None, None),
        });
        for (port, id, default) in needed.chain(optional) {
            let given = inputs.next().filter(|tensor| !tensor.is_absent());
            match (given, id, default) {
                (Some(tensor), Some(id), _) => match own(port, tensor)? {
                    Ok(value) => values.push((id, ValueOrView::Value(value))),
                    Err(tensor) => lent.push((id, port, tensor)),
                },
                (Some(_), None, _) => return Err(constant(port)),
                (None, Some(id), Some(default)) => values.push((id, ValueOrView::from(default))),
                (None, ..) => {}
            }
        }
        for (id, port, tensor) in &lent {
            let wanted = self.model.node_info(*id).and_then(|info| info.dtype());
            values.push((*id, input(port, tensor, wanted)?));
        }
        let outputs = self.outputs.iter().map(|(id, _)| *id);
        let guards = self.guards.iter().map(|(id, _)| *id);
        let ids: Vec<NodeId> = outputs.chain(guards).collect();
        let mut options = RunOptions::default();
        options.thread_pool = worker.rten_pool();
        let mut outputs = self
            .model
            .run(values, &ids, Some(options))
            .map_err(|error| refusal_or_failure(&error))?;
        let counts = outputs.split_off(self.outputs.len());
        for ((_, what), count) in self.guards.iter().zip(counts) {
            if !is_zero(&count) {
                return Err(RunError::Inputs(format!(
                    "{what} makes of these inputs i64 values beyond the 32 bits that rten computes with: send smaller ones, or use `backend = \"onnxruntime\"`"
                )));
            }
        }
        self.outputs
            .iter()
            .zip(outputs)
            .map(|((_, port), value)| Ok(output(port, value)?))
            .collect()
    }
}

/// How rten's errors say that an operator cannot compute with the values or the shapes that it was given. Types and what
/// else does not depend on the caller was checked when the model was loaded.
const OF_VALUES: [&str; 2] = [
    "input or attribute has invalid value",
    "incompatible input shapes",
];

fn refusal_or_failure(error: &rten::RunError) -> RunError {
    let text = error.to_string();
    match error.kind() {
        rten::RunErrorKind::InvalidInput => RunError::Inputs(text),
        rten::RunErrorKind::OperatorError if OF_VALUES.iter().any(|words| text.contains(words)) => {
            RunError::Inputs(text)
        }
        _ => RunError::Failed(text),
    }
}

/// Why this input must be left out.
fn constant(port: &Port) -> RunError {
    let (name, ty) = (&port.name, port.ty);
    let why = match computes(ty) {
        true => "rten can run this graph with the default alone".to_owned(),
        false => format!("the input is {ty}, which rten does not compute"),
    };
    RunError::Inputs(format!(
        "input `{name}` has a default, and {why}: leave it out, or use `backend = \"onnxruntime\"`"
    ))
}

fn is_zero(count: &Value) -> bool {
    use rten_tensor::AsView;
    match count {
        Value::Int32Tensor(count) => count.iter().all(|count| *count == 0),
        _ => false,
    }
}

/// A tensor whose elements are rten's already, given over to the run, which may write its output into their memory.
fn own(port: &Port, tensor: Tensor) -> Result<Result<Value, Tensor>, String> {
    let shape = tensor.shape();
    let failed = |e: &dyn std::fmt::Display| format!("input `{}`: {e}", port.name);
    let value = match (port.ty, tensor.data) {
        (PortType::F32, Data::F32(elements)) => {
            Value::from_shape(&shape, elements).map_err(|e| failed(&e))
        }
        (PortType::I32, Data::I32(elements)) => {
            Value::from_shape(&shape, elements).map_err(|e| failed(&e))
        }
        (PortType::U8, Data::Bytes(elements)) => {
            Value::from_shape(&shape, elements).map_err(|e| failed(&e))
        }
        (_, data) => return Ok(Err(Tensor { data, ..tensor })),
    };
    value.map(Ok)
}

/// A tensor as rten takes it: borrowed where the types agree.
fn input<'a>(
    port: &Port,
    tensor: &'a Tensor,
    wanted: Option<ValueType>,
) -> Result<ValueOrView<'a>, RunError> {
    let shape = tensor.shape();
    let failed = |e: &dyn std::fmt::Display| format!("input `{}`: {e}", port.name);
    let i32s = |values: Vec<i32>| {
        Value::from_shape(&shape, values)
            .map(ValueOrView::Value)
            .map_err(|e| failed(&e))
    };
    let value = match port.ty {
        PortType::F32 => view::<f32>(&shape, tensor, &failed),
        PortType::I32 => view::<i32>(&shape, tensor, &failed),
        PortType::U8 => view::<u8>(&shape, tensor, &failed),
        PortType::I8 => view::<i8>(&shape, tensor, &failed),
        PortType::I64 => {
            let wide = tensor.data.elements::<i64>()?;
            let narrow = wide.iter().enumerate().map(|(at, value)| {
                narrow(*value).ok_or_else(|| {
                    RunError::Inputs(failed(&format_args!(
                        "element {at} is {value}, wanted -{MOST} to {MOST}, the 32 bits that rten computes with: send a smaller one, or use `backend = \"onnxruntime\"`",
                        MOST = i32::MAX
                    )))
                })
            });
            i32s(narrow.collect::<Result<_, RunError>>()?)
        }
        PortType::Bool => match wanted {
            Some(ValueType::Tensor(DataType::UInt8)) => view::<u8>(&shape, tensor, &failed),
            _ => {
                let bytes = tensor.data.read()?;
                i32s(bytes.iter().map(|byte| i32::from(*byte != 0)).collect())
            }
        },
        PortType::F16 | PortType::Bf16 | PortType::F64 => {
            Err(failed(&"of a type that rten does not compute"))
        }
    };
    Ok(value?)
}

/// A number in 32 bits. The least of all has no opposite, and so is none that rten could compute with.
fn narrow(wide: i64) -> Option<i32> {
    i32::try_from(wide).ok().filter(|value| *value != i32::MIN)
}

fn view<'a, T>(
    shape: &[usize],
    tensor: &'a Tensor,
    failed: &dyn Fn(&dyn std::fmt::Display) -> String,
) -> Result<ValueOrView<'a>, String>
where
    T: bytemuck::AnyBitPattern + bytemuck::NoUninit,
    ValueView<'a>: From<rten_tensor::TensorView<'a, T>>,
    Value: From<rten_tensor::Tensor<T>>,
{
    match tensor.data.elements::<T>()? {
        std::borrow::Cow::Borrowed(elements) => ValueView::from_shape(shape, elements)
            .map(ValueOrView::View)
            .map_err(|e| failed(&e)),
        std::borrow::Cow::Owned(elements) => Value::from_shape(shape, elements)
            .map(ValueOrView::Value)
            .map_err(|e| failed(&e)),
    }
}

fn output(port: &Port, value: Value) -> Result<Tensor, String> {
    use rten_tensor::Layout;
    let failed = |what: &str| format!("output `{}`: {what}", port.name);
    let dims_of = |shape: &[usize]| -> Result<Vec<u32>, String> {
        shape
            .iter()
            .map(|size| u32::try_from(*size).map_err(|_| failed("a dimension above 2^32")))
            .collect()
    };
    let (dims, data) = match value {
        Value::FloatTensor(tensor) => (dims_of(tensor.shape())?, Data::F32(tensor.into_data())),
        Value::Int32Tensor(tensor) => {
            let dims = dims_of(tensor.shape())?;
            let values = tensor.into_data();
            let data = match port.ty {
                PortType::I64 => Data::I64(values.into_iter().map(i64::from).collect()),
                PortType::Bool => {
                    Data::Bytes(values.into_iter().map(|v| u8::from(v != 0)).collect())
                }
                _ => Data::I32(values),
            };
            (dims, data)
        }
        Value::UInt8Tensor(tensor) => (dims_of(tensor.shape())?, Data::Bytes(tensor.into_data())),
        Value::Int8Tensor(tensor) => {
            let dims = dims_of(tensor.shape())?;
            (dims, Data::Bytes(bytemuck::cast_vec(tensor.into_data())))
        }
        _ => return Err(failed("not a tensor")),
    };
    let ty = match data {
        Data::F32(_) => ElementType::Fp32,
        Data::I32(_) => ElementType::I32,
        Data::I64(_) => ElementType::I64,
        _ => ElementType::U8,
    };
    if ty != carrier(port.ty) {
        return Err(failed(&format!(
            "rten gave {ty}, the graph declares {}",
            port.ty
        )));
    }
    Ok(Tensor { ty, dims, data })
}
