//! What an answer of the store means.

use hyper::{HeaderMap, StatusCode, header::RETRY_AFTER};
use serde_json::Value;
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
    /// The bucket, the organisation or the path is not there.
    Missing(String),
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
    /// The lines that it names, from 0, ascending, each with its own words.
    pub(super) named: Vec<(usize, String)>,
}

impl Refusal {
    /// Words that are about points, of which they name none.
    pub(super) fn of_points(words: String) -> Self {
        Self { words, dropped: None, about_points: true, named: Vec::new() }
    }

    /// The store says of every one of so many lines that it is not stored.
    pub(super) fn is_of_all(&self, lines: usize) -> bool {
        let named = self.named.iter().filter(|(line, _)| *line < lines).count();
        lines == 1 || self.dropped == Some(lines) || named == lines
    }

    /// What it says of a line.
    pub(super) fn words_of(&self, line: usize) -> &str {
        let named = self.named.binary_search_by_key(&line, |(line, _)| *line);
        named.map_or(self.words.as_str(), |at| &self.named[at].1)
    }
}

/// Judges a complete answer.
pub(super) fn judge(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Verdict {
    let json: Option<Value> = serde_json::from_slice(body).ok();
    let words = words(json.as_ref(), body);
    let said = || match words.as_str() {
        "" => format!("the store answers {status}"),
        words => format!("the store answers {status}: {words}"),
    };
    match status.as_u16() {
        200..=299 => Verdict::Stored,
        400 | 422 => Verdict::Refused(refusal(status, words, named(json.as_ref()))),
        413 => Verdict::TooLarge(said()),
        401 | 403 => Verdict::Blocked(format!(
            "{}; give the token a right to write to the bucket, or configure another",
            said()
        )),
        404 => Verdict::Missing(said()),
        // A redirect, a method that is not allowed: not the store that was meant.
        300..=399 | 405 | 410 | 411 | 415 | 421 | 426 | 501 | 505 => {
            Verdict::Blocked(format!("{}; correct the url of the store", said()))
        }
        // 408, 429, 5xx, and what nobody has thought of: the data is kept.
        _ => Verdict::Again { after: retry_after(headers), why: said() },
    }
}

fn refusal(status: StatusCode, words: String, named: Vec<(usize, String)>) -> Refusal {
    let words = if words.is_empty() { format!("{status}") } else { words };
    let about = [
        "partial write",
        "unable to parse",
        "field type conflict",
        "retention policy",
        "errors encountered on line(s)",
    ];
    Refusal {
        dropped: dropped(&words),
        about_points: !named.is_empty() || about.iter().any(|about| words.contains(about)),
        named,
        words,
    }
}

/// What InfluxDB 3 says line by line: `data` is a list of such objects, or one of them if it
/// stopped at the first; elsewhere the same stands in the text as `line 2: …`.
fn named(json: Option<&Value>) -> Vec<(usize, String)> {
    let Some(json) = json else { return Vec::new() };
    let mut named: Vec<(usize, String)> = match &json["data"] {
        Value::Array(lines) => lines.iter().filter_map(line).collect(),
        Value::Null => in_text(json["message"].as_str().unwrap_or_default()),
        one => line(one).into_iter().collect(),
    };
    named.sort_by_key(|(line, _)| *line);
    named.dedup_by_key(|(line, _)| *line);
    named
}

fn line(of: &Value) -> Option<(usize, String)> {
    let number = usize::try_from(of["line_number"].as_u64()?).ok()?;
    Some((number.checked_sub(1)?, one_line(of["error_message"].as_str()?)))
}

fn in_text(message: &str) -> Vec<(usize, String)> {
    let Some((_, lines)) = message.split_once("errors encountered on line(s):") else {
        return Vec::new();
    };
    let mut named = Vec::new();
    for part in lines.split("line ").skip(1) {
        let Some((number, words)) = part.split_once(':') else { continue };
        let Ok(number) = number.trim().parse::<usize>() else { continue };
        let words = words.trim_end_matches([' ', ',', ';', '\n']);
        named.extend(number.checked_sub(1).map(|line| (line, one_line(words))));
    }
    named
}

/// `… dropped=3`
fn dropped(words: &str) -> Option<usize> {
    let (_, rest) = words.rsplit_once("dropped=")?;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..digits].parse().ok()
}

