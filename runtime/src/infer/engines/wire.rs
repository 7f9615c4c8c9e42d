//! The protocol between a node and an engine: small messages, followed by the elements of small tensors.
//!
//! Loads and other rare messages are frames on a stream. Runs are messages in rings in shared memory (`ring.rs`), from which each
//! thread of the engine receives the next one.

use samovar_onnx::port::Port;
use serde::{Deserialize, Serialize};

use crate::infer::backend::tensor::{ElementType, Place};
use crate::infer::backend::{BackendChoice, BackendInfo, BackendOptions, Device, Runs, Target};
use crate::process::barrier::Barrier;
use crate::process::confine::Confinement;
pub(super) use crate::process::frames::{decode, encode};

/// The longest message in a ring. Longer ones are in the arena.
pub(super) const MAX_MESSAGE_BYTES: usize = 64 << 10;
/// Elements of a tensor up to this size follow the message; larger ones are in the arena.
pub(super) const MAX_INLINE_BYTES: usize = 8 << 10;
/// Most bytes of elements that follow one message.
pub(super) const MAX_INLINE_TOTAL_BYTES: usize = 32 << 10;

/// A part of the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Span {
    pub at: u64,
    pub bytes: u64,
}

/// The location of the elements of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Elements {
    /// After the message: this number of bytes.
    Inline(u32),
    /// In the arena.
    Arena(Span),
    /// In the engine: an input.
    Stored { tensor: u64, after_run: AfterRun },
    /// In the engine until the node drops it: an output.
    StoredOutput {
        tensor: u64,
        bytes: u64,
        place: Place,
    },
    /// An omitted optional input.
    Absent,
}

/// What an engine does with a stored tensor after a run with it as an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum AfterRun {
    /// Keeps it, because the node has another reference.
    Keep,
    /// Drops it. The run may write into its memory.
    Drop,
}

/// A tensor without its elements.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TensorHead {
    pub ty: ElementType,
    pub dims: Vec<u32>,
    pub elements: Elements,
}

/// The expected duration of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Length {
    /// So short that its caller polls for its end.
    Short,
    Unknown,
}

/// Messages of the node in the request ring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Request {
    Run {
        run: u64,
        graph: u32,
        threads: u32,
        length: Length,
        inputs: Vec<TensorHead>,
    },
    /// Copies the elements of a stored tensor into the arena.
    Read { read: u64, tensor: u64, to: Span },
    /// Drops stored tensors.
    Drop { tensors: Vec<u64> },
    /// Cancels a run.
    Cancel { run: u64 },
    /// Unloads a graph.
    Unload { graph: u32 },
    /// A message in the arena, because it is long.
    Long(Span),
}

/// Messages of the engine in the reply ring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Reply {
    Ran {
        run: u64,
        /// Time in the backend, in nanoseconds.
        took_ns: u64,
        /// Peak memory of the run in bytes; 0 if not measured.
        peak_bytes: u64,
        outputs: Vec<TensorHead>,
    },
    Failed {
        run: u64,
        failure: Failure,
    },
    Read {
        read: u64,
        error: Option<String>,
    },
}

/// Why a run failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Failure {
    Inputs(String),
    Backend(String),
}

/// Messages of the node on the stream.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Order {
    /// The first message: finds the backends.
    Open(Box<Open>),
    Load(Load),
    /// Asks for the bytes that graphs use of each GPU.
    GpuMemory {
        id: u64,
    },
    /// Asks whether the engine responds.
    Ping {
        id: u64,
    },
}

/// The setup of an engine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Open {
    pub backends: BackendOptions,
    /// `None` for a thread of the node.
    pub confinement: Option<Confinement>,
}

/// A graph to load.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Load {
    pub graph: u32,
    pub choice: BackendChoice,
    pub target: Target,
    pub threads: usize,
    pub digest: Option<String>,
    pub source: LoadSource,
}

/// The source of a model.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum LoadSource {
    File(std::path::PathBuf),
    /// A model in a folder that the node has created, with links to its weights.
    ModelDir(std::path::PathBuf),
    /// A model from a guest.
    Bytes(Span),
}

