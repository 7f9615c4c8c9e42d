//! Which deployment an inference path addresses, and what is left of the path for the component.

use crate::domain::model::Target;

/// Who answers the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route<'a> {
    /// The component, which sees this path.
    Component(&'a str),
    /// The platform: start a replica.
    Wake,
    /// The platform, with a part of it that is not there yet.
    Reserved(&'a str),
}

/// An inference path, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address<'a> {
    /// The model, by id or name.
    pub model: &'a str,
    /// Its deployment.
    pub target: Target<'a>,
    /// Who answers.
    pub route: Route<'a>,
}

/// Takes `/models/{model}/{target}/{path…}` apart; `None` when it has another form.
pub fn parse(path: &str) -> Option<Address<'_>> {
    let rest = path.strip_prefix("/models/")?;
    let (model, rest) = split(rest);
    let (kind, rest) = split(rest);
    let (target, rest) = match kind {
        "production" => (Target::Environment(kind), rest),
        "development" => (Target::Development, rest),
        "environments" | "deployment" => {
            let (name, rest) = split(rest);
            if name.is_empty() {
                return None;
            }
            match kind {
                "deployment" => (Target::Deployment(name), rest),
                _ => (Target::Environment(name), rest),
            }
        }
        _ => return None,
    };
    if model.is_empty() {
        return None;
    }
    Some(Address {
        model,
        target,
        route: route(rest),
    })
}

fn route(rest: &str) -> Route<'_> {
    let (first, after) = split(rest);
    match first {
        "sync" => Route::Component(if after.is_empty() { "/" } else { after }),
        "wake" if after.is_empty() => Route::Wake,
        "async_predict" | "async_queue_status" if after.is_empty() => Route::Reserved(first),
        _ => Route::Component(if rest.is_empty() { "/" } else { rest }),
    }
}

/// The first segment without its slashes, and the rest with its leading slash.
fn split(path: &str) -> (&str, &str) {
    let path = path.strip_prefix('/').unwrap_or(path);
    match path.find('/') {
        Some(at) => path.split_at(at),
        None => (path, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seen(path: &str) -> Option<(Target<'_>, Route<'_>)> {
        parse(path).map(|address| (address.target, address.route))
    }

    #[test]
    fn targets_and_paths() {
        let production = Target::Environment("production");
        assert_eq!(
            seen("/models/m/production/predict"),
            Some((production, Route::Component("/predict")))
        );
        assert_eq!(
            seen("/models/m/production/sync/v1/models"),
            Some((production, Route::Component("/v1/models")))
        );
        assert_eq!(
            seen("/models/m/production/sync/wake"),
            Some((production, Route::Component("/wake")))
        );
        assert_eq!(
            seen("/models/m/production"),
            Some((production, Route::Component("/")))
        );
        assert_eq!(
            seen("/models/m/production/wake"),
            Some((production, Route::Wake))
        );
        assert_eq!(
            seen("/models/m/environments/staging/a/b%20c"),
            Some((Target::Environment("staging"), Route::Component("/a/b%20c")))
        );
        assert_eq!(
            seen("/models/m/deployment/abcd1234/predict"),
            Some((Target::Deployment("abcd1234"), Route::Component("/predict")))
        );
        assert_eq!(
            seen("/models/m/development/async_predict"),
            Some((Target::Development, Route::Reserved("async_predict")))
        );
        for wrong in [
            "/models/m",
            "/models//production/x",
            "/models/m/environments//x",
            "/x",
            "/models/m/prod/x",
        ] {
            assert_eq!(seen(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn what_the_component_sees_is_a_path(path in "/models/m/production/.{0,40}") {
            if let Some(Address { route: Route::Component(path), .. }) = parse(&path) {
                prop_assert!(path.starts_with('/'));
            }
        }
    }
}
