//! Leader election: a controller that changes the catalog on its own, or deletes what other nodes may need, does so only
//! while its node holds the lease of that work. A single node holds all of them; a second node needs nothing more.
//!
//! The lease counts on the store's clock. Here it counts from before each request on this machine's clock, so a node that
//! cannot reach its store stops acting before another may begin. What a node commits on account of a lease is fenced: it
//! fails once another node has taken the lease.
//!
//! A lease names the node that holds it by an id that survives restarts. The data folder is locked by one process, so a
//! lease that this id holds at the start is one of a process that has ended, and is given back at once instead of waited for.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use samovar_store::{DocStore, Lease, StoreError, lease_key};

/// How long a lease is held without a renewal.
const TTL: Duration = Duration::from_secs(30);
/// How often a lease is renewed, or asked for while another node holds it.
const RENEW_EVERY: Duration = Duration::from_secs(10);
/// How long to wait for the store's first word on a lease.
const MAX_WAIT: Duration = Duration::from_secs(10);
/// How long a node waits before it asks a store again that failed.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Work that one node of a store does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Builds deployments.
    Builds,
    /// Carries promotions out.
    Rollouts,
    /// Deletes blobs.
    BlobGc,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Builds, Self::Rollouts, Self::BlobGc];

    fn lease(self) -> &'static str {
        match self {
            Self::Builds => "controllers/builds",
            Self::Rollouts => "controllers/rollouts",
            Self::BlobGc => "controllers/blob-gc",
        }
    }
}

/// The leases of this node.
pub struct Leadership {
    store: Arc<dyn DocStore>,
    /// The id of this node.
    node: String,
    standings: [watch::Sender<Standing>; Role::ALL.len()],
}

/// Who holds a lease, as far as this node knows.
#[derive(Debug, Clone, Default)]
enum Standing {
    /// The store has not said yet.
    #[default]
    Unknown,
    /// Another node.
    Elsewhere,
    /// This node, until an instant, whatever happens.
    Held(Lease, Instant),
}

impl Leadership {
    /// Of the node of this id, which one process at a time has. Holds nothing until [`Self::run`] runs.
    pub fn new(store: Arc<dyn DocStore>, node: String) -> Self {
        Self {
            store,
            node,
            standings: Default::default(),
        }
    }

    /// The lease of a role, if this node holds it now.
    pub fn lease(&self, role: Role) -> Option<Lease> {
        match &*self.standings[role as usize].borrow() {
            Standing::Held(lease, until) if Instant::now() < *until => Some(lease.clone()),
            _ => None,
        }
    }

    /// The same, after the store has said who holds it, or is too slow to.
    pub async fn known_lease(&self, role: Role) -> Option<Lease> {
        let mut standing = self.standings[role as usize].subscribe();
        let known = standing.wait_for(|standing| !matches!(standing, Standing::Unknown));
        // Without an answer nothing is held.
        let _ = tokio::time::timeout(MAX_WAIT, known).await;
        self.lease(role)
    }

    /// Waits until this node holds the lease of a role.
    pub async fn acquired(&self, role: Role) -> Lease {
        let mut standing = self.standings[role as usize].subscribe();
        loop {
            if let Some(lease) = self.lease(role) {
                return lease;
            }
            // Ends only with this, which is borrowed.
            let _ = standing.changed().await;
        }
    }

    /// Waits until this node begins to hold the lease of a role, or to hold another one than before.
    pub async fn begins(&self, role: Role, before: &mut Option<Lease>) {
        let mut standing = self.standings[role as usize].subscribe();
        loop {
            let now = self.lease(role);
            if now.is_some() && now != *before {
                *before = now;
                return;
            }
            // As above.
            let _ = standing.changed().await;
        }
    }

    /// Takes and keeps the leases of all roles, for as long as the node runs.
    pub async fn run(self: Arc<Self>) {
        futures::future::join_all(Role::ALL.map(|role| self.keep(role))).await;
    }

    /// Gives all leases back, so that other nodes need not wait for their ends.
    pub async fn release(&self) {
        for (role, standing) in Role::ALL.iter().zip(&self.standings) {
            let Standing::Held(lease, _) = standing.send_replace(Standing::Elsewhere) else {
                continue;
            };
            if let Err(error) = self.store.release(&lease).await {
                tracing::warn!(?role, %error, "lease was not released; it expires");
            }
        }
    }

    /// Takes the lease of a role whenever it is free, and renews it while it is held.
    async fn keep(&self, role: Role) {
        let mut warned = false;
        loop {
            let asked = Instant::now();
            match self.acquire(role).await {
                Ok(Some(lease)) => {
                    warned = false;
                    self.renew(role, lease, asked).await;
                }
                Ok(None) => {
                    self.standings[role as usize].send_replace(Standing::Elsewhere);
                    tokio::time::sleep(RENEW_EVERY).await;
                }
                Err(error) => {
                    warn_once(
                        &mut warned,
                        role,
                        &error,
                        "lease was not acquired; trying again",
                    );
                    tokio::time::sleep(RETRY_DELAY).await;
                }
            }
        }
    }

