//! Tests of the models on a card, on a card that is not there, with models that only take room.

use super::*;

const MIB: u64 = 1 << 20;

/// A card whose free memory is what the models on it leave.
struct Bench {
    cards: Arc<Cards>,
    free: Arc<AtomicU64>,
    loads: Arc<AtomicU64>,
}

struct Weights {
    bytes: u64,
    free: Arc<AtomicU64>,
    /// Held while a run goes on.
    gate: Arc<Mutex<()>>,
}

impl Drop for Weights {
    fn drop(&mut self) {
        self.free.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

impl Model for Weights {
    fn run(&self, inputs: Vec<Tensor>, _worker: &Worker) -> Result<Vec<Tensor>, RunError> {
        drop(lock(&self.gate));
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
            cards: Cards::with(
                Box::new(move |_| Some(told.load(Ordering::Relaxed))),
                limit_bytes,
            ),
            free,
            loads: Arc::default(),
        }
    }

    fn put(&self, bytes: u64) -> Result<OnTenancy, String> {
        self.put_gated(bytes, Arc::default())
    }

    fn put_gated(&self, bytes: u64, gate: Arc<Mutex<()>>) -> Result<OnTenancy, String> {
        let card = Card {
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
        let put = self.cards.put(&[card], bytes, Box::new(load));
        put.map(|(_, model)| model)
    }

    fn loads(&self) -> u64 {
        self.loads.load(Ordering::Relaxed)
    }
}

fn run(model: &OnTenancy) {
    model.run(Vec::new(), &Worker::CALLER).unwrap();
}

#[test]
fn the_one_unused_for_longest_makes_room_and_comes_back_when_it_runs() {
    let bench = Bench::new(300 * MIB);
    let (a, b) = (bench.put(100 * MIB).unwrap(), bench.put(100 * MIB).unwrap());
    assert_eq!(bench.cards.used_bytes(0), 200 * MIB);
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
    assert_eq!(bench.cards.used_bytes(0), 0);
}

#[test]
fn one_that_does_not_fit_alone_is_refused() {
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
fn models_stay_within_what_they_may_take_of_a_card() {
    let bench = Bench::limited(1000 * MIB, Some(250 * MIB));
    let (a, b) = (bench.put(100 * MIB).unwrap(), bench.put(100 * MIB).unwrap());
    for model in [&a, &b, &a] {
        run(model);
        assert!(bench.cards.used_bytes(0) <= 250 * MIB);
    }
    // Before it was measured, the second one needed more than was left.
    assert_eq!((bench.loads(), bench.cards.used_bytes(0)), (3, 200 * MIB));
    let error = bench.put(200 * MIB).err().unwrap();
    assert!(error.contains("cuda:0 has 250 MiB"), "{error}");
}

#[test]
fn one_that_runs_is_waited_for() {
    let bench = Arc::new(Bench::new(200 * MIB));
    let gate = Arc::new(Mutex::new(()));
    let runs = Arc::new(bench.put_gated(100 * MIB, gate.clone()).unwrap());
    let held = lock(&gate);
    let running = std::thread::spawn({
        let runs = runs.clone();
        move || run(&runs)
    });
    // It runs as soon as nothing of it is idle.
    let idle = || lock(&runs.0.place.ledger).idle().is_empty();
    while !idle() {
        std::thread::yield_now();
    }
    let waiting = std::thread::spawn({
        let bench = bench.clone();
        move || bench.put(100 * MIB).map(|other| run(&other))
    });
    while lock(&runs.0.place.tenants).len() < 2 {
        std::thread::yield_now();
    }
    drop(held);
    running.join().unwrap();
    waiting.join().unwrap().unwrap();
    assert_eq!(bench.loads(), 2);
}

#[test]
fn words_of_the_library_that_mean_a_full_card() {
    assert!(is_out_of_memory("CUDA failure 2: out of memory ; GPU=0"));
    assert!(is_out_of_memory(
        "Available memory of 5 is smaller than requested bytes of 9"
    ));
    assert!(!is_out_of_memory(
        "Non-zero status code returned while running Conv node"
    ));
}
