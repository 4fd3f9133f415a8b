//! The kind of each field, learned by use.
//!
//! The first reading that brings a field decides, for its realm: the table has one lock for
//! writing, so that of two devices that bring it at once one is first, and whatever is logged was
//! judged by the same table. A store that says in which kind it holds the field knows better than
//! use does, and an operator knows better than both.

use super::changes::{Change, Changes};
use crate::{
    metrics::StateMetrics,
    record::{FieldKind, Identity},
};
use std::{
    collections::HashMap,
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU64, Ordering},
    },
};

/// Who said what kind a field has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// The first reading that brought it.
    Use,
    /// A store, when it refused a reading of another kind.
    Store,
    /// An operator.
    Operator,
}

impl Origin {
    const ALL: [Self; 3] = [Self::Use, Self::Store, Self::Operator];

    /// Its name for people and in `state.db`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Use => "use",
            Self::Store => "store",
            Self::Operator => "operator",
        }
    }

    pub(super) fn from_text(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|origin| origin.as_str() == text)
    }
}

/// A field whose kind is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownField {
    /// The realm.
    pub realm: Box<str>,
    /// The measurement.
    pub measurement: Box<str>,
    /// The field.
    pub field: Box<str>,
    /// Its kind.
    pub kind: FieldKind,
    /// Who said so.
    pub origin: Origin,
    /// The device or sink it was learned from; empty for an operator.
    pub from: Box<str>,
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: i64,
}

/// Why a reading cannot teach the kinds of its fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conflict {
    /// This field, counted in the list, has another kind by now.
    Kind(usize, FieldKind),
    /// This field is new, and no further one is learned in the realm.
    Limit(usize),
}

/// The table.
#[derive(Debug)]
pub struct Types {
    realms: RwLock<HashMap<Box<str>, Realm>>,
    max_fields: usize,
    /// Counts changes of what was known before; learning changes nothing that was known.
    version: AtomicU64,
    changes: Arc<Changes>,
    metrics: StateMetrics,
}

#[derive(Debug, Default)]
struct Realm {
    measurements: HashMap<Box<str>, HashMap<Box<str>, Entry>>,
    fields: usize,
    told_full: bool,
}

#[derive(Debug)]
struct Entry {
    kind: FieldKind,
    origin: Origin,
    from: Box<str>,
    at_ms: i64,
    /// Number of the change that makes it durable.
    number: u64,
}

impl Types {
    pub(super) fn new(
        read: Vec<KnownField>,
        max_fields: usize,
        changes: Arc<Changes>,
        metrics: StateMetrics,
    ) -> Self {
        let mut realms: HashMap<Box<str>, Realm> = HashMap::new();
        for known in read {
            let KnownField { realm, measurement, field, kind, origin, from, at_ms } = known;
            let entry = Entry { kind, origin, from, at_ms, number: 0 };
            realms.entry(realm).or_default().insert(&measurement, &field, entry);
        }
        let version = AtomicU64::new(1);
        let types = Self { realms: RwLock::new(realms), max_fields, version, changes, metrics };
        types.report(&types.read());
        types
    }

    /// Changes when a kind that was known is known no more. What was looked up before has to be
    /// looked up again.
    #[inline]
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Where changes go.
    pub fn changes(&self) -> &Arc<Changes> {
        &self.changes
    }

