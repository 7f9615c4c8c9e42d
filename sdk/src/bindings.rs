//! Bindings generated from `wit/` and the WIT of the runtime: inference, configuration, logging and the life cycle of a replica.
#![allow(
    missing_docs,
    unused_qualifications,
    unsafe_op_in_unsafe_fn,
    clippy::all,
    clippy::pedantic
)]

wit_bindgen::generate!({
    path: ["../runtime/wit/wasi-nn", "../runtime/wit/logging", "wit"],
    world: "samovar:model/model",
    generate_all,
    pub_export_macro: true,
    export_macro_name: "export_lifecycle",
    default_bindings_module: "samovar_sdk::bindings",
});
