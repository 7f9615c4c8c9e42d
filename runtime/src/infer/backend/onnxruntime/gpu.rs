//! ONNX Runtime on GPUs: which models are in the memory of one, how a model is opened there, and which nodes stay on the CPU.

mod cache;
mod placement;
pub(super) mod session;

pub(super) use cache::GpuModels;
pub(in crate::infer::backend) use session::CpuFallback;
