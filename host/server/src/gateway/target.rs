//! Which deployment an inference path addresses, and what is left of the path for the component.

use crate::domain::model::Target;

/// Who answers the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route<'a> {
    /// The component, which sees this path.
    Component(&'a str),
    /// The platform: start a replica.
    Wake,
    /// The platform: take a request to be answered later.
    AsyncPredict,
    /// The platform: say how many such requests there are.
    AsyncQueueStatus,
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

/// What is asked of a request that is answered later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AsyncPart {
    /// How it stands.
    Whole,
    /// What the model answered.
    Result,
}

/// The address of such a request, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AsyncAddress<'a> {
    /// The model, by id or name.
    pub model: &'a str,
    /// The request's id.
    pub id: &'a str,
    /// What is asked.
    pub part: AsyncPart,
}

/// A model, and the path within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<'a> {
    /// The model, by id or name.
    pub model: &'a str,
    /// What follows, with its leading slash.
    pub rest: &'a str,
}

impl<'a> Place<'a> {
    /// The place that a path names below `/models/`, which is left out.
    pub fn below_models(path: &'a str) -> Self {
        let (model, rest) = split(path);
        Self { model, rest }
    }

    /// Takes `/async_request/{id}` and `…/result` apart; `None` when it has another form.
    pub fn async_address(self) -> Option<AsyncAddress<'a>> {
        let model = self.model;
        let (kind, rest) = split(self.rest);
        let (id, rest) = split(rest);
        let part = match rest {
            "" => AsyncPart::Whole,
            "/result" => AsyncPart::Result,
            _ => return None,
        };
        let whole = kind == "async_request" && !model.is_empty() && !id.is_empty();
        whole.then_some(AsyncAddress { model, id, part })
    }

    /// Takes `/{target}/{path…}` apart; `None` when it has another form.
    pub fn address(self) -> Option<Address<'a>> {
        let model = self.model;
        let (kind, rest) = split(self.rest);
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
}

fn route(rest: &str) -> Route<'_> {
    let (first, after) = split(rest);
    match first {
        "sync" => Route::Component(if after.is_empty() { "/" } else { after }),
        "wake" if after.is_empty() => Route::Wake,
        "async_predict" if after.is_empty() => Route::AsyncPredict,
        "async_queue_status" if after.is_empty() => Route::AsyncQueueStatus,
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

    fn parse(path: &str) -> Option<Address<'_>> {
        Place::below_models(path.strip_prefix("/models/")?).address()
    }

    fn parse_async(path: &str) -> Option<AsyncAddress<'_>> {
        Place::below_models(path.strip_prefix("/models/")?).async_address()
    }

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
            Some((Target::Development, Route::AsyncPredict))
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

    #[test]
    fn async_requests_have_addresses_of_their_own() {
        let seen = |path| parse_async(path).map(|address| (address.id, address.part));
        assert_eq!(
            seen("/models/m/async_request/0a"),
            Some(("0a", AsyncPart::Whole))
        );
        assert_eq!(
            seen("/models/m/async_request/0a/result"),
            Some(("0a", AsyncPart::Result))
        );
        for wrong in [
            "/models/m/async_request/",
            "/models/m/async_request/0a/results",
            "/models/m/async_request/0a/",
            "/models//async_request/0a",
            "/models/m/production/async_request/0a",
        ] {
            assert_eq!(seen(wrong), None, "{wrong}");
        }
        assert_eq!(parse("/models/m/async_request/0a"), None);
        let own = parse("/models/m/production/sync/async_predict").unwrap();
        assert_eq!(own.route, Route::Component("/async_predict"));
    }

    proptest! {
        #[test]
        fn what_the_component_sees_is_a_path(path in "/models/m/production/.{0,40}") {
            if let Some(Address { route: Route::Component(path), .. }) = parse(&path) {
                prop_assert!(path.starts_with('/'));
            }
        }

        #[test]
        fn any_text_is_one_address_or_none(path in "(/|[a-z]{1,3}|production|deployment|environments|async_request|sync|wake|.){0,9}") {
            let place = Place::below_models(&path);
            prop_assert!(!place.model.contains('/'));
            prop_assert!(place.rest.is_empty() || place.rest.starts_with('/'));
            let whole = format!("{}{}", place.model, place.rest);
            prop_assert_eq!(&whole, path.strip_prefix('/').unwrap_or(&path));
            prop_assert!(place.address().is_none() || place.async_address().is_none());
            if let Some(address) = place.address() {
                prop_assert!(!address.model.is_empty());
                let name = match address.target {
                    Target::Environment(name) | Target::Deployment(name) => name,
                    Target::Development => "development",
                };
                prop_assert!(!name.is_empty() && !name.contains('/'));
            }
            if let Some(address) = place.async_address() {
                prop_assert!(!address.id.is_empty() && !address.id.contains('/'));
            }
        }

        #[test]
        fn a_path_below_sync_reaches_the_component_as_it_is(path in "(/[^/]{0,9}){1,4}", name in "[a-z0-9]{1,8}") {
            for (kind, target) in [
                ("production".to_owned(), Target::Environment("production")),
                ("development".to_owned(), Target::Development),
                (format!("environments/{name}"), Target::Environment(&name)),
                (format!("deployment/{name}"), Target::Deployment(&name)),
            ] {
                let whole = format!("/models/m/{kind}/sync{path}");
                prop_assert_eq!(seen(&whole), Some((target, Route::Component(&path))));
            }
        }
    }
}
