//! Decides whether to build: when sources changed since the last build began, other than by that build itself.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use samovar_bundle::hash_cache::Identity;
use samovar_types::digest::Digest;

/// A fingerprint of a source file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Print {
    /// The file's contents, so that saving it without changes is no change.
    Content(Digest),
    /// Size and times, for a file that is too large to read each time.
    Identity(Identity),
}

/// The source files at one moment.
pub type Snapshot = BTreeMap<PathBuf, Print>;

/// Lock files that builds may write among the sources.
const LOCKS: [&str; 8] = [
    "Cargo.lock",
    "package-lock.json",
    "pnpm-lock.yaml",
    "yarn.lock",
    "bun.lock",
    "poetry.lock",
    "pdm.lock",
    "uv.lock",
];

/// If files changed only during the last build, either the user edited them or the build wrote them. The next build waits this long
/// for an edit, by the number of such builds in a row that changed the same files. After three, the build must have written them.
const PAUSES: [Duration; 3] = [
    Duration::ZERO,
    Duration::from_secs(1),
    Duration::from_secs(4),
];

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Wait for a change.
    Rest,
    /// Build, for this reason.
    Build(Cause),
    /// Decide again at this time.
    Wait(Instant),
}

/// The reason of a build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// Nothing was built yet.
    Start,
    /// The manifest was saved, with or without changes.
    Manifest,
    /// These files changed after the last build.
    Changed(BTreeSet<PathBuf>),
    /// These files changed during the last build, and none after it: by an edit, or by the build itself.
    During(BTreeSet<PathBuf>),
}

/// A build that ended.
#[derive(Debug)]
pub struct Built {
    /// The manifest that the build used.
    pub manifest: Identity,
    /// The sources when it began.
    pub before: Snapshot,
    /// The sources when it ended.
    pub after: Snapshot,
    /// Whether the build succeeded.
    pub succeeded: bool,
    pub ended: Instant,
}

/// The state of the decision.
#[derive(Debug, Default)]
pub struct Plan {
    last: Option<Built>,
    /// Files that builds write.
    own: BTreeSet<PathBuf>,
    /// Number of builds in a row whose cause was a file that changed during the build before, and that changed it again.
    rounds: usize,
}

impl Plan {
    /// Decides what to do now.
    pub fn next(&self, manifest: Identity, sources: &Snapshot, now: Instant) -> Next {
        let Some(last) = &self.last else {
            return Next::Build(Cause::Start);
        };
        if last.manifest != manifest {
            return Next::Build(Cause::Manifest);
        }
        let after = difference(&last.after, sources);
        let mut since = difference(&last.before, sources);
        since.retain(|path| after.contains(path) || !self.is_own(path));
        if since.is_empty() {
            return Next::Rest;
        }
        if !after.is_empty() {
            return Next::Build(Cause::Changed(since));
        }
        let pause = PAUSES.get(self.rounds).copied().unwrap_or_default();
        match last.ended + pause {
            then if then > now => Next::Wait(then),
            _ => Next::Build(Cause::During(since)),
        }
    }

    /// Records a build. Returns the sources that turned out to be written by builds.
    pub fn built(&mut self, cause: &Cause, built: Built) -> BTreeSet<PathBuf> {
        let mut again = BTreeSet::new();
        if let Cause::During(paths) = cause {
            let changed = difference(&built.before, &built.after);
            again.extend(changed.intersection(paths).cloned());
        }
        self.rounds = match again.is_empty() {
            true => 0,
            false => self.rounds + 1,
        };
        self.last = Some(built);
        if self.rounds < PAUSES.len() {
            return BTreeSet::new();
        }
        self.rounds = 0;
        self.own.extend(again.iter().cloned());
        again
    }

    /// Whether the last build succeeded, so that the component is up to date with its sources.
    pub fn has_succeeded(&self) -> bool {
        self.last.as_ref().is_some_and(|last| last.succeeded)
    }

    fn is_own(&self, path: &Path) -> bool {
        let name = path.file_name().and_then(|name| name.to_str());
        self.own.contains(path) || name.is_some_and(|name| LOCKS.contains(&name))
    }
}

