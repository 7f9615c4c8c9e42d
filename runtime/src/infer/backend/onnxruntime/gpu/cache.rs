//! Models in the memory of GPUs: loaded when they run, and evicted for others when they do not.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::infer::backend::devices::{Driver, Gpu};
use crate::infer::backend::onnxruntime::device_id;
use crate::infer::backend::tensor::{self, Tensor};
use crate::infer::backend::{Model, RunError};
use crate::infer::compute::Worker;
use crate::infer::eviction::{Fit, GpuCache, ModelId};

/// Longest wait for runs of other models to end, when all models on the GPU run.
const MAX_WAIT: Duration = Duration::from_secs(30);
/// Bytes of a session on the GPU besides its weights, until it was measured.
const OVERHEAD_BYTES: u64 = 64 << 20;

/// Loads a model on the GPU with this number, where it may use this many bytes.
type Load = Box<dyn Fn(u32, u64) -> Result<Box<dyn Model>, String> + Send + Sync>;
/// Free bytes of the GPU with this number, if the driver tells.
type FreeBytes = Box<dyn Fn(u32) -> Option<u64> + Send + Sync>;

/// The models on the GPUs of a node.
pub(in crate::infer::backend::onnxruntime) struct GpuModels {
    free_bytes: FreeBytes,
    /// Bytes of each GPU that all models may use together.
    limit_bytes: Option<u64>,
    next_id: AtomicU64,
    gpus: Mutex<HashMap<u32, Arc<GpuState>>>,
}

/// One GPU.
struct GpuState {
    number: u32,
    cache: Mutex<GpuCache>,
    run_ended: Condvar,
    /// One model loads at a time, so that its memory can be measured.
    loading: Mutex<()>,
    models: Mutex<HashMap<ModelId, Weak<GpuModel>>>,
}

/// A model that runs on a GPU, whether it is loaded now or not.
struct GpuModel {
    models: Arc<GpuModels>,
    gpu: Arc<GpuState>,
    id: ModelId,
    loaded: Mutex<Option<Arc<dyn Model>>>,
    /// Bytes that it uses there: first estimated, then measured.
    bytes: AtomicU64,
    load: Load,
}

impl GpuModels {
    /// Models on the GPUs of this driver, which use at most `limit_bytes` of each.
    pub fn new(driver: Arc<Driver>, limit_bytes: Option<u64>) -> Arc<Self> {
        let free_bytes = move |number| {
            let gpus = driver.gpus().ok()?;
            let gpu = gpus.into_iter().find(|gpu| gpu.number == number)?;
            Some(gpu.free_bytes)
        };
        Self::with(Box::new(free_bytes), limit_bytes)
    }

    fn with(free_bytes: FreeBytes, limit_bytes: Option<u64>) -> Arc<Self> {
        Arc::new(Self {
            free_bytes,
            limit_bytes,
            next_id: AtomicU64::new(0),
            gpus: Mutex::default(),
        })
    }

    /// Bytes of a GPU that models of this node use.
    pub fn used_bytes(&self, number: u32) -> u64 {
        let gpu = self.gpus.lock().get(&number).cloned();
        gpu.map_or(0, |gpu| gpu.cache.lock().bytes())
    }

    /// Loads a model with `bytes` of weights on the GPU with the most room.
    ///
    /// # Errors
    /// When it does not fit, or cannot run there.
    pub fn load(
        self: &Arc<Self>,
        gpus: &[Gpu],
        bytes: u64,
        load: Load,
    ) -> Result<(u32, EvictableModel), String> {
        let roomiest = gpus
            .iter()
            .max_by_key(|gpu| gpu.free_bytes.saturating_add(self.used_bytes(gpu.number)));
        let number = roomiest.ok_or("there is no GPU")?.number;
        let gpu = self
            .gpus
            .lock()
            .entry(number)
            .or_insert_with(|| Arc::new(GpuState::new(number)))
            .clone();
        let model = Arc::new(GpuModel {
            models: self.clone(),
            gpu: gpu.clone(),
            id: ModelId(self.next_id.fetch_add(1, Ordering::Relaxed)),
            loaded: Mutex::default(),
            bytes: AtomicU64::new(bytes.saturating_add(OVERHEAD_BYTES)),
            load,
        });
        gpu.models.lock().insert(model.id, Arc::downgrade(&model));
        drop(model.begin_run()?);
        Ok((number, EvictableModel(model)))
    }
}

impl GpuState {
    fn new(number: u32) -> Self {
        Self {
            number,
            cache: Mutex::default(),
            run_ended: Condvar::new(),
            loading: Mutex::default(),
            models: Mutex::default(),
        }
    }

    /// Unloads models that were removed from the cache.
    fn unload(&self, removed: &[ModelId]) {
        for id in removed {
            let model = self.models.lock().get(id).and_then(Weak::upgrade);
            if let Some(model) = model {
                let loaded = model.loaded.lock().take();
                tracing::debug!(
                    gpu = self.number,
                    model = id.0,
                    "model evicted from the GPU"
                );
                drop(loaded);
            }
        }
    }

    /// Evicts all models without a run. Returns whether there was any.
    fn evict_idle(&self) -> bool {
        let idle = {
            let mut cache = self.cache.lock();
            let idle = cache.idle();
            idle.iter().for_each(|model| cache.remove(*model));
            idle
        };
        self.unload(&idle);
        !idle.is_empty()
    }
}

