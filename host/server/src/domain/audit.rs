//! The audit log: who changed what, in the words of the API.

use std::collections::BTreeMap;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use samovar_types::api_key::KeyType;
use samovar_types::digest::Digest;
use samovar_types::id::{DeploymentId, ModelId, SecretId, WebhookSecretId};
use samovar_types::origins::Origin;
use samovar_types::promotion::PromotionStatus;
use samovar_types::promotion_settings::PromotionSettings;
use samovar_types::settings::{AutoscalingSettings, BackpressurePolicy};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::environment::Environment;
use crate::random::random_text;

/// Entries are kept this long.
pub const RETENTION: SignedDuration = SignedDuration::from_hours(90 * 24);
/// Longest name and longest version of a client that are noted.
pub const MAX_CLIENT_CHARS: usize = 64;

/// Who made a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Actor {
    /// The server itself.
    #[serde(rename = "BASETEN_SYSTEM")]
    System,
    /// Whoever reaches a server that asks for no keys.
    Anyone,
    /// The bearer of a key.
    ApiKey {
        /// The key's public part.
        #[serde(rename = "api_key_prefix")]
        prefix: String,
        /// What people call it.
        #[serde(rename = "api_key_name")]
        name: Option<String>,
    },
}

impl Actor {
    /// What it is called where one word has to do: a key's prefix, `anyone` or `system`.
    pub fn id(&self) -> &str {
        match self {
            Self::System => "system",
            Self::Anyone => "anyone",
            Self::ApiKey { prefix, .. } => prefix,
        }
    }
}

/// The program that made a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientProgram {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: Option<String>,
}

impl ClientProgram {
    /// The first product of a `User-Agent`.
    pub fn of(user_agent: &str) -> Option<Self> {
        let product = user_agent.split_ascii_whitespace().next()?;
        let (name, version) = match product.split_once('/') {
            Some((name, version)) => (name, Some(version)),
            None => (product, None),
        };
        let cut = |text: &str| text.chars().take(MAX_CLIENT_CHARS).collect::<String>();
        Some(Self {
            name: Some(cut(name)).filter(|name| !name.is_empty())?,
            version: version.map(cut),
        })
    }
}

/// Who makes changes, and by what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Author {
    /// Who.
    pub actor: Actor,
    /// By what, if it said so.
    pub client: Option<ClientProgram>,
}

impl Author {
    /// The server itself.
    pub const SYSTEM: Self = Self {
        actor: Actor::System,
        client: None,
    };
}

/// A change as it is noted where it is made; who made it and when comes later.
#[derive(Debug, Clone, PartialEq)]
pub struct Note {
    /// The model that it is about, by id and name.
    pub model: Option<(ModelId, String)>,
    /// The deployment that it is about, by id and name.
    pub deployment: Option<(DeploymentId, String)>,
    /// The environment that it is about.
    pub environment: Option<String>,
    /// What was done.
    pub act: Act,
}

impl Note {
    /// A change of something that belongs to no model.
    pub fn of_server(act: Act) -> Self {
        Self {
            model: None,
            deployment: None,
            environment: None,
            act,
        }
    }
}

/// What was done. Never a secret's value or a key.
///
/// Values that Samovar does not have are null where the API promises the field.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event_type", rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Act {
    /// A bundle was pushed.
    ModelDeployed {
        /// Whether it cannot change any more.
        publish: bool,
        /// Whether the deployment in its place gives up its replicas.
        scale_previous_to_zero: bool,
        /// Always false: every component runs in a sandbox.
        trusted: bool,
    },
    /// The bundle of a development deployment was swapped.
    ModelDeploymentUpdated {
        /// The new bundle's digest.
        bundle_digest: Digest,
        /// The old one's.
        previous_bundle_digest: Digest,
    },
    /// The labels of a deployment were changed.
    ModelDeploymentLabelsChanged {
        /// The new ones.
        labels: BTreeMap<String, String>,
        /// The old ones.
        previous_labels: BTreeMap<String, String>,
    },
    /// A deployment got another name.
    ModelDeploymentRenamed {
        /// The old name.
        previous_name: String,
    },
    /// A deployment was switched on.
    ModelDeploymentActivated,
    /// A deployment was switched off.
    ModelDeploymentDeactivated,
    /// A deployment that had failed is built again.
    ModelDeploymentRetried {
        /// Always true: a retry that does nothing is no change.
        retried: bool,
    },
    /// An environment began to move to a deployment.
    ModelDeploymentPromoted(PromotionOverrides),
    /// The numbers of replicas that a deployment keeps were changed.
    ModelDeploymentAutoscalingSettingsChanged {
        /// The new settings.
        #[serde(flatten)]
        settings: Scaling,
        /// The old ones.
        previous_settings: Scaling,
        /// Always null: there are none.
        schedules: (),
        /// PUBLISHED or DEVELOPMENT.
        deployment_type: &'static str,
    },
    /// What happens to requests that find every replica busy was changed.
    ModelDeploymentRequestBackpressureSettingsChanged {
        /// The new policy.
        policy: BackpressurePolicy,
        /// The old one.
        previous_policy: BackpressurePolicy,
    },
    /// A deployment was deleted.
    ModelDeploymentDeleted,
    /// A model was deleted with all that belonged to it.
    ModelDeleted,
    /// A model got another name.
    ModelRenamed {
        /// The old name.
        previous_name: String,
    },
    /// Somebody took a hand in a promotion.
    ModelPromotionControlAction {
        /// How.
        action: ControlAction,
        /// Always null: environments go by name.
        environment_id: (),
    },
    /// A promotion came to its end by itself.
    ModelPromotionEnded {
        /// SUCCEEDED or FAILED.
        status: PromotionStatus,
        /// Why it failed.
        error_message: Option<String>,
    },
    /// A replica was ended by hand.
    ReplicaTerminated {
        /// Which.
        replica_id: String,
    },
    /// An environment was made.
    EnvironmentCreated {
        /// Its settings.
        #[serde(flatten)]
        settings: Box<EnvironmentSettings>,
        /// Always null.
        deployment_type: (),
    },
    /// The settings of an environment were changed.
    EnvironmentUpdated {
        /// The new settings.
        #[serde(flatten)]
        settings: Box<EnvironmentSettings>,
        /// The old ones.
        previous_settings: Box<EnvironmentSettings>,
        /// Always null: there are none.
        schedules: (),
        /// Always null.
        deployment_type: (),
    },
    /// An environment was deleted.
    EnvironmentDeleted,
    /// A key was made.
    ApiKeyCreated(KeyFacts),
    /// A key was deleted.
    ApiKeyDeleted(KeyFacts),
    /// A secret was set.
    SecretUpdated(SecretFacts),
    /// A secret was deleted.
    SecretDeleted(SecretFacts),
    /// The first webhook secret was made.
    WebhookSigningSecretCreated(WebhookSecretFacts),
    /// A webhook secret was made in the place of another.
    WebhookSigningSecretRotated(WebhookSecretFacts),
    /// A webhook secret was made invalid.
    WebhookSigningSecretDeleted(WebhookSecretFacts),
}

