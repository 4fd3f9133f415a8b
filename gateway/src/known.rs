//! Devices and the learned kinds of fields, for the command line: shown, revoked, forgotten. A
//! gateway that runs does it, asked over its socket; without one it is done in `state.db`.

use crate::{
    admin::{self, Command},
    config::Config,
    data_dir::DataDir,
    metrics::{Registry, StateMetrics},
    record::{FieldKind, Identity},
    server,
    sinks::{control_socket, open_log},
    state::{self, DeviceFacts, KnownField, State},
};
use anyhow::{Context, anyhow, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::task;

/// Most devices or fields that one answer has.
pub const MAX_PAGE: usize = 500;
/// How long the command line waits until a change is on the disk.
const SETTLE_TIME: Duration = Duration::from_secs(30);

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// A page of devices.
    Devices(Page),
    /// One device, with what it was refused last.
    Device(Who),
    /// Those that are revoked.
    Revoked,
    /// Ends the connections of a device and refuses new ones.
    Revoke(Who),
    /// Lets a device connect again.
    Allow(Who),
    /// A page of fields with their kinds.
    Types(Page),
    /// Says what kind a field has.
    SetType {
        /// The field; all three names are needed.
        of: Field,
        /// `number`, `bool` or `text`.
        kind: String,
    },
    /// Forgets the kind of a field, or of all fields of a measurement: the next reading decides.
    ForgetTypes(Field),
}

impl Ask {
    fn is_change(&self) -> bool {
        match self {
            Self::Devices(_) | Self::Device(_) | Self::Revoked | Self::Types(_) => false,
            Self::Revoke(_) | Self::Allow(_) | Self::SetType { .. } | Self::ForgetTypes(_) => true,
        }
    }
}

/// A device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Who {
    /// Its realm.
    pub realm: String,
    /// Its id.
    pub device: String,
}

impl Who {
    fn identity(&self) -> Identity {
        Identity::new(&self.realm, &self.device)
    }
}

/// A field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Field {
    /// The realm.
    pub realm: String,
    /// The measurement.
    pub measurement: String,
    /// Its field; `None` for all of them.
    pub field: Option<String>,
}

/// A page: at most [`MAX_PAGE`], in order of their names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// Only of this realm.
    pub realm: Option<String>,
    /// Only of this measurement.
    pub measurement: Option<String>,
    /// Only after these names: the `last` of the page before.
    pub after: Option<Vec<String>>,
}

/// What came of it, and the number of the change that has to be on the disk first (0 for none).
struct Done {
    answer: Value,
    change: u64,
}

impl From<Value> for Done {
    fn from(answer: Value) -> Self {
        Self { answer, change: 0 }
    }
}

/// What the socket can do with devices and kinds, by path.
pub(crate) fn commands(
    state: &State,
    connected: &Arc<server::Registry>,
) -> BTreeMap<&'static str, Command> {
    let (state, connected) = (state.clone(), Arc::clone(connected));
    let command: Command = Arc::new(move |request| {
        let (state, connected) = (state.clone(), Arc::clone(&connected));
        Box::pin(async move {
            let what: Ask = serde_json::from_value(request)?;
            let revokes = matches!(what, Ask::Revoke(_));
            let of = state.clone();
            // A page is found by looking through all that is known.
            let done = task::spawn_blocking(move || carry_out(&what, &of)).await??;
            if revokes {
                connected.close_revoked(|identity| state.revocations.since(identity).is_some());
            }
            state.changes.settled(done.change, SETTLE_TIME).await?;
            Ok(done.answer)
        })
    });
    BTreeMap::from([(PATH, command)])
}

const PATH: &str = "/v1/known";

/// Asks the running gateway, or looks and changes what is on the disk if none runs.
///
/// # Errors
/// What is meant does not exist, or the gateway or the disk does not do it.
pub fn ask(config: &Config, what: &Ask) -> anyhow::Result<Value> {
    let dir = DataDir::new(&config.data_dir);
    let request = serde_json::to_string(what)?;
    let answer = admin::call(&control_socket(&dir), PATH, &request);
    match answer.context("cannot ask the running gateway")? {
        Some(Ok(done)) => return Ok(serde_json::from_str(&done)?),
        Some(Err(why)) => bail!(why),
        None => {}
    }
    let file: PathBuf = dir.path.join("state.db");
    ensure!(file.exists(), "no gateway has run in {} yet", config.data_dir.display());
    // Its lock keeps a gateway from starting while something is changed.
    let _log = what.is_change().then(|| open_log(config, &dir)).transpose()?;
    let metrics = StateMetrics::new(&Registry::new());
    let (state, keeper) = state::open(&file, config.types.fields_per_realm, metrics)?;
    if !what.is_change() {
        return Ok(carry_out(what, &state)?.answer);
    }
    let kept = keeper.spawn().context("cannot start a thread for state.db")?;
    let done = carry_out(what, &state);
    state.changes.stop();
    kept.blocking_recv().context("state.db is not written")?;
    let done = done?;
    let trouble = || state.changes.trouble().unwrap_or_default();
    ensure!(state.changes.durable() >= done.change, "state.db is not written: {}", trouble());
    Ok(done.answer)
}

