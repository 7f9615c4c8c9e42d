//! Durability: what was acknowledged before a process was killed is there.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use rand::RngExt;

use super::OpenDocuments as Open;
use super::watches::read_to;
use crate::{Expect, Op, Rev};

const STORE_VARIABLE: &str = "SAMOVAR_TEST_KILLED_STORE";
const ROUND_VARIABLE: &str = "SAMOVAR_TEST_KILLED_ROUND";

/// Kills a writing process at random instants and audits what it was told had been written.
pub async fn what_was_acknowledged_survives_a_kill(open: Open, module: &str) {
    let folder = tempfile::tempdir().unwrap();
    // The name of a test leaves out that of its crate.
    let test = match module.split_once("::") {
        Some((_, module)) => format!("{module}::killed_writer"),
        None => "killed_writer".to_owned(),
    };
    let mut acknowledged: BTreeMap<String, Rev> = BTreeMap::new();
    for round in 0..6 {
        acknowledged.extend(kill_a_writer(folder.path(), &test, round));
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
