//! What a request says, taken apart; what it says wrongly becomes the API's own error.

use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use samovar_types::error::ErrorCode;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::ApiError;
use super::{Api, Shared};
use crate::control::access::Caller;
use crate::domain::audit::{Author, ClientProgram};

/// What the API works on, with whoever calls as the author of every change that is made by it.
///
/// Axum's own `State` does not give it out: a route cannot forget who calls.
pub struct State<T>(pub T);

impl FromRequestParts<Shared> for State<Api> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, shared: &Shared) -> Result<Self, ApiError> {
        let caller = parts.extensions.get::<Caller>();
        let caller = caller.ok_or_else(|| ApiError::internal("a route lets in whoever comes"))?;
        let client = parts.headers.get(header::USER_AGENT);
        let client = client.and_then(|name| ClientProgram::of(name.to_str().ok()?));
        Ok(Self(shared.by(Author {
            actor: caller.actor(),
            client,
        })))
    }
}

/// A JSON body, both ways.
pub struct Json<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        match axum::Json::<T>::from_request(request, state).await {
            Ok(axum::Json(value)) => Ok(Self(value)),
            Err(rejection) => Err(match rejection.status() {
                StatusCode::PAYLOAD_TOO_LARGE => ApiError::new(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    ErrorCode::PayloadTooLarge,
                    format!(
                        "the JSON body is longer than {} bytes",
                        super::MAX_JSON_BYTES
                    ),
                ),
                StatusCode::UNSUPPORTED_MEDIA_TYPE => ApiError::new(
                    StatusCode::UNSUPPORTED_MEDIA_TYPE,
                    ErrorCode::ClientError,
                    "the body is not announced as JSON: send `Content-Type: application/json`",
                ),
                // Axum tells wrong syntax from wrong shape; both are the caller's to mend.
                _ => ApiError::bad_request(rejection.body_text()),
            }),
        }
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

/// The values after the `?`.
#[derive(Clone, Copy, Debug)]
pub struct Query<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match axum::extract::Query::from_request_parts(parts, state).await {
            Ok(axum::extract::Query(value)) => Ok(Self(value)),
            Err(rejection) => Err(ApiError::bad_request(rejection.body_text())),
        }
    }
}

/// The variable parts of the path.
#[derive(Clone, Copy, Debug)]
pub struct Path<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match axum::extract::Path::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            // A part that is no UTF-8 names nothing that there is.
            Err(rejection) => Err(ApiError::bad_request(rejection.body_text())),
        }
    }
}

/// The values after the `?` where names may come more than once, in their order.
#[derive(Clone, Debug)]
pub struct Pairs(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Pairs {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Query(pairs) = Query::from_request_parts(parts, state).await?;
        Ok(Self(pairs))
    }
}

impl Pairs {
    /// Each name with its value.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }

    /// Refuses a name that means nothing.
    pub fn unknown(&self, name: &str) -> ApiError {
        let shown: String = name.chars().take(80).collect();
        ApiError::bad_request(format!("there is no parameter {shown:?}"))
    }

    /// A value as a word of an enum.
    ///
    /// # Errors
    /// The name, and which words there are.
    pub fn word<T: DeserializeOwned>(&self, name: &str, value: &str) -> Result<T, ApiError> {
        T::deserialize(serde::de::value::StrDeserializer::new(value)).map_err(
            |error: serde::de::value::Error| ApiError::bad_request(format!("{name}: {error}")),
        )
    }

    /// A value as a number within a range.
    ///
    /// # Errors
    /// The name, what was found and what was wanted.
    pub fn number(
        &self,
        name: &str,
        value: &str,
        range: std::ops::RangeInclusive<usize>,
    ) -> Result<usize, ApiError> {
        let number = value.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| {
            let shown: String = value.chars().take(80).collect();
            let (least, most) = (range.start(), range.end());
            ApiError::bad_request(format!("{name}: found {shown:?}, wanted {least} to {most}"))
        })
    }

    /// A value as a whole number.
    ///
    /// # Errors
    /// The name and what was found.
    pub fn integer(&self, name: &str, value: &str) -> Result<i64, ApiError> {
        value.parse().map_err(|_| {
            let shown: String = value.chars().take(80).collect();
            ApiError::bad_request(format!("{name}: found {shown:?}, wanted a whole number"))
        })
    }

    /// What a text after the `?` says, for tests of those who read it.
    #[cfg(test)]
    pub fn of(text: &str) -> Self {
        let uri = format!("/?{text}").parse().unwrap();
        let axum::extract::Query(pairs) = axum::extract::Query::try_from_uri(&uri).unwrap();
        Self(pairs)
    }
}
