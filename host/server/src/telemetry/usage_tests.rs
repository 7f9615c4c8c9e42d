//! Nothing that was counted is lost or counted twice, whatever fails between the meters and the store.

use samovar_runtime::metrics::PoolMetrics;
use samovar_store::DocStore;
use samovar_store::sqlite::SqliteStore;
use samovar_store::usage::UsageQuery;
use samovar_types::usage::{Owner, Resolution, UsageBucket};

use super::*;

fn owner(model_name: &str) -> Owner {
    Owner {
        model_id: "model000".parse().unwrap(),
        model_name: model_name.into(),
        deployment_id: "deploy00".parse().unwrap(),
        deployment_name: "deployment-1".into(),
    }
}

struct Node {
    folder: tempfile::TempDir,
    store: Arc<SqliteStore>,
    meters: Arc<Meters>,
    usage: Arc<Usage>,
}

async fn open(folder: tempfile::TempDir) -> Node {
    let store = SqliteStore::open(&folder.path().join("state.db"))
        .await
        .unwrap();
    let store = Arc::new(store);
    let meters = Arc::new(Meters::default());
    let spool = folder.path().join("usage.spool");
    let usage = Usage::open(&spool, store.clone(), meters.clone()).unwrap();
    Node {
        folder,
        store,
        meters,
        usage,
    }
}

impl Node {
    /// As after a kill: only the files are left.
    async fn killed(self) -> Node {
        open(self.folder).await
    }

    async fn written(&self) -> Vec<UsageBucket> {
        let query = UsageQuery {
            from: 0,
            to: i64::MAX,
            model: None,
            deployment: None,
            resolution: Resolution::Day,
        };
        self.usage.log().query(&query).await.unwrap()
    }

    async fn bytes_in(&self) -> u64 {
        let days = self.written().await;
        days.iter().map(|day| day.counters.bytes_in).sum()
    }
}

#[tokio::test]
async fn what_was_used_is_written_once() {
    let node = open(tempfile::tempdir().unwrap()).await;
    let meter = Arc::new(PoolMetrics::default());
    node.meters.watch(owner("m"), &meter);
    node.usage.flush().await.unwrap();
    assert_eq!(node.written().await, []);
    for sum in [5, 10] {
        meter.add_bytes_in(5);
        node.usage.flush().await.unwrap();
        node.usage.flush().await.unwrap();
        assert_eq!(node.bytes_in().await, sum);
    }
    let node = node.killed().await;
    node.usage.flush().await.unwrap();
    assert_eq!(node.bytes_in().await, 10);
}

#[tokio::test]
async fn a_pool_that_is_gone_gives_its_last() {
    let node = open(tempfile::tempdir().unwrap()).await;
    let (first, second) = (
        Arc::new(PoolMetrics::default()),
        Arc::new(PoolMetrics::default()),
    );
    node.meters.watch(owner("m"), &first);
    first.add_bytes_in(3);
    // Replaced and gone before anybody looked.
    drop(first);
    node.meters.watch(owner("m"), &second);
    second.add_bytes_in(4);
    node.usage.flush().await.unwrap();
    assert_eq!(node.bytes_in().await, 7);
    drop(second);
    node.usage.flush().await.unwrap();
    let left = node.meters.difference(0, 1, Instant::now());
    node.meters.taken(&left);
    // A new meter may lie where an old one lay.
    for _ in 0..100 {
        let meter = Arc::new(PoolMetrics::default());
        node.meters.watch(owner("m"), &meter);
        meter.add_bytes_in(1);
        drop(meter);
        node.usage.flush().await.unwrap();
    }
    assert_eq!(node.bytes_in().await, 107);
}

#[tokio::test]
async fn a_store_that_is_down_loses_nothing() {
    let node = open(tempfile::tempdir().unwrap()).await;
    let meter = Arc::new(PoolMetrics::default());
    node.meters.watch(owner("m"), &meter);
    node.store.close().await;
    for _ in 0..3 {
        meter.add_bytes_in(5);
        let failed = node.usage.flush().await;
        assert!(matches!(failed, Err(UsageError::Store(_))), "{failed:?}");
    }
    // Counting goes on meanwhile; only what was never read is lost by a kill.
    meter.add_bytes_in(1000);
    let node = node.killed().await;
    node.usage.flush().await.unwrap();
    assert_eq!(node.bytes_in().await, 15);
}

#[tokio::test]
async fn a_batch_that_comes_again_after_a_kill_counts_once() {
    let node = open(tempfile::tempdir().unwrap()).await;
    let spool = node.folder.path().join("usage.spool");
    let meter = Arc::new(PoolMetrics::default());
    node.meters.watch(owner("m"), &meter);
    meter.add_bytes_in(5);
    node.usage.collect().await.unwrap();
    let text = std::fs::read(&spool).unwrap();
    node.usage.deliver().await.unwrap();
    assert_eq!(std::fs::metadata(&spool).unwrap().len(), 0);
    // As if it had been killed after the store took the batch and before it was forgotten.
    std::fs::write(&spool, text).unwrap();
    let node = node.killed().await;
    node.usage.flush().await.unwrap();
    assert_eq!(node.bytes_in().await, 5);
}

#[tokio::test]
async fn what_the_spool_did_not_take_is_found_again() {
    let node = open(tempfile::tempdir().unwrap()).await;
    let meter = Arc::new(PoolMetrics::default());
    node.meters.watch(owner("m"), &meter);
    meter.add_bytes_in(5);
    // As when the spool fails: nobody says that it was taken.
    drop(node.meters.difference(0, 1, Instant::now()));
    meter.add_bytes_in(5);
    node.usage.flush().await.unwrap();
    assert_eq!(node.bytes_in().await, 10);
}

#[tokio::test]
async fn usage_goes_by_the_newest_name() {
    let node = open(tempfile::tempdir().unwrap()).await;
    let meter = Arc::new(PoolMetrics::default());
    for name in ["old", "new"] {
        node.meters.watch(owner(name), &meter);
        meter.add_bytes_in(1);
        node.usage.flush().await.unwrap();
        let days = node.written().await;
        assert!(days.iter().all(|day| day.owner == owner(name)), "{days:?}");
    }
    assert_eq!(node.bytes_in().await, 2);
}

#[tokio::test]
async fn it_is_written_by_itself_and_at_the_end() {
    let node = open(tempfile::tempdir().unwrap()).await;
    let meter = Arc::new(PoolMetrics::default());
    node.meters.watch(owner("m"), &meter);
    tokio::spawn(node.usage.clone().run());
    meter.add_bytes_in(5);
    let begun = Instant::now();
    while node.bytes_in().await < 5 {
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "nothing is written"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    meter.add_bytes_in(1);
    node.usage.close().await;
    assert_eq!(node.bytes_in().await, 6);
}
