//! What fuzz targets call; not for use by anybody else.

use crate::infer::backend::onnx;

/// The names of tensors and nodes of a model that want something outside of it.
///
/// # Errors
/// When the bytes are not read as a model.
pub fn onnx_references(bytes: &[u8]) -> Result<Vec<String>, String> {
    let read = onnx::Onnx::read(bytes)?;
    let names = read
        .references
        .into_iter()
        .map(|reference| match reference {
            onnx::outside::Reference::Data { tensor, .. } => tensor,
            onnx::outside::Reference::Engine { node } => node,
        });
    Ok(names.collect())
}

/// A copy of a model that was read, in which every file of weights has this name.
pub fn onnx_renamed(bytes: &[u8], name: &str) -> Vec<u8> {
    struct Renamed<'a>(&'a str);
    impl onnx::wire::Edit for Renamed<'_> {
        fn location(&mut self, _location: &str) -> String {
            self.0.to_owned()
        }
    }
    onnx::wire::edited(bytes, &mut Renamed(name)).unwrap_or_default()
}
