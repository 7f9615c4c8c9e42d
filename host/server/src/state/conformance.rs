//! What every store has to keep, written once over the trait: `suite!` makes the tests for one store.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{StreamExt, TryStreamExt};
use rand::RngExt;

use super::*;

/// Opens the store of a folder, which may have been open before.
pub type Open = fn(PathBuf) -> BoxFuture<'static, Arc<dyn DocStore>>;

/// Makes the tests for a store; `$open` is an async function from the folder's path to the store.
macro_rules! suite {
    ($open:ident) => {
        fn opener(folder: std::path::PathBuf) -> futures::future::BoxFuture<'static, Arc<dyn DocStore>> {
            Box::pin(async move { $open(&folder).await })
        }

        crate::state::conformance::suite!(@tests
            documents_are_written_read_and_removed
            a_commit_is_all_or_nothing
            limits_are_kept
            sixteen_tasks_count_to_the_same_number
            a_creation_has_one_winner
            a_listing_is_one_snapshot
            a_range_has_an_order_and_bounds
            a_watch_tells_each_change_once_across_a_restart
            a_watch_sees_its_prefix_alone_and_says_how_far_it_is
            a_slow_watch_reads_large_changes_in_whole_commits
            what_is_compacted_is_refused
            a_lease_has_one_holder_and_fences_the_last_one
            a_lease_that_ran_out_is_taken
            a_closed_store_says_so
        );

        #[tokio::test(flavor = "multi_thread")]
        async fn what_was_acknowledged_survives_a_kill() {
            crate::state::conformance::what_was_acknowledged_survives_a_kill(opener, module_path!()).await;
        }

        /// The process that the test above kills; by itself it does nothing.
        #[tokio::test(flavor = "multi_thread")]
        async fn killed_writer() {
            crate::state::conformance::killed_writer(opener).await;
        }
    };
    (@tests $($name:ident)*) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            let folder = tempfile::tempdir().unwrap();
            crate::state::conformance::$name(opener, folder.path()).await;
        }
    )*};
}
pub(crate) use suite;

const PATIENCE: Duration = Duration::from_secs(30);

async fn next(changes: &mut Changes) -> Change {
    tokio::time::timeout(PATIENCE, changes.next())
        .await
        .expect("a watch said nothing")
        .expect("a watch ended")
        .unwrap()
}

/// All changes up to a revision.
async fn read_to(changes: &mut Changes, rev: Rev) -> Vec<Change> {
    let mut read = Vec::new();
    loop {
        match next(changes).await {
            Change::Progress(told) if told >= rev => return read,
            Change::Progress(_) => {}
            change => read.push(change),
        }
    }
}

fn conflict_on(result: Result<Rev, StoreError>) -> (String, Option<Rev>) {
    match result {
        Err(StoreError::Conflict { key, current }) => (key, current),
        other => panic!("wanted a conflict, found {other:?}"),
    }
}

async fn put(store: &dyn DocStore, key: &str, value: &str) -> Rev {
    let op = Op::put(key, value.to_owned(), Expect::Any);
    store.commit(vec![op]).await.unwrap()
}

pub async fn documents_are_written_read_and_removed(open: Open, folder: &Path) {
    let store = open(folder.to_owned()).await;
    assert_eq!(store.get("a").await.unwrap(), None);
    let rev = put(&*store, "a", "1").await;
    let doc = store.get("a").await.unwrap().unwrap();
    assert_eq!(
        (doc.key.as_str(), doc.rev, &doc.value[..]),
        ("a", rev, &b"1"[..])
    );

    let later = store
        .commit(vec![Op::put("a", "2", Expect::Rev(rev))])
        .await
        .unwrap();
    assert!(later > rev);
    let stale = store
        .commit(vec![Op::put("a", "3", Expect::Rev(rev))])
        .await;
    assert_eq!(conflict_on(stale), ("a".into(), Some(later)));
    let checked = store
        .commit(vec![Op::check("a", Expect::Rev(later))])
        .await
        .unwrap();
    assert_eq!(checked, later);

    store
        .commit(vec![Op::delete("a", Expect::Rev(later))])
        .await
        .unwrap();
    assert_eq!(store.get("a").await.unwrap(), None);
    let gone = store
        .commit(vec![Op::delete("a", Expect::Rev(later))])
        .await;
    assert_eq!(conflict_on(gone), ("a".into(), None));
}

