//! Bundles: the description of a deployment, with each file by its digest.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::names;
use crate::settings::{AutoscalingSettings, Batch, GRAPH_THREADS, InvalidSetting, Limits};

/// Maximum number of graphs of a bundle.
pub const MAX_GRAPHS: usize = 64;
/// Maximum number of files of a bundle.
pub const MAX_FILES: usize = 1000;
/// Maximum number of files with weights of a graph.
pub const MAX_DATA_FILES: usize = 1000;
/// Maximum number of secrets of a bundle.
pub const MAX_SECRETS: usize = 64;
/// Maximum number of environment variables of a bundle.
pub const MAX_VARIABLES: usize = 256;
/// Longest value of an environment variable, in bytes.
pub const MAX_VALUE_BYTES: usize = 32 << 10;
/// Maximum number of hosts that a component may call.
pub const MAX_HOSTS: usize = 256;
/// Longest example of a request, in bytes.
pub const MAX_EXAMPLE_BYTES: usize = 4 << 10;
/// Largest blob, in bytes.
pub const MAX_BLOB_BYTES: u64 = 64 << 30;
/// Largest component, in bytes. It is compiled in memory.
pub const MAX_COMPONENT_BYTES: u64 = 512 << 20;
/// Largest bundle as JSON without its blobs, in bytes. It is part of a stored document, whose limit is 1 MiB.
pub const MAX_BUNDLE_BYTES: usize = 768 << 10;

/// What is deployed: one component, its graphs, its files and its settings.
///
/// This type and its fields are also stored, so they ignore unknown fields that a newer release may have added. Requests of clients are
/// read as [`Strict`](crate::strict::Strict), which refuses unknown fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Bundle {
    /// Name of the model, unless the push gives another one.
    pub name: String,
    /// The WebAssembly component.
    pub component: Blob,
    /// Graphs by the name that `graph.load-by-name` uses.
    #[serde(default)]
    pub graphs: BTreeMap<String, Graph>,
    /// Files that the component can read, by their path below `/`.
    #[serde(default)]
    pub files: BTreeMap<String, Blob>,
    /// Names of the secrets that the component may read.
    #[serde(default)]
    pub secrets: BTreeSet<String>,
    /// Environment variables of the component.
    #[serde(default)]
    pub environment_variables: BTreeMap<String, String>,
    /// Hosts that the component may call.
    #[serde(default)]
    pub network: Network,
    /// Whether `init` runs once, when the bundle is pushed, and replicas start from a copy of the memory after it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub snapshot: bool,
    /// An example body for `POST /predict`, to show users how to call the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub example: Option<String>,
    /// Whether the component may load graphs from bytes with `graph.load` of `wasi:nn`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub load_graphs_from_bytes: bool,
    /// Which deployments its graphs share a process with.
    #[serde(default, skip_serializing_if = "Isolation::is_shared")]
    pub isolation: Isolation,
    /// Limits of one replica and of one request.
    #[serde(default)]
    pub limits: Limits,
    /// Autoscaling settings.
    #[serde(default)]
    pub autoscaling: AutoscalingSettings,
}

impl Bundle {
    /// A component alone, with the settings that hold by default.
    pub fn new(name: impl Into<String>, component: Blob) -> Self {
        Self {
            name: name.into(),
            component,
            graphs: BTreeMap::new(),
            files: BTreeMap::new(),
            secrets: BTreeSet::new(),
            environment_variables: BTreeMap::new(),
            network: Network::default(),
            snapshot: false,
            example: None,
            load_graphs_from_bytes: false,
            isolation: Isolation::default(),
            limits: Limits::default(),
            autoscaling: AutoscalingSettings::default(),
        }
    }
}

/// A stored file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Blob {
    /// SHA-256 of the file.
    pub digest: Digest,
    /// Size in bytes.
    pub size: u64,
}

/// A graph: a model file that wasi-nn loads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Graph {
    /// SHA-256 of the model file.
    pub digest: Digest,
    /// Size in bytes.
    pub size: u64,
    /// Path of the model file; its extension names the format.
    pub file: String,
    /// Files with weights, by the paths that the model file uses, which are relative to its folder.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub data: BTreeMap<String, Blob>,
    /// Backend that runs the graph.
    #[serde(default)]
    pub backend: GraphBackend,
    /// Device that the graph runs on.
    #[serde(default)]
    pub target: GraphTarget,
    /// Maximum number of threads of one run.
    #[serde(default = "one")]
    pub threads: u32,
    /// How calls are joined into one run; `null` disables joining.
    #[serde(default)]
    pub batch: Option<Batch>,
}

