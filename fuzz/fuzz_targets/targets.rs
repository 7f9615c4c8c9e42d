//! A path below `/models/` is one address or none, and the address leads to what it was read from.

#![no_main]

use libfuzzer_sys::fuzz_target;
use samovar_server::domain::model::Target;
use samovar_server::fuzzing::{Address, AsyncPart, Place, Route};
use samovar_types::id::DeploymentId;
use samovar_types::names;

fuzz_target!(|path: &str| {
    let place = Place::below_models(path);
    assert!(!place.model.contains('/'));
    assert!(place.rest.is_empty() || place.rest.starts_with('/'));
    let whole = format!("{}{}", place.model, place.rest);
    assert_eq!(whole, path.strip_prefix('/').unwrap_or(path));
    let (address, later) = (place.address(), place.async_address());
    assert!(address.is_none() || later.is_none(), "two meanings");
    if let Some(address) = address {
        check(path, address);
    }
    if let Some(later) = later {
        assert!(!later.id.is_empty() && !later.id.contains('/'));
        let end = match later.part {
            AsyncPart::Whole => "",
            AsyncPart::Result => "/result",
        };
        let again = format!("{}/async_request/{}{end}", later.model, later.id);
        assert_eq!(Place::below_models(&again).async_address(), Some(later));
    }
    for part in path.split('/') {
        if let Ok(id) = part.parse::<DeploymentId>() {
            assert_eq!(id.as_str(), part);
            assert_eq!(names::check_name(part), Ok(()), "an id is no name");
        }
        if let Some(name) = names::name_from(part) {
            assert_eq!(names::check_name(&name), Ok(()));
            assert_eq!(names::name_from(&name), Some(name.clone()));
        }
    }
});

fn check(path: &str, address: Address<'_>) {
    assert!(!address.model.is_empty() && !address.model.contains('/'));
    let target = match address.target {
        Target::Environment(name) => format!("environments/{name}"),
        Target::Deployment(name) => format!("deployment/{name}"),
        Target::Development => "development".to_owned(),
    };
    let name = target.rsplit('/').next().unwrap_or_default();
    assert!(!name.is_empty());
    let rest = match address.route {
        Route::Component(inner) => {
            assert!(inner.starts_with('/'), "{inner}");
            assert!(inner == "/" || path.ends_with(inner), "{inner}");
            format!("sync{inner}")
        }
        Route::Wake => "wake".to_owned(),
        Route::AsyncPredict => "async_predict".to_owned(),
        Route::AsyncQueueStatus => "async_queue_status".to_owned(),
    };
    let again = format!("{}/{target}/{rest}", address.model);
    assert_eq!(Place::below_models(&again).address(), Some(address));
}
