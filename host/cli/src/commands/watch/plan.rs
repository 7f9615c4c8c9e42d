//! Whether the sources want a build: they changed since the last one began, and not by what it wrote itself.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use samovar_bundle::hash_cache::Identity;
use samovar_types::digest::Digest;

/// What a source file is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Print {
    /// What is in it, so that one that is saved as it was changes nothing.
    Content(Digest),
    /// Of one that is too large to be read each time.
    Identity(Identity),
}

/// The source files at one moment.
pub type Snapshot = BTreeMap<PathBuf, Print>;

/// Files that builds write beside the sources, each time or now and then.
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

/// How long a build waits for an edit to come first when only what changed during the last one asks for it, by how many such
/// builds in a row changed the same files: an edit at just that moment is rare, three are none.
const PAUSES: [Duration; 3] = [
    Duration::ZERO,
    Duration::from_secs(1),
    Duration::from_secs(4),
];

/// What to do about the sources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Nothing.
    Rest,
    /// Build, for this reason.
    Build(Cause),
    /// Look again then.
    Wait(Instant),
}

/// Why something is built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// Nothing was built yet.
    Start,
    /// The manifest was saved, be it as it was.
    Manifest,
    /// These changed after the last build.
    Changed(BTreeSet<PathBuf>),
    /// These changed during the last build, after which nothing did: an edit, or the build itself.
    During(BTreeSet<PathBuf>),
}

/// A build that ended.
#[derive(Debug)]
pub struct Built {
    /// The manifest that it was made by.
    pub manifest: Identity,
    /// The sources when it began.
    pub before: Snapshot,
    /// The sources when it ended.
    pub after: Snapshot,
    /// Whether it made a component.
    pub succeeded: bool,
    /// When it ended.
    pub ended: Instant,
}

/// What is known of the builds so far.
#[derive(Debug, Default)]
pub struct Plan {
    last: Option<Built>,
    /// What builds write themselves each time.
    own: BTreeSet<PathBuf>,
    /// Builds in a row that were made for what changed during the one before, and changed it once more.
    rounds: usize,
}

impl Plan {
    /// What to do now.
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

    /// Notes a build. Answers what of the sources turned out to be written by the build itself.
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

    /// Whether the component is that of the sources, as far as the last build knows.
    pub fn has_succeeded(&self) -> bool {
        self.last.as_ref().is_some_and(|last| last.succeeded)
    }

    fn is_own(&self, path: &Path) -> bool {
        let name = path.file_name().and_then(|name| name.to_str());
        self.own.contains(path) || name.is_some_and(|name| LOCKS.contains(&name))
    }
}

/// The files that are not in both as they are in the other.
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
