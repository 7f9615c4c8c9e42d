//! Graphs: the model files that the manifest names.
//!
//! Inputs and outputs have the names, types and shapes of the graph. In native builds, [`testing::graph`](crate::testing::graph) makes a
//! graph from a closure, as in the examples here:
//!
//! ```
//! use samovar_sdk::testing::{self, Outputs};
//! use samovar_sdk::{Error, Graph, Tensor};
//!
//! testing::graph("default", |inputs| {
//!     let x = inputs.get::<f32>("x")?;
//!     let sum: f32 = x.as_slice().iter().sum();
//!     Ok(Outputs::new().with("sum", &Tensor::from_slice([1], &[sum])?))
//! });
//! let graph = Graph::load("default")?;
//! let outputs = graph.compute(&[("x", Tensor::from_slice([1, 3], &[1.0f32, 2.0, 3.0])?)])?;
//! assert_eq!(outputs.get::<f32>("sum")?.as_slice(), [6.0]);
//! # Ok::<(), Error>(())
//! ```

use std::rc::Rc;

use crate::Error;
use crate::host_tensor::{HostTensor, about};
use crate::nn;
use crate::tensor::{Element, RawTensor, Tensor, TensorData};

/// A loaded graph of the manifest. Clones are cheap and share it.
#[derive(Clone)]
pub struct Graph {
    name: Rc<str>,
    context: Rc<nn::Context>,
}

impl Graph {
    /// Loads the graph `[graphs.NAME]` of the manifest.
    ///
    /// Do this once, in [`Model::load`](crate::Model::load). The host keeps a graph in memory once for all replicas.
    ///
    /// # Errors
    /// Status 500, with a message that names the graph: `graph_not_found` if the manifest has no such graph, `invalid_graph` if the backend
    /// refuses its file.
    ///
    /// ```
    /// let error = samovar_sdk::Graph::load("encoder").err().unwrap();
    /// assert_eq!(error.code(), "graph_not_found");
    /// assert!(error.message().contains("\"encoder\""));
    /// ```
    pub fn load(name: &str) -> Result<Self, Error> {
        Ok(Self::new(name, nn::Context::load(name)?))
    }

    pub(crate) fn new(name: &str, context: nn::Context) -> Self {
        Self {
            name: name.into(),
            context: Rc::new(context),
        }
    }

    /// The name of the graph, which is also in its errors.
    ///
    /// ```
    /// let graph = samovar_sdk::testing::graph("encoder", |_| Ok(Default::default()));
    /// assert_eq!(graph.name(), "encoder");
    /// ```
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs the graph with named inputs and returns its outputs.
    ///
    /// Pass each input of the graph once, with the graph's type and shape for it; a variable dimension accepts any size. The elements are copied
    /// to the host, where they count against `limits.memory` of the manifest. To pass an output of an earlier run without reading it, use
    /// [`run`](Self::run).
    ///
    /// # Errors
    /// The message names the graph and, if possible, the tensor. Status 400 and `invalid_tensor` for a missing or unknown name, a wrong type or
    /// a wrong shape; 413 and `too_large` beyond the limits; 504 and `inference_timeout`; 500 and `inference_failed` for a failure of the
    /// backend.
    ///
    /// Pass inputs of different types as `&dyn TensorData`:
    ///
    /// ```
    /// use samovar_sdk::testing::{self, Outputs};
    /// use samovar_sdk::{Error, Tensor, TensorData};
    ///
    /// # let graph = testing::graph("default", |inputs| {
    /// #     let (ids, scale) = (inputs.get::<i64>("ids")?, inputs.get::<f32>("scale")?);
    /// #     let scaled = ids.as_slice().iter().map(|&id| id as f32 * scale.as_slice()[0]);
    /// #     Ok(Outputs::new().with("y", &Tensor::from_vec([1, 2], scaled.collect())?))
    /// # });
    /// let ids = Tensor::from_slice([1, 2], &[3i64, 4])?;
    /// let scale = Tensor::from_slice([1], &[0.5f32])?;
    /// let outputs = graph.compute(&[("ids", &ids as &dyn TensorData), ("scale", &scale)])?;
    /// assert_eq!(outputs.first::<f32>()?.as_slice(), [1.5, 2.0]);
    ///
    /// let error = graph.compute(&[("ids", &ids)]).err().unwrap();
    /// assert_eq!((error.status(), error.code()), (400, "invalid_tensor"));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn compute<D: TensorData>(&self, inputs: &[(&str, D)]) -> Result<Outputs, Error> {
        let with = |all: Inputs, (name, tensor): &(&str, D)| all.with(name, tensor);
        self.run(inputs.iter().fold(Inputs::new(), with))
    }

    /// Runs the graph with inputs from the guest and from the host, and returns its outputs. Use it for state that goes from step to step, see
    /// [`HostTensor`].
    ///
    /// # Errors
    /// Those of [`compute`](Self::compute).
    ///
    /// ```
    /// use samovar_sdk::graph::Inputs;
    /// use samovar_sdk::testing::{self, Outputs};
    /// use samovar_sdk::{Error, HostTensor, Tensor};
    ///
    /// # let graph = testing::graph("default", |inputs| {
    /// #     let sum = inputs.get::<f32>("x")?.as_slice()[0] + inputs.get::<f32>("state")?.as_slice()[0];
    /// #     Ok(Outputs::new().with("state", &Tensor::from_slice([1], &[sum])?))
    /// # });
    /// let mut state = HostTensor::new(&Tensor::from_slice([1], &[0f32])?);
    /// for x in [1f32, 2.0, 3.0] {
    ///     let inputs = Inputs::new().with("x", &Tensor::from_slice([1], &[x])?).pass("state", state);
    ///     state = graph.run(inputs)?.take("state")?;
    /// }
    /// assert_eq!(state.read::<f32>()?.as_slice(), [6.0]);
    /// # Ok::<(), Error>(())
    /// ```
    pub fn run(&self, inputs: Inputs) -> Result<Outputs, Error> {
        let outputs = self.context.compute(&self.name, inputs.tensors)?;
        Ok(Outputs {
            graph: Rc::clone(&self.name),
            tensors: outputs,
        })
    }
}

