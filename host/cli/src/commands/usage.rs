//! `samovar usage`: shows the usage of deployments, including deleted ones.

use std::collections::BTreeMap;

use clap::ValueEnum;
use indicatif::HumanBytes;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use samovar_client::Client;
use samovar_client::text::printable;
use samovar_types::api::usage::{UsageEntry, UsageParams};
use samovar_types::id::{DeploymentId, ModelId};
use samovar_types::usage::{Counters, Resolution};
use serde::Serialize;
use serde_json::json;

use crate::failure::UsageError;
use crate::identifier;
use crate::output::{self, Format};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Beginning: a date or a time in UTC [default: 7 days ago]
    #[arg(long, value_name = "DATE")]
    start: Option<String>,
    /// End: a date, which is included, or a time, which is not [default: now]
    #[arg(long, value_name = "DATE")]
    end: Option<String>,
    /// Show only the model with this name or id, which may be deleted
    #[arg(long, value_parser = identifier)]
    model: Option<String>,
    /// What each row shows
    #[arg(long, value_enum, default_value_t = By::Day)]
    by: By,
    /// Print CSV with every counter
    #[arg(long)]
    csv: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum By {
    /// One deployment on one day
    Day,
    /// One deployment in one hour
    Hour,
    /// One deployment in one minute
    Minute,
    /// One deployment in the whole time
    Deployment,
}

impl By {
    fn resolution(self) -> Resolution {
        match self {
            Self::Day | Self::Deployment => Resolution::Day,
            Self::Hour => Resolution::Hour,
            Self::Minute => Resolution::Minute,
        }
    }
}

/// The usage of a deployment in a part of the time, or in all of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Entry {
    #[serde(skip_serializing_if = "Option::is_none")]
    start: Option<Timestamp>,
    model_id: ModelId,
    model_name: String,
    deployment_id: DeploymentId,
    deployment_name: String,
    is_deleted: bool,
    requests: u64,
    replica_minutes: u64,
    #[serde(flatten)]
    counters: Counters,
}

pub async fn run(client: &Client, arguments: Arguments, format: Format) -> anyhow::Result<()> {
    if arguments.csv && format == Format::Json {
        let problem = "--csv and --json cannot be used together".into();
        let hint = Some("only one of them".into());
        return Err(UsageError { problem, hint }.into());
    }
    let answer = client.usage(&params(&arguments)).await?;
    let (start, end) = (answer.start, answer.end);
    let usage = answer.into_inner().usage;
    let mut entries: Vec<Entry> = usage.into_iter().map(Entry::from).collect();
    if arguments.by == By::Deployment {
        entries = by_deployment(entries);
    }
    match format {
        _ if arguments.csv => output::write(&csv(&entries, arguments.by)?),
        Format::Json => output::document(&json!({
            "start": start,
            "end": end,
            "usage": entries,
        })),
        Format::Text => output::table(
            &header(arguments.by),
            entries
                .iter()
                .map(|entry| row(entry, arguments.by))
                .collect(),
            "no usage in that time",
        ),
    }
}

impl From<UsageEntry> for Entry {
    fn from(entry: UsageEntry) -> Self {
        Self {
            start: Some(entry.start),
            model_id: entry.model_id,
            model_name: entry.model_name,
            deployment_id: entry.deployment_id,
            deployment_name: entry.deployment_name,
            is_deleted: entry.is_deleted,
            requests: entry.requests,
            replica_minutes: entry.replica_minutes,
            counters: entry.counters,
        }
    }
}

fn params(arguments: &Arguments) -> UsageParams {
    UsageParams {
        start: arguments.start.clone(),
        end: arguments.end.clone(),
        model: arguments.model.clone(),
        resolution: arguments.by.resolution(),
        ..UsageParams::default()
    }
}

/// Sums the usage of each deployment, ordered by names.
fn by_deployment(entries: Vec<Entry>) -> Vec<Entry> {
    let mut sums: BTreeMap<(String, String, DeploymentId), Entry> = BTreeMap::new();
    for entry in entries {
        let key = (
            entry.model_name.clone(),
            entry.deployment_name.clone(),
            entry.deployment_id,
        );
        match sums.get_mut(&key) {
            Some(sum) => {
                sum.requests = sum.requests.saturating_add(entry.requests);
                sum.replica_minutes = sum.replica_minutes.saturating_add(entry.replica_minutes);
                sum.counters = sum.counters.plus(&entry.counters);
            }
            None => {
                let whole = Entry {
                    start: None,
                    ..entry
                };
                sums.insert(key, whole);
            }
        }
    }
    sums.into_values().collect()
}

fn header(by: By) -> Vec<&'static str> {
    let mut header = match by {
        By::Day => vec!["DAY"],
        By::Hour => vec!["HOUR"],
        By::Minute => vec!["MINUTE"],
        By::Deployment => vec![],
    };
    header.extend([
        "MODEL",
        "DEPLOYMENT",
        "REQUESTS",
        "FAILED",
        "REPLICA MIN",
        "GUEST CPU",
        "INFERENCE",
        "IN",
        "OUT",
    ]);
    header
}

