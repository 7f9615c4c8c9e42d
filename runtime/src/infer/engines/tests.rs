//! Engines as threads of this process: everything but what takes a process to show.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use samovar_onnx::port::PortType;

use super::*;
use crate::infer::backend::tensor::{Data, ElementType, Tensor};
use crate::infer::backend::testing::onnx::{Node, Value, model};
use crate::infer::backend::testing::row_by_row;
use crate::infer::backend::{BackendChoice, BackendOptions, LoadRequest, Loaded, Source};
use crate::infer::compute::Worker;

fn fleet() -> Arc<Fleet> {
    let options = BackendOptions {
        // A process can open the library but once, and other tests do.
        onnxruntime: Some("/nowhere".into()),
        ..BackendOptions::default()
    };
    let load_timeout = Duration::from_secs(600);
    Fleet::open(
        Program::Thread,
        Confinement::default(),
        load_timeout,
        1 << 40,
        options,
    )
    .unwrap()
}

/// Loads on a thread that may block, as callers do.
async fn load(fleet: &Arc<Fleet>, path: &Path) -> Result<Loaded, String> {
    let (fleet, path) = (fleet.clone(), path.to_owned());
    tokio::task::spawn_blocking(move || {
        let wanted = LoadRequest {
            choice: BackendChoice::Rten,
            threads: 1,
            name: "rows",
            ..LoadRequest::default()
        };
        fleet
            .load(&Source::File(&path), wanted)
            .map_err(|e| e.to_string())
    })
    .await
    .unwrap()
}

fn rows(count: u32, columns: u32, value: f32) -> Tensor {
    Tensor {
        ty: ElementType::Fp32,
        dims: vec![count, columns],
        data: Data::F32(vec![value; (count * columns) as usize]),
    }
}

fn stored(bytes: &[u8]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::with_suffix(".onnx").unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    file
}