/// What the store says: the message of its JSON, or the text, on one line.
fn words(json: Option<&Value>, body: &[u8]) -> String {
    let message = json.and_then(|json| {
        let text = ["message", "error"].iter().find_map(|key| json.get(key)?.as_str());
        text.map(str::to_owned)
    });
    one_line(&message.unwrap_or_else(|| String::from_utf8_lossy(body).into_owned()))
}

fn one_line(text: &str) -> String {
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
        for status in [301, 307, 401, 403, 405, 501] {
            assert!(matches!(judged(status, ""), Verdict::Blocked(_)), "{status}");
        }
        for status in [402, 408, 418, 429, 500, 502, 503, 504, 599] {
            assert!(matches!(judged(status, ""), Verdict::Again { after: None, .. }), "{status}");
        }
        for status in [400, 422] {
            assert!(matches!(judged(status, ""), Verdict::Refused(_)), "{status}");
        }
        assert!(matches!(judged(413, ""), Verdict::TooLarge(_)));
        assert!(matches!(judged(404, ""), Verdict::Missing(_)));
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
    fn lines_that_a_store_names_are_named() {
        let v3 = |data: &str| {
            let of = r#""error":"partial write of line protocol occurred""#;
            format!("{{{of},\"data\":{data}}}")
        };
        let one = |line: i64, words: &str| {
            format!(
                r#"{{"original_line":"m x=hi 5","line_number":{line},"error_message":"{words}"}}"#
            )
        };
        let cloud = "partial write has occurred, errors encountered on line(s): line 2: Could not \
                     parse entire line; line 12: no fields";
        let cloud = format!(r#"{{"code":"invalid","message":"{cloud}"}}"#);
        let two = format!("[{},{}]", one(7, "b"), one(2, "invalid column type\\nfor 'x'"));
        let cases = [
            (v3(&two), vec![(1, "invalid column type for 'x'"), (6, "b")]),
            (v3(&one(1, "No fields were provided")), vec![(0, "No fields were provided")]),
            (v3(&format!("[{},{{}},7,{}]", one(0, "x"), one(-1, "x"))), vec![]),
            (v3("null"), vec![]),
            (cloud, vec![(1, "Could not parse entire line"), (11, "no fields")]),
        ];
        for (body, expected) in cases {
            let Verdict::Refused(refusal) = judged(400, &body) else { panic!("{body}") };
            let named: Vec<_> =
                refusal.named.iter().map(|(line, words)| (*line, words.as_str())).collect();
            assert_eq!(named, expected, "{body}");
            assert!(refusal.about_points, "{body}");
            assert_eq!(refusal.dropped, None);
            for (line, words) in &named {
                assert_eq!(refusal.words_of(*line), *words);
            }
            assert_eq!(refusal.words_of(99), refusal.words);
            assert!(refusal.is_of_all(1) && !refusal.is_of_all(2), "{body}");
        }
    }

    #[test]
    fn a_refusal_of_all_lines_is_told_from_one_of_some() {
        let list = |lines: &[u64]| {
            let data: Vec<_> = lines
                .iter()
                .map(|line| serde_json::json!({ "line_number": line, "error_message": "x" }))
                .collect();
            serde_json::json!({ "error": "partial write", "data": data }).to_string()
        };
        let dropped = |n: u32| format!("partial write: … dropped={n}");
        let cases = [
            (list(&[1, 2, 3]), 3, true),
            (list(&[3, 1, 2, 2]), 3, true),
            (list(&[1, 2]), 3, false),
            // Lines that were not sent are none of them.
            (list(&[2, 3, 4]), 3, false),
            (dropped(3), 3, true),
            (dropped(2), 3, false),
            ("unable to parse".to_owned(), 3, false),
            ("unable to parse".to_owned(), 1, true),
        ];
        for (body, lines, all) in cases {
            let Verdict::Refused(refusal) = judged(400, &body) else { panic!("{body}") };
            assert_eq!(refusal.is_of_all(lines), all, "{body}");
        }
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
