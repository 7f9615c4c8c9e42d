//! Inputs with a default value. rten treats them as constants, so the model is opened without the defaults, and a run that omits
//! such an input gets the default.

use std::collections::HashSet;

use rten::{Model as RtenModel, NodeId, Value, ValueType};
use rten_tensor::Layout;
use samovar_onnx::defaults::{alone, without};
use samovar_onnx::port::{Port, PortType};

use super::ValueView;

/// An input that a run may omit.
pub(super) struct Optional {
    pub port: Port,
    /// The input in rten's model and its default; `None` if the default is a constant of that model.
    pub replaceable: Option<(NodeId, Value)>,
}

/// The inputs of a graph whose defaults have types that rten supports.
pub(super) struct Defaults<'a> {
    /// The model without the defaults.
    pub open: Vec<u8>,
    bytes: &'a [u8],
    names: HashSet<&'a str>,
}

impl<'a> Defaults<'a> {
    /// Finds them among the inputs of a model; `None` if there are none.
    pub fn of(inputs: &'a [Port], bytes: &'a [u8]) -> Result<Option<Self>, String> {
        let names: HashSet<&str> = replaceable(inputs).collect();
        if names.is_empty() {
            return Ok(None);
        }
        Ok(Some(Self {
            open: without(bytes, &names)?,
            bytes,
            names,
        }))
    }

    /// A model whose outputs are the defaults.
    pub fn alone(&self) -> Result<Vec<u8>, String> {
        alone(self.bytes, &self.names)
    }
}

/// Whether rten supports this type.
pub(super) fn computes(ty: PortType) -> bool {
    !matches!(ty, PortType::F16 | PortType::Bf16 | PortType::F64)
}

/// Whether any input has a default that rten can compute with.
pub(super) fn any(inputs: &[Port]) -> bool {
    replaceable(inputs).next().is_some()
}

fn replaceable(inputs: &[Port]) -> impl Iterator<Item = &str> {
    let found = inputs
        .iter()
        .filter(|port| port.optional && computes(port.ty));
    found.map(|port| port.name.as_str())
}

/// The optional inputs of a model in which all defaults are constants.
pub(super) fn constant(inputs: &[Port]) -> Vec<Optional> {
    let optional = inputs.iter().filter(|port| port.optional);
    let constant = optional.map(|port| Optional {
        port: port.clone(),
        replaceable: None,
    });
    constant.collect()
}

/// The optional inputs of an opened model. `alone` opens the model that computes their defaults.
///
/// # Errors
/// If a default does not match its input, so that no run could omit it.
pub(super) fn of_opened(
    model: &RtenModel,
    inputs: &[Port],
    alone: impl FnOnce() -> Result<RtenModel, String>,
) -> Result<Vec<Optional>, String> {
    let mut optional = constant(inputs);
    let places: HashSet<NodeId> = model.input_ids().iter().copied().collect();
    let place = |name: &str| model.node_id(name).ok().filter(|id| places.contains(id));
    // The cached model may be the one with constants.
    if !replaceable(inputs).any(|name| place(name).is_some()) {
        return Ok(optional);
    }
    let alone = alone()?;
    let ids = replaceable(inputs).map(|name| alone.node_id(name));
    let ids: Result<Vec<NodeId>, _> = ids.collect();
    let ids = ids.map_err(|e| e.to_string())?;
    let values = alone
        .run(Vec::new(), &ids, None)
        .map_err(|e| e.to_string())?;
    let found = optional.iter_mut().filter(|one| computes(one.port.ty));
    for (one, value) in found.zip(values) {
        let name = &one.port.name;
        let id = place(name).ok_or_else(|| format!("`{name}` is no input of the model"))?;
        let declared = model.node_info(id).and_then(|info| info.dtype());
        if !fits(&one.port, declared, &value.as_view()) {
            return Err(format!("the default of `{name}` does not fit its input"));
        }
        one.replaceable = Some((id, value));
    }
    Ok(optional)
}

fn fits(port: &Port, declared: Option<ValueType>, value: &ValueView<'_>) -> bool {
    let shape = value.shape();
    let sizes = port.dims.as_ref().is_none_or(|dims| {
        let mut pairs = dims.iter().zip(shape.iter());
        dims.len() == shape.len()
            && pairs.all(|(wanted, found)| wanted.is_none_or(|wanted| wanted as usize == *found))
    });
    sizes && declared.is_none_or(|declared| declared == value.dtype())
}

#[cfg(test)]
#[path = "defaults_tests.rs"]
mod tests;
