//! What the gateway has learned, held against a device's readings: the kind of each field, and how
//! many series the device may have.
//!
//! A connection has one [`Guard`]. It remembers the shapes of the readings that have passed, so
//! that the usual reading costs a comparison of kinds and neither a lock nor a hash.

use super::series::{DeviceSeries, MaxSeries, Series};
use crate::{
    metrics::GuardMetrics,
    record::{self, Adjustment, AdjustmentKind, FieldKind, Identity, coerce},
    state::{Conflict, Types},
};
use proto::{ErrorCode, RawReading, RawValue};
use std::{borrow::Cow, sync::Arc};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Shapes that a guard knows at once.
const MAX_SHAPES: usize = 8;
/// Names of shapes that a guard remembers from batch to batch, in bytes.
const MAX_REMEMBERED_BYTES: usize = 1024;

/// What happens to a value of another kind than the field has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnConflict {
    /// Its reading is refused.
    Refuse,
    /// It is converted if nothing is lost by that; else its reading is refused.
    Coerce,
}

/// What all connections share.
#[derive(Debug)]
pub struct Guards {
    types: Option<Arc<Types>>,
    on_conflict: OnConflict,
    series: Series,
    /// Of hashes, so that no device can make many series look like one.
    seed: u64,
    metrics: GuardMetrics,
}

impl Guards {
    /// With these limits; without `types`, kinds are not held against readings.
    pub fn new(
        types: Option<Arc<Types>>,
        on_conflict: OnConflict,
        max: MaxSeries,
        metrics: GuardMetrics,
    ) -> Arc<Self> {
        let series = Series::new(max, metrics.clone());
        Arc::new(Self { types, on_conflict, series, seed: fastrand::u64(..), metrics })
    }

    /// Holds nothing against anybody.
    pub fn unguarded() -> Arc<Self> {
        let max = MaxSeries { per_device: usize::MAX, total: usize::MAX };
        Self::new(None, OnConflict::Refuse, max, GuardMetrics::default())
    }

    /// For a device.
    pub fn of(self: &Arc<Self>, identity: &Identity) -> Guard {
        Guard {
            series: self.series.of(identity),
            all: self.clone(),
            identity: identity.clone(),
            shapes: Vec::new(),
            version: 0,
        }
    }
}

/// Holds a device's readings against what was learned.
#[derive(Debug)]
pub struct Guard {
    all: Arc<Guards>,
    identity: Identity,
    series: Arc<DeviceSeries>,
    shapes: Vec<Shape>,
    /// Of the types that the shapes were looked up in.
    version: u64,
}

/// Measurement and names of the fields of a reading.
#[derive(Debug)]
struct Shape {
    measurement: Box<str>,
    fields: Box<[Box<str>]>,
    kinds: Vec<Option<FieldKind>>,
    /// Every kind is known.
    is_known: bool,
    /// What has to be durable before a reading of this shape may be acknowledged; 0: nothing.
    number: u64,
    /// Hash of the names of the fields.
    hash: u64,
    /// What it takes to remember it, about.
    bytes: usize,
}

/// Why the guard refuses a reading.
#[derive(Debug)]
pub(super) struct Objection<'a> {
    pub(super) code: ErrorCode,
    pub(super) field: Option<&'a str>,
    pub(super) detail: Cow<'static, str>,
}

/// What the guard has to say of a batch as a whole.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// Values that were converted, ascending by reading.
    pub(super) adjustments: Vec<Adjustment>,
    /// The change that has to be durable before the batch may be acknowledged; 0: none.
    pub(super) settle: u64,
}

/// A guard at work on one batch.
pub(super) struct Watch<'g> {
    guard: &'g mut Guard,
    /// The shape of the readings at hand.
    at: usize,
    /// The shape that gives way to the next new one.
    next: usize,
    /// Hash of measurement and tags.
    tags: u64,
    /// The device has the series of this shape.
    has_series: bool,
    /// The values of the reading at hand are of the kinds that are known, or nobody asks.
    is_same: bool,
    now_ns: i64,
    /// Conversions that may still be noted.
    room: usize,
    findings: Findings,
}

impl Guard {
    /// Of the hashes that are given to [`Watch::enter`].
    pub(super) fn seed(&self) -> u64 {
        self.all.seed
    }

    /// Begins a batch of so many readings.
    pub(super) fn watch(&mut self, readings: u32, now_ns: i64) -> Watch<'_> {
        let version = self.all.types.as_ref().map_or(0, |types| types.version());
        if version != self.version {
            self.shapes.clear();
            self.version = version;
        }
        Watch {
            guard: self,
            at: 0,
            next: 0,
            tags: 0,
            has_series: false,
            is_same: false,
            now_ns,
            room: record::room_for_adjustments(readings as usize),
            findings: Findings::default(),
        }
    }
}

