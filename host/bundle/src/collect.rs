//! Makes a bundle from files: finds every file that a manifest names and hashes it.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use samovar_onnx::external::DataNeed;
use samovar_onnx::file::ports;
use samovar_types::bundle::{Blob, Bundle, Graph, MAX_FILES, Network};
use samovar_types::digest::Digest;
use samovar_types::names;
use samovar_types::settings::InvalidSetting;

use crate::hash_cache::FileHashCache;
use crate::manifest::{Component, Located, Manifest, ManifestError, component};
use crate::open_inference::{self, Description};

/// Why a bundle could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The manifest, or a file that it names, is invalid.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The bundle as a whole violates a rule.
    #[error("{}: {source}", file.display())]
    Invalid {
        file: PathBuf,
        source: InvalidSetting,
    },
}

/// A bundle with the places of its blobs on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalBundle {
    /// The bundle to push.
    pub bundle: Bundle,
    /// All blobs of the bundle, each once.
    pub blobs: Vec<LocalBlob>,
    /// The description of the graphs, if the built-in component serves them.
    pub open_inference: Option<Description>,
}

/// A blob of a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalBlob {
    /// SHA-256 of the bytes that were read.
    pub digest: Digest,
    /// Where the bytes are.
    pub source: Source,
    /// Number of bytes that were read.
    pub size: u64,
}

/// Where the bytes of a blob are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    File(PathBuf),
    /// This program, which contains or generated them.
    Memory {
        /// Name, for messages.
        name: &'static str,
        bytes: Bytes,
    },
}

impl Source {
    /// The path of the file, or the name.
    pub fn path(&self) -> &Path {
        match self {
            Self::File(path) => path,
            Self::Memory { name, .. } => Path::new(name),
        }
    }
}

impl LocalBundle {
    /// Makes the bundle of a folder, a manifest, a component or a model file from the present files, without a build.
    pub fn collect(path: &Path) -> Result<Self, BundleError> {
        Self::from_manifest(&Manifest::load(path)?)
    }

    /// Makes the bundle of a manifest whose component, if it has one, is already built.
    ///
    /// Reads all files and blocks: in async code, call it with `spawn_blocking`.
    pub fn from_manifest(manifest: &Manifest) -> Result<Self, BundleError> {
        Self::from_known(manifest, &mut FileHashCache::default())
    }

    /// The same, without reading unchanged files again.
    pub fn from_known(manifest: &Manifest, files: &mut FileHashCache) -> Result<Self, BundleError> {
        let mut collector = Collector {
            manifest,
            files,
            blobs: BTreeMap::new(),
        };
        let component = match &manifest.component {
            Component::File(place) => collector.component(place)?,
            Component::OpenInference => collector.memory(
                "open-inference.wasm",
                Bytes::from_static(open_inference::COMPONENT),
            ),
        };
        let mut graphs = BTreeMap::new();
        for (name, graph) in &manifest.graphs {
            let (blob, data) = collector.graph_files(&graph.file)?;
            graphs.insert(
                name.clone(),
                Graph {
                    digest: blob.digest,
                    size: blob.size,
                    file: graph.file.value.clone(),
                    data,
                    backend: graph.backend,
                    target: graph.target,
                    threads: graph.threads,
                    batch: graph.batch,
                },
            );
        }
        let mut files = BTreeMap::new();
        for entry in &manifest.files {
            collector.file_or_folder(entry, &mut files)?;
        }
        let open_inference = match manifest.component {
            Component::File(_) => None,
            Component::OpenInference => Some(collector.description(&mut files)?),
        };
        let bundle = Bundle {
            name: manifest.name.clone(),
            component,
            graphs,
            files,
            secrets: manifest.secrets.clone(),
            environment_variables: manifest.environment_variables.clone(),
            network: Network {
                allow: manifest.allow.clone(),
            },
            snapshot: manifest.snapshot,
            example: manifest.example.clone(),
            load_graphs_from_bytes: manifest.load_graphs_from_bytes,
            isolation: manifest.isolation,
            limits: manifest.limits.clone(),
            autoscaling: manifest.autoscaling.clone(),
        };
        let blobs = collector.blobs.into_values().collect();
        bundle.validate().map_err(|source| BundleError::Invalid {
            file: manifest.file.clone(),
            source,
        })?;
        Ok(Self {
            bundle,
            blobs,
            open_inference,
        })
    }
}

