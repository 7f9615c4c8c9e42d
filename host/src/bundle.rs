//! Makes a bundle from what is on disk: finds every file that a manifest names and hashes it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use samovar_runtime::backend::{DataNeed, data_needs};
use sha2::{Digest as _, Sha256};

use crate::domain::bundle::MAX_FILES;
pub use crate::domain::bundle::{Blob, Bundle, Graph, GraphBackend, GraphTarget, Network};
pub use crate::domain::digest::Digest;
use crate::domain::names;
use crate::domain::settings::InvalidSetting;
use crate::manifest::{Located, Manifest, ManifestError};

/// Why no bundle could be made.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The manifest is wrong, or a file that it names.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The bundle as a whole breaks a rule.
    #[error("{}: {source}", file.display())]
    Invalid {
        /// The manifest.
        file: PathBuf,
        /// The rule.
        source: InvalidSetting,
    },
}

/// A bundle whose blobs are files of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalBundle {
    /// What a server is told.
    pub bundle: Bundle,
    /// The bundle's blobs, each once.
    pub blobs: Vec<LocalBlob>,
}

/// A file that is a blob of a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalBlob {
    /// SHA-256 of its bytes, when they were read.
    pub digest: Digest,
    /// Where it is.
    pub path: PathBuf,
    /// Number of its bytes, when they were read.
    pub size: u64,
}

impl LocalBundle {
    /// The bundle of a folder, a manifest or a bare component, as it lies there: nothing is built.
    pub fn collect(path: &Path) -> Result<Self, BundleError> {
        Self::from_manifest(&Manifest::load(path)?)
    }

    /// The bundle of a manifest, whose component has been built.
    ///
    /// It reads every byte of it and blocks: within async code, call it by `spawn_blocking`.
    pub fn from_manifest(manifest: &Manifest) -> Result<Self, BundleError> {
        let mut collector = Collector {
            manifest,
            blobs: BTreeMap::new(),
        };
        let component = collector.component()?;
        let mut graphs = BTreeMap::new();
        for (name, graph) in &manifest.graphs {
            let blob = collector.below_root(&graph.file, &graph.file.value)?;
            let data = collector.data_files(&graph.file)?;
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
            limits: manifest.limits.clone(),
            autoscaling: manifest.autoscaling.clone(),
        };
        let blobs = collector.blobs.into_values().collect();
        bundle.validate().map_err(|source| BundleError::Invalid {
            file: manifest.file.clone(),
            source,
        })?;
        Ok(Self { bundle, blobs })
    }
}

struct Collector<'a> {
    manifest: &'a Manifest,
    blobs: BTreeMap<Digest, LocalBlob>,
}

impl Collector<'_> {
    fn component(&mut self) -> Result<Blob, ManifestError> {
        let place = &self.manifest.component;
        let path = self.manifest.root.join(&place.value);
        if !path.exists() {
            let shown = path.display();
            let problem = match &self.manifest.build {
                Some(build) => {
                    format!("no file {shown}: the build command is to make it ({build})")
                }
                None => format!(
                    "no file {shown}: build it first, or add a `build` command to the manifest"
                ),
            };
            return Err(self.manifest.error_at(place, problem));
        }
        self.hash(place, path)
    }

    /// Hashes a file that lies below the root even when links are followed, so that a project from elsewhere cannot have
    /// its pusher upload a file of his own.
    fn below_root<T>(&mut self, place: &Located<T>, relative: &str) -> Result<Blob, ManifestError> {
        let path = self.manifest.root.join(relative);
        let real = |path: &Path| {
            path.canonicalize().map_err(|error| {
                self.manifest
                    .error_at(place, format!("{}: {error}", path.display()))
            })
        };
        if !real(&path)?.starts_with(real(&self.manifest.root)?) {
            let problem = format!(
                "{} is a link that leads out of the manifest's folder",
                path.display()
            );
            return Err(self.manifest.error_at(place, problem));
        }
        self.hash(place, path)
    }

    /// The files beside a model that hold weights of it, as the model names them.
    fn data_files(
        &mut self,
        place: &Located<String>,
    ) -> Result<BTreeMap<String, Blob>, ManifestError> {
        let model = Path::new(&place.value);
        let needs = data_needs(&self.manifest.root.join(model)).map_err(|error| {
            self.manifest
                .error_at(place, format!("{}: {error}", place.value))
        })?;
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
                    "{}: weight `{weight}` lies in `{location}`, which is not there: put it beside the model as it was saved",
                    place.value
                );
                return Err(self.manifest.error_at(place, problem));
            }
            let blob = self.below_root(place, &relative)?;
            if blob.size < bytes {
                let problem = format!(
                    "{relative}: found {} bytes, but weight `{weight}` ends at byte {bytes}: it is cut off, or another model's",
                    blob.size
                );
                return Err(self.manifest.error_at(place, problem));
            }
            data.insert(location, blob);
        }
        Ok(data)
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
                    let problem =
                        format!("more than {MAX_FILES} files, which is the most a bundle may have");
                    return Err(self.manifest.error_at(place, problem));
                }
                let blob = self.below_root(place, &relative)?;
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
                    let problem =
                        format!("more than {MAX_FILES} files, which is the most a bundle may have");
                    return Err(self.manifest.error_at(place, problem));
                }
            }
        }
        Ok(())
    }

    fn hash<T>(&mut self, place: &Located<T>, path: PathBuf) -> Result<Blob, ManifestError> {
        let failed = |problem: String| {
            self.manifest
                .error_at(place, format!("{}: {problem}", path.display()))
        };
        // A pipe or a device would be read for ever.
        let metadata = std::fs::metadata(&path).map_err(|error| failed(error.to_string()))?;
        if !metadata.is_file() {
            return Err(failed(
                "found something that is not a plain file, wanted a file".into(),
            ));
        }
        let blob = hash_file(&path).map_err(|error| failed(error.to_string()))?;
        self.blobs.entry(blob.digest).or_insert(LocalBlob {
            digest: blob.digest,
            path,
            size: blob.size,
        });
        Ok(blob)
    }
}

