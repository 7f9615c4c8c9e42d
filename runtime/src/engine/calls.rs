//! What a component asks of the engine: whether its functions may be asynchronous.

use serde::{Deserialize, Serialize};
use wasmparser::{Parser, Payload};

/// How a component's functions call each other and the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Calls {
    /// One after the other, as all do up to WASI 0.2. Such calls need no account of who waits for whom, which would take
    /// longer than most of them do themselves.
    Sequential,
    /// Asynchronously, as WASI 0.3 has it.
    Concurrent,
}

impl Calls {
    /// Does with a component what works in one of the ways only, in the cheapest that does.
    ///
    /// # Errors
    /// What the last attempt said, which was of the way that takes more.
    pub fn fit<R, E>(
        component: &[u8],
        mut attempt: impl FnMut(Self) -> Result<R, E>,
    ) -> Result<R, E> {
        if !names_wasi_03(component) {
            // Within it there may be asynchronous parts yet, which the compiler finds.
            let attempted = attempt(Self::Sequential);
            if attempted.is_ok() {
                return attempted;
            }
        }
        attempt(Self::Concurrent)
    }
}

/// Whether an interface of WASI 0.3 is among the imports and exports. What cannot be read has none: whoever compiles it says
/// why.
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

    fn tried(text: &str, works: Option<Calls>) -> Vec<Calls> {
        let mut tried = Vec::new();
        let component = wat::parse_str(text).unwrap();
        let done = Calls::fit(&component, |calls| {
            tried.push(calls);
            if works == Some(calls) {
                Ok(())
            } else {
                Err(calls)
            }
        });
        assert_eq!(done.err(), works.is_none().then_some(Calls::Concurrent));
        tried
    }

    #[test]
    fn components_of_wasi_03_are_told_by_their_names() {
        use Calls::{Concurrent, Sequential};
        let old = r#"(component (import "wasi:io/poll@0.2.6" (instance)) (core module))"#;
        assert_eq!(tried(old, Some(Sequential)), [Sequential]);
        assert_eq!(tried(old, Some(Concurrent)), [Sequential, Concurrent]);
        assert_eq!(tried(old, None), [Sequential, Concurrent]);
        let new = r#"(component (core module) (import "wasi:clocks/types@0.3.0" (instance)))"#;
        assert_eq!(tried(new, Some(Concurrent)), [Concurrent]);
        let exported = r#"(component
            (component) (instance $i)
            (export "wasi:http/handler@0.3.0-rc-2026-01-06" (instance $i)))"#;
        assert_eq!(tried(exported, Some(Concurrent)), [Concurrent]);
        let inner = r#"(component
            (component (import "wasi:clocks/types@0.3.0" (instance)))
            (import "own:clocks/types@0.3.0" (instance)))"#;
        assert_eq!(tried(inner, Some(Sequential)), [Sequential]);
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
