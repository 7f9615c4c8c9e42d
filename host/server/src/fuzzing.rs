//! What fuzz targets call; not for use by anybody else.

use http::{HeaderMap, Request, Version};
use samovar_types::api::models::PushRequest;
use samovar_types::bundle::Bundle;

pub use crate::catalog::cache::Documents;
use crate::front::browser_guard::{self, Purpose};
use crate::front::host;
pub use crate::gateway::target::{Address, AsyncAddress, AsyncPart, Place, Route};

/// The bundle of a push, as the server reads and checks it.
///
/// # Errors
/// What the push is refused with.
pub fn pushed_bundle(body: &[u8]) -> Result<Bundle, String> {
    let push: PushRequest = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let bundle = push.bundle;
    bundle.validate().map_err(|error| error.to_string())?;
    Ok(bundle)
}

/// Whether a request of HTTP/1.1 has the `Host` header that it needs.
pub fn has_valid_host(headers: &HeaderMap) -> bool {
    host::check(Version::HTTP_11, headers).is_ok()
}

/// A host without its port.
pub fn host_without_port(host: &str) -> Option<&str> {
    host::without_port(host)
}

/// Whether a server without keys answers this request for its management API.
pub fn is_from_this_machine(request: &Request<()>) -> bool {
    browser_guard::check(request, Purpose::Management, None).is_ok()
}
