//! Tests of what reaches a node and its subscribers, with changes that another made in the same store.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use samovar_types::api_key::KeyType;
use samovar_types::names::PRODUCTION;
use tokio::sync::mpsc;

use crate::domain::api_key::{Action, ApiKey};
use crate::domain::changes::Promote;
use crate::domain::events::{Event, EventId, What};
use crate::domain::model::ModelView;
use crate::events::bus::{KEPT_EVENTS, MAX_SUBSCRIBERS};
use crate::events::stream::{self as subscriber, Begin, Outlet, Told};
use crate::random::random_id;
use crate::test_node::{TestNode, eventually};

const PATIENCE: Duration = Duration::from_secs(30);
/// Nobody who reads takes as long as this to be read from.
const SHORT: Duration = Duration::from_millis(500);

impl TestNode {
    async fn rename(&self, name: &str) {
        let rename = |view: &mut ModelView| view.rename(name);
        self.other.change("m", rename).await.unwrap();
        let back = |view: &mut ModelView| view.rename("m");
        self.other.change(name, back).await.unwrap();
    }

    /// What somebody is told who begins there.
    async fn subscriber(&self, begin: Begin) -> Reader {
        let subscription = self.bus.subscribe().await.unwrap();
        let (sender, told) = mpsc::channel(subscriber::MAX_PENDING);
        let out = Outlet {
            sender,
            patience: SHORT,
        };
        let telling = subscriber::tell(self.bus.clone(), subscription, begin, |_| true, out);
        tokio::spawn(telling);
        let mut reader = Reader { told };
        let first = reader.next().await;
        assert!(matches!(first, Told::Ready(_)), "{first:?}");
        reader
    }
}

struct Reader {
    told: mpsc::Receiver<Told>,
}

impl Reader {
    async fn next(&mut self) -> Told {
        let told = tokio::time::timeout(PATIENCE, self.told.recv()).await;
        told.expect("nothing was told").expect("the end was told")
    }

