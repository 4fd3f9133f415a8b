//! The private CA and the server's certificate (ECDSA P-256).

use super::{DataDir, DataDirError, file};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SerialNumber, date_time_ymd,
};
use std::{
    collections::BTreeSet,
    net::IpAddr,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer, X509Certificate},
};

const DAY: u64 = 86_400;
/// Devices keep the CA's certificate for their whole life.
const CA_DAYS: u64 = 20 * 365;
/// Some clients take no server certificate that lives longer than 398 days.
const SERVER_DAYS: u64 = 397;
/// A certificate with less than this left is issued again.
const RENEW_DAYS: u64 = 120;
/// Certificates begin earlier than now, for devices whose clock is behind.
const BACKDATE_DAYS: u64 = 7;

/// Seconds since the Unix epoch.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Makes or checks the CA, and issues the server's certificate if there is none, if it covers
/// other hosts than these, or if it nears its end.
pub(super) fn ensure(
    dir: &DataDir,
    hosts: &BTreeSet<String>,
    now: u64,
) -> Result<(), DataDirError> {
    let ca_key = key(&dir.ca_key_file(), "the CA's private key")?;
    let ca_params = ca_params(&ca_key, now);
    ensure_ca(dir, &ca_key, &ca_params)?;
    let server_key = key(&dir.key_file(), "the server's private key")?;
    let current = file::read(&dir.cert_file())?;
    let good = current.as_deref().and_then(der).is_some_and(|der| {
        X509Certificate::from_der(&der).is_ok_and(|(_, certificate)| {
            certificate.public_key().raw == server_key.subject_public_key_info()
                && common_name(&certificate, false) == ca_name(&ca_key)
                && covered(&certificate) == *hosts
                && left(&certificate, now) >= RENEW_DAYS * DAY
        })
    });
    if good {
        return Ok(());
    }
    let issuer = Issuer::new(ca_params, ca_key);
    let certificate = server_params(hosts, now)?
        .signed_by(&server_key, &issuer)
        .map_err(crypto("the server's certificate"))?;
    file::replace(&dir.cert_file(), &certificate.pem(), 0o644)
}

fn ensure_ca(
    dir: &DataDir,
    ca_key: &KeyPair,
    params: &CertificateParams,
) -> Result<(), DataDirError> {
    let path = dir.ca_file();
    let Some(text) = file::read(&path)? else {
        // The same key and name as before, if there was one: devices that hold it still agree.
        let certificate =
            params.self_signed(ca_key).map_err(crypto("the certificate of the private CA"))?;
        return file::create(&path, &certificate.pem(), 0o644).map(|_| ());
    };
    let belongs = der(&text).is_some_and(|der| {
        X509Certificate::from_der(&der).is_ok_and(|(_, certificate)| {
            certificate.public_key().raw == ca_key.subject_public_key_info()
                && common_name(&certificate, true) == ca_name(ca_key)
        })
    });
    if belongs {
        return Ok(());
    }
    Err(DataDirError::Content {
        what: format!("is not the certificate of {}", dir.ca_key_file().display()),
        remedy: "put both back from a backup, or remove the certificate, and the gateway makes \
                 it again from the key"
            .to_owned(),
        path,
    })
}

/// Reads a P-256 key, or makes one.
fn key(path: &Path, what: &'static str) -> Result<KeyPair, DataDirError> {
    for _ in 0..2 {
        if let Some(text) = file::read(path)? {
            file::warn_if_open(path);
            return parse_key(path, &text, what);
        }
        let key = KeyPair::generate().map_err(crypto(what))?;
        if file::create(path, &key.serialize_pem(), 0o600)? {
            return Ok(key);
        }
    }
    Err(DataDirError::Content {
        path: path.to_path_buf(),
        what: "comes and goes".to_owned(),
        remedy: "let only one gateway use the directory".to_owned(),
    })
}

/// Reads a P-256 private key in PKCS#8 PEM.
pub(super) fn parse_key(
    path: &Path,
    text: &str,
    what: &'static str,
) -> Result<KeyPair, DataDirError> {
    let key = KeyPair::from_pem(text).ok();
    key.filter(|key| key.is_compatible(&rcgen::PKCS_ECDSA_P256_SHA256)).ok_or_else(|| {
        DataDirError::Content {
            path: path.to_path_buf(),
            what: format!("does not hold {what} (ECDSA P-256, PKCS#8, PEM)"),
            remedy: "put the right one back from a backup, or move it away, and the gateway makes \
                     a new one (what the old one signed is then worth nothing)"
                .to_owned(),
        }
    })
}

pub(super) fn make_key(path: &Path, what: &'static str) -> Result<(), DataDirError> {
    key(path, what).map(|_| ())
}

fn crypto(what: &'static str) -> impl FnOnce(rcgen::Error) -> DataDirError {
    move |error| DataDirError::Crypto { what, why: error.to_string() }
}

/// Tells CAs of different gateways apart, and follows from the key alone.
fn ca_name(key: &KeyPair) -> String {
    let hash = xxhash_rust::xxh3::xxh3_64(key.der_bytes());
    format!("telemetry gateway CA {:08x}", hash >> 32)
}

/// Browsers refuse a second certificate with the serial number of a first one.
fn serial() -> SerialNumber {
    let mut bytes = uuid::Uuid::new_v4().into_bytes();
    // Positive, and of full length.
    bytes[0] = bytes[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&bytes)
}

fn valid_for(params: &mut CertificateParams, now: u64, days: u64) {
    let at = |seconds: u64| date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds);
    params.not_before = at(now.saturating_sub(BACKDATE_DAYS * DAY));
    params.not_after = at(now + (days - BACKDATE_DAYS) * DAY);
}

fn ca_params(key: &KeyPair, now: u64) -> CertificateParams {
    let mut params = CertificateParams::default();
    valid_for(&mut params, now, CA_DAYS);
    params.serial_number = Some(serial());
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, ca_name(key));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn server_params(hosts: &BTreeSet<String>, now: u64) -> Result<CertificateParams, DataDirError> {
    let names: Vec<String> = hosts.iter().cloned().collect();
    let mut params = CertificateParams::new(names).map_err(crypto("the server's certificate"))?;
    valid_for(&mut params, now, SERVER_DAYS);
    params.serial_number = Some(serial());
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "telemetry gateway");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn der(pem: &str) -> Option<Vec<u8>> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok()?;
    (pem.label == "CERTIFICATE").then_some(pem.contents)
}

fn common_name(certificate: &X509Certificate<'_>, of_subject: bool) -> String {
    let name = if of_subject { certificate.subject() } else { certificate.issuer() };
    let mut names = name.iter_common_name().filter_map(|cn| cn.as_str().ok());
    names.next().unwrap_or_default().to_owned()
}

/// Seconds until it ends.
fn left(certificate: &X509Certificate<'_>, now: u64) -> u64 {
    let end = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
    end.saturating_sub(now)
}

fn covered(certificate: &X509Certificate<'_>) -> BTreeSet<String> {
    let Ok(Some(names)) = certificate.subject_alternative_name() else {
        return BTreeSet::new();
    };
    let text = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from))
                .ok()
                .map(|address| address.to_string())
        }
        _ => None,
    };
    names.value.general_names.iter().filter_map(text).collect()
}
