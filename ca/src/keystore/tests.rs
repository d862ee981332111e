use std::path::Path;
use std::process::Command;

use super::*;

#[path = "../../tests/support/softhsm.rs"]
mod softhsm;
use softhsm::{PIN, TOKEN, stages, write_pin};

fn domain() -> TrustDomain {
    TrustDomain::parse("demo.signet").unwrap()
}

fn config(folder: &Path, algorithm: KeyKind) -> KeysConfig {
    KeysConfig {
        algorithm,
        pkcs11: Some(Pkcs11Config {
            module: softhsm::module().unwrap(),
            token_label: TOKEN.into(),
            pin_file: folder.join("pin"),
            issuers: true,
        }),
    }
}

fn connect(folder: &Path) -> Result<KeyStore, KeyStoreError> {
    KeyStore::connect(&config(folder, KeyKind::P256), &domain(), folder)
}

fn local() -> KeyStore {
    KeyStore::connect(&KeysConfig::default(), &domain(), Path::new("/nowhere")).unwrap()
}

fn spki(key: &CaKey) -> Vec<u8> {
    rcgen::PublicKeyData::subject_public_key_info(key)
}

/// A session beside the store's, with the store's login, which is the process's. The module is to be
/// forgotten: unloading it would unload the store's.
fn beside() -> (cryptoki::context::Pkcs11, cryptoki::session::Session) {
    let module = cryptoki::context::Pkcs11::new(softhsm::module().unwrap()).unwrap();
    let is_ours = |slot: &cryptoki::slot::Slot| module.get_token_info(*slot).unwrap().label() == TOKEN;
    let slot = module.get_slots_with_token().unwrap().into_iter().find(is_ours).unwrap();
    let session = module.open_rw_session(slot).unwrap();
    (module, session)
}

#[track_caller]
fn refused<T>(result: Result<T, KeyStoreError>) -> String {
    let error = result.map(|_| ()).unwrap_err();
    let text = format!("{error} {error:?}");
    assert!(!text.contains(PIN), "{text}");
    text
}

#[test]
fn a_key_of_our_own_is_kept_as_pkcs8_and_opens_for_its_certificate_only() {
    for algorithm in [KeyKind::P256, KeyKind::P384] {
        let config = KeysConfig { algorithm, pkcs11: None };
        let store = KeyStore::connect(&config, &domain(), Path::new("/nowhere")).unwrap();
        let (mine, other) = (store.generate(KeyRole::Root).unwrap(), store.generate(KeyRole::Root).unwrap());
        let key = store.open(mine.as_bytes()).unwrap();
        assert_eq!((key.kind(), key.waits()), (algorithm, false));
        store.open_for(mine.as_bytes(), &spki(&key)).unwrap();
        let error = store.open_for(other.as_bytes(), &spki(&key)).unwrap_err();
        assert!(matches!(error, KeyStoreError::OtherKey), "{error}");
        store.destroy(mine.as_bytes()).unwrap();
        assert!(store.list().unwrap().is_empty());
        assert!(matches!(store.open(b"neither"), Err(KeyStoreError::Content)));
    }
}

#[test]
fn a_key_that_lies_in_a_token_needs_one_configured() {
    let mut point = vec![1; KeyKind::P256.point()];
    point[0] = 4;
    let reference = Reference { kind: KeyKind::P256, point, label: "signet/demo.signet/root/00".into() };
    let stored = StoredKey::in_token(&reference);
    for text in [refused(local().open(stored.as_bytes())), refused(local().destroy(stored.as_bytes()))] {
        assert!(text.contains("signet/demo.signet/root/00") && text.contains("keys.pkcs11"), "{text}");
    }
}

