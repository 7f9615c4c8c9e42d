//! Turns errors of SQLite into text that says what to do.

use super::BUSY_TIMEOUT;
use crate::StoreError;

pub fn unavailable(error: sqlx::Error) -> StoreError {
    StoreError::Unavailable(explain(error))
}

/// What SQLite calls a failure, without the details of its extended codes.
fn primary_code(error: &sqlx::Error) -> Option<u32> {
    let code = error.as_database_error()?.code()?;
    code.parse().ok().map(|code: u32| code & 0xff)
}

const SQLITE_BUSY: u32 = 5;
const SQLITE_READONLY: u32 = 8;
const SQLITE_IOERR: u32 = 10;
const SQLITE_CORRUPT: u32 = 11;
const SQLITE_FULL: u32 = 13;
const SQLITE_CANTOPEN: u32 = 14;

pub fn is_full(error: &sqlx::Error) -> bool {
    primary_code(error) == Some(SQLITE_FULL)
}

/// What failed, and what to do about it.
pub fn explain(error: sqlx::Error) -> String {
    match primary_code(&error) {
        Some(SQLITE_FULL) => {
            return "the disk is full: free some space where the data folder is".into();
        }
        Some(SQLITE_READONLY) => {
            return format!("the data folder is read-only ({error}): make it writable again");
        }
        Some(SQLITE_IOERR | SQLITE_CANTOPEN) => {
            return format!(
                "the disk of the data folder fails ({error}): see the system's log, and free or repair the disk"
            );
        }
        Some(SQLITE_CORRUPT) => {
            return format!("state.db is damaged ({error}): restore it from a backup");
        }
        Some(SQLITE_BUSY) => {
            return format!("another process has held state.db for {BUSY_TIMEOUT:?}");
        }
        _ => {}
    }
    match error {
        sqlx::Error::PoolTimedOut => format!(
            "no connection became free within {BUSY_TIMEOUT:?}: is the disk of the data folder slow?"
        ),
        sqlx::Error::PoolClosed => "the store was closed".into(),
        other => other.to_string(),
    }
}
