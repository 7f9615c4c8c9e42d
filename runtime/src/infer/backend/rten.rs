//! rten: pure Rust, part of this program.
//!
//! It computes i64 and bool as i32, so values are converted, and refused if they do not fit.

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

use super::model_cache::{CacheAccess, MAX_CACHED_BYTES, ModelCache};
use super::tensor::{Data, ElementType, Tensor};
use super::{BackendInfo, Device, LoadRequest, Loaded, Model, RunError, Runs};
use crate::infer::backend::arrange::carrier;
use crate::infer::compute::Worker;

pub(super) const NAME: &str = "rten";
/// Extension of adapted models, by which rten recognizes the format.
pub(super) const FORM_EXTENSION: &str = "onnx";
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
    /// Outputs that count elements that do not fit into 32 bits, each with a description of its node.
    guards: Vec<(NodeId, String)>,
}

/// rten, with a cache of adapted models.
pub(super) struct Rten {
    adapted: Option<ModelCache>,
    /// The folder for copies of models with external weights.
    scratch: PathBuf,
}

impl Rten {
    /// Caches adapted models in a folder below `optimized`.
    pub fn new(optimized: Option<&Path>, access: CacheAccess, scratch: PathBuf) -> Self {
        let adapted = optimized.and_then(|folder| {
            let folder = folder.join(NAME);
            let failed = |error: &std::io::Error| {
                tracing::warn!(folder = %folder.display(), %error, "adapted models are not cached");
            };
            let opened = ModelCache::open(&folder, &adapted::key(), FORM_EXTENSION, access);
            opened.inspect_err(failed).ok()
        });
        Self { adapted, scratch }
    }

    /// The name of the folder of adapted models, if they are cached.
    pub fn form_folder(&self) -> Option<&str> {
        self.adapted.as_ref().map(ModelCache::name)
    }

    /// Deletes the adapted form of a model.
    pub fn delete_form(&self, digest: &str) {
        if let Some(adapted) = &self.adapted {
            adapted.remove(digest);
        }
    }

