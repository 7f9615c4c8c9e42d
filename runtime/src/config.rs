//! Values that guests read through `wasi:config/store`. They may change while replicas run.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock, Weak};

use wasmtime_wasi_config::WasiConfigVariables;

/// Values by name, shared by all replicas of a deployment. `Debug` hides the values.
#[derive(Clone, Default)]
pub struct Config {
    current: Arc<RwLock<Current>>,
}

/// A weak reference to a [`Config`].
#[derive(Clone, Debug)]
pub struct WeakConfig {
    current: Weak<RwLock<Current>>,
}

#[derive(Default)]
struct Current {
    generation: u64,
    values: Vec<(String, String)>,
}

impl Config {
    /// Sets the values for replicas that start from now on. Replicas with older values finish their request and serve no other one. Returns
    /// whether a value changed.
    pub fn set(&self, values: Vec<(String, String)>) -> bool {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if current.values == values {
            return false;
        }
        *current = Current {
            generation: current.generation + 1,
            values,
        };
        true
    }

    /// Creates a weak reference.
    pub fn downgrade(&self) -> WeakConfig {
        WeakConfig {
            current: Arc::downgrade(&self.current),
        }
    }

    /// The generation, which grows with each change.
    pub(crate) fn generation(&self) -> u64 {
        self.read().generation
    }

    /// The current values and their generation.
    pub(crate) fn snapshot(&self) -> (u64, WasiConfigVariables) {
        let current = self.read();
        (current.generation, current.values.iter().cloned().collect())
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Current> {
        // It is replaced whole, so a panic elsewhere cannot leave it half-written.
        self.current.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WeakConfig {
    /// The config, if it still exists.
    pub fn upgrade(&self) -> Option<Config> {
        let current = self.current.upgrade()?;
        Some(Config { current })
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let current = self.read();
        let names = current.values.iter().map(|(name, _)| (name, "…"));
        f.debug_map().entries(names).finish()
    }
}

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Current({})", self.generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_change_makes_a_generation() {
        let config = Config::default();
        let values = |value: &str| vec![("NAME".to_owned(), value.to_owned())];
        assert!(config.set(values("hidden")));
        assert!(!config.set(values("hidden")));
        assert_eq!(config.generation(), 1);
        let weak = config.downgrade();
        assert!(weak.upgrade().is_some_and(|same| same.set(values("other"))));
        assert_eq!(config.generation(), 2);
        let shown = format!("{config:?} {weak:?}");
        assert!(
            shown.contains("NAME") && !shown.contains("other"),
            "{shown}"
        );
        drop(config);
        assert!(weak.upgrade().is_none());
    }
}
