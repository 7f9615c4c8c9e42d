//! Serves graphs without code by the Open Inference Protocol v2, which KServe and Triton use.
//!
//! The bundle's file `open-inference.json`, which `samovar push` writes, describes the graphs' inputs and outputs.

mod answer;
mod datatype;
#[cfg(not(target_family = "wasm"))]
#[doc(hidden)]
pub mod fuzzing;
mod infer;
mod metadata;
mod nesting;
mod numbers;

use samovar_sdk::{Error, Model, Request, Response};
use serde_json::{Value, json};

use infer::infer;
use metadata::{Repository, Served};

struct OpenInference {
    repository: Repository,
}

#[samovar_sdk::model]
impl Model for OpenInference {
    fn load() -> Result<Self, Error> {
        Ok(Self {
            repository: Repository::read()?,
        })
    }

    fn predict(&mut self, request: Request) -> Result<Response, Error> {
        self.handle(request)
    }

    fn handle(&mut self, request: Request) -> Result<Response, Error> {
        let path = request.path().to_owned();
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        match parts.as_slice() {
            ["v2"] => get(&request, || {
                json!({
                    "name": "samovar",
                    "version": env!("CARGO_PKG_VERSION"),
                    "extensions": ["binary_tensor_data"],
                })
            }),
            ["v2", "health", "live"] => get(&request, || json!({ "live": true })),
            ["v2", "health", "ready"] => get(&request, || json!({ "ready": true })),
            ["v2", "models", name, rest @ ..] => {
                let served = self.repository.find(name)?;
                let rest = match rest {
                    ["versions", version, rest @ ..] => {
                        served.check_version(version)?;
                        rest
                    }
                    rest => rest,
                };
                answer(served, rest, request)
            }
            _ => Err(Error::not_found(format!(
                "{path} is no address of the Open Inference Protocol; wanted /v2, /v2/health/live, /v2/health/ready, \
                 /v2/models/NAME, /v2/models/NAME/ready or /v2/models/NAME/infer, with NAME one of {}",
                self.repository.names()
            ))),
        }
    }
}

fn answer(served: &Served, rest: &[&str], request: Request) -> Result<Response, Error> {
    match rest {
        [] => get(&request, || served.metadata()),
        ["ready"] => get(&request, || json!({ "name": served.name(), "ready": true })),
        ["infer"] if request.method() == "POST" => infer(served, request),
        ["infer"] => Err(Error::method_not_allowed(request.method(), "POST")),
        _ => Err(Error::not_found(format!(
            "model {0:?} has no /{1}; it has /v2/models/{0}, /v2/models/{0}/ready and /v2/models/{0}/infer",
            served.name(),
            rest.join("/"),
        ))),
    }
}

/// Serves GET requests.
fn get(request: &Request, told: impl FnOnce() -> Value) -> Result<Response, Error> {
    match request.method() {
        "GET" | "HEAD" => Response::json(&told()),
        method => Err(Error::method_not_allowed(method, "GET, HEAD")),
    }
}
