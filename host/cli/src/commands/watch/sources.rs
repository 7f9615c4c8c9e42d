//! Finds the source files of a project: all files below its folder except those that git ignores and that tools create.

use std::collections::BTreeSet;
use std::fs::{File, Metadata};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use ignore::{DirEntry, WalkBuilder};
use samovar_bundle::hash_cache::{FileHashCache, Identity};

use super::plan::{Print, Snapshot};

/// Maximum number of source files.
pub const MAX_SOURCES: usize = 20_000;
/// The fingerprint of a larger file is only its size and times.
const MAX_READ_BYTES: u64 = 1 << 20;

/// Names of folders that tools create.
const TOOL_FOLDERS: [&str; 10] = [
    ".git",
    ".hg",
    ".idea",
    ".jj",
    ".svn",
    ".vscode",
    "node_modules",
    "__pycache__",
    ".venv",
    // Created by `samovar serve` in the folder where it is started.
    "samovar-data",
];
/// Files that mark a folder as created by a tool: Cargo's target folder and caches, Python's virtual environments.
const TOOL_MARKS: [&str; 2] = ["CACHEDIR.TAG", "pyvenv.cfg"];

/// The result of a search.
#[derive(Debug, Default)]
pub struct Found {
    pub sources: Snapshot,
    /// All folders, including those without source files.
    pub folders: BTreeSet<PathBuf>,
    /// Whether there are more than [`MAX_SOURCES`].
    pub is_cut: bool,
}

/// The files that this process's output is redirected to, as in `samovar watch > watch.log`. They change with each line that
/// is printed, so a build for each of their changes would never end.
#[derive(Debug, Default)]
pub struct OwnOutput(Vec<(u64, u64)>);

impl OwnOutput {
    /// The files behind standard output and standard error.
    pub fn of_this_process() -> Self {
        let (stdout, stderr) = (std::io::stdout(), std::io::stderr());
        Self::of([stdout.as_fd(), stderr.as_fd()])
    }

    fn of<'fd>(descriptors: impl IntoIterator<Item = std::os::fd::BorrowedFd<'fd>>) -> Self {
        let identity = |descriptor: std::os::fd::BorrowedFd<'_>| {
            let file = File::from(descriptor.try_clone_to_owned().ok()?);
            Some(device_and_inode(&file.metadata().ok()?))
        };
        Self(descriptors.into_iter().filter_map(identity).collect())
    }

    fn holds(&self, path: &Path) -> bool {
        std::fs::metadata(path).is_ok_and(|file| self.0.contains(&device_and_inode(&file)))
    }
}

