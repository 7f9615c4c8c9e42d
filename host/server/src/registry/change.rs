//! One change of a model, with all that hangs on it, as one commit.

use std::collections::{BTreeMap, BTreeSet};

use samovar_store::{Expect, Lease, Op, Rev, StoreError, lease_key};
use samovar_types::id::DeploymentId;
use serde::Serialize;

use super::{ATTEMPTS, Registry, RegistryError, Versioned, audit, put, shown};
use crate::domain::audit::Actor;
use crate::domain::changes::Refusal;
use crate::domain::keys;
use crate::domain::model::ModelView;

/// A model after a change.
#[derive(Debug, Clone)]
pub struct Changed<T> {
    /// The model as it is now.
    pub view: ModelView,
    /// What the change answered.
    pub value: T,
    /// The commit that made it what it is. Where the change had no effect, an earlier one.
    pub rev: Rev,
}

impl Registry {
    /// Changes a model. `change` may be called again when others were faster, and sees their change then; what it
    /// refuses is refused as a whole. What it notes is written with it.
    pub async fn change<T: Send>(
        &self,
        model: &str,
        mut change: impl FnMut(&mut ModelView) -> Result<T, Refusal> + Send,
    ) -> Result<Changed<T>, RegistryError> {
        for _ in 0..ATTEMPTS {
            let found = self.versioned_model(model).await?;
            let Versioned { value, rev } = found.ok_or_else(|| RegistryError::NoModel {
                model: shown(model),
            })?;
            let stored = self.stored(value).await?;
            let before = &stored.view;
            let mut view = before.clone();
            let value = change(&mut view)?;
            let notes = std::mem::take(&mut view.notes);
            if view == *before {
                // The parts were read after the model, so one of them may be of a later commit.
                let rev = stored.revs.values().copied().fold(rev, Rev::max);
                return Ok(Changed { view, value, rev });
            }
            if notes.is_empty() && self.author.actor != Actor::System {
                return Err(RegistryError::Unaudited {
                    model: view.model.name,
                });
            }
            view.model.generation += 1;
            let mut ops = difference(before, &view, rev, &stored.revs)?;
            stored.check(&ops)?;
            ops.extend(audit::entries(&self.author, notes)?);
            ops.extend(self.lease.as_ref().map(Lease::fence));
            match self.store.commit(ops).await {
                Ok(rev) => return Ok(Changed { view, value, rev }),
                Err(StoreError::Conflict { key, .. }) => self.check_lease(&key)?,
                Err(error) => return Err(error.into()),
            }
        }
        Err(RegistryError::Contended)
    }

    /// Says so if a commit failed because another node has taken the lease.
    fn check_lease(&self, conflict: &str) -> Result<(), RegistryError> {
        match &self.lease {
            Some(lease) if lease_key(&lease.name) == conflict => Err(RegistryError::LeaseLost {
                lease: lease.name.clone(),
            }),
            _ => Ok(()),
        }
    }
}

/// The writes that lead from one view to the other. The model is always written at the revision it was read at, so
/// that of two changes at once one is made anew.
fn difference(
    before: &ModelView,
    after: &ModelView,
    model_rev: Rev,
    revs: &BTreeMap<String, Rev>,
) -> Result<Vec<Op>, RegistryError> {
    let id = after.model.id;
    let mut ops = vec![put(keys::model(id), &after.model, Expect::Rev(model_rev))?];
    if before.model.name != after.model.name {
        ops.push(Op::delete(
            keys::model_name(&before.model.name),
            Expect::Any,
        ));
        ops.push(put(
            keys::model_name(&after.model.name),
            &id,
            Expect::Absent,
        )?);
        // No text may be one model's id and another's name.
        let as_id = format!("{}{}", keys::MODELS, after.model.name);
        ops.push(Op::check(as_id, Expect::Absent));
    }
    let deployment = |key: &DeploymentId| keys::deployment(id, *key);
    compare(
        &before.deployments,
        &after.deployments,
        deployment,
        |one| &**one,
        revs,
        &mut ops,
    )?;
    let environment = |key: &String| keys::environment(id, key);
    compare(
        &before.environments,
        &after.environments,
        environment,
        |one| one,
        revs,
        &mut ops,
    )?;
    Ok(ops)
}

fn compare<K: Ord, V: PartialEq, D: Serialize>(
    before: &BTreeMap<K, V>,
    after: &BTreeMap<K, V>,
    key: impl Fn(&K) -> String,
    document: impl Fn(&V) -> &D,
    revs: &BTreeMap<String, Rev>,
    ops: &mut Vec<Op>,
) -> Result<(), RegistryError> {
    let names: BTreeSet<&K> = before.keys().chain(after.keys()).collect();
    for name in names {
        let (old, new) = (before.get(name), after.get(name));
        if old == new {
            continue;
        }
        let key = key(name);
        let expect = revs
            .get(&key)
            .map_or(Expect::Absent, |rev| Expect::Rev(*rev));
        ops.push(match new {
            Some(value) => put(&*key, document(value), expect)?,
            None => Op::delete(key, expect),
        });
    }
    Ok(())
}
