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

/// The option that makes a run release unused memory of the arenas of these devices.
const SHRINK_ARENAS: &CStr = c"memory.enable_memory_arena_shrinkage";
const HOST_ARENA: &CStr = c"cpu:0";
/// The largest input of a run that only releases memory.
const MAX_ZEROS_BYTES: usize = 16 << 20;

/// A session that runs from many threads at once.
pub(super) struct SharedSession {
    session: Session,
    input_names: Vec<CString>,
    output_names: Vec<CString>,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    place: Place,
    /// `None` if outputs are always on the host.
    device: Option<DeviceOutputs>,
    /// Whether the next run releases memory that the library keeps for further runs.
    releases_memory: AtomicBool,
}

/// Outputs of a session on a device: each stays there or is copied to the host, depending on the use of the last one.
struct DeviceOutputs {
    device: MemoryInfo<'static>,
    host: MemoryInfo<'static>,
    /// For each output.
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
        let releases_memory = self.releases_memory.swap(false, Ordering::Relaxed);
        let options = (releases_memory || worker.cancel().is_some()).then(Options::new);
        let options = options.transpose().map_err(|e| e.to_string())?;
        if let Some(options) = options.as_ref().filter(|_| releases_memory) {
            options.release_memory().map_err(|e| e.to_string())?;
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
            // An operator cannot compute with these values, such as an index out of bounds.
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

    fn release_memory(&self) {
        if let Err(error) = self.shrink_arenas() {
            tracing::debug!(error, "memory will be released by the next run");
            self.releases_memory.store(true, Ordering::Relaxed);
        }
    }
}

impl SharedSession {
    /// A session whose outputs may be in this memory.
    ///
    /// # Errors
    /// If a name contains a NUL character, or memory cannot be described.
    pub fn new(
        session: Session,
        inputs: Vec<Port>,
        outputs: Vec<Port>,
        place: Place,
    ) -> Result<Self, String> {
        let device = match place {
            Place::Host => None,
            Place::Cuda(id) => Some(DeviceOutputs::new(
                AllocationDevice::CUDA,
                id,
                outputs.len(),
            )?),
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
            releases_memory: AtomicBool::new(false),
        })
    }

    /// Makes the library release memory that it keeps for further runs. The library does so only at the end of a run, so this starts a run
    /// with zeros that is terminated before its first operator.
    fn shrink_arenas(&self) -> Result<(), String> {
        if self.device.is_some() {
            return Err("it is on a GPU".into());
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
        options.release_memory().map_err(|e| e.to_string())?;
        options.terminate();
        // Fails because it was terminated.
        let _ = self.run_plain(&names, &values, Some(&options));
        Ok(())
    }

    /// The same with outputs bound to the memory of a device.
    #[cfg(test)]
    pub fn bound_to(mut self, device: AllocationDevice<'_>, id: i32) -> Self {
        self.device = Some(DeviceOutputs::new(device, id, self.outputs.len()).unwrap());
        self
    }

    /// Whether this output of the next run is placed on the host.
    #[cfg(test)]
    pub fn is_placed_on_host(&self, at: usize) -> bool {
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
        outputs
            .into_iter()
            .map(|value| self.own_value(value))
            .collect()
    }

    /// Runs with the library's IO binding, which places outputs on the device; `Run` would copy all to the host.
    fn run_bound(
        &self,
        input_names: &[*const c_char],
        inputs: &[*const ort::sys::OrtValue],
        memories: &DeviceOutputs,
        options: Option<&Options>,
    ) -> ort::Result<Vec<DynValue>> {
        let api = ort::api();
        let binding = Binding::new(&self.session)?;
        for (name, value) in input_names.iter().zip(inputs) {
            // SAFETY: binding, name and value are alive; the value stays alive until the run has ended.
            let status = unsafe { (api.BindInput)(binding.0.as_ptr(), *name, *value) };
            // SAFETY: the status of the call, read once.
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
            // SAFETY: the status of the call, read once.
            unsafe { ort::Error::result_from_status(status)? };
        }
        // SAFETY: the binding belongs to the session and to this call, so runs may be concurrent.
        let status = unsafe {
            (api.RunWithBinding)(
                self.session.ptr().cast_mut(),
                options.map_or(null(), Options::ptr),
                binding.0.as_ptr().cast_const(),
            )
        };
        // SAFETY: the status of the call, read once.
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
        // SAFETY: the status of the call, read once.
        unsafe { ort::Error::result_from_status(status)? };
        if count == 0 || values.is_null() {
            return Err(ort::Error::new("there are no outputs"));
        }
        // SAFETY: the library has returned this number of values, in the order in which they were bound.
        let outputs = unsafe { std::slice::from_raw_parts(values, count) }.to_vec();
        // SAFETY: the array is from this allocator, and its values were copied out.
        unsafe { allocator.free(values) };
        outputs
            .into_iter()
            .map(|value| self.own_value(value))
            .collect()
    }

    /// Takes ownership of a value that a run of this session has created.
    fn own_value(&self, value: *mut ort::sys::OrtValue) -> ort::Result<DynValue> {
        let value = NonNull::new(value).ok_or_else(|| ort::Error::new("an output is missing"))?;
        // SAFETY: the run created it without another owner. The value keeps the session alive, and with it its allocator.
        Ok(unsafe { DynValue::from_ptr(value, Some(self.session.allocator())) })
    }
}

impl DeviceOutputs {
    fn new(device: AllocationDevice<'_>, id: i32, outputs: usize) -> Result<Self, String> {
        Ok(Self {
            device: memory_of(device, id)?,
            host: memory_of(AllocationDevice::CPU, 0)?,
            placements: (0..outputs).map(|_| Arc::default()).collect(),
        })
    }
}

/// A small tensor of zeros for this input.
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

/// Options of one run, which can terminate it.
struct Options(NonNull<ort::sys::OrtRunOptions>);

// SAFETY: the library documents `RunOptionsSetTerminate` as callable during a run, and the options are not changed otherwise.
unsafe impl Send for Options {}
// SAFETY: as above.
unsafe impl Sync for Options {}

impl Options {
    fn new() -> ort::Result<Self> {
        let mut options = null_mut();
        // SAFETY: the call writes the new options.
        let status = unsafe { (ort::api().CreateRunOptions)(&mut options) };
        // SAFETY: the status of the call, read once.
        unsafe { ort::Error::result_from_status(status)? };
        NonNull::new(options)
            .map(Self)
            .ok_or_else(|| ort::Error::new("no options were created"))
    }

    /// Makes the run release memory at its end that the library would keep.
    fn release_memory(&self) -> ort::Result<()> {
        let (key, value) = (SHRINK_ARENAS.as_ptr(), HOST_ARENA.as_ptr());
        // SAFETY: the options are alive, and the texts are copied.
        let status = unsafe { (ort::api().AddRunConfigEntry)(self.0.as_ptr(), key, value) };
        // SAFETY: the status of the call, read once.
        unsafe { ort::Error::result_from_status(status) }
    }

    fn ptr(&self) -> *const ort::sys::OrtRunOptions {
        self.0.as_ptr().cast_const()
    }

    /// Ends the run before its next operator.
    fn terminate(&self) {
        // SAFETY: the options are alive.
        let status = unsafe { (ort::api().RunOptionsSetTerminate)(self.0.as_ptr()) };
        // SAFETY: the status of the call, read once.
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
        // SAFETY: the status of the call, read once.
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
