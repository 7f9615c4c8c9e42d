//! Leases: one holder, fencing, expiry.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::OpenDocuments as Open;
use super::documents::conflict_on;
use crate::documents::lease_key;
use crate::{Expect, Lease, Op, StoreError};

const PATIENCE: Duration = Duration::from_secs(30);

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
