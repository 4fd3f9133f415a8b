//! The device id in a client certificate.
//!
//! The first of these that is present decides, and it must be there exactly once:
//!
//! 1. a URI among the subject's alternative names of the form `urn:device:<id>`;
//! 2. a DNS name among the alternative names;
//! 3. the common name of the subject.

use super::is_device_id;
use x509_parser::{extensions::GeneralName, prelude::*};

const URI_PREFIX: &str = "urn:device:";

/// Why a certificate names no device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// It cannot be parsed.
    #[error("not a certificate")]
    Malformed,
    /// It has no name of a kind that is looked for.
    #[error("no urn:device: URI, no DNS name, no common name")]
    NoName,
    /// It has several of the kind that decides.
    #[error("several names of the same kind")]
    Ambiguous,
    /// The name is not a device id.
    #[error("the name is not a device id")]
    BadName,
}

/// The device id in a certificate, and when the certificate expires (seconds since the Unix
/// epoch).
///
/// # Errors
/// It names no device.
pub fn device_of_certificate(der: &[u8]) -> Result<(String, i64), CertificateError> {
    let (_, certificate) =
        X509Certificate::from_der(der).map_err(|_| CertificateError::Malformed)?;
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| CertificateError::Malformed)?
        .map_or(&[][..], |extension| &extension.value.general_names);
    let uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => uri.strip_prefix(URI_PREFIX),
        _ => None,
    });
    let dns = names.iter().filter_map(|name| match name {
        GeneralName::DNSName(dns) => Some(*dns),
        _ => None,
    });
    let common =
        certificate.subject().iter_common_name().map(|name| name.as_str().unwrap_or_default());
    let device = match the_one(uris)? {
        Some(name) => Some(name),
        None => match the_one(dns)? {
            Some(name) => Some(name),
            None => the_one(common)?,
        },
    }
    .ok_or(CertificateError::NoName)?;
    if !is_device_id(device) {
        return Err(CertificateError::BadName);
    }
    Ok((device.to_owned(), certificate.validity().not_after.timestamp()))
}

fn the_one<'a>(
    mut names: impl Iterator<Item = &'a str>,
) -> Result<Option<&'a str>, CertificateError> {
    let first = names.next();
    if names.next().is_some() { Err(CertificateError::Ambiguous) } else { Ok(first) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

    fn certificate(common: Option<&str>, dns: &[&str], uris: &[&str]) -> Vec<u8> {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.distinguished_name = DistinguishedName::new();
        if let Some(common) = common {
            params.distinguished_name.push(DnType::CommonName, common);
        }
        let dns = dns.iter().map(|name| SanType::DnsName((*name).try_into().unwrap()));
        let uris = uris.iter().map(|name| SanType::URI((*name).try_into().unwrap()));
        params.subject_alt_names = dns.chain(uris).collect();
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn the_first_kind_that_is_present_decides() {
        let device = |der: Vec<u8>| device_of_certificate(&der).map(|(device, _)| device);
        for (common, dns, uris, expected) in [
            (Some("cn"), &[][..], &[][..], Ok("cn")),
            (Some("cn"), &["a.b"], &[], Ok("a.b")),
            (Some("cn"), &["a.b"], &["urn:device:x/1"], Ok("x/1")),
            (Some("cn"), &[], &["https://example.org"], Ok("cn")),
            (Some("cn"), &["a", "b"], &[], Err(CertificateError::Ambiguous)),
            (Some("cn"), &[], &["urn:device:a", "urn:device:b"], Err(CertificateError::Ambiguous)),
            (Some("no space"), &[], &[], Err(CertificateError::BadName)),
            (Some(""), &[], &[], Err(CertificateError::BadName)),
            (None, &[], &[], Err(CertificateError::NoName)),
        ] {
            let found = device(certificate(common, dns, uris));
            assert_eq!(found, expected.map(str::to_owned), "{common:?} {dns:?} {uris:?}");
        }
        assert_eq!(device(vec![0x30, 3, 1]), Err(CertificateError::Malformed));
    }
}