#[test]
fn a_key_made_in_the_token_signs_after_a_restart_and_never_leaves_it() {
    stages(2, |stage, folder| {
        for kind in [KeyKind::P256, KeyKind::P384] {
            let store = KeyStore::connect(&config(folder, kind), &domain(), folder).unwrap();
            let file = folder.join(kind.as_str());
            if stage == 0 {
                let stored = store.generate(KeyRole::Root).unwrap();
                std::fs::write(&file, stored.as_bytes()).unwrap();
                let key = store.open(stored.as_bytes()).unwrap();
                std::fs::write(file.with_extension("spki"), spki(&key)).unwrap();
            }
            let stored = std::fs::read(&file).unwrap();
            let key = store.open_for(&stored, &std::fs::read(file.with_extension("spki")).unwrap()).unwrap();
            assert_eq!((key.kind(), key.waits()), (kind, true));
            let other = local().generate(KeyRole::Root).unwrap();
            let other = local().open(other.as_bytes()).unwrap();
            assert!(matches!(store.open_for(&stored, &spki(&other)), Err(KeyStoreError::OtherKey)));
        }
        let listed = connect(folder).unwrap().list().unwrap();
        assert_eq!(listed.len(), 2);
        for entry in listed {
            let random = entry.label.strip_prefix("signet/demo.signet/root/").unwrap();
            assert_eq!((random.len(), entry.id.len()), (16, 32));
        }
        // Another trust domain in the same token does not see them.
        let foreign = TrustDomain::parse("other.signet").unwrap();
        let foreign = KeyStore::connect(&config(folder, KeyKind::P256), &foreign, folder).unwrap();
        assert!(foreign.list().unwrap().is_empty());
    });
}

#[test]
fn issuers_stay_outside_the_token_where_that_is_configured() {
    stages(1, |_, folder| {
        let mut config = config(folder, KeyKind::P256);
        config.pkcs11.as_mut().unwrap().issuers = false;
        let store = KeyStore::connect(&config, &domain(), folder).unwrap();
        for (role, inside) in [(KeyRole::Root, true), (KeyRole::Issuer, false)] {
            let stored = store.generate(role).unwrap();
            assert_eq!(store.open(stored.as_bytes()).unwrap().waits(), inside);
        }
        // What was sealed before there was a token opens as before.
        let old = local().generate(KeyRole::Root).unwrap();
        assert!(!store.open(old.as_bytes()).unwrap().waits());
    });
}

#[test]
fn a_wrong_pin_is_tried_once_and_never_shown() {
    stages(3, |stage, folder| {
        let wrong = "a-wrong-pin-that-stays-hidden";
        match stage {
            0 => {
                write_pin(folder, wrong);
                let text = refused(connect(folder));
                assert!(text.contains("does not accept the PIN") && !text.contains(wrong), "{text}");
                let text = refused(connect(folder));
                assert!(text.contains("nothing was tried") && !text.contains(wrong), "{text}");
            }
            // A supervisor that restarts it does not try it again either.
            1 => {
                let text = refused(connect(folder));
                assert!(text.contains("nothing was tried") && !text.contains(wrong), "{text}");
            }
            _ => {
                write_pin(folder, PIN);
                connect(folder).unwrap();
                assert!(!folder.join("pkcs11-pin-refused").exists());
            }
        }
    });
}

#[test]
fn another_label_says_which_tokens_there_are() {
    stages(1, |_, folder| {
        let mut config = config(folder, KeyKind::P256);
        config.pkcs11.as_mut().unwrap().token_label = "nobody".into();
        let text = refused(KeyStore::connect(&config, &domain(), folder));
        assert!(text.contains("\"nobody\"") && text.contains(TOKEN), "{text}");
    });
}

#[test]
fn a_destroyed_key_is_gone_and_destroying_it_again_is_fine() {
    stages(1, |_, folder| {
        let store = connect(folder).unwrap();
        let (mine, other) =
            (store.generate(KeyRole::Root).unwrap(), store.generate(KeyRole::Issuer).unwrap());
        let open = store.open(mine.as_bytes()).unwrap();
        store.destroy(mine.as_bytes()).unwrap();
        assert!(rcgen::SigningKey::sign(&open, b"message").is_err());
        let text = refused(store.open(mine.as_bytes()));
        assert!(text.contains("no key for") && text.contains("/root/"), "{text}");
        store.destroy(mine.as_bytes()).unwrap();
        store.open(other.as_bytes()).unwrap();
        let left = store.list().unwrap().remove(0);
        assert_eq!(store.orphans(&BTreeSet::new()).unwrap(), [left.label]);
        let named = BTreeSet::from([keys::key_name(&store.open(other.as_bytes()).unwrap())]);
        assert!(store.orphans(&named).unwrap().is_empty());
    });
}

