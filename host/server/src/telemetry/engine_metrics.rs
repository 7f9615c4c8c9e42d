//! What is counted of engines, for Prometheus.

use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::MetricType;
use samovar_runtime::EngineTotals;

use super::metrics::{counter, gauge};

/// An engine that runs.
#[derive(Debug)]
pub struct MeasuredEngine {
    /// The backend that it was started for.
    pub backend: &'static str,
    /// Whether it runs one graph alone, because engines ended that this graph ran in.
    pub is_suspect: bool,
    /// The names of the model and the deployment that has it for itself.
    pub owner: Option<(String, String)>,
    /// Bytes of memory that it has in RAM.
    pub resident_bytes: u64,
}

/// All engines of a node, at one time.
#[derive(Debug)]
pub struct MeasuredEngines {
    /// Those that run.
    pub engines: Vec<MeasuredEngine>,
    /// What was counted since the node started.
    pub totals: EngineTotals,
}

/// Engines that metrics do not tell apart: graphs and processes are too many for labels.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    backend: &'static str,
    kind: &'static str,
    model: String,
    deployment: String,
}

impl Kind {
    fn of(engine: &MeasuredEngine) -> Self {
        let (model, deployment) = engine.owner.clone().unwrap_or_default();
        let kind = match (&engine.owner, engine.is_suspect) {
            (_, true) => "suspect",
            (Some(_), false) => "deployment",
            (None, false) => "shared",
        };
        Self {
            backend: engine.backend,
            kind,
            model,
            deployment,
        }
    }

    fn labels(&self) -> [(&str, &str); 4] {
        [
            ("backend", self.backend),
            ("kind", self.kind),
            ("model", &self.model),
            ("deployment", &self.deployment),
        ]
    }
}

impl MeasuredEngines {
    /// How many engines there are of each kind, and the memory that they have in RAM.
    fn kinds(&self) -> BTreeMap<Kind, (u64, u64)> {
        let mut kinds = BTreeMap::new();
        for engine in &self.engines {
            let (count, bytes) = kinds.entry(Kind::of(engine)).or_insert((0, 0));
            *count += 1;
            *bytes += engine.resident_bytes;
        }
        kinds
    }
}

impl Collector for MeasuredEngines {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let kinds = self.kinds();
        let (name, help) = ("samovar_engines", "Processes that run graphs");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (kind, (count, _)) in &kinds {
            gauge(&mut family.encode_family(&kind.labels())?, *count)?;
        }
        let (name, help) = (
            "samovar_engine_resident_memory_bytes",
            "Memory that engines have in RAM",
        );
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (kind, (_, bytes)) in &kinds {
            gauge(&mut family.encode_family(&kind.labels())?, *bytes)?;
        }
        let (name, help) = ("samovar_engine_starts", "Engines that started");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (backend, count) in &self.totals.starts {
            counter(&mut family.encode_family(&[("backend", *backend)])?, *count)?;
        }
        let (name, help) = ("samovar_engine_ends", "Engines that ended, by reason");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for ((backend, reason), count) in &self.totals.ends {
            let labels = [("backend", *backend), ("reason", reason.name())];
            counter(&mut family.encode_family(&labels)?, *count)?;
        }
        let (name, help) = (
            "samovar_graph_quarantines",
            "How often a graph was not run for a while because it ended its own engine repeatedly",
        );
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        counter(&mut metric, self.totals.quarantines)?;
        let (name, help) = (
            "samovar_graph_evictions",
            "How often an idle graph was unloaded to make room for another",
        );
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        counter(&mut metric, self.totals.evictions)?;
        let (name, help) = (
            "samovar_graphs_quarantined",
            "Graphs that are not run for a while because they ended their own engines repeatedly",
        );
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        gauge(&mut metric, self.totals.quarantined_graphs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::text;
    use samovar_runtime::EndReason;

    #[test]
    fn engines_are_told_in_words_that_prometheus_knows() {
        let engine = |owner: Option<(&str, &str)>, is_suspect, resident_bytes| MeasuredEngine {
            backend: "rten",
            is_suspect,
            owner: owner.map(|(model, deployment)| (model.to_owned(), deployment.to_owned())),
            resident_bytes,
        };
        let measured = MeasuredEngines {
            engines: vec![
                engine(None, false, 100),
                engine(None, true, 10),
                engine(None, true, 11),
                engine(Some(("digits", "deployment-1")), false, 7),
            ],
            totals: EngineTotals {
                starts: [("rten", 5)].into(),
                ends: [(("rten", EndReason::Signal), 2)].into(),
                quarantines: 3,
                evictions: 4,
                quarantined_graphs: 1,
            },
        };
        let text = text(Vec::new(), Some(measured)).unwrap();
        let of = |kind: &str, model: &str, deployment: &str| {
            format!(
                "{{backend=\"rten\",kind=\"{kind}\",model=\"{model}\",deployment=\"{deployment}\"}}"
            )
        };
        let memory = "samovar_engine_resident_memory_bytes";
        let own = of("deployment", "digits", "deployment-1");
        for line in [
            format!("samovar_engines{} 1", of("shared", "", "")),
            format!("samovar_engines{} 2", of("suspect", "", "")),
            format!("{memory}{} 21", of("suspect", "", "")),
            format!("{memory}{own} 7"),
            "samovar_engine_starts_total{backend=\"rten\"} 5".into(),
            "samovar_engine_ends_total{backend=\"rten\",reason=\"signal\"} 2".into(),
            "samovar_graph_quarantines_total 3".into(),
            "samovar_graphs_quarantined 1".into(),
            "samovar_graph_evictions_total 4".into(),
            "# EOF".into(),
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}
