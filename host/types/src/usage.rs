//! What deployments used, minute by minute, and how it adds up.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::Id;

/// Minutes since 1970, UTC.
pub type Minute = i64;

/// Milliseconds of a minute.
pub const MINUTE_MS: i64 = 60_000;
/// What a measured minute of a replica may be too long by: two clocks take part in it, and they drift.
pub const MINUTE_SLACK_MS: u64 = 500;
/// A difference that spans more minutes than this, as after a sleep of the machine, is counted in its last one.
pub const MAX_SPREAD_MINUTES: i64 = 10;

/// Makes the counters: one list for the type, the columns of stores, and the sums.
macro_rules! counters {
    ($($(#[$($doc:tt)+])+ $name:ident,)+) => {
        /// Amounts that only ever add up.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
        pub struct Counters {
            $($(#[$($doc)+])+ #[serde(default)] pub $name: u64,)+
        }

        impl Counters {
            /// How many there are.
            pub const COUNT: usize = [$(stringify!($name)),+].len();
            /// Their names, which are those of a store's columns too.
            pub const NAMES: [&'static str; Self::COUNT] = [$(stringify!($name)),+];

            /// Their values, in the order of the names.
            pub fn values(&self) -> [u64; Self::COUNT] {
                [$(self.$name),+]
            }

            /// Counters of these values, in the order of the names.
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
    /// Requests that the guest failed: it trapped, exited, ran out of memory or gave no answer.
    requests_trapped,
    /// Requests stopped at the deployment's timeout.
    requests_timeout,
    /// Requests turned away because the queue was full.
    requests_rejected,
    /// Requests that waited for a replica until the timeout.
    requests_queue_timeout,
    /// Requests for which no replica would start.
    requests_start_failed,
    /// Requests whose client hung up.
    requests_cancelled,
    /// Requests whose body was longer than the deployment takes.
    requests_too_large,
    /// Requests that came while the deployment was being closed.
    requests_closed,
    /// Requests lost by a bug of the host.
    requests_host_failed,
    /// Time of replicas, idle or busy, from the making of their instances on; a start that failed is not counted.
    replica_ms,
    /// Time that guests ran on an executor thread, inference done right there included.
    guest_cpu_us,
    /// Time that backends took for runs of graphs.
    inference_us,
    /// Bytes of request bodies that guests were given.
    bytes_in,
    /// Bytes of bodies that guests answered.
    bytes_out,
}

impl Counters {
    /// Requests, however they ended.
    pub fn requests(&self) -> u64 {
        let requests = Self::NAMES.iter().zip(self.values());
        requests
            .filter(|(name, _)| name.starts_with("requests_"))
            .fold(0, |sum, (_, count)| sum.saturating_add(count))
    }

    /// Whether nothing was counted.
    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }

    /// These and those.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        let mut sum = self.values();
        for (sum, more) in sum.iter_mut().zip(other.values()) {
            *sum = sum.saturating_add(more);
        }
        Self::from_values(sum)
    }

    /// What came since `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let mut rest = self.values();
        for (rest, less) in rest.iter_mut().zip(before.values()) {
            *rest = rest.saturating_sub(less);
        }
        Self::from_values(rest)
    }
}

/// Who used it. Names are those it had last.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Owner {
    /// The model.
    pub model_id: Id,
    /// Its name.
    pub model_name: String,
    /// The deployment.
    pub deployment_id: Id,
    /// Its name.
    pub deployment_name: String,
}

/// What one deployment used in one minute, or in a part of it: rows of the same minute add up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageRow {
    /// The minute.
    pub minute: Minute,
    /// Who.
    #[serde(flatten)]
    pub owner: Owner,
    /// How much.
    #[serde(flatten)]
    pub counters: Counters,
}

/// How finely an answer tells times apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Resolution {
    /// By minutes.
    Minute,
    /// By hours.
    Hour,
    /// By days, UTC.
    #[default]
    Day,
}

impl Resolution {
    /// How many minutes go into one.
    pub const fn minutes(self) -> i64 {
        match self {
            Self::Minute => 1,
            Self::Hour => 60,
            Self::Day => 24 * 60,
        }
    }

    /// The first minute of the one that a minute lies in.
    pub fn start_of(self, minute: Minute) -> Minute {
        minute - minute.rem_euclid(self.minutes())
    }
}

/// What one deployment used in a minute, an hour or a day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageBucket {
    /// Its first minute.
    pub start: Minute,
    /// Who.
    pub owner: Owner,
    /// How much.
    pub counters: Counters,
    /// Minutes of replicas, each minute's rounded up.
    pub replica_minutes: u64,
}

/// Everything that one deployment used in the time asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeploymentUsage {
    /// Who.
    pub owner: Owner,
    /// All of it.
    pub counters: Counters,
    /// All minutes of replicas.
    pub replica_minutes: u64,
    /// Its parts, in the order of time.
    pub parts: Vec<UsageBucket>,
}

/// Minutes of replicas in one minute of one deployment: partial ones count whole.
pub fn replica_minutes(replica_ms: u64) -> u64 {
    let minute_ms = MINUTE_MS.unsigned_abs();
    let whole = replica_ms
        .saturating_sub(MINUTE_SLACK_MS)
        .div_ceil(minute_ms);
    whole.max(u64::from(replica_ms > 0))
}

/// Adds rows up into minutes, hours or days, ordered by time and deployment. What a store's query answers is this.
pub fn bucketed(rows: &[UsageRow], resolution: Resolution) -> Vec<UsageBucket> {
    let mut minutes: BTreeMap<(Minute, Id), (&Owner, Counters)> = BTreeMap::new();
    for row in rows {
        let key = (row.minute, row.owner.deployment_id);
        let entry = minutes
            .entry(key)
            .or_insert((&row.owner, Counters::default()));
        *entry = (&row.owner, entry.1.plus(&row.counters));
    }
    let mut buckets: BTreeMap<(Minute, Id), UsageBucket> = BTreeMap::new();
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

/// Gathers what belongs to each deployment, ordered by the names of models and deployments.
pub fn by_deployment(buckets: Vec<UsageBucket>) -> Vec<DeploymentUsage> {
    let mut usages: BTreeMap<Id, DeploymentUsage> = BTreeMap::new();
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

/// Puts what was used from one time to another, in milliseconds since 1970, into the minutes that it was used in.
///
/// Time of replicas is spread evenly; everything else is counted where the time ends, because requests end there.
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
