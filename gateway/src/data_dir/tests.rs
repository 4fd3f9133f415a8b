#![allow(clippy::unwrap_used)]

use super::*;
use std::{fs, os::unix::fs::PermissionsExt, sync::Arc};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn hosts(names: &[&str]) -> std::collections::BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn a_fresh_directory_gets_keys_that_only_the_owner_reads() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = prepare(&scratch.path().join("a/b/data"), Some(&[])).unwrap();
    for key in [dir.ca_key_file(), dir.key_file(), dir.token_key_file()] {
        assert_eq!(mode(&key), 0o600, "{}", key.display());
    }
    assert_eq!(mode(&dir.path), 0o700);
    assert_eq!(mode(&dir.keys()), 0o700);
    let names: Vec<_> = fs::read_dir(dir.keys()).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(names.len(), 3, "temporary files were left: {names:?}");
}

#[test]
fn nothing_changes_when_it_is_prepared_again() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = prepare(scratch.path(), Some(&[])).unwrap();
    let files =
        [dir.ca_file(), dir.cert_file(), dir.key_file(), dir.ca_key_file(), dir.token_key_file()];
    let before = files.clone().map(|file| fs::read(file).unwrap());
    prepare(scratch.path(), Some(&[])).unwrap();
    assert_eq!(files.map(|file| fs::read(file).unwrap()), before);
}

#[test]
fn the_certificate_follows_the_names_and_the_calendar_and_the_keys_stay() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = DataDir::new(scratch.path());
    file::make_directory(&dir.keys()).unwrap();
    let now = 1_800_000_000;
    let day = 86_400;
    let issue = |names: &[&str], now| {
        pki::ensure(&dir, &hosts(names), now).unwrap();
        [dir.cert_file(), dir.key_file(), dir.ca_file()].map(|file| fs::read(file).unwrap())
    };
    let [first, key, ca] = issue(&["localhost", "10.0.0.1"], now);
    let [again, ..] = issue(&["localhost", "10.0.0.1"], now + 200 * day);
    assert!(first == again, "issued again without need");
    let [names_changed, key_2, ca_2] = issue(&["localhost", "10.0.0.1", "::1"], now);
    assert!(first != names_changed);
    assert!(key == key_2 && ca == ca_2);
    assert_ne!(serial(&first), serial(&names_changed), "browsers refuse a repeated serial number");
    let [renewed, ..] = issue(&["localhost", "10.0.0.1", "::1"], now + 300 * day);
    assert!(names_changed != renewed, "not issued again near its end");
}

fn serial(pem: &[u8]) -> String {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem).unwrap();
    pem.parse_x509().unwrap().raw_serial_as_string()
}