impl Watch<'_> {
    /// The readings from here on have this shape. `tags` is a hash of measurement and tags.
    pub(super) fn enter(&mut self, measurement: &str, reading: &RawReading<'_>, tags: u64) {
        let known = self.guard.shapes.iter().position(|shape| shape.is_of(measurement, reading));
        self.at = match known {
            Some(at) => at,
            None => {
                let shape = self.guard.shape(measurement, reading);
                self.remember(shape)
            }
        };
        self.tags = tags;
        self.note_number();
        let Guard { all, series, .. } = &*self.guard;
        self.has_series = all.series.knows(series, self.key(), self.now_ns);
    }

    /// Whether the values are of the kinds that the fields have. Nothing is learned yet.
    #[inline]
    pub(super) fn judge<'a>(&mut self, reading: &RawReading<'a>) -> Result<(), Objection<'a>> {
        let Guard { all, shapes, .. } = &*self.guard;
        let same = |((_, raw), kind): (&(&str, RawValue<'_>), &Option<FieldKind>)| {
            *kind == Some(FieldKind::of_raw(raw))
        };
        let kinds = &shapes[self.at].kinds;
        self.is_same = all.types.is_none() || reading.fields.iter().zip(kinds).all(same);
        if self.is_same { Ok(()) } else { self.judge_closely(reading) }
    }

    /// The reading is good otherwise: counts its series, learns its fields and notes what is
    /// converted.
    #[inline]
    pub(super) fn take<'a>(
        &mut self,
        index: u32,
        reading: &RawReading<'a>,
    ) -> Result<(), Objection<'a>> {
        if self.has_series && self.is_same {
            return Ok(());
        }
        self.take_closely(index, reading)
    }

    /// Ends the batch.
    pub(super) fn finish(self) -> Findings {
        let shapes = &mut self.guard.shapes;
        let mut left = MAX_REMEMBERED_BYTES;
        shapes.retain(|shape| {
            let fits = shape.bytes <= left;
            left = left.saturating_sub(shape.bytes);
            fits
        });
        self.guard.all.metrics.coerced.increment(self.findings.adjustments.len() as u64);
        self.findings
    }

    fn judge_closely<'a>(&self, reading: &RawReading<'a>) -> Result<(), Objection<'a>> {
        let Guard { all, shapes, .. } = &*self.guard;
        let mut converted = 0;
        for (at, (&(name, raw), kind)) in
            reading.fields.iter().zip(&shapes[self.at].kinds).enumerate()
        {
            let is = FieldKind::of_raw(&raw);
            let Some(kind) = kind.filter(|kind| *kind != is) else { continue };
            let detail: Cow<'static, str> = match all.on_conflict {
                OnConflict::Refuse => format!("the field is a {kind}, this is a {is}").into(),
                OnConflict::Coerce if at > u8::MAX.into() || converted == self.room => {
                    "too many values of the batch would have to be converted".into()
                }
                OnConflict::Coerce => match record::value(raw) {
                    Ok(value) if coerce(value, kind, &mut String::new()).is_some() => {
                        converted += 1;
                        continue;
                    }
                    _ => format!("the field is a {kind}, this is a {is} that is none").into(),
                },
            };
            return Err(Objection { code: ErrorCode::TypeConflict, field: Some(name), detail });
        }
        Ok(())
    }

    #[cold]
    fn take_closely<'a>(
        &mut self,
        index: u32,
        reading: &RawReading<'a>,
    ) -> Result<(), Objection<'a>> {
        if !self.has_series {
            self.take_series(reading)?;
        }
        if self.is_same {
            return Ok(());
        }
        if !self.guard.shapes[self.at].is_known {
            self.learn(reading)?;
        }
        let shape = &self.guard.shapes[self.at];
        for (at, ((_, raw), kind)) in reading.fields.iter().zip(&shape.kinds).enumerate() {
            if let (Some(kind), Ok(field)) = (kind, u8::try_from(at))
                && *kind != FieldKind::of_raw(raw)
            {
                let kind = AdjustmentKind::coerced_to(*kind);
                self.findings.adjustments.push(Adjustment { index, kind, field });
                self.room = self.room.saturating_sub(1);
            }
        }
        Ok(())
    }

    fn take_series<'a>(&mut self, reading: &RawReading<'a>) -> Result<(), Objection<'a>> {
        let Guard { all, identity, series, .. } = &*self.guard;
        let (seed, tags) = (all.seed, self.tags);
        let fields = reading
            .fields
            .iter()
            .map(|(name, _)| (tags ^ xxh3_64_with_seed(name.as_bytes(), seed)).wrapping_mul(MIX));
        if all.series.admit(identity, series, self.key(), fields, self.now_ns) {
            self.has_series = true;
            return Ok(());
        }
        let detail = "the device has as many series (measurement, tags, field) as it may".into();
        Err(Objection { code: ErrorCode::SeriesLimit, field: None, detail })
    }

    /// Somebody else may be first with one of the fields: then the reading is judged again.
    fn learn<'a>(&mut self, reading: &RawReading<'a>) -> Result<(), Objection<'a>> {
        let Some(types) = self.guard.all.types.clone() else { return Ok(()) };
        let now_ms = self.now_ns / 1_000_000;
        loop {
            let Guard { identity, shapes, .. } = &mut *self.guard;
            let shape = &mut shapes[self.at];
            let new: Vec<(&'a str, FieldKind)> = reading
                .fields
                .iter()
                .zip(&shape.kinds)
                .filter(|(_, kind)| kind.is_none())
                .map(|((name, raw), _)| (*name, FieldKind::of_raw(raw)))
                .collect();
            match types.learn(identity, &shape.measurement, &new, now_ms) {
                Ok(number) => {
                    for ((_, raw), kind) in reading.fields.iter().zip(&mut shape.kinds) {
                        kind.get_or_insert_with(|| FieldKind::of_raw(raw));
                    }
                    shape.is_known = true;
                    shape.number = shape.number.max(number);
                    self.note_number();
                    return Ok(());
                }
                Err(Conflict::Kind(..)) => {
                    shape.look_up(&identity.realm, &types);
                    self.note_number();
                    self.judge_closely(reading)?;
                    if self.guard.shapes[self.at].is_known {
                        return Ok(());
                    }
                }
                Err(Conflict::Limit(at)) => {
                    return Err(Objection {
                        code: ErrorCode::FieldLimit,
                        field: new.get(at).map(|(name, _)| *name),
                        detail: "new fields are not taken any more".into(),
                    });
                }
            }
        }
    }

    /// What was learned a moment ago, here or elsewhere, has to be durable first.
    fn note_number(&mut self) {
        let shape = &mut self.guard.shapes[self.at];
        if shape.number == 0 {
            return;
        }
        let durable = self.guard.all.types.as_ref().map_or(0, |types| types.changes().durable());
        if durable >= shape.number {
            shape.number = 0;
        }
        self.findings.settle = self.findings.settle.max(shape.number);
    }

    fn remember(&mut self, shape: Shape) -> usize {
        let shapes = &mut self.guard.shapes;
        if shapes.len() < MAX_SHAPES {
            shapes.push(shape);
            return shapes.len() - 1;
        }
        let at = self.next;
        self.next = (at + 1) % MAX_SHAPES;
        shapes[at] = shape;
        at
    }

    /// Names the series of the readings at hand, all fields together.
    fn key(&self) -> u64 {
        (self.tags ^ self.guard.shapes[self.at].hash.rotate_left(32)).wrapping_mul(MIX)
    }
}

