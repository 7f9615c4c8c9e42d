//! What Samovar stores and the rules of it: values and pure functions, no input or output.

pub mod bundle;
pub mod digest;
pub mod names;
pub mod settings;
