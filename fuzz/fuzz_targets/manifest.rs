//! What a manifest says makes a valid bundle, and is said again by the manifest that is written of that bundle.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use samovar_bundle::manifest::{Manifest, ManifestError};
use samovar_fuzz::bundles;
use samovar_types::bundle::Blob;
use samovar_types::digest::Digest;

fuzz_target!(|text: &str| {
    let manifest = match Manifest::parse(Path::new("samovar.toml"), text) {
        Ok(manifest) => manifest,
        Err(error) => return check_error(&error, text),
    };
    let bundle = bundles::of_manifest(&manifest, &|path| Blob {
        digest: Digest::of(path.as_bytes()),
        size: 1,
    });
    match bundle.validate() {
        Ok(()) => bundles::check_folder(&bundle),
        // Only what the keys of a manifest make together is left to be wrong.
        Err(error) => assert!(
            ["files", "bundle"].contains(&&*error.field),
            "{error}\n{text}"
        ),
    }
});

/// An error names the file and one of its lines.
fn check_error(error: &ManifestError, text: &str) {
    let lines = 1 + text.matches('\n').count();
    match error {
        ManifestError::Syntax { line, .. } | ManifestError::Key { line, .. } => {
            assert!((1..=lines).contains(line), "{error}");
        }
        _ => panic!("{error}"),
    }
    assert!(error.to_string().starts_with("samovar.toml:"), "{error}");
}
