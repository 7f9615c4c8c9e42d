//! What webhooks are signed with: one secret at a time, and after a rotation the old one for a day.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::{SignedDuration, Timestamp};
use rand::RngExt as _;
use samovar_store::vault::Sealed;
use samovar_types::id::WebhookSecretId;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

/// How long a secret is still valid after another took its place.
pub const OVERLAP: SignedDuration = SignedDuration::from_hours(24);
/// Webhook secrets that are valid at a time. A webhook bears a signature for each.
pub const MAX_WEBHOOK_SECRETS: usize = 8;

const PREFIX: &str = "whsec_";
const RANDOM_BYTES: usize = 32;

/// A webhook secret as it is stored. Fields may be added, so what is unknown is passed over.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebhookSecret {
    /// By which it is listed and deleted.
    pub id: WebhookSecretId,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it becomes invalid, since another has taken its place.
    #[serde(default)]
    pub expires_at: Option<Timestamp>,
    /// Its value.
    pub sealed: Sealed,
}

impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WebhookSecret({}, until {:?})", self.id, self.expires_at)
    }
}

impl WebhookSecret {
    /// Whether webhooks are signed with it at that time.
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.expires_at.is_none_or(|end| now < end)
    }
}

/// Draws the value of a new one, by a cryptographic generator that the operating system seeds.
pub fn generate() -> SecretString {
    let bytes: [u8; RANDOM_BYTES] = rand::rng().random();
    SecretString::from(format!("{PREFIX}{}", BASE64.encode(bytes)))
}

/// Puts a new one first. Those that were valid without end are so for [`OVERLAP`] more; those whose end has come go.
pub fn rotated(secrets: Vec<WebhookSecret>, new: WebhookSecret) -> Vec<WebhookSecret> {
    let now = new.created_at;
    let mut rotated = vec![new];
    rotated.extend(secrets.into_iter().filter(|one| one.is_live(now)));
    for old in &mut rotated[1..] {
        // No time that people live to see is beyond what a timestamp holds.
        let end = now.checked_add(OVERLAP).unwrap_or(Timestamp::MAX);
        old.expires_at.get_or_insert(end);
    }
    rotated
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;
    use crate::random::random_id;

    fn secret(created_at: Timestamp) -> WebhookSecret {
        WebhookSecret {
            id: random_id(),
            created_at,
            expires_at: None,
            sealed: Sealed {
                key_id: String::new(),
                bytes: Vec::new(),
            },
        }
    }

    fn at(hours: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_hours(hours)
    }

    #[test]
    fn the_old_one_is_valid_for_a_day_after_the_rotation() {
        let (first, second, third) = (secret(at(0)), secret(at(100)), secret(at(110)));
        let secrets = rotated(rotated(Vec::new(), first.clone()), second.clone());
        let live = |secrets: &[WebhookSecret], now| -> Vec<WebhookSecretId> {
            let live = secrets.iter().filter(|one| one.is_live(now));
            live.map(|one| one.id).collect()
        };
        assert_eq!(live(&secrets, at(100)), [second.id, first.id]);
        let second_before = at(124) - SignedDuration::from_nanos(1);
        assert_eq!(live(&secrets, second_before), [second.id, first.id]);
        assert_eq!(live(&secrets, at(124)), [second.id]);

        // A rotation soon after does not make the oldest one live longer.
        let secrets = rotated(secrets, third.clone());
        assert_eq!(live(&secrets, at(110)), [third.id, second.id, first.id]);
        assert_eq!(live(&secrets, at(124)), [third.id, second.id]);
        assert_eq!(live(&secrets, at(134)), [third.id]);
        // And those that ended are not kept.
        assert_eq!(rotated(secrets, secret(at(200))).len(), 2);
    }

    #[test]
    fn values_have_their_form_and_differ() {
        let (one, other) = (generate(), generate());
        assert_ne!(one.expose_secret(), other.expose_secret());
        let encoded = one.expose_secret().strip_prefix(PREFIX).unwrap();
        assert_eq!(BASE64.decode(encoded).unwrap().len(), RANDOM_BYTES);
        assert!(!format!("{one:?}").contains(encoded));
    }
}
