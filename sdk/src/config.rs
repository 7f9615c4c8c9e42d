//! What the deployment gives a model: the secrets its manifest names, and environment variables.

use crate::Error;
use crate::bindings::wasi::config::store;

/// The secret `name`, which the manifest lists under `secrets`; an error says so when it is not there.
///
/// Only the host holds secrets, so this asks it each time: nothing of them stays in the guest unless you keep it.
pub fn secret(name: &str) -> Result<String, Error> {
    match store::get(name) {
        Ok(Some(value)) => Ok(value),
        Ok(None) => Err(Error::new(
            500,
            "secret_missing",
            format!(
                "secret {name:?} is not set: list it under `secrets` in samovar.toml and set it on the server"
            ),
        )),
        Err(store::Error::Upstream(why) | store::Error::Io(why)) => Err(Error::new(
            500,
            "secret_unreadable",
            format!("secret {name:?} could not be read: {why}"),
        )),
    }
}

/// The environment variable `name` of the deployment (`environment_variables` in the manifest), if it is set.
pub fn get(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
