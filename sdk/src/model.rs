//! The trait of models: loaded once in each replica, called for each request.

use std::cell::RefCell;

use wasip2::http::types::{IncomingRequest, ResponseOutparam};

use crate::{Error, Request, Response, http};

/// A model with state, such as graphs, tables or a tokenizer.
///
/// Put [`#[samovar_sdk::model]`](macro@crate::model) on the `impl` to make it the component of the crate.
///
/// ```
/// use samovar_sdk::{Error, Graph, Model, Request, Response, Tensor};
///
/// struct Iris {
///     graph: Graph,
/// }
///
/// impl Model for Iris {
///     fn load() -> Result<Self, Error> {
///         Ok(Self { graph: Graph::load("default")? })
///     }
///
///     fn predict(&mut self, mut request: Request) -> Result<Response, Error> {
///         let features: [f32; 4] = request.json()?;
///         let outputs = self.graph.compute(&[("X", Tensor::from_slice([1, 4], &features)?)])?;
///         Response::json(&outputs.first::<f32>()?.as_slice())
///     }
/// }
/// // In a test, `samovar_sdk::testing::graph` makes it.
/// assert_eq!(Iris::load().err().unwrap().code(), "graph_not_found");
/// ```
pub trait Model: Sized {
    /// Loads the model, once in each replica before its first request.
    ///
    /// # Errors
    /// With an error the replica does not serve, and a push fails with this error. It is also in the log.
    fn load() -> Result<Self, Error>;

    /// Serves one `POST /predict`.
    ///
    /// # Errors
    /// The error to send to the caller, as a status and JSON; see [`Error`].
    fn predict(&mut self, request: Request) -> Result<Response, Error>;

    /// Serves every request. Override it to add routes to those of [`http::route`], which has an example.
    ///
    /// # Errors
    /// The error to send to the caller, as a status and JSON; see [`Error`].
    fn handle(&mut self, request: Request) -> Result<Response, Error> {
        http::route(self, request)
    }
}

/// Loads the model into `slot`.
///
/// # Errors
/// The error of [`Model::load`], as text.
pub fn init<M: Model>(slot: &RefCell<Option<M>>) -> Result<(), String> {
    let model = M::load().map_err(|error| error.to_string())?;
    slot.replace(Some(model));
    Ok(())
}

/// Serves one request of the host.
pub fn serve<M: Model>(
    slot: &RefCell<Option<M>>,
    request: IncomingRequest,
    outparam: ResponseOutparam,
) {
    http::serve(slot, request, outparam);
}