/// An odd number without a pattern: spreads a hash over all bits.
const MIX: u64 = 0x9E37_79B9_7F4A_7C15;

impl Guard {
    fn shape(&self, measurement: &str, reading: &RawReading<'_>) -> Shape {
        let fields: Box<[Box<str>]> =
            reading.fields.iter().map(|(name, _)| (*name).into()).collect();
        let hash = fields.iter().fold(0_u64, |hash, name| {
            hash.wrapping_add(xxh3_64_with_seed(name.as_bytes(), self.all.seed)).wrapping_mul(MIX)
        });
        let bytes = measurement.len() + fields.iter().map(|field| field.len() + 17).sum::<usize>();
        let kinds = vec![None; fields.len()];
        let measurement = measurement.into();
        let mut shape =
            Shape { measurement, fields, kinds, is_known: false, number: 0, hash, bytes };
        match &self.all.types {
            Some(types) => shape.look_up(&self.identity.realm, types),
            None => shape.is_known = true,
        }
        shape
    }
}

impl Shape {
    #[inline]
    fn is_of(&self, measurement: &str, reading: &RawReading<'_>) -> bool {
        self.fields.len() == reading.fields.len()
            && *self.measurement == *measurement
            && self.fields.iter().zip(&reading.fields).all(|(a, (b, _))| **a == **b)
    }

    fn look_up(&mut self, realm: &str, types: &Types) {
        let fields = self.fields.iter().map(|field| &**field);
        self.number = types.look_up(realm, &self.measurement, fields, &mut self.kinds);
        self.is_known = self.kinds.iter().all(Option::is_some);
    }
}

#[cfg(test)]
#[path = "guard_tests.rs"]
#[allow(clippy::unwrap_used)]
mod tests;