fn one() -> u32 {
    1
}

impl Graph {
    /// The blobs of the model file and its weights.
    pub fn blobs(&self) -> impl Iterator<Item = Blob> {
        let model = Blob {
            digest: self.digest,
            size: self.size,
        };
        std::iter::once(model).chain(self.data.values().copied())
    }

    /// A digest of all files of the graph.
    pub fn whole_digest(&self) -> Digest {
        if self.data.is_empty() {
            return self.digest;
        }
        let mut text = self.digest.to_string();
        for (location, blob) in &self.data {
            // No path has a line's end in it.
            text += &format!("\n{} {location}", blob.digest);
        }
        Digest::of(text.as_bytes())
    }
}

/// Backend that runs a graph.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum GraphBackend {
    /// The fastest backend of the node that can run the graph.
    #[default]
    Auto,
    /// ONNX Runtime.
    Onnxruntime,
    /// rten, which is always available.
    Rten,
}

/// Device that a graph runs on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum GraphTarget {
    /// A GPU if there is a usable one, otherwise the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// A GPU; without a usable one, the deployment fails.
    Gpu,
}

/// Which deployments the graphs of a deployment share a process with, unless `serve --engines` decides for all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// Other deployments that use the same backend.
    #[default]
    Shared,
    /// None.
    Deployment,
}

impl Isolation {
    fn is_shared(&self) -> bool {
        *self == Self::Shared
    }
}

/// Hosts that a component may call.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct Network {
    /// `HOST:PORT` of each host; calls to others are refused.
    pub allow: BTreeSet<String>,
}

impl Bundle {
    /// Digest of the bundle. It does not depend on the order of fields and the spacing of its JSON.
    pub fn digest(&self) -> Digest {
        Digest::of(&self.to_canonical_json())
    }

    /// Digest of the files, which the `init` of a snapshot can read.
    pub fn seen_by_init(&self) -> Digest {
        // Sorted by path, and plain texts and numbers leave the writer nothing to fail on.
        Digest::of(&serde_json::to_vec(&self.files).unwrap_or_default())
    }

    /// All blobs of the bundle, each once, ordered by digest.
    pub fn blobs(&self) -> BTreeMap<Digest, u64> {
        let graphs = self.graphs.values().flat_map(Graph::blobs);
        let files = self.files.values().copied();
        std::iter::once(self.component)
            .chain(graphs)
            .chain(files)
            .map(|blob| (blob.digest, blob.size))
            .collect()
    }

    /// Checks all rules for bundles. The server checks every bundle, because a client can send anything.
    pub fn validate(&self) -> Result<(), InvalidSetting> {
        named("name", &self.name, names::check_name)?;
        self.validate_graphs()?;
        self.validate_files()?;
        self.validate_sizes()?;
        at_most("secrets", self.secrets.len(), MAX_SECRETS)?;
        for name in &self.secrets {
            named("secrets", name, names::check_variable)?;
        }
        at_most(
            "environment_variables",
            self.environment_variables.len(),
            MAX_VARIABLES,
        )?;
        for (name, value) in &self.environment_variables {
            named("environment_variables", name, names::check_variable)?;
            check_value(name, value)?;
        }
        if let Some(example) = &self.example
            && example.len() > MAX_EXAMPLE_BYTES
        {
            let wanted = format!("at most {MAX_EXAMPLE_BYTES} bytes");
            return Err(InvalidSetting::new("example", example.len(), wanted));
        }
        at_most("network.allow", self.network.allow.len(), MAX_HOSTS)?;
        for host in &self.network.allow {
            named("network.allow", host, names::check_host)?;
        }
        self.limits.validate()?;
        self.autoscaling.validate()?;
        let size = self.to_canonical_json().len();
        if size > MAX_BUNDLE_BYTES {
            return Err(InvalidSetting::new(
                "bundle",
                format_args!("{size} bytes of JSON"),
                format!("at most {MAX_BUNDLE_BYTES}: put fewer files in it, or shorter values"),
            ));
        }
        Ok(())
    }