fn row(entry: &Entry, by: By) -> Vec<String> {
    let counters = &entry.counters;
    let answered = counters
        .requests_ok
        .saturating_add(counters.requests_client_error);
    let deleted = if entry.is_deleted { " (deleted)" } else { "" };
    let mut row: Vec<String> = entry
        .start
        .map(|start| start_text(start, by))
        .into_iter()
        .collect();
    row.extend([
        printable(&entry.model_name),
        format!("{}{deleted}", printable(&entry.deployment_name)),
        entry.requests.to_string(),
        entry.requests.saturating_sub(answered).to_string(),
        entry.replica_minutes.to_string(),
        seconds(counters.guest_cpu_us),
        seconds(counters.inference_us),
        HumanBytes(counters.bytes_in).to_string(),
        HumanBytes(counters.bytes_out).to_string(),
    ]);
    row
}

fn start_text(start: Timestamp, by: By) -> String {
    let start = TimeZone::UTC.to_datetime(start);
    match by {
        By::Day | By::Deployment => start.date().to_string(),
        By::Hour | By::Minute => start.strftime("%Y-%m-%d %H:%M").to_string(),
    }
}

fn seconds(us: u64) -> String {
    format!("{}.{:03} s", us / 1_000_000, us % 1_000_000 / 1000)
}

fn csv(entries: &[Entry], by: By) -> anyhow::Result<Vec<u8>> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let mut header = match by {
        By::Deployment => vec![],
        _ => vec!["start"],
    };
    header.extend([
        "model_id",
        "model_name",
        "deployment_id",
        "deployment_name",
        "is_deleted",
        "requests",
        "replica_minutes",
    ]);
    header.extend(Counters::NAMES);
    writer.write_record(&header)?;
    for entry in entries {
        let mut record: Vec<String> = entry.start.iter().map(ToString::to_string).collect();
        record.extend([
            entry.model_id.to_string(),
            entry.model_name.clone(),
            entry.deployment_id.to_string(),
            entry.deployment_name.clone(),
            entry.is_deleted.to_string(),
            entry.requests.to_string(),
            entry.replica_minutes.to_string(),
        ]);
        record.extend(entry.counters.values().iter().map(ToString::to_string));
        writer.write_record(&record)?;
    }
    Ok(writer.into_inner()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(start: &str, deployment: &str, requests_ok: u64) -> Entry {
        Entry {
            start: Some(start.parse().unwrap()),
            model_id: "model000".parse().unwrap(),
            model_name: "m".into(),
            deployment_id: deployment.parse().unwrap(),
            deployment_name: "one, two".into(),
            is_deleted: deployment == "bbbbbbbb",
            requests: requests_ok + 3,
            replica_minutes: 2,
            counters: Counters {
                requests_ok,
                requests_client_error: 1,
                requests_trapped: 2,
                guest_cpu_us: 1_234_567,
                bytes_out: 2048,
                ..Counters::default()
            },
        }
    }

    #[test]
    fn a_row_tells_what_failed_and_what_is_gone() {
        let entry = entry("2026-01-02T03:04:00Z", "bbbbbbbb", 4);
        let told = row(&entry, By::Minute);
        let wanted = [
            "2026-01-02 03:04",
            "m",
            "one, two (deleted)",
            "7",
            "2",
            "2",
            "1.234 s",
            "0.000 s",
            "0 B",
            "2.00 KiB",
        ];
        assert_eq!(told, wanted);
        assert_eq!(told.len(), header(By::Minute).len());
        assert_eq!(row(&entry, By::Day)[0], "2026-01-02");
    }

    #[test]
    fn days_add_up_to_deployments() {
        let days = vec![
            entry("2026-01-01T00:00:00Z", "bbbbbbbb", 1),
            entry("2026-01-01T00:00:00Z", "aaaaaaaa", 5),
            entry("2026-01-02T00:00:00Z", "bbbbbbbb", 2),
        ];
        let sums = by_deployment(days);
        let told: Vec<_> = sums
            .iter()
            .map(|sum| {
                (
                    sum.deployment_id.to_string(),
                    sum.requests,
                    sum.replica_minutes,
                )
            })
            .collect();
        assert_eq!(told, [("aaaaaaaa".into(), 8, 2), ("bbbbbbbb".into(), 9, 4)]);
        assert_eq!(sums[1].counters.requests_trapped, 4);
        assert_eq!(
            row(&sums[0], By::Deployment).len(),
            header(By::Deployment).len()
        );
    }

    #[test]
    fn csv_has_a_column_for_every_counter() {
        let entries = [entry("2026-01-02T00:00:00Z", "aaaaaaaa", 4)];
        for by in [By::Day, By::Deployment] {
            let entries = match by {
                By::Deployment => by_deployment(entries.to_vec()),
                _ => entries.to_vec(),
            };
            let text = csv(&entries, by).unwrap();
            let mut reader = csv::Reader::from_reader(&text[..]);
            let header = reader.headers().unwrap().clone();
            let record = reader.records().next().unwrap().unwrap();
            let value = |name: &str| {
                let place = header.iter().position(|column| column == name);
                place.map(|place| record[place].to_owned())
            };
            assert_eq!(value("deployment_name").as_deref(), Some("one, two"));
            assert_eq!(value("requests_trapped").as_deref(), Some("2"));
            assert_eq!(value("guest_cpu_us").as_deref(), Some("1234567"));
            let start = (by == By::Day).then(|| "2026-01-02T00:00:00Z".to_owned());
            assert_eq!(value("start"), start);
        }
    }
}
