//! Documents: commits, their limits, listings and ranges.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;

use super::OpenDocuments as Open;
use crate::documents::lease_key;
use crate::limits::{MAX_KEY_BYTES, MAX_LEASE, MAX_OPS, MAX_VALUE_BYTES};
use crate::{DocStore, Expect, Op, Order, Range, Rev, StoreError};

pub(super) fn conflict_on(result: Result<Rev, StoreError>) -> (String, Option<Rev>) {
    match result {
        Err(StoreError::Conflict { key, current }) => (key, current),
        other => panic!("wanted a conflict, found {other:?}"),
    }
}

pub(super) async fn put(store: &dyn DocStore, key: &str, value: &str) -> Rev {
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