/// Messages of the engine on the stream.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    Opened {
        backends: Vec<BackendHead>,
        /// Why no graph can use a GPU; `None` if some can.
        no_gpus: Option<String>,
        /// The mechanisms that confine the engine, and those that are not available.
        barriers: Vec<Barrier>,
        /// The names of backends, each with the folder of its cached forms.
        form_folders: Vec<(String, String)>,
    },
    Loaded {
        graph: u32,
        loaded: Box<LoadedHead>,
    },
    NotLoaded {
        graph: u32,
        error: String,
    },
    GpuMemory {
        id: u64,
        bytes: Vec<(u32, u64)>,
    },
    Pong {
        id: u64,
    },
}

/// A backend that an engine found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct BackendHead {
    pub name: String,
    pub version: Option<String>,
    pub path: Option<std::path::PathBuf>,
    pub targets: Vec<String>,
    pub reason: Option<String>,
}

impl BackendHead {
    /// Converts it for the protocol.
    pub fn of(info: &BackendInfo) -> Self {
        Self {
            name: info.name.into(),
            version: info.version.clone(),
            path: info.path.clone(),
            targets: info.targets.iter().map(|name| (*name).into()).collect(),
            reason: info.reason.clone(),
        }
    }

    /// Converts it for the node; `None` if there is no such backend.
    pub fn info(self) -> Option<BackendInfo> {
        let targets = self.targets.iter();
        Some(BackendInfo {
            name: backend_name(&self.name)?,
            version: self.version,
            path: self.path,
            targets: targets
                .filter_map(|name| ["cpu", "gpu"].into_iter().find(|known| known == name))
                .collect(),
            reason: self.reason,
        })
    }
}

/// The static name of a backend; `None` if there is no such backend.
pub(super) fn backend_name(name: &str) -> Option<&'static str> {
    ["rten", "onnxruntime"]
        .into_iter()
        .find(|known| *known == name)
}

/// The description of a loaded graph.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct LoadedHead {
    pub backend: String,
    pub device: Device,
    pub place: Place,
    pub runs: Runs,
    pub inputs: Vec<Port>,
    pub outputs: Vec<Port>,
    pub mixes_rows: Option<String>,
    /// Memory of the graph in bytes, if measured.
    pub weight_bytes: Option<u64>,
    /// Peak memory of the load in bytes, if measured.
    pub load_peak_bytes: Option<u64>,
    /// Whether a form that loads faster should be made.
    pub lacks_form: bool,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn heads() -> impl Strategy<Value = Vec<TensorHead>> {
        let elements = prop_oneof![
            any::<u32>().prop_map(Elements::Inline),
            any::<(u64, u64)>().prop_map(|(at, bytes)| Elements::Arena(Span { at, bytes })),
            any::<(u64, u64, i32)>().prop_map(|(tensor, bytes, gpu)| Elements::StoredOutput {
                tensor,
                bytes,
                place: Place::Cuda(gpu),
            }),
            Just(Elements::Absent),
        ];
        let head =
            (prop::collection::vec(any::<u32>(), 0..8), elements).prop_map(|(dims, elements)| {
                TensorHead {
                    ty: ElementType::I64,
                    dims,
                    elements,
                }
            });
        prop::collection::vec(head, 0..5)
    }

    proptest! {
        #[test]
        fn messages_arrive_as_they_were_sent(
            run: u64, graph: u32, threads: u32, inputs in heads(), behind: Vec<u8>
        ) {
            let length = Length::Unknown;
            let request = Request::Run { run, graph, threads, length, inputs };
            let mut bytes = encode(&request).unwrap();
            bytes.extend(&behind);
            let (read, rest) = decode::<Request>(&bytes).unwrap();
            prop_assert_eq!(read, request);
            prop_assert_eq!(rest, &behind[..]);
        }

        #[test]
        fn no_bytes_make_reading_panic(bytes: Vec<u8>) {
            let _ = decode::<Request>(&bytes);
            let _ = decode::<Reply>(&bytes);
            let _ = decode::<Order>(&bytes);
            let _ = decode::<Answer>(&bytes);
        }
    }
}