pub async fn a_commit_is_all_or_nothing(open: Open, folder: &Path) {
    let store = open(folder.to_owned()).await;
    let rev = put(&*store, "b", "1").await;
    let ops = vec![
        Op::put("a", "new", Expect::Absent),
        Op::delete("b", Expect::Any),
        Op::check("c", Expect::Rev(1)),
    ];
    assert_eq!(conflict_on(store.commit(ops).await), ("c".into(), None));
    let listing = store.list("").await.unwrap();
    assert_eq!(listing.rev, rev);
    assert_eq!(listing.docs.len(), 1);
    assert_eq!(listing.docs[0].key, "b");
}

pub async fn limits_are_kept(open: Open, folder: &Path) {
    let store = open(folder.to_owned()).await;
    let key = "k".repeat(MAX_KEY_BYTES);
    let whole = Op::put(key.clone(), vec![0; MAX_VALUE_BYTES], Expect::Any);
    store.commit(vec![whole]).await.unwrap();
    assert_eq!(
        store.get(&key).await.unwrap().unwrap().value.len(),
        MAX_VALUE_BYTES
    );

    let many = |count: usize| {
        (0..count)
            .map(|n| Op::check(n.to_string(), Expect::Any))
            .collect()
    };
    let heavy = (0..9).map(|n| Op::put(n.to_string(), vec![0; MAX_VALUE_BYTES], Expect::Any));
    for ops in [
        vec![],
        many(MAX_OPS + 1),
        heavy.collect(),
        vec![Op::put("", "", Expect::Any)],
        vec![Op::put(key + "k", "", Expect::Any)],
        vec![Op::put("a b", "", Expect::Any)],
        vec![Op::put("a\u{7f}", "", Expect::Any)],
        vec![Op::put("é", "", Expect::Any)],
        vec![Op::put("a", vec![0; MAX_VALUE_BYTES + 1], Expect::Any)],
        vec![Op::put("a", "", Expect::Any), Op::delete("a", Expect::Any)],
        vec![Op::put(lease_key("x"), "", Expect::Any)],
    ] {
        let first = ops.first().map(|op| op.key().len());
        let result = store.commit(ops).await;
        assert!(
            matches!(result, Err(StoreError::Invalid(_))),
            "{first:?} {result:?}"
        );
    }
    store.commit(many(MAX_OPS)).await.unwrap();
    assert_eq!(store.list("").await.unwrap().docs.len(), 1);
    for name in ["", "a b", &"n".repeat(MAX_KEY_BYTES)] {
        assert!(matches!(
            store.lease(name, "h", Duration::from_secs(1)).await,
            Err(StoreError::Invalid(_))
        ));
    }
    assert!(store.lease("n", "h", MAX_LEASE * 2).await.is_err());
}

