//! The model: loaded once in a replica, asked many times.

use std::cell::RefCell;

use wasip2::http::types::{IncomingRequest, ResponseOutparam};

use crate::{Error, Request, Response, http};

/// A model with state: graphs, tables, a tokenizer.
///
/// Put [`#[samovar_sdk::model]`](macro@crate::model) on the `impl` to make the crate's component of it.
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
    /// Makes the model ready, before a replica's first request.
    ///
    /// # Errors
    /// What keeps the replica from serving: a push fails with it, and the log has it.
    fn load() -> Result<Self, Error>;

    /// Answers one `POST /predict`.
    ///
    /// # Errors
    /// What the caller is answered, as [`Error`] has it: a status and JSON.
    fn predict(&mut self, request: Request) -> Result<Response, Error>;

    /// Answers every request; override it for other routes than [`http::route`] has, where there is an example.
    ///
    /// # Errors
    /// What the caller is answered, as [`Error`] has it: a status and JSON.
    fn handle(&mut self, request: Request) -> Result<Response, Error> {
        http::route(self, request)
    }
}

/// Loads the model into `slot`.
///
/// # Errors
/// That of [`Model::load`], as text.
pub fn init<M: Model>(slot: &RefCell<Option<M>>) -> Result<(), String> {
    let model = M::load().map_err(|error| error.to_string())?;
    slot.replace(Some(model));
    Ok(())
}

/// Answers one request of the host's.
pub fn serve<M: Model>(
    slot: &RefCell<Option<M>>,
    request: IncomingRequest,
    outparam: ResponseOutparam,
) {
    http::serve(slot, request, outparam);
}
