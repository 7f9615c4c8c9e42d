//! Writes down what pools use, about once a second: from the meters to a spool on disk, from there to the store.
//!
//! A node that is killed loses what was used since the last second began. While the store is down, the spool grows.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use samovar_store::StoreError;
use samovar_store::usage::{MAX_BATCH_ROWS, UsageLog};
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::meters::Meters;
use super::spool::{Batch, Spool};
use crate::random::random_text;

/// How often meters are read.
pub const PERIOD: Duration = Duration::from_secs(1);
/// How long a node that stops waits for the store; what it does not take then stays in the spool for the next start.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Why usage could not be written down yet. Nothing is lost by it.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// The spool does not take it.
    #[error("usage cannot be spooled: {0}")]
    Spool(#[from] std::io::Error),
    /// The store does not take it.
    #[error("usage is spooled, but the store does not take it: {0}")]
    Store(#[from] StoreError),
}

/// The usage of a node: what was used so far, and what is being used.
pub struct Usage {
    log: Arc<dyn UsageLog>,
    meters: Arc<Meters>,
    book: Mutex<Book>,
    /// Batches go to the store one at a time, in their order.
    delivering: tokio::sync::Mutex<()>,
    collected: Notify,
    stop: CancellationToken,
    collecting_fails: AtomicBool,
    delivering_fails: AtomicBool,
}

struct Book {
    spool: Spool,
    read_at_ms: i64,
    /// Random, so that no other node, nor this one in another life, makes the same ids of batches.
    writer: String,
    batches: u64,
}

impl Usage {
    /// Opens the spool, whose batches go to `log` first.
    ///
    /// # Errors
    /// When the file cannot be made or read.
    pub fn open(
        spool: &Path,
        log: Arc<dyn UsageLog>,
        meters: Arc<Meters>,
    ) -> std::io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            log,
            meters,
            book: Mutex::new(Book {
                spool: Spool::open(spool)?,
                read_at_ms: Timestamp::now().as_millisecond(),
                writer: random_text() + &random_text(),
                batches: 0,
            }),
            delivering: tokio::sync::Mutex::default(),
            collected: Notify::new(),
            stop: CancellationToken::new(),
            collecting_fails: AtomicBool::new(false),
            delivering_fails: AtomicBool::new(false),
        }))
    }

    /// What was used, as far as it is written down.
    pub fn log(&self) -> &dyn UsageLog {
        &*self.log
    }

    /// Writes down what is used from now on, for as long as the node runs; [`Usage::close`] writes down the rest.
    pub async fn run(self: Arc<Self>) {
        let collecting = async {
            let mut seconds = tokio::time::interval(PERIOD);
            seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while self.running(seconds.tick()).await {
                report(&self.collecting_fails, self.collect().await);
                self.collected.notify_one();
            }
        };
        // Beside it, so that a store that hangs keeps nobody from counting.
        let delivering = async {
            while self.running(self.collected.notified()).await {
                report(&self.delivering_fails, self.deliver().await);
            }
        };
        tokio::join!(collecting, delivering);
        // Closed: the node ends it.
        std::future::pending::<()>().await;
    }

    /// Writes down what was used until now, so that a query tells it.
    ///
    /// # Errors
    /// When the disk or the store do not take it; it will be written later.
    pub async fn flush(self: &Arc<Self>) -> Result<(), UsageError> {
        self.collect().await?;
        self.deliver().await
    }

    /// Writes down the rest.
    pub async fn close(self: &Arc<Self>) {
        self.stop.cancel();
        match tokio::time::timeout(LAST_WORDS, self.flush()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the last usage waits for the next start"),
            Err(_) => tracing::warn!("the store is slow: the last usage waits for the next start"),
        }
    }

    async fn running<T>(&self, next: impl Future<Output = T>) -> bool {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => false,
            _ = next => true,
        }
    }

    /// Moves what was used from the meters to the spool. A caller that goes away cannot leave it half-done.
    async fn collect(self: &Arc<Self>) -> Result<(), UsageError> {
        let usage = self.clone();
        let collected = tokio::task::spawn_blocking(move || {
            let now = (Timestamp::now().as_millisecond(), Instant::now());
            usage.collect_at(now.0, now.1)
        });
        Ok(collected.await.map_err(std::io::Error::other)??)
    }

    fn collect_at(&self, now_ms: i64, now: Instant) -> std::io::Result<()> {
        let mut book = self.book();
        let difference = self.meters.difference(book.read_at_ms, now_ms, now);
        if !difference.rows.is_empty() {
            let batches = difference.rows.chunks(MAX_BATCH_ROWS).map(|rows| {
                book.batches += 1;
                Batch {
                    id: format!("{}-{}", book.writer, book.batches),
                    rows: rows.to_vec(),
                }
            });
            let batches = batches.collect();
            book.spool.push(batches)?;
        }
        self.meters.taken(&difference);
        book.read_at_ms = now_ms;
        Ok(())
    }

    /// Moves batches from the spool to the store. Broken off, it sends a batch again, which changes nothing.
    async fn deliver(self: &Arc<Self>) -> Result<(), UsageError> {
        let _alone = self.delivering.lock().await;
        loop {
            let Some(batch) = self.with_spool(|spool| spool.oldest().cloned()).await? else {
                return Ok(());
            };
            match self.log.append(&batch.id, &batch.rows).await {
                Ok(()) => {}
                // It never will be taken, and others wait behind it.
                Err(StoreError::Invalid(error)) => {
                    tracing::error!(batch = batch.id, rows = ?batch.rows, error, "usage was refused");
                }
                Err(error) => return Err(error.into()),
            }
            self.with_spool(move |spool| spool.forget(&batch.id))
                .await?;
        }
    }

    /// Works with the spool on a thread that may block: while a slow disk takes one batch, others wait for the lock.
    async fn with_spool<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&mut Spool) -> T + Send + 'static,
    ) -> Result<T, UsageError> {
        let usage = self.clone();
        let worked = tokio::task::spawn_blocking(move || work(&mut usage.book().spool));
        Ok(worked.await.map_err(std::io::Error::other)?)
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // A panic while counting leaves what was written, and the rest in the meters.
        self.book
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Says once that something fails, and once that it works again.
fn report(failing: &AtomicBool, result: Result<(), UsageError>) {
    let failed_before = failing.swap(result.is_err(), Ordering::Relaxed);
    match result {
        Ok(()) if failed_before => tracing::info!("usage is written again"),
        Err(error) if !failed_before => {
            tracing::warn!(%error, "usage cannot be written; it is kept and tried again");
        }
        _ => {}
    }
}

#[cfg(test)]
#[path = "usage_tests.rs"]
mod tests;
