//! Tests of models with `cargo test`: graphs made from closures, and secrets. Only in native builds.
//!
//! ```
//! use samovar_sdk::testing::{self, Outputs};
//! use samovar_sdk::{Error, Graph, Model, Request, Response, Tensor};
//!
//! struct Double {
//!     graph: Graph,
//! }
//!
//! impl Model for Double {
//!     fn load() -> Result<Self, Error> {
//!         Ok(Self { graph: Graph::load("default")? })
//!     }
//!
//!     fn predict(&mut self, mut request: Request) -> Result<Response, Error> {
//!         let numbers: Vec<f32> = request.json()?;
//!         let input = Tensor::from_slice([numbers.len() as u32], &numbers)?;
//!         let outputs = self.graph.compute(&[("x", input)])?;
//!         Response::json(&outputs.get::<f32>("y")?.as_slice())
//!     }
//! }
//!
//! # fn main() -> Result<(), Error> {
//! testing::graph("default", |inputs| {
//!     let doubled = inputs.get::<f32>("x")?.into_vec().iter().map(|x| x * 2.0).collect();
//!     Ok(Outputs::new().with("y", &Tensor::from_vec([2], doubled)?))
//! });
//! let mut model = Double::load()?;
//! let answer = model.handle(Request::new("POST", "/predict", "[1, 2.5]"))?;
//! assert_eq!(answer.into_bytes()?, b"[2.0,5.0]");
//! # Ok(())
//! # }
//! ```

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use crate::graph::Graph;
use crate::tensor::{Element, RawTensor, Tensor, TensorData};
use crate::{Error, nn};

/// The closure of a graph.
pub(crate) type Answer = dyn Fn(&Inputs) -> Result<Outputs, Error>;

thread_local! {
    static GRAPHS: RefCell<HashMap<String, Rc<Answer>>> = RefCell::default();
    static SECRETS: RefCell<HashMap<String, String>> = RefCell::default();
}

/// Makes a graph whose outputs `answer` computes.
///
/// [`Graph::load`] finds it by its name on this thread, and each test has its own thread. It replaces an earlier graph with the same name.
/// `answer` gets the inputs as the model passed them. [`Graph::compute`] returns its error with the graph's name before the message.
///
/// ```
/// use samovar_sdk::testing::{self, Outputs};
/// use samovar_sdk::{Error, Tensor};
///
/// let graph = testing::graph("default", |inputs| match inputs.get::<f32>("X")?.dimensions() {
///     [1, 4] => Ok(Outputs::new().with("probabilities", &Tensor::from_slice([1, 2], &[0.25f32, 0.75])?)),
///     found => Err(Error::new(400, "invalid_tensor", format!("X: found {found:?}, wanted [1, 4]"))),
/// });
/// let error = graph.compute(&[("X", Tensor::from_slice([2], &[0f32, 0.0])?)]).err().unwrap();
/// assert_eq!(error.message(), "graph \"default\" did not compute: X: found [2], wanted [1, 4]");
/// # Ok::<(), Error>(())
/// ```
pub fn graph(name: &str, answer: impl Fn(&Inputs) -> Result<Outputs, Error> + 'static) -> Graph {
    let answer: Rc<Answer> = Rc::new(answer);
    GRAPHS.with_borrow_mut(|graphs| graphs.insert(name.to_owned(), answer.clone()));
    Graph::new(name, nn::Context::new(answer))
}

/// Sets the secret `name` for [`config::secret`](crate::config::secret) on this thread; see the example there.
pub fn secret(name: &str, value: &str) {
    SECRETS.with_borrow_mut(|secrets| secrets.insert(name.to_owned(), value.to_owned()));
}

pub(crate) fn answer_of(graph: &str) -> Option<Rc<Answer>> {
    GRAPHS.with_borrow(|graphs| graphs.get(graph).cloned())
}

pub(crate) fn secret_of(name: &str) -> Option<String> {
    SECRETS.with_borrow(|secrets| secrets.get(name).cloned())
}

