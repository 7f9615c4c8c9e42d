//! What the deployment gives a model: the secrets its manifest names, and environment variables.
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

/// The secret `name`, which the manifest lists under `secrets`.
///
/// Only the host holds secrets, so this asks it each time: nothing of them stays in the guest unless you keep it.
/// Natively, [`testing::secret`](crate::testing::secret) sets one.
///
/// # Errors
/// Status 500: `secret_missing` when it is not listed or not set, `secret_unreadable` when the host fails.
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

/// The environment variable `name` of the deployment (`environment_variables` in the manifest), if it is set and valid UTF-8.
///
/// ```
/// assert_eq!(samovar_sdk::config::get("NOT_SET"), None);
/// ```
pub fn get(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The name of the model that this is a deployment of; `None` outside of Samovar.
///
/// ```
/// let prefix = samovar_sdk::config::model_name().unwrap_or_default();
/// # let _ = prefix;
/// ```
pub fn model_name() -> Option<String> {
    get("SAMOVAR_MODEL")
}

/// The id of this deployment, such as `abcd1234`; `None` outside of Samovar.
///
/// Which environment a request came through is not the deployment's to know, for it may be promoted at any time:
/// [`Request::environment`](crate::Request::environment) tells it.
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
