//! Whether a component needs an engine with support for asynchronous functions.

use serde::{Deserialize, Serialize};
use wasmparser::{Parser, Payload};

/// Whether functions of a component, and of the host for it, may be asynchronous.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AsyncSupport {
    /// Synchronous calls only, as in all components up to WASI 0.2. The engine then need not track which task waits for which,
    /// which would take longer than most calls take themselves.
    Off,
    /// Asynchronous calls, as in WASI 0.3.
    On,
}

impl AsyncSupport {
    /// Runs `attempt` without support, which is faster, and with support if that fails or the component names WASI 0.3.
    ///
    /// # Errors
    /// The error of the attempt with support.
    pub fn select<R, E>(
        component: &[u8],
        mut attempt: impl FnMut(Self) -> Result<R, E>,
    ) -> Result<R, E> {
        if !names_wasi_03(component) {
            // Inner components may still be asynchronous, which the compiler finds.
            let attempted = attempt(Self::Off);
            if attempted.is_ok() {
                return attempted;
            }
        }
        attempt(Self::On)
    }
}

/// Whether an interface of WASI 0.3 is among the imports and exports. `false` for bytes that are no component, which the
/// compiler will report.
fn names_wasi_03(component: &[u8]) -> bool {
    let is_03 = |name: &str| name.starts_with("wasi:") && name.contains("@0.3.");
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(component) {
        let found = match payload {
            Ok(Payload::ModuleSection { .. } | Payload::ComponentSection { .. }) => {
                depth += 1;
                false
            }
            Ok(Payload::End(_)) => {
                depth = depth.saturating_sub(1);
                false
            }
            Ok(Payload::ComponentImportSection(imports)) if depth == 0 => imports
                .into_iter()
                .flatten()
                .any(|import| is_03(import.name.name)),
            Ok(Payload::ComponentExportSection(exports)) if depth == 0 => exports
                .into_iter()
                .flatten()
                .any(|export| is_03(export.name.name)),
            Ok(_) => false,
            Err(_) => return false,
        };
        if found {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tried(text: &str, works: Option<AsyncSupport>) -> Vec<AsyncSupport> {
        let mut tried = Vec::new();
        let component = wat::parse_str(text).unwrap();
        let done = AsyncSupport::select(&component, |support| {
            tried.push(support);
            if works == Some(support) {
                Ok(())
            } else {
                Err(support)
            }
        });
        assert_eq!(done.err(), works.is_none().then_some(AsyncSupport::On));
        tried
    }

    #[test]
    fn components_of_wasi_03_are_told_by_their_names() {
        use AsyncSupport::{Off, On};
        let old = r#"(component (import "wasi:io/poll@0.2.6" (instance)) (core module))"#;
        assert_eq!(tried(old, Some(Off)), [Off]);
        assert_eq!(tried(old, Some(On)), [Off, On]);
        assert_eq!(tried(old, None), [Off, On]);
        let new = r#"(component (core module) (import "wasi:clocks/types@0.3.0" (instance)))"#;
        assert_eq!(tried(new, Some(On)), [On]);
        let exported = r#"(component
            (component) (instance $i)
            (export "wasi:http/handler@0.3.0-rc-2026-01-06" (instance $i)))"#;
        assert_eq!(tried(exported, Some(On)), [On]);
        let inner = r#"(component
            (component (import "wasi:clocks/types@0.3.0" (instance)))
            (import "own:clocks/types@0.3.0" (instance)))"#;
        assert_eq!(tried(inner, Some(Off)), [Off]);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(tail: Vec<u8>) {
            let mut bytes = b"\0asm\x0d\0\x01\0".to_vec();
            bytes.extend(tail);
            names_wasi_03(&bytes);
        }
    }
}
