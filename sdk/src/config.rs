//! What the deployment gives a model: the secrets its manifest names, and environment variables.

use crate::Error;

/// The secret `name`, which the manifest lists under `secrets`; an error says so when it is not there.
///
/// Only the host holds secrets, so this asks it each time: nothing of them stays in the guest unless you keep it.
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

/// The environment variable `name` of the deployment (`environment_variables` in the manifest), if it is set.
pub fn get(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The name of the model that this is a deployment of; `None` outside of Samovar.
pub fn model_name() -> Option<String> {
    get("SAMOVAR_MODEL")
}

/// The id of this deployment, such as `abcd1234`; `None` outside of Samovar.
///
/// Which environment a request came through is not the deployment's to know, for it may be promoted at any time:
/// [`Request::environment`](crate::Request::environment) tells it.
pub fn deployment_id() -> Option<String> {
    get("SAMOVAR_DEPLOYMENT_ID")
}
