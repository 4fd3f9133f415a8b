//! What tokens are taken.

#![allow(clippy::unwrap_used)]

use super::*;
use jsonwebtoken::{EncodingKey, Header};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use serde_json::{Value, json};

const NOW: i64 = 1_700_000_000;

struct Issuer {
    key: KeyPair,
}

impl Issuer {
    fn new() -> Self {
        Self { key: KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap() }
    }

    fn root(&self, realm: &str, issuer: Option<&str>) -> TrustRoot {
        TrustRoot {
            realm: realm.to_owned(),
            public_pem: self.key.public_key_pem(),
            issuer: issuer.map(str::to_owned),
        }
    }

    fn signer(&self) -> EncodingKey {
        EncodingKey::from_ec_pem(self.key.serialize_pem().as_bytes()).unwrap()
    }

    fn sign(&self, claims: &Value) -> String {
        self.sign_with(&Header::new(Algorithm::ES256), claims)
    }

    fn sign_with(&self, header: &Header, claims: &Value) -> String {
        jsonwebtoken::encode(header, claims, &self.signer()).unwrap()
    }

    /// Signs any text as header and claims.
    fn sign_raw(&self, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", base64(header), base64(claims));
        let signature =
            jsonwebtoken::crypto::sign(message.as_bytes(), &self.signer(), Algorithm::ES256)
                .unwrap();
        format!("{message}.{signature}")
    }
}

fn base64(text: &str) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut out = String::new();
    for chunk in text.as_bytes().chunks(3) {
        let bits = chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte))
            << (8 * (3 - chunk.len()));
        for digit in 0..=chunk.len() {
            out.push(char::from(DIGITS[(bits >> (18 - 6 * digit)) as usize & 63]));
        }
    }
    out
}

fn good() -> Value {
    json!({ "sub": "d1", "aud": "telemetry", "iat": NOW, "exp": NOW + 60 })
}

fn with(key: &str, value: Value) -> Value {
    let mut claims = good();
    claims[key] = value;
    claims
}

fn without(key: &str) -> Value {
    let mut claims = good();
    claims.as_object_mut().unwrap().remove(key);
    claims
}

#[test]
fn claims() {
    let issuer = Issuer::new();
    let roots = roots(&[issuer.root("default", None)]).unwrap();
    let long = "x".repeat(128);
    let too_long = "x".repeat(129);
    use TokenError::{BadClaims, BadSubject, Expired, NotYet, WrongAudience};
    for (claims, expected) in [
        (good(), Ok("d1")),
        (with("sub", json!(long)), Ok(&*long)),
        (with("sub", json!("Az09_.:@%/=+-")), Ok("Az09_.:@%/=+-")),
        (with("sub", json!("")), Err(BadSubject)),
        (with("sub", json!(too_long)), Err(BadSubject)),
        (with("sub", json!("a b")), Err(BadSubject)),
        (with("sub", json!("a\nb")), Err(BadSubject)),
        (with("sub", json!("ä")), Err(BadSubject)),
        (with("sub", json!("a*")), Err(BadSubject)),
        (with("sub", json!(7)), Err(BadClaims)),
        (without("sub"), Err(BadClaims)),
        (with("aud", json!(["x", "telemetry"])), Ok("d1")),
        (with("aud", json!("Telemetry")), Err(WrongAudience)),
        (with("aud", json!([])), Err(WrongAudience)),
        (without("aud"), Err(BadClaims)),
        (with("exp", json!(NOW - LEEWAY_S + 1)), Ok("d1")),
        (with("exp", json!(NOW - LEEWAY_S)), Err(Expired)),
        (with("exp", json!(0)), Err(Expired)),
        (with("exp", json!(-1)), Err(BadClaims)),
        (with("exp", json!("1700000060")), Err(BadClaims)),
        (with("exp", json!(1e308)), Err(BadClaims)),
        (with("exp", json!(u64::MAX)), Err(BadClaims)),
        (with("exp", json!(null)), Err(BadClaims)),
        (without("exp"), Err(BadClaims)),
        (with("nbf", json!(NOW + LEEWAY_S)), Ok("d1")),
        (with("nbf", json!(NOW + LEEWAY_S + 1)), Err(NotYet)),
        (with("nbf", json!(u64::MAX)), Err(NotYet)),
        (with("nbf", json!("soon")), Err(BadClaims)),
        (without("iat"), Ok("d1")),
        (with("admin", json!({ "unknown": true })), Ok("d1")),
        (json!([]), Err(BadClaims)),
    ] {
        let verified = verify(&roots, &issuer.sign(&claims), NOW);
        let device = verified.map(|verified| verified.identity.device.to_string());
        assert_eq!(device, expected.map(str::to_owned), "{claims}");
    }
}

