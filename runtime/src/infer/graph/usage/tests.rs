//! Joined calls return what they would return alone, on every backend, and do not affect each other.

use futures::future::join_all;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::*;
use crate::infer::backend::BackendChoice;
use crate::infer::backend::tensor::{Data, ElementType};
use crate::infer::backend::testing::{backends, choices, mixes_rows, row_by_row};
use crate::infer::graph::loader::Loader;
use crate::infer::graph::{GraphSpec, GraphStore};

const RULES: Batching = Batching {
    max_size: 8,
    max_delay: Duration::from_millis(20),
};

async fn graph(bytes: Vec<u8>, backend: BackendChoice, name: &str) -> Arc<LoadedGraph> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    std::fs::write(&path, bytes).unwrap();
    let spec = GraphSpec {
        backend,
        // With one thread a short run would not wait for others at all.
        threads: 2,
        batching: Some(RULES),
        ..GraphSpec::for_test(name, path)
    };
    let graph = GraphStore::new(Loader::InProcess(backends()))
        .acquire(&spec)
        .await
        .unwrap();
    graph.check(&spec).unwrap();
    graph
}

fn tensor(rows: u32, width: u32, values: &mut impl Iterator<Item = f32>) -> Tensor {
    let values: Vec<f32> = values.take((rows * width) as usize).collect();
    Tensor {
        ty: ElementType::Fp32,
        dims: vec![rows, width],
        data: Data::F32(values),
    }
}

fn inputs(rows: u32, width: u32, seed: u32) -> Vec<Tensor> {
    let mut values = (seed..).map(|n| (n as f32 * 0.37).sin() * 3.0);
    let x = tensor(rows, width, &mut values);
    let y = tensor(rows, width, &mut values);
    vec![x, y]
}

fn named(inputs: Vec<Tensor>) -> Vec<(String, Tensor)> {
    ["x", "y"]
        .map(str::to_owned)
        .into_iter()
        .zip(inputs)
        .collect()
}

/// A graph of a deployment with `active` requests.
fn with_active(active: usize) -> Arc<DeploymentGraph> {
    let metrics = Arc::<PoolMetrics>::default();
    for _ in 0..active {
        // They never end.
        std::mem::forget(metrics.enter_guest());
    }
    DeploymentGraph::new("g".into(), Some(RULES), metrics)
}

fn close(found: &Tensor, wanted: &Tensor) -> bool {
    let of = |tensor: &Tensor| tensor.data.elements::<f32>().unwrap().into_owned();
    let (a, b) = (of(found), of(wanted));
    found.dims == wanted.dims
        && a.len() == b.len()
        && a.iter()
            .zip(&b)
            .all(|(a, b)| (a - b).abs() <= 1e-5 + 1e-4 * b.abs())
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

#[test]
fn rows_are_what_they_are_alone() {
    let runtime = runtime();
    for backend in choices() {
        let graph = runtime.block_on(graph(row_by_row(), backend, "rows"));
        let calls = prop::collection::vec((1u32..4, 1u32..4), 1..12);
        let mut runner = TestRunner::new(ProptestConfig::with_cases(24));
        let checked = runner.run(&(calls, any::<u16>()), |(calls, seed)| {
            runtime.block_on(async {
                let graph_use = with_active(calls.len());
                let asked: Vec<Vec<Tensor>> = calls
                    .iter()
                    .map(|(rows, width)| inputs(*rows, width * 5, seed.into()))
                    .collect();
                let together = asked
                    .iter()
                    .map(|call| graph_use.run(&graph, named(call.clone())));
                let found = join_all(together).await;
                for (call, found) in asked.into_iter().zip(found) {
                    let queued = QueuedGuard::new(&Arc::default());
                    let wanted = graph
                        .run(Owner::NONE, call, queued, drop)
                        .await
                        .unwrap()
                        .outputs;
                    let (found, _) = found.unwrap();
                    prop_assert_eq!(&found[0].0, "sum");
                    for ((_, found), wanted) in found.iter().zip(&wanted) {
                        prop_assert!(close(found, wanted), "{:?} {:?}", found, wanted);
                    }
                }
                Ok(())
            })
        });
        checked.unwrap();
    }
}

#[test]
fn calls_that_are_known_to_come_are_one_run() {
    let runtime = runtime();
    for backend in choices() {
        let graph = runtime.block_on(graph(row_by_row(), backend, "one"));
        let graph_use = with_active(4);
        let calls = (0..4).map(|seed| graph_use.run(&graph, named(inputs(2, 3, seed))));
        let found = runtime.block_on(join_all(calls));
        assert!(found.iter().all(Result::is_ok));
        let totals = graph_use.totals();
        assert_eq!((totals.rows.sum, totals.runs_us.count()), (8, 1));
        assert_eq!(totals.waits_us.count(), 4);
        assert_eq!(totals.queued, 0);
    }
}

#[test]
fn a_call_that_does_not_fit_affects_no_other() {
    let runtime = runtime();
    for backend in choices() {
        let graph = runtime.block_on(graph(row_by_row(), backend, "harm"));
        let graph_use = with_active(4);
        // Fits the graph's ports, and fails in it: the widths of `x` and `y` do not go together.
        let broken = || {
            let mut values = (0..).map(|n| n as f32);
            let x = tensor(1, 3, &mut values);
            vec![x, tensor(1, 2, &mut values)]
        };
        let calls = [inputs(1, 3, 0), broken(), inputs(1, 3, 9), broken()];
        let calls = calls.map(|call| graph_use.run(&graph, named(call)));
        let found = runtime.block_on(join_all(calls));
        let ok: Vec<bool> = found.iter().map(Result::is_ok).collect();
        assert_eq!(ok, [true, false, true, false]);
    }
}

#[test]
fn a_graph_that_mixes_rows_is_found_out_and_run_call_by_call() {
    let runtime = runtime();
    for backend in choices() {
        let graph = runtime.block_on(graph(mixes_rows(), backend, "mixes_rows"));
        for _ in 0..2 {
            let graph_use = with_active(3);
            let calls = [1.0, 2.0, 3.0].map(|value| {
                let x = tensor(1, 2, &mut std::iter::repeat(value));
                graph_use.run(&graph, vec![("x".to_owned(), x)])
            });
            let found = runtime.block_on(join_all(calls));
            let means = found.into_iter().map(|found| {
                let (outputs, _) = found.unwrap();
                outputs[0].1.data.elements::<f32>().unwrap()[0]
            });
            assert_eq!(means.collect::<Vec<_>>(), [1.0, 2.0, 3.0]);
        }
    }
}

#[tokio::test]
async fn a_cancelled_call_leaves_nothing_behind() {
    let graph = graph(row_by_row(), BackendChoice::Rten, "gone").await;
    let graph_use = with_active(9);
    let mut call = Box::pin(graph_use.run(&graph, named(inputs(1, 3, 0))));
    assert!(futures::poll!(&mut call).is_pending());
    assert_eq!(graph_use.totals().queued, 1);
    drop(call);
    assert_eq!(graph_use.totals().queued, 0);
    let found = graph_use.run(&graph, named(inputs(1, 3, 0))).await;
    assert!(found.is_ok());
}
