//! Builds that the end of the node cut off.
//!
//! After a crash each of them is tried once more, while the node builds nothing else, so that one that ends the node again
//! is known by it. That it was tried is stored before the build begins. Those that wait behind it are not blamed.

use std::time::Duration;

use crate::control::builder::{BuildError, Builder};
use crate::domain::changes::Resumed;
use crate::domain::model::ModelView;
use crate::ids::Id;
use crate::registry::RegistryError;

/// How long to wait for a store that takes no writes.
const STORE_PAUSE: Duration = Duration::from_secs(1);

/// Builds one after another.
pub async fn one_by_one(builder: Builder, cut_off: Vec<(ModelView, Id)>) {
    for (view, id) in cut_off {
        let _alone = builder.alone().await;
        let model = view.model.id;
        match resume(&builder, model, id).await {
            Ok((Resumed::Begins, view)) => {
                tracing::info!(deployment = %id, "builds alone what the end of the node cut off");
                if let Err(error) = builder.build_alone(&view, id).await {
                    tracing::warn!(deployment = %id, %error, "build failed");
                }
            }
            Ok((Resumed::Failed, view)) => {
                tracing::error!(deployment = %id, "the node ended twice while building it: build failed");
                if let Err(error) = builder.apply(view).await {
                    tracing::warn!(deployment = %id, %error, "cannot show that its build failed");
                }
            }
            Ok((Resumed::NotNeeded, _)) => {}
            Err(error) => tracing::warn!(deployment = %id, %error, "cannot resume its build"),
        }
    }
}

/// Notes the attempt. Without that note nothing is built: a bundle that ends the node would do so at each start.
async fn resume(builder: &Builder, model: Id, id: Id) -> Result<(Resumed, ModelView), BuildError> {
    let mut told = false;
    loop {
        let changed = builder
            .registry
            .change(model.as_str(), |view| view.resume_build(id))
            .await;
        match changed {
            Ok(changed) => return Ok((changed.value, changed.view)),
            Err(error @ RegistryError::Store(_)) => {
                if !told {
                    told = true;
                    tracing::warn!(deployment = %id, %error, "its build waits for the store");
                }
                tokio::time::sleep(STORE_PAUSE).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}
