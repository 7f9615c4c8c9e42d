//! Errors of models: an HTTP status, and JSON that describes the problem.

use std::fmt;

use serde::Serialize;
use serde_json::{Value, json};

/// Error of a request, or of loading a model.
///
/// `?` converts any [`std::error::Error`] into an internal error (status 500); the constructors make other kinds. For that conversion
/// to be possible, this type does not implement [`std::error::Error`] itself.
///
/// ```
/// use samovar_sdk::Error;
///
/// fn tokens(text: &str) -> Result<usize, Error> {
///     match text.split_whitespace().count() {
///         0 => Err(Error::bad_request("there is no text")),
///         found @ 513.. => Err(Error::new(422, "too_long", format!("found {found} words, 512 is the most"))
///             .with_detail(found)),
///         count => Ok(count),
///     }
/// }
///
/// assert_eq!(tokens("").unwrap_err().status(), 400);
/// let error = tokens(&"a ".repeat(600)).unwrap_err();
/// assert_eq!((error.code(), error.detail().unwrap()), ("too_long", &600.into()));
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Error {
    status: u16,
    code: String,
    message: String,
    detail: Option<Value>,
    headers: Vec<(String, String)>,
}

impl Error {
    /// An error with an HTTP status (400 to 599, others become 500), a `snake_case` code for programs and a message for people.
    ///
    /// ```
    /// let error = samovar_sdk::Error::new(429, "too_many", "ask again in 10 seconds");
    /// assert_eq!((error.status(), error.code()), (429, "too_many"));
    /// ```
    pub fn new(status: u16, code: impl Into<String>, message: impl fmt::Display) -> Self {
        let status = if (400..600).contains(&status) {
            status
        } else {
            500
        };
        Self {
            status,
            code: code.into(),
            message: message.to_string(),
            detail: None,
            headers: Vec::new(),
        }
    }

    /// The request is invalid: status 400, code `bad_request`.
    ///
    /// ```
    /// let error = samovar_sdk::Error::bad_request(format_args!("found {} features, wanted 4", 3));
    /// assert_eq!(error.message(), "found 3 features, wanted 4");
    /// ```
    pub fn bad_request(message: impl fmt::Display) -> Self {
        Self::new(400, "bad_request", message)
    }

    /// The path does not exist: status 404, code `not_found`.
    ///
    /// ```
    /// assert_eq!(samovar_sdk::Error::not_found("there is no /train").status(), 404);
    /// ```
    pub fn not_found(message: impl fmt::Display) -> Self {
        Self::new(404, "not_found", message)
    }

    /// The path supports other methods: status 405, code `method_not_allowed`, with the header `allow` that HTTP requires.
    ///
    /// ```
    /// let error = samovar_sdk::Error::method_not_allowed("PUT", "GET, HEAD");
    /// assert_eq!((error.status(), error.message()), (405, "found PUT, wanted GET, HEAD"));
    /// assert_eq!(error.headers()[0], ("allow".to_owned(), "GET, HEAD".to_owned()));
    /// ```
    pub fn method_not_allowed(found: &str, allowed: &str) -> Self {
        let message = format!("found {found}, wanted {allowed}");
        Self::new(405, "method_not_allowed", message).with_header("allow", allowed)
    }

    /// The model failed: status 500, code `internal`.
    ///
    /// ```
    /// assert_eq!(samovar_sdk::Error::internal("the vocabulary is empty").status(), 500);
    /// ```
    pub fn internal(message: impl fmt::Display) -> Self {
        Self::new(500, "internal", message)
    }

    /// Adds details for programs, sent as `detail`.
    ///
    /// ```
    /// let error = samovar_sdk::Error::bad_request("too long").with_detail(vec![512, 600]);
    /// assert_eq!(error.to_json()["detail"][1], 600);
    /// ```
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<Value>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Adds a header to the response, such as `retry-after`.
    ///
    /// ```
    /// let error = samovar_sdk::Error::new(429, "too_many", "ask again later").with_header("retry-after", "10");
    /// assert_eq!(error.headers().len(), 1);
    /// ```
    #[must_use]
    pub fn with_header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// The HTTP status, 400 to 599.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The code for programs.
    pub fn code(&self) -> &str {
        &self.code
    }

    /// The message for people.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The details for programs; `None` without [`with_detail`](Self::with_detail).
    pub fn detail(&self) -> Option<&Value> {
        self.detail.as_ref()
    }

    /// The headers of the response.
    pub fn headers(&self) -> &[(String, String)] {
        &self.headers
    }

    /// The body of the response: `{"error", "error_code", "detail"}`.
    ///
    /// ```
    /// let json = samovar_sdk::Error::not_found("there is no /train").to_json();
    /// assert_eq!((&json["error_code"], &json["error"]), (&"not_found".into(), &"there is no /train".into()));
    /// ```
    pub fn to_json(&self) -> Value {
        json!({ "error": self.message, "error_code": self.code, "detail": self.detail })
    }

    /// The same as text, without building a map, because the code for that would double the size that errors add to a component.
    pub(crate) fn to_body(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Body<'a> {
            detail: &'a Option<Value>,
            error: &'a str,
            error_code: &'a str,
        }
        let body = Body {
            detail: &self.detail,
            error: &self.message,
            error_code: &self.code,
        };
        // Text and JSON leave the writer nothing to fail on.
        serde_json::to_vec(&body).unwrap_or_default()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl<E: std::error::Error> From<E> for Error {
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            message.push_str(": ");
            message.push_str(&cause.to_string());
            source = cause.source();
        }
        Self::internal(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_json_with_its_code_and_detail() {
        let error = Error::new(422, "too_long", "the text has 9 tokens, 8 is the most")
            .with_detail(json!({ "tokens": 9 }));
        assert_eq!(
            error.to_json(),
            json!({ "error": "the text has 9 tokens, 8 is the most", "error_code": "too_long", "detail": { "tokens": 9 } })
        );
        assert_eq!(Error::not_found("x").to_json()["detail"], Value::Null);
    }

    #[test]
    fn a_status_that_is_no_error_becomes_500() {
        assert_eq!(Error::new(200, "ok", "fine").status(), 500);
        assert_eq!(Error::new(599, "odd", "odd").status(), 599);
    }

    #[test]
    fn a_standard_error_becomes_internal() {
        let error: Error = "x"
            .parse::<i32>()
            .map_err(Error::from)
            .expect_err("not a number");
        assert_eq!((error.status(), error.code()), (500, "internal"));
        assert!(error.message().contains("invalid digit"));
    }
}
