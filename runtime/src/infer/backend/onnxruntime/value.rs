//! Values of ONNX Runtime: outputs in memory of the library, and inputs in the memory of a tensor.

use std::any::Any;
use std::borrow::Cow;
use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytemuck::checked::try_cast_slice;
use half::{bf16, f16};
use ort::AsPointer;
use ort::memory::{AllocationDevice, MemoryInfo};
use ort::session::SharedSessionInner;
use ort::value::{
    DynTensorValueType, DynValue, DynValueRef, PrimitiveTensorElementType, TensorRef, ValueType,
};
use samovar_onnx::port::{Port, PortType};

use crate::infer::backend::arrange::carrier;
use crate::infer::backend::tensor::{Data, Kept, Place, Tensor};

/// Where the next output of a port is placed: on the host, until one is an input of another run. So a token that is read arrives
/// with its run, and a state that goes from step to step stays on its device.
#[derive(Debug, Default)]
pub(super) struct OutputPlacement {
    on_device: AtomicBool,
}

impl OutputPlacement {
    pub fn is_host(&self) -> bool {
        !self.on_device.load(Ordering::Relaxed)
    }

    fn set(&self, on_device: bool) {
        // Most outputs are placed as the last one was, and a write would take the cache line from other cores.
        if self.on_device.load(Ordering::Relaxed) != on_device {
            self.on_device.store(on_device, Ordering::Relaxed);
        }
    }
}

/// An output in memory of the library, which can be an input of the next run without a copy.
pub(super) struct Output {
    value: DynValue,
    ty: PortType,
    shape: Vec<usize>,
    bytes: usize,
    place: Place,
    /// The placement of its port, if the port has a choice.
    placement: Option<Arc<OutputPlacement>>,
    // Owns the memory; the allocator of a GPU must not be dropped before it.
    _session: Arc<SharedSessionInner>,
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?} at {:?}", self.ty, self.shape, self.place)
    }
}

impl Kept for Output {
    fn bytes(&self) -> usize {
        self.bytes
    }

    fn place(&self) -> Place {
        self.place
    }

    fn read(&self) -> Result<Cow<'_, [u8]>, String> {
        if let Some(placement) = &self.placement {
            placement.set(false);
        }
        match self.place {
            Place::Host => Ok(Cow::Borrowed(host_bytes(&self.value, self.bytes)?)),
            Place::Cuda(_) => {
                let tensor = self.value.view().downcast::<DynTensorValueType>();
                let copy = tensor.and_then(|tensor| tensor.to(AllocationDevice::CPU, 0));
                let copy = copy.map_err(|e| e.to_string())?.into_dyn();
                Ok(Cow::Owned(host_bytes(&copy, self.bytes)?.to_vec()))
            }
        }
    }
}

/// The elements of a tensor on the host, `bytes` long.
fn host_bytes(value: &DynValue, bytes: usize) -> Result<&[u8], String> {
    match address(value.ptr()) {
        _ if bytes == 0 => Ok(&[]),
        None => Err("its elements cannot be found".into()),
        // SAFETY: the tensor's shape and type take `bytes`, it lies on the host, and nobody writes to it after its run.
        Some(data) => Ok(unsafe { std::slice::from_raw_parts(data.as_ptr().cast_const(), bytes) }),
    }
}

/// The address of the first element of a tensor.
fn address(value: *const ort::sys::OrtValue) -> Option<NonNull<u8>> {
    let mut data = std::ptr::null_mut();
    // SAFETY: the value is alive, and what is written is the address of its elements.
    let status = unsafe { (ort::api().GetTensorMutableData)(value.cast_mut(), &mut data) };
    // SAFETY: the status that the call gave, read once.
    unsafe { ort::Error::result_from_status(status) }.ok()?;
    NonNull::new(data.cast())
}