fn device_and_inode(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

/// Searches a project. Files in `others`, which the manifest names, and in `own_output` are no sources.
pub fn find(
    root: &Path,
    others: &BTreeSet<PathBuf>,
    own_output: &OwnOutput,
    files: &mut FileHashCache,
) -> Found {
    let mut found = Found::default();
    let in_repository = std::path::absolute(root)
        .is_ok_and(|root| root.ancestors().any(|one| one.join(".git").exists()));
    let walk = WalkBuilder::new(root)
        .hidden(false)
        // Outside a repository, ignore files above the project do not apply to it.
        .require_git(in_repository)
        .parents(in_repository)
        .filter_entry(|entry| entry.depth() == 0 || is_of_a_person(entry))
        .build();
    for entry in walk.flatten() {
        let path = entry.path();
        if entry.file_type().is_some_and(|kind| kind.is_dir()) {
            found.folders.insert(path.to_owned());
            continue;
        }
        if others.contains(path) || own_output.holds(path) {
            continue;
        }
        if found.sources.len() == MAX_SOURCES {
            found.is_cut = true;
            break;
        }
        // The next scan detects a file that has disappeared since.
        if let Ok(Some(print)) = print(path, files) {
            found.sources.insert(path.to_owned(), print);
        }
    }
    files.forget_others();
    found
}

/// The fingerprint of a file; none for a pipe or a link to a folder.
fn print(path: &Path, files: &mut FileHashCache) -> std::io::Result<Option<Print>> {
    let identity = Identity::read(path)?;
    if !std::fs::metadata(path)?.is_file() {
        return Ok(None);
    }
    Ok(Some(match identity.size() {
        ..=MAX_READ_BYTES => Print::Content(files.blob(path)?.digest),
        _ => Print::Identity(identity),
    }))
}

fn is_of_a_person(entry: &DirEntry) -> bool {
    let Some(name) = entry.file_name().to_str() else {
        return true;
    };
    match entry.file_type() {
        Some(kind) if kind.is_dir() => {
            let has = |mark: &str| entry.path().join(mark).exists();
            !TOOL_FOLDERS.contains(&name) && !TOOL_MARKS.into_iter().any(has)
        }
        _ => !is_of_an_editor(name),
    }
}

/// Whether a file is an editor's swap or backup file.
fn is_of_an_editor(name: &str) -> bool {
    let is_swap = name.starts_with('.')
        && [".swp", ".swx", ".swo"]
            .iter()
            .any(|end| name.ends_with(end));
    is_swap
        || name.ends_with('~')
        || name.starts_with(".#")
        || name.starts_with('#') && name.ends_with('#')
        || name.ends_with("___jb_tmp___")
        || name.ends_with("___jb_old___")
        // Vim creates it to test whether it may write there.
        || name == "4913"
        || name == ".DS_Store"
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn names(root: &Path, others: &[&str]) -> Vec<String> {
        let others = others.iter().map(|name| root.join(name)).collect();
        let found = find(
            root,
            &others,
            &OwnOutput::default(),
            &mut FileHashCache::default(),
        );
        let name = |path: &PathBuf| path.strip_prefix(root).unwrap().display().to_string();
        found.sources.keys().map(name).collect()
    }

    fn write(root: &Path, files: &[&str]) {
        for file in files {
            let path = root.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file).unwrap();
        }
    }

    #[test]
    fn what_people_write_is_found_and_what_tools_make_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        write(
            root,
            &[
                "src/lib.rs",
                ".cargo/config.toml",
                "m.wasm",
                "target/CACHEDIR.TAG",
                "target/release/m.wasm",
                "node_modules/a/index.js",
                "env/pyvenv.cfg",
                "env/lib/a.py",
                "src/.lib.rs.swp",
                "src/lib.rs~",
                "src/4913",
                ".git/HEAD",
                ".idea/workspace.xml",
                "app/__pycache__/a.pyc",
                "app/a.py",
            ],
        );
        let wanted = [".cargo/config.toml", "app/a.py", "src/lib.rs"];
        assert_eq!(names(root, &["m.wasm"]), wanted);
    }

    #[test]
    fn gits_rules_hold_with_a_repository_and_without() {
        let folder = tempfile::tempdir().unwrap();
        // Of somebody who keeps his home in git.
        write(
            folder.path(),
            &["project/a.rs", "project/out/x", "project/sub/b.log"],
        );
        fs::write(folder.path().join(".gitignore"), "*\n").unwrap();
        let root = folder.path().join("project");
        fs::write(root.join(".gitignore"), "/out\n*.log\n!keep.log\n").unwrap();
        write(&root, &["sub/keep.log"]);
        let wanted = [".gitignore", "a.rs", "sub/keep.log"];
        assert_eq!(names(&root, &[]), wanted);
        fs::create_dir(root.join(".git")).unwrap();
        fs::write(folder.path().join(".gitignore"), "").unwrap();
        assert_eq!(names(&root, &[]), wanted);
    }

    #[test]
    fn a_file_is_known_by_what_is_in_it_and_a_large_one_by_its_times() {
        let folder = tempfile::tempdir().unwrap();
        let (small, large) = (folder.path().join("s"), folder.path().join("l"));
        let mut files = FileHashCache::default();
        let mut look = || {
            fs::write(&small, "same").unwrap();
            fs::write(&large, vec![0; MAX_READ_BYTES as usize + 1]).unwrap();
            find(
                folder.path(),
                &BTreeSet::new(),
                &OwnOutput::default(),
                &mut files,
            )
            .sources
        };
        let before = look();
        std::thread::sleep(std::time::Duration::from_millis(20));
        let after = look();
        assert_eq!(before[&small], after[&small]);
        assert_ne!(before[&large], after[&large]);
    }

    #[test]
    fn a_file_that_output_goes_to_is_no_source() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), &["src/lib.rs"]);
        let log = File::create(folder.path().join("watch.log")).unwrap();
        let own_output = OwnOutput::of([log.as_fd()]);
        let files = &mut FileHashCache::default();
        let found = find(folder.path(), &BTreeSet::new(), &own_output, files);
        let names: Vec<_> = found.sources.keys().collect();
        assert_eq!(names, [&folder.path().join("src/lib.rs")]);
    }

    #[test]
    fn pipes_are_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        assert!(names(folder.path(), &[]).is_empty());
    }
}
