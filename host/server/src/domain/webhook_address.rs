//! Where webhooks may go: which addresses of the network, and what counts as one receiver.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;
use reqwest::Url;
use samovar_types::settings::InvalidSetting;

/// Longest address of a webhook.
pub const MAX_WEBHOOK_BYTES: usize = 2048;
const FIELD: &str = "webhook_endpoint";

/// A range of addresses beyond the public ones that webhooks may go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowance {
    /// This machine: 127.0.0.0/8 and ::1, also by http.
    Loopback,
    /// Private networks: those of RFC 1918 and 6598, and fc00::/7.
    Private,
    /// A network.
    Net(IpNet),
}

impl FromStr for Allowance {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "loopback" => Ok(Self::Loopback),
            "private" => Ok(Self::Private),
            net => net
                .parse()
                .or_else(|_| net.parse::<IpAddr>().map(IpNet::from))
                .map(Self::Net)
                .map_err(|_| {
                    "expected `loopback`, `private`, an address or a network such as 10.1.0.0/16"
                        .into()
                }),
        }
    }
}

/// The addresses that webhooks may go to: public ones, and what the operator allows besides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WebhookAddresses {
    allowed: Vec<Allowance>,
}

/// An address that no webhook may go to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{address} is {what}, where webhooks may not go unless the server is started with --webhook-allow {option}"
)]
pub struct ForbiddenAddress {
    address: IpAddr,
    what: &'static str,
    option: String,
}

/// What an address is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Public,
    Loopback,
    Private,
    /// Link-local addresses, among them those of cloud metadata services; multicast; reserved ones.
    Special,
}

impl WebhookAddresses {
    /// Public addresses and these.
    pub fn new(allowed: Vec<Allowance>) -> Self {
        Self { allowed }
    }

    /// Whether a webhook may be sent to an address of the network.
    ///
    /// # Errors
    /// When it is not public and not allowed.
    pub fn check(&self, address: IpAddr) -> Result<(), ForbiddenAddress> {
        // The address that a packet goes to in the end counts.
        let meant = embedded(address).unwrap_or(address);
        let kind = kind(meant);
        let allows = |allowed: &Allowance| match allowed {
            Allowance::Loopback => kind == Kind::Loopback,
            Allowance::Private => kind == Kind::Private,
            Allowance::Net(net) => net.contains(&address) || net.contains(&meant),
        };
        if kind == Kind::Public || self.allowed.iter().any(allows) {
            return Ok(());
        }
        let (what, option) = match kind {
            Kind::Loopback => ("this machine", "loopback".to_owned()),
            Kind::Private => ("in a private network", "private".to_owned()),
            Kind::Public | Kind::Special => ("no public address", meant.to_string()),
        };
        Err(ForbiddenAddress {
            address,
            what,
            option,
        })
    }

    /// Refuses an endpoint that no answer may be sent to: what models answer does not travel in the clear. A host given by
    /// name is checked when it is resolved.
    ///
    /// # Errors
    /// Names what is wrong with it.
    pub fn check_endpoint(&self, endpoint: &str) -> Result<(), InvalidSetting> {
        let wanted = |wanted: &str| {
            let found: String = endpoint.chars().take(80).collect();
            InvalidSetting::new(FIELD, format_args!("{found:?}"), wanted)
        };
        if endpoint.len() > MAX_WEBHOOK_BYTES {
            return Err(wanted(&format!("at most {MAX_WEBHOOK_BYTES} bytes")));
        }
        let Ok(url) = Url::parse(endpoint) else {
            return Err(wanted("an address such as https://example.com/hook"));
        };
        if !url.username().is_empty() || url.password().is_some() {
            // Not shown: it holds a password.
            let hidden = "an address with a user or a password";
            return Err(InvalidSetting::new(
                FIELD,
                hidden,
                "one without; webhooks are signed",
            ));
        }
        match url.scheme() {
            "https" if url.has_host() => {}
            "http" if is_loopback(&url) => {}
            _ => return Err(wanted("https; http is for localhost alone")),
        }
        let literal = match literal(&url) {
            None if is_loopback(&url) => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            literal => literal,
        };
        match literal.map_or(Ok(()), |address| self.check(address)) {
            Ok(()) => Ok(()),
            Err(forbidden) => Err(wanted(&format!("a public address: {forbidden}"))),
        }
    }
}

/// Which receiver an endpoint belongs to: scheme, host and port. Endpoints of one receiver take turns.
pub fn receiver(endpoint: &str) -> String {
    match Url::parse(endpoint) {
        Ok(url) => url.origin().ascii_serialization(),
        Err(_) => endpoint.to_owned(),
    }
}

/// The host of a URL, if it is an address and no name.
pub fn literal(url: &Url) -> Option<IpAddr> {
    // An address of version 6 stands in brackets.
    let host = url.host_str()?;
    host.trim_start_matches('[')
        .trim_end_matches(']')
        .parse()
        .ok()
}

/// Whether a URL is this machine's own.
pub fn is_loopback(url: &Url) -> bool {
    match literal(url) {
        Some(address) => address.is_loopback(),
        None => url.host_str() == Some("localhost"),
    }
}

/// The version 4 address that a version 6 one leads to.
fn embedded(address: IpAddr) -> Option<IpAddr> {
    let IpAddr::V6(six) = address else {
        return None;
    };
    let four = |high: u16, low: u16| {
        let [a, b] = high.to_be_bytes();
        let [c, d] = low.to_be_bytes();
        Some(IpAddr::V4(Ipv4Addr::new(a, b, c, d)))
    };
    match six.segments() {
        // Mapped and compatible (but ::1 and ::), NAT64, 6to4.
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            four(high, low)
        }
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => four(high, low),
        [0x2002, high, low, ..] => four(high, low),
        _ => None,
    }
}