/// A run of a model, which is not evicted before this is dropped.
struct Run<'a> {
    gpu: &'a GpuState,
    id: ModelId,
    model: Arc<dyn Model>,
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        self.gpu.cache.lock().end_run(self.id);
        self.gpu.run_ended.notify_all();
    }
}

impl GpuModel {
    /// Begins a run. Loads the model first if it is not on the GPU.
    fn begin_run(&self) -> Result<Run<'_>, String> {
        if let Some(run) = self.begin_if_loaded() {
            return Ok(run);
        }
        let _loading = self.gpu.loading.lock();
        if let Some(run) = self.begin_if_loaded() {
            return Ok(run);
        }
        let available = self.make_room()?;
        let before = self.free_bytes();
        let loaded = match (self.load)(self.gpu.number, available) {
            Err(error) if is_out_of_memory(&error) && self.gpu.evict_idle() => {
                (self.load)(self.gpu.number, self.available_bytes().max(available))
            }
            loaded => loaded,
        };
        let model: Arc<dyn Model> = Arc::from(loaded.map_err(|error| self.explain(error))?);
        let taken = before.saturating_sub(self.free_bytes());
        if taken > 0 {
            self.bytes.store(taken, Ordering::Relaxed);
        }
        *self.loaded.lock() = Some(model.clone());
        let bytes = self.bytes.load(Ordering::Relaxed);
        self.gpu.cache.lock().insert(self.id, bytes);
        Ok(Run {
            gpu: &self.gpu,
            id: self.id,
            model,
        })
    }

    /// Begins a run if the model is on the GPU.
    fn begin_if_loaded(&self) -> Option<Run<'_>> {
        let mut cache = self.gpu.cache.lock();
        if !cache.begin_run(self.id) {
            return None;
        }
        // A model with a run is not evicted.
        let model = self.loaded.lock().clone();
        if model.is_none() {
            cache.remove(self.id);
        }
        Some(Run {
            gpu: &self.gpu,
            id: self.id,
            model: model?,
        })
    }

    /// Evicts other models until this one fits. Returns the bytes that are available then.
    fn make_room(&self) -> Result<u64, String> {
        let bytes = self.bytes.load(Ordering::Relaxed);
        let mut waited = Duration::ZERO;
        loop {
            let available = self.available_bytes();
            let begun = std::time::Instant::now();
            let mut cache = self.gpu.cache.lock();
            match cache.fit(bytes, available) {
                Fit::Fits => return Ok(available),
                Fit::Evict(models) => {
                    models.iter().for_each(|model| cache.remove(*model));
                    drop(cache);
                    self.gpu.unload(&models);
                    return Ok(self.available_bytes());
                }
                Fit::Never { available_bytes } => {
                    return Err(format!(
                        "it needs about {} MiB of memory, and cuda:{} has {} MiB for it when every other graph is gone: take a smaller model, a GPU with more memory, or stop other programs that use it",
                        bytes >> 20,
                        self.gpu.number,
                        available_bytes >> 20
                    ));
                }
                Fit::AfterRuns if waited >= MAX_WAIT => {
                    return Err(format!(
                        "cuda:{} is full of graphs that run, and none ended within {MAX_WAIT:?}: try again",
                        self.gpu.number
                    ));
                }
                Fit::AfterRuns => {
                    self.gpu.run_ended.wait_for(&mut cache, MAX_WAIT - waited);
                    drop(cache);
                    waited += begun.elapsed();
                }
            }
        }
    }

    /// Free bytes of the GPU; `u64::MAX` if the driver does not tell.
    fn free_bytes(&self) -> u64 {
        (self.models.free_bytes)(self.gpu.number).unwrap_or(u64::MAX)
    }

    /// Bytes that a model may use now.
    fn available_bytes(&self) -> u64 {
        let used = self.gpu.cache.lock().bytes();
        let left = self
            .models
            .limit_bytes
            .map(|limit| limit.saturating_sub(used));
        self.free_bytes().min(left.unwrap_or(u64::MAX))
    }

    fn explain(&self, error: String) -> String {
        match is_out_of_memory(&error) {
            true => format!("cuda:{} is full: {error}", self.gpu.number),
            false => error,
        }
    }
}

impl Drop for GpuModel {
    fn drop(&mut self) {
        self.gpu.models.lock().remove(&self.id);
        self.loaded.lock().take();
        self.gpu.cache.lock().remove(self.id);
        self.gpu.run_ended.notify_all();
    }
}

/// A model that is loaded on its GPU whenever it runs.
pub(in crate::infer::backend::onnxruntime) struct EvictableModel(Arc<GpuModel>);

impl Model for EvictableModel {
    fn run(&self, inputs: Vec<Tensor>, worker: &Worker) -> Result<Vec<Tensor>, RunError> {
        let run = self.0.begin_run()?;
        let ran = run.model.run(inputs, worker);
        drop(run);
        ran.map_err(|error| {
            let text = error.to_string();
            if !is_out_of_memory(&text) {
                return error;
            }
            // Makes room for the next run; the inputs of this one are gone.
            self.0.gpu.evict_idle();
            RunError::Failed(self.0.explain(text))
        })
    }

    fn place(&self) -> tensor::Place {
        tensor::Place::Cuda(device_id(self.0.gpu.number))
    }
}

/// Whether an error message of the library means that the GPU is out of memory.
fn is_out_of_memory(error: &str) -> bool {
    let error = error.to_ascii_lowercase();
    [
        "out of memory",
        "failed to allocate memory",
        "available memory of",
        "alloc_failed",
    ]
    .iter()
    .any(|words| error.contains(words))
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
