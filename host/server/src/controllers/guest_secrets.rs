//! Brings changed secrets to the guests that name them: hands the values of now to their configs, and replaces idle
//! replicas that have read older ones.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use samovar_store::Rev;
use tokio::sync::{Notify, watch};

use crate::catalog::informer::{ChangedSecrets, Changes, Observer};
use crate::serving::Serving;
use crate::serving::guest_secrets::GuestSecrets;
use crate::serving::reconciler::{MAX_WAIT, NotApplied};

/// How long a node waits before it tries again after the store failed.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Follows the changes of secrets.
pub struct GuestSecretsController {
    secrets: Arc<GuestSecrets>,
    serving: Arc<Serving>,
    due: Mutex<Due>,
    wake: Notify,
    /// Guests have the values of this revision.
    applied: watch::Sender<Rev>,
}

/// What has changed and is not with the guests yet.
#[derive(Debug, Default)]
struct Due {
    names: BTreeSet<String>,
    all: bool,
    rev: Rev,
}

impl GuestSecretsController {
    /// Brings these secrets to the guests, as long as [`Self::run`] runs.
    pub fn new(secrets: Arc<GuestSecrets>, serving: Arc<Serving>) -> Self {
        Self {
            secrets,
            serving,
            due: Mutex::default(),
            wake: Notify::new(),
            applied: watch::Sender::new(0),
        }
    }

    /// Waits until no request that comes from now on meets a value from before a commit.
    ///
    /// # Errors
    /// When the node cannot read its store; the change is stored nevertheless.
    pub async fn applied(&self, rev: Rev) -> Result<(), NotApplied> {
        let mut applied = self.applied.subscribe();
        let waiting = applied.wait_for(|applied| *applied >= rev);
        match tokio::time::timeout(MAX_WAIT, waiting).await {
            // An error would say that the controller is gone, which is borrowed.
            Ok(_) => Ok(()),
            Err(_) => Err(NotApplied {
                rev,
                observed: *self.applied.borrow(),
            }),
        }
    }

    /// Runs for as long as the node does.
    pub async fn run(self: Arc<Self>) {
        loop {
            self.wake.notified().await;
            let due = std::mem::take(&mut *self.lock());
            let names = (!due.all).then_some(&due.names);
            let refreshed = match names.is_some_and(BTreeSet::is_empty) {
                true => Ok(()),
                false => self.secrets.refresh(names).await,
            };
            // Of those that could be read, too, when others could not.
            if names.is_none_or(|names| !names.is_empty()) {
                self.serving.recycle();
            }
            match refreshed {
                Ok(()) => drop(self.applied.send_replace(due.rev)),
                Err(error) => {
                    tracing::warn!(%error, "changed secrets have not reached the guests; trying again");
                    self.lock().add(due);
                    tokio::time::sleep(RETRY_DELAY).await;
                    self.wake.notify_one();
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Due> {
        // A set of names is whole at every instant.
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Due {
    fn add(&mut self, other: Self) {
        self.names.extend(other.names);
        self.all |= other.all;
        self.rev = self.rev.max(other.rev);
    }
}

impl Observer for GuestSecretsController {
    fn observe(&self, changes: &Changes) {
        let due = match &changes.secrets {
            ChangedSecrets::Named(names) if names.is_empty() => return,
            ChangedSecrets::Named(names) => Due {
                names: names.clone(),
                all: false,
                rev: changes.rev,
            },
            ChangedSecrets::All => Due {
                names: BTreeSet::new(),
                all: true,
                rev: changes.rev,
            },
        };
        self.lock().add(due);
        self.wake.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::test_node::TestNode;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_changed_secret_reaches_its_guests_before_it_is_applied() {
        let node = TestNode::new().await;
        let (secrets, now) = (&node.secrets, Timestamp::UNIX_EPOCH);
        secrets.set("A", &"old".into(), now).await.unwrap();
        let config = async |name: &str| {
            let names = [name.to_owned()].into();
            node.guest_secrets.config(&names).await.unwrap()
        };
        let (config, other) = (config("A").await, config("B").await);
        let controller =
            GuestSecretsController::new(node.guest_secrets.clone(), node.serving.clone());
        let controller = Arc::new(controller);
        tokio::spawn(controller.clone().run());
        node.follow(vec![controller.clone()], None);
        // Setting what is there already changes nothing, and so tells what is there.
        let holds = |value: &str| !config.set(vec![("A".to_owned(), value.to_owned())]);
        let (_, rev) = secrets.set("A", &"new".into(), now).await.unwrap();
        controller.applied(rev).await.unwrap();
        assert!(holds("new"));
        let rev = secrets.delete("A").await.unwrap().unwrap();
        controller.applied(rev).await.unwrap();
        assert!(!config.set(Vec::new()) && !other.set(Vec::new()));
    }
}