pub async fn sixteen_tasks_count_to_the_same_number(open: Open, folder: &Path) {
    const TASKS: u64 = 16;
    const EACH: u64 = 25;
    let store = open(folder.to_owned()).await;
    let count = |store: Arc<dyn DocStore>| async move {
        for _ in 0..EACH {
            loop {
                let doc = store.get("counter").await.unwrap();
                let (number, expect) = match &doc {
                    Some(doc) => {
                        let text = std::str::from_utf8(&doc.value).unwrap();
                        (text.parse::<u64>().unwrap(), Expect::Rev(doc.rev))
                    }
                    None => (0, Expect::Absent),
                };
                let op = Op::put("counter", (number + 1).to_string(), expect);
                match store.commit(vec![op]).await {
                    Ok(_) => break,
                    Err(StoreError::Conflict { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
    };
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| tokio::spawn(count(Arc::clone(&store))))
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let doc = store.get("counter").await.unwrap().unwrap();
    assert_eq!(&doc.value[..], (TASKS * EACH).to_string().as_bytes());
    assert_eq!(doc.rev, TASKS * EACH);
}

pub async fn a_creation_has_one_winner(open: Open, folder: &Path) {
    let store = open(folder.to_owned()).await;
    for round in 0..10 {
        let key = format!("round/{round}");
        let tasks = (0..16).map(|task| {
            let (store, key) = (Arc::clone(&store), key.clone());
            tokio::spawn(async move {
                let op = Op::put(key, task.to_string(), Expect::Absent);
                (task, store.commit(vec![op]).await)
            })
        });
        let results = futures::future::join_all(tasks.collect::<Vec<_>>()).await;
        let (won, lost): (Vec<_>, Vec<_>) = results
            .into_iter()
            .map(Result::unwrap)
            .partition(|(_, result)| result.is_ok());
        assert_eq!(won.len(), 1);
        let (winner, rev) = (&won[0].0, won[0].1.as_ref().unwrap());
        for (_, result) in lost {
            assert_eq!(conflict_on(result), (key.clone(), Some(*rev)));
        }
        let doc = store.get(&key).await.unwrap().unwrap();
        assert_eq!(&doc.value[..], winner.to_string().as_bytes());
    }
}

pub async fn a_listing_is_one_snapshot(open: Open, folder: &Path) {
    let store = open(folder.to_owned()).await;
    let writer = tokio::spawn({
        let store = Arc::clone(&store);
        async move {
            for number in 0..100 {
                let op = |key| Op::put(key, number.to_string(), Expect::Any);
                store
                    .commit(vec![op("pair/a"), op("pair/b"), op("paired")])
                    .await
                    .unwrap();
            }
        }
    });
    let mut last = 0;
    while !writer.is_finished() {
        let listing = store.list("pair/").await.unwrap();
        if let [a, b] = &listing.docs[..] {
            assert_eq!((a.key.as_str(), b.key.as_str()), ("pair/a", "pair/b"));
            assert_eq!((a.rev, &a.value), (b.rev, &b.value));
            assert_eq!(a.rev, listing.rev);
        } else {
            assert!(listing.docs.is_empty() && listing.rev == 0);
        }
        assert!(listing.rev >= last);
        last = listing.rev;
    }
    writer.await.unwrap();
}

pub async fn a_range_has_an_order_and_bounds(open: Open, folder: &Path) {
    let store = open(folder.to_owned()).await;
    for key in ["a/2", "b", "a/1", "a/3", "a", "a/10"] {
        put(&*store, key, key).await;
    }
    let read = async |after, before, order, limit| -> Vec<String> {
        let range = Range {
            after,
            before,
            order,
            limit,
        };
        let docs = store.range(range).await.unwrap();
        assert!(docs.iter().all(|doc| doc.key.as_bytes() == doc.value));
        docs.into_iter().map(|doc| doc.key).collect()
    };
    let all = read("a/", "a/~", Order::Ascending, 9).await;
    assert_eq!(all, ["a/1", "a/10", "a/2", "a/3"]);
    let last = read("a/", "a/~", Order::Descending, 2).await;
    assert_eq!(last, ["a/3", "a/2"]);
    let next = read("a/", &last[1], Order::Descending, 9).await;
    assert_eq!(next, ["a/10", "a/1"]);
    let next = read("a/10", "a/~", Order::Ascending, 1).await;
    assert_eq!(next, ["a/2"]);
    assert!(read("b", "c", Order::Ascending, 9).await.is_empty());
}

pub async fn a_watch_tells_each_change_once_across_a_restart(open: Open, folder: &Path) {
    let store = open(folder.to_owned()).await;
    let mut wanted = Vec::new();
    let mut told = Vec::new();
    let mut resume = 0;
    let mut stores = vec![store];
    for round in 0..4 {
        let store = Arc::clone(&stores[stores.len() - 1]);
        // Half of them before the watch is there, half while it runs.
        let mut changes = None;
        for number in 0..20 {
            if number == 10 {
                changes = Some(store.watch("w/", resume));
            }
            let key = format!("w/{}", number % 7);
            if number % 5 == 4 {
                let rev = store
                    .commit(vec![Op::delete(&*key, Expect::Any)])
                    .await
                    .unwrap();
                wanted.push((rev, key, None));
            } else {
                let value = format!("{round}.{number}");
                let rev = store
                    .commit(vec![
                        Op::put(&*key, value.clone(), Expect::Any),
                        Op::put("other", "x", Expect::Any),
                    ])
                    .await
                    .unwrap();
                wanted.push((rev, key, Some(value)));
            }
        }
        let mut changes = changes.unwrap();
        let last = wanted[wanted.len() - 1].0;
        // A watch that is cut off in the middle goes on after the last progress it told.
        let until = if round % 2 == 0 { last - 7 } else { last };
        let mut unconfirmed = Vec::new();
        loop {
            match next(&mut changes).await {
                Change::Put(doc) => {
                    let value = String::from_utf8(doc.value.to_vec()).unwrap();
                    unconfirmed.push((doc.rev, doc.key, Some(value)));
                }
                Change::Delete { key, rev } => unconfirmed.push((rev, key, None)),
                Change::Progress(rev) => {
                    told.append(&mut unconfirmed);
                    resume = rev;
                    if rev >= until {
                        break;
                    }
                }
            }
        }
        drop(changes);
        store.close().await;
        stores.push(open(folder.to_owned()).await);
    }
    let store = &stores[stores.len() - 1];
    let newest = store.list("").await.unwrap().rev;
    for change in read_to(&mut store.watch("w/", resume), newest).await {
        told.push(match change {
            Change::Put(doc) => (
                doc.rev,
                doc.key,
                Some(String::from_utf8(doc.value.to_vec()).unwrap()),
            ),
            Change::Delete { key, rev } => (rev, key, None),
            Change::Progress(_) => continue,
        });
    }
    // Deletions of keys that were not there are no changes.
    let mut present = BTreeSet::new();
    wanted.retain(|(_, key, value)| match value {
        Some(_) => {
            present.insert(key.clone());
            true
        }
        None => present.remove(key),
    });
    assert_eq!(told, wanted);
}

pub async fn a_watch_sees_its_prefix_alone_and_says_how_far_it_is(open: Open, folder: &Path) {
    let store = open(folder.to_owned()).await;
    let mut changes = store.watch("a/", 0);
    put(&*store, "b/1", "x").await;
    put(&*store, "a", "x").await;
    let rev = put(&*store, "a/1", "x").await;
    let last = put(&*store, "a0", "x").await;
    let read = read_to(&mut changes, last).await;
    assert!(matches!(&read[..], [Change::Put(doc)] if doc.key == "a/1" && doc.rev == rev));
    // With nothing to tell, it says so in time.
    for _ in 0..2 {
        let told = tokio::time::timeout(PROGRESS_INTERVAL, changes.try_next()).await;
        assert_eq!(told.unwrap().unwrap(), Some(Change::Progress(last)));
    }
    let error = store
        .watch("a/", last + 1)
        .next()
        .await
        .unwrap()
        .unwrap_err();
    assert!(matches!(error, StoreError::Invalid(_)), "{error}");
    assert!(matches!(
        store.watch("é", 0).next().await,
        Some(Err(StoreError::Invalid(_)))
    ));
}

pub async fn a_slow_watch_reads_large_changes_in_whole_commits(open: Open, folder: &Path) {
    let store = open(folder.to_owned()).await;
    let op = |key: String| Op::put(key, vec![0; MAX_VALUE_BYTES], Expect::Any);
    let mut last = 0;
    for _ in 0..4 {
        let ops = (0..4).map(|n| op(format!("large/{n}"))).collect();
        last = store.commit(ops).await.unwrap();
    }
    let mut changes = store.watch("large/", 0);
    let mut seen: BTreeMap<Rev, usize> = BTreeMap::new();
    loop {
        match next(&mut changes).await {
            Change::Put(doc) => *seen.entry(doc.rev).or_default() += 1,
            Change::Delete { .. } => panic!("nothing was removed"),
            Change::Progress(rev) => {
                assert!(seen.values().all(|count| *count == 4), "{seen:?}");
                assert!(seen.keys().all(|seen| *seen <= rev));
                if rev >= last {
                    break;
                }
            }
        }
    }
    assert_eq!(seen.len(), 4);
}

pub async fn what_is_compacted_is_refused(open: Open, folder: &Path) {
    let store = open(folder.to_owned()).await;
    for number in 0..10 {
        put(&*store, "a", &number.to_string()).await;
    }
    store.compact(4).await.unwrap();
    store.compact(2).await.unwrap();
    let error = store.watch("", 3).next().await.unwrap().unwrap_err();
    assert!(
        matches!(error, StoreError::Compacted { horizon: 4 }),
        "{error}"
    );
    assert_eq!(read_to(&mut store.watch("", 4), 10).await.len(), 6);
    // More than there is cuts what there is.
    store.compact(1000).await.unwrap();
    assert_eq!(read_to(&mut store.watch("", 10), 10).await, []);
    assert_eq!(&store.get("a").await.unwrap().unwrap().value[..], b"9");
    put(&*store, "a", "10").await;
    assert_eq!(read_to(&mut store.watch("", 10), 11).await.len(), 1);
}

pub async fn a_lease_has_one_holder_and_fences_the_last_one(open: Open, folder: &Path) {
    let store = open(folder.to_owned()).await;
    let ttl = Duration::from_secs(60);
    let tasks = (0..16).map(|task| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.lease("leader", &task.to_string(), ttl).await.unwrap() })
    });
    let results = futures::future::join_all(tasks.collect::<Vec<_>>()).await;
    let held: Vec<Lease> = results.into_iter().filter_map(Result::unwrap).collect();
    let [first] = &held[..] else {
        panic!("{held:?}")
    };

    let before = store.list("").await.unwrap().rev;
    store.renew(first, ttl).await.unwrap();
    assert_eq!(
        store.list("").await.unwrap().rev,
        before,
        "a renewal moved the feed"
    );
    let fenced = |lease: &Lease| vec![lease.fence(), Op::put("led", "x", Expect::Any)];
    store.commit(fenced(first)).await.unwrap();

    store.release(first).await.unwrap();
    assert!(store.commit(fenced(first)).await.is_err());
    let second = store.lease("leader", "other", ttl).await.unwrap().unwrap();
    assert!(second.token > first.token);
    assert_eq!(
        conflict_on(store.commit(fenced(first)).await).1,
        Some(second.token)
    );
    assert!(matches!(
        store.renew(first, ttl).await,
        Err(StoreError::Conflict { .. })
    ));
    store.release(first).await.unwrap();
    store.commit(fenced(&second)).await.unwrap();
    let doc = store.get(&lease_key("leader")).await.unwrap().unwrap();
    assert_eq!((&doc.value[..], doc.rev), (&b"other"[..], second.token));
    assert!(store.lease("leader", "third", ttl).await.unwrap().is_none());
    assert!(
        store
            .lease("another", "third", ttl)
            .await
            .unwrap()
            .is_some()
    );
}

pub async fn a_lease_that_ran_out_is_taken(open: Open, folder: &Path) {
    let store = open(folder.to_owned()).await;
    let short = Duration::from_millis(20);
    let first = store
        .lease("leader", "first", short)
        .await
        .unwrap()
        .unwrap();
    let taken = async {
        loop {
            if let Some(lease) = store.lease("leader", "second", PATIENCE).await.unwrap() {
                return lease;
            }
            tokio::task::yield_now().await;
        }
    };
    let second = tokio::time::timeout(PATIENCE, taken).await.unwrap();
    assert!(second.token > first.token);
    assert!(matches!(
        store.renew(&first, short).await,
        Err(StoreError::Conflict { .. })
    ));
}

pub async fn a_closed_store_says_so(open: Open, folder: &Path) {
    let store = open(folder.to_owned()).await;
    put(&*store, "a", "1").await;
    let mut changes = store.watch("", 0);
    store.close().await;
    assert!(matches!(
        store.get("a").await,
        Err(StoreError::Unavailable(_))
    ));
    let write = store.commit(vec![Op::put("a", "2", Expect::Any)]).await;
    assert!(matches!(write, Err(StoreError::Unavailable(_))));
    let ended = changes.try_next().await;
    assert!(matches!(ended, Err(StoreError::Unavailable(_))));
}

const STORE_VARIABLE: &str = "SAMOVAR_TEST_KILLED_STORE";
const ROUND_VARIABLE: &str = "SAMOVAR_TEST_KILLED_ROUND";

/// Kills a writing process at random instants and audits what it was told had been written.
pub async fn what_was_acknowledged_survives_a_kill(open: Open, module: &str) {
    let folder = tempfile::tempdir().unwrap();
    let module = module.split_once("::").unwrap().1;
    let mut acknowledged: BTreeMap<String, Rev> = BTreeMap::new();
    for round in 0..6 {
        acknowledged.extend(kill_a_writer(
            folder.path(),
            &format!("{module}::killed_writer"),
            round,
        ));
        let store = open(folder.path().to_owned()).await;
        let listing = store.list("killed/").await.unwrap();
        let kept: BTreeMap<&str, Rev> = listing
            .docs
            .iter()
            .map(|doc| (&doc.key[..], doc.rev))
            .collect();
        for (key, rev) in &acknowledged {
            assert_eq!(kept.get(&key[..]), Some(rev), "{key} was acknowledged");
        }
        let revs: BTreeSet<Rev> = acknowledged.values().copied().collect();
        assert_eq!(revs.len(), acknowledged.len(), "a revision was given twice");
        assert!(revs.last().unwrap() <= &listing.rev);
        // Acknowledged or not, each commit is there with both of its documents or not at all.
        let twins = store.list("twin/").await.unwrap();
        assert_eq!(twins.docs.len(), listing.docs.len());
        for twin in &twins.docs {
            let key = twin.key.replace("twin/", "killed/");
            assert_eq!(kept.get(&key[..]), Some(&twin.rev));
        }
        let told = read_to(&mut store.watch("killed/", 0), listing.rev).await;
        assert_eq!(told.len(), listing.docs.len());
        store.close().await;
    }
}

fn kill_a_writer(folder: &Path, test: &str, round: usize) -> Vec<(String, Rev)> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(STORE_VARIABLE, folder)
        .env(ROUND_VARIABLE, round.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut acknowledged = Vec::new();
    let enough = rand::rng().random_range(1..120);
    let mut line = String::new();
    while lines.read_line(&mut line).unwrap() > 0 {
        // A line cut by the kill was not acknowledged to anybody.
        let words = line
            .strip_suffix('\n')
            .map(|line| line.split(' ').collect::<Vec<_>>());
        if let Some(["acknowledged", key, rev]) = words.as_deref() {
            acknowledged.push(((*key).to_owned(), rev.parse().unwrap()));
            if acknowledged.len() == enough {
                // The writer goes on meanwhile, so that it is killed anywhere in a commit.
                child.kill().unwrap();
            }
        }
        line.clear();
    }
    let status = child.wait().unwrap();
    assert!(
        !status.success() && acknowledged.len() >= enough,
        "{status}"
    );
    acknowledged
}

/// Writes until it is killed, and says what it was told had been written.
pub async fn killed_writer(open: Open) {
    let Some(folder) = std::env::var_os(STORE_VARIABLE) else {
        return;
    };
    let round = std::env::var(ROUND_VARIABLE).unwrap();
    let store = open(folder.into()).await;
    let write = |task: usize| {
        let (store, round) = (Arc::clone(&store), round.clone());
        async move {
            for number in 0..100_000 {
                let name = format!("{round}/{task}/{number}");
                let key = format!("killed/{name}");
                let ops = vec![
                    Op::put(&*key, vec![7; 3000], Expect::Absent),
                    Op::put(format!("twin/{name}"), "", Expect::Absent),
                ];
                let rev = store.commit(ops).await.unwrap();
                writeln!(std::io::stdout().lock(), "acknowledged {key} {rev}").unwrap();
            }
        }
    };
    let tasks: Vec<_> = (0..4).map(|task| tokio::spawn(write(task))).collect();
    for task in tasks {
        task.await.unwrap();
    }
}