/// Reads a file once and says its digest and size.
pub fn hash_file(path: &Path) -> io::Result<Blob> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    let mut size = 0;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                hasher.update(&buffer[..count]);
                size += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Blob {
        digest: Digest::from_hasher(hasher),
        size,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn project(manifest: &str, files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("samovar.toml"), manifest).unwrap();
        for (path, text) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        folder
    }

    fn refused(manifest: &str, files: &[(&str, &str)]) -> String {
        LocalBundle::collect(project(manifest, files).path())
            .unwrap_err()
            .to_string()
    }

    const MANIFEST: &str = "name = 'm'\ncomponent = 'm.wasm'\nfiles = ['a.txt', 'data']\n[graphs.default]\nfile = 'm.onnx'";

    #[test]
    fn files_folders_and_graphs_are_hashed_once() {
        let folder = project(
            MANIFEST,
            &[
                ("m.wasm", "component"),
                ("m.onnx", "graph"),
                ("a.txt", "a"),
                ("data/b.txt", "a"),
                ("data/deep/c.txt", "c"),
                ("not-named.txt", "x"),
            ],
        );
        let local = LocalBundle::collect(folder.path()).unwrap();
        let paths: Vec<_> = local.bundle.files.keys().collect();
        assert_eq!(paths, ["a.txt", "data/b.txt", "data/deep/c.txt"]);
        assert_eq!(local.bundle.component.digest, Digest::of(b"component"));
        assert_eq!(local.bundle.graphs["default"].file, "m.onnx");
        assert_eq!(
            local.bundle.files["a.txt"],
            local.bundle.files["data/b.txt"]
        );
        let blobs: BTreeMap<_, _> = local
            .blobs
            .iter()
            .map(|blob| (blob.digest, blob.size))
            .collect();
        assert_eq!(blobs, local.bundle.blobs());
        assert_eq!(local.blobs.len(), 4);
        for blob in &local.blobs {
            assert_eq!(Digest::of(&fs::read(&blob.path).unwrap()), blob.digest);
        }
    }

    /// A message of the format, out of tagged pieces.
    fn message(fields: &[(u8, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (tag, payload) in fields {
            bytes.extend([tag << 3 | 2, u8::try_from(payload.len()).unwrap()]);
            bytes.extend(*payload);
        }
        bytes
    }

    /// A model whose weight `w` has 4 bytes in another file.
    fn model(location: &str) -> Vec<u8> {
        let place = message(&[(1, b"location"), (2, location.as_bytes())]);
        let length = message(&[(1, b"length"), (2, b"4")]);
        let weight = message(&[(8, b"w"), (13, &place), (13, &length)]);
        message(&[(7, &message(&[(5, &weight)]))])
    }

    #[test]
    fn weights_beside_a_model_come_along() {
        let manifest = "name = 'm'\ncomponent = 'm.wasm'\n[graphs.default]\nfile = 'deep/m.onnx'";
        let folder = project(
            manifest,
            &[("m.wasm", "component"), ("deep/w/m.data", "1234")],
        );
        let put = |location: &str| fs::write(folder.path().join("deep/m.onnx"), model(location));
        let refused = || LocalBundle::collect(folder.path()).unwrap_err().to_string();
        put("./w/m.data").unwrap();
        let local = LocalBundle::collect(folder.path()).unwrap();
        let graph = &local.bundle.graphs["default"];
        assert_eq!(graph.data["w/m.data"].digest, Digest::of(b"1234"));
        assert_eq!(local.blobs.len(), 3);

        put("other.data").unwrap();
        let error = refused();
        assert!(
            error.contains("samovar.toml:4: `graphs.default.file`: deep/m.onnx: weight `w` lies in `other.data`, which is not there"),
            "{error}"
        );
        put("../m.wasm").unwrap();
        assert!(
            refused().contains("wanted a file in the model's folder"),
            "{}",
            refused()
        );
        put("w/m.data").unwrap();
        fs::write(folder.path().join("deep/w/m.data"), "123").unwrap();
        assert!(
            refused().contains("weight `w` ends at byte 4"),
            "{}",
            refused()
        );
    }

    #[cfg(unix)]
    #[test]
    fn weights_behind_a_link_out_of_the_folder_are_refused() {
        let manifest = "name = 'm'\ncomponent = 'm.wasm'\n[graphs.default]\nfile = 'm.onnx'";
        let folder = project(manifest, &[("m.wasm", "component")]);
        fs::write(folder.path().join("m.onnx"), model("m.data")).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", folder.path().join("m.data")).unwrap();
        let error = LocalBundle::collect(folder.path()).unwrap_err().to_string();
        assert!(
            error.contains("leads out of the manifest's folder"),
            "{error}"
        );
    }

    #[test]
    fn a_bare_component_is_a_bundle() {
        let folder = project("", &[("hello.wasm", "component")]);
        let local = LocalBundle::collect(&folder.path().join("hello.wasm")).unwrap();
        assert_eq!(local.bundle.name, "hello");
        assert_eq!(local.blobs.len(), 1);
        let empty = project("", &[("empty.wasm", "")]);
        let error = LocalBundle::collect(&empty.path().join("empty.wasm")).unwrap_err();
        assert!(
            error.to_string().contains("component.size: found 0"),
            "{error}"
        );
    }

    #[test]
    fn a_missing_file_is_named_with_line_and_key() {
        let error = refused(MANIFEST, &[]);
        assert!(
            error.contains("samovar.toml:2: `component`: no file "),
            "{error}"
        );
        let error = refused(MANIFEST, &[("m.wasm", "x")]);
        assert!(
            error.contains("samovar.toml:5: `graphs.default.file`: "),
            "{error}"
        );
        let error = refused(MANIFEST, &[("m.wasm", "x"), ("m.onnx", "x")]);
        assert!(
            error.contains("samovar.toml:3: `files`: ") && error.contains("a.txt"),
            "{error}"
        );
        let error = refused("name='m'\ncomponent='d'", &[("d/x", "")]);
        assert!(error.contains("not a plain file"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn a_link_out_of_the_folder_is_refused() {
        let folder = project(
            "name='m'\ncomponent='m.wasm'\nfiles=['d']",
            &[("m.wasm", "x"), ("d/x", "x")],
        );
        std::os::unix::fs::symlink("/etc/hostname", folder.path().join("d/link")).unwrap();
        let error = LocalBundle::collect(folder.path()).unwrap_err().to_string();
        assert!(
            error.contains("leads out of the manifest's folder"),
            "{error}"
        );
        fs::remove_file(folder.path().join("d/link")).unwrap();
        std::os::unix::fs::symlink("..", folder.path().join("d/loop")).unwrap();
        let error = LocalBundle::collect(folder.path()).unwrap_err().to_string();
        assert!(error.contains("not a plain file"), "{error}");
    }

    #[test]
    fn too_many_files_are_refused() {
        let folder = project(
            "name='m'\ncomponent='m.wasm'\nfiles=['d']",
            &[("m.wasm", "x"), ("d/x", "x")],
        );
        for number in 0..MAX_FILES {
            fs::write(folder.path().join(format!("d/{number}")), "").unwrap();
        }
        let error = LocalBundle::collect(folder.path()).unwrap_err().to_string();
        assert!(error.contains("more than 1000 files"), "{error}");
    }
}
