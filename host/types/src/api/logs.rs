//! Logs of deployments and environments.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::query::QueryPairs;

/// Lines of a log.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LogsResponse {
    /// The lines in the requested order.
    pub logs: Vec<LogEntry>,
}

/// Filters of a log. Repeat a name to give a list.
#[derive(Debug, Clone, Default)]
#[cfg_attr(feature = "openapi", derive(utoipa::IntoParams))]
#[cfg_attr(feature = "openapi", into_params(parameter_in = Query))]
pub struct LogsQuery {
    /// Begin of the window in milliseconds since 1970; by default 30 minutes before its end. The window has at most 7 days.
    pub start_epoch_millis: Option<i64>,
    /// End of the window in milliseconds since 1970; by default now.
    pub end_epoch_millis: Option<i64>,
    /// Order of the lines.
    #[cfg_attr(feature = "openapi", param(inline))]
    pub direction: Option<LogDirection>,
    /// Maximum number of lines, 1 to 1000; 500 by default.
    #[cfg_attr(feature = "openapi", param(minimum = 1, maximum = 1000))]
    pub limit: Option<usize>,
    /// Only lines of this level or above.
    #[cfg_attr(feature = "openapi", param(inline))]
    pub min_level: Option<LogLevel>,
    /// Only lines of this replica.
    pub replica: Option<String>,
    /// Only lines of this request.
    pub request_id: Option<String>,
    /// Accepted for compatibility. A deployment has one component, so no other name matches.
    pub component: Option<String>,
    /// Only lines that match this regular expression.
    #[cfg_attr(feature = "openapi", param(max_length = 1000))]
    pub search_pattern: Option<String>,
    /// Only lines that contain all of these texts, at most 8.
    pub includes: Vec<String>,
    /// Only lines that contain none of these texts, at most 8.
    pub excludes: Vec<String>,
}

/// The order of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum LogDirection {
    /// Oldest first.
    Asc,
    /// Newest first.
    Desc,
}

/// Level of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "UPPERCASE")]
pub enum LogLevel {
    /// Details for the author of a component.
    Debug,
    /// Normal operation.
    Info,
    /// A problem that was handled.
    Warning,
    /// An error.
    Error,
}

/// A line of a log, as it is stored and returned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(as = LogLine))]
pub struct LogEntry {
    /// Time of the line, with microseconds.
    #[cfg_attr(feature = "openapi", schema(value_type = String, format = DateTime))]
    pub timestamp: Timestamp,
    /// `DEBUG`, `INFO`, `WARNING` or `ERROR`.
    pub level: String,
    /// Text of the line.
    pub message: String,
    /// The replica that wrote the line.
    pub replica: String,
    /// The request during which it was written.
    pub request_id: Option<String>,
}

impl LogLevel {
    /// The level as text.
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
    /// The query parameters, as names and values.
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
