//! The body of errors of the platform, and the error codes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::digest::Digest;

/// Body of every error of the platform.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ErrorBody {
    /// Message for people: what was found, what was expected, what to do.
    pub error: String,
    /// Code for programs.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub error_code: ErrorCode,
    /// Details, which depend on the code.
    pub detail: Value,
    /// Id of the request, which is also in the server's log.
    pub request_id: String,
}

/// The `detail` of [`ErrorCode::MissingBlobs`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingBlobs {
    /// Digests of the blobs that the server lacks.
    pub missing: Vec<Digest>,
}

/// Defines [`ErrorCode`] from one list of names, spellings and descriptions.
macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// Code of an error, for programs.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum ErrorCode {
            $($(#[$doc])* #[serde(rename = $text)] $name,)*
        }

        impl ErrorCode {
            /// All codes.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The code as text.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

codes! {
    /// A deployment with this name, or a resource with this id, already exists.
    AlreadyThere = "already_there",
    /// The component failed: it trapped, exited, ran out of memory or gave no response.
    ApplicationError = "application_error",
    /// A stored file does not match its digest.
    BlobDamaged = "blob_damaged",
    /// The build of a deployment failed.
    BuildFailed = "build_failed",
    /// The build of a deployment was stopped.
    BuildStopped = "build_stopped",
    /// Too many async requests are waiting or running.
    CapacityExceeded = "capacity_exceeded",
    /// The request is invalid.
    ClientError = "client_error",
    /// The component of a bundle cannot be run.
    ComponentRefused = "component_refused",
    /// Other changes interfered; the client may repeat the request.
    Conflict = "conflict",
    /// This change is not possible for the development deployment.
    Development = "development",
    /// The model already has a development deployment.
    DevelopmentExists = "development_exists",
    /// A resource with this name already exists.
    Exists = "exists",
    /// The key, or the origin of the request, does not allow this.
    Forbidden = "forbidden",
    /// A graph of a bundle cannot be run.
    GraphRefused = "graph_refused",
    /// The resource is in use.
    InUse = "in_use",
    /// The deployment is deactivated.
    Inactive = "inactive",
    /// The server failed; its log has the reason.
    InternalError = "internal_error",
    /// This is the last key that may do everything.
    LastAdminKey = "last_admin_key",
    /// The address does not support the method.
    MethodNotAllowed = "method_not_allowed",
    /// The server lacks files of the bundle.
    MissingBlobs = "missing_blobs",
    /// Secrets that the bundle names are not set.
    MissingSecrets = "missing_secrets",
    /// The model or deployment of an inference request does not exist, or is deactivated.
    ModelDoesNotExist = "model_does_not_exist",
    /// No replica of the model can be started.
    ModelNotReady = "model_not_ready",
    /// The model is not available now.
    ModelUnavailable = "model_unavailable",
    /// No promotion is in progress.
    NoPromotion = "no_promotion",
    /// The async request has no result.
    NoResult = "no_result",
    /// The resource does not exist.
    NotFound = "not_found",
    /// The deployment is not built, or cannot be built.
    NotReady = "not_ready",
    /// The body is too long.
    PayloadTooLarge = "payload_too_large",
    /// A promotion is already in progress.
    PromotionInProgress = "promotion_in_progress",
    /// The deployment is published and cannot be changed.
    Published = "published",
    /// There are too many requests at a time.
    RateLimited = "rate_limited",
    /// Too many reloads are waiting.
    ReloadInProgress = "reload_in_progress",
    /// The server cannot read or write files.
    StorageUnavailable = "storage_unavailable",
    /// The server cannot read or write its store.
    StoreUnavailable = "store_unavailable",
    /// The operation took too long.
    Timeout = "timeout",
    /// The limit for these resources is reached.
    TooMany = "too_many",
    /// The request has no valid key.
    Unauthorized = "unauthorized",
    /// The store of async requests cannot be reached.
    Unavailable = "unavailable",
    /// An unreadable stored document has this name.
    UnreadableDocument = "unreadable_document",
    /// The uploaded bytes do not match the announced digest.
    WrongDigest = "wrong_digest",
    /// The resource is in a state that does not allow this.
    WrongStatus = "wrong_status",
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Text that is not an error code of this release. It may come from a newer server or from another program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an error code of this release")]
pub struct UnknownErrorCode(String);

impl FromStr for ErrorCode {
    type Err = UnknownErrorCode;

    fn from_str(text: &str) -> Result<Self, UnknownErrorCode> {
        let code = Self::ALL.iter().copied().find(|code| code.as_str() == text);
        code.ok_or_else(|| UnknownErrorCode(text.chars().take(80).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_lower_case_words_and_read_back() {
        for code in ErrorCode::ALL {
            let plain = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
            assert!(code.as_str().bytes().all(plain), "{code}");
            assert_eq!(code.as_str().parse(), Ok(*code));
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
        }
        assert!("INTERNAL".parse::<ErrorCode>().is_err());
    }
}