fn kind(address: IpAddr) -> Kind {
    match address {
        IpAddr::V4(address) => kind_of_v4(address),
        IpAddr::V6(address) => kind_of_v6(address),
    }
}

fn kind_of_v4(address: Ipv4Addr) -> Kind {
    match address.octets() {
        [127, ..] => Kind::Loopback,
        [100, 64..=127, ..] => Kind::Private,
        _ if address.is_private() => Kind::Private,
        // This network, protocol assignments, benchmarks, link-local, multicast and what is reserved.
        [0, ..] | [192, 0, 0, _] | [198, 18 | 19, ..] | [169, 254, ..] | [224..=255, ..] => {
            Kind::Special
        }
        _ if address.is_documentation() => Kind::Special,
        _ => Kind::Public,
    }
}

fn kind_of_v6(address: Ipv6Addr) -> Kind {
    let [first, second, ..] = address.segments();
    match first {
        _ if address.is_loopback() => Kind::Loopback,
        0xfc00..=0xfdff => Kind::Private,
        // Teredo and other special purposes, documentation.
        0x2001 if second < 0x200 || second == 0xdb8 => Kind::Special,
        0x2000..=0x3fff => Kind::Public,
        // Everything else is link-local, site-local, multicast or not assigned.
        _ => Kind::Special,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowing(options: &[&str]) -> WebhookAddresses {
        WebhookAddresses::new(options.iter().map(|text| text.parse().unwrap()).collect())
    }

    #[test]
    fn only_public_addresses_are_open_by_default() {
        let none = allowing(&[]);
        for public in [
            "1.1.1.1",
            "172.32.0.1",
            "100.128.0.1",
            "2606:4700::1111",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
        ] {
            assert_eq!(none.check(public.parse().unwrap()), Ok(()), "{public}");
        }
        for (address, option) in [
            ("127.0.0.1", "loopback"),
            ("127.9.9.9", "loopback"),
            ("::1", "loopback"),
            ("::ffff:127.0.0.1", "loopback"),
            ("64:ff9b::7f00:1", "loopback"),
            ("2002:7f00:1::", "loopback"),
            ("10.0.0.1", "private"),
            ("172.16.0.1", "private"),
            ("192.168.1.1", "private"),
            ("100.64.0.1", "private"),
            ("fd00::1", "private"),
            ("169.254.169.254", "169.254.169.254"),
            ("::ffff:169.254.169.254", "169.254.169.254"),
            ("fe80::1", "fe80::1"),
            ("fec0::1", "fec0::1"),
            ("0.0.0.0", "0.0.0.0"),
            ("::", "::"),
            ("224.0.0.1", "224.0.0.1"),
            ("255.255.255.255", "255.255.255.255"),
            ("2001:db8::1", "2001:db8::1"),
            ("2001::1", "2001::1"),
        ] {
            let address: IpAddr = address.parse().unwrap();
            let refused = none.check(address).unwrap_err();
            assert_eq!(refused.option, option, "{address}");
            // What the message says helps.
            assert_eq!(allowing(&[option]).check(address), Ok(()), "{address}");
        }
    }

    #[test]
    fn an_allowance_opens_no_more_than_it_says() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(allowing(&["loopback"]).check(address("10.0.0.1")).is_err());
        assert!(
            allowing(&["private"])
                .check(address("169.254.169.254"))
                .is_err()
        );
        let net = allowing(&["10.1.0.0/16"]);
        assert_eq!(net.check(address("10.1.2.3")), Ok(()));
        assert_eq!(net.check(address("::ffff:10.1.2.3")), Ok(()));
        assert!(net.check(address("10.2.0.1")).is_err());
        assert!("10.1.0.0/33".parse::<Allowance>().is_err());
    }

    #[test]
    fn endpoints_are_https_or_this_machine_where_that_is_allowed() {
        let local = allowing(&["loopback"]);
        for good in [
            "https://example.com",
            "http://localhost:1/x",
            "http://127.0.0.1:8080",
            "http://[::1]:80/",
            "https://localhost",
        ] {
            assert_eq!(local.check_endpoint(good), Ok(()), "{good}");
        }
        for bad in [
            "http://example.com",
            "http://localhost.example.com",
            "http://10.0.0.1",
            "https://10.0.0.1",
            "https://2852039166/",
            "https://[fd00::1]/",
            "ftp://localhost",
            "file:///etc/passwd",
            "/hook",
            "",
            "https://",
            "https://user:secret@example.com",
            "http://localhost@example.com",
        ] {
            let told = local.check_endpoint(bad).unwrap_err().to_string();
            assert!(
                told.starts_with("webhook_endpoint: ") && !told.contains("secret"),
                "{told}"
            );
        }
        for own in ["http://localhost:1", "http://127.1", "https://[::1]/"] {
            let told = allowing(&[]).check_endpoint(own).unwrap_err().to_string();
            assert!(told.contains("--webhook-allow loopback"), "{told}");
        }
        let long = format!("https://example.com/{}", "x".repeat(MAX_WEBHOOK_BYTES));
        assert!(local.check_endpoint(&long).is_err());
    }

    #[test]
    fn a_receiver_is_scheme_host_and_port() {
        let same = receiver("https://Example.com/a?b");
        assert_eq!(same, "https://example.com");
        assert_eq!(receiver("https://example.com:443/c"), same);
        assert_ne!(receiver("https://example.com:444/c"), same);
        assert_ne!(
            receiver("http://localhost:1"),
            receiver("http://localhost:2")
        );
    }
}
