//! The inference routes as `/openapi.json` describes them: what of their requests and answers is the platform's. The rest
//! is the component's, of which the platform knows nothing.

use std::ops::RangeInclusive;

use samovar_types::async_request::{AsyncErrorCode, AsyncStatus, WebhookStatus};
use serde_json::{Map, Value, json};

use crate::domain::webhook_address::MAX_WEBHOOK_BYTES;
use samovar_types::async_request as submission;

/// Every way to say which deployment is meant.
const TARGETS: [(&str, Option<&str>); 4] = [
    ("production", None),
    ("development", None),
    ("environments/{environment}", Some("environment")),
    ("deployment/{deployment}", Some("deployment")),
];
/// Methods that a component may be called with, as far as this description has words for them.
const METHODS: [&str; 5] = ["get", "put", "post", "delete", "patch"];
/// Errors that the platform may answer.
const ERRORS: [(&str, &str); 10] = [
    ("400", "The request is wrong in itself"),
    ("401", "No API key, or none that is valid"),
    ("403", "The API key is for other things"),
    (
        "404",
        "There is no such model, target or request, or it is switched off",
    ),
    ("405", "The address does not take this method"),
    ("413", "The body is too long"),
    (
        "429",
        "All replicas are busy and enough requests wait already",
    ),
    ("500", "The server failed"),
    (
        "503",
        "The deployment does not serve, or the store cannot be reached",
    ),
    (
        "504",
        "No replica came free in time, or the model did not answer in time",
    ),
];

/// The paths, by their addresses.
pub fn paths() -> Map<String, Value> {
    let mut paths = Map::new();
    for (target, name) in TARGETS {
        let base = format!("/models/{{model}}/{target}");
        let own = [Some("model"), name];
        let mut add = |path: &str, more: Option<&str>, item: Value| {
            let names = own.iter().flatten().copied().chain(more);
            paths.insert(format!("{base}/{path}"), with_parameters(item, names));
        };
        add(
            "predict",
            None,
            json!({ "post": component("Call the model") }),
        );
        let text = "Call any path of the component, also one whose name is the platform's; it may have slashes";
        add("sync/{path}", Some("path"), any_method(text));
        add("wake", None, json!({ "post": wake() }));
        add("async_predict", None, json!({ "post": async_predict() }));
        add("async_queue_status", None, json!({ "get": queue_status() }));
    }
    let names = || ["model", "request_id"].into_iter();
    let request = json!({ "get": async_request(), "delete": cancel() });
    let address = "/models/{model}/async_request/{request_id}";
    paths.insert(address.to_owned(), with_parameters(request, names()));
    let result = json!({ "get": result() });
    paths.insert(
        format!("{address}/result"),
        with_parameters(result, names()),
    );
    paths
}

fn with_parameters<'n>(mut item: Value, names: impl Iterator<Item = &'n str>) -> Value {
    let parameter = |name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string", "minLength": 1 } });
    item["parameters"] = names.map(parameter).collect();
    item
}

fn any_method(summary: &str) -> Value {
    let methods = METHODS.map(|method| (method.to_owned(), component(summary)));
    Value::Object(methods.into_iter().collect())
}

fn operation(summary: &str, status: &str, answer: Value) -> Value {
    let error =
        json!({ "application/json": { "schema": { "$ref": "#/components/schemas/ErrorBody" } } });
    let mut responses: Map<String, Value> = ERRORS
        .iter()
        .map(|(status, text)| {
            let response = json!({ "description": text, "content": error });
            ((*status).to_owned(), response)
        })
        .collect();
    responses.insert(status.to_owned(), answer);
    json!({ "tags": ["inference"], "summary": summary, "responses": responses })
}

fn json_answer(description: &str, schema: &Value) -> Value {
    json!({ "description": description, "content": { "application/json": { "schema": schema } } })
}

/// A call whose answer is the component's: it may have any status, so the errors of the platform are not told apart.
fn component(summary: &str) -> Value {
    let anything = json!({ "*/*": {} });
    json!({
        "tags": ["inference"],
        "summary": summary,
        "requestBody": { "content": anything },
        "responses": { "default": {
            "description": "What the component answers, or an error of the platform as ErrorBody",
            "content": anything,
        } },
    })
}

fn wake() -> Value {
    let schema = json!({ "type": "object" });
    operation(
        "Start a replica",
        "202",
        json_answer("One is being started", &schema),
    )
}