/// The named inputs of a run. Some of them may already be on the host; see [`Graph::run`] and [`HostTensor`].
#[derive(Default)]
pub struct Inputs {
    tensors: Vec<(String, nn::Held)>,
}

impl Inputs {
    /// Creates an empty set of inputs.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an input by copying it to the host. The guest may free its memory when this returns.
    #[must_use]
    pub fn with(mut self, name: &str, tensor: &(impl TensorData + ?Sized)) -> Self {
        self.tensors.push((name.to_owned(), nn::hold(tensor)));
        self
    }

    /// Adds an input that is on the host, without a copy. The run consumes it.
    #[must_use]
    pub fn pass(mut self, name: &str, tensor: HostTensor) -> Self {
        self.tensors.push((name.to_owned(), tensor.into_host()));
        self
    }
}

/// The named outputs of a run. They stay on the host until you read them, and are freed when this is dropped.
///
/// ```
/// use samovar_sdk::testing::{self, Outputs};
/// use samovar_sdk::{Error, Graph, Tensor, TensorData};
///
/// # let graph = testing::graph("default", |_| {
/// #     let label = Tensor::from_slice([1], &[2i64])?;
/// #     Ok(Outputs::new().with("label", &label).with("scores", &Tensor::from_slice([1, 2], &[0.25f32, 0.75])?))
/// # });
/// let outputs = graph.compute(&[("x", Tensor::from_slice([1], &[1f32])?)])?;
/// assert!(outputs.names().eq(["label", "scores"]));
/// assert_eq!(outputs.first::<i64>()?.as_slice(), [2]);
/// assert_eq!(outputs.get::<f32>("scores")?.dimensions(), [1, 2]);
///
/// // Of another type than the graph gave, or of a name that it has not: an error that says what there is.
/// let error = outputs.get::<i64>("scores").unwrap_err();
/// assert_eq!(error.message(), "output \"scores\" of graph \"default\": the tensor holds f32, wanted i64");
/// assert_eq!(outputs.raw("logits").unwrap_err().code(), "no_such_output");
/// # Ok::<(), Error>(())
/// ```
pub struct Outputs {
    graph: Rc<str>,
    tensors: Vec<(String, nn::Held)>,
}

impl Outputs {
    /// The names of the outputs in the graph's order, without those that were taken.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.iter().map(|(name, _)| name.as_str())
    }

    /// Copies the output `name` with elements of type `T` into the guest.
    ///
    /// # Errors
    /// Status 500: `no_such_output`, or `bad_tensor` if its elements have another type. The message names graph and output.
    pub fn get<T: Element>(&self, name: &str) -> Result<Tensor<T>, Error> {
        self.raw(name)?
            .into_typed()
            .map_err(|error| about(&self.what(name), &error))
    }

    /// Copies the first output, which is the only one of many graphs, with elements of type `T` into the guest.
    ///
    /// # Errors
    /// Those of [`get`](Self::get).
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

    /// Copies the output `name` with elements of any type into the guest.
    ///
    /// # Errors
    /// Status 500 and `no_such_output`.
    pub fn raw(&self, name: &str) -> Result<RawTensor, Error> {
        let (_, tensor) = &self.tensors[self.position(name)?];
        nn::read(tensor).map_err(|error| about(&self.what(name), &error))
    }

    /// Takes the output `name` without reading it, to pass it to another run; see [`Graph::run`].
    ///
    /// # Errors
    /// Status 500 and `no_such_output`.
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
