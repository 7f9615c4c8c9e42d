//! A component on `wstd` alone: `/echo` streams the body back, `/fail` gives an error, any other path is greeted.

use wstd::http::{Body, Error, Request, Response};

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>, Error> {
    match request.uri().path() {
        "/echo" => Ok(Response::new(request.into_body())),
        "/fail" => Err(Error::msg("told to fail")),
        path => Ok(Response::new(format!("Hello from wstd at {path}\n").into())),
    }
}
