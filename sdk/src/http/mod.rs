//! HTTP for models: requests with a streamed body, and complete or streamed responses.

mod request;
mod response;
mod serve;
mod trace;

pub use request::{Body, FromRequest, Request};
pub use response::{BodyWriter, IntoResponse, Response};
pub use serve::route;
pub(crate) use serve::serve;
pub use trace::TraceParent;

/// A value as JSON: an input from the request's body, or an output in the response's body.
///
/// ```
/// use samovar_sdk::{FromRequest, IntoResponse, Json, Request};
///
/// let Json(numbers) = Json::<Vec<f32>>::from_request(Request::new("POST", "/predict", "[1, 2.5]"))?;
/// let answer = Json(numbers.iter().sum::<f32>()).into_response()?;
/// assert_eq!(answer.into_bytes()?, b"3.5");
/// # Ok::<(), samovar_sdk::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Json<T>(pub T);
