//! `keys`: what keys roots and issuers get, and where they lie.

use std::path::PathBuf;

use serde::Deserialize;
use signet_ca::{KeyKind, KeysConfig, Pkcs11Config};

use super::{Refused, absolute};

/// A token's label has this many bytes (PKCS #11, CK_TOKEN_INFO).
const LONGEST_LABEL: usize = 32;

/// What keys roots and issuers get.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keys {
    pub algorithm: KeyKind,
    /// Without it new keys lie sealed in the data directory.
    pub pkcs11: Option<Pkcs11>,
}

/// A PKCS #11 token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pkcs11 {
    pub module: PathBuf,
    pub token_label: String,
    pub pin_file: PathBuf,
    pub issuers: bool,
}

impl Keys {
    /// The same for the authority.
    pub fn for_authority(&self) -> KeysConfig {
        KeysConfig {
            algorithm: self.algorithm,
            pkcs11: self.pkcs11.as_ref().map(|token| Pkcs11Config {
                module: token.module.clone(),
                token_label: token.token_label.clone(),
                pin_file: token.pin_file.clone(),
                issuers: token.issuers,
            }),
        }
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawKeys {
    algorithm: Option<String>,
    pkcs11: Option<RawPkcs11>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawPkcs11 {
    module: PathBuf,
    token_label: String,
    pin_file: PathBuf,
    #[serde(default = "yes")]
    issuers: bool,
}

fn yes() -> bool {
    true
}

impl RawKeys {
    pub(super) fn check(self) -> Result<Keys, Refused> {
        let algorithm = match self.algorithm {
            None => KeyKind::default(),
            Some(text) => {
                text.parse().map_err(|e: signet_ca::UnknownKeyKind| ("keys.algorithm", e.to_string()))?
            }
        };
        let pkcs11 = match self.pkcs11 {
            None => None,
            Some(raw) => Some(Pkcs11 {
                module: absolute("keys.pkcs11.module", raw.module)?,
                token_label: label(raw.token_label)?,
                pin_file: absolute("keys.pkcs11.pinFile", raw.pin_file)?,
                issuers: raw.issuers,
            }),
        };
        Ok(Keys { algorithm, pkcs11 })
    }
}

fn label(text: String) -> Result<String, Refused> {
    if (1..=LONGEST_LABEL).contains(&text.len()) && text.trim() == text {
        Ok(text)
    } else {
        let reason =
            format!("expected 1 to {LONGEST_LABEL} bytes without space at either end, found `{text}`");
        Err(("keys.pkcs11.tokenLabel", reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<Keys, String> {
        let raw: RawKeys = signet_model::from_yaml(text).map_err(|error| error.to_string())?;
        raw.check().map_err(|(field, reason)| format!("{field}: {reason}"))
    }

    #[test]
    fn nothing_said_means_p256_sealed_in_the_data_directory() {
        assert_eq!(check("{}").unwrap(), Keys { algorithm: KeyKind::P256, pkcs11: None });
        assert_eq!(check("algorithm: p384").unwrap().algorithm, KeyKind::P384);
    }

    #[test]
    fn a_token_is_named_by_module_label_and_pin_file() {
        let text =
            "pkcs11: {module: /usr/lib/softhsm/libsofthsm2.so, tokenLabel: signet, pinFile: /etc/signet/pin}";
        let token = check(text).unwrap().pkcs11.unwrap();
        assert_eq!((token.token_label.as_str(), token.issuers), ("signet", true));
        assert!(!check(&text.replace("pinFile", "issuers: false, pinFile")).unwrap().pkcs11.unwrap().issuers);
        for (from, to, field) in [
            ("/usr/lib", "usr/lib", "keys.pkcs11.module"),
            ("/etc/signet/pin", "pin", "keys.pkcs11.pinFile"),
            ("signet,", "' signet',", "keys.pkcs11.tokenLabel"),
            ("signet,", "'',", "keys.pkcs11.tokenLabel"),
        ] {
            let message = check(&text.replacen(from, to, 1)).unwrap_err();
            assert!(message.starts_with(field), "{message}");
        }
        let message = check("algorithm: rsa").unwrap_err();
        assert!(message.contains("keys.algorithm") && message.contains("p256 or p384"), "{message}");
        // A PIN never stands in the file itself.
        assert!(check(&text.replace("pinFile: /etc/signet/pin", "pin: 1234")).unwrap_err().contains("pin"));
    }
}