/// Converts an output of a run for a port.
pub(super) fn output(
    port: &Port,
    value: DynValue,
    inputs: &[Input<'_>],
    session: Arc<SharedSessionInner>,
    placement: Option<Arc<OutputPlacement>>,
) -> Result<Tensor, String> {
    let failed = |what: &dyn fmt::Display| format!("output `{}`: {what}", port.name);
    let ValueType::Tensor { ty, shape, .. } = value.dtype() else {
        return Err(failed(&"not a tensor"));
    };
    if element_type(port.ty) != *ty {
        return Err(failed(&format_args!(
            "onnxruntime gave {ty}, the graph declares {}",
            port.ty
        )));
    }
    let place = place(&value).map_err(|e| failed(&e))?;
    let sizes = shape.iter().map(|size| u32::try_from(*size));
    let dims: Vec<u32> = sizes
        .collect::<Result<_, _>>()
        .map_err(|_| failed(&"a dimension above 2^32"))?;
    let mut tensor = Tensor {
        ty: carrier(port.ty),
        dims,
        data: Data::Bytes(Vec::new()),
    };
    let bytes = tensor
        .wanted_bytes()
        .ok_or_else(|| failed(&"larger than memory"))?;
    let shares_memory =
        |input: &Input<'_>| input.is_borrowed() && address(input.ptr()) == address(value.ptr());
    if inputs.iter().any(shares_memory) {
        // The graph returns an input unchanged, whose memory is freed after this run.
        let copy = host_bytes(&value, bytes)?.to_vec();
        tensor.data = Data::Bytes(copy);
        return Ok(tensor);
    }
    let output = Output {
        ty: port.ty,
        shape: tensor.shape(),
        bytes,
        place,
        value,
        placement,
        _session: session,
    };
    tensor.data = Data::Kept(Arc::new(output));
    Ok(tensor)
}

fn place(value: &DynValue) -> Result<Place, String> {
    let tensor = value.view().downcast::<DynTensorValueType>();
    let tensor = tensor.map_err(|e| e.to_string())?;
    let memory: &MemoryInfo<'_> = tensor.memory_info();
    if memory.is_cpu_accessible() {
        return Ok(Place::Host);
    }
    match memory.allocation_device() {
        device if device == AllocationDevice::CUDA => Ok(Place::Cuda(memory.device_id())),
        device => Err(format!("in the memory of `{}`", device.as_str())),
    }
}

/// An input of a run: a value of the library, or one in the memory of a tensor or of a converted copy.
pub(super) enum Input<'a> {
    Kept(&'a DynValue),
    Borrowed(DynValueRef<'a>),
    Owned(DynValue),
}

impl Input<'_> {
    /// Whether the library borrows the memory of the host.
    fn is_borrowed(&self) -> bool {
        !matches!(self, Self::Kept(_))
    }

    pub fn ptr(&self) -> *const ort::sys::OrtValue {
        match self {
            Self::Kept(value) => value.ptr(),
            Self::Borrowed(value) => value.ptr(),
            Self::Owned(value) => value.ptr(),
        }
    }
}

/// Converts a tensor to an input for the library.
pub(super) fn input<'a>(port: &Port, tensor: &'a Tensor) -> Result<Input<'a>, String> {
    let shape = tensor.shape();
    if let Some(output) = as_output(&tensor.data)
        && output.ty == port.ty
        && output.shape == shape
    {
        if let Some(placement) = &output.placement {
            placement.set(true);
        }
        return Ok(Input::Kept(&output.value));
    }
    let made = match port.ty {
        PortType::F32 => view::<f32>(shape, tensor),
        PortType::F64 => view::<f64>(shape, tensor),
        PortType::F16 => view::<f16>(shape, tensor),
        PortType::Bf16 => view::<bf16>(shape, tensor),
        PortType::U8 => view::<u8>(shape, tensor),
        PortType::I8 => view::<i8>(shape, tensor),
        PortType::I32 => view::<i32>(shape, tensor),
        PortType::I64 => view::<i64>(shape, tensor),
        PortType::Bool => bools(shape, tensor),
    };
    made.map_err(|e| format!("input `{}`: {e}", port.name))
}

fn as_output(data: &Data) -> Option<&Output> {
    let Data::Kept(kept) = data else { return None };
    let any: &dyn Any = &**kept;
    any.downcast_ref()
}

fn view<T>(shape: Vec<usize>, tensor: &Tensor) -> Result<Input<'_>, String>
where
    T: bytemuck::AnyBitPattern + bytemuck::NoUninit + PrimitiveTensorElementType + fmt::Debug,
{
    match tensor.data.elements::<T>()? {
        Cow::Borrowed(elements) => borrowed(shape, elements),
        Cow::Owned(elements) => owned(shape, elements),
    }
}

/// Normalizes bytes of guests: a bool other than 0 or 1 would be undefined behaviour.
fn bools(shape: Vec<usize>, tensor: &Tensor) -> Result<Input<'_>, String> {
    let bytes = tensor.data.read()?;
    if let Cow::Borrowed(bytes) = bytes
        && let Ok(bools) = try_cast_slice::<u8, bool>(bytes)
    {
        return borrowed(shape, bools);
    }
    owned(shape, bytes.iter().map(|byte| *byte != 0).collect())
}

fn borrowed<T>(shape: Vec<usize>, elements: &[T]) -> Result<Input<'_>, String>
where
    T: PrimitiveTensorElementType + fmt::Debug + Clone + 'static,
{
    TensorRef::from_array_view((shape, elements))
        .map(|value| Input::Borrowed(value.into_dyn()))
        .map_err(|e| e.to_string())
}

fn owned<T>(shape: Vec<usize>, elements: Vec<T>) -> Result<Input<'static>, String>
where
    T: PrimitiveTensorElementType + fmt::Debug + Clone + 'static,
{
    ort::value::Tensor::from_array((shape, elements))
        .map(|value| Input::Owned(value.into_dyn()))
        .map_err(|e| e.to_string())
}

fn element_type(ty: PortType) -> ort::value::TensorElementType {
    use ort::value::TensorElementType as Element;
    match ty {
        PortType::F32 => Element::Float32,
        PortType::F64 => Element::Float64,
        PortType::F16 => Element::Float16,
        PortType::Bf16 => Element::Bfloat16,
        PortType::U8 => Element::Uint8,
        PortType::I8 => Element::Int8,
        PortType::I32 => Element::Int32,
        PortType::I64 => Element::Int64,
        PortType::Bool => Element::Bool,
    }
}
