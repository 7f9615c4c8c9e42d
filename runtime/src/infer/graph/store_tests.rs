//! Graphs are loaded once, even if the first caller goes before the load has ended.

use std::time::Duration;

use super::*;
use crate::infer::backend::tensor::{Data, ElementType, Kept, Place};
use crate::infer::backend::testing::{backends, row_by_row};
use crate::infer::backend::{Device, Loaded, Model, RunError, Runs};
use crate::infer::graph::metrics::QueuedGuard;

#[tokio::test]
async fn a_graph_whose_first_caller_goes_while_it_loads_is_there_for_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    std::fs::write(&path, row_by_row()).unwrap();
    let store = GraphStore::new(Loader::InProcess(backends()));
    let spec = GraphSpec::for_test("a graph that is let go while it loads", &path);
    let mut first = Box::pin(store.acquire(&spec));
    assert!(
        futures::poll!(&mut first).is_pending(),
        "it loads elsewhere"
    );
    drop(first);
    let loaded = async {
        while store.loaded().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), loaded)
        .await
        .expect("it loads although no caller waits");
    // It is not read again.
    std::fs::remove_file(&path).unwrap();
    let graph = store.acquire(&spec).await.unwrap();
    assert_eq!(store.loaded().len(), 1);
    // Its next user is its last.
    drop(graph);
    assert!(store.loaded().is_empty());
}

#[tokio::test]
async fn a_load_keeps_its_permit_until_it_ends_though_its_caller_goes() {
    let store = GraphStore::new(Loader::InProcess(backends()));
    let permits = max_loads();
    let (started, mut starts) = tokio::sync::mpsc::unbounded_channel();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let released = Arc::new(Mutex::new(released));
    let load = |number: usize| {
        let (started, released) = (started.clone(), released.clone());
        Box::pin(store.load(Owner::NONE, move |_| {
            let _ = started.send(number);
            let _ = released.lock().recv();
            Ok(())
        }))
    };
    let mut loading: Vec<_> = (0..permits).map(load).collect();
    for one in &mut loading {
        assert!(futures::poll!(one).is_pending());
    }
    for _ in 0..permits {
        starts.recv().await.unwrap();
    }
    let mut late = load(permits);
    assert!(futures::poll!(&mut late).is_pending());
    drop(loading);
    assert!(futures::poll!(&mut late).is_pending());
    release.send(()).unwrap();
    let next = async {
        tokio::select! {
            number = starts.recv() => assert_eq!(number, Some(permits)),
            _ = &mut late => panic!("it ended before it was released"),
        }
    };
    tokio::time::timeout(Duration::from_secs(30), next)
        .await
        .expect("it gets a permit when another load has ended");
    drop(release);
    late.await.unwrap();
}

/// A graph that does nothing, which it may do on the calling thread.
struct Quick;

impl Model for Quick {
    fn run(&self, _inputs: Vec<Tensor>, _worker: &Worker) -> Result<Vec<Tensor>, RunError> {
        Ok(Vec::new())
    }
}

#[derive(Debug)]
struct Elsewhere(Place);

impl Kept for Elsewhere {
    fn bytes(&self) -> usize {
        1
    }

    fn place(&self) -> Place {
        self.0
    }

    fn read(&self) -> Result<Cow<'_, [u8]>, String> {
        Ok(Cow::Borrowed(&[0]))
    }
}

#[tokio::test]
async fn a_run_with_inputs_on_a_gpu_does_not_run_on_the_calling_thread() {
    let loaded = Loaded {
        model: Box::new(Quick),
        backend: "test",
        device: Device::Cpu,
        runs: Runs::Anywhere,
        inputs: Vec::new(),
        outputs: Vec::new(),
        mixes_rows: None,
        lacks_form: false,
    };
    let graph = LoadedGraph::new(loaded, ComputePools::default(), "quick".into(), 1, 1);
    let input = |place| Tensor {
        ty: ElementType::U8,
        dims: vec![1],
        data: Data::Kept(Arc::new(Elsewhere(place))),
    };
    // A run that was delayed raises the estimate for the next ones.
    while !graph.is_short(&[input(Place::Host)]) {
        let queued = QueuedGuard::new(&Arc::default());
        let inputs = vec![input(Place::Host)];
        graph.run(Owner::NONE, inputs, queued, drop).await.unwrap();
    }
    assert!(!graph.is_short(&[input(Place::Host), input(Place::Cuda(0))]));
}