    /// The events up to the one that names a model so.
    async fn up_to(&mut self, wanted: &str) -> Vec<Arc<Event>> {
        let mut events = Vec::new();
        loop {
            let Told::Event(event) = self.next().await else {
                panic!("told twice that it begins");
            };
            events.push(event.clone());
            if matches!(&event.what, What::Model { name } if name == wanted) {
                return events;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_node_changed_is_served() {
    let node = TestNode::new().await;
    let first = node.push().await;
    node.follow(Vec::new(), None);
    eventually("what was there", || node.serves() == Some(first)).await;
    let second = node.push().await;
    let promote = |view: &mut ModelView| {
        let now = Timestamp::now();
        view.promote(PRODUCTION, second, Promote::AsSet, random_id(), now)?;
        view.release_promotion(PRODUCTION, now)
    };
    node.other.change("m", promote).await.unwrap();
    eventually("the promotion", || node.serves() == Some(second)).await;

    let now = Timestamp::now();
    let (key, plain) = ApiKey::generate(KeyType::Personal, None, [].into(), now);
    let header = format!("Bearer {}", plain.reveal());
    let admitted = || {
        node.access
            .check(Some(header.as_bytes()), Action::Manage)
            .is_ok()
    };
    let (spare, _) = ApiKey::generate(KeyType::Personal, None, [].into(), now);
    node.other.add_api_key(&spare).await.unwrap();
    assert!(!admitted());
    node.other.add_api_key(&key).await.unwrap();
    eventually("the key", admitted).await;
    node.other.delete_api_key(&key.prefix).await.unwrap();
    eventually("the end of the key", || !admitted()).await;

    let (view, rev) = node.other.delete_model("m").await.unwrap();
    node.reconciler.applied(view.model.id, rev).await.unwrap();
    assert!(!node.knows("m"));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_comes_back_is_told_the_rest_once() {
    let node = TestNode::new().await;
    node.follow(Vec::new(), None);
    let mut live = node.subscriber(Begin::Now).await;
    node.push().await;
    node.rename("n").await;
    let mut all = live.up_to("m").await;
    all.extend(live.up_to("m").await);
    let ids: Vec<EventId> = all.iter().filter_map(|event| event.id).collect();
    assert_eq!(ids.len(), all.len());
    assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");

    for (at, id) in ids.iter().enumerate() {
        let mut again = node.subscriber(Begin::After(*id)).await;
        let name = format!("o{at}");
        node.rename(&name).await;
        let told = again.up_to(&name).await;
        let wanted = &all[at + 1..];
        assert!(told.starts_with(wanted), "{told:?}\n{wanted:?}");
        // Everybody is told the same, whether it saw it happen or not.
        let seen = live.up_to(&name).await;
        let mut expected = wanted.to_vec();
        expected.extend(seen.clone());
        assert_eq!(told, expected);
        all.extend(seen);
        all.extend(live.up_to("m").await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_longer_known_is_said_so() {
    let node = TestNode::new().await;
    node.follow(Vec::new(), None);
    let mut live = node.subscriber(Begin::Now).await;
    node.push().await;
    let first = live.up_to("m").await[0].id.unwrap();
    let newest = node.store.list("none").await.unwrap().rev;
    // An event is told a moment before it is noted how far the node has come.
    eventually("all is told", || node.cache.observed() >= newest).await;
    node.store.compact(newest).await.unwrap();
    // From another store, too.
    for begin in [first, EventId::end_of(newest + 1000)] {
        let mut late = node.subscriber(Begin::After(begin)).await;
        let Told::Event(event) = late.next().await else {
            panic!("told twice that it begins");
        };
        assert_eq!(event.what, What::Missed);
        assert!(event.id >= Some(EventId::end_of(newest)));
        node.rename("n").await;
        late.up_to("n").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_fell_behind_reads_everything_again() {
    let node = TestNode::new().await;
    let first = node.push().await;
    let newest = node.store.list("none").await.unwrap().rev;
    node.store.compact(newest).await.unwrap();
    let now = Timestamp::now();
    let (key, plain) = ApiKey::generate(KeyType::Personal, None, [].into(), now);
    node.other.add_api_key(&key).await.unwrap();
    node.cache.set_observed(1);
    let mut live = node.subscriber(Begin::Now).await;
    node.follow(Vec::new(), Some(1));
    eventually("what was missed", || node.serves() == Some(first)).await;
    let Told::Event(event) = live.next().await else {
        panic!("told twice that it begins");
    };
    assert_eq!(event.what, What::Missed);
    let header = format!("Bearer {}", plain.reveal());
    let admitted = node.access.check(Some(header.as_bytes()), Action::Manage);
    assert!(admitted.is_ok());
    node.rename("n").await;
    live.up_to("n").await;
}

#[tokio::test]
async fn who_does_not_read_is_dropped() {
    let node = TestNode::new().await;
    node.cache.set_observed(7);
    let mut reading = node.subscriber(Begin::Now).await;
    let idle = node.subscriber(Begin::Now).await;
    let free = || node.bus.places.available_permits();
    assert_eq!(free(), MAX_SUBSCRIBERS - 2);
    for _ in 0..2 * KEPT_EVENTS {
        node.bus.tell(Event {
            id: None,
            model: None,
            what: What::ModelDeleted,
        });
        reading.next().await;
    }
    eventually("its place is free", || free() == MAX_SUBSCRIBERS - 1).await;
    drop(idle);
    drop(reading);
    eventually("all are free", || free() == MAX_SUBSCRIBERS).await;
}

#[tokio::test]
async fn there_are_only_so_many_and_they_end_with_the_node() {
    let node = TestNode::new().await;
    node.cache.set_observed(7);
    let mut readers = Vec::new();
    for _ in 0..MAX_SUBSCRIBERS {
        readers.push(node.subscriber(Begin::Now).await);
    }
    assert!(node.bus.subscribe().await.is_none());
    node.bus.stop().cancel();
    for mut reader in readers {
        assert_eq!(reader.told.recv().await, None);
    }
}