fn async_predict() -> Value {
    let id = json!({ "type": "object", "required": ["request_id"], "properties": { "request_id": { "type": "string" } } });
    let mut operation = operation(
        "Hand in a request that is answered later",
        "201",
        json_answer("It is stored", &id),
    );
    let number = |range: &RangeInclusive<i64>| json!({ "type": ["integer", "null"], "minimum": range.start(), "maximum": range.end() });
    let retry = json!({
        "type": ["object", "null"],
        "additionalProperties": false,
        "properties": {
            "max_attempts": number(&submission::MAX_ATTEMPTS),
            "initial_delay_ms": number(&submission::INITIAL_DELAY_MS),
            "max_delay_ms": number(&submission::MAX_DELAY_MS),
        },
    });
    let schema = json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["model_input"],
        "properties": {
            "model_input": { "description": "Any JSON; the component gets it byte by byte" },
            "webhook_endpoint": {
                "type": ["string", "null"],
                "maxLength": MAX_WEBHOOK_BYTES,
                "description": "Where the answer is sent: an https address that is public, or one that the server allows",
            },
            "priority": number(&submission::PRIORITY),
            "max_time_in_queue_seconds": number(&submission::TIME_IN_QUEUE_SECONDS),
            "inference_retry_config": retry,
        },
    });
    operation["requestBody"] =
        json!({ "required": true, "content": { "application/json": { "schema": schema } } });
    operation["responses"]["408"] = json_answer(
        "The body did not arrive in time",
        &json!({ "$ref": "#/components/schemas/ErrorBody" }),
    );
    operation
}

fn queue_status() -> Value {
    let count = json!({ "type": "integer", "minimum": 0 });
    let id = json!({ "$ref": "#/components/schemas/Id" });
    let schema = json!({
        "type": "object",
        "required": ["model_id", "deployment_id", "num_queued_requests", "num_in_progress_requests"],
        "properties": {
            "model_id": id,
            "deployment_id": id,
            "num_queued_requests": count,
            "num_in_progress_requests": count,
        },
    });
    operation(
        "Count the async requests of a deployment",
        "200",
        json_answer("The counts", &schema),
    )
}

fn async_request() -> Value {
    let id = json!({ "$ref": "#/components/schemas/Id" });
    let time = json!({ "type": "string", "format": "date-time" });
    let names = |names: Vec<&str>| json!({ "type": "string", "enum": names });
    let status = names(AsyncStatus::ALL.iter().map(|one| one.as_str()).collect());
    let webhook = names(WebhookStatus::ALL.iter().map(|one| one.as_str()).collect());
    let code = names(AsyncErrorCode::ALL.iter().map(|one| one.as_str()).collect());
    let error = json!({
        "type": "object",
        "required": ["code", "message"],
        "properties": { "code": code, "message": { "type": "string" } },
    });
    let schema = json!({
        "type": "object",
        "required": ["request_id", "model_id", "deployment_id", "status", "webhook_status", "webhook", "created_at", "status_at", "errors"],
        "properties": {
            "request_id": { "type": "string" },
            "model_id": id,
            "deployment_id": id,
            "status": status,
            "webhook_status": webhook,
            "webhook": {
                "type": ["object", "null"],
                "required": ["attempts", "last_error"],
                "properties": {
                    "attempts": { "type": "integer", "minimum": 0 },
                    "last_error": { "type": ["string", "null"] },
                },
            },
            "created_at": time,
            "status_at": time,
            "errors": { "type": "array", "items": error },
        },
    });
    operation(
        "Show how an async request stands",
        "200",
        json_answer("How it stands", &schema),
    )
}

fn cancel() -> Value {
    let schema = json!({
        "type": "object",
        "required": ["request_id", "canceled", "message"],
        "properties": {
            "request_id": { "type": "string" },
            "canceled": { "type": "boolean" },
            "message": { "type": "string" },
        },
    });
    operation(
        "Take an async request back that still waits",
        "200",
        json_answer("Whether it was", &schema),
    )
}

fn result() -> Value {
    component("Read what the component answered to an async request")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_parameter_of_an_address_is_described_and_no_other() {
        for (path, item) in paths() {
            let mut wanted: Vec<&str> = path
                .split('/')
                .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
                .collect();
            let found = item["parameters"].as_array().unwrap().iter();
            let mut found: Vec<&str> = found.map(|one| one["name"].as_str().unwrap()).collect();
            wanted.sort_unstable();
            found.sort_unstable();
            assert_eq!(found, wanted, "{path}");
        }
    }
}
