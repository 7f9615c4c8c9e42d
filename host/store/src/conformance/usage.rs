//! The log of usage: each batch once, sums, limits.

use std::path::Path;
use std::sync::Arc;

use futures::future::try_join_all;
use rand::RngExt;
use samovar_types::usage::{
    Counters, MINUTE_SLACK_MS, Minute, Owner, Resolution, UsageBucket, UsageRow, bucketed,
};

use super::OpenUsageLog as Open;
use crate::StoreError;
use crate::usage::{MAX_BATCH_ROWS, MAX_BUCKETS, MAX_COUNT, UsageLog, UsageQuery};

pub(crate) fn row(minute: Minute, deployment: &str, requests_ok: u64) -> UsageRow {
    UsageRow {
        minute,
        owner: Owner {
            model_id: format!("m{}", &deployment[1..]).parse().unwrap(),
            model_name: format!("model-{deployment}"),
            deployment_id: deployment.parse().unwrap(),
            deployment_name: "deployment-1".into(),
        },
        counters: Counters {
            requests_ok,
            ..Counters::default()
        },
    }
}

fn everything(resolution: Resolution) -> UsageQuery {
    UsageQuery {
        from: 0,
        to: 1 << 32,
        model: None,
        deployment: None,
        resolution,
    }
}

async fn minutes(log: &dyn UsageLog) -> Vec<(Minute, String, u64)> {
    let buckets = log.query(&everything(Resolution::Minute)).await.unwrap();
    let told = |bucket: &UsageBucket| {
        let deployment = bucket.owner.deployment_id.to_string();
        (bucket.start, deployment, bucket.counters.requests_ok)
    };
    buckets.iter().map(told).collect()
}

pub async fn a_batch_sent_again_adds_nothing(open: Open, folder: &Path) {
    let log = open(folder.to_owned()).await;
    let rows = [
        row(1, "aaaaaaaa", 2),
        row(1, "aaaaaaaa", 3),
        row(2, "bbbbbbbb", 5),
    ];
    for _ in 0..3 {
        log.append("one", &rows).await.unwrap();
    }
    let once = [(1, "aaaaaaaa".to_owned(), 5), (2, "bbbbbbbb".to_owned(), 5)];
    assert_eq!(minutes(&*log).await, once);
    log.append("two", &rows).await.unwrap();
    let twice = [
        (1, "aaaaaaaa".to_owned(), 10),
        (2, "bbbbbbbb".to_owned(), 10),
    ];
    assert_eq!(minutes(&*log).await, twice);
}

pub async fn appends_at_once_add_up(open: Open, folder: &Path) {
    let log = open(folder.to_owned()).await;
    // Each batch is sent by two tasks at once, and counts once.
    let tasks = (0..16).map(|task| {
        let log = Arc::clone(&log);
        tokio::spawn(async move {
            for number in 0..8 {
                let batch = format!("{}-{number}", task / 2);
                let rows = [row(number % 2, "aaaaaaaa", 1), row(9, "bbbbbbbb", 10)];
                log.append(&batch, &rows).await.unwrap();
            }
        })
    });
    try_join_all(tasks.collect::<Vec<_>>()).await.unwrap();
    let wanted = [
        (0, "aaaaaaaa".to_owned(), 32),
        (1, "aaaaaaaa".to_owned(), 32),
        (9, "bbbbbbbb".to_owned(), 640),
    ];
    assert_eq!(minutes(&*log).await, wanted);
}

pub async fn usage_is_there_after_reopening(open: Open, folder: &Path) {
    let rows = [row(1, "aaaaaaaa", 7)];
    let log = open(folder.to_owned()).await;
    log.append("one", &rows).await.unwrap();
    drop(log);
    let log = open(folder.to_owned()).await;
    log.append("one", &rows).await.unwrap();
    assert_eq!(minutes(&*log).await, [(1, "aaaaaaaa".to_owned(), 7)]);
}

pub async fn sums_are_those_of_the_domain(open: Open, folder: &Path) {
    let log = open(folder.to_owned()).await;
    let mut all = Vec::new();
    for batch in 0..20 {
        let rows: Vec<UsageRow> = (0..20)
            .map(|_| {
                let mut rng = rand::rng();
                let deployment = ["aaaaaaaa", "bbbbbbbb", "cccccccc"][rng.random_range(0..3)];
                let mut row = row(rng.random_range(0..4000), deployment, 0);
                let values = std::array::from_fn(|_| rng.random_range(0..1000));
                row.counters = Counters::from_values(values);
                let edges = [
                    0,
                    1,
                    60_000,
                    60_000 + MINUTE_SLACK_MS,
                    60_001 + MINUTE_SLACK_MS,
                ];
                row.counters.replica_ms = edges[rng.random_range(0..edges.len())];
                row
            })
            .collect();
        log.append(&batch.to_string(), &rows).await.unwrap();
        all.extend(rows);
    }
    for resolution in [Resolution::Minute, Resolution::Hour, Resolution::Day] {
        let told = log.query(&everything(resolution)).await.unwrap();
        assert_eq!(told, bucketed(&all, resolution), "{resolution:?}");
    }
    let part = UsageQuery {
        from: 100,
        to: 2000,
        ..everything(Resolution::Hour)
    };
    all.retain(|row| (100..2000).contains(&row.minute));
    let told = log.query(&part).await.unwrap();
    assert_eq!(told, bucketed(&all, Resolution::Hour));
}

