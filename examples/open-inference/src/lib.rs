//! Serves graphs by the Open Inference Protocol v2 (KServe's and Triton's), without any code of their own.
//!
//! What the graphs take and give is in the bundle's file `open-inference.json`, which `samovar push` writes.

mod answer;
mod datatype;
mod infer;
mod metadata;
mod numbers;

use samovar_sdk::{Error, Model, Request, Response};
use serde_json::json;

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
        let (method, path) = (request.method().to_owned(), request.path().to_owned());
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        match (method.as_str(), parts.as_slice()) {
            ("GET", ["v2"]) => Response::json(&json!({
                "name": "samovar",
                "version": env!("CARGO_PKG_VERSION"),
                "extensions": ["binary_tensor_data"],
            })),
            ("GET", ["v2", "health", "live"]) => Response::json(&json!({ "live": true })),
            ("GET", ["v2", "health", "ready"]) => Response::json(&json!({ "ready": true })),
            (method, ["v2", "models", name, rest @ ..]) => {
                let served = self.repository.find(name)?;
                let rest = match rest {
                    ["versions", version, rest @ ..] => {
                        served.check_version(version)?;
                        rest
                    }
                    rest => rest,
                };
                answer(served, method, rest, request)
            }
            _ => Err(Error::not_found(format!(
                "{path} is no address of the Open Inference Protocol; wanted /v2, /v2/health/live, /v2/health/ready, \
                 /v2/models/NAME, /v2/models/NAME/ready or /v2/models/NAME/infer, with NAME one of {}",
                self.repository.names()
            ))),
        }
    }
}

fn answer(
    served: &Served,
    method: &str,
    rest: &[&str],
    request: Request,
) -> Result<Response, Error> {
    match (method, rest) {
        ("GET", []) => Response::json(&served.metadata()),
        ("GET", ["ready"]) => Response::json(&json!({ "name": served.name(), "ready": true })),
        ("POST", ["infer"]) => infer(served, request),
        (_, ["infer"]) => Err(Error::new(405, "method_not_allowed", "infer takes POST")),
        _ => Err(Error::not_found(format!(
            "model {:?} has no {}; wanted nothing, ready or infer",
            served.name(),
            rest.join("/")
        ))),
    }
}