/// How somebody took a hand in a promotion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ControlAction {
    /// Halted it.
    Pause,
    /// Let it go on.
    Resume,
    /// Called it off.
    GracefulCancel,
    /// Called it off, by the route that says so.
    ForceCancel,
    /// Ended it at once with the candidate in place.
    ForceRollForward,
}

/// What a promotion may change on its way at Baseten; here always null.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PromotionOverrides {
    environment_id: (),
    region_update: (),
    instance_type_id_update: (),
    promotion_settings_override: (),
    autoscaling_settings_update: (),
    request_backpressure_settings_update: (),
    autoscaling_schedule_settings_update: (),
}

/// How many replicas a deployment keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Scaling {
    #[serde(flatten)]
    settings: AutoscalingSettings,
    target_in_flight_tokens: (),
}

impl From<AutoscalingSettings> for Scaling {
    fn from(settings: AutoscalingSettings) -> Self {
        Self {
            settings,
            target_in_flight_tokens: (),
        }
    }
}

/// The settings of an environment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EnvironmentSettings {
    #[serde(flatten)]
    scaling: Scaling,
    #[serde(flatten)]
    promotion: PromotionSettings,
    request_backpressure_policy: BackpressurePolicy,
    allowed_origins: Vec<Origin>,
    rolling_deploy_strategy: (),
    max_unavailable_percent: (),
    max_surge_percent: (),
    stabilization_time_seconds: (),
    replica_overhead_percent: (),
    ramp_up_step_size: (),
}

impl From<&Environment> for EnvironmentSettings {
    fn from(environment: &Environment) -> Self {
        let autoscaling = environment.autoscaling_settings.clone();
        Self {
            scaling: autoscaling.unwrap_or_default().into(),
            promotion: environment.promotion_settings.clone(),
            request_backpressure_policy: environment.backpressure,
            allowed_origins: environment.allowed_origins.clone(),
            rolling_deploy_strategy: (),
            max_unavailable_percent: (),
            max_surge_percent: (),
            stabilization_time_seconds: (),
            replica_overhead_percent: (),
            ramp_up_step_size: (),
        }
    }
}

/// Which key it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeyFacts {
    api_key_id: String,
    api_key_type: KeyType,
    prefix: String,
    name: Option<String>,
}

impl From<&super::api_key::ApiKey> for KeyFacts {
    fn from(key: &super::api_key::ApiKey) -> Self {
        Self {
            api_key_id: key.prefix.clone(),
            api_key_type: key.key_type,
            prefix: key.prefix.clone(),
            name: key.name.clone(),
        }
    }
}

/// Which secret it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SecretFacts {
    secret_id: SecretId,
    secret_name: String,
}

impl From<&super::secret::Secret> for SecretFacts {
    fn from(secret: &super::secret::Secret) -> Self {
        Self {
            secret_id: secret.id,
            secret_name: secret.name.clone(),
        }
    }
}

/// Which webhook secret it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct WebhookSecretFacts {
    webhook_signing_secret_id: WebhookSecretId,
}