    fn validate_graphs(&self) -> Result<(), InvalidSetting> {
        at_most("graphs", self.graphs.len(), MAX_GRAPHS)?;
        for (name, graph) in &self.graphs {
            named("graphs", name, names::check_name)?;
            named(
                &format!("graphs.{name}.file"),
                &graph.file,
                names::check_path,
            )?;
            let data = format!("graphs.{name}.data");
            at_most(&data, graph.data.len(), MAX_DATA_FILES)?;
            for location in graph.data.keys() {
                named(&data, location, names::check_path)?;
            }
            // They lie beside the model.
            let model = graph.file.rsplit('/').next().unwrap_or_default();
            let own = graph.data.get(model);
            if own.is_some_and(|own| (own.digest, own.size) != (graph.digest, graph.size)) {
                return Err(InvalidSetting::new(
                    data,
                    format_args!("{model:?} with a digest or a size of its own"),
                    "those of the model, which has that path",
                ));
            }
            files_or_folders(&data, graph.data.keys().map(String::as_str).chain([model]))?;
            if !GRAPH_THREADS.contains(&graph.threads) {
                return Err(InvalidSetting::new(
                    format!("graphs.{name}.threads"),
                    graph.threads,
                    format!("{} to {}", GRAPH_THREADS.start(), GRAPH_THREADS.end()),
                ));
            }
            if let Some(batch) = &graph.batch {
                batch.validate(&format!("graphs.{name}.batch"))?;
            }
        }
        Ok(())
    }

    fn validate_files(&self) -> Result<(), InvalidSetting> {
        at_most("files", self.files.len(), MAX_FILES)?;
        for path in self.files.keys() {
            named("files", path, names::check_path)?;
        }
        files_or_folders("files", self.files.keys().map(String::as_str))
    }

    fn validate_sizes(&self) -> Result<(), InvalidSetting> {
        if !(1..=MAX_COMPONENT_BYTES).contains(&self.component.size) {
            return Err(InvalidSetting::new(
                "component.size",
                self.component.size,
                format!("1 to {MAX_COMPONENT_BYTES} bytes"),
            ));
        }
        let mut sizes = BTreeMap::new();
        let graphs = self.graphs.values().flat_map(Graph::blobs);
        let files = self.files.values().copied();
        for blob in std::iter::once(self.component).chain(graphs).chain(files) {
            if blob.size > MAX_BLOB_BYTES {
                return Err(InvalidSetting::new(
                    format!("size of {}", blob.digest),
                    blob.size,
                    format!("at most {MAX_BLOB_BYTES} bytes"),
                ));
            }
            let before = *sizes.entry(blob.digest).or_insert(blob.size);
            if before != blob.size {
                return Err(InvalidSetting::new(
                    format!("size of {}", blob.digest),
                    format_args!("{before} and {}", blob.size),
                    "one size for one digest",
                ));
            }
        }
        Ok(())
    }

    fn to_canonical_json(&self) -> Vec<u8> {
        // Struct fields keep their order and the maps are sorted, so the text is one per value; text keys and plain
        // values leave the writer nothing to fail on.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// Refuses values that are too long or contain a NUL character.
pub fn check_value(name: &str, value: &str) -> Result<(), InvalidSetting> {
    let field = || format!("environment_variables.{name}");
    if value.len() > MAX_VALUE_BYTES {
        return Err(InvalidSetting::new(
            field(),
            format_args!("{} bytes", value.len()),
            format!("at most {MAX_VALUE_BYTES}: put it in a file"),
        ));
    }
    if value.contains('\0') {
        return Err(InvalidSetting::new(
            field(),
            "a NUL character",
            "text without",
        ));
    }
    Ok(())
}

fn named(
    field: &str,
    found: &str,
    check: fn(&str) -> Result<(), names::Wanted>,
) -> Result<(), InvalidSetting> {
    check(found).map_err(|wanted| {
        let shown: String = found.chars().take(80).collect();
        InvalidSetting::new(field, format_args!("{shown:?}"), wanted)
    })
}

/// Refuses `a` together with `a/b`, because `a` cannot be both a file and a folder.
fn files_or_folders<'a>(
    field: &str,
    paths: impl Iterator<Item = &'a str>,
) -> Result<(), InvalidSetting> {
    let paths: BTreeSet<&str> = paths.collect();
    for path in &paths {
        let mut parents = path.match_indices('/').map(|(at, _)| &path[..at]);
        if let Some(parent) = parents.find(|parent| paths.contains(parent)) {
            return Err(InvalidSetting::new(
                field,
                format_args!("{parent:?} and {path:?}"),
                "a path that is either a file or a folder",
            ));
        }
    }
    Ok(())
}

fn at_most(field: &str, found: usize, limit: usize) -> Result<(), InvalidSetting> {
    if found <= limit {
        return Ok(());
    }
    Err(InvalidSetting::new(
        field,
        found,
        format!("at most {limit}"),
    ))
}

#[cfg(test)]
#[path = "bundle_tests.rs"]
mod tests;
