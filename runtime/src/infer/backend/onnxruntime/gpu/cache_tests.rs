//! Tests of eviction from a simulated GPU, with models that only use memory.

use super::*;

const MIB: u64 = 1 << 20;

/// A GPU whose free memory is what its models leave.
struct Bench {
    models: Arc<GpuModels>,
    free: Arc<AtomicU64>,
    loads: Arc<AtomicU64>,
}

struct Weights {
    bytes: u64,
    free: Arc<AtomicU64>,
    /// Taken by each run.
    gate: Arc<Mutex<()>>,
}

impl Drop for Weights {
    fn drop(&mut self) {
        self.free.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

impl Model for Weights {
    fn run(&self, inputs: Vec<Tensor>, _worker: &Worker) -> Result<Vec<Tensor>, RunError> {
        drop(self.gate.lock());
        Ok(inputs)
    }
}

impl Bench {
    fn new(free_bytes: u64) -> Self {
        Self::limited(free_bytes, None)
    }

    fn limited(free_bytes: u64, limit_bytes: Option<u64>) -> Self {
        let free = Arc::new(AtomicU64::new(free_bytes));
        let told = free.clone();
        Self {
            models: GpuModels::with(
                Box::new(move |_| Some(told.load(Ordering::Relaxed))),
                limit_bytes,
            ),
            free,
            loads: Arc::default(),
        }
    }

    fn put(&self, bytes: u64) -> Result<EvictableModel, String> {
        self.put_gated(bytes, Arc::default())
    }

    fn put_gated(&self, bytes: u64, gate: Arc<Mutex<()>>) -> Result<EvictableModel, String> {
        let gpu = Gpu {
            number: 0,
            name: "bench".into(),
            memory_bytes: 0,
            free_bytes: 0,
            driver: String::new(),
        };
        let (free, loads) = (self.free.clone(), self.loads.clone());
        let load = move |_, limit: u64| {
            if bytes > limit {
                return Err("Failed to allocate memory for requested buffer".to_owned());
            }
            loads.fetch_add(1, Ordering::Relaxed);
            free.fetch_sub(bytes, Ordering::Relaxed);
            let weights = Weights {
                bytes,
                free: free.clone(),
                gate: gate.clone(),
            };
            Ok(Box::new(weights) as Box<dyn Model>)
        };
        let put = self.models.load(&[gpu], bytes, Box::new(load));
        put.map(|(_, model)| model)
    }

    fn loads(&self) -> u64 {
        self.loads.load(Ordering::Relaxed)
    }
}

fn run(model: &EvictableModel) {
    model.run(Vec::new(), &Worker::CALLER).unwrap();
}

#[test]
fn the_least_recently_used_model_is_evicted_and_loaded_again_when_it_runs() {
    let bench = Bench::new(300 * MIB);
    let (a, b) = (bench.put(100 * MIB).unwrap(), bench.put(100 * MIB).unwrap());
    assert_eq!(bench.models.used_bytes(0), 200 * MIB);
    run(&a);
    assert_eq!(bench.loads(), 2);
    let c = bench.put(100 * MIB).unwrap();
    // b went: a ran after it.
    assert_eq!(
        (bench.loads(), bench.free.load(Ordering::Relaxed)),
        (3, 100 * MIB)
    );
    run(&a);
    run(&c);
    assert_eq!(bench.loads(), 3);
    run(&b);
    assert_eq!(bench.loads(), 4);
    drop((a, b, c));
    assert_eq!(bench.free.load(Ordering::Relaxed), 300 * MIB);
    assert_eq!(bench.models.used_bytes(0), 0);
}

#[test]
fn a_model_that_does_not_fit_alone_is_refused() {
    let bench = Bench::new(300 * MIB);
    let small = bench.put(100 * MIB).unwrap();
    let error = bench.put(400 * MIB).err().unwrap();
    assert!(error.contains("needs about 464 MiB"), "{error}");
    assert!(error.contains("cuda:0 has 300 MiB"), "{error}");
    // Nothing left for it.
    run(&small);
    assert_eq!(bench.loads(), 1);
}

#[test]
fn models_stay_within_the_limit_of_a_gpu() {
    let bench = Bench::limited(1000 * MIB, Some(250 * MIB));
    let (a, b) = (bench.put(100 * MIB).unwrap(), bench.put(100 * MIB).unwrap());
    for model in [&a, &b, &a] {
        run(model);
        assert!(bench.models.used_bytes(0) <= 250 * MIB);
    }
    // Before it was measured, the second one needed more than was left.
    assert_eq!((bench.loads(), bench.models.used_bytes(0)), (3, 200 * MIB));
    let error = bench.put(200 * MIB).err().unwrap();
    assert!(error.contains("cuda:0 has 250 MiB"), "{error}");
}

#[test]
fn a_running_model_is_waited_for() {
    let bench = Arc::new(Bench::new(200 * MIB));
    let gate = Arc::new(Mutex::new(()));
    let runs = Arc::new(bench.put_gated(100 * MIB, gate.clone()).unwrap());
    let held = gate.lock();
    let running = std::thread::spawn({
        let runs = runs.clone();
        move || run(&runs)
    });
    // It runs as soon as nothing of it is idle.
    let idle = || runs.0.gpu.cache.lock().idle().is_empty();
    while !idle() {
        std::thread::yield_now();
    }
    let waiting = std::thread::spawn({
        let bench = bench.clone();
        move || bench.put(100 * MIB).map(|other| run(&other))
    });
    while runs.0.gpu.models.lock().len() < 2 {
        std::thread::yield_now();
    }
    drop(held);
    running.join().unwrap();
    waiting.join().unwrap().unwrap();
    assert_eq!(bench.loads(), 2);
}

#[test]
fn messages_of_the_library_that_mean_out_of_memory() {
    assert!(is_out_of_memory("CUDA failure 2: out of memory ; GPU=0"));
    assert!(is_out_of_memory(
        "Available memory of 5 is smaller than requested bytes of 9"
    ));
    assert!(!is_out_of_memory(
        "Non-zero status code returned while running Conv node"
    ));
}
