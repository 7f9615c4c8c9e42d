//! Decides which models are evicted from a memory to make room for another. Decisions only.

use std::collections::BTreeMap;

/// A model that uses a memory, whether it is loaded now or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ModelId(pub u64);

/// The models in the memory of one GPU.
#[derive(Debug, Default)]
pub(crate) struct GpuCache {
    residents: BTreeMap<ModelId, Resident>,
    /// Increases with each use.
    clock: u64,
}

/// A loaded model.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resident {
    pub bytes: u64,
    /// Runs under way.
    pub running: usize,
    /// The clock at its last use.
    pub last_used: u64,
}

/// Whether a model fits, and what must happen before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    /// It fits now.
    Fits,
    /// It fits once these are evicted, the least recently used first.
    Evict(Vec<ModelId>),
    /// It fits once runs have ended and their models were evicted.
    AfterRuns,
    /// It does not fit even if all others are evicted.
    Never {
        /// Bytes that would be available then.
        available_bytes: u64,
    },
}

/// Decides what must happen among `residents` so that a model of `bytes` fits where `free` bytes are free now.
pub(crate) fn fit<'a>(
    bytes: u64,
    free: u64,
    residents: impl Iterator<Item = (&'a ModelId, &'a Resident)> + Clone,
) -> Fit {
    if bytes <= free {
        return Fit::Fits;
    }
    let all: u64 = residents.clone().map(|(_, one)| one.bytes).sum();
    let available_bytes = free.saturating_add(all);
    if bytes > available_bytes {
        return Fit::Never { available_bytes };
    }
    let mut idle: Vec<_> = residents.filter(|(_, one)| one.running == 0).collect();
    idle.sort_by_key(|(_, one)| one.last_used);
    let mut freed = free;
    let mut evicted = Vec::new();
    for (model, one) in idle {
        evicted.push(*model);
        freed = freed.saturating_add(one.bytes);
        if bytes <= freed {
            return Fit::Evict(evicted);
        }
    }
    Fit::AfterRuns
}

impl GpuCache {
    /// Decides what must happen so that a model of `bytes` fits on a GPU with `free` bytes free now.
    pub fn fit(&self, bytes: u64, free: u64) -> Fit {
        fit(bytes, free, self.residents.iter())
    }

    /// Adds a model that was loaded for a run.
    pub fn insert(&mut self, model: ModelId, bytes: u64) {
        self.clock += 1;
        self.residents.insert(
            model,
            Resident {
                bytes,
                running: 1,
                last_used: self.clock,
            },
        );
    }

    /// Begins a run. Returns `false` if the model must be loaded first.
    pub fn begin_run(&mut self, model: ModelId) -> bool {
        self.clock += 1;
        let Some(resident) = self.residents.get_mut(&model) else {
            return false;
        };
        resident.running += 1;
        resident.last_used = self.clock;
        true
    }

    /// Ends a run.
    pub fn end_run(&mut self, model: ModelId) {
        if let Some(resident) = self.residents.get_mut(&model) {
            resident.running = resident.running.saturating_sub(1);
        }
    }

    /// Removes a model.
    pub fn remove(&mut self, model: ModelId) {
        self.residents.remove(&model);
    }

    /// The models without a run.
    pub fn idle(&self) -> Vec<ModelId> {
        let idle = self.residents.iter().filter(|(_, one)| one.running == 0);
        idle.map(|(model, _)| *model).collect()
    }

    /// Bytes of all loaded models.
    pub fn bytes(&self) -> u64 {
        self.residents.values().map(|one| one.bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ModelId = ModelId(1);
    const B: ModelId = ModelId(2);
    const C: ModelId = ModelId(3);

    /// A, B and C of 10 bytes each, loaded in this order and idle.
    fn three() -> GpuCache {
        let mut cache = GpuCache::default();
        for model in [A, B, C] {
            cache.insert(model, 10);
            cache.end_run(model);
        }
        cache
    }

    #[test]
    fn the_least_recently_used_is_evicted_first() {
        let mut cache = three();
        assert_eq!(cache.fit(5, 5), Fit::Fits);
        assert_eq!(cache.fit(6, 5), Fit::Evict(vec![A]));
        assert!(cache.begin_run(A));
        cache.end_run(A);
        assert_eq!(cache.fit(6, 5), Fit::Evict(vec![B]));
        assert_eq!(cache.fit(25, 5), Fit::Evict(vec![B, C]));
        assert_eq!(cache.fit(35, 5), Fit::Evict(vec![B, C, A]));
        assert_eq!(cache.bytes(), 30);
    }

    #[test]
    fn a_running_model_is_not_evicted() {
        let mut cache = three();
        assert!(cache.begin_run(A));
        assert!(cache.begin_run(A));
        assert_eq!(cache.fit(15, 5), Fit::Evict(vec![B]));
        assert_eq!(cache.fit(35, 5), Fit::AfterRuns);
        assert_eq!(cache.idle(), [B, C]);
        cache.end_run(A);
        assert_eq!(cache.fit(35, 5), Fit::AfterRuns);
        cache.end_run(A);
        assert_eq!(cache.fit(35, 5), Fit::Evict(vec![B, C, A]));
    }

    #[test]
    fn a_model_that_never_fits_is_refused() {
        let mut cache = three();
        assert_eq!(
            cache.fit(36, 5),
            Fit::Never {
                available_bytes: 35
            }
        );
        assert!(cache.begin_run(B));
        assert_eq!(
            cache.fit(36, 5),
            Fit::Never {
                available_bytes: 35
            }
        );
        assert_eq!(
            GpuCache::default().fit(6, 5),
            Fit::Never { available_bytes: 5 }
        );
    }

    #[test]
    fn an_evicted_model_must_be_loaded_again() {
        let mut cache = three();
        cache.remove(A);
        assert!(!cache.begin_run(A));
        cache.end_run(A);
        assert_eq!(cache.bytes(), 20);
        cache.insert(A, 12);
        assert_eq!(cache.fit(1, 0), Fit::Evict(vec![B]));
        assert_eq!(cache.bytes(), 32);
    }
}