struct Collector<'a> {
    manifest: &'a Manifest,
    files: &'a mut FileHashCache,
    blobs: BTreeMap<Digest, LocalBlob>,
}

impl Collector<'_> {
    fn component(&mut self, place: &Located<PathBuf>) -> Result<Blob, ManifestError> {
        let found = component::find(&self.manifest.root, &place.value);
        let path = found.path;
        if !path.exists() {
            let places = [path].into_iter().chain(found.others);
            let places: Vec<_> = places.map(|path| path.display().to_string()).collect();
            let shown = places.join(" or ");
            let problem = match &self.manifest.build {
                Some(build) => {
                    format!(
                        "no file {shown}: run the build command, which should create it ({build})"
                    )
                }
                None => format!(
                    "no file {shown}: build it first, or add a `build` command to the manifest"
                ),
            };
            return Err(self.manifest.error_at(place, problem));
        }
        self.hash(place, path)
    }

    /// The path of a file that is below the root even after following links, so that a project from a stranger cannot make the user
    /// upload private files.
    fn below_root<T>(&self, place: &Located<T>, relative: &str) -> Result<PathBuf, ManifestError> {
        let path = self.manifest.root.join(relative);
        if !self
            .real(place, &path)?
            .starts_with(self.real(place, &self.manifest.root)?)
        {
            let problem = format!(
                "{} is a link that leads out of the manifest's folder: replace the link with the file",
                path.display()
            );
            return Err(self.manifest.error_at(place, problem));
        }
        Ok(path)
    }

    /// The path of a file with weights of a model. If the pushed model is itself a link, as in the cache of Hugging Face, a file with
    /// weights may be a link into the folder that the model's link leads to, and nowhere else.
    fn beside_model(
        &self,
        place: &Located<String>,
        relative: &str,
    ) -> Result<PathBuf, ManifestError> {
        let path = self.manifest.root.join(relative);
        if place.line == 0 {
            let model = self.real(place, &self.manifest.root.join(&place.value))?;
            if self.real(place, &path)?.parent() == model.parent() {
                return Ok(path);
            }
        }
        self.below_root(place, relative)
    }

    /// The path after following links.
    fn real<T>(&self, place: &Located<T>, path: &Path) -> Result<PathBuf, ManifestError> {
        path.canonicalize().map_err(|error| {
            self.manifest
                .error_at(place, format!("{}: {error}", path.display()))
        })
    }

    /// A model file, and the other files with its weights.
    fn graph_files(
        &mut self,
        place: &Located<String>,
    ) -> Result<(Blob, BTreeMap<String, Blob>), ManifestError> {
        let path = match place.line {
            // A model file that the user named without a manifest may be a link.
            0 => self.manifest.root.join(&place.value),
            _ => self.below_root(place, &place.value)?,
        };
        self.check_plain(place, &path)?;
        // Checked before reading the file, so that a file that is too large is refused at once.
        let data = self.data_files(place)?;
        Ok((self.hash(place, path)?, data))
    }

    /// The other files with weights of a model, by the paths that the model uses.
    fn data_files(
        &mut self,
        place: &Located<String>,
    ) -> Result<BTreeMap<String, Blob>, ManifestError> {
        let model = Path::new(&place.value);
        let needs = self.files.data_needs(&self.manifest.root.join(model));
        let needs = needs.map_err(|error| self.error_of_model(place, error))?;
        let mut data = BTreeMap::new();
        for need in needs {
            let DataNeed {
                location,
                weight,
                bytes,
            } = need;
            let beside = model.parent().unwrap_or(Path::new("")).join(&location);
            let relative = beside.to_string_lossy();
            if !self.manifest.root.join(&beside).exists() {
                let problem = format!(
                    "weight `{weight}` is stored in `{location}`, which does not exist: keep this file at the same place relative to the model as when it was saved"
                );
                return Err(self.error_of_model(place, problem));
            }
            let path = self.beside_model(place, &relative)?;
            let blob = self.hash(place, path)?;
            if blob.size < bytes {
                let problem = format!(
                    "{relative}: found {} bytes, but weight `{weight}` ends at byte {bytes}: the file is truncated or belongs to another model",
                    blob.size
                );
                return Err(self.manifest.error_at(place, problem));
            }
            data.insert(location, blob);
        }
        Ok(data)
    }

    fn error_of_model(&self, place: &Located<String>, problem: impl Display) -> ManifestError {
        let problem = match place.line {
            // The message already begins with the file.
            0 => problem.to_string(),
            _ => format!("{}: {problem}", place.value),
        };
        self.manifest.error_at(place, problem)
    }

    fn file_or_folder(
        &mut self,
        place: &Located<String>,
        files: &mut BTreeMap<String, Blob>,
    ) -> Result<(), ManifestError> {
        let mut open = vec![place.value.clone()];
        while let Some(relative) = open.pop() {
            let path = self.manifest.root.join(&relative);
            let failed = |error: io::Error| {
                self.manifest
                    .error_at(place, format!("{}: {error}", path.display()))
            };
            let kind = std::fs::symlink_metadata(&path)
                .map_err(failed)?
                .file_type();
            if !kind.is_dir() {
                if files.len() == MAX_FILES && !files.contains_key(&relative) {
                    let problem = format!(
                        "found more than {MAX_FILES} files, which is the limit of a bundle"
                    );
                    return Err(self.manifest.error_at(place, problem));
                }
                let path = self.below_root(place, &relative)?;
                let blob = self.hash(place, path)?;
                files.insert(relative, blob);
                continue;
            }
            for entry in std::fs::read_dir(&path).map_err(failed)? {
                let name = entry.map_err(failed)?.file_name();
                let child = match name.to_str() {
                    Some(name) => format!("{relative}/{name}"),
                    None => String::new(),
                };
                names::check_path(&child).map_err(|wanted| {
                    let problem =
                        format!("found {:?} in {}, wanted {wanted}", name, path.display());
                    self.manifest.error_at(place, problem)
                })?;
                open.push(child);
                if open.len() > 2 * MAX_FILES {
                    let problem = format!(
                        "found more than {MAX_FILES} files, which is the limit of a bundle"
                    );
                    return Err(self.manifest.error_at(place, problem));
                }
            }
        }
        Ok(())
    }

    /// Adds the description of the graphs for the built-in component to the files.
    fn description(
        &mut self,
        files: &mut BTreeMap<String, Blob>,
    ) -> Result<Description, ManifestError> {
        const NAME: &str = open_inference::DESCRIPTION;
        if files.contains_key(NAME) {
            let places = &self.manifest.files;
            let place = places.iter().find(|place| place.value == NAME);
            let problem = format!(
                "found {NAME}, which is generated from the graphs if there is no `component`: remove it from `files`"
            );
            return Err(match place.or(places.first()) {
                Some(place) => self.manifest.error_at(place, problem),
                None => ManifestError::NotAProject {
                    path: self.manifest.file.clone(),
                    problem,
                },
            });
        }
        let mut graphs = BTreeMap::new();
        for (name, graph) in &self.manifest.graphs {
            let place = &graph.file;
            let ports = ports(&self.manifest.root.join(&place.value))
                .map_err(|error| self.error_of_model(place, error))?;
            graphs.insert(name.clone(), ports);
        }
        let description = Description::new(&self.manifest.name, graphs);
        let blob = self.memory(NAME, description.to_json().into());
        files.insert(NAME.to_owned(), blob);
        Ok(description)
    }

    fn memory(&mut self, name: &'static str, bytes: Bytes) -> Blob {
        let blob = Blob {
            digest: Digest::of(&bytes),
            size: bytes.len() as u64,
        };
        self.add(blob, Source::Memory { name, bytes });
        blob
    }

    fn add(&mut self, blob: Blob, source: Source) {
        let Blob { digest, size } = blob;
        self.blobs.entry(digest).or_insert(LocalBlob {
            digest,
            source,
            size,
        });
    }

    /// Refuses pipes and devices, which could be read forever.
    fn check_plain<T>(&self, place: &Located<T>, path: &Path) -> Result<(), ManifestError> {
        let problem = match std::fs::metadata(path) {
            Ok(metadata) if metadata.is_file() => return Ok(()),
            Ok(_) => "found something that is not a plain file, wanted a file".to_owned(),
            Err(error) => error.to_string(),
        };
        let problem = format!("{}: {problem}", path.display());
        Err(self.manifest.error_at(place, problem))
    }

    fn hash<T>(&mut self, place: &Located<T>, path: PathBuf) -> Result<Blob, ManifestError> {
        self.check_plain(place, &path)?;
        let blob = self.files.blob(&path).map_err(|error| {
            let problem = format!("{}: {error}", path.display());
            self.manifest.error_at(place, problem)
        })?;
        self.add(blob, Source::File(path));
        Ok(blob)
    }
}

#[cfg(test)]
#[path = "collect_tests.rs"]
mod tests;
