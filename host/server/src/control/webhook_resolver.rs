//! Resolves the hosts of webhooks, and lets through only addresses that webhooks may go to.
//!
//! Checked here, an address is the one that is connected to: a name cannot lead elsewhere after the check.

use std::net::SocketAddr;
use std::sync::Arc;

use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::domain::webhook_address::WebhookAddresses;

/// Environment variables that name proxies.
const PROXIES: [&str; 6] = [
    "https_proxy",
    "HTTPS_PROXY",
    "http_proxy",
    "HTTP_PROXY",
    "all_proxy",
    "ALL_PROXY",
];

/// The system's resolver, restricted to addresses that webhooks may go to.
pub struct CheckedResolver {
    addresses: Arc<WebhookAddresses>,
    /// Names that the operator chose: webhooks go through them, not to them.
    proxies: Arc<[String]>,
}

impl CheckedResolver {
    /// One that lets these addresses through, and any address of these proxies.
    pub fn new(addresses: Arc<WebhookAddresses>, proxies: Vec<String>) -> Self {
        Self {
            addresses,
            proxies: proxies.into(),
        }
    }
}

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (addresses, proxies) = (self.addresses.clone(), self.proxies.clone());
        Box::pin(async move {
            let resolved: Vec<SocketAddr> =
                tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            if proxies.iter().any(|proxy| proxy == name.as_str()) {
                return Ok(Box::new(resolved.into_iter()) as Addrs);
            }
            let mut allowed = Vec::new();
            let mut refused = None;
            for address in resolved {
                match addresses.check(address.ip()) {
                    Ok(()) => allowed.push(address),
                    Err(error) => refused = Some(error),
                }
            }
            match refused {
                Some(error) if allowed.is_empty() => Err(error.into()),
                _ => Ok(Box::new(allowed.into_iter()) as Addrs),
            }
        })
    }
}

/// Hosts of the proxies that the environment names.
pub fn proxy_hosts() -> Vec<String> {
    let values = PROXIES.iter().filter_map(|name| std::env::var(name).ok());
    values.filter_map(|value| proxy_host(&value)).collect()
}

fn proxy_host(value: &str) -> Option<String> {
    // As with other programs, the scheme may be left out.
    let url = match value.contains("://") {
        true => Url::parse(value),
        false => Url::parse(&format!("http://{value}")),
    };
    url.ok()?.host_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_that_leads_to_this_machine_is_refused_unless_allowed() {
        let resolve = async |allowed: &[&str], proxies: &[&str]| {
            let allowed = allowed.iter().map(|text| text.parse().unwrap()).collect();
            let addresses = Arc::new(WebhookAddresses::new(allowed));
            let proxies = proxies.iter().map(ToString::to_string).collect();
            let resolver = CheckedResolver::new(addresses, proxies);
            let resolved = resolver.resolve("localhost".parse().unwrap()).await;
            resolved.map(Iterator::count).map_err(|e| e.to_string())
        };
        let refused = resolve(&[], &[]).await.unwrap_err();
        assert!(refused.contains("--webhook-allow loopback"), "{refused}");
        assert!(resolve(&["loopback"], &[]).await.unwrap() > 0);
        assert!(resolve(&[], &["localhost"]).await.unwrap() > 0);
    }

    #[test]
    fn proxies_are_known_with_and_without_a_scheme() {
        for value in ["http://proxy.corp:3128", "proxy.corp:3128", "proxy.corp"] {
            assert_eq!(proxy_host(value).as_deref(), Some("proxy.corp"), "{value}");
        }
        assert_eq!(proxy_host(""), None);
    }
}