    /// Looks up the kinds of the fields of a measurement, in order. Gives the number of the change
    /// that has to be durable before anything may rely on them; 0 if all are.
    pub fn look_up<'a>(
        &self,
        realm: &str,
        measurement: &str,
        fields: impl Iterator<Item = &'a str>,
        kinds: &mut Vec<Option<FieldKind>>,
    ) -> u64 {
        kinds.clear();
        let realms = self.read();
        let known = realms.get(realm).and_then(|realm| realm.measurements.get(measurement));
        let Some(known) = known else {
            kinds.extend(fields.map(|_| None));
            return 0;
        };
        let durable = self.changes.durable();
        let mut number = 0;
        for field in fields {
            let entry = known.get(field);
            kinds.push(entry.map(|entry| entry.kind));
            number = number.max(entry.map_or(0, |entry| entry.number));
        }
        if number > durable { number } else { 0 }
    }

    /// Learns the kinds of the fields of a reading, all or none. Gives the number of the change
    /// that has to be durable before the reading may be acknowledged; 0 if all are.
    ///
    /// # Errors
    /// Somebody else was first with another kind, or the realm is full.
    pub fn learn(
        &self,
        identity: &Identity,
        measurement: &str,
        fields: &[(&str, FieldKind)],
        now_ms: i64,
    ) -> Result<u64, Conflict> {
        let mut realms = self.write();
        let realm = realms.entry((*identity.realm).into()).or_default();
        let known = realm.measurements.get(measurement);
        let mut new = 0;
        for (at, (field, kind)) in fields.iter().enumerate() {
            match known.and_then(|known| known.get(*field)) {
                Some(entry) if entry.kind == *kind => {}
                Some(entry) => return Err(Conflict::Kind(at, entry.kind)),
                None if realm.fields + new >= self.max_fields => {
                    if !std::mem::replace(&mut realm.told_full, true) {
                        tracing::warn!(
                            realm = &*identity.realm,
                            device = &*identity.device,
                            limit = self.max_fields,
                            "the realm has as many fields as it may: readings with new ones are \
                             refused (field_limit)"
                        );
                    }
                    return Err(Conflict::Limit(at));
                }
                None => new += 1,
            }
        }
        let mut number = 0;
        for &(field, kind) in fields {
            let known = realm.measurements.get(measurement).and_then(|known| known.get(field));
            number = number.max(match known {
                Some(entry) => entry.number,
                None => {
                    let from = identity.to_string();
                    let key = (&*identity.realm, measurement, field);
                    self.enter(realm, key, kind, (Origin::Use, &from), now_ms)
                }
            });
        }
        self.report(&realms);
        Ok(if number > self.changes.durable() { number } else { 0 })
    }

    /// A store holds a field in this kind: that is what is known from now on, unless another store
    /// or an operator has said otherwise. True if something has changed.
    pub fn teach(
        &self,
        (realm, measurement, field): (&str, &str, &str),
        kind: FieldKind,
        sink: &str,
        now_ms: i64,
    ) -> bool {
        let mut realms = self.write();
        let of_realm = realms.entry(realm.into()).or_default();
        match of_realm.get(measurement, field) {
            Some(entry) if entry.origin != Origin::Use => return false,
            None if of_realm.fields >= self.max_fields => return false,
            Some(entry) if entry.kind != kind => {
                tracing::warn!(
                    sink, realm, measurement, field, was = %entry.kind, is = %kind,
                    "the store holds the field in another kind than devices began with: readings \
                     of the old kind are refused from now on; `gateway types` has it"
                );
            }
            _ => {}
        }
        let key = (realm, measurement, field);
        self.enter(of_realm, key, kind, (Origin::Store, sink), now_ms);
        self.report(&realms);
        self.version.fetch_add(1, Ordering::Release);
        true
    }

    /// An operator says what kind a field has; gives the number of the change.
    ///
    /// # Errors
    /// The realm is full.
    pub fn set(
        &self,
        (realm, measurement, field): (&str, &str, &str),
        kind: FieldKind,
        now_ms: i64,
    ) -> Result<u64, Conflict> {
        let mut realms = self.write();
        let of_realm = realms.entry(realm.into()).or_default();
        if of_realm.get(measurement, field).is_none() && of_realm.fields >= self.max_fields {
            return Err(Conflict::Limit(0));
        }
        let key = (realm, measurement, field);
        let number = self.enter(of_realm, key, kind, (Origin::Operator, ""), now_ms);
        self.report(&realms);
        self.version.fetch_add(1, Ordering::Release);
        Ok(number)
    }

    /// Forgets the kinds of the fields of a measurement, or of one of them: the next reading
    /// decides. Gives how many were forgotten, and the number of the last change.
    pub fn forget(&self, realm: &str, measurement: &str, field: Option<&str>) -> (usize, u64) {
        let mut realms = self.write();
        let Some(of_realm) = realms.get_mut(realm) else { return (0, 0) };
        let forgotten: Vec<Box<str>> = match of_realm.measurements.get_mut(measurement) {
            None => Vec::new(),
            Some(known) => match field {
                None => known.drain().map(|(field, _)| field).collect(),
                Some(field) => {
                    known.remove_entry(field).map(|(field, _)| field).into_iter().collect()
                }
            },
        };
        if of_realm.measurements.get(measurement).is_some_and(HashMap::is_empty) {
            of_realm.measurements.remove(measurement);
        }
        of_realm.fields -= forgotten.len();
        of_realm.told_full = false;
        let count = forgotten.len();
        let mut number = 0;
        for field in forgotten {
            let (realm, measurement) = (realm.into(), measurement.into());
            number = self.changes.push(Change::ForgetField { realm, measurement, field });
        }
        self.report(&realms);
        self.version.fetch_add(1, Ordering::Release);
        (count, number)
    }

    /// What is known, in the order of realm, measurement and field: the first `limit` after
    /// `after`, of one realm or all, of one measurement or all.
    pub fn list(
        &self,
        realm: Option<&str>,
        measurement: Option<&str>,
        after: Option<(&str, &str, &str)>,
        limit: usize,
    ) -> Vec<KnownField> {
        let realms = self.read();
        let mut keys: Vec<(&str, &str, &str)> = Vec::new();
        for (of, known) in realms.iter().filter(|(of, _)| realm.is_none_or(|r| r == &***of)) {
            for (name, fields) in &known.measurements {
                if measurement.is_some_and(|wanted| wanted != &**name) {
                    continue;
                }
                let key = |field| (&**of, &**name, field);
                let fields = fields.keys().map(|field| key(&**field));
                keys.extend(fields.filter(|key| after.is_none_or(|after| *key > after)));
            }
        }
        keys.sort_unstable();
        let entry = |(realm, measurement, field): (&str, &str, &str)| {
            let entry = realms.get(realm)?.get(measurement, field)?;
            Some(entry.known((realm, measurement, field)))
        };
        keys.into_iter().take(limit).filter_map(entry).collect()
    }

    /// How many fields are known in all realms.
    pub fn len(&self) -> usize {
        self.read().values().map(|realm| realm.fields).sum()
    }

    /// True if no field is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn enter(
        &self,
        of_realm: &mut Realm,
        key: (&str, &str, &str),
        kind: FieldKind,
        (origin, from): (Origin, &str),
        at_ms: i64,
    ) -> u64 {
        let mut entry = Entry { kind, origin, from: from.into(), at_ms, number: 0 };
        entry.number = self.changes.push(Change::Field(entry.known(key)));
        let number = entry.number;
        of_realm.insert(key.1, key.2, entry);
        number
    }

    #[expect(clippy::cast_precision_loss, reason = "gauges are floats")]
    fn report(&self, realms: &HashMap<Box<str>, Realm>) {
        let fields: usize = realms.values().map(|realm| realm.fields).sum();
        self.metrics.fields.set(fields as f64);
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<Box<str>, Realm>> {
        self.realms.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<Box<str>, Realm>> {
        self.realms.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Realm {
    fn get(&self, measurement: &str, field: &str) -> Option<&Entry> {
        self.measurements.get(measurement)?.get(field)
    }

    fn insert(&mut self, measurement: &str, field: &str, entry: Entry) {
        let known = match self.measurements.get_mut(measurement) {
            Some(known) => known,
            None => self.measurements.entry(measurement.into()).or_default(),
        };
        if known.insert(field.into(), entry).is_none() {
            self.fields += 1;
        }
    }
}

impl Entry {
    fn known(&self, (realm, measurement, field): (&str, &str, &str)) -> KnownField {
        KnownField {
            realm: realm.into(),
            measurement: measurement.into(),
            field: field.into(),
            kind: self.kind,
            origin: self.origin,
            from: self.from.clone(),
            at_ms: self.at_ms,
        }
    }
}