async fn run(loaded: &Loaded, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, String> {
    let remote = loaded.model.remote().unwrap();
    let ran = remote.compute(inputs, Length::Unknown, (), drop).await;
    ran.map(|(outputs, _)| outputs).map_err(|e| e.to_string())
}

async fn read(tensor: &Tensor) -> Vec<f32> {
    let bytes = match &tensor.data {
        Data::Kept(kept) => kept.fetched().unwrap().await.unwrap(),
        data => data.read().unwrap().into_owned(),
    };
    bytemuck::pod_collect_to_vec(&bytes)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graph_in_an_engine_gives_what_it_gives_here() {
    let fleet = fleet();
    let file = stored(&row_by_row());
    let loaded = load(&fleet, file.path()).await.unwrap();
    assert_eq!(loaded.backend, "rten");
    assert_eq!(loaded.inputs[0].ty, PortType::F32);
    // Small ones go in the message, large ones through the arena, and outputs alike.
    for columns in [4, 4_000, 400_000] {
        let outputs = run(&loaded, vec![rows(1, columns, 1.0), rows(1, columns, 2.0)])
            .await
            .unwrap();
        let sum = read(&outputs[0]).await;
        assert_eq!(sum.len(), columns as usize);
        assert!((sum[0] - 2.0 - 1.0 / columns as f32).abs() < 1e-5);
        assert_eq!(read(&outputs[1]).await, vec![1.0; columns as usize]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn outputs_stay_in_the_engine_and_go_into_the_next_run() {
    let fleet = fleet();
    let file = stored(&row_by_row());
    let loaded = load(&fleet, file.path()).await.unwrap();
    let mut state = rows(1, 100_000, 1.0);
    for _ in 0..10 {
        let outputs = run(&loaded, vec![state, rows(1, 100_000, 0.0)])
            .await
            .unwrap();
        state = outputs.into_iter().nth(1).unwrap();
        assert!(matches!(state.data, Data::Kept(_)));
    }
    assert_eq!(read(&state).await, vec![1.0; 100_000]);
    // Of two that have it neither loses it to a run.
    let copy = state.clone();
    run(&loaded, vec![state, rows(1, 100_000, 0.0)])
        .await
        .unwrap();
    assert_eq!(read(&copy).await, vec![1.0; 100_000]);
}

#[tokio::test(flavor = "multi_thread")]
async fn threads_that_may_block_run_it_too() {
    let fleet = fleet();
    let file = stored(&row_by_row());
    let loaded = load(&fleet, file.path()).await.unwrap();
    let ran = tokio::task::spawn_blocking(move || {
        let inputs = vec![rows(2, 9_000, 1.0), rows(2, 9_000, 0.0)];
        let outputs = loaded.model.run(inputs, &Worker::CALLER).unwrap();
        outputs[1].data.elements::<f32>().unwrap().into_owned()
    });
    assert_eq!(ran.await.unwrap(), vec![1.0; 18_000]);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_runs_at_once_get_their_own_outputs() {
    let fleet = fleet();
    let file = stored(&row_by_row());
    let loaded = Arc::new(load(&fleet, file.path()).await.unwrap());
    let runs = (0..200).map(|number| {
        let loaded = loaded.clone();
        tokio::spawn(async move {
            let columns = 1 + (number * 97) % 5_000;
            let inputs = vec![rows(1, columns, number as f32), rows(1, columns, 0.0)];
            let outputs = run(&loaded, inputs).await.unwrap();
            let positive = read(&outputs[1]).await;
            assert_eq!(positive, vec![number as f32; columns as usize]);
        })
    });
    for one in runs.collect::<Vec<_>>() {
        one.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_model_is_refused_in_the_backends_words() {
    let fleet = fleet();
    let file = stored(b"no model");
    let error = load(&fleet, file.path()).await.err().unwrap();
    assert!(error.contains("onnx") || error.contains("ONNX"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graph_whose_engine_was_killed_is_loaded_again() {
    let fleet = fleet();
    let file = stored(&row_by_row());
    let loaded = load(&fleet, file.path()).await.unwrap();
    let inputs = || vec![rows(1, 9_000, 1.0), rows(1, 9_000, 0.0)];
    let outputs = run(&loaded, inputs()).await.unwrap();
    fleet.kill_all("the test ends it").await;
    // What stayed there is gone with it, and says so.
    let Data::Kept(kept) = &outputs[0].data else {
        panic!("it did not stay");
    };
    let error = kept.fetched().unwrap().await.unwrap_err();
    assert!(error.contains("the test ends it"), "{error}");
    tokio::time::timeout(Duration::from_secs(60), async {
        run(&loaded, inputs()).await.unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_long_goes_through_the_arena() {
    let fleet = fleet();
    let names: Vec<String> = (0..600).map(|number| format!("x{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let sum = Node {
        op: "Sum",
        inputs: &names,
        output: "sum",
        attribute: None,
    };
    let port = |name| Value {
        name,
        ty: 1,
        dims: &[None],
    };
    let inputs: Vec<Value<'_>> = names.iter().map(|name| port(name)).collect();
    let file = stored(&model(13, &[sum], &inputs, &[port("sum")]));
    let loaded = load(&fleet, file.path()).await.unwrap();
    let one = |_: &&str| Tensor {
        ty: ElementType::Fp32,
        dims: vec![64],
        data: Data::F32(vec![1.0; 64]),
    };
    let inputs = names.iter().map(one).collect();
    let outputs = run(&loaded, inputs).await.unwrap();
    assert_eq!(read(&outputs[0]).await, vec![600.0; 64]);
}

#[tokio::test(flavor = "multi_thread")]
async fn graphs_that_come_and_go_at_once_do_not_wait_for_each_other() {
    let fleet = fleet();
    let file = stored(&row_by_row());
    let loads = (0..8).map(|_| {
        let (fleet, path) = (fleet.clone(), file.path().to_owned());
        tokio::spawn(async move {
            for _ in 0..40 {
                drop(load(&fleet, &path).await.unwrap());
            }
        })
    });
    let all = futures::future::join_all(loads);
    let ended = tokio::time::timeout(Duration::from_secs(60), all).await;
    for ended in ended.expect("none waits for ever") {
        ended.unwrap();
    }
    // What they took was given back.
    assert_eq!(fleet.graph_memory().used_bytes, 0);
}
