//! A cache of compiled functions by the digest of their source. When a component is built again after an edit, most of its
//! functions are unchanged, and only the others are compiled.
//!
//! In memory only, so that a process runs no code that it did not compile itself.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use wasmtime::CacheStore;

/// Bytes of all cached functions; the least recently used are evicted first.
pub const MAX_BYTES: u64 = 64 << 20;
/// A function that was not used for this long is evicted.
const IDLE: Duration = Duration::from_secs(3600);
/// Bytes that an entry takes besides key and code.
const ENTRY_BYTES: usize = 200;

/// Functions that were compiled recently.
#[derive(Debug)]
pub struct CompiledFunctions {
    functions: moka::sync::Cache<Vec<u8>, Arc<[u8]>>,
}

impl CompiledFunctions {
    /// A cache of at most `max_bytes`.
    pub fn new(max_bytes: u64) -> Self {
        let weigh = |key: &Vec<u8>, code: &Arc<[u8]>| {
            u32::try_from(key.len() + code.len() + ENTRY_BYTES).unwrap_or(u32::MAX)
        };
        Self {
            functions: moka::sync::Cache::builder()
                .max_capacity(max_bytes)
                .weigher(weigh)
                .time_to_idle(IDLE)
                .build(),
        }
    }
}

impl CacheStore for CompiledFunctions {
    fn get(&self, key: &[u8]) -> Option<Cow<'_, [u8]>> {
        let code = self.functions.get(key)?;
        Some(Cow::Owned(code.to_vec()))
    }

    fn insert(&self, key: &[u8], value: Vec<u8>) -> bool {
        self.functions.insert(key.to_owned(), value.into());
        true
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Mutex;

    use super::*;
    use wasmtime::{Config, Engine};

    /// Records which functions had to be compiled.
    #[derive(Debug)]
    struct Recorded {
        functions: CompiledFunctions,
        compiled: Mutex<BTreeSet<Vec<u8>>>,
    }

    impl CacheStore for Recorded {
        fn get(&self, key: &[u8]) -> Option<Cow<'_, [u8]>> {
            self.functions.get(key)
        }

        fn insert(&self, key: &[u8], value: Vec<u8>) -> bool {
            self.compiled.lock().unwrap().insert(key.to_owned());
            self.functions.insert(key, value)
        }
    }

    #[test]
    fn an_edit_compiles_the_function_that_it_changed() {
        let recorded = Arc::new(Recorded {
            functions: CompiledFunctions::new(MAX_BYTES),
            compiled: Mutex::default(),
        });
        let mut config = Config::new();
        config
            .enable_incremental_compilation(recorded.clone())
            .unwrap();
        let engine = Engine::new(&config).unwrap();
        let compile = |answer: i32, data: &str| {
            let text = format!(
                r#"(component (core module
                    (memory 1) (data (i32.const 0) "{data}")
                    (func $first (param i32) (result i32) local.get 0 i32.const 7 i32.mul)
                    (func $answer (export "answer") (result i32) i32.const {answer} call $first)
                    (func (export "other") (result i32) i32.const 2 call $first call $first)
                ))"#
            );
            let bytes = wat::parse_str(&text).unwrap();
            engine.precompile_component(&bytes).unwrap();
            std::mem::take(&mut *recorded.compiled.lock().unwrap()).len()
        };
        let all = compile(1, "a");
        assert!(all >= 3, "{all}");
        // The cache may miss what another thread has just written, so the best of several builds counts.
        let data = (0..10).map(|_| compile(1, "b")).min();
        assert_eq!(data, Some(0), "data is no function");
        let edited = (2..12).map(|answer| compile(answer, "b")).min();
        assert_eq!(edited, Some(1));
    }

    #[test]
    fn the_cache_is_bounded() {
        let functions = CompiledFunctions::new(10_000);
        for number in 0..1000u32 {
            functions.insert(&number.to_le_bytes(), vec![0; 1000]);
        }
        functions.functions.run_pending_tasks();
        assert!(functions.functions.weighted_size() <= 10_000);
        assert!(functions.functions.iter().count() < 10);
    }
}
