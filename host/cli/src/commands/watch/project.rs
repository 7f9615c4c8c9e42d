//! Reads the project's files: the sources, and the files of the bundle.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use samovar_bundle::collect::{BundleError, LocalBundle};
use samovar_bundle::hash_cache::{FileHashCache, Identity};
use samovar_bundle::manifest::{
    Component, FILE_NAME, Manifest, ManifestError, component, folder_of,
};

use super::folders::Folders;
use super::plan::Snapshot;
use super::sources::{self, MAX_SOURCES, OwnOutput};

/// Number of scans in a row. A scan is repeated if it finds a new folder, because changes in it may have been missed before.
const MAX_LOOKS: usize = 3;

/// A project that is scanned repeatedly.
pub struct Project {
    /// What the user gave.
    path: PathBuf,
    /// Other folders with sources.
    also: Vec<PathBuf>,
    folders: Folders,
    own_output: OwnOutput,
    source_files: FileHashCache,
    bundle_files: FileHashCache,
    was_cut: bool,
    /// Duration of the last scan.
    pub took: Duration,
}

/// What a scan reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Only the files that the manifest names.
    Named,
    /// The sources, too.
    Sources,
}

/// What happened before a bundle is collected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// A build, which has finished writing files.
    Build,
    /// Another change. A program may still be writing files.
    Change,
}

/// The result of collecting a bundle.
pub enum Collected {
    /// The bundle can be pushed.
    Whole(Box<LocalBundle>),
    /// A program is writing one of its files.
    BeingWritten,
}

impl Project {
    /// Opens the project at the path that the user gave.
    pub fn new(path: PathBuf, also: Vec<PathBuf>, folders: Folders) -> Self {
        Self {
            path,
            also,
            folders,
            own_output: OwnOutput::of_this_process(),
            source_files: FileHashCache::default(),
            bundle_files: FileHashCache::default(),
            was_cut: false,
            took: Duration::ZERO,
        }
    }

    /// The manifest as it is now.
    pub fn manifest(&mut self) -> Result<(Manifest, Identity), ManifestError> {
        // Read before the contents, so that a later change is detected.
        let identity = Identity::read(&self.manifest_file());
        let manifest = Manifest::load(&self.path).inspect_err(|_| {
            let folder = folder_of(&self.manifest_file());
            self.folders.watch(&BTreeSet::from([folder]));
        })?;
        let identity = identity.map_err(|source| ManifestError::Read {
            file: manifest.file.clone(),
            source,
        })?;
        Ok((manifest, identity))
    }

    /// The identity of the manifest's file, if it exists.
    pub fn manifest_identity(&self) -> Option<Identity> {
        Identity::read(&self.manifest_file()).ok()
    }

    fn manifest_file(&self) -> PathBuf {
        match self.path.is_dir() {
            true => self.path.join(FILE_NAME),
            false => self.path.clone(),
        }
    }

    /// Scans the project and watches the folders that it scanned. Returns the sources if `scope` includes them.
    pub fn look(&mut self, manifest: &Manifest, scope: Scope) -> Snapshot {
        let begun = Instant::now();
        let (named, named_folders) = named(manifest);
        let mut sources = Snapshot::new();
        for _ in 0..MAX_LOOKS {
            let mut folders = named_folders.clone();
            sources.clear();
            if scope == Scope::Sources {
                for root in std::iter::once(&manifest.root).chain(&self.also) {
                    let found =
                        sources::find(root, &named, &self.own_output, &mut self.source_files);
                    sources.extend(found.sources);
                    folders.extend(found.folders);
                    self.was_cut |= found.is_cut;
                }
                self.source_files.forget_others();
            }
            if !self.folders.watch(&folders) {
                break;
            }
        }
        self.took = begun.elapsed();
        sources
    }

    /// Collects the current bundle.
    pub fn collect(&mut self, manifest: &Manifest, after: After) -> Result<Collected, BundleError> {
        let is_written =
            |path: &PathBuf| Identity::read(path).is_ok_and(|one| one.is_being_written());
        if after == After::Change && named(manifest).0.iter().any(is_written) {
            return Ok(Collected::BeingWritten);
        }
        let local = LocalBundle::from_known(manifest, &mut self.bundle_files);
        if self.bundle_files.take_changed_while_reading().is_some() {
            return Ok(Collected::BeingWritten);
        }
        let local = local?;
        self.bundle_files.forget_others();
        Ok(Collected::Whole(Box::new(local)))
    }

