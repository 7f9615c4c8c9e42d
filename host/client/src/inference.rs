//! Calls of models.

use std::fmt;

use reqwest::{Method, RequestBuilder, Url};
use samovar_types::api::deployments::WakeResponse;

use crate::Client;
use crate::error::ClientError;
use crate::received::Received;

/// Which deployment of a model to call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// The deployment that production points at.
    Production,
    /// The deployment that an environment points at.
    Environment(&'a str),
    /// The development deployment.
    Development,
    /// The deployment with this id.
    Deployment(&'a str),
}

impl<'a> Target<'a> {
    /// The target of a deployment, given by id or as `production` or `development`.
    pub fn of_deployment(deployment: &'a str) -> Self {
        match deployment {
            "production" => Self::Production,
            "development" => Self::Development,
            id => Self::Deployment(id),
        }
    }

    /// The target of an environment.
    pub fn of_environment(environment: &'a str) -> Self {
        match environment {
            "production" => Self::Production,
            name => Self::Environment(name),
        }
    }

    pub(crate) fn segments(self) -> impl Iterator<Item = &'a str> {
        let (first, second) = match self {
            Self::Production => ("production", None),
            Self::Environment(name) => ("environments", Some(name)),
            Self::Development => ("development", None),
            Self::Deployment(id) => ("deployment", Some(id)),
        };
        std::iter::once(first).chain(second)
    }
}

impl fmt::Display for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let segments: Vec<&str> = self.segments().collect();
        f.write_str(&segments.join("/"))
    }
}

impl Client {
    /// The base URL of a deployment; append a path to call it.
    pub fn inference_url(&self, model: &str, target: Target<'_>) -> String {
        format!("{}/models/{model}/{target}", self.url())
    }

    /// Builds a request to a model. `path` begins with a slash and may have a query. The request has no timeout; send it with
    /// [`Client::send`].
    ///
    /// # Errors
    /// The path does not give a valid URL.
    pub fn inference(
        &self,
        method: Method,
        model: &str,
        target: Target<'_>,
        path: &str,
    ) -> Result<RequestBuilder, ClientError> {
        let text = format!("{}{path}", self.inference_url(model, target));
        match Url::parse(&text) {
            Ok(url) => Ok(self.request(method, url)),
            Err(error) => Err(ClientError::Address {
                text,
                problem: error.to_string(),
            }),
        }
    }

    /// Starts a replica of a deployment ahead of a request.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses the request.
    pub async fn wake(
        &self,
        model: &str,
        target: Target<'_>,
    ) -> Result<Received<WakeResponse>, ClientError> {
        let mut path = vec!["models", model];
        path.extend(target.segments());
        path.push("wake");
        self.call(Method::POST, &path).json().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_has_its_path() {
        for (target, path) in [
            (Target::Production, "production"),
            (Target::of_environment("production"), "production"),
            (Target::of_environment("staging"), "environments/staging"),
            (Target::of_deployment("dep12345"), "deployment/dep12345"),
            (Target::of_deployment("development"), "development"),
        ] {
            assert_eq!(target.to_string(), path);
        }
        let client = Client::new("http://h/x/", None).unwrap();
        let url = client.inference_url("m", Target::Development);
        assert_eq!(url, "http://h/x/models/m/development");
    }
}
