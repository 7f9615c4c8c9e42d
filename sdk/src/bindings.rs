//! Bindings generated from `wit/`: inference, configuration, logging and the life cycle of a replica.
#![allow(
    missing_docs,
    unused_qualifications,
    unsafe_op_in_unsafe_fn,
    clippy::all,
    clippy::pedantic
)]

wit_bindgen::generate!({
    path: "wit",
    world: "model",
    generate_all,
    pub_export_macro: true,
    export_macro_name: "export_lifecycle",
    default_bindings_module: "samovar_sdk::bindings",
});