    /// Takes the lease of a role; nothing while another node holds it.
    async fn acquire(&self, role: Role) -> Result<Option<Lease>, StoreError> {
        let name = role.lease();
        if let Some(lease) = self.store.lease(name, &self.node, TTL).await? {
            return Ok(Some(lease));
        }
        let Some(doc) = self.store.get(&lease_key(name)).await? else {
            return Ok(None);
        };
        if *doc.value != *self.node.as_bytes() {
            return Ok(None);
        }
        let of_former_process = Lease {
            name: name.to_owned(),
            token: doc.rev,
        };
        self.store.release(&of_former_process).await?;
        // A new lease has a new token, so what the former process may have sent last is fenced off.
        self.store.lease(name, &self.node, TTL).await
    }

    /// Holds a lease until another node has taken it. A store that is gone does not end it: until another node
    /// takes it, it can be renewed even after it has expired.
    async fn renew(&self, role: Role, lease: Lease, asked: Instant) {
        let standing = &self.standings[role as usize];
        let mut until = asked + TTL;
        loop {
            standing.send_replace(Standing::Held(lease.clone(), until));
            let (mut pause, mut warned) = (RENEW_EVERY, false);
            let renewed = loop {
                tokio::time::sleep(pause).await;
                let asked = Instant::now();
                match self.store.renew(&lease, TTL).await {
                    Ok(()) => break Some(asked),
                    Err(StoreError::Conflict { .. }) => break None,
                    Err(error) => {
                        warn_once(
                            &mut warned,
                            role,
                            &error,
                            "lease was not renewed; trying again",
                        );
                        pause = RETRY_DELAY;
                    }
                }
            };
            let Some(asked) = renewed else {
                tracing::warn!(?role, "another node has taken the lease");
                standing.send_replace(Standing::Elsewhere);
                return;
            };
            until = asked + TTL;
        }
    }
}

/// A store that is gone for long is no news each second.
fn warn_once(warned: &mut bool, role: Role, error: &StoreError, text: &str) {
    if !std::mem::replace(warned, true) {
        tracing::warn!(?role, %error, "{text}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use samovar_store::sqlite::SqliteStore;
    use samovar_store::{Expect, Op};

    async fn store() -> (Arc<dyn DocStore>, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(&folder.path().join("state.db")).await;
        (Arc::new(store.unwrap()), folder)
    }

    fn node(store: &Arc<dyn DocStore>, id: &str) -> Arc<Leadership> {
        Arc::new(Leadership::new(store.clone(), id.to_owned()))
    }

    #[tokio::test]
    async fn one_node_of_two_acts_and_what_the_other_began_is_fenced() {
        let (store, _folder) = store().await;
        let (first, second) = (node(&store, "one"), node(&store, "two"));
        assert_eq!(first.lease(Role::Builds), None);
        let running = tokio::spawn(first.clone().run());
        let mut leases = Vec::new();
        for role in Role::ALL {
            leases.push(first.acquired(role).await);
            assert_eq!(second.acquire(role).await.unwrap(), None);
        }
        let write = |lease: &Lease, text: &'static str| {
            let op = Op::put("docs/x", text.as_bytes(), Expect::Any);
            let ops = vec![op, lease.fence()];
            async { store.commit(ops).await }
        };
        write(&leases[0], "first").await.unwrap();
        // Stopped in an orderly way, it does not keep the other waiting.
        running.abort();
        first.release().await;
        assert_eq!(first.lease(Role::Builds), None);
        let taken = second.acquire(Role::Builds).await.unwrap().unwrap();
        let late = write(&leases[0], "late").await.unwrap_err();
        assert!(matches!(late, StoreError::Conflict { .. }), "{late}");
        write(&taken, "second").await.unwrap();
    }

    #[tokio::test]
    async fn a_node_that_was_killed_takes_its_own_leases_back_at_once() {
        let (store, _folder) = store().await;
        let killed = node(&store, "one");
        let running = tokio::spawn(killed.clone().run());
        let before = killed.acquired(Role::Rollouts).await;
        running.abort();
        let restarted = node(&store, "one");
        let after = restarted.acquire(Role::Rollouts).await.unwrap().unwrap();
        assert_ne!(before.token, after.token);
        let late = store.commit(vec![before.fence()]).await.unwrap_err();
        assert!(matches!(late, StoreError::Conflict { .. }), "{late}");
        store.renew(&after, TTL).await.unwrap();
    }
}