#[test]
fn a_token_that_goes_away_is_an_error_and_one_that_comes_back_is_used_after_a_restart() {
    stages(2, |stage, folder| {
        let file = folder.join("stored");
        if stage == 0 {
            let store = connect(folder).unwrap();
            let stored = store.generate(KeyRole::Root).unwrap();
            std::fs::write(&file, stored.as_bytes()).unwrap();
            let key = store.open(stored.as_bytes()).unwrap();
            let (tokens, away) = (folder.join("tokens"), folder.join("away"));
            std::fs::rename(&tokens, &away).unwrap();
            assert!(rcgen::SigningKey::sign(&key, b"message").is_err());
            refused(store.open(stored.as_bytes()));
            refused(store.generate(KeyRole::Root));
            assert_eq!(store.token.as_ref().unwrap().sessions(), 0, "a session of a lost token is kept");
            // SoftHSM looks for its tokens once in a process's life.
            std::fs::rename(&away, &tokens).unwrap();
        }
        let store = match stage {
            0 => return,
            _ => connect(folder).unwrap(),
        };
        store.open(&std::fs::read(&file).unwrap()).unwrap();
    });
}

#[test]
fn a_login_that_the_token_ended_is_made_again_without_anybody_noticing() {
    stages(1, |_, folder| {
        let store = connect(folder).unwrap();
        let stored = store.generate(KeyRole::Root).unwrap();
        let key = store.open(stored.as_bytes()).unwrap();
        let (module, session) = beside();
        session.logout().unwrap();
        rcgen::SigningKey::sign(&key, b"message").unwrap();
        assert_eq!(store.list().unwrap().len(), 1);
        drop(session);
        std::mem::forget(module);
    });
}

#[test]
fn many_signers_share_a_few_sessions() {
    stages(1, |_, folder| {
        let store = connect(folder).unwrap();
        let stored = store.generate(KeyRole::Issuer).unwrap();
        let key = store.open(stored.as_bytes()).unwrap();
        std::thread::scope(|scope| {
            for n in 0..16u8 {
                let key = &key;
                scope.spawn(move || {
                    for _ in 0..10 {
                        rcgen::SigningKey::sign(key, &[n]).unwrap();
                    }
                });
            }
        });
        let sessions = store.token.as_ref().unwrap().sessions();
        assert!((1..=4).contains(&sessions), "{sessions} sessions");
    });
}

#[test]
fn a_key_that_could_be_read_out_of_the_token_is_not_used() {
    use cryptoki::mechanism::Mechanism;
    use cryptoki::object::{Attribute, AttributeType};
    stages(1, |_, folder| {
        let store = connect(folder).unwrap();
        let (module, session) = beside();
        let curve = vec![0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
        let (public, private) = session
            .generate_key_pair(
                &Mechanism::EccKeyPairGen,
                &[Attribute::Token(true), Attribute::EcParams(curve)],
                &[
                    Attribute::Token(true),
                    Attribute::Private(true),
                    Attribute::Sensitive(false),
                    Attribute::Extractable(true),
                    Attribute::Sign(true),
                ],
            )
            .unwrap();
        let point = session.get_attributes(public, &[AttributeType::EcPoint]).unwrap();
        let [Attribute::EcPoint(point)] = point.as_slice() else { panic!("no point") };
        let label = "signet/demo.signet/root/planted".to_owned();
        let reference = Reference { kind: KeyKind::P256, point: point[2..].to_vec(), label };
        let id = pkcs11::key_id(reference.kind, &reference.point).to_vec();
        session.update_attributes(private, &[Attribute::Id(id)]).unwrap();
        let text = refused(store.open(StoredKey::in_token(&reference).as_bytes()));
        assert!(text.contains("planted") && text.contains("read out"), "{text}");
        drop(session);
        std::mem::forget(module);
    });
}

#[test]
fn another_program_sees_the_keys_as_hidden_and_for_signing_only() {
    stages(1, |_, folder| {
        let store = connect(folder).unwrap();
        store.generate(KeyRole::Root).unwrap();
        let Ok(tool) = Command::new("pkcs11-tool")
            .args(["--list-objects", "--type", "privkey", "--login", "--pin", PIN, "--token-label", TOKEN])
            .arg("--module")
            .arg(softhsm::module().unwrap())
            .output()
        else {
            assert!(std::env::var_os("SIGNET_REQUIRE_ALL").is_none(), "pkcs11-tool (opensc) is missing");
            return;
        };
        let text = String::from_utf8_lossy(&tool.stdout);
        assert!(text.contains("label:      signet/demo.signet/root/"), "{text}");
        assert!(text.contains("sensitive, always sensitive, never extractable, local"), "{text}");
        let usage = text.lines().find(|line| line.contains("Usage:")).unwrap();
        assert!(usage.contains("sign"), "{text}");
    });
}
