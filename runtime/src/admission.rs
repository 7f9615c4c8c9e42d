//! Checks what a component imports and exports, when it is pushed.

use wasmtime::Engine;
use wasmtime::component::types::ComponentItem;

/// The interfaces that components may import; a trailing `/` means the whole package.
///
/// `wasi:sockets` is allowed because the runtimes of Python and JavaScript always import it. Its calls fail: the sandbox permits
/// no connections, listeners or name lookups.
const ALLOWED_IMPORTS: &[&str] = &[
    "wasi:cli/",
    "wasi:clocks/",
    "wasi:config/store",
    "wasi:filesystem/",
    "wasi:http/client",
    "wasi:http/outgoing-handler",
    "wasi:http/types",
    "wasi:io/",
    "wasi:logging/logging",
    "wasi:nn/",
    "wasi:random/",
    "wasi:sockets/",
];

/// The export that a new replica calls once.
pub const LIFECYCLE: &str = "samovar:model/lifecycle@0.1.0";

/// Why a component is refused.
#[derive(Debug, thiserror::Error)]
pub enum AdmissionError {
    /// It is not a valid component.
    #[error(
        "the component does not compile: {0}. Expected a WebAssembly component, as built by `cargo build --target wasm32-wasip2`"
    )]
    Invalid(String),
    /// It imports an interface that the sandbox does not offer.
    #[error(
        "the component imports `{import}`, which a model may not use; it may import wasi:{{cli,clocks,config,filesystem,http,io,logging,nn,random,sockets}}"
    )]
    Import {
        /// The interface, as the component names it.
        import: String,
    },
    /// It imports an allowed interface with other types than this host has.
    #[error("the component's imports do not match this host: {0}")]
    Mismatch(String),
    /// It exports no request handler.
    #[error(
        "the component exports {found}; expected `wasi:http/incoming-handler@0.2` or `wasi:http/handler@0.3`"
    )]
    Export {
        /// Its exports.
        found: String,
    },
}

/// The interface through which a component takes requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handler {
    /// `wasi:http/incoming-handler@0.2`
    Wasi02,
    /// `wasi:http/handler@0.3`
    Wasi03,
}

/// Checks the names of imports and exports. Types are checked when the component is linked.
///
/// # Errors
/// The first import that is not allowed, or the exports if there is no handler among them.
pub fn check(
    component: &wasmtime::component::Component,
    engine: &Engine,
) -> Result<Handler, AdmissionError> {
    let ty = component.component_type();
    for (name, item) in ty.imports(engine) {
        if !matches!(item.ty, ComponentItem::ComponentInstance(_)) || !is_allowed_import(name) {
            return Err(AdmissionError::Import {
                import: name.to_owned(),
            });
        }
    }
    let exports: Vec<String> = ty
        .exports(engine)
        .map(|(name, _)| name.to_owned())
        .collect();
    handler_of(&exports).ok_or_else(|| AdmissionError::Export {
        found: if exports.is_empty() {
            "nothing".into()
        } else {
            exports.join(", ")
        },
    })
}

fn is_allowed_import(name: &str) -> bool {
    let interface = name.split('@').next().unwrap_or(name);
    ALLOWED_IMPORTS.iter().any(|allowed| {
        if allowed.ends_with('/') {
            interface.starts_with(allowed)
        } else {
            interface == *allowed
        }
    })
}

fn handler_of(exports: &[String]) -> Option<Handler> {
    let has = |prefix: &str| exports.iter().any(|name| name.starts_with(prefix));
    if has("wasi:http/handler@0.3.") {
        Some(Handler::Wasi03)
    } else if has("wasi:http/incoming-handler@0.2.") {
        Some(Handler::Wasi02)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imports_are_matched_by_interface_not_by_prefix_of_a_name() {
        assert!(is_allowed_import("wasi:io/streams@0.2.6"));
        assert!(is_allowed_import("wasi:http/types@0.3.0"));
        assert!(is_allowed_import("wasi:sockets/tcp@0.2.0"));
        assert!(!is_allowed_import("wasi:keyvalue/store@0.2.0-draft"));
        assert!(!is_allowed_import("wasi:http/types-evil@0.2.0"));
        assert!(!is_allowed_import("wasi:iou/x"));
        assert!(!is_allowed_import("env"));
    }

    #[test]
    fn the_newer_handler_wins() {
        let names = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        let both = names(&[
            "wasi:http/incoming-handler@0.2.0",
            "wasi:http/handler@0.3.0",
        ]);
        assert_eq!(handler_of(&both), Some(Handler::Wasi03));
        assert_eq!(handler_of(&names(&["wasi:cli/run@0.2.0"])), None);
    }
}
