//! What several fuzz targets check.

pub mod bundles;
pub mod documents;
pub mod open_inference;
