//! Logs of deployments and environments.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::query::QueryPairs;

/// Lines of a log.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LogsResponse {
    /// In the order that was asked for.
    pub logs: Vec<LogEntry>,
}

/// What may be asked of a log. Lists are given by repeating their name.
#[derive(Debug, Clone, Default)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
#[cfg_attr(feature = "openapi", into_params(parameter_in = Query))]
pub struct LogsQuery {
    /// From here; 30 minutes before the end without it. The window is 7 days at most.
    pub start_epoch_millis: Option<i64>,
    /// To here; now without it.
    pub end_epoch_millis: Option<i64>,
    /// Oldest or newest first.
    #[cfg_attr(feature = "openapi", param(inline))]
    pub direction: Option<LogDirection>,
    /// Lines at most, 1 to 1000; 500 without it.
    #[cfg_attr(feature = "openapi", param(minimum = 1, maximum = 1000))]
    pub limit: Option<usize>,
    /// Lines at least this serious.
    #[cfg_attr(feature = "openapi", param(inline))]
    pub min_level: Option<LogLevel>,
    /// Only of this replica.
    pub replica: Option<String>,
    /// Only of this request.
    pub request_id: Option<String>,
    /// Taken for compatibility: a deployment has one component, so any other has no lines.
    pub component: Option<String>,
    /// Only where this regular expression fits.
    #[cfg_attr(feature = "openapi", param(max_length = 1000))]
    pub search_pattern: Option<String>,
    /// Only with each of these texts, at most 8.
    pub includes: Vec<String>,
    /// Only with none of these texts, at most 8.
    pub excludes: Vec<String>,
}

/// The order of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum LogDirection {
    /// The oldest first.
    Asc,
    /// The newest first.
    Desc,
}

/// How serious a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "UPPERCASE")]
pub enum LogLevel {
    /// For the author of a component.
    Debug,
    /// As expected.
    Info,
    /// Not as expected, and dealt with.
    Warning,
    /// Not as expected.
    Error,
}

/// A line of a log, as it is stored and answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = LogLine))]
pub struct LogEntry {
    /// When, to the microsecond.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub timestamp: Timestamp,
    /// `DEBUG`, `INFO`, `WARNING` or `ERROR`.
    pub level: String,
    /// The text.
    pub message: String,
    /// Which replica wrote it.
    pub replica: String,
    /// During which request.
    pub request_id: Option<String>,
}

impl LogLevel {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Debug => "DEBUG",
            Self::Info => "INFO",
            Self::Warning => "WARNING",
            Self::Error => "ERROR",
        }
    }
}

impl LogsQuery {
    /// What it adds to an address, by names and values.
    pub fn pairs(&self) -> Vec<(&'static str, String)> {
        QueryPairs::default()
            .value("limit", self.limit)
            .value("start_epoch_millis", self.start_epoch_millis)
            .value("end_epoch_millis", self.end_epoch_millis)
            .words("direction", &self.direction)
            .words("min_level", &self.min_level)
            .value("replica", self.replica.as_ref())
            .value("request_id", self.request_id.as_ref())
            .value("component", self.component.as_ref())
            .value("search_pattern", self.search_pattern.as_ref())
            .values("includes", &self.includes)
            .values("excludes", &self.excludes)
            .into_vec()
    }
}
