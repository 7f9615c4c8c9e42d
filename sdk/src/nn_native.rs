//! Inference in native builds, by the closures of [`crate::testing`].

use std::rc::Rc;

use crate::Error;
use crate::host_tensor::about;
use crate::tensor::{ElementType, RawTensor, TensorData};
use crate::testing::{Answer, Inputs, answer_of};

/// A tensor that would be on the host.
pub(crate) type Held = RawTensor;

/// A loaded graph.
pub(crate) struct Context(Rc<Answer>);

impl Context {
    pub(crate) fn new(answer: Rc<Answer>) -> Self {
        Self(answer)
    }

    pub(crate) fn load(name: &str) -> Result<Self, Error> {
        answer_of(name).map(Self).ok_or_else(|| {
            Error::new(
                500,
                "graph_not_found",
                format!(
                    "graph {name:?} did not load: in a test, make it with samovar_sdk::testing::graph"
                ),
            )
        })
    }

    pub(crate) fn compute(
        &self,
        name: &str,
        inputs: Vec<(String, Held)>,
    ) -> Result<Vec<(String, Held)>, Error> {
        let outputs = (self.0)(&Inputs(inputs));
        outputs
            .map(|outputs| outputs.0)
            .map_err(|error| about(&format!("graph {name:?} did not compute"), &error))
    }
}

/// Copies a tensor.
pub(crate) fn hold(tensor: &(impl TensorData + ?Sized)) -> Held {
    RawTensor::unchecked(
        tensor.dimensions().to_vec(),
        tensor.element_type(),
        tensor.bytes().to_vec(),
    )
}

/// Copies a tensor with the checks of the way to a host and back.
pub(crate) fn read(tensor: &Held) -> Result<RawTensor, Error> {
    RawTensor::new(
        tensor.dimensions(),
        tensor.element_type(),
        tensor.bytes().to_vec(),
    )
}

pub(crate) fn dimensions(tensor: &Held) -> Vec<u32> {
    tensor.dimensions().to_vec()
}

pub(crate) fn element_type(tensor: &Held) -> ElementType {
    tensor.element_type()
}
