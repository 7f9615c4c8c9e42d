//! HTTP as a model sees it: a request with a streamed body, a response whole or streamed, JSON either way.

mod request;
mod response;
mod serve;
mod trace;

pub use request::{Body, FromRequest, Request};
pub use response::{BodyWriter, IntoResponse, Response};
pub use serve::route;
pub(crate) use serve::serve;
pub use trace::TraceParent;

/// A value that travels as JSON: an input read from the request's body, or an output written to the response's.
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
