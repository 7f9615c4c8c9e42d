//! What is counted of deployments and their graphs, as text that Prometheus reads.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use samovar_runtime::PoolCounts;
use samovar_runtime::graph::{GraphTotals, Histogram};
use samovar_runtime::metrics::{Outcome, PoolTotals};
use samovar_types::id::ModelId;

use super::engine_metrics::MeasuredEngines;

/// The media type of the text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What was counted of one deployment.
#[derive(Debug)]
pub struct Measured {
    /// The model.
    pub model_id: ModelId,
    /// The model's name.
    pub model: String,
    /// The deployment's name.
    pub deployment: String,
    /// What its pool used.
    pub totals: PoolTotals,
    /// Its replicas and who waits for one.
    pub counts: PoolCounts,
    /// Its graphs, by their names in the manifest.
    pub graphs: Vec<(String, GraphTotals)>,
}

const OUTCOMES: [(&str, Outcome); Outcome::COUNT] = [
    ("ok", Outcome::Ok),
    ("client_error", Outcome::ClientError),
    ("server_error", Outcome::ServerError),
    ("trapped", Outcome::Trapped),
    ("timeout", Outcome::Timeout),
    ("rejected", Outcome::Rejected),
    ("queue_timeout", Outcome::QueueTimeout),
    ("start_failed", Outcome::StartFailed),
    ("cancelled", Outcome::Cancelled),
    ("too_large", Outcome::TooLarge),
    ("closed", Outcome::Closed),
    ("host_failed", Outcome::HostFailed),
];

/// Draws the text; without `engines` where they are not to be told of, or none are used.
///
/// # Errors
/// Never, as far as is known: it goes into memory.
pub fn text(
    measured: Vec<Measured>,
    engines: Option<MeasuredEngines>,
) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Snapshot(measured)));
    if let Some(engines) = engines {
        registry.register_collector(Box::new(engines));
    }
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

/// Everything that was counted, at one time.
#[derive(Debug)]
struct Snapshot(Vec<Measured>);

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.requests(&mut encoder)?;
        self.replicas(&mut encoder)?;
        self.graphs(&mut encoder)
    }
}

impl Snapshot {
    fn requests(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let (name, help) = ("samovar_requests", "Requests by how they ended");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (at, (outcome, kind)) in self.each(OUTCOMES) {
            let labels = at.labels("outcome", outcome);
            counter(
                &mut family.encode_family(&labels)?,
                at.totals.requests(kind),
            )?;
        }
        let (name, help) = (
            "samovar_requests_waiting",
            "Requests that wait for a replica",
        );
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for at in &self.0 {
            gauge(&mut family.encode_family(&at.own())?, at.counts.waiting)?;
        }
        Ok(())
    }

    fn replicas(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let (name, help) = ("samovar_replicas", "Replicas by what they do");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (at, state) in self.each(["idle", "busy"]) {
            let count = match state {
                "idle" => at.counts.idle,
                _ => at.counts.busy,
            };
            gauge(
                &mut family.encode_family(&at.labels("state", state))?,
                count,
            )?;
        }
        Ok(())
    }

    fn graphs(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let (name, help) = (
            "samovar_graph_queue_length",
            "Calls that wait for their run",
        );
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for at in &self.0 {
            for (graph, totals) in &at.graphs {
                let labels = at.labels("graph", graph);
                gauge(&mut family.encode_family(&labels)?, totals.queued)?;
            }
        }
        self.histogram(
            encoder,
            (
                "samovar_graph_run_seconds",
                "Time that backends took for a run",
            ),
            |totals| (&totals.runs_us, 1e-6),
        )?;
        self.histogram(
            encoder,
            ("samovar_graph_batch_size", "Rows of a run"),
            |totals| (&totals.rows, 1.0),
        )?;
        self.histogram(
            encoder,
            (
                "samovar_graph_wait_seconds",
                "Time from a call to the beginning of its run",
            ),
            |totals| (&totals.waits_us, 1e-6),
        )
    }