    /// Loads a model. Its external weights are in `folder`, which may be removed afterwards.
    ///
    /// # Errors
    /// If rten cannot run the model or would compute it wrongly.
    pub fn load(
        &self,
        onnx: &ModelProto,
        bytes: &[u8],
        folder: Option<&Path>,
        request: LoadRequest<'_>,
    ) -> Result<Loaded, String> {
        let inputs = onnx.inputs()?;
        let outputs = onnx.outputs()?;
        let needed = inputs.iter().filter(|port| !port.optional);
        let needed: Vec<Port> = needed.cloned().collect();
        for port in needed.iter().chain(&outputs) {
            if !computes(port.ty) {
                return Err(format!(
                    "`{}` is {}, which rten does not support",
                    port.name, port.ty
                ));
            }
        }
        let (model, optional, lacks_form) = self.open(onnx, bytes, &inputs, folder, request)?;
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

    /// Opens a model, if possible with its optional inputs as inputs, otherwise with their defaults as constants. Also returns whether
    /// another process should make its form.
    fn open(
        &self,
        onnx: &ModelProto,
        bytes: &[u8],
        inputs: &[Port],
        folder: Option<&Path>,
        request: LoadRequest<'_>,
    ) -> Result<(RtenModel, Vec<Optional>, bool), String> {
        let options = options(request.folding);
        let from = Adaptable {
            model: onnx,
            bytes,
            open: None,
            folder,
        };
        let load = |model: Vec<u8>| match folder {
            Some(folder) => open_with_weights(model, folder, &self.scratch, &options),
            None => opened(model, &options),
        };
        let Some(defaults) = Defaults::of(inputs, bytes)? else {
            let (model, lacks_form) = match (folder, request.digest, &self.adapted) {
                (None, Some(digest), Some(cache)) => open_cached(cache, digest, &from, &options)?,
                _ => (load(adapted::adapted(&from)?)?, false),
            };
            return Ok((model, defaults::constant(inputs), lacks_form));
        };
        // Models with defaults are not cached: which of the two forms works is known only after the load.
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

/// rten folds all constants or none, and without folding it does not optimize.
fn options(folding: Folding) -> ModelOptions {
    let mut options = ModelOptions::with_all_ops();
    options.enable_optimization(folding == Folding::On);
    options
}

fn opened(model: Vec<u8>, options: &ModelOptions) -> Result<RtenModel, String> {
    options.load(model).map_err(|e| e.to_string())
}

/// Writes the adapted form of a model to an existing file. Returns `false` if the model is not cached.
///
/// # Errors
/// The operator and node that rten would compute wrongly.
pub(super) fn make_form(onnx: &ModelProto, bytes: &[u8], to: &Path) -> Result<bool, String> {
    if defaults::any(&onnx.inputs()?) {
        return Ok(false);
    }
    let adapted = adapted::adapted(&Adaptable {
        model: onnx,
        bytes,
        open: None,
        folder: None,
    })?;
    if adapted.len() as u64 > MAX_CACHED_BYTES {
        return Ok(false);
    }
    std::fs::write(to, adapted).map_err(|e| format!("it cannot be written: {e}"))?;
    Ok(true)
}

/// Opens the cached form of a model; or adapts the model, and caches the form if this process makes forms. Also returns whether another
/// process should make the form.
fn open_cached(
    cache: &ModelCache,
    digest: &str,
    from: &Adaptable<'_>,
    options: &ModelOptions,
) -> Result<(RtenModel, bool), String> {
    if let Some(path) = cache.find(digest) {
        // SAFETY: only this node writes to the folder, and files are replaced by rename, never changed in place.
        match unsafe { options.load_mmap(path) } {
            Ok(model) => return Ok((model, false)),
            Err(error) => tracing::warn!(digest, %error, "cached form of a model does not load"),
        }
    }
    let adapted = adapted::adapted(from)?;
    let is_cacheable = adapted.len() as u64 <= MAX_CACHED_BYTES && !cache.is_declined(digest);
    if is_cacheable && cache.is_writable() {
        let made = cache.create_entry().and_then(|made| {
            std::fs::write(made.as_ref(), &adapted)?;
            cache.commit(digest, made)
        });
        if let Err(error) = made {
            tracing::warn!(digest, %error, "adapted model cannot be cached");
        }
    }
    let lacks_form = is_cacheable && !cache.is_writable();
    Ok((opened(adapted, options)?, lacks_form))
}

/// Opens a model with external weights in `folder`, and maps them. rten expects the weights beside the model, and engines cannot write to
/// `folder`, so the model is written to a folder below `scratch`, with links to the weights.
fn open_with_weights(
    model: Vec<u8>,
    folder: &Path,
    scratch: &Path,
    options: &ModelOptions,
) -> Result<RtenModel, String> {
    let failed = |e: std::io::Error| format!("cannot write the model for rten: {e}");
    std::fs::create_dir_all(scratch).map_err(failed)?;
    // Removed at the end; mapped files stay.
    let made = tempfile::Builder::new()
        .prefix("rten-")
        .tempdir_in(scratch)
        .map_err(failed)?;
    for weights in std::fs::read_dir(folder).map_err(failed)?.flatten() {
        let link = made.path().join(weights.file_name());
        std::os::unix::fs::symlink(weights.path(), link).map_err(failed)?;
    }
    // `folder` also has the original model under another name.
    let path = made.path().join("rten.onnx");
    std::fs::write(&path, model).map_err(failed)?;
    // SAFETY: the files are links to blobs, which are never changed after they were stored.
    unsafe { options.load_mmap(&path) }.or_else(|_| {
        // Weights that are not aligned cannot be mapped.
        options.load_file(&path).map_err(|e| e.to_string())
    })
}

impl Model for Loadable {
    fn run(&self, inputs: Vec<Tensor>, worker: &Worker) -> Result<Vec<Tensor>, RunError> {
        let mut values = Vec::with_capacity(inputs.len());
        // Bytes of guests are borrowed by the run.
        let mut borrowed = Vec::with_capacity(inputs.len());
        let mut inputs = inputs.into_iter();
        let needed = self.inputs.iter().map(|(id, port)| (port, Some(*id), None));
        let optional = self.optional.iter().map(|one| match &one.replaceable {
            Some((id, default)) => (&one.port, Some(*id), Some(default)),
            None => (&one.port, None, None),
        });
        for (port, id, default) in needed.chain(optional) {
            let given = inputs.next().filter(|tensor| !tensor.is_absent());
            match (given, id, default) {
                (Some(tensor), Some(id), _) => match move_input(port, tensor)? {
                    Ok(value) => values.push((id, ValueOrView::Value(value))),
                    Err(tensor) => borrowed.push((id, port, tensor)),
                },
                (Some(_), None, _) => return Err(constant(port)),
                (None, Some(id), Some(default)) => values.push((id, ValueOrView::from(default))),
                (None, ..) => {}
            }
        }
        for (id, port, tensor) in &borrowed {
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
            .map_err(|error| classify_error(&error))?;
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

/// Parts of rten's errors for values or shapes that an operator cannot compute with. Types and everything else that does not depend on
/// the caller was checked when the model was loaded.
const INPUT_ERRORS: [&str; 2] = [
    "input or attribute has invalid value",
    "incompatible input shapes",
];

fn classify_error(error: &rten::RunError) -> RunError {
    let text = error.to_string();
    match error.kind() {
        rten::RunErrorKind::InvalidInput => RunError::Inputs(text),
        rten::RunErrorKind::OperatorError
            if INPUT_ERRORS.iter().any(|words| text.contains(words)) =>
        {
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

/// Moves a tensor whose elements rten can use directly into the run, which may write its output into their memory.
fn move_input(port: &Port, tensor: Tensor) -> Result<Result<Value, Tensor>, String> {
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

/// Converts a tensor for rten; borrows it if the types agree.
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
            Err(failed(&"of a type that rten does not support"))
        }
    };
    Ok(value?)
}

/// Converts a number to 32 bits. Excludes the least number, which has no negation, so that rten could not compute with it.
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