/// The files that were added, removed or changed between two snapshots.
fn difference(one: &Snapshot, other: &Snapshot) -> BTreeSet<PathBuf> {
    let gone = one.keys().filter(|path| !other.contains_key(*path));
    let differs = |(path, print): &(&PathBuf, &Print)| one.get(*path) != Some(*print);
    let new = other.iter().filter(differs).map(|(path, _)| path);
    gone.chain(new).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(files: &[(&str, &str)]) -> Snapshot {
        let print = |text: &str| Print::Content(Digest::of(text.as_bytes()));
        let files = files.iter();
        files
            .map(|(path, text)| (path.into(), print(text)))
            .collect()
    }

    fn paths(names: &[&str]) -> BTreeSet<PathBuf> {
        names.iter().map(PathBuf::from).collect()
    }

    fn identity() -> Identity {
        Identity::read(Path::new("/")).unwrap()
    }

    /// A plan at one moment.
    struct At(Plan, Instant);

    impl At {
        fn new() -> Self {
            Self(Plan::default(), Instant::now())
        }

        fn next(&self, sources: &Snapshot) -> Next {
            self.0.next(identity(), sources, self.1)
        }

        fn built(&mut self, cause: &Cause, before: &Snapshot, after: &Snapshot) -> Vec<PathBuf> {
            let built = Built {
                manifest: identity(),
                before: before.clone(),
                after: after.clone(),
                succeeded: true,
                ended: self.1,
            };
            self.0.built(cause, built).into_iter().collect()
        }
    }

    #[test]
    fn it_builds_first_and_then_what_has_changed() {
        let mut plan = At::new();
        let first = sources(&[("a.rs", "1"), ("b.rs", "1")]);
        assert_eq!(plan.next(&first), Next::Build(Cause::Start));
        plan.built(&Cause::Start, &first, &first);
        assert_eq!(plan.next(&first), Next::Rest);
        let second = sources(&[("a.rs", "2"), ("c.rs", "1")]);
        let changed = Cause::Changed(paths(&["a.rs", "b.rs", "c.rs"]));
        assert_eq!(plan.next(&second), Next::Build(changed));
        let other = Identity::read(&std::env::current_exe().unwrap()).unwrap();
        let next = plan.0.next(other, &first, plan.1);
        assert_eq!(next, Next::Build(Cause::Manifest));
    }

    #[test]
    fn an_edit_during_a_build_is_built_once() {
        let mut plan = At::new();
        let (one, two) = (sources(&[("a.rs", "1")]), sources(&[("a.rs", "2")]));
        plan.built(&Cause::Start, &one, &two);
        let during = Cause::During(paths(&["a.rs"]));
        assert_eq!(plan.next(&two), Next::Build(during.clone()));
        plan.built(&during, &two, &two);
        assert_eq!(plan.next(&two), Next::Rest);
    }

    #[test]
    fn what_a_build_writes_each_time_does_not_go_round() {
        let mut plan = At::new();
        let stamp = |text: &str| sources(&[("a.rs", "1"), ("stamp", text)]);
        let during = Cause::During(paths(&["stamp"]));
        plan.built(&Cause::Start, &stamp("0"), &stamp("1"));
        let mut learned = Vec::new();
        for (number, pause) in PAUSES.iter().enumerate() {
            let after = |number: usize| match number {
                3 => stamp("later"),
                _ => stamp(&(number + 1).to_string()),
            };
            let now = after(number);
            if !pause.is_zero() {
                assert_eq!(plan.next(&now), Next::Wait(plan.1 + *pause));
                // An edit is built at once.
                let edited = sources(&[("a.rs", "2"), ("stamp", "x")]);
                let next = plan.next(&edited);
                assert!(matches!(next, Next::Build(Cause::Changed(_))), "{next:?}");
            }
            plan.1 += *pause;
            assert_eq!(plan.next(&now), Next::Build(during.clone()));
            assert_eq!(learned, Vec::<PathBuf>::new());
            learned = plan.built(&during, &now, &after(number + 1));
        }
        assert_eq!(learned, [PathBuf::from("stamp")]);
        assert_eq!(plan.next(&stamp("later")), Next::Rest);
        // By hand it is a change like any other.
        let changed = Cause::Changed(paths(&["stamp"]));
        assert_eq!(plan.next(&stamp("x")), Next::Build(changed.clone()));
        plan.built(&changed, &stamp("x"), &stamp("3"));
        assert_eq!(plan.next(&stamp("3")), Next::Rest);
        // An edit beside it is seen all the same.
        let edited = sources(&[("a.rs", "2"), ("stamp", "4")]);
        plan.built(&changed, &stamp("3"), &edited);
        let during = Cause::During(paths(&["a.rs"]));
        assert_eq!(plan.next(&edited), Next::Build(during));
    }

    #[test]
    fn lock_files_are_the_builds_own_while_it_runs() {
        let mut plan = At::new();
        let without = sources(&[("a.rs", "1")]);
        let with = sources(&[("a.rs", "1"), ("x/Cargo.lock", "1")]);
        plan.built(&Cause::Start, &without, &with);
        assert_eq!(plan.next(&with), Next::Rest);
        let updated = sources(&[("a.rs", "1"), ("x/Cargo.lock", "2")]);
        let changed = Cause::Changed(paths(&["x/Cargo.lock"]));
        assert_eq!(plan.next(&updated), Next::Build(changed));
    }
}