    /// A histogram of each graph; `of` picks it, and says what one of its units is.
    fn histogram(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        (name, help): (&str, &str),
        of: impl Fn(&GraphTotals) -> (&Histogram, f64),
    ) -> fmt::Result {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for at in &self.0 {
            for (graph, totals) in &at.graphs {
                let (distribution, unit) = of(totals);
                let classes = distribution.buckets.iter();
                let mut buckets: Vec<(f64, u64)> = classes
                    .map(|(end, count)| (*end as f64 * unit, *count))
                    .collect();
                // Its name for what has no upper end.
                buckets.push((f64::MAX, distribution.overflow));
                let count = distribution.count();
                let labels = at.labels("graph", graph);
                family
                    .encode_family(&labels)?
                    .encode_histogram::<NoLabelSet>(
                        distribution.sum as f64 * unit,
                        count,
                        &buckets,
                        None,
                    )?;
            }
        }
        Ok(())
    }

    /// Every deployment with every one of `things`.
    fn each<T: Copy, const N: usize>(
        &self,
        things: [T; N],
    ) -> impl Iterator<Item = (&Measured, T)> {
        let deployments = self.0.iter();
        deployments.flat_map(move |at| things.map(|thing| (at, thing)))
    }
}

impl Measured {
    fn own(&self) -> [(&str, &str); 2] {
        [("model", &self.model), ("deployment", &self.deployment)]
    }

    fn labels<'a>(&'a self, name: &'a str, value: &'a str) -> [(&'a str, &'a str); 3] {
        let [model, deployment] = self.own();
        [model, deployment, (name, value)]
    }
}

pub(super) fn counter(encoder: &mut MetricEncoder<'_>, value: u64) -> fmt::Result {
    encoder.encode_counter::<NoLabelSet, _, u64>(&value, None)
}

pub(super) fn gauge(encoder: &mut MetricEncoder<'_>, value: impl TryInto<i64>) -> fmt::Result {
    encoder.encode_gauge(&value.try_into().unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::random_id;

    fn distribution(counts: [u64; 2], overflow: u64, sum: u64) -> Histogram {
        Histogram {
            buckets: [1, 4].into_iter().zip(counts).collect(),
            overflow,
            sum,
        }
    }

    #[test]
    fn a_deployment_is_told_in_words_that_prometheus_knows() {
        let graph = GraphTotals {
            rows: distribution([2, 1], 1, 13),
            waits_us: distribution([0, 0], 0, 0),
            runs_us: distribution([0, 3], 1, 2_000_000),
            queued: 7,
        };
        let measured = Measured {
            model_id: random_id(),
            model: "digits".into(),
            deployment: "deployment-1".into(),
            totals: PoolTotals::default(),
            counts: PoolCounts {
                idle: 1,
                busy: 2,
                waiting: 3,
            },
            graphs: vec![("default".into(), graph)],
        };
        let text = text(vec![measured], None).unwrap();
        let own = "model=\"digits\",deployment=\"deployment-1\"";
        for line in [
            format!("samovar_requests_total{{{own},outcome=\"ok\"}} 0"),
            format!("samovar_requests_waiting{{{own}}} 3"),
            format!("samovar_replicas{{{own},state=\"busy\"}} 2"),
            format!("samovar_graph_queue_length{{{own},graph=\"default\"}} 7"),
            format!("samovar_graph_run_seconds_sum{{{own},graph=\"default\"}} 2.0"),
            format!("samovar_graph_batch_size_count{{{own},graph=\"default\"}} 4"),
            format!("samovar_graph_batch_size_bucket{{le=\"4.0\",{own},graph=\"default\"}} 3"),
            format!("samovar_graph_batch_size_bucket{{le=\"+Inf\",{own},graph=\"default\"}} 4"),
            "# EOF".into(),
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}
