//! Usage of deployments by minute, and its sums.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::{DeploymentId, ModelId};

/// Minutes since 1970, UTC.
pub type Minute = i64;

/// Milliseconds of a minute.
pub const MINUTE_MS: i64 = 60_000;
/// How much a measured replica minute may be too long, because two clocks take part in it.
pub const MINUTE_SLACK_MS: u64 = 500;
/// Usage over more minutes than this, for example after the machine was suspended, is counted in the last minute.
pub const MAX_SPREAD_MINUTES: i64 = 10;

/// Defines the counters from one list: the type, the columns of stores, and the sums.
macro_rules! counters {
    ($($(#[$($doc:tt)+])+ $name:ident,)+) => {
        /// Counters of usage.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
        pub struct Counters {
            $($(#[$($doc)+])+ #[serde(default)] pub $name: u64,)+
        }

        impl Counters {
            /// Number of counters.
            pub const COUNT: usize = [$(stringify!($name)),+].len();
            /// Names of the counters, which are also the names of the store's columns.
            pub const NAMES: [&'static str; Self::COUNT] = [$(stringify!($name)),+];

            /// Values of the counters, in the order of the names.
            pub fn values(&self) -> [u64; Self::COUNT] {
                [$(self.$name),+]
            }

            /// Counters with these values, in the order of the names.
            pub fn from_values(values: [u64; Self::COUNT]) -> Self {
                let [$($name),+] = values;
                Self { $($name),+ }
            }
        }
    };
}

counters! {
    /// Requests answered by the guest with a status below 400.
    requests_ok,
    /// Requests answered by the guest with a status from 400 to 499.
    requests_client_error,
    /// Requests answered by the guest with a status of 500 or more.
    requests_server_error,
    /// Requests during which the guest trapped, exited, ran out of memory or gave no response.
    requests_trapped,
    /// Requests stopped at the deployment's timeout.
    requests_timeout,
    /// Requests rejected because the queue was full.
    requests_rejected,
    /// Requests that waited for a replica until the timeout.
    requests_queue_timeout,
    /// Requests for which no replica could be started.
    requests_start_failed,
    /// Requests whose client hung up.
    requests_cancelled,
    /// Requests whose body exceeded the deployment's limit.
    requests_too_large,
    /// Requests that arrived while the deployment was being closed.
    requests_closed,
    /// Requests lost because of a bug in the server.
    requests_host_failed,
    /// Time of replicas, idle or busy, since the creation of their instances, in milliseconds; failed starts do not count.
    replica_ms,
    /// Time that guests ran on executor threads, in microseconds, including inference on those threads.
    guest_cpu_us,
    /// Time of graph runs in backends, in microseconds.
    inference_us,
    /// Bytes of request bodies passed to guests.
    bytes_in,
    /// Bytes of response bodies of guests.
    bytes_out,
}

impl Counters {
    /// Number of requests with any outcome.
    pub fn requests(&self) -> u64 {
        let requests = Self::NAMES.iter().zip(self.values());
        requests
            .filter(|(name, _)| name.starts_with("requests_"))
            .fold(0, |sum, (_, count)| sum.saturating_add(count))
    }

    /// Whether all counters are zero.
    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }

    /// The sum of two sets of counters.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        let mut sum = self.values();
        for (sum, more) in sum.iter_mut().zip(other.values()) {
            *sum = sum.saturating_add(more);
        }
        Self::from_values(sum)
    }

    /// The difference to earlier counters.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let mut rest = self.values();
        for (rest, less) in rest.iter_mut().zip(before.values()) {
            *rest = rest.saturating_sub(less);
        }
        Self::from_values(rest)
    }
}

/// The deployment and model of usage, with their last names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Owner {
    /// Id of the model.
    pub model_id: ModelId,
    /// Name of the model.
    pub model_name: String,
    /// Id of the deployment.
    pub deployment_id: DeploymentId,
    /// Name of the deployment.
    pub deployment_name: String,
}

/// Usage of one deployment in one minute or a part of it; rows of the same minute are added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageRow {
    /// The minute.
    pub minute: Minute,
    /// The deployment.
    #[serde(flatten)]
    pub owner: Owner,
    /// Its usage.
    #[serde(flatten)]
    pub counters: Counters,
}

/// Length of the intervals of usage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Resolution {
    /// Minutes.
    Minute,
    /// Hours.
    Hour,
    /// Days in UTC.
    #[default]
    Day,
}

impl Resolution {
    /// Number of minutes in an interval.
    pub const fn minutes(self) -> i64 {
        match self {
            Self::Minute => 1,
            Self::Hour => 60,
            Self::Day => 24 * 60,
        }
    }

