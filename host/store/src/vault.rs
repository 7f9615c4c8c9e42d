//! Encrypts secrets, so that neither the store nor its backups reveal them: XChaCha20-Poly1305 with a key in a file of its
//! own.
//!
//! The key of a secret's document is authenticated with it, so that one secret's value cannot be stored as another's.

mod error;
mod key_file;
mod sealed;

use std::fmt;
use std::path::{Path, PathBuf};

use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use rand::RngExt as _;
use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};

use key_file::{create_key, read_key};

pub use error::VaultError;
pub use key_file::KEY_FILE;
pub use sealed::Sealed;

const NONCE_BYTES: usize = 24;

/// What to do without a key file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyAbsent {
    /// Make a key, because nothing was ever sealed.
    Create,
    /// Fail, because a new key could read none of the stored secrets.
    Refuse,
}

/// Seals and unseals values. Its debug form hides the key.
pub struct Vault {
    cipher: XChaCha20Poly1305,
    key_id: String,
    path: PathBuf,
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Vault({}, key {})", self.path.display(), self.key_id)
    }
}

impl Vault {
    /// Opens the vault with the key in a file.
    ///
    /// # Errors
    /// The file is missing and must not be made, holds no key, or other users may read it.
    pub fn open(path: &Path, absent: KeyAbsent) -> Result<Self, VaultError> {
        let key = match read_key(path)? {
            Some(key) => key,
            None if absent == KeyAbsent::Create => create_key(path)?,
            None => {
                return Err(VaultError::Missing {
                    path: path.to_owned(),
                });
            }
        };
        let mut id = Sha256::new();
        id.update(b"samovar secrets key id\0");
        id.update(key.as_slice());
        Ok(Self {
            cipher: XChaCha20Poly1305::new(&Key::from(*key)),
            key_id: hex::encode(&id.finalize()[..8]),
            path: path.to_owned(),
        })
    }

    /// Seals a value for its place, which is the key of its document.
    ///
    /// # Errors
    /// The value is larger than the cipher's limit, which no secret is.
    pub fn seal(&self, place: &str, value: &SecretString) -> Result<Sealed, VaultError> {
        // 24 random bytes do not repeat, so that no counter has to be stored.
        let nonce: [u8; NONCE_BYTES] = rand::rng().random();
        let payload = Payload {
            msg: value.expose_secret().as_bytes(),
            aad: place.as_bytes(),
        };
        let sealed = self.cipher.encrypt(&XNonce::from(nonce), payload);
        let sealed = sealed.map_err(|_| VaultError::TooLarge {
            place: place.to_owned(),
        })?;
        Ok(Sealed {
            key_id: self.key_id.clone(),
            bytes: [&nonce[..], &sealed].concat(),
        })
    }

    /// Unseals a value of that place.
    ///
    /// # Errors
    /// Another key sealed it, or it was changed.
    pub fn unseal(&self, place: &str, sealed: &Sealed) -> Result<SecretString, VaultError> {
        self.check_key(place, sealed)?;
        let tampered = || VaultError::Tampered {
            place: place.to_owned(),
        };
        let (nonce, ciphertext) = sealed
            .bytes
            .split_first_chunk::<NONCE_BYTES>()
            .ok_or_else(tampered)?;
        let payload = Payload {
            msg: ciphertext,
            aad: place.as_bytes(),
        };
        let opened = self.cipher.decrypt(&XNonce::from(*nonce), payload);
        let plain = Zeroizing::new(opened.map_err(|_| tampered())?);
        let text = std::str::from_utf8(&plain).map_err(|_| tampered())?;
        Ok(SecretString::from(text))
    }

