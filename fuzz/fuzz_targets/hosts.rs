//! A host means the same to every check: to `network.allow` and to the request that a guest sends, to the guard of servers
//! without keys and to the browsers that it guards against.
//!
//! An input is two lines, each taken as everything that has a host in it.

#![no_main]

use http::header::{HOST, ORIGIN};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Request, Uri};
use libfuzzer_sys::fuzz_target;
use samovar_runtime::fuzzing::is_allowed;
use samovar_server::front::BaseDomain;
use samovar_server::fuzzing::{has_valid_host, host_without_port, is_from_this_machine};
use samovar_types::names;
use samovar_types::origins::{Allowed, Origin, allowed};
use url::{Host, Url};

fuzz_target!(|text: &str| {
    let (first, second) = text.split_once('\n').unwrap_or((text, "localhost"));
    check_allowed(first, second);
    check_host_header(first);
    check_browser(first);
    check_domain(first, second);
    if let Ok(origin) = first.parse::<Origin>() {
        let shown = origin.to_string();
        assert_eq!(shown.parse().as_ref(), Ok(&origin));
        let wanted = match origin.is_any() {
            true => Allowed::Any,
            false => Allowed::This,
        };
        assert_eq!(allowed(&[origin], shown.as_bytes()), Some(wanted));
    }
});

/// An entry of `network.allow` opens the host and the port that it names, and nothing else.
fn check_allowed(entry: &str, other: &str) {
    if names::check_host(entry).is_err() {
        return;
    }
    let list = [entry.to_owned()];
    let (host, port) = entry.rsplit_once(':').expect("it has a port");
    let uri: Uri = format!("https://{entry}/x").parse().expect("an address");
    assert!(is_allowed(&list, &uri), "{uri}");
    let next = port.parse::<u16>().expect("a port").wrapping_add(1);
    let uri: Uri = format!("https://{host}:{next}/x")
        .parse()
        .expect("an address");
    assert!(!is_allowed(&list, &uri), "{uri}");
    let Ok(uri) = other.parse::<Uri>() else {
        return;
    };
    if is_allowed(&list, &uri) {
        let authority = uri.authority().expect("a host").as_str();
        let asked = authority.rsplit('@').next().unwrap_or_default();
        let (asked, asked_port) = match asked.rsplit_once(':') {
            Some((asked, port)) if !port.ends_with(']') => (asked, port),
            _ => (asked, ""),
        };
        let asked_port = match (asked_port, uri.scheme_str()) {
            ("", Some("http")) => 80,
            ("", _) => 443,
            (text, _) => text.parse::<u16>().expect("a port"),
        };
        assert!(asked.eq_ignore_ascii_case(host), "{uri} is not {entry}");
        assert_eq!(asked_port.to_string(), port, "{uri} is not {entry}");
    }
}

/// A `Host` that is valid has one meaning.
fn check_host_header(text: &str) {
    let Ok(value) = HeaderValue::from_str(text) else {
        return;
    };
    let mut headers = HeaderMap::new();
    headers.insert(HOST, value);
    if !has_valid_host(&headers) {
        return;
    }
    if let Some(name) = host_without_port(text) {
        assert!(text.starts_with(name));
        if let Ok(authority) = text.parse::<Authority>() {
            assert_eq!(authority.host(), name, "{text}");
        }
    }
    headers.append(HOST, HeaderValue::from_static("localhost"));
    assert!(!has_valid_host(&headers), "two hosts");
}

/// What a server without keys takes for this machine's own is that to a browser, too.
fn check_browser(text: &str) {
    let Ok(value) = HeaderValue::from_str(text) else {
        return;
    };
    let asked = |name, value| {
        let mut request = Request::post("/v1/models").body(()).expect("a request");
        request.headers_mut().insert(name, value);
        request
    };
    let request = asked(HOST, value.clone());
    if has_valid_host(request.headers()) && is_from_this_machine(&request) {
        check_is_loopback(&format!("http://{text}/"));
    }
    if is_from_this_machine(&asked(ORIGIN, value)) {
        check_is_loopback(text);
    }
}

fn check_is_loopback(text: &str) {
    // What is no address to a browser is sent by none.
    let Ok(url) = Url::parse(text) else {
        return;
    };
    let is_local = match url.host() {
        Some(Host::Domain(name)) => {
            let name = name.strip_suffix('.').unwrap_or(name);
            let last = name.rsplit('.').next().unwrap_or_default();
            last.eq_ignore_ascii_case("localhost")
        }
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.to_canonical().is_loopback(),
        None => false,
    };
    assert!(is_local, "{text:?} is {url}");
}

/// The address of a model is below the domain, and is made of the model's name again.
fn check_domain(domain: &str, host: &str) {
    let Ok(base) = domain.parse::<BaseDomain>() else {
        return;
    };
    let domain = domain.to_ascii_lowercase();
    assert!(base.covers(&domain));
    let own = format!("model-abcd1234.{domain}");
    assert_eq!(base.model(&own), Some("abcd1234"));
    if let Some(model) = base.model(host) {
        let name = host_without_port(host).expect("it has a model");
        assert!(base.covers(name));
        let again = format!("model-{model}.{domain}");
        assert!(again.eq_ignore_ascii_case(name), "{host} is not {again}");
    }
}
