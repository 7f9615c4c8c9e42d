//! From when to when somebody asks for usage: dates or times in, minutes out.

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use samovar_types::usage::{MINUTE_MS, Minute, Resolution};

/// Days that are told without a start: the last one and those before it.
pub const DEFAULT_DAYS: i64 = 7;
/// Longest time of a billing summary.
pub const MAX_SUMMARY_DAYS: i64 = 31;
/// Longest time of one question for usage.
pub const MAX_USAGE_DAYS: i64 = 366;

const DAY: i64 = Resolution::Day.minutes();

/// Whole minutes, from the first to the one after the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// The first.
    pub from: Minute,
    /// The one after the last.
    pub to: Minute,
}

/// A time that nothing can be told about.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidWindow {
    /// It is no time.
    #[error(
        "{field}: found {found:?}, wanted a date such as 2026-01-31 or a time such as 2026-01-31T12:00:00Z"
    )]
    NoTime {
        /// The name of the value.
        field: &'static str,
        /// What it was.
        found: String,
    },
    /// It ends before it starts.
    #[error("{start} is after {end}: exchange them")]
    Backwards {
        /// The name of the start.
        start: &'static str,
        /// The name of the end.
        end: &'static str,
    },
    /// It is too long.
    #[error("{start} to {end} are more than {max_days} days: ask for a part of them")]
    TooLong {
        /// The name of the start.
        start: &'static str,
        /// The name of the end.
        end: &'static str,
        /// What is possible.
        max_days: i64,
    },
}

/// A value of a question, with its name.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The name.
    pub field: &'static str,
    /// The text, if there is any.
    pub text: Option<&'a str>,
}

impl Window {
    /// Reads a start and an end. A date as the end means all of that day, UTC; a time as the end is not part of it, but
    /// its minute is when it has begun. Without an end it is now; without a start, [`DEFAULT_DAYS`] are told.
    ///
    /// # Errors
    /// When one is no time, or both do not fit together.
    pub fn read(
        start: Asked<'_>,
        end: Asked<'_>,
        now: Timestamp,
        max_days: i64,
    ) -> Result<Self, InvalidWindow> {
        let to = match end.text {
            Some(text) => match time(end.field, text)? {
                Moment::Day(first) => first + DAY,
                Moment::Time(ms) => -(-ms).div_euclid(MINUTE_MS),
            },
            None => now.as_millisecond().div_euclid(MINUTE_MS) + 1,
        };
        let from = match start.text {
            Some(text) => match time(start.field, text)? {
                Moment::Day(first) => first,
                Moment::Time(ms) => ms.div_euclid(MINUTE_MS),
            },
            None => Resolution::Day.start_of(to - 1) - (DEFAULT_DAYS - 1) * DAY,
        };
        let (start, end) = (start.field, end.field);
        if from > to {
            return Err(InvalidWindow::Backwards { start, end });
        }
        if to - from > max_days * DAY {
            return Err(InvalidWindow::TooLong {
                start,
                end,
                max_days,
            });
        }
        Ok(Self { from, to })
    }
}

/// When a minute began.
pub fn timestamp(minute: Minute) -> Timestamp {
    // Far beyond the years that can be written, the last of them stands for all.
    let ms = minute.saturating_mul(MINUTE_MS);
    Timestamp::from_millisecond(ms).unwrap_or(if minute < 0 {
        Timestamp::MIN
    } else {
        Timestamp::MAX
    })
}

enum Moment {
    Day(Minute),
    Time(i64),
}

fn time(field: &'static str, text: &str) -> Result<Moment, InvalidWindow> {
    const DATE_LENGTH: usize = 10;
    let utc = |time: DateTime| TimeZone::UTC.to_timestamp(time).ok();
    let found = if text.len() == DATE_LENGTH {
        let date = text.parse::<Date>().ok();
        date.and_then(|date| utc(date.to_datetime(jiff::civil::Time::midnight())))
            .map(|time| Moment::Day(time.as_millisecond().div_euclid(MINUTE_MS)))
    } else {
        let with_zone = text.parse::<Timestamp>().ok();
        with_zone
            .or_else(|| text.parse::<DateTime>().ok().and_then(utc))
            .map(|time| Moment::Time(time.as_millisecond()))
    };
    found.ok_or_else(|| InvalidWindow::NoTime {
        field,
        found: text.chars().take(64).collect(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(start: &str, end: &str, max_days: i64) -> Result<(String, String), InvalidWindow> {
        let asked = |field, text: &'static str| Asked {
            field,
            text: (!text.is_empty()).then_some(text),
        };
        let leak = |text: &str| -> &'static str { text.to_owned().leak() };
        let now = "2026-03-10T12:30:30Z".parse().unwrap();
        let start = asked("start", leak(start));
        let window = Window::read(start, asked("end", leak(end)), now, max_days)?;
        Ok((
            timestamp(window.from).to_string(),
            timestamp(window.to).to_string(),
        ))
    }

    #[test]
    fn dates_are_whole_days_and_times_whole_minutes() {
        for (start, end, from, to) in [
            (
                "2026-01-01",
                "2026-01-31",
                "2026-01-01T00:00:00Z",
                "2026-02-01T00:00:00Z",
            ),
            (
                "2026-01-01",
                "2026-01-01",
                "2026-01-01T00:00:00Z",
                "2026-01-02T00:00:00Z",
            ),
            (
                "2026-01-01T10:00:59Z",
                "2026-01-01T12:00:01+02:00",
                "2026-01-01T10:00:00Z",
                "2026-01-01T10:01:00Z",
            ),
            (
                "2026-01-01T10:00:00",
                "2026-01-01T10:00:00",
                "2026-01-01T10:00:00Z",
                "2026-01-01T10:00:00Z",
            ),
            ("", "", "2026-03-04T00:00:00Z", "2026-03-10T12:31:00Z"),
            (
                "",
                "2026-01-31",
                "2026-01-25T00:00:00Z",
                "2026-02-01T00:00:00Z",
            ),
        ] {
            let told = read(start, end, 31).unwrap();
            assert_eq!((&told.0[..], &told.1[..]), (from, to), "{start} to {end}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (start, end, text) in [
            (
                "soon",
                "2026-01-31",
                "start: found \"soon\", wanted a date such as",
            ),
            ("2026-01-01", "2026-02-30", "end: found \"2026-02-30\""),
            ("2026-01-02", "2026-01-01", ""),
            ("2026-01-03", "2026-01-01", "start is after end"),
            ("2026-01-01", "2026-02-01", "more than 31 days"),
            ("2020-01-01", "", "more than 31 days"),
        ] {
            match read(start, end, 31) {
                Ok(told) => assert_eq!(told.0, told.1, "{start} to {end}"),
                Err(error) => {
                    let error = error.to_string();
                    assert!(!text.is_empty() && error.contains(text), "{error}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(start in ".{0,40}", end in "[-+0-9TZ:. ]{0,40}") {
            let _ = read(&start, &end, MAX_USAGE_DAYS);
        }
    }
}