    /// Checks that this vault's key sealed it.
    ///
    /// # Errors
    /// Another key did.
    pub fn check_key(&self, place: &str, sealed: &Sealed) -> Result<(), VaultError> {
        if sealed.key_id == self.key_id {
            return Ok(());
        }
        Err(VaultError::OtherKey {
            place: place.to_owned(),
            path: self.path.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    use proptest::prelude::*;

    use super::key_file::KEY_BYTES;
    use super::*;

    fn vault(path: &Path) -> Vault {
        Vault::open(path, KeyAbsent::Create).unwrap()
    }

    fn fresh() -> Vault {
        let folder = tempfile::tempdir().unwrap();
        vault(&folder.path().join(KEY_FILE))
    }

    #[test]
    fn a_key_is_made_once_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(KEY_FILE);
        let sealed = vault(&path).seal("secrets/A", &"value".into()).unwrap();
        let mode = std::fs::metadata(&path).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
        let again = Vault::open(&path, KeyAbsent::Refuse).unwrap();
        let plain = again.unseal("secrets/A", &sealed).unwrap();
        assert_eq!(plain.expose_secret(), "value");
        let left = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(left, 1, "a temporary file was left");
    }

    #[test]
    fn a_key_file_that_others_may_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(KEY_FILE);
        vault(&path);
        for mode in [0o640, 0o604, 0o660, 0o610, 0o644] {
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let error = Vault::open(&path, KeyAbsent::Create).unwrap_err();
            let text = error.to_string();
            assert!(matches!(error, VaultError::Exposed { .. }), "{text}");
            assert!(text.contains(&format!("chmod 600 {}", path.display())));
        }
        std::fs::set_permissions(&path, Permissions::from_mode(0o400)).unwrap();
        assert!(Vault::open(&path, KeyAbsent::Refuse).is_ok());
    }

    #[test]
    fn what_is_no_key_is_refused_and_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(KEY_FILE);
        let right = "ab".repeat(KEY_BYTES);
        for text in ["", &right[2..], &format!("{right}ab"), "x", &"q".repeat(64)] {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
            let error = Vault::open(&path, KeyAbsent::Create).unwrap_err();
            assert!(matches!(error, VaultError::NoKey { .. }), "{error}");
            assert!(text.is_empty() || !error.to_string().contains(text) || text == "x");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        std::fs::write(&path, format!("{right}\n")).unwrap();
        assert!(Vault::open(&path, KeyAbsent::Create).is_ok());
    }

    #[test]
    fn a_key_that_should_be_there_is_not_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(KEY_FILE);
        let error = Vault::open(&path, KeyAbsent::Refuse).unwrap_err();
        assert!(error.to_string().contains(&path.display().to_string()));
        assert!(!path.exists());
    }

    #[test]
    fn another_key_reads_nothing_and_names_its_file() {
        let (one, other) = (fresh(), fresh());
        let sealed = one.seal("secrets/A", &"value".into()).unwrap();
        let error = other.unseal("secrets/A", &sealed).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, VaultError::OtherKey { .. }), "{text}");
        assert!(text.contains(&other.path.display().to_string()), "{text}");
        // Not by the label alone.
        let relabelled = Sealed {
            key_id: other.key_id.clone(),
            ..sealed
        };
        let error = other.unseal("secrets/A", &relabelled).unwrap_err();
        assert!(matches!(error, VaultError::Tampered { .. }), "{error}");
    }

    #[test]
    fn nothing_is_shown_by_debug() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(KEY_FILE);
        let vault = vault(&path);
        let key = std::fs::read_to_string(&path).unwrap();
        let value = SecretString::from("hidden");
        let shown = format!("{vault:?} {value:?} {:?}", vault.seal("a", &value).unwrap());
        assert!(
            !shown.contains("hidden") && !shown.contains(key.trim()),
            "{shown}"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_sealed_is_read_again(value in ".{0,200}", place in "[a-zA-Z/_]{0,40}") {
            let vault = fresh();
            let sealed = vault.seal(&place, &value.as_str().into()).unwrap();
            let again = vault.seal(&place, &value.as_str().into()).unwrap();
            prop_assert_ne!(&sealed.bytes, &again.bytes, "the nonce was used twice");
            if value.len() > 3 {
                let hidden = !sealed.bytes.windows(value.len()).any(|part| part == value.as_bytes());
                prop_assert!(hidden);
            }
            let json = serde_json::to_vec(&sealed).unwrap();
            let sealed: Sealed = serde_json::from_slice(&json).unwrap();
            let plain = vault.unseal(&place, &sealed).unwrap();
            prop_assert_eq!(plain.expose_secret(), value);
        }

        #[test]
        fn a_change_of_any_bit_or_of_the_place_is_noticed(
            value in ".{0,50}", at: prop::sample::Index, bit in 0u8..8, cut: prop::sample::Index,
        ) {
            let vault = fresh();
            let sealed = vault.seal("secrets/A", &value.as_str().into()).unwrap();
            let refused = |place: &str, bytes: Vec<u8>| {
                let sealed = Sealed { bytes, ..sealed.clone() };
                matches!(vault.unseal(place, &sealed), Err(VaultError::Tampered { .. }))
            };
            let mut flipped = sealed.bytes.clone();
            flipped[at.index(sealed.bytes.len())] ^= 1 << bit;
            prop_assert!(refused("secrets/A", flipped));
            prop_assert!(refused("secrets/A", sealed.bytes[..cut.index(sealed.bytes.len())].to_vec()));
            prop_assert!(refused("secrets/B", sealed.bytes.clone()));
            prop_assert!(!refused("secrets/A", sealed.bytes.clone()));
        }
    }
}
