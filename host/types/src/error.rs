//! The body of every error of the platform, and its codes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::digest::Digest;

/// What every error of the platform looks like.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ErrorBody {
    /// For people: what was found, what was wanted, what to do.
    pub error: String,
    /// For programs.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub error_code: ErrorCode,
    /// Facts that depend on the code.
    pub detail: Value,
    /// Names the request in the server's log.
    pub request_id: String,
}

/// The `detail` of [`ErrorCode::MissingBlobs`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingBlobs {
    /// The files that the server lacks.
    pub missing: Vec<Digest>,
}

/// Makes [`ErrorCode`]: one list for the type, its spelling and its description.
macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// What went wrong, for programs.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum ErrorCode {
            $($(#[$doc])* #[serde(rename = $text)] $name,)*
        }

        impl ErrorCode {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Its spelling.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

codes! {
    /// A deployment of that name, or a thing of that id, is there already.
    AlreadyThere = "already_there",
    /// The component failed: it trapped, exited, ran out of memory or gave no response.
    ApplicationError = "application_error",
    /// A stored file is not what its digest says.
    BlobDamaged = "blob_damaged",
    /// The build of a deployment failed.
    BuildFailed = "build_failed",
    /// The build of a deployment was stopped.
    BuildStopped = "build_stopped",
    /// Too many async requests are open.
    CapacityExceeded = "capacity_exceeded",
    /// The request is wrong in itself.
    ClientError = "client_error",
    /// The component of a bundle cannot be run.
    ComponentRefused = "component_refused",
    /// Changes of others came between; the request may be repeated.
    Conflict = "conflict",
    /// The deployment is the development deployment, which cannot be changed this way.
    Development = "development",
    /// The model has a development deployment already.
    DevelopmentExists = "development_exists",
    /// A thing of that name is there already.
    Exists = "exists",
    /// The key, or the origin of the request, does not allow it.
    Forbidden = "forbidden",
    /// A graph of a bundle cannot be run.
    GraphRefused = "graph_refused",
    /// Something else uses the thing.
    InUse = "in_use",
    /// The deployment is switched off.
    Inactive = "inactive",
    /// The server failed; its log says why.
    InternalError = "internal_error",
    /// Without this key no key could do everything any more.
    LastAdminKey = "last_admin_key",
    /// The address does not take the method.
    MethodNotAllowed = "method_not_allowed",
    /// The server lacks files of the bundle.
    MissingBlobs = "missing_blobs",
    /// Secrets that the bundle names are not set.
    MissingSecrets = "missing_secrets",
    /// The address of an inference request leads to no model or deployment.
    ModelDoesNotExist = "model_does_not_exist",
    /// No replica of the model starts.
    ModelNotReady = "model_not_ready",
    /// The model takes no requests now.
    ModelUnavailable = "model_unavailable",
    /// There is no promotion in progress.
    NoPromotion = "no_promotion",
    /// The async request has no result.
    NoResult = "no_result",
    /// There is no such thing.
    NotFound = "not_found",
    /// The deployment is not built, or cannot be.
    NotReady = "not_ready",
    /// The body is too long.
    PayloadTooLarge = "payload_too_large",
    /// A promotion is in progress already.
    PromotionInProgress = "promotion_in_progress",
    /// The deployment is a published one, which does not change.
    Published = "published",
    /// The client, or all clients, ask too much at a time.
    RateLimited = "rate_limited",
    /// Too many reloads wait already.
    ReloadInProgress = "reload_in_progress",
    /// Files cannot be stored or read.
    StorageUnavailable = "storage_unavailable",
    /// Documents cannot be stored or read.
    StoreUnavailable = "store_unavailable",
    /// It took too long.
    Timeout = "timeout",
    /// There may be no more of these.
    TooMany = "too_many",
    /// No key, or none that is valid.
    Unauthorized = "unauthorized",
    /// The store of async requests cannot be reached.
    Unavailable = "unavailable",
    /// A stored document that cannot be read has this name.
    UnreadableDocument = "unreadable_document",
    /// The bytes have another digest than announced.
    WrongDigest = "wrong_digest",
    /// The thing is in another state.
    WrongStatus = "wrong_status",
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Text that is not the code of an error: of another server, or of a newer one.
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
