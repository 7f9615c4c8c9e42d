//! W3C trace context.

use std::fmt;

/// A valid `traceparent` header of a request, as defined by the W3C recommendation Trace Context.
///
/// Send it with calls to other services, so that they are part of the same trace:
///
/// ```
/// use samovar_sdk::Request;
///
/// let request = Request::new("POST", "/predict", "")
///     .with_header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
/// let trace = request.trace_parent().expect("it has one");
/// assert_eq!(trace.trace_id(), "0af7651916cd43dd8448eb211c80319c");
/// assert_eq!(trace.parent_id(), "b7ad6b7169203331");
/// assert!(trace.is_sampled());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent<'a> {
    trace_id: &'a str,
    parent_id: &'a str,
    flags: u8,
}

impl<'a> TraceParent<'a> {
    /// Parses the header's value; `None` if it is invalid, because the recommendation says to ignore such a header.
    ///
    /// ```
    /// assert_eq!(samovar_sdk::http::TraceParent::parse("00-12-34-01"), None);
    /// ```
    pub fn parse(value: &'a str) -> Option<Self> {
        let mut parts = value.trim().splitn(5, '-');
        let version = hex(parts.next()?, 2)?;
        let trace_id = hex(parts.next()?, 32)?;
        let parent_id = hex(parts.next()?, 16)?;
        let flags = hex(parts.next()?, 2)?;
        let is_zero = |id: &str| id.bytes().all(|digit| digit == b'0');
        // Version 00 ends here; what a later one adds is not for us. There will be no ff.
        let ends_well = version != "00" || parts.next().is_none();
        if version == "ff" || is_zero(trace_id) || is_zero(parent_id) || !ends_well {
            return None;
        }
        let flags = u8::from_str_radix(flags, 16).ok()?;
        Some(Self {
            trace_id,
            parent_id,
            flags,
        })
    }

    /// Id of the trace: 32 hex digits in lower case.
    pub fn trace_id(&self) -> &'a str {
        self.trace_id
    }

    /// Id of the caller's span: 16 hex digits in lower case.
    pub fn parent_id(&self) -> &'a str {
        self.parent_id
    }

    /// Whether the caller records the trace.
    pub fn is_sampled(&self) -> bool {
        self.flags & 1 == 1
    }
}

/// The header's value.
impl fmt::Display for TraceParent<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            trace_id,
            parent_id,
            flags,
        } = self;
        write!(f, "00-{trace_id}-{parent_id}-{flags:02x}")
    }
}

fn hex(part: &str, len: usize) -> Option<&str> {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    (part.len() == len && part.bytes().all(is_digit)).then_some(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_valid_values_are_read() {
        let (trace, span) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
        for good in [
            format!("00-{trace}-{span}-01"),
            format!("cc-{trace}-{span}-01-what-comes"),
        ] {
            let read = TraceParent::parse(&good).expect("valid");
            assert_eq!(read.to_string(), format!("00-{trace}-{span}-01"));
        }
        let zeros = "0".repeat(32);
        for bad in [
            String::new(),
            format!("00-{trace}-{span}"),
            format!("00-{trace}-{span}-01-more"),
            format!("ff-{trace}-{span}-01"),
            format!("00-{zeros}-{span}-01"),
            format!("00-{trace}-{}-01", &zeros[..16]),
            format!("00-{}-{span}-01", trace.to_uppercase()),
            format!("00-{trace}-{span}-1"),
        ] {
            assert_eq!(TraceParent::parse(&bad), None, "{bad}");
        }
    }
}
