//! Webhooks go to public addresses by https, and elsewhere only where the operator says so.
//!
//! An input is an endpoint, and in each further line an allowance. Its first bytes are taken as addresses, too.

#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use libfuzzer_sys::fuzz_target;
use samovar_server::domain::webhook_address::{Allowance, WebhookAddresses, receiver};
use url::{Host, Url};

fuzz_target!(|text: &str| {
    let mut lines = text.lines();
    let endpoint = lines.next().unwrap_or_default();
    let allowances: Vec<Allowance> = lines.filter_map(|line| line.parse().ok()).collect();
    let (none, some) = (
        WebhookAddresses::default(),
        WebhookAddresses::new(allowances),
    );
    if let Some(bytes) = text.as_bytes().first_chunk::<16>() {
        check_address(&none, &some, IpAddr::V6(Ipv6Addr::from(*bytes)));
    }
    if let Some(bytes) = text.as_bytes().first_chunk::<4>() {
        check_address(&none, &some, IpAddr::V4(Ipv4Addr::from(*bytes)));
    }
    let answer = receiver(endpoint);
    assert_eq!(receiver(&answer), answer, "a receiver is its own");
    match none.check_endpoint(endpoint) {
        Ok(()) => {
            check_endpoint(endpoint);
            assert_eq!(some.check_endpoint(endpoint), Ok(()), "allowances close");
        }
        Err(error) => {
            if let Ok(url) = Url::parse(endpoint)
                && let Some(password) = url.password()
                && password.len() >= 12
            {
                assert!(!error.to_string().contains(password), "{error}");
            }
        }
    }
});

fn check_endpoint(endpoint: &str) {
    let url = Url::parse(endpoint).expect("an address");
    assert_eq!(url.scheme(), "https", "{url}");
    assert!(url.username().is_empty() && url.password().is_none());
    match url.host() {
        Some(Host::Domain(name)) => assert_ne!(name, "localhost"),
        Some(Host::Ipv4(address)) => assert!(!is_ours(IpAddr::V4(address)), "{url}"),
        Some(Host::Ipv6(address)) => assert!(!is_ours(IpAddr::V6(address)), "{url}"),
        None => panic!("no host: {url}"),
    }
}

fn check_address(none: &WebhookAddresses, some: &WebhookAddresses, address: IpAddr) {
    match none.check(address) {
        Ok(()) => {
            assert!(!is_ours(address), "{address}");
            assert_eq!(some.check(address), Ok(()), "allowances close");
        }
        Err(error) => {
            let error = error.to_string();
            let option = error.rsplit(' ').next().unwrap_or_default();
            let allowance: Allowance = option.parse().expect("the advice is an option");
            let advised = WebhookAddresses::new(vec![allowance]);
            assert_eq!(advised.check(address), Ok(()), "the advice helps: {error}");
        }
    }
}

/// Whether an address is this machine's, its network's or no receiver's, as the standard library has it.
fn is_ours(address: IpAddr) -> bool {
    let address = address.to_canonical();
    let unusual = address.is_loopback() || address.is_unspecified() || address.is_multicast();
    unusual
        || match address {
            IpAddr::V4(four) => {
                four.is_private()
                    || four.is_link_local()
                    || four.is_broadcast()
                    || four.is_documentation()
            }
            IpAddr::V6(six) => six.is_unique_local() || six.is_unicast_link_local(),
        }
}