impl From<WebhookSecretId> for WebhookSecretFacts {
    fn from(webhook_signing_secret_id: WebhookSecretId) -> Self {
        Self {
            webhook_signing_secret_id,
        }
    }
}

/// An entry as the store holds it: what was done is kept as it was told, so that every release can read every entry.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Its id: entries are in the order of their ids.
    pub id: String,
    /// When it was done.
    pub created: Timestamp,
    /// What was done.
    pub event_type: String,
    /// The same with all that belongs to it.
    pub event_data: Map<String, Value>,
    /// Who did it.
    pub actor: Actor,
    /// By what, if it said so.
    #[serde(default)]
    pub client: Option<ClientProgram>,
}

impl Entry {
    /// What an author did at that time; `place` tells the entries of one commit apart.
    pub fn new(note: Note, author: &Author, now: Timestamp, place: usize) -> Self {
        let mut event_data = match serde_json::to_value(&note.act) {
            Ok(Value::Object(fields)) => fields,
            // Plain values under text keys leave the writer nothing to fail on.
            _ => Map::new(),
        };
        let about_environment = note.environment.is_some() || note.deployment.is_some();
        let mut tell = |name: &str, value: Value| event_data.insert(name.to_owned(), value);
        if let Some((id, name)) = note.model {
            tell("model_id", id.as_str().into());
            tell("model_name", name.into());
        }
        if let Some((id, name)) = note.deployment {
            tell("deployment_id", id.as_str().into());
            tell("deployment_name", name.into());
        }
        if about_environment {
            tell("environment_name", note.environment.into());
        }
        let event_type = event_data.get("event_type").and_then(Value::as_str);
        Self {
            id: format!("{}-{place:03}-{}", stamp(now), random_text()),
            created: now,
            event_type: event_type.unwrap_or_default().to_owned(),
            event_data,
            actor: author.actor.clone(),
            client: author.client.clone(),
        }
    }

    /// A text of what was done.
    pub fn fact(&self, name: &str) -> Option<&str> {
        self.event_data.get(name)?.as_str()
    }
}

/// How an id begins that was given at that time: `2026-11-24T13:14:15.161718Z`, without what no path should have.
pub fn stamp(time: Timestamp) -> String {
    // Beyond the years that have four digits, ids are still told apart, only not in order.
    let time = TimeZone::UTC.to_datetime(time);
    time.strftime("%Y%m%dT%H%M%S.%6f").to_string()
}

/// Whether a text may be the id of an entry.
pub fn is_id(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    (1..=64).contains(&text.len()) && text.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_entry_has_the_fields_of_the_api() {
        let note = Note {
            model: Some(("model000".parse().unwrap(), "m".into())),
            deployment: Some(("deploy00".parse().unwrap(), "d".into())),
            environment: None,
            act: Act::ModelDeploymentAutoscalingSettingsChanged {
                settings: AutoscalingSettings::default().into(),
                previous_settings: AutoscalingSettings::default().into(),
                schedules: (),
                deployment_type: "PUBLISHED",
            },
        };
        let author = Author {
            actor: Actor::ApiKey {
                prefix: "abcd1234".into(),
                name: None,
            },
            client: ClientProgram::of("baseten-python/0.13.0 (Python/3.13.2; Linux)"),
        };
        let entry = Entry::new(note, &author, "2026-11-24T13:14:15.5Z".parse().unwrap(), 2);
        assert!(
            entry.id.starts_with("20261124T131415.500000-002-"),
            "{}",
            entry.id
        );
        assert!(is_id(&entry.id));
        assert_eq!(
            entry.event_type,
            "MODEL_DEPLOYMENT_AUTOSCALING_SETTINGS_CHANGED"
        );
        assert_eq!(entry.fact("model_name"), Some("m"));
        for field in ["environment_name", "schedules", "target_in_flight_tokens"] {
            assert_eq!(entry.event_data[field], Value::Null, "{field}");
        }
        assert_eq!(entry.event_data["max_replica"], 10);
        assert_eq!(
            entry.event_data["previous_settings"]["scale_down_delay"],
            900
        );
        let stored = serde_json::to_value(&entry).unwrap();
        assert_eq!(
            stored["actor"],
            json!({ "type": "API_KEY", "api_key_prefix": "abcd1234", "api_key_name": null })
        );
        assert_eq!(stored["client"]["version"], "0.13.0");
        assert_eq!(serde_json::from_value::<Entry>(stored).unwrap(), entry);
    }

    #[test]
    fn ids_are_in_the_order_of_their_times() {
        let times = [
            "2026-11-24T00:00:00Z",
            "2026-11-24T00:00:00.000001Z",
            "2026-11-24T10:00:00Z",
            "2026-12-01T00:00:00Z",
        ];
        let stamps = times.map(|time| stamp(time.parse().unwrap()));
        assert!(stamps.is_sorted(), "{stamps:?}");
    }

    #[test]
    fn a_client_names_itself_within_bounds() {
        let client = |text| ClientProgram::of(text);
        assert_eq!(client(""), None);
        assert_eq!(client("/1"), None);
        assert_eq!(client("curl").unwrap().version, None);
        assert_eq!(client(&"x".repeat(1000)).unwrap().name.len(), 64);
    }
}
