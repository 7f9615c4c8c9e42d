//! Uses each part of the SDK, chosen by the path; other paths have the SDK's own routes.

use std::io::{Read, Write};

use samovar_sdk::{Error, Model, Request, Response, config, http, log};
use serde_json::json;

struct Routes {
    served: u64,
}

#[samovar_sdk::model]
impl Model for Routes {
    fn load() -> Result<Self, Error> {
        match config::get("LOAD_ERROR") {
            Some(reason) => Err(Error::internal(reason)),
            None => Ok(Self { served: 0 }),
        }
    }

    /// Sums the numbers of a JSON list.
    fn predict(&mut self, mut request: Request) -> Result<Response, Error> {
        self.served += 1;
        let numbers: Vec<f64> = request.json()?;
        Response::json(&json!({ "sum": numbers.iter().sum::<f64>(), "served": self.served }))
    }

    fn handle(&mut self, mut request: Request) -> Result<Response, Error> {
        match request.path() {
            "/count" => {
                let mut total = 0;
                let mut buffer = vec![0; 64 << 10];
                loop {
                    match request.body().read(&mut buffer)? {
                        0 => return Ok(Response::new("text/plain", total.to_string())),
                        count => total += count,
                    }
                }
            }
            "/stream" => {
                let count = request.query("bytes").unwrap_or_default().parse()?;
                Ok(Response::stream("application/octet-stream", move |body| {
                    std::io::copy(&mut std::io::repeat(b'x').take(count), body)?;
                    Ok(())
                }))
            }
            "/chunks" => Ok(Response::chunks("text/event-stream", ["one\n", "two\n"])),
            "/broken" => Ok(Response::stream("text/plain", |body| {
                body.write_all(b"the first half")?;
                body.flush()?;
                Err(Error::internal("the second half is missing"))
            })),
            "/too-early" => Ok(Response::stream("text/plain", |_| {
                Err(Error::new(418, "teapot", "nothing was written yet"))
            })),
            "/secret" => config::secret(&request.query("name").unwrap_or_default())
                .map(|secret| Response::new("text/plain", secret)),
            "/log" => {
                log::warn(request.text()?);
                Ok(Response::new("text/plain", "logged").with_status(202))
            }
            "/witness" => {
                let shadow = request
                    .header("x-samovar-shadow")
                    .unwrap_or("no")
                    .to_owned();
                log::warn(format!("shadow {shadow}: {}", request.text()?));
                Ok(Response::new("text/plain", "witnessed"))
            }
            "/context" => Response::json(&json!({
                "request_id": request.request_id(),
                "environment": request.environment(),
                "trace_id": request.trace_parent().map(|trace| trace.trace_id()),
                "model": config::model_name(),
                "deployment": config::deployment_id(),
            })),
            "/header" => Ok(Response::new(
                "text/plain",
                request.header("X-Question").unwrap_or("no question"),
            )
            .with_header("x-answer", "42")),
            "/teapot" => {
                Err(Error::new(418, "teapot", "short and stout").with_detail(json!({ "spout": 1 })))
            }
            _ => http::route(self, request),
        }
    }
}