#[test]
fn headers_and_shapes() {
    let issuer = Issuer::new();
    let roots = roots(&[issuer.root("default", None)]).unwrap();
    let claims = good().to_string();
    let header = |rest: &str| format!(r#"{{"typ":"JWT","alg":"ES256"{rest}}}"#);
    let doubled = r#"{"sub":"d1","sub":"d2","aud":"telemetry","exp":1700000060}"#;
    let token = |rest: &str| issuer.sign_raw(&header(rest), &claims);
    assert!(verify(&roots, &token(""), NOW).is_ok(), "the tool of this test works");
    use TokenError::{BadClaims, BadSignature, Malformed, TooLong};
    let valid = issuer.sign(&good());
    let (message, signature) = valid.rsplit_once('.').unwrap();
    let hs256 = EncodingKey::from_secret(issuer.key.public_key_pem().as_bytes());
    let confused = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &good(), &hs256).unwrap();
    let none = format!("{}.{}.", base64(r#"{"alg":"none"}"#), base64(&claims));
    let odd_kid = r#","kid":"../../etc/passwd' OR \"1\"""#;
    for (what, token, expected) in [
        ("kid is not looked at", token(odd_kid), None),
        ("jku", token(r#","jku":"https://evil.example/keys""#), Some(Malformed)),
        ("x5u", token(r#","x5u":"https://evil.example/cert""#), Some(Malformed)),
        ("x5c", token(r#","x5c":["AAAA"]"#), Some(Malformed)),
        ("jwk", token(r#","jwk":{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}"#), Some(Malformed)),
        ("crit", token(r#","crit":["exp"]"#), Some(Malformed)),
        ("zip", token(r#","zip":"DEF""#), Some(Malformed)),
        ("alg twice", token(r#","alg":"none""#), Some(Malformed)),
        ("none", none, Some(Malformed)),
        ("HS256 with the public key", confused, Some(Malformed)),
        (
            "ES384",
            token("").replace(&base64(&header("")), &base64(r#"{"alg":"ES384"}"#)),
            Some(Malformed),
        ),
        ("claims twice", issuer.sign_raw(&header(""), doubled), Some(BadClaims)),
        ("claims that are no JSON", issuer.sign_raw(&header(""), "{"), Some(BadClaims)),
        ("no signature", format!("{message}."), Some(BadSignature)),
        ("another signature", format!("{message}.{}", "A".repeat(86)), Some(BadSignature)),
        (
            "other claims",
            {
                let other = issuer.sign(&with("sub", json!("d2")));
                format!("{}.{signature}", other.rsplit_once('.').unwrap().0)
            },
            Some(BadSignature),
        ),
        ("empty", String::new(), Some(Malformed)),
        ("dots", "...".to_owned(), Some(Malformed)),
        ("two parts", message.to_owned(), Some(Malformed)),
        ("long", "x".repeat(MAX_TOKEN_BYTES + 1), Some(TooLong)),
        ("long claims", issuer.sign(&with("x", json!("y".repeat(100_000)))), Some(TooLong)),
    ] {
        assert_eq!(verify(&roots, &token, NOW).err(), expected, "{what}");
    }
}

#[test]
fn a_root_vouches_for_its_own_realm_only() {
    let (one, two, stranger) = (Issuer::new(), Issuer::new(), Issuer::new());
    let roots = roots(&[one.root("default", None), two.root("plant", Some("https://id"))]).unwrap();
    let realm = |token: &str| {
        verify(&roots, token, NOW).map(|verified| verified.identity.realm.to_string())
    };
    assert_eq!(realm(&one.sign(&good())), Ok("default".to_owned()));
    assert_eq!(realm(&two.sign(&with("iss", json!("https://id")))), Ok("plant".to_owned()));
    assert_eq!(realm(&two.sign(&good())), Err(TokenError::WrongAudience));
    assert_eq!(
        realm(&two.sign(&with("iss", json!("https://other")))),
        Err(TokenError::WrongAudience)
    );
    assert_eq!(realm(&stranger.sign(&good())), Err(TokenError::BadSignature));
}

#[test]
fn roots_that_cannot_be_used_are_named() {
    let issuer = Issuer::new();
    let same = super::roots(&[issuer.root("a", None), issuer.root("b", None)]).unwrap_err();
    assert!(matches!(same, KeyError::SameKey { .. }), "{same}");
    let rsa = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n";
    let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap().public_key_pem();
    let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap().public_key_pem();
    for public_pem in ["", "x", rsa, &ed25519, &p384, &issuer.key.serialize_pem()] {
        let root =
            TrustRoot { realm: "a".to_owned(), public_pem: public_pem.to_owned(), issuer: None };
        let error = super::roots(&[root]).unwrap_err();
        assert!(error.to_string().contains("\"a\""), "{error}");
    }
}
