//! Sizes and durations with units: `256MiB`, `60s`.

/// Describes a size, for messages.
pub const SIZE_WANTED: &str =
    "a size: a whole number and one of B, KB, MB, GB, KiB, MiB, GiB, such as \"256MiB\"";
/// Describes a duration, for messages.
pub const DURATION_WANTED: &str =
    "a duration: a whole number and one of ms, s, m, h, such as \"60s\"";

const SIZE_UNITS: [(&str, u64); 7] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("B", 1),
];

// `ms` before `s` and `m`: the first ending that fits is taken.
const DURATION_UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];

/// Parses a size and returns bytes.
pub fn parse_size_bytes(text: &str) -> Option<u64> {
    parse(text, &SIZE_UNITS)
}

/// Parses a duration and returns milliseconds.
pub fn parse_duration_ms(text: &str) -> Option<u64> {
    parse(text, &DURATION_UNITS)
}

/// Writes a number of bytes in the shortest exact form.
pub fn format_size_bytes(bytes: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    units
        .into_iter()
        .find(|(_, shift)| bytes > 0 && bytes.is_multiple_of(1 << shift))
        .map_or_else(
            || format!("{bytes}B"),
            |(unit, shift)| format!("{}{unit}", bytes >> shift),
        )
}

/// Writes a number of milliseconds in the shortest exact form.
pub fn format_duration_ms(millis: u64) -> String {
    let units = [("h", 3_600_000), ("m", 60_000), ("s", 1_000)];
    units
        .into_iter()
        .find(|(_, factor)| millis > 0 && millis.is_multiple_of(*factor))
        .map_or_else(
            || format!("{millis}ms"),
            |(unit, factor)| format!("{}{unit}", millis / factor),
        )
}

fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let (number, factor) = units
        .iter()
        .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))?;
    let number = number.trim_end_matches(' ');
    // `parse` alone would take a leading `+`.
    if !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(parse_size_bytes("256MiB"), Some(256 << 20));
        assert_eq!(parse_size_bytes("1 GB"), Some(1_000_000_000));
        assert_eq!(parse_size_bytes("0B"), Some(0));
        for bad in [
            "",
            "B",
            "MiB",
            "256",
            "1.5GiB",
            "-1B",
            "+1B",
            "1mib",
            "1e3B",
            "99999999999GiB",
            "1 2B",
        ] {
            assert_eq!(parse_size_bytes(bad), None, "{bad}");
        }
    }

    #[test]
    fn durations() {
        assert_eq!(parse_duration_ms("60s"), Some(60_000));
        assert_eq!(parse_duration_ms("250ms"), Some(250));
        assert_eq!(parse_duration_ms("2m"), Some(120_000));
        assert_eq!(parse_duration_ms("1h"), Some(3_600_000));
        for bad in ["", "s", "60", "1d", "1m30s", "-1s", "18446744073709551615h"] {
            assert_eq!(parse_duration_ms(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(number: u64) {
            prop_assert_eq!(parse_size_bytes(&format_size_bytes(number)), Some(number));
            prop_assert_eq!(parse_duration_ms(&format_duration_ms(number)), Some(number));
        }

        #[test]
        fn any_text_is_answered(text in ".{0,40}") {
            let _ = parse_size_bytes(&text);
            let _ = parse_duration_ms(&text);
        }
    }
}
