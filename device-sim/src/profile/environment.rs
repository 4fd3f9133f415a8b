//! A room sensor: temperature, humidity, pressure, battery; now and then a door contact and a
//! status text.

use super::math::{DAY_NS, fraction, mix, noise, number, phase, wave};
use super::{Fields, ReadingId};
use proto::RawValue;

const SITES: u64 = 16;
const ROOMS: [&str; 6] = ["lab", "office", "store", "hall", "roof", "cellar"];
const STATUS: [&str; 4] = ["ok", "calibrating", "fan on", "filter due – 30 d"];

pub(super) fn tags(seed: u64, device: u32) -> Vec<(&'static str, String)> {
    let own = mix(&[seed, u64::from(device), 1]);
    let room = ROOMS[(own / SITES % ROOMS.len() as u64) as usize];
    vec![("site", format!("site-{:02}", own % SITES)), ("room", room.to_owned())]
}

pub(super) fn fields(id: ReadingId, time_ns: i64, fields: &mut Fields) {
    let device = u64::from(id.device);
    let own = |salt: u64| fraction(mix(&[id.seed, device, 2, salt]));
    let hash = mix(&[id.seed, device, id.seq, u64::from(id.index)]);
    // Between −1 and 1, another one for every salt.
    let noise = |salt: u64| noise(mix(&[hash, salt]));
    let day = phase(time_ns, DAY_NS) + own(1);
    let sun = wave(day);

    let temperature = 17.0 + 8.0 * own(2) + 4.0 * sun + 0.3 * noise(1);
    let humidity = (55.0 + 10.0 * own(3) - 12.0 * sun + 1.5 * noise(2)).clamp(5.0, 99.0);
    let pressure = 1013.25 + 8.0 * wave(day / 5.0 + own(4)) + 0.2 * noise(3);
    let battery = 30.0 + 70.0 * own(5);
    fields.push(("temperature", number(temperature, 10.0)));
    fields.push(("humidity", number(humidity, 10.0)));
    fields.push(("pressure", number(pressure, 100.0)));
    fields.push(("battery", number(battery, 1.0)));
    if hash.is_multiple_of(10) {
        fields.push(("door", RawValue::Bool(hash & 1024 != 0)));
    }
    if hash.is_multiple_of(23) {
        fields.push(("status", RawValue::Str(STATUS[(hash >> 20) as usize % STATUS.len()])));
    }
}
