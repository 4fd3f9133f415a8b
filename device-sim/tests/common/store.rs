//! An embedded store made by hand, in the gateway's layout, to tell the oracle lies.

use super::{FakeGateway, Kept};
use proto::{Batch, Limits, RawReading, RawTime, RawValue, TimeUnit};
use rusqlite::{Connection, params, types::Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const BUCKET_S: i64 = 2;

const SCHEMA: &str = "
PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF;
CREATE TABLE series (
    id INTEGER PRIMARY KEY, device TEXT, realm TEXT, measurement TEXT, field TEXT, kind TEXT,
    tags TEXT, UNIQUE (device, realm, measurement, field, kind, tags)) STRICT;
CREATE TABLE bucket (
    start INTEGER PRIMARY KEY, until INTEGER, width INTEGER, points INTEGER, newest_ns INTEGER
) STRICT;
CREATE TABLE point (
    bucket INTEGER, series INTEGER, at INTEGER, value, PRIMARY KEY (bucket, series, at)
) WITHOUT ROWID;
CREATE TABLE cursor (
    id INTEGER PRIMARY KEY, position INTEGER, stored INTEGER, overwritten INTEGER, points INTEGER
) STRICT;
INSERT INTO cursor VALUES (1, 0, 0, 0, 0);
CREATE VIEW readings AS
    SELECT p.bucket * 1000000000 + p.at AS time_ns,
           s.realm, s.device, s.measurement, s.field, s.tags, s.kind,
           CASE s.kind WHEN 'float' THEN CAST(p.value AS REAL) ELSE p.value END AS value,
           p.bucket AS bucket_s
    FROM point p JOIN series s ON s.id = p.series;
";

/// One reading as the store has it.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    pub device: String,
    pub measurement: String,
    pub tags: BTreeMap<String, String>,
    pub time_ns: i64,
    pub fields: Vec<(String, &'static str, Value)>,
}

pub struct HandMade {
    pub path: PathBuf,
    pub connection: Connection,
}

impl HandMade {
    pub fn create(folder: &Path) -> Self {
        let path = folder.join("telemetry.db");
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch(SCHEMA).unwrap();
        Self { path, connection }
    }

    /// Stores a reading as the gateway does: by series and time, counting what it overwrites.
    pub fn put(&self, point: &Point) {
        let bucket = point.time_ns.div_euclid(1_000_000_000 * BUCKET_S) * BUCKET_S;
        let run = |sql: &str, values: &[&dyn rusqlite::ToSql]| {
            self.connection.prepare_cached(sql).unwrap().execute(values).unwrap()
        };
        run(
            "INSERT OR IGNORE INTO bucket VALUES (?1, ?2, ?3, 0, 0)",
            params![bucket, bucket + BUCKET_S, BUCKET_S],
        );
        let tags = serde_json::to_string(&point.tags).unwrap();
        let (mut new, mut over) = (0, 0);
        for (field, kind, value) in &point.fields {
            let key = params![point.device, "default", point.measurement, field, kind, tags];
            run(
                "INSERT OR IGNORE INTO series (device, realm, measurement, field, kind, tags)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                key,
            );
            let sql = "SELECT id FROM series WHERE (device, realm, measurement, field, kind, tags)
                       = (?1, ?2, ?3, ?4, ?5, ?6)";
            let id: i64 = self.connection.query_row(sql, key, |row| row.get(0)).unwrap();
            let at = point.time_ns - bucket * 1_000_000_000;
            let row = params![bucket, id, at, value];
            match run("INSERT OR IGNORE INTO point VALUES (?1, ?2, ?3, ?4)", row) {
                1 => new += 1,
                _ => {
                    over += run(
                        "UPDATE point SET value = ?4 WHERE bucket = ?1 AND series = ?2 AND at = ?3",
                        row,
                    )
                }
            }
        }
        run(
            "UPDATE cursor SET position = position + 1, stored = stored + 1, points = points + ?1,
             overwritten = overwritten + ?2",
            params![new, i64::try_from(over).unwrap()],
        );
    }
}

/// What a gateway would store of what it kept.
pub fn points(gateway: &FakeGateway) -> Vec<Point> {
    let mut points = Vec::new();
    for (device, Kept { bodies, .. }) in gateway.kept() {
        for (_, body, refused) in bodies {
            let batch = Batch::open(&body, &Limits::default()).unwrap();
            let (mut readings, mut raw) = (batch.readings(), RawReading::default());
            let mut index = 0;
            while let Some(read) = readings.next(&mut raw).unwrap() {
                read.unwrap();
                if refused != Some(index) {
                    points.push(point(&device, &raw));
                }
                index += 1;
            }
        }
    }
    points.sort_by(|a, b| (&a.device, a.time_ns).cmp(&(&b.device, b.time_ns)));
    points
}

fn point(device: &str, raw: &RawReading<'_>) -> Point {
    let Some(RawTime::Units(time)) = raw.time else { panic!("every reading has a time") };
    let field = |(name, value): &(&str, RawValue<'_>)| {
        let (kind, value) = match *value {
            RawValue::Float(x) => ("float", Value::Real(x)),
            // A float without a fraction is shorter as an integer; the view makes it a float again.
            RawValue::Int(n) => ("float", Value::Integer(n)),
            RawValue::Bool(b) => ("boolean", Value::Integer(i64::from(b))),
            RawValue::Str(text) => ("string", Value::Text(text.to_owned())),
            RawValue::UInt(_) => panic!("no value is that large"),
        };
        ((*name).to_owned(), kind, value)
    };
    Point {
        device: device.to_owned(),
        measurement: "environment".to_owned(),
        tags: raw.tags.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        time_ns: time * TimeUnit::Ms.nanos(),
        fields: raw.fields.iter().map(field).collect(),
    }
}
