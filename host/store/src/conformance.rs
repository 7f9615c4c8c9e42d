//! What every store must do, as tests over the traits: each macro makes the tests of one trait for one implementation.
//!
//! ```ignore
//! async fn open(folder: &Path) -> Arc<dyn DocStore> {
//!     Arc::new(SqliteStore::open(&folder.join("state.db")).await.unwrap())
//! }
//!
//! samovar_store::document_store_conformance!(open);
//! ```
//!
//! A folder may be opened several times, one after the other: what was stored must be there again.

pub mod async_requests;
pub mod crashes;
pub mod documents;
pub mod leases;
pub mod usage;
pub mod watches;
pub mod webhooks;

use std::path::PathBuf;
use std::sync::Arc;

pub use futures::future::BoxFuture;

use crate::DocStore;
use crate::async_requests::AsyncRequests;
use crate::usage::UsageLog;

type OpenDocuments = fn(PathBuf) -> BoxFuture<'static, Arc<dyn DocStore>>;
type OpenAsyncRequests = fn(PathBuf) -> BoxFuture<'static, Arc<dyn AsyncRequests>>;
type OpenUsageLog = fn(PathBuf) -> BoxFuture<'static, Arc<dyn UsageLog>>;

/// A folder for one test.
///
/// # Panics
/// When it cannot be made.
pub fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// Makes the tests of a [`DocStore`]; `$open` is an async function from a folder's path to the store.
#[macro_export]
macro_rules! document_store_conformance {
    ($open:ident) => {
        $crate::conformance_tests!(documents $open
            documents_are_written_read_and_removed
            a_commit_is_all_or_nothing
            limits_are_kept
            sixteen_tasks_count_to_the_same_number
            a_creation_has_one_winner
            a_listing_is_one_snapshot
            a_range_has_an_order_and_bounds
            a_closed_store_says_so
        );
        $crate::conformance_tests!(watches $open
            a_watch_tells_each_change_once_across_a_restart
            a_watch_sees_its_prefix_alone_and_says_how_far_it_is
            a_slow_watch_reads_large_changes_in_whole_commits
            what_is_compacted_is_refused
        );
        $crate::conformance_tests!(leases $open
            a_lease_has_one_holder_and_fences_the_last_one
            a_lease_that_ran_out_is_taken
        );

        #[tokio::test(flavor = "multi_thread")]
        async fn what_was_acknowledged_survives_a_kill() {
            let open = |folder: std::path::PathBuf| -> $crate::conformance::BoxFuture<'static, _> {
                Box::pin(async move { $open(&folder).await })
            };
            $crate::conformance::crashes::what_was_acknowledged_survives_a_kill(open, module_path!()).await;
        }

        /// The process that the test above kills; run alone, it does nothing.
        #[tokio::test(flavor = "multi_thread")]
        async fn killed_writer() {
            let open = |folder: std::path::PathBuf| -> $crate::conformance::BoxFuture<'static, _> {
                Box::pin(async move { $open(&folder).await })
            };
            $crate::conformance::crashes::killed_writer(open).await;
        }
    };
}

/// Makes the tests of an [`AsyncRequests`]; `$open` is an async function from a folder's path to the store.
#[macro_export]
macro_rules! async_requests_conformance {
    ($open:ident) => {
        $crate::conformance_tests!(async_requests $open
            a_request_is_accepted_claimed_answered_and_purged
            claims_go_by_priority_then_age
            what_was_accepted_survives_a_store_that_was_not_closed
            two_claimers_never_get_the_same_request
            a_request_is_cancelled_or_claimed_but_not_both
            a_lost_claim_changes_nothing
            a_claim_that_ran_out_is_given_again_and_counted
            a_request_waits_for_its_next_attempt
            who_waits_too_long_expires
            capacity_is_kept_and_comes_back
            what_one_deployment_hands_in_leaves_room_for_others
        );
        $crate::conformance_tests!(webhooks $open
            a_webhook_is_due_until_it_is_noted
            webhooks_are_claimed_by_receiver_and_tell_why_they_failed
        );
    };
}

/// Makes the tests of a [`UsageLog`]; `$open` is an async function from a folder's path to the log.
#[macro_export]
macro_rules! usage_log_conformance {
    ($open:ident) => {
        $crate::conformance_tests!(usage $open
            a_batch_sent_again_adds_nothing
            appends_at_once_add_up
            usage_is_there_after_reopening
            sums_are_those_of_the_domain
            a_question_may_be_about_one_model_or_deployment
            the_newest_names_are_told
            limits_of_usage_are_kept
        );
    };
}

/// Makes tests of the functions of one module of the suites.
#[doc(hidden)]
#[macro_export]
macro_rules! conformance_tests {
    ($module:ident $open:ident $($name:ident)*) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            let open = |folder: std::path::PathBuf| -> $crate::conformance::BoxFuture<'static, _> {
                Box::pin(async move { $open(&folder).await })
            };
            let folder = $crate::conformance::folder();
            $crate::conformance::$module::$name(open, folder.path()).await;
        }
    )*};
}