    /// A problem of watching, if it was not reported yet.
    pub fn take_trouble(&mut self) -> Option<String> {
        if self.was_cut {
            self.was_cut = false;
            return Some(format!(
                "found more than {MAX_SOURCES} source files: changes of the others are not detected; add folders of tools to .gitignore"
            ));
        }
        self.folders.take_trouble()
    }
}

/// The files that a manifest names, including itself, and their folders. None of these files is a source.
fn named(manifest: &Manifest) -> (BTreeSet<PathBuf>, BTreeSet<PathBuf>) {
    let root = &manifest.root;
    let mut files = BTreeSet::new();
    if let Component::File(place) = &manifest.component {
        files.insert(root.join(&place.value));
        files.insert(component::find(root, &place.value).path);
    }
    files.extend(manifest.file.file_name().map(|name| root.join(name)));
    let graphs = manifest.graphs.values().map(|graph| &graph.file.value);
    let named = graphs.chain(manifest.files.iter().map(|file| &file.value));
    let mut open: Vec<PathBuf> = named.map(|file| root.join(file)).collect();
    let mut folders = BTreeSet::new();
    while let Some(path) = open.pop() {
        if files.len() + folders.len() > 2 * MAX_SOURCES {
            break;
        }
        if path.is_dir() && !path.is_symlink() {
            let entries = std::fs::read_dir(&path).into_iter().flatten().flatten();
            open.extend(entries.map(|entry| entry.path()));
            folders.insert(path);
        } else {
            files.insert(path);
        }
    }
    folders.extend(files.iter().map(|file| folder_of(file)));
    (files, folders)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::super::folders;
    use super::*;

    const MANIFEST: &str = "name = 'm'\ncomponent = 'out/m.wasm'\nfiles = ['data']\nbuild = 'make'\n[graphs.default]\nfile = 'g.onnx'";

    fn project(root: &Path) -> Project {
        for (file, text) in [
            ("samovar.toml", MANIFEST),
            ("out/m.wasm", "component"),
            ("data/deep/a.txt", "a"),
            ("g.onnx", "graph"),
            ("src/lib.rs", "source"),
        ] {
            let path = root.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Project::new(root.to_owned(), Vec::new(), folders::start().0)
    }

    #[test]
    fn what_the_manifest_names_is_no_source() {
        let folder = tempfile::tempdir().unwrap();
        let mut project = project(folder.path());
        let (manifest, _) = project.manifest().unwrap();
        let sources = project.look(&manifest, Scope::Sources);
        let wanted = [folder.path().join("src/lib.rs")];
        assert!(sources.keys().eq(&wanted), "{sources:?}");
        assert!(project.look(&manifest, Scope::Named).is_empty());
        let other = tempfile::tempdir().unwrap();
        fs::write(other.path().join("shared.rs"), "x").unwrap();
        project.also.push(other.path().to_owned());
        let sources = project.look(&manifest, Scope::Sources);
        assert!(sources.contains_key(&other.path().join("shared.rs")));
    }

    #[test]
    fn a_file_that_is_being_written_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let mut project = project(folder.path());
        let (manifest, _) = project.manifest().unwrap();
        let file = folder.path().join("data/deep/a.txt");
        let at = |time| fs::File::open(&file).unwrap().set_modified(time).unwrap();
        let now = std::time::SystemTime::now();
        at(now + Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(30));
        let collected = project.collect(&manifest, After::Change).unwrap();
        assert!(matches!(collected, Collected::Whole(_)), "all are at rest");
        // Until it was looked at, the time may have passed.
        let is_waited_for = || {
            at(std::time::SystemTime::now());
            let collected = project.collect(&manifest, After::Change).unwrap();
            matches!(collected, Collected::BeingWritten)
        };
        assert!(
            std::iter::repeat_with(is_waited_for)
                .take(100)
                .any(|one| one)
        );
        at(std::time::SystemTime::now());
        let collected = project.collect(&manifest, After::Build).unwrap();
        assert!(matches!(collected, Collected::Whole(_)));
    }
}
