//! The file that a subscriber writes: an SQLite database with every reading that came, as often as
//! it came, by device and time.
//!
//! It can be read while it grows. A group of messages is one transaction, synced before any of them
//! is acknowledged.

use super::Options;
use super::message::{Message, Payload, Reading};
use anyhow::{Context, Result, ensure};
use rumqttc::v5::mqttbytes::v5::Publish;
use rusqlite::{Connection, params};
use std::path::PathBuf;
use std::time::Duration;

/// Version of the layout: 1 had no realms.
pub const FORMAT: i64 = 2;
/// Most messages that are kept because nobody could read them; the others are counted.
const MAX_UNREADABLE: u64 = 100;
/// How much of such a message is kept, in bytes.
const UNREADABLE_BYTES: usize = 300;
/// How long a statement waits for somebody who reads.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// From layout 1. What came before has no realm.
pub(crate) const ADD_REALM: &str = "
ALTER TABLE reading ADD COLUMN realm TEXT;
UPDATE subscription SET format = 2;
";

const LAYOUT: &str = "
CREATE TABLE subscription (
    id INTEGER PRIMARY KEY CHECK (id = 1), format INTEGER NOT NULL, topic TEXT NOT NULL,
    messages INTEGER NOT NULL, readings INTEGER NOT NULL, unreadable INTEGER NOT NULL,
    subscribed INTEGER NOT NULL, sessions_lost INTEGER NOT NULL
) STRICT;
CREATE TABLE reading (
    device TEXT NOT NULL, time_ns INTEGER NOT NULL, arrival INTEGER NOT NULL,
    measurement TEXT NOT NULL, tags TEXT NOT NULL, fields TEXT NOT NULL, realm TEXT,
    PRIMARY KEY (device, time_ns, arrival)
) STRICT, WITHOUT ROWID;
CREATE TABLE unreadable (
    arrival INTEGER PRIMARY KEY, topic TEXT NOT NULL, why TEXT NOT NULL, begins BLOB NOT NULL
) STRICT;
";

/// What a recording holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Messages that came.
    pub messages: u64,
    /// Readings in them.
    pub readings: u64,
    /// Messages that are none of the gateway's.
    pub unreadable: u64,
    /// How often the broker did not have our session any more.
    pub sessions_lost: u64,
}

/// The file, open for writing.
pub(super) struct Recording {
    connection: Connection,
    path: PathBuf,
}

impl Recording {
    /// Opens a file or makes it; true if it has never been subscribed for.
    pub(super) fn open(options: &Options) -> Result<(Self, bool)> {
        let path = options.recording.clone();
        let open = || -> Result<(Connection, bool)> {
            let mut connection = Connection::open(&path)?;
            connection.busy_timeout(BUSY_TIMEOUT)?;
            connection.pragma_update(None, "journal_mode", "wal")?;
            connection.pragma_update(None, "synchronous", "full")?;
            let sql = "SELECT count(*) FROM sqlite_schema";
            let is_new = connection.query_row(sql, [], |row| row.get::<_, i64>(0))? == 0;
            let transaction = connection.transaction()?;
            if is_new {
                transaction.execute_batch(LAYOUT)?;
                let first = "INSERT INTO subscription VALUES (1, ?1, ?2, 0, 0, 0, 0, 0)";
                transaction.execute(first, params![FORMAT, options.topic])?;
            }
            let mut kept = transaction
                .query_row("SELECT format, topic, subscribed FROM subscription", [], |row| {
                    Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?, row.get::<_, i64>(2)?))
                })
                .context("it is no recording of a subscriber")?;
            if kept.0 == 1 {
                transaction.execute_batch(ADD_REALM)?;
                kept.0 = FORMAT;
            }
            ensure!(kept.0 == FORMAT, "it has format {}, this is {FORMAT}", kept.0);
            ensure!(kept.1 == options.topic, "it is a recording of {:?}", kept.1);
            transaction.commit()?;
            Ok((connection, kept.2 == 0))
        };
        let (connection, is_new) =
            open().with_context(|| format!("cannot record to {}", path.display()))?;
        Ok((Self { connection, path }, is_new))
    }

    /// Writes messages down; they are on the disk when this returns.
    pub(super) fn write(&mut self, messages: &[Publish], payload: Payload) -> Result<()> {
        if messages.is_empty() {
            return Ok(());
        }
        let Self { connection, path } = self;
        let mut write = || -> Result<()> {
            let transaction = connection.transaction()?;
            let mut totals = totals(&transaction)?;
            for message in messages {
                totals.messages += 1;
                match payload.read(&message.payload) {
                    Ok(parts) => {
                        for part in &parts {
                            for reading in &part.readings {
                                totals.readings += 1;
                                insert(&transaction, part, totals.readings, reading)?;
                            }
                        }
                    }
                    Err(error) => {
                        totals.unreadable += 1;
                        if totals.unreadable <= MAX_UNREADABLE {
                            set_aside(&transaction, totals.messages, message, &error)?;
                        }
                    }
                }
            }
            let Totals { messages, readings, unreadable, .. } = totals;
            let counts = [messages, readings, unreadable].map(signed);
            let sql = "UPDATE subscription SET messages = ?1, readings = ?2, unreadable = ?3";
            transaction.prepare_cached(sql)?.execute(counts)?;
            Ok(transaction.commit()?)
        };
        write().with_context(|| format!("cannot record to {}", path.display()))
    }

    /// The broker has a session for us.
    pub(super) fn note_subscribed(&self) -> Result<()> {
        self.connection.execute("UPDATE subscription SET subscribed = 1", [])?;
        Ok(())
    }

    /// The broker has forgotten us.
    pub(super) fn count_lost_session(&self) -> Result<()> {
        let sql = "UPDATE subscription SET sessions_lost = sessions_lost + 1";
        self.connection.execute(sql, [])?;
        Ok(())
    }

    /// What has come so far.
    pub(super) fn totals(&self) -> Result<Totals> {
        totals(&self.connection).with_context(|| format!("cannot read {}", self.path.display()))
    }
}

fn totals(connection: &Connection) -> rusqlite::Result<Totals> {
    let sql = "SELECT messages, readings, unreadable, sessions_lost FROM subscription";
    connection.prepare_cached(sql)?.query_row([], |row| {
        let count = |at| row.get(at).map(|n: i64| u64::try_from(n).unwrap_or(0));
        Ok(Totals {
            messages: count(0)?,
            readings: count(1)?,
            unreadable: count(2)?,
            sessions_lost: count(3)?,
        })
    })
}

fn insert(connection: &Connection, of: &Message, arrival: u64, reading: &Reading) -> Result<()> {
    let Message { realm, device, .. } = of;
    let Reading { measurement, time_ns, tags, fields } = reading;
    let (tags, fields) = (serde_json::to_string(tags)?, serde_json::to_string(fields)?);
    let mut statement =
        connection.prepare_cached("INSERT INTO reading VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?;
    statement.execute(params![
        device,
        time_ns,
        signed(arrival),
        measurement,
        tags,
        fields,
        realm
    ])?;
    Ok(())
}

/// Keeps a message that nobody can read.
fn set_aside(
    connection: &Connection,
    arrival: u64,
    message: &Publish,
    error: &anyhow::Error,
) -> Result<()> {
    let begins = &message.payload[..message.payload.len().min(UNREADABLE_BYTES)];
    let topic = String::from_utf8_lossy(&message.topic);
    let row = params![signed(arrival), topic, format!("{error:#}"), begins];
    connection.prepare_cached("INSERT INTO unreadable VALUES (?1, ?2, ?3, ?4)")?.execute(row)?;
    Ok(())
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
