//! What a node and an engine say to each other: small messages, with the elements of small tensors behind them.
//!
//! Loads and everything else that is rare goes through a stream, in frames. Runs go through rings in shared memory
//! (`ring.rs`), from which each thread of the engine takes the next one.

use samovar_onnx::port::Port;
use serde::{Deserialize, Serialize};

use crate::infer::backend::tensor::{ElementType, Place};
use crate::infer::backend::{BackendChoice, BackendInfo, BackendOptions, Device, Runs, Target};
use crate::process::barrier::Barrier;
use crate::process::confine::Confinement;
pub(super) use crate::process::frames::{decode, encode};

/// The longest message about a run. Longer ones go through the arena.
pub(super) const MAX_MESSAGE_BYTES: usize = 64 << 10;
/// Elements of a tensor up to this size go in the message; larger ones go through the arena.
pub(super) const MAX_INLINE_BYTES: usize = 8 << 10;
/// All elements in one message.
pub(super) const MAX_INLINE_TOTAL_BYTES: usize = 32 << 10;

/// A part of the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Span {
    pub at: u64,
    pub bytes: u64,
}

/// Where the elements of a tensor are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Elements {
    /// Behind the message: the next so many bytes.
    Inline(u32),
    /// In the arena.
    Arena(Span),
    /// In the engine, which had it stay: an input.
    Held { tensor: u64, then: Then },
    /// In the engine, until the node drops it: an output.
    Stays {
        tensor: u64,
        bytes: u64,
        place: Place,
    },
    /// Nowhere: an optional input that is left out.
    Absent,
}

/// What becomes of a tensor that stays in an engine when a run has taken it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Then {
    /// Somebody has it yet.
    Keep,
    /// It was given away, and the run may write into its memory.
    Drop,
}

/// A tensor without its elements.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    pub ty: ElementType,
    pub dims: Vec<u32>,
    pub elements: Elements,
}

/// How long a run is going to take, as far as that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Length {
    /// So short that its caller waits for it.
    Short,
    Unknown,
}

/// From the node, through the ring of requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Request {
    Run {
        run: u64,
        graph: u32,
        threads: u32,
        length: Length,
        inputs: Vec<Head>,
    },
    /// Copies the elements of a kept tensor into the arena.
    Read { read: u64, tensor: u64, to: Span },
    /// Drops kept tensors.
    Drop { tensors: Vec<u64> },
    /// Ends a run that nobody waits for any more.
    Stop { run: u64 },
    /// Drops a graph.
    Unload { graph: u32 },
    /// The message is in the arena, because it is long.
    Long(Span),
}

/// From the engine, through the ring of replies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Reply {
    Ran {
        run: u64,
        /// What the backend took.
        took_ns: u64,
        /// The most memory that the run took, where it was measured; else 0.
        peak_bytes: u64,
        outputs: Vec<Head>,
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

/// Why a run gave nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Failure {
    Inputs(String),
    Backend(String),
}

/// From the node, through the stream.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Order {
    /// The first: looks for the backends.
    Open(Box<Open>),
    Load(Load),
    /// Bytes that graphs take of each card.
    UsedOfCards {
        asked: u64,
    },
    /// Asks for a sign of life.
    Ping {
        asked: u64,
    },
}

/// What an engine is for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Open {
    pub backends: BackendOptions,
    /// A thread of the node is confined by nothing.
    pub confinement: Option<Confinement>,
}

/// What is to be loaded.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Load {
    pub graph: u32,
    pub choice: BackendChoice,
    pub target: Target,
    pub threads: usize,
    pub digest: Option<String>,
    pub source: LoadSource,
}

/// Where its bytes are.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum LoadSource {
    File(std::path::PathBuf),
    /// Beside the files with its weights, which the node has laid out.
    ModelDir(std::path::PathBuf),
    /// A guest's own model.
    Bytes(Span),
}

/// From the engine, through the stream.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    Opened {
        backends: Vec<BackendHead>,
        /// Why no graph can use a card, if none can.
        no_cards: Option<String>,
        /// What confines the engine, and what does not.
        barriers: Vec<Barrier>,
        /// The folders in which its backends look for models in their quickest form, by the backends' names.
        kept_forms: Vec<(String, String)>,
    },
    Loaded {
        graph: u32,
        loaded: Box<LoadedHead>,
    },
    NotLoaded {
        graph: u32,
        error: String,
    },
    UsedOfCards {
        asked: u64,
        bytes: Vec<(u32, u64)>,
    },
    Pong {
        asked: u64,
    },
}

/// A backend, as an engine found it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct BackendHead {
    pub name: String,
    pub version: Option<String>,
    pub path: Option<std::path::PathBuf>,
    pub targets: Vec<String>,
    pub reason: Option<String>,
}

impl BackendHead {
    /// For the node.
    pub fn of(info: &BackendInfo) -> Self {
        Self {
            name: info.name.into(),
            version: info.version.clone(),
            path: info.path.clone(),
            targets: info.targets.iter().map(|name| (*name).into()).collect(),
            reason: info.reason.clone(),
        }
    }

    /// As the node knows it; nothing when there is no such backend.
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

/// The name of a backend, if there is one of this name.
pub(super) fn backend_name(name: &str) -> Option<&'static str> {
    ["rten", "onnxruntime"]
        .into_iter()
        .find(|known| *known == name)
}

/// A graph that an engine has loaded, as the node knows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct LoadedHead {
    pub backend: String,
    pub device: Device,
    pub place: Place,
    pub runs: Runs,
    pub inputs: Vec<Port>,
    pub outputs: Vec<Port>,
    pub mixes_rows: Option<String>,
    /// The memory that it takes, where that was measured.
    pub weight_bytes: Option<u64>,
    /// The most memory that loading took, where that was measured.
    pub load_peak_bytes: Option<u64>,
    /// Whether a form of it that loads quicker is to be made.
    pub lacks_form: bool,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn heads() -> impl Strategy<Value = Vec<Head>> {
        let elements = prop_oneof![
            any::<u32>().prop_map(Elements::Inline),
            any::<(u64, u64)>().prop_map(|(at, bytes)| Elements::Arena(Span { at, bytes })),
            any::<(u64, u64, i32)>().prop_map(|(tensor, bytes, card)| Elements::Stays {
                tensor,
                bytes,
                place: Place::Cuda(card),
            }),
            Just(Elements::Absent),
        ];
        let head =
            (prop::collection::vec(any::<u32>(), 0..8), elements).prop_map(|(dims, elements)| {
                Head {
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
