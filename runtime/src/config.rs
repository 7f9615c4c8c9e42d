//! The values that guests read through `wasi:config/store`. They can change while replicas run.

use std::fmt;
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use wasmtime_wasi_config::WasiConfigVariables;

/// Named values, shared by all replicas of a deployment. The debug form hides the values.
#[derive(Clone, Default)]
pub struct Config {
    current: Arc<ArcSwap<Current>>,
}

/// A weak reference to a [`Config`], which ends with its deployment.
#[derive(Clone, Debug)]
pub struct WeakConfig {
    current: Weak<ArcSwap<Current>>,
}

#[derive(Default)]
struct Current {
    generation: u64,
    values: Vec<(String, String)>,
}

impl Config {
    /// Replaces the values. Replicas that have read older ones serve no further request. Returns whether the values differ.
    pub fn set(&self, values: Vec<(String, String)>) -> bool {
        let before = self.current.rcu(|current| match current.values == values {
            true => current.clone(),
            false => Arc::new(Current {
                generation: current.generation + 1,
                values: values.clone(),
            }),
        });
        before.values != values
    }

    /// A weak reference to this config.
    pub fn downgrade(&self) -> WeakConfig {
        WeakConfig {
            current: Arc::downgrade(&self.current),
        }
    }

    /// The number of changes so far.
    pub(crate) fn generation(&self) -> u64 {
        self.current.load().generation
    }

    /// The current generation and values.
    pub(crate) fn snapshot(&self) -> (u64, WasiConfigVariables) {
        let current = self.current.load();
        (current.generation, current.values.iter().cloned().collect())
    }
}

impl WeakConfig {
    /// The config, unless it was dropped.
    pub fn upgrade(&self) -> Option<Config> {
        let current = self.current.upgrade()?;
        Some(Config { current })
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let current = self.current.load();
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
