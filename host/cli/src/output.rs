//! Writes to standard output: documents for programs, tables and text for people.

use std::io::{self, Write as _};

use comfy_table::{Table, presets};
use jiff::Timestamp;
use samovar_client::text::printable;
use serde::Serialize;
use serde_json::Value;

/// The format of standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Text for people.
    Text,
    /// Only JSON, for programs.
    Json,
}

/// The reader of standard output has closed it.
#[derive(Debug, thiserror::Error)]
#[error("standard output was closed")]
pub struct StdoutClosed;

/// Writes bytes to standard output and flushes, so that a stream's reader gets them at once.
pub fn write(bytes: &[u8]) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(StdoutClosed.into()),
        Err(error) => Err(anyhow::Error::new(error).context("writing to standard output")),
    }
}

/// Writes a note to standard error. Errors are ignored, because notes are optional.
pub fn note(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}

pub fn line(text: &str) -> anyhow::Result<()> {
    write(format!("{text}\n").as_bytes())
}

/// Writes a JSON document.
pub fn document(value: &impl Serialize) -> anyhow::Result<()> {
    line(&serde_json::to_string_pretty(value)?)
}

/// Writes one of a stream's JSON Lines.
pub fn json_line(value: &impl Serialize) -> anyhow::Result<()> {
    line(&serde_json::to_string(value)?)
}

/// Writes a table without lines or color; `none` when it has no row.
pub fn table(header: &[&str], rows: Vec<Vec<String>>, none: &str) -> anyhow::Result<()> {
    if rows.is_empty() {
        return line(none);
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    for row in rows {
        table.add_row(row);
    }
    for text in table.lines() {
        // Each cell is padded, the first one too.
        line(text.strip_prefix(' ').unwrap_or(&text).trim_end())?;
    }
    Ok(())
}

/// Writes names with values, one per line.
pub fn properties<N: AsRef<str>>(pairs: &[(N, String)]) -> anyhow::Result<()> {
    let width = pairs
        .iter()
        .map(|(name, _)| name.as_ref().len())
        .max()
        .unwrap_or(0);
    for (name, value) in pairs {
        let name = name.as_ref();
        line(&format!("{name:width$}  {value}"))?;
    }
    Ok(())
}

/// The value of a field of any type; `-` if there is none.
pub fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => printable(text),
        Value::Array(values) if values.is_empty() => "-".into(),
        other => other.to_string(),
    }
}

/// An optional text; `-` if there is none.
pub fn or_dash(text: Option<impl ToString>) -> String {
    text.map_or_else(|| "-".into(), |text| printable(&text.to_string()))
}

/// A value of an enum, as the API spells it.
pub fn word(value: &impl Serialize) -> String {
    serde_json::to_value(value).map_or_else(|_| "-".into(), |value| cell(&value))
}

/// The fields of a structure by their names; those of a structure within it by both names.
pub fn fields(value: &impl Serialize) -> Vec<(String, String)> {
    let Ok(Value::Object(fields)) = serde_json::to_value(value) else {
        return Vec::new();
    };
    let mut lines = Vec::new();
    for (name, value) in fields {
        match value {
            Value::Object(inner) => lines.extend(
                inner
                    .iter()
                    .map(|(field, value)| (format!("{name}.{field}"), cell(value))),
            ),
            value => lines.push((name, cell(&value))),
        }
    }
    lines
}

/// How long ago a time was.
pub fn since(time: Timestamp, now: Timestamp) -> String {
    let seconds = now.as_second().saturating_sub(time.as_second());
    match seconds {
        ..5 => "just now".into(),
        5..60 => format!("{seconds} s ago"),
        60..3600 => format!("{} min ago", seconds / 60),
        3600..86_400 => format!("{} h ago", seconds / 3600),
        _ => format!("{} d ago", seconds / 86_400),
    }
}

/// Quotes a text as one word for a shell.
pub fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_as_long_ago() {
        let now: Timestamp = "2026-01-02T00:00:00Z".parse().unwrap();
        let told = |text: &str| since(text.parse().unwrap(), now);
        assert_eq!(told("2026-01-02T00:01:00Z"), "just now");
        assert_eq!(told("2026-01-01T23:59:30.250Z"), "30 s ago");
        assert_eq!(told("2026-01-01T23:56:01Z"), "3 min ago");
        assert_eq!(told("2026-01-01T21:00:00+00:00"), "3 h ago");
        assert_eq!(told("2025-12-01T00:00:00Z"), "32 d ago");
    }
}
