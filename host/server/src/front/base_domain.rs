//! The domain whose names are the addresses of models.

use super::host::without_port;

/// A domain whose names `model-{id}` are the addresses of models.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseDomain(String);

/// Text that is no domain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a domain: wanted a name such as models.example.com, without a scheme or a port"
)]
pub struct InvalidDomain(String);

impl std::str::FromStr for BaseDomain {
    type Err = InvalidDomain;

    fn from_str(text: &str) -> Result<Self, InvalidDomain> {
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        if text.len() <= 200 && text.split('.').all(label) {
            return Ok(Self(text.to_ascii_lowercase()));
        }
        Err(InvalidDomain(text.chars().take(80).collect()))
    }
}

impl BaseDomain {
    /// The model that a host name, with or without a port, is the address of.
    pub fn model<'a>(&self, host: &'a str) -> Option<&'a str> {
        let (first, domain) = without_port(host)?.split_once('.')?;
        let (word, model) = first.split_once('-')?;
        let ours = word.eq_ignore_ascii_case("model") && domain.eq_ignore_ascii_case(&self.0);
        ours.then_some(model)
    }

    /// Whether a host name without a port is the domain or a name below it.
    pub fn covers(&self, host: &str) -> bool {
        let below = host.len().checked_sub(self.0.len()).and_then(|at| {
            let (front, domain) = host.split_at_checked(at)?;
            let ours = domain.eq_ignore_ascii_case(&self.0);
            (ours && (front.is_empty() || front.ends_with('.'))).then_some(())
        });
        below.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn host_names_of_models() {
        let domain: BaseDomain = "Models.example.com".parse().unwrap();
        for (host, model) in [
            ("model-abcd1234.models.example.com", Some("abcd1234")),
            ("MODEL-abcd1234.MODELS.example.com:8080", Some("abcd1234")),
            ("models.example.com", None),
            ("model-abcd1234.example.com", None),
            ("x-abcd1234.models.example.com", None),
            ("127.0.0.1:8080", None),
            ("", None),
        ] {
            assert_eq!(domain.model(host), model, "{host}");
        }
    }

    #[test]
    fn names_below_the_domain() {
        let domain: BaseDomain = "models.test".parse().unwrap();
        for (host, covered) in [
            ("models.test", true),
            ("MODEL-a.Models.Test", true),
            ("evilmodels.test", false),
            ("models.test.evil.example", false),
            ("ä.models.test", true),
            ("test", false),
            ("", false),
        ] {
            assert_eq!(domain.covers(host), covered, "{host}");
        }
    }

    proptest! {
        #[test]
        fn a_model_of_a_host_is_below_the_domain(host in "(model-)?.{0,20}(\\.models\\.test)?(:.{0,6})?") {
            let domain: BaseDomain = "models.test".parse().unwrap();
            if let Some(model) = domain.model(&host) {
                let name = without_port(&host).unwrap();
                prop_assert!(domain.covers(name));
                prop_assert!(!model.contains('.'));
                prop_assert_eq!(name.len(), "model-.models.test".len() + model.len());
            }
        }

        #[test]
        fn the_address_of_a_model_leads_to_it(model in "[0-9a-z]{8}", domain in "[a-z]{1,9}(\\.[a-z-]{1,9}){0,3}", port in "(:[0-9]{1,5})?") {
            let base: BaseDomain = domain.parse().unwrap();
            let host = format!("model-{model}.{domain}{port}");
            prop_assert_eq!(base.model(&host), Some(&*model));
        }

        #[test]
        fn any_text_is_a_domain_or_refused(text in ".{0,300}") {
            let _ = text.parse::<BaseDomain>();
        }
    }

    #[test]
    fn domains_are_names() {
        for wrong in ["", "a..b", "https://a.b", "a.b:80", ".a", "ä.de"] {
            assert!(wrong.parse::<BaseDomain>().is_err(), "{wrong}");
        }
        assert!("localhost".parse::<BaseDomain>().is_ok());
    }
}
