//! Credentials that prove nothing.

use super::{Arena, Fate, claims, unix_s, upgrade::good, wire::Wire};
use jsonwebtoken::{Algorithm, EncodingKey, Header, crypto};
use serde_json::{Value, json};

/// Text in base64url without padding.
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

impl Arena {
    /// Signs any text as header and claims with the gateway's own key.
    fn sign_text(&self, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", base64(header), base64(claims));
        let signature = crypto::sign(message.as_bytes(), &self.key, Algorithm::ES256).unwrap();
        format!("{message}.{signature}")
    }

    fn with_claim(&self, device: &str, name: &str, value: Value) -> String {
        let mut claims = claims(device);
        claims[name] = value;
        self.sign(&Header::new(Algorithm::ES256), &claims)
    }

    fn with_header(&self, device: &str, header: &str) -> String {
        self.sign_text(header, &claims(device).to_string())
    }

    async fn fate_of_token(&self, token: &str) -> Fate {
        match Wire::upgrade(self.tls().await, &good(token)).await {
            Ok(_) => Fate::Taken,
            Err(0) => Fate::Gone,
            Err(status) => Fate::Status(status),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_proves_nothing_is_unauthorized() {
    let arena = Arena::open().await;
    let pem = std::fs::read_to_string(arena.home.token_key()).unwrap();
    let public = rcgen::KeyPair::from_pem(&pem).unwrap().public_key_pem();
    type Make = fn(&Arena, &str) -> String;
    let no = Fate::Status(401);
    let cases: Vec<(&str, Make, Fate)> = vec![
        ("a good one", |a, d| a.token(d), Fate::Taken),
        ("empty", |_, _| String::new(), no),
        ("a dot", |_, _| ".".into(), no),
        ("two dots", |_, _| "..".into(), no),
        ("no base64", |_, _| "!.!.!".into(), no),
        ("without its signature", |a, d| cut(&a.token(d), 0), no),
        ("with half of its signature", |a, d| cut(&a.token(d), 40), no),
        ("with one bit changed", |a, d| change_last(&a.token(d)), no),
        ("with a fourth part", |a, d| a.token(d) + ".x", no),
        ("with the claims of another", other_claims, no),
        ("signed by another key", |_, d| signed_by_stranger(d), no),
        ("algorithm none", |_, d| unsigned(d, "none"), no),
        ("algorithm None", |_, d| unsigned(d, "None"), no),
        ("algorithm missing", |a, d| a.with_header(d, r#"{"typ":"JWT"}"#), no),
        ("algorithm ES384", |a, d| a.with_header(d, r#"{"alg":"ES384"}"#), no),
        ("algorithm RS256", |a, d| a.with_header(d, r#"{"alg":"RS256"}"#), no),
        ("algorithm twice", |a, d| a.with_header(d, r#"{"alg":"ES256","alg":"none"}"#), no),
        ("a critical extension", |a, d| a.with_header(d, r#"{"alg":"ES256","crit":["x"]}"#), no),
        (
            "a key in the header",
            |a, d| a.with_header(d, r#"{"alg":"ES256","jku":"https://evil.example/k"}"#),
            no,
        ),
        (
            "a certificate in the header",
            |a, d| a.with_header(d, r#"{"alg":"ES256","x5c":["MIIB"]}"#),
            no,
        ),
        (
            "a key id that is a path",
            |a, d| a.with_header(d, r#"{"alg":"ES256","kid":"../../etc/passwd"}"#),
            Fate::Taken,
        ),
        (
            "a key id with quotes",
            |a, d| a.with_header(d, r#"{"alg":"ES256","kid":"' OR 1=1 --"}"#),
            Fate::Taken,
        ),
        ("another audience", |a, d| a.with_claim(d, "aud", json!("admin")), no),
        ("no audience", |a, d| a.with_claim(d, "aud", json!([])), no),
        ("an audience of the wrong type", |a, d| a.with_claim(d, "aud", json!(7)), no),
        ("expired", |a, d| a.with_claim(d, "exp", json!(unix_s() - 60)), no),
        ("expiry as text", |a, d| a.with_claim(d, "exp", json!("2033")), no),
        ("expiry negative", |a, d| a.with_claim(d, "exp", json!(-1)), no),
        ("expiry 1e308", |a, d| a.with_claim(d, "exp", json!(1e308)), no),
        ("expiry missing", |a, d| a.with_claim(d, "exp", json!(null)), no),
        ("not yet valid", |a, d| a.with_claim(d, "nbf", json!(unix_s() + 600)), no),
        ("no device", |a, _| a.with_claim("x", "sub", json!("")), no),
        ("a device with a space", |a, _| a.with_claim("x", "sub", json!("a b")), no),
        ("a device with a line feed", |a, _| a.with_claim("x", "sub", json!("a\nb")), no),
        ("a device of 129 bytes", |a, _| a.with_claim("x", "sub", json!("x".repeat(129))), no),
        ("a device that is a number", |a, _| a.with_claim("x", "sub", json!(7)), no),
        ("a device that is a wildcard", |a, _| a.with_claim("x", "sub", json!("#")), no),
        (
            "a device twice",
            |a, _| {
                a.sign_text(
                    r#"{"alg":"ES256"}"#,
                    r#"{"sub":"a","sub":"b","aud":"telemetry","exp":4000000000}"#,
                )
            },
            no,
        ),
        ("claims that are no map", |a, _| a.sign_text(r#"{"alg":"ES256"}"#, "[]"), no),
        ("claims that are no JSON", |a, _| a.sign_text(r#"{"alg":"ES256"}"#, "\0"), no),
        ("5 KB of claims", |a, d| a.with_claim(d, "x", json!("x".repeat(3600))), no),
        ("100 KB", |_, _| "x".repeat(100_000), Fate::Status(431)),
    ];
    arena
        .try_all(cases, |device, make| {
            let (arena, token) = (&arena, make(&arena, &device));
            async move { arena.fate_of_token(&token).await }
        })
        .await;
    // The public key as a shared secret: the confusion of algorithms.
    let confused = EncodingKey::from_secret(public.as_bytes());
    let claims = claims("mallory");
    let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &confused).unwrap();
    assert_eq!(arena.fate_of_token(&token).await, no);
    arena.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guessing_is_slowed_down_and_a_good_credential_beside_it_is_not() {
    let arena = Arena::open().await;
    let mut statuses = Vec::new();
    for _ in 0..20 {
        let stream = crate::support::device::tls(&arena.gateway).await;
        statuses.push(Wire::upgrade(stream, &good("a.guess.x")).await.err());
    }
    assert_eq!(statuses.first(), Some(&Some(401)));
    assert_eq!(statuses.last(), Some(&Some(429)));
    let stream = crate::support::device::tls(&arena.gateway).await;
    let welcome = Wire::upgrade(stream, &good(&arena.token("neighbour"))).await;
    assert!(welcome.is_ok(), "a good credential behind the same address: {:?}", welcome.err());
    arena.close().await;
}

fn cut(token: &str, signature: usize) -> String {
    let dot = token.rfind('.').unwrap();
    token[..=dot + signature].to_owned()
}

fn change_last(token: &str) -> String {
    let at = token.len() - 10;
    let other = if token.as_bytes()[at] == b'A' { "B" } else { "A" };
    format!("{}{other}{}", &token[..at], &token[at + 1..])
}

fn other_claims(arena: &Arena, device: &str) -> String {
    let (own, other) = (arena.token(device), arena.token("honest"));
    let (own, other): (Vec<_>, Vec<_>) = (own.split('.').collect(), other.split('.').collect());
    [own[0], other[1], own[2]].join(".")
}

fn unsigned(device: &str, algorithm: &str) -> String {
    let header = json!({ "alg": algorithm, "typ": "JWT" }).to_string();
    format!("{}.{}.", base64(&header), base64(&claims(device).to_string()))
}

fn signed_by_stranger(device: &str) -> String {
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let key = EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes()).unwrap();
    jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims(device), &key).unwrap()
}