fn carry_out(what: &Ask, state: &State) -> anyhow::Result<Done> {
    Ok(match what {
        Ask::Devices(page) => devices(page, state)?.into(),
        Ask::Device(who) => device(who, state)?.into(),
        Ask::Revoked => {
            let all = state.revocations.all();
            let all = all.iter().map(|of| {
                let Identity { realm, device } = &of.identity;
                json!({ "realm": &**realm, "device": &**device, "revoked_ms": of.at_ms })
            });
            json!({ "devices": all.collect::<Vec<_>>() }).into()
        }
        Ask::Revoke(who) => {
            let identity = who.identity();
            let change = state.revocations.revoke(&identity, now_ms());
            let since = state.revocations.since(&identity);
            let since = since.ok_or_else(|| anyhow!("no further device can be revoked"))?;
            tracing::info!(device = %identity, "revoked by an operator");
            let seen = state.devices.get(&identity).is_some();
            let changed = change.is_some();
            let answer = json!({ "changed": changed, "revoked_ms": since, "seen": seen });
            Done { answer, change: change.unwrap_or(0) }
        }
        Ask::Allow(who) => {
            let change = state.revocations.allow(&who.identity());
            tracing::info!(device = %who.identity(), "allowed by an operator");
            Done { answer: json!({ "changed": change.is_some() }), change: change.unwrap_or(0) }
        }
        Ask::Types(page) => types(page, state)?.into(),
        Ask::SetType { of, kind } => {
            let field = of.field.as_deref().context("the field is missing")?;
            let kind = FieldKind::from_text(kind)
                .with_context(|| format!("{kind:?} is no kind: number, bool or text"))?;
            let key = (&*of.realm, &*of.measurement, field);
            let change = state
                .types
                .set(key, kind, now_ms())
                .map_err(|_| anyhow!("the realm has as many fields as types.fields_per_realm"))?;
            Done { answer: json!({ "kind": kind.as_str() }), change }
        }
        Ask::ForgetTypes(of) => {
            let field = of.field.as_deref();
            let (forgotten, change) = state.types.forget(&of.realm, &of.measurement, field);
            Done { answer: json!({ "forgotten": forgotten }), change }
        }
    })
}

fn devices(page: &Page, state: &State) -> anyhow::Result<Value> {
    let after = match page.after.as_deref() {
        None => None,
        Some([realm, device]) => Some(Identity::new(realm, device)),
        Some(_) => bail!("`after` names a realm and a device"),
    };
    let all = state.devices.list(page.realm.as_deref(), after.as_ref(), MAX_PAGE);
    let last = (all.len() == MAX_PAGE).then(|| all.last()).flatten();
    let last = last.map(|of| json!([&*of.identity.realm, &*of.identity.device]));
    let all: Vec<Value> = all.iter().map(|of| facts(of, state)).collect();
    Ok(json!({ "devices": all, "last": last }))
}

fn facts(of: &DeviceFacts, state: &State) -> Value {
    json!({
        "realm": &*of.identity.realm,
        "device": &*of.identity.device,
        "connected": of.connected,
        "revoked_ms": state.revocations.since(&of.identity),
        "first_seen_ms": of.first_seen_ms,
        "last_seen_ms": of.last_seen_ms,
        "connected_ms": (of.connected_ms > 0).then_some(of.connected_ms),
        "connections": of.connections,
        "batches": of.batches,
        "accepted": of.accepted,
        "refused": of.refused,
        "gaps": of.gaps,
        "last_seq": (of.last_seq > 0).then_some(of.last_seq),
        "clock_offset_ms": of.clock_offset_ms,
        "ack_us": (of.ack_us > 0).then_some(of.ack_us),
        "ack_max_us": (of.ack_max_us > 0).then_some(of.ack_max_us),
    })
}

fn device(who: &Who, state: &State) -> anyhow::Result<Value> {
    let identity = who.identity();
    let Some(device) = state.devices.get(&identity) else {
        match state.revocations.since(&identity) {
            Some(at_ms) => bail!("{identity} was never seen; it is revoked since {at_ms} ms"),
            None => bail!("{identity} was never seen"),
        }
    };
    let mut shown = facts(&device.facts(), state);
    let refusals = device.last_refusals();
    let refusals = refusals.iter().map(|of| {
        json!({
            "at_ms": of.at_ms, "seq": of.seq, "index": of.index, "code": of.code.as_str(),
            "field": of.field, "detail": of.detail, "reading": of.reading,
        })
    });
    shown["last_refusals"] = refusals.collect::<Vec<_>>().into();
    Ok(shown)
}

fn types(page: &Page, state: &State) -> anyhow::Result<Value> {
    let after = match page.after.as_deref() {
        None => None,
        Some([realm, measurement, field]) => Some((&**realm, &**measurement, &**field)),
        Some(_) => bail!("`after` names a realm, a measurement and a field"),
    };
    let (realm, measurement) = (page.realm.as_deref(), page.measurement.as_deref());
    let all = state.types.list(realm, measurement, after, MAX_PAGE);
    let last = (all.len() == MAX_PAGE).then(|| all.last()).flatten();
    let last = last.map(|of| json!([&*of.realm, &*of.measurement, &*of.field]));
    let shown = |of: &KnownField| {
        json!({
            "realm": &*of.realm, "measurement": &*of.measurement, "field": &*of.field,
            "kind": of.kind.as_str(), "origin": of.origin.as_str(), "from": &*of.from,
            "at_ms": of.at_ms,
        })
    };
    Ok(json!({ "fields": all.iter().map(shown).collect::<Vec<_>>(), "last": last }))
}

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}