/// A client that trusts ca.pem alone takes the certificate for each of its names, and for no other.
#[test]
fn a_client_that_trusts_the_ca_accepts_the_certificate() {
    use rustls::{
        client::WebPkiServerVerifier,
        pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    };
    let scratch = tempfile::tempdir().unwrap();
    let dir = prepare(scratch.path(), Some(&["Gateway.Example.com".to_owned()])).unwrap();
    // The CA's certificate is lost and made again: devices that hold the first one still agree.
    let first_ca = CertificateDer::from_pem_file(dir.ca_file()).unwrap();
    fs::remove_file(dir.ca_file()).unwrap();
    fs::remove_file(dir.cert_file()).unwrap();
    prepare(scratch.path(), Some(&["Gateway.Example.com".to_owned()])).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(first_ca).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
    let certificate = CertificateDer::from_pem_file(dir.cert_file()).unwrap();
    let verify = |name: &str| {
        use rustls::client::danger::ServerCertVerifier;
        let name = ServerName::try_from(name.to_owned()).unwrap();
        verifier.verify_server_cert(&certificate, &[], &name, &[], UnixTime::now())
    };
    for name in ["localhost", "127.0.0.1", "::1", "gateway.example.com"] {
        verify(name).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    assert!(verify("elsewhere.example.com").is_err());
}

#[test]
fn what_is_wrong_is_said_in_one_sentence_with_the_file_and_a_remedy() {
    type Damage = fn(&DataDir);
    let table: [(Damage, &str, &str); 5] = [
        (
            |dir| fs::write(dir.token_key_file(), "no key").unwrap(),
            "token.pem does not hold the token key",
            "backup",
        ),
        (|dir| fs::write(dir.key_file(), [0xff, 0xfe]).unwrap(), "is not a text file", "backup"),
        (
            |dir| {
                let other = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
                fs::write(dir.ca_key_file(), other.serialize_pem()).unwrap();
            },
            "ca-key.pem does not hold the CA's private key (ECDSA P-256",
            "move it away",
        ),
        (
            |dir| {
                let other = rcgen::KeyPair::generate().unwrap();
                fs::write(dir.ca_key_file(), other.serialize_pem()).unwrap();
            },
            "ca.pem is not the certificate of",
            "remove the certificate",
        ),
        (
            |dir| {
                fs::remove_dir_all(dir.keys()).unwrap();
                fs::write(dir.keys(), "").unwrap();
            },
            "cannot make the directory",
            "--data-dir",
        ),
    ];
    for (damage, what, remedy) in table {
        let scratch = tempfile::tempdir().unwrap();
        let dir = prepare(scratch.path(), Some(&[])).unwrap();
        damage(&dir);
        let message = prepare(scratch.path(), Some(&[])).unwrap_err().to_string();
        assert!(message.contains(what) && message.contains(remedy), "{message}");
        assert!(!message.contains('\n'), "{message}");
    }
}

#[test]
fn a_file_that_may_not_be_read_is_named_with_what_to_do() {
    let error = DataDirError::Io {
        action: "read",
        path: "data/keys/token.pem".into(),
        source: io::ErrorKind::PermissionDenied.into(),
    };
    assert_eq!(
        error.to_string(),
        "cannot read data/keys/token.pem: permission denied; run the gateway as the owner of \
         data/keys, or give its user access to it"
    );
}

#[test]
fn with_certificates_from_elsewhere_no_ca_is_made() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = prepare(scratch.path(), None).unwrap();
    assert!(dir.token_key_file().exists());
    assert!(!dir.ca_file().exists() && !dir.cert_file().exists());
}

#[test]
fn a_minted_token_verifies_with_the_public_half_and_says_who_and_how_long() {
    use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
    let scratch = tempfile::tempdir().unwrap();
    let dir = prepare(scratch.path(), None).unwrap();
    let key = TokenKey::load(&dir.token_key_file()).unwrap();
    let now = pki::now();
    let token = key.mint("dev-1", now, std::time::Duration::from_secs(60)).unwrap();
    let mut validation = Validation::new(Algorithm::ES256);
    validation.set_audience(&[proto::token::AUDIENCE]);
    let public = DecodingKey::from_ec_pem(key.public_pem().as_bytes()).unwrap();
    let claims = decode::<proto::token::Claims>(&token, &public, &validation).unwrap().claims;
    assert_eq!(claims.sub, "dev-1");
    assert_eq!(claims.exp - claims.iat, 60);
    // Another gateway's key does not verify it.
    let other = tempfile::tempdir().unwrap();
    let other = prepare(other.path(), None).unwrap();
    let other = TokenKey::load(&other.token_key_file()).unwrap();
    let public = DecodingKey::from_ec_pem(other.public_pem().as_bytes()).unwrap();
    assert!(decode::<proto::token::Claims>(&token, &public, &validation).is_err());
}

#[test]
fn a_missing_token_key_is_not_made_by_asking_for_a_token() {
    let scratch = tempfile::tempdir().unwrap();
    let path = DataDir::new(scratch.path()).token_key_file();
    let message = TokenKey::load(&path).unwrap_err().to_string();
    assert!(message.contains("does not exist; start the gateway once"), "{message}");
    assert!(!path.exists());
}
