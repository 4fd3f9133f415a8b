//! What an answer of the store means.

use hyper::{HeaderMap, StatusCode, header::RETRY_AFTER};
use std::time::{Duration, SystemTime};

/// Most characters of the store's words that are kept.
const MAX_WORDS: usize = 500;

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The store confirmed all of it.
    Stored,
    /// The store refused at least one point for good.
    Refused(Refusal),
    /// The store takes no request of this size.
    TooLarge(String),
    /// Nothing will be taken until a person does something.
    Blocked(String),
    /// It may be taken later.
    Again {
        /// The store's own wish.
        after: Option<Duration>,
        /// What happened.
        why: String,
    },
}

/// The store's words about points it does not take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The message, on one line.
    pub(super) words: String,
    /// How many points of the request are not stored, if it says so.
    pub(super) dropped: Option<usize>,
    /// The words are about points, not about the request as such.
    pub(super) about_points: bool,
}

/// Judges a complete answer.
pub(super) fn judge(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Verdict {
    let words = words(body);
    let said = || match words.as_str() {
        "" => format!("the store answers {status}"),
        words => format!("the store answers {status}: {words}"),
    };
    match status.as_u16() {
        200..=299 => Verdict::Stored,
        400 | 422 => Verdict::Refused(refusal(status, words)),
        413 => Verdict::TooLarge(said()),
        401 | 403 => Verdict::Blocked(format!(
            "{}; give the token a right to write to the bucket, or configure another",
            said()
        )),
        404 => {
            Verdict::Blocked(format!("{}; make the bucket, or correct url, org and bucket", said()))
        }
        // A redirect, a method that is not allowed: not the store that was meant.
        300..=399 | 405 | 410 | 411 | 415 | 421 | 426 | 501 | 505 => {
            Verdict::Blocked(format!("{}; correct the url of the store", said()))
        }
        // 408, 429, 5xx, and what nobody has thought of: the data is kept.
        _ => Verdict::Again { after: retry_after(headers), why: said() },
    }
}

fn refusal(status: StatusCode, words: String) -> Refusal {
    let words = if words.is_empty() { format!("{status}") } else { words };
    let about = ["partial write", "unable to parse", "field type conflict", "retention policy"];
    Refusal {
        dropped: dropped(&words),
        about_points: about.iter().any(|about| words.contains(about)),
        words,
    }
}

/// `… dropped=3`
fn dropped(words: &str) -> Option<usize> {
    let (_, rest) = words.rsplit_once("dropped=")?;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..digits].parse().ok()
}

/// What the store says: the message of its JSON, or the text, on one line.
fn words(body: &[u8]) -> String {
    let json: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let message = json.as_ref().and_then(|json| {
        let text = ["message", "error"].iter().find_map(|key| json.get(key)?.as_str());
        text.map(str::to_owned)
    });
    let text = message.unwrap_or_else(|| String::from_utf8_lossy(body).into_owned());
    let one_line = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c });
    let all: Vec<char> = one_line.collect();
    if all.len() <= MAX_WORDS {
        return all.into_iter().collect();
    }
    // The number of dropped points stands at the end.
    let half = MAX_WORDS / 2;
    all[..half].iter().chain(&[' ', '…', ' ']).chain(&all[all.len() - half..]).collect()
}

/// Seconds, or a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = httpdate::parse_http_date(text).ok()?;
    Some(at.duration_since(SystemTime::now()).unwrap_or_default())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    fn judged(status: u16, body: &str) -> Verdict {
        judge(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), body.as_bytes())
    }

    #[test]
    fn every_status_has_its_meaning() {
        for status in [200, 204] {
            assert_eq!(judged(status, ""), Verdict::Stored);
        }
        for status in [301, 307, 401, 403, 404, 405, 501] {
            assert!(matches!(judged(status, ""), Verdict::Blocked(_)), "{status}");
        }
        for status in [402, 408, 418, 429, 500, 502, 503, 504, 599] {
            assert!(matches!(judged(status, ""), Verdict::Again { after: None, .. }), "{status}");
        }
        for status in [400, 422] {
            assert!(matches!(judged(status, ""), Verdict::Refused(_)), "{status}");
        }
        assert!(matches!(judged(413, ""), Verdict::TooLarge(_)));
    }

    #[test]
    fn the_words_of_the_stores_are_understood() {
        let v1 = concat!(
            r#"{"error":"partial write: field type conflict: input field \"x\" on measurement"#,
            r#" \"m\" is type string, already exists as type float dropped=3"}"#
        );
        let v2 = concat!(
            r#"{"code":"unprocessable entity","message":"failure writing points to database: "#,
            r#"partial write: points beyond retention policy dropped=12"}"#
        );
        let cases = [
            (v1, Some(3), true, "partial write: field type"),
            (v2, Some(12), true, "failure writing points"),
            ("unable to parse 'm x=1u 1': invalid number\n", None, true, "unable to parse"),
            ("<html>Bad\r\nRequest</html>", None, false, "<html>Bad  Request"),
            ("", None, false, "400 Bad Request"),
        ];
        for (body, dropped, about_points, begins) in cases {
            let Verdict::Refused(refusal) = judged(400, body) else { panic!("{body}") };
            assert_eq!((refusal.dropped, refusal.about_points), (dropped, about_points), "{body}");
            assert!(refusal.words.starts_with(begins), "{refusal:?}");
        }
        let long = format!("partial write: {} dropped=7", "x".repeat(10_000));
        let Verdict::Refused(refusal) = judged(400, &long) else { panic!() };
        assert_eq!(refusal.dropped, Some(7));
        assert!(refusal.words.len() < 600);
    }

    #[test]
    fn a_wish_for_a_pause_is_seconds_or_a_date() {
        let after = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_str(text).unwrap());
            match judge(StatusCode::SERVICE_UNAVAILABLE, &headers, b"") {
                Verdict::Again { after, .. } => after,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(after("17"), Some(Duration::from_secs(17)));
        assert_eq!(after("soon"), None);
        let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(90));
        let wish = after(&date).unwrap();
        assert!(wish > Duration::from_secs(80) && wish <= Duration::from_secs(90), "{wish:?}");
        assert_eq!(after("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
    }
}
