//! Runs of an ONNX Runtime session: tensors in, tensors out.

use std::ffi::{CStr, CString, c_char};
use std::ptr::{NonNull, null, null_mut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ort::AsPointer;
use ort::error::ErrorCode;
use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use ort::session::Session;
use ort::value::DynValue;
use samovar_onnx::port::Port;

use super::value::{Input, OutputPlacement, input, output};
use crate::infer::backend::arrange::carrier;
use crate::infer::backend::tensor::{Data, Place, Tensor};
use crate::infer::backend::{Model, RunError};
use crate::infer::compute::Worker;

/// The option with which a run gives back what the arenas of these devices have no use for.
const SHRINKS: &CStr = c"memory.enable_memory_arena_shrinkage";
const OF_HOST: &CStr = c"cpu:0";
/// The largest input of a run that only gives memory back.
const MAX_ZEROS_BYTES: usize = 16 << 20;

/// A session that runs from many threads at once.
pub(super) struct SharedSession {
    session: Session,
    input_names: Vec<CString>,
    output_names: Vec<CString>,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    place: Place,
    /// When its outputs can be elsewhere than on the host.
    device: Option<OffHost>,
    /// Whether the next run gives back what the library keeps for those after it.
    gives_back: AtomicBool,
}

/// Outputs of a session on a device: each is left there or brought to the host, as the last one was wanted.
struct OffHost {
    device: MemoryInfo<'static>,
    host: MemoryInfo<'static>,
    /// Of each output.
    placements: Vec<Arc<OutputPlacement>>,
}

impl Model for SharedSession {
    fn run(&self, tensors: Vec<Tensor>, worker: &Worker) -> Result<Vec<Tensor>, RunError> {
        let ports = self.inputs.iter().zip(&self.input_names);
        let given = ports
            .zip(&tensors)
            .filter(|(_, tensor)| !tensor.is_absent());
        let mut names = Vec::with_capacity(tensors.len());
        let mut inputs = Vec::with_capacity(tensors.len());
        for ((port, name), tensor) in given {
            names.push(name.as_ptr());
            inputs.push(input(port, tensor).map_err(RunError::Inputs)?);
        }
        let values: Vec<_> = inputs.iter().map(Input::ptr).collect();
        let gives_back = self.gives_back.swap(false, Ordering::Relaxed);
        let options = (gives_back || worker.cancel().is_some()).then(Options::new);
        let options = options.transpose().map_err(|e| e.to_string())?;
        if let Some(options) = options.as_ref().filter(|_| gives_back) {
            options.give_back_memory().map_err(|e| e.to_string())?;
        }
        let options = options.map(Arc::new);
        let cancel = worker.cancel().zip(options.clone());
        let guard = cancel.map(|(cancel, options)| cancel.on_cancel(move || options.terminate()));
        let options = options.as_deref();
        let outputs = match &self.device {
            None => self.run_plain(&names, &values, options),
            Some(memories) => self.run_bound(&names, &values, memories, options),
        };
        drop(guard);
        let outputs = outputs.map_err(|error| match error.code() {
            // What an operator says of values that it cannot compute with, such as an index beyond a tensor's end.
            ErrorCode::InvalidArgument => RunError::Inputs(error.to_string()),
            _ => RunError::Failed(error.to_string()),
        })?;
        let outputs = self.outputs.iter().zip(outputs).enumerate();
        outputs
            .map(|(at, (port, value))| {
                let placements = self.device.as_ref().map(|memories| &memories.placements);
                let placement = placements
                    .and_then(|placements| placements.get(at))
                    .cloned();
                Ok(output(
                    port,
                    value,
                    &inputs,
                    self.session.inner(),
                    placement,
                )?)
            })
            .collect()
    }

    fn place(&self) -> Place {
        self.place
    }

    fn give_back_memory(&self) {
        if let Err(error) = self.shrink_arenas() {
            tracing::debug!(error, "the next run gives memory back");
            self.gives_back.store(true, Ordering::Relaxed);
        }
    }
}

impl SharedSession {
    /// A session whose outputs may stay at `place`.
    ///
    /// # Errors
    /// When a name cannot be handed to the library.
    pub fn new(
        session: Session,
        inputs: Vec<Port>,
        outputs: Vec<Port>,
        place: Place,
    ) -> Result<Self, String> {
        let device = match place {
            Place::Host => None,
            Place::Cuda(id) => Some(OffHost::new(AllocationDevice::CUDA, id, outputs.len())?),
        };
        let c_names = |ports: &[Port]| -> Result<Vec<CString>, String> {
            ports
                .iter()
                .map(|port| CString::new(port.name.as_str()).map_err(|e| e.to_string()))
                .collect()
        };
        Ok(Self {
            input_names: c_names(&inputs)?,
            output_names: c_names(&outputs)?,
            inputs,
            outputs,
            session,
            place,
            device,
            gives_back: AtomicBool::new(false),
        })
    }

    /// Has the library give back at once what it keeps for further runs. It does so only at the end of a run, whatever the run gave: so
    /// this begins one with zeros, which ends before its first operator.
    fn shrink_arenas(&self) -> Result<(), String> {
        if self.device.is_some() {
            return Err("it is on a card".into());
        }
        let needed = || {
            let ports = self.inputs.iter().zip(&self.input_names);
            ports.filter(|(port, _)| !port.optional)
        };
        let tensors = needed().map(|(port, _)| zeros(port));
        let tensors = tensors.collect::<Result<Vec<_>, _>>()?;
        let mut inputs = Vec::with_capacity(tensors.len());
        for ((port, _), tensor) in needed().zip(&tensors) {
            inputs.push(input(port, tensor)?);
        }
        let names: Vec<_> = needed().map(|(_, name)| name.as_ptr()).collect();
        let values: Vec<_> = inputs.iter().map(Input::ptr).collect();
        let options = Options::new().map_err(|e| e.to_string())?;
        options.give_back_memory().map_err(|e| e.to_string())?;
        options.terminate();
        // It says that it was ended.
        let _ = self.run_plain(&names, &values, Some(&options));
        Ok(())
    }

    /// The same with outputs bound to the memory of a device, whichever.
    #[cfg(test)]
    pub fn bound_to(mut self, device: AllocationDevice<'_>, id: i32) -> Self {
        self.device = Some(OffHost::new(device, id, self.outputs.len()).unwrap());
        self
    }

    /// Whether the next output at this place comes to the host with its run.
    #[cfg(test)]
    pub fn brings_to_host(&self, at: usize) -> bool {
        self.device.as_ref().unwrap().placements[at].is_host()
    }

    /// The library's `Run`, which the binding offers only for exclusive sessions.
    fn run_plain(
        &self,
        input_names: &[*const c_char],
        inputs: &[*const ort::sys::OrtValue],
        options: Option<&Options>,
    ) -> ort::Result<Vec<DynValue>> {
        let output_names: Vec<_> = self.output_names.iter().map(|name| name.as_ptr()).collect();
        let mut outputs = vec![null_mut(); output_names.len()];
        // SAFETY: names, inputs and outputs are arrays of the lengths given, alive until the call returns. ONNX
        // Runtime documents `OrtApi::Run` as callable from several threads on one session; one session per caller would
        // mean a copy of the weights each.
        unsafe {
            ort::Error::result_from_status((ort::api().Run)(
                self.session.ptr().cast_mut(),
                options.map_or(null(), Options::ptr),
                input_names.as_ptr(),
                inputs.as_ptr(),
                inputs.len(),
                output_names.as_ptr(),
                output_names.len(),
                outputs.as_mut_ptr(),
            ))?;
        }
        outputs.into_iter().map(|value| self.taken(value)).collect()
    }

    /// Runs with outputs where they are wanted, by the library's IO binding: `Run` would bring all to the host.
    fn run_bound(
        &self,
        input_names: &[*const c_char],
        inputs: &[*const ort::sys::OrtValue],
        memories: &OffHost,
        options: Option<&Options>,
    ) -> ort::Result<Vec<DynValue>> {
        let api = ort::api();
        let binding = Binding::new(&self.session)?;
        for (name, value) in input_names.iter().zip(inputs) {
            // SAFETY: binding, name and value are alive; the value stays so until the run is over.
            let status = unsafe { (api.BindInput)(binding.0.as_ptr(), *name, *value) };
            // SAFETY: the status that the call gave, read once.
            unsafe { ort::Error::result_from_status(status)? };
        }
        for (name, placement) in self.output_names.iter().zip(&memories.placements) {
            let memory = match placement.is_host() {
                true => &memories.host,
                false => &memories.device,
            };
            // SAFETY: binding, name and memory are alive.
            let status = unsafe {
                (api.BindOutputToDevice)(binding.0.as_ptr(), name.as_ptr(), memory.ptr())
            };
            // SAFETY: the status that the call gave, read once.
            unsafe { ort::Error::result_from_status(status)? };
        }
        // SAFETY: session and binding belong together. The binding is this call's own, so runs may happen at once.
        let status = unsafe {
            (api.RunWithBinding)(
                self.session.ptr().cast_mut(),
                options.map_or(null(), Options::ptr),
                binding.0.as_ptr().cast_const(),
            )
        };
        // SAFETY: the status that the call gave, read once.
        unsafe { ort::Error::result_from_status(status)? };
        self.bound_outputs(&binding)
    }

    fn bound_outputs(&self, binding: &Binding) -> ort::Result<Vec<DynValue>> {
        let allocator = ort::memory::Allocator::default();
        let (mut values, mut count) = (null_mut(), 0);
        // SAFETY: the binding has run; values and their number are written.
        let status = unsafe {
            (ort::api().GetBoundOutputValues)(
                binding.0.as_ptr().cast_const(),
                allocator.ptr().cast_mut(),
                &mut values,
                &mut count,
            )
        };
        // SAFETY: the status that the call gave, read once.
        unsafe { ort::Error::result_from_status(status)? };
        if count == 0 || values.is_null() {
            return Err(ort::Error::new("there are no outputs"));
        }
        // SAFETY: the library says that so many values are there, in the order they were bound in.
        let outputs = unsafe { std::slice::from_raw_parts(values, count) }.to_vec();
        // SAFETY: the array came from this allocator, and the values in it were taken out.
        unsafe { allocator.free(values) };
        outputs.into_iter().map(|value| self.taken(value)).collect()
    }

    /// Takes over a value that a run of this session made.
    fn taken(&self, value: *mut ort::sys::OrtValue) -> ort::Result<DynValue> {
        let value = NonNull::new(value).ok_or_else(|| ort::Error::new("an output is missing"))?;
        // SAFETY: the run made it, and nobody else owns it. Who holds it holds the session, and so every allocator of it.
        Ok(unsafe { DynValue::from_ptr(value, Some(self.session.allocator())) })
    }
}

impl OffHost {
    fn new(device: AllocationDevice<'_>, id: i32, outputs: usize) -> Result<Self, String> {
        Ok(Self {
            device: memory_of(device, id)?,
            host: memory_of(AllocationDevice::CPU, 0)?,
            placements: (0..outputs).map(|_| Arc::default()).collect(),
        })
    }
}

/// The smallest tensor that a run takes as this input, or nearly.
fn zeros(port: &Port) -> Result<Tensor, String> {
    let dims = port.dims.as_deref().unwrap_or(&[None]);
    let dims: Vec<u32> = dims.iter().map(|dim| dim.unwrap_or(1)).collect();
    let ty = carrier(port.ty);
    let bytes = dims.iter().try_fold(ty.size(), |bytes, dim| {
        bytes.checked_mul(usize::try_from(*dim).ok()?)
    });
    let bytes = bytes.filter(|bytes| *bytes <= MAX_ZEROS_BYTES);
    let bytes = bytes.ok_or_else(|| format!("its input `{}` is large", port.name))?;
    let data = Data::Bytes(vec![0; bytes]);
    Ok(Tensor { ty, dims, data })
}

fn memory_of(device: AllocationDevice<'_>, id: i32) -> Result<MemoryInfo<'static>, String> {
    MemoryInfo::new(device, id, AllocatorType::Device, MemoryType::Default)
        .map(|memory| memory.to_owned())
        .map_err(|e| e.to_string())
}

/// Options of one run, by which it can be ended.
struct Options(NonNull<ort::sys::OrtRunOptions>);

// SAFETY: the library documents `RunOptionsSetTerminate` as callable while a run goes on, and nothing else is done to them.
unsafe impl Send for Options {}
// SAFETY: as above.
unsafe impl Sync for Options {}

impl Options {
    fn new() -> ort::Result<Self> {
        let mut options = null_mut();
        // SAFETY: the new options are written.
        let status = unsafe { (ort::api().CreateRunOptions)(&mut options) };
        // SAFETY: the status that the call gave, read once.
        unsafe { ort::Error::result_from_status(status)? };
        NonNull::new(options)
            .map(Self)
            .ok_or_else(|| ort::Error::new("no options were made"))
    }

    /// Has the run give back, at its end, memory that the library would keep.
    fn give_back_memory(&self) -> ort::Result<()> {
        let (key, value) = (SHRINKS.as_ptr(), OF_HOST.as_ptr());
        // SAFETY: the options are alive, and the texts are copied.
        let status = unsafe { (ort::api().AddRunConfigEntry)(self.0.as_ptr(), key, value) };
        // SAFETY: the status that the call gave, read once.
        unsafe { ort::Error::result_from_status(status) }
    }

    fn ptr(&self) -> *const ort::sys::OrtRunOptions {
        self.0.as_ptr().cast_const()
    }

    /// Ends the run before its next operator.
    fn terminate(&self) {
        // SAFETY: the options are alive.
        let status = unsafe { (ort::api().RunOptionsSetTerminate)(self.0.as_ptr()) };
        // SAFETY: the status that the call gave, read once.
        if let Err(error) = unsafe { ort::Error::result_from_status(status) } {
            tracing::warn!(%error, "a run cannot be ended");
        }
    }
}

impl Drop for Options {
    fn drop(&mut self) {
        // SAFETY: made by `CreateRunOptions`, dropped once, and no run has them.
        unsafe { (ort::api().ReleaseRunOptions)(self.0.as_ptr()) };
    }
}

/// What one run reads and where its outputs go.
struct Binding(NonNull<ort::sys::OrtIoBinding>);

impl Binding {
    fn new(session: &Session) -> ort::Result<Self> {
        let mut binding = null_mut();
        // SAFETY: the session is alive, and the new binding is written.
        let status =
            unsafe { (ort::api().CreateIoBinding)(session.ptr().cast_mut(), &mut binding) };
        // SAFETY: the status that the call gave, read once.
        unsafe { ort::Error::result_from_status(status)? };
        NonNull::new(binding)
            .map(Self)
            .ok_or_else(|| ort::Error::new("no binding was made"))
    }
}

impl Drop for Binding {
    fn drop(&mut self) {
        // SAFETY: made by `CreateIoBinding`, dropped once.
        unsafe { (ort::api().ReleaseIoBinding)(self.0.as_ptr()) };
    }
}