    /// First minute of the interval that contains a minute.
    pub fn start_of(self, minute: Minute) -> Minute {
        minute - minute.rem_euclid(self.minutes())
    }
}

/// Usage of one deployment in one interval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageBucket {
    /// First minute of the interval.
    pub start: Minute,
    /// The deployment.
    pub owner: Owner,
    /// Its usage.
    pub counters: Counters,
    /// Replica minutes, rounded up in each minute.
    pub replica_minutes: u64,
}

/// All usage of one deployment in the requested time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeploymentUsage {
    /// The deployment.
    pub owner: Owner,
    /// The sum.
    pub counters: Counters,
    /// The sum of the replica minutes.
    pub replica_minutes: u64,
    /// The intervals, ordered by time.
    pub parts: Vec<UsageBucket>,
}

/// Replica minutes in one minute of one deployment, rounded up.
pub fn replica_minutes(replica_ms: u64) -> u64 {
    let minute_ms = MINUTE_MS.unsigned_abs();
    let whole = replica_ms
        .saturating_sub(MINUTE_SLACK_MS)
        .div_ceil(minute_ms);
    whole.max(u64::from(replica_ms > 0))
}

/// Sums rows into intervals, ordered by time and deployment. Queries of stores must give the same result.
pub fn bucketed(rows: &[UsageRow], resolution: Resolution) -> Vec<UsageBucket> {
    let mut minutes: BTreeMap<(Minute, DeploymentId), (&Owner, Counters)> = BTreeMap::new();
    for row in rows {
        let key = (row.minute, row.owner.deployment_id);
        let entry = minutes
            .entry(key)
            .or_insert((&row.owner, Counters::default()));
        *entry = (&row.owner, entry.1.plus(&row.counters));
    }
    let mut buckets: BTreeMap<(Minute, DeploymentId), UsageBucket> = BTreeMap::new();
    for ((minute, deployment), (owner, counters)) in minutes {
        let start = resolution.start_of(minute);
        let bucket = buckets
            .entry((start, deployment))
            .or_insert_with(|| UsageBucket {
                start,
                owner: owner.clone(),
                counters: Counters::default(),
                replica_minutes: 0,
            });
        bucket.counters = bucket.counters.plus(&counters);
        bucket.replica_minutes += replica_minutes(counters.replica_ms);
    }
    buckets.into_values().collect()
}

/// Groups intervals by deployment, ordered by the names of models and deployments.
pub fn by_deployment(buckets: Vec<UsageBucket>) -> Vec<DeploymentUsage> {
    let mut usages: BTreeMap<DeploymentId, DeploymentUsage> = BTreeMap::new();
    for bucket in buckets {
        let usage = usages
            .entry(bucket.owner.deployment_id)
            .or_insert_with(|| DeploymentUsage {
                owner: bucket.owner.clone(),
                counters: Counters::default(),
                replica_minutes: 0,
                parts: Vec::new(),
            });
        usage.counters = usage.counters.plus(&bucket.counters);
        usage.replica_minutes += bucket.replica_minutes;
        usage.parts.push(bucket);
    }
    let mut usages: Vec<DeploymentUsage> = usages.into_values().collect();
    for usage in &mut usages {
        usage.parts.sort_by_key(|part| part.start);
    }
    let name = |usage: &DeploymentUsage| {
        let owner = &usage.owner;
        (
            owner.model_name.clone(),
            owner.deployment_name.clone(),
            owner.deployment_id,
        )
    };
    usages.sort_by_cached_key(name);
    usages
}

/// Distributes usage between two times, in milliseconds since 1970, over the minutes between them.
///
/// Replica time is spread evenly; everything else is counted in the last minute, because requests are counted when they end.
pub fn spread(used: Counters, from_ms: i64, to_ms: i64) -> Vec<(Minute, Counters)> {
    let last = to_ms.div_euclid(MINUTE_MS);
    let first = from_ms.div_euclid(MINUTE_MS);
    let mut parts = Vec::new();
    let mut rest = used;
    if first < last && last - first <= MAX_SPREAD_MINUTES {
        let whole_ms = i128::from(to_ms - from_ms);
        for minute in first..last {
            let begin = from_ms.max(minute * MINUTE_MS);
            let inside = i128::from((minute + 1) * MINUTE_MS - begin);
            let part = i128::from(used.replica_ms) * inside / whole_ms;
            let replica_ms = u64::try_from(part).unwrap_or(0).min(rest.replica_ms);
            rest.replica_ms -= replica_ms;
            let counters = Counters {
                replica_ms,
                ..Counters::default()
            };
            parts.push((minute, counters));
        }
    }
    parts.push((last, rest));
    parts.retain(|(_, counters)| !counters.is_zero());
    parts
}

#[cfg(test)]
#[path = "usage_tests.rs"]
mod tests;