pub async fn a_question_may_be_about_one_model_or_deployment(open: Open, folder: &Path) {
    let log = open(folder.to_owned()).await;
    let rows = [
        row(1, "aaaaaaaa", 1),
        row(1, "bbbbbbbb", 2),
        row(5, "bbbbbbbb", 4),
    ];
    log.append("one", &rows).await.unwrap();
    for (model, deployment, wanted) in [
        (Some("model-aaaaaaaa"), None, vec![1]),
        (Some("mbbbbbbb"), None, vec![2, 4]),
        (None, Some("aaaaaaaa"), vec![1]),
        (Some("model-aaaaaaaa"), Some("bbbbbbbb"), vec![]),
        (Some("' OR 1=1 --"), None, vec![]),
    ] {
        let query = UsageQuery {
            model: model.map(str::to_owned),
            deployment: deployment.map(|id| id.parse().unwrap()),
            ..everything(Resolution::Minute)
        };
        let told = log.query(&query).await.unwrap();
        let counts: Vec<u64> = told.iter().map(|one| one.counters.requests_ok).collect();
        assert_eq!(counts, wanted, "{model:?} {deployment:?}");
    }
}

pub async fn the_newest_names_are_told(open: Open, folder: &Path) {
    let log = open(folder.to_owned()).await;
    let mut renamed = row(2, "aaaaaaaa", 1);
    renamed.owner.model_name = "renamed".into();
    renamed.owner.deployment_name = "too".into();
    log.append("one", &[row(1, "aaaaaaaa", 1)]).await.unwrap();
    log.append("two", std::slice::from_ref(&renamed))
        .await
        .unwrap();
    let told = log.query(&everything(Resolution::Minute)).await.unwrap();
    assert_eq!(told.len(), 2);
    assert!(
        told.iter().all(|bucket| bucket.owner == renamed.owner),
        "{told:?}"
    );
}

pub async fn limits_of_usage_are_kept(open: Open, folder: &Path) {
    let log = open(folder.to_owned()).await;
    let good = row(1, "aaaaaaaa", MAX_COUNT);
    let many = |count: i64| -> Vec<UsageRow> {
        (0..count)
            .map(|minute| row(minute, "bbbbbbbb", 1))
            .collect()
    };
    let full = i64::try_from(MAX_BATCH_ROWS).unwrap();
    for (batch, rows) in [
        ("", vec![good.clone()]),
        ("é", vec![good.clone()]),
        (&"x".repeat(129), vec![good.clone()]),
        ("none", vec![]),
        ("many", many(full + 1)),
        (
            "count",
            vec![good.clone(), row(1, "aaaaaaaa", MAX_COUNT + 1)],
        ),
    ] {
        let refused = log.append(batch, &rows).await;
        assert!(
            matches!(refused, Err(StoreError::Invalid(_))),
            "{batch:?}: {refused:?}"
        );
    }
    assert_eq!(minutes(&*log).await, [], "a refused batch left something");
    log.append("good", &[good.clone(), good]).await.unwrap();
    assert_eq!(
        minutes(&*log).await,
        [(1, "aaaaaaaa".to_owned(), 2 * MAX_COUNT)]
    );

    let mut left = i64::try_from(MAX_BUCKETS).unwrap();
    while left > 0 {
        let mut rows = many(full.min(left));
        rows.iter_mut().for_each(|row| row.minute += left);
        log.append(&left.to_string(), &rows).await.unwrap();
        left -= full;
    }
    let long = log.query(&everything(Resolution::Minute)).await;
    assert!(matches!(long, Err(StoreError::Invalid(_))));
    let short = log.query(&everything(Resolution::Hour)).await.unwrap();
    assert!(short.len() > MAX_BUCKETS / 60);
    let backwards = UsageQuery {
        to: -1,
        ..everything(Resolution::Day)
    };
    assert!(matches!(
        log.query(&backwards).await,
        Err(StoreError::Invalid(_))
    ));
}
