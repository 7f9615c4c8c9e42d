//! ONNX Runtime on a card, with inputs and outputs bound: what one writes who wants it fast.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use ort::ep::cuda::ConvAlgorithmSearch;
use ort::ep::{ArenaExtendStrategy, CUDA};
use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use ort::session::Session;
use ort::session::builder::GraphOptimizationLevel;
use ort::value::{DynValue, Tensor};

use crate::Which;
use crate::input::Spec;
use crate::measure::{Runs, in_parallel};
use crate::onnxruntime::{environment, library, value};

/// How cuDNN's algorithms for convolutions are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Search {
    /// By the library's judgement, as Samovar has it
    Heuristic,
    /// By trying all with each new shape
    Exhaustive,
}

/// In which order images lie on the card.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Layout {
    /// As in the model
    Nchw,
    /// With the channels last
    Nhwc,
}

fn open(library: &Path, model: &Path, search: Search, layout: Layout) -> Result<Session> {
    let environment = environment(library)?;
    let search = match search {
        Search::Heuristic => ConvAlgorithmSearch::Heuristic,
        Search::Exhaustive => ConvAlgorithmSearch::Exhaustive,
    };
    let card = CUDA::default()
        .with_arena_extend_strategy(ArenaExtendStrategy::SameAsRequested)
        .with_conv_algorithm_search(search)
        .with_prefer_nhwc(layout == Layout::Nhwc)
        .build()
        .error_on_failure();
    let session = || {
        Session::builder(&environment)?
            .with_optimization_level(GraphOptimizationLevel::All)?
            .with_intra_threads(1)?
            .with_execution_providers([card])?
            .commit_from_file(model)
    };
    session().with_context(|| format!("loading {}", model.display()))
}

fn memory(device: AllocationDevice<'static>) -> Result<MemoryInfo<'static>> {
    let memory = MemoryInfo::new(device, 0, AllocatorType::Device, MemoryType::Default)?;
    Ok(memory.to_owned())
}

fn names(ports: &[ort::value::Outlet]) -> Vec<String> {
    ports.iter().map(|port| port.name().to_owned()).collect()
}

/// Runs on random inputs from the host, to outputs on the host.
pub fn run(
    which: &Which,
    inputs: &[Spec],
    duration: Duration,
    search: Search,
    layout: Layout,
) -> Result<Runs> {
    let mut session = open(library(which)?, &which.model, search, layout)?;
    let (ins, outs) = (names(session.inputs()), names(session.outputs()));
    ensure!(
        ins.len() == inputs.len(),
        "the model has {} inputs, {} were given",
        ins.len(),
        inputs.len()
    );
    let values: Vec<DynValue> = inputs
        .iter()
        .map(|spec| value(spec, 1))
        .collect::<Result<_>>()?;
    let host = memory(AllocationDevice::CPU)?;
    let mut binding = session.create_binding()?;
    let body = || {
        // A request brings new inputs, so they travel each time.
        for (name, value) in ins.iter().zip(&values) {
            binding.bind_input(name, value)?;
        }
        for name in &outs {
            binding.bind_output_to_device(name, &host)?;
        }
        let outputs = session.run_binding(&binding)?;
        std::hint::black_box(&outputs);
        Ok(())
    };
    in_parallel(vec![body], duration)
}

/// What each step of a decode loop took whose state stays on the card.
pub fn decode(
    model: &Path,
    library: &Path,
    elements: usize,
    steps: usize,
) -> Result<Vec<Duration>> {
    let mut session = open(library, model, Search::Heuristic, Layout::Nchw)?;
    let (card, host) = (
        memory(AllocationDevice::CUDA)?,
        memory(AllocationDevice::CPU)?,
    );
    let start = Spec {
        element: crate::input::Element::F32,
        shape: vec![1, elements],
    };
    let mut state = value(&start, 1)?;
    let mut token = 0.5f32;
    let mut took = Vec::with_capacity(steps);
    for _ in 0..steps {
        let begun = Instant::now();
        let input = Tensor::from_array(([1usize, 1], vec![token]))?;
        let mut binding = session.create_binding()?;
        binding.bind_input("token", &input)?;
        binding.bind_input("state", &state)?;
        binding.bind_output_to_device("next_state", &card)?;
        binding.bind_output_to_device("next_token", &host)?;
        let mut outputs = session.run_binding(&binding)?;
        let next = outputs.remove("next_state").context("no next_state")?;
        let (_, found) = outputs["next_token"].try_extract_tensor::<f32>()?;
        token = *found.first().context("no token")?;
        drop(outputs);
        state = next;
        took.push(begun.elapsed());
    }
    Ok(took)
}
