//! Graphs: the model files a manifest names, ready to compute.

use std::rc::Rc;

use crate::Error;
use crate::host_tensor::{HostTensor, about};
use crate::nn;
use crate::tensor::{Element, RawTensor, Tensor, TensorData};

/// A graph of the manifest, loaded. Clones are cheap and share it.
#[derive(Clone)]
pub struct Graph {
    name: Rc<str>,
    context: Rc<nn::Context>,
}

impl Graph {
    /// Loads the graph that the manifest has under `[graphs.NAME]`.
    ///
    /// Do it once, in [`Model::load`](crate::Model::load).
    pub fn load(name: &str) -> Result<Self, Error> {
        Ok(Self::new(name, nn::Context::load(name)?))
    }

    pub(crate) fn new(name: &str, context: nn::Context) -> Self {
        Self {
            name: name.into(),
            context: Rc::new(context),
        }
    }

    /// The name it was loaded by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs the graph on inputs by name and gives its outputs.
    ///
    /// Inputs of different types go together as `&dyn TensorData`:
    /// `graph.compute(&[("ids", &ids as &dyn TensorData), ("mask", &mask)])`.
    /// What an inference before this one gave goes in unread with [`run`](Self::run).
    pub fn compute<D: TensorData>(&self, inputs: &[(&str, D)]) -> Result<Outputs, Error> {
        let with = |all: Inputs, (name, tensor): &(&str, D)| all.with(name, tensor);
        self.run(inputs.iter().fold(Inputs::new(), with))
    }

    /// Runs the graph on inputs of the guest's and of the host's, and gives its outputs.
    pub fn run(&self, inputs: Inputs) -> Result<Outputs, Error> {
        let outputs = self.context.compute(&self.name, inputs.tensors)?;
        Ok(Outputs {
            graph: Rc::clone(&self.name),
            tensors: outputs,
        })
    }
}

/// The named inputs of one inference, where some of them are with the host already; see [`HostTensor`].
#[derive(Default)]
pub struct Inputs {
    tensors: Vec<(String, nn::Held)>,
}

impl Inputs {
    /// No inputs yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// One more input, copied from the guest.
    #[must_use]
    pub fn with(mut self, name: &str, tensor: &(impl TensorData + ?Sized)) -> Self {
        self.tensors.push((name.to_owned(), nn::hold(tensor)));
        self
    }

    /// One more input that the host holds. It is used up: nothing of it is copied.
    #[must_use]
    pub fn pass(mut self, name: &str, tensor: HostTensor) -> Self {
        self.tensors.push((name.to_owned(), tensor.into_host()));
        self
    }
}

/// The named outputs of one inference. They stay with the host until asked for.
pub struct Outputs {
    graph: Rc<str>,
    tensors: Vec<(String, nn::Held)>,
}

impl Outputs {
    /// The outputs' names, in the graph's order, without those that were taken.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.iter().map(|(name, _)| name.as_str())
    }

    /// The output `name` with elements of type `T`.
    pub fn get<T: Element>(&self, name: &str) -> Result<Tensor<T>, Error> {
        self.raw(name)?
            .into_typed()
            .map_err(|error| about(&self.what(name), &error))
    }

    /// The first output with elements of type `T`: the only one, for many graphs.
    pub fn first<T: Element>(&self) -> Result<Tensor<T>, Error> {
        match self.tensors.first() {
            Some((name, _)) => self.get(name),
            None => Err(Error::new(
                500,
                "no_such_output",
                format!("graph {:?} has no outputs", self.graph),
            )),
        }
    }

    /// The output `name` whatever its elements are.
    pub fn raw(&self, name: &str) -> Result<RawTensor, Error> {
        let (_, tensor) = &self.tensors[self.position(name)?];
        nn::read(tensor).map_err(|error| about(&self.what(name), &error))
    }

    /// Takes the output `name` out without reading it, to pass it on as an input.
    pub fn take(&mut self, name: &str) -> Result<HostTensor, Error> {
        let (name, tensor) = self.tensors.remove(self.position(name)?);
        Ok(HostTensor::from_host(self.what(&name), tensor))
    }

    fn position(&self, name: &str) -> Result<usize, Error> {
        let found = self.tensors.iter().position(|(found, _)| found == name);
        found.ok_or_else(|| {
            let names: Vec<&str> = self.names().collect();
            Error::new(
                500,
                "no_such_output",
                format!(
                    "graph {:?} has no output {name:?}, it has {names:?}",
                    self.graph
                ),
            )
        })
    }

    fn what(&self, name: &str) -> String {
        format!("output {name:?} of graph {:?}", self.graph)
    }
}
