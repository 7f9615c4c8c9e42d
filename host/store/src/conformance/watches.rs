//! Watches: each change once and in order, whole commits, resuming.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};

use super::OpenDocuments as Open;
use super::documents::put;
use crate::documents::PROGRESS_INTERVAL;
use crate::limits::MAX_VALUE_BYTES;
use crate::{Change, Changes, Expect, Op, Rev, StoreError};

const PATIENCE: Duration = Duration::from_secs(30);

async fn next(changes: &mut Changes) -> Change {
    tokio::time::timeout(PATIENCE, changes.next())
        .await
        .expect("a watch said nothing")
        .expect("a watch ended")
        .unwrap()
}

/// All changes up to a revision.
pub(super) async fn read_to(changes: &mut Changes, rev: Rev) -> Vec<Change> {
    let mut read = Vec::new();
    loop {
        match next(changes).await {
            Change::Progress(told) if told >= rev => return read,
            Change::Progress(_) => {}
            change => read.push(change),
        }
    }
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
