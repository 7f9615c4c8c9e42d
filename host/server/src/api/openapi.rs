//! The description of the API, drawn from the handlers themselves and served at `/openapi.json`.

use samovar_types::error::ErrorBody;
use serde_json::{Map, Value};
use utoipa::OpenApi;
use utoipa::openapi::path::Operation;
use utoipa::openapi::schema::AdditionalProperties;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{ContentBuilder, Ref, RefOr, ResponseBuilder, Schema};

use super::openapi_inference;

/// The document's frame; the paths come from the router.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Samovar",
        description = "Management and inference API of a Samovar server.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    components(schemas(ErrorBody))
)]
pub struct Document;

/// Errors that any management route may answer: what is wrong with the request, who asks, what it asks for, and how
/// the server is.
const ERRORS: [(&str, &str); 11] = [
    ("400", "The request is wrong in itself"),
    ("401", "No API key, or none that is valid"),
    ("403", "The API key is for other things"),
    ("404", "There is no such thing"),
    ("405", "The address does not take this method"),
    ("409", "It does not fit what is there"),
    ("413", "The body is too long"),
    ("415", "The body is not announced as JSON"),
    ("422", "The bundle cannot be served"),
    ("500", "The server failed"),
    ("503", "The store or the storage cannot be reached"),
];

/// Adds to each route what all have in common: the key it asks for and the errors it may answer; and the routes of
/// inference, which have no handlers of their own.
pub fn complete(document: utoipa::openapi::OpenApi) -> Value {
    let drawn = serde_json::to_value(management(document));
    let mut document = drawn.expect("text under names is JSON");
    if let Some(paths) = document["paths"].as_object_mut() {
        paths.extend(openapi_inference::paths());
        name_operations(paths);
    }
    document
}

/// Gives each operation an id of its own, as generators of clients ask for: its method and its path.
fn name_operations(paths: &mut Map<String, Value>) {
    for (path, item) in paths {
        let words = path.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        let words: Vec<&str> = words
            .filter(|word| !word.is_empty() && *word != "v1")
            .collect();
        let operations = item.as_object_mut().into_iter().flatten();
        for (method, operation) in operations.filter(|(method, _)| *method != "parameters") {
            operation["operationId"] = format!("{method}_{}", words.join("_")).into();
        }
    }
}

/// Types of requests that are stored too, and so leave it to [`samovar_types::strict`] to refuse what is unknown.
const STRICT: [&str; 7] = [
    "AutoscalingSettings",
    "Batch",
    "Blob",
    "Bundle",
    "Graph",
    "Limits",
    "Network",
];

fn refuse_unknown_fields(components: &mut utoipa::openapi::Components) {
    for name in STRICT {
        if let Some(RefOr::T(Schema::Object(object))) = components.schemas.get_mut(name) {
            object.additional_properties = Some(Box::new(AdditionalProperties::FreeForm(false)));
        }
    }
}

fn management(mut document: utoipa::openapi::OpenApi) -> utoipa::openapi::OpenApi {
    document.info.version = env!("CARGO_PKG_VERSION").into();
    let components = document.components.get_or_insert_default();
    refuse_unknown_fields(components);
    components.add_security_scheme(
        "api_key",
        SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)),
    );
    document.security = Some(vec![SecurityRequirement::new::<_, [&str; 0], &str>(
        "api_key",
        [],
    )]);
    for item in document.paths.paths.values_mut() {
        let operations = [
            &mut item.get,
            &mut item.put,
            &mut item.post,
            &mut item.delete,
            &mut item.patch,
            &mut item.head,
        ];
        operations
            .into_iter()
            .filter_map(Option::as_mut)
            .for_each(add_errors);
    }
    document
}

fn add_errors(operation: &mut Operation) {
    let content = || {
        ContentBuilder::new()
            .schema(Some(Ref::from_schema_name("ErrorBody")))
            .build()
    };
    for (status, description) in ERRORS {
        let responses = &mut operation.responses.responses;
        responses.entry(status.to_owned()).or_insert_with(|| {
            ResponseBuilder::new()
                .description(description)
                .content("application/json", content())
                .build()
                .into()
        });
    }
}