/// The inputs of a graph made with [`graph`].
#[derive(Debug)]
pub struct Inputs(pub(crate) Vec<(String, RawTensor)>);

impl Inputs {
    /// The names of the inputs, in the order in which they were passed.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    /// Copies the input `name`.
    ///
    /// # Errors
    /// Status 400 and `invalid_tensor`, as on the host, if it is missing or its elements have another type.
    pub fn get<T: Element>(&self, name: &str) -> Result<Tensor<T>, Error> {
        let typed = self.raw(name)?.into_typed();
        typed.map_err(|error| invalid(format!("input {name:?}: {error}")))
    }

    /// Copies the input `name`, whatever its element type is.
    ///
    /// # Errors
    /// Status 400 and `invalid_tensor`, as on the host, if it is missing.
    pub fn raw(&self, name: &str) -> Result<RawTensor, Error> {
        let found = self.0.iter().find(|(found, _)| found == name);
        let (_, tensor) = found.ok_or_else(|| {
            let names: Vec<&str> = self.names().collect();
            invalid(format!(
                "input {name:?} is missing; the inputs are {names:?}"
            ))
        })?;
        Ok(tensor.clone())
    }
}

fn invalid(why: String) -> Error {
    Error::new(400, "invalid_tensor", why)
}

/// The outputs of a graph made with [`graph`].
#[derive(Debug, Default)]
pub struct Outputs(pub(crate) Vec<(String, RawTensor)>);

impl Outputs {
    /// Creates an empty set of outputs.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an output.
    #[must_use]
    pub fn with(mut self, name: &str, tensor: &(impl TensorData + ?Sized)) -> Self {
        self.0.push((name.to_owned(), nn::hold(tensor)));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::HostTensor;
    use crate::graph::Inputs as GraphInputs;

    #[test]
    fn a_graph_is_found_by_its_name() -> Result<(), Error> {
        let error = Graph::load("sum").err().expect("there is none yet");
        assert_eq!(error.code(), "graph_not_found");
        graph("sum", |inputs| {
            let sum: i64 = inputs.get::<i64>("x")?.as_slice().iter().sum();
            Ok(Outputs::new().with("sum", &Tensor::from_slice([1], &[sum])?))
        });
        let graph = Graph::load("sum")?;
        let x = Tensor::from_slice([3], &[1i64, 2, 3])?;
        let outputs = graph.compute(&[("x", x)])?;
        assert_eq!(outputs.first::<i64>()?.as_slice(), [6]);
        Ok(())
    }

    #[test]
    fn a_wrong_input_is_named_with_its_graph() -> Result<(), Error> {
        let graph = graph("sum", |inputs| {
            inputs.get::<i64>("x").map(|_| Outputs::new())
        });
        let x = Tensor::from_slice([1], &[1f32])?;
        for name in ["x", "y"] {
            let error = graph.compute(&[(name, &x)]).err().expect("refused");
            assert_eq!((error.status(), error.code()), (400, "invalid_tensor"));
            assert!(error.message().contains("\"sum\""), "{error}");
            assert!(error.message().contains("\"x\""), "{error}");
        }
        Ok(())
    }

    #[test]
    fn state_goes_from_step_to_step() -> Result<(), Error> {
        let graph = graph("counter", |inputs| {
            let next = inputs.get::<i32>("state")?.as_slice()[0] + 1;
            Ok(Outputs::new().with("state", &Tensor::from_slice([1], &[next])?))
        });
        let mut state = HostTensor::new(&Tensor::from_slice([1], &[0])?);
        for _ in 0..3 {
            let mut outputs = graph.run(GraphInputs::new().pass("state", state))?;
            state = outputs.take("state")?;
        }
        assert_eq!(state.read::<i32>()?.as_slice(), [3]);
        assert_eq!(state.dimensions(), [1]);
        Ok(())
    }

    #[test]
    fn secrets_are_those_of_the_test() -> Result<(), Error> {
        assert!(crate::config::secret("TOKEN").is_err());
        secret("TOKEN", "x");
        assert_eq!(crate::config::secret("TOKEN")?, "x");
        Ok(())
    }
}
