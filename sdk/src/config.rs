//! Configuration of a deployment: the secrets that its manifest names, and environment variables.
//!
//! ```
//! use samovar_sdk::config;
//!
//! // SAMOVAR_MODEL, and what the manifest sets under `environment_variables`; natively those of the process.
//! let model = config::model_name().unwrap_or_else(|| "a test".to_owned());
//! let is_verbose = config::get("VERBOSE").is_some_and(|value| value == "1");
//! # let _ = (model, is_verbose);
//! ```

use crate::Error;

/// Reads the secret `name`, which the manifest lists under `secrets`.
///
/// Secrets stay on the host, so this asks the host each time, and the guest keeps no copy unless you do.
/// Natively, [`testing::secret`](crate::testing::secret) sets one.
///
/// # Errors
/// Status 500: `secret_missing` if the secret is not listed or not set, `secret_unreadable` if the host fails.
///
/// ```
/// use samovar_sdk::{config, testing};
///
/// testing::secret("HF_TOKEN", "hf_1");
/// assert_eq!(config::secret("HF_TOKEN")?, "hf_1");
/// assert_eq!(config::secret("OTHER").unwrap_err().code(), "secret_missing");
/// # Ok::<(), samovar_sdk::Error>(())
/// ```
pub fn secret(name: &str) -> Result<String, Error> {
    match read(name) {
        Ok(Some(value)) => Ok(value),
        Ok(None) => Err(Error::new(
            500,
            "secret_missing",
            format!(
                "secret {name:?} is not set: list it under `secrets` in samovar.toml and set it on the server"
            ),
        )),
        Err(why) => Err(Error::new(
            500,
            "secret_unreadable",
            format!("secret {name:?} could not be read: {why}"),
        )),
    }
}

#[cfg(target_family = "wasm")]
fn read(name: &str) -> Result<Option<String>, String> {
    use crate::bindings::wasi::config::store::{self, Error::*};
    store::get(name).map_err(|error| match error {
        Upstream(why) | Io(why) => why,
    })
}

#[cfg(not(target_family = "wasm"))]
fn read(name: &str) -> Result<Option<String>, String> {
    Ok(crate::testing::secret_of(name))
}

/// Reads the environment variable `name` (`environment_variables` in the manifest), if it is set and valid UTF-8.
///
/// ```
/// assert_eq!(samovar_sdk::config::get("NOT_SET"), None);
/// ```
pub fn get(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Name of the model; `None` outside of Samovar.
///
/// ```
/// let prefix = samovar_sdk::config::model_name().unwrap_or_default();
/// # let _ = prefix;
/// ```
pub fn model_name() -> Option<String> {
    get("SAMOVAR_MODEL")
}

/// Id of this deployment, such as `abcd1234`; `None` outside of Samovar.
///
/// A deployment can be promoted at any time, so the environment belongs to the request: see
/// [`Request::environment`](crate::Request::environment).
///
/// ```
/// use samovar_sdk::{Response, config};
///
/// let answer = Response::new("text/plain", "ok");
/// let answer = match config::deployment_id() {
///     Some(id) => answer.with_header("x-answered-by", id),
///     None => answer,
/// };
/// # let _ = answer;
/// ```
pub fn deployment_id() -> Option<String> {
    get("SAMOVAR_DEPLOYMENT_ID")
}
