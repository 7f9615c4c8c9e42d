//! Runs of an ONNX Runtime session: tensors in, tensors out.

use std::ffi::CString;
use std::ptr::NonNull;

use half::{bf16, f16};
use ort::AsPointer;
use ort::session::Session;
use ort::value::{DynValue, PrimitiveTensorElementType, TensorRef};

use crate::infer::backend::Model;
use crate::infer::backend::port::{Port, PortType};
use crate::infer::backend::tensor::{Data, Tensor};
use crate::infer::compute::Worker;

/// A session that runs from many threads at once.
pub(super) struct SharedSession {
    session: Session,
    input_names: Vec<CString>,
    output_names: Vec<CString>,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
}

impl Model for SharedSession {
    fn run(&self, tensors: Vec<Tensor>, _worker: &Worker) -> Result<Vec<Tensor>, String> {
        let inputs = self.inputs.iter().zip(&tensors);
        let inputs: Vec<Input<'_>> = inputs
            .map(|(port, tensor)| input(port, tensor))
            .collect::<Result<_, _>>()?;
        let values: Vec<_> = inputs.iter().map(Input::ptr).collect();
        let outputs = self.run_raw(&values).map_err(|e| e.to_string())?;
        let outputs = self.outputs.iter().zip(&outputs);
        outputs.map(|(port, value)| output(port, value)).collect()
    }
}

impl SharedSession {
    /// # Errors
    /// When a name cannot be handed to the library.
    pub fn new(session: Session, inputs: Vec<Port>, outputs: Vec<Port>) -> Result<Self, String> {
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
        })
    }

    /// The library's `Run`, which the binding offers only for exclusive sessions.
    fn run_raw(&self, inputs: &[*const ort::sys::OrtValue]) -> ort::Result<Vec<DynValue>> {
        let names = |names: &[CString]| names.iter().map(|name| name.as_ptr()).collect::<Vec<_>>();
        let (input_names, output_names) = (names(&self.input_names), names(&self.output_names));
        let mut outputs = vec![std::ptr::null_mut(); output_names.len()];
        // SAFETY: names, inputs and outputs are arrays of the lengths given, alive until the call returns. ONNX
        // Runtime documents `OrtApi::Run` as callable from several threads on one session, and its CPU provider,
        // the only one used here, keeps to that; one session per caller would mean a copy of the weights each.
        unsafe {
            ort::Error::result_from_status((ort::api().Run)(
                self.session.ptr().cast_mut(),
                std::ptr::null(),
                input_names.as_ptr(),
                inputs.as_ptr(),
                inputs.len(),
                output_names.as_ptr(),
                output_names.len(),
                outputs.as_mut_ptr(),
            ))?;
        }
        let values = outputs.into_iter().map(|output| {
            let output =
                NonNull::new(output).ok_or_else(|| ort::Error::new("an output is missing"))?;
            // SAFETY: a value that `Run` made, owned by nobody else, from the allocator of this session.
            Ok(unsafe { DynValue::from_ptr(output, Some(self.session.allocator())) })
        });
        values.collect()
    }
}

/// An input of the library's over a tensor's own memory, or over a converted copy.
enum Input<'a> {
    Borrowed(DynRef<'a>),
    Owned(DynValue),
}

type DynRef<'a> = ort::value::DynValueRef<'a>;

impl Input<'_> {
    fn ptr(&self) -> *const ort::sys::OrtValue {
        match self {
            Self::Borrowed(value) => value.ptr(),
            Self::Owned(value) => value.ptr(),
        }
    }
}

fn input<'a>(port: &Port, tensor: &'a Tensor) -> Result<Input<'a>, String> {
    let made = match port.ty {
        PortType::F32 => view::<f32>(tensor),
        PortType::F64 => view::<f64>(tensor),
        PortType::F16 => view::<f16>(tensor),
        PortType::Bf16 => view::<bf16>(tensor),
        PortType::U8 => view::<u8>(tensor),
        PortType::I8 => view::<i8>(tensor),
        PortType::I32 => view::<i32>(tensor),
        PortType::I64 => view::<i64>(tensor),
        PortType::Bool => {
            // Any byte may come from a guest; a bool of any other value than 0 or 1 would be undefined behaviour.
            let bools: Vec<bool> = tensor
                .data
                .as_bytes()
                .iter()
                .map(|byte| *byte != 0)
                .collect();
            ort::value::Tensor::from_array((tensor.shape(), bools))
                .map(|value| Input::Owned(value.into_dyn()))
        }
    };
    made.map_err(|e| format!("input `{}`: {e}", port.name))
}

fn view<T>(tensor: &Tensor) -> ort::Result<Input<'_>>
where
    T: bytemuck::AnyBitPattern + bytemuck::NoUninit + PrimitiveTensorElementType + std::fmt::Debug,
{
    match tensor.data.elements::<T>() {
        std::borrow::Cow::Borrowed(elements) => {
            TensorRef::from_array_view((tensor.shape(), elements))
                .map(|value| Input::Borrowed(value.into_dyn()))
        }
        std::borrow::Cow::Owned(elements) => {
            ort::value::Tensor::from_array((tensor.shape(), elements))
                .map(|value| Input::Owned(value.into_dyn()))
        }
    }
}

fn output(port: &Port, value: &DynValue) -> Result<Tensor, String> {
    fn read<T: PrimitiveTensorElementType + Clone>(
        value: &DynValue,
        wrap: impl FnOnce(Vec<T>) -> Data,
    ) -> ort::Result<(Vec<i64>, Data)> {
        let (shape, elements) = value.try_extract_tensor::<T>()?;
        Ok((shape.to_vec(), wrap(elements.to_vec())))
    }
    let read = match port.ty {
        PortType::F32 => read(value, Data::F32),
        PortType::F64 => read(value, Data::F64),
        PortType::F16 => read(value, Data::F16),
        PortType::Bf16 => read(value, Data::Bf16),
        PortType::U8 => read(value, Data::Bytes),
        PortType::I8 => read::<i8>(value, |data| Data::Bytes(bytemuck::cast_vec(data))),
        PortType::I32 => read(value, Data::I32),
        PortType::I64 => read(value, Data::I64),
        PortType::Bool => read::<bool>(value, |data| {
            Data::Bytes(data.into_iter().map(u8::from).collect())
        }),
    };
    let (shape, data) = read.map_err(|e| format!("output `{}`: {e}", port.name))?;
    let dims = shape.iter().map(|size| u32::try_from(*size));
    Ok(Tensor {
        ty: port.ty.carrier(),
        dims: dims
            .collect::<Result<_, _>>()
            .map_err(|_| format!("output `{}` has a dimension above 2^32", port.name))?,
        data,
    })
}
