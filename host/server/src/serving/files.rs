//! What a replica needs to find sound on disk before it starts: the blobs of its bundle, and the links to them.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use samovar_runtime::FileCheck;
use samovar_store::blobs::Blobs;
use samovar_types::bundle::Bundle;
use samovar_types::digest::Digest;

use super::layout::Layout;

/// The files of one deployment.
pub struct BundleFiles {
    /// The name of its model.
    model: String,
    blobs: Blobs,
    /// What each blob is to the bundle.
    parts: BTreeMap<Digest, String>,
    layout: Option<Arc<Layout>>,
}

impl BundleFiles {
    /// Those of a bundle, whose files are laid out there.
    pub fn new(model: &str, bundle: &Bundle, blobs: Blobs, layout: Option<Arc<Layout>>) -> Self {
        let mut parts = BTreeMap::new();
        parts.insert(bundle.component.digest, "its component".to_owned());
        for (path, file) in &bundle.files {
            parts.insert(file.digest, format!("its file `{path}`"));
        }
        for (name, graph) in &bundle.graphs {
            for (location, file) in &graph.data {
                let part = format!("weights of its graph `{name}`, `{location}`");
                parts.insert(file.digest, part);
            }
            parts.insert(graph.digest, format!("its graph `{name}`"));
        }
        Self {
            model: model.to_owned(),
            blobs,
            parts,
            layout,
        }
    }

    /// Hashes what was not hashed yet in this process as it is now on disk, and links anew what was replaced since.
    async fn make_ready(&self) -> Result<(), String> {
        for (digest, part) in &self.parts {
            let checked = self.blobs.check(*digest).await;
            checked.map_err(|error| format!("{part} of model `{}`: {error}", self.model))?;
        }
        let Some(layout) = &self.layout else {
            return Ok(());
        };
        let renewed = layout.renew().await;
        renewed.map_err(|error| format!("cannot lay out the files of `{}`: {error}", self.model))
    }
}

impl FileCheck for BundleFiles {
    fn check(&self) -> BoxFuture<'_, Result<(), String>> {
        self.make_ready().boxed()
    }
}
