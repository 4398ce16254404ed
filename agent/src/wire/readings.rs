//! A sample's readings as the JSON that telemetry carries: written once, when the sample is stored, and sent as they
//! are from then on, however long the backlog is. They are read back only where several samples become one.
//!
//! Each reading stands where its metric's path says. What a gateway doesn't have is left out, never zero.

use std::sync::OnceLock;

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Map, Value as Json};

use crate::engine::metric::{Metric, Rollup, Value};
use crate::engine::record::Reading;

/// The deepest path of the metric table: `host.disk.*.used_pct`.
const STEPS_MAX: usize = 4;
/// What stands for a label in a path.
const LABEL: &str = "*";
/// Beyond this a number has no decimals that a double could hold.
const DECIMALS_MAX: f64 = 1e15;

/// The members of the sample's object that are its readings, without the braces; empty if there are none.
#[must_use]
pub fn text(readings: &[Reading]) -> String {
    let mut entries: Vec<Entry<'_>> = readings.iter().map(Entry::of).collect();
    entries.retain(|entry| is_json(&entry.reading.value));
    // What shares a group stands side by side, in the order of the table otherwise.
    entries.sort_unstable_by(|a, b| a.place().cmp(&b.place()));
    // A number, a word or a flag under a name has no form that JSON lacks.
    let object = serde_json::to_string(&Group { entries: &entries, depth: 0 }).unwrap_or_default();
    object.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or_default().to_owned()
}

/// The readings that such a text holds, in the order of the table. What a newer version wrote is passed over.
///
/// # Errors
/// It is not what [`text`] writes.
pub fn parse(text: &str) -> Result<Vec<Reading>, serde_json::Error> {
    let object: Map<String, Json> = serde_json::from_str(&format!("{{{text}}}"))?;
    let mut readings = Vec::new();
    collect(&object, "", &mut readings);
    readings.sort_unstable_by(Reading::in_order);
    Ok(readings)
}

/// JSON has no number for the others.
fn is_json(value: &Value) -> bool {
    !matches!(value, Value::Float(value) if !value.is_finite())
}

/// A reading, and the names that lead to it.
struct Entry<'r> {
    steps: [&'r str; STEPS_MAX],
    /// How many of them there are.
    depth: usize,
    reading: &'r Reading,
}

impl<'r> Entry<'r> {
    fn of(reading: &'r Reading) -> Self {
        let mut steps = [""; STEPS_MAX];
        let mut depth = 0;
        for (place, step) in steps.iter_mut().zip(reading.metric.path().split('.')) {
            *place = if step == LABEL { reading.label.as_deref().unwrap_or(LABEL) } else { step };
            depth += 1;
        }
        Self { steps, depth, reading }
    }

    /// The groups that it stands in.
    fn groups(&self) -> &[&'r str] {
        self.steps.get(..self.depth.saturating_sub(1)).unwrap_or_default()
    }

    /// The outermost groups in the order of the table, and in each what stands in it itself before what stands deeper.
    fn place(&self) -> (usize, &[&'r str], Metric) {
        (rank(self.steps.first().copied().unwrap_or_default()), self.groups(), self.reading.metric)
    }

    /// Whether both stand in the same group below this depth.
    fn shares(&self, other: &Self, depth: usize) -> bool {
        self.groups().get(depth).is_some_and(|group| other.groups().get(depth) == Some(group))
    }
}

/// How many outermost groups come before this one in the table.
fn rank(outermost: &str) -> usize {
    static OUTERMOST: OnceLock<Vec<&'static str>> = OnceLock::new();
    let known = OUTERMOST.get_or_init(|| {
        let mut known: Vec<&str> = Metric::ALL.iter().filter_map(|metric| metric.path().split('.').next()).collect();
        known.dedup();
        known
    });
    known.iter().take_while(|known| **known != outermost).count()
}

/// An object of the sample: entries that share their first so many names.
struct Group<'e> {
    entries: &'e [Entry<'e>],
    depth: usize,
}

impl Serialize for Group<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for same in self.entries.chunk_by(|a, b| a.shares(b, self.depth)) {
            let Some(first) = same.first() else { continue };
            let Some(name) = first.steps.get(self.depth) else { continue };
            if first.depth > self.depth + 1 {
                map.serialize_entry(name, &Group { entries: same, depth: self.depth + 1 })?;
            } else {
                members(&mut map, name, first.reading)?;
            }
        }
        map.end()
    }
}

/// Writes a reading under its name, with its lowest and highest beside it.
fn members<M: SerializeMap>(map: &mut M, name: &str, reading: &Reading) -> Result<(), M::Error> {
    let metric = reading.metric;
    match &reading.value {
        Value::Float(value) => map.serialize_entry(name, &rounded(metric, *value))?,
        Value::Count(value) => map.serialize_entry(name, value)?,
        Value::Flag(value) => map.serialize_entry(name, value)?,
        Value::Text(value) => map.serialize_entry(name, value)?,
    }
    let Some((low, high)) = reading.range else { return Ok(()) };
    let is_count = matches!(reading.value, Value::Count(_));
    let shown = |end| if is_count { f64::trunc(end) } else { rounded(metric, end) };
    let ends = [("_min", shown(low)), ("_max", shown(high))];
    // What moved by less than is written did not move for its reader.
    if ends[0].1 == ends[1].1 {
        return Ok(());
    }
    for (end, value) in ends.into_iter().filter(|(_, value)| value.is_finite()) {
        let name = format!("{name}{end}");
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it was a count before")]
        if is_count { map.serialize_entry(&name, &(value as u64))? } else { map.serialize_entry(&name, &value)? }
    }
    Ok(())
}

/// To the decimals worth writing: a thousandth of a percent, a millionth of anything else (the kernel's own µV, µA and
/// µW).
fn rounded(metric: Metric, value: f64) -> f64 {
    to_parts(value, if metric.unit() == "%" { 1e3 } else { 1e6 })
}

/// To one of so many parts of a whole.
pub(super) fn to_parts(value: f64, parts: f64) -> f64 {
    let scaled = value * parts;
    // Not -0.0.
    if scaled.abs() < DECIMALS_MAX { scaled.round() / parts + 0.0 } else { value }
}

/// Finds the readings of an object; `above` is the path to it, with a dot at its end.
fn collect(object: &Map<String, Json>, above: &str, readings: &mut Vec<Reading>) {
    for (name, value) in object {
        let path = format!("{above}{name}");
        if let Json::Object(group) = value {
            collect(group, &format!("{path}."), readings);
            continue;
        }
        let found = Metric::find(&path).zip(value_of(value));
        readings.extend(found.map(|((metric, label), value)| {
            let end = |end| object.get(&format!("{name}{end}")).and_then(Json::as_f64);
            let is_gauge = metric.rollup() == Rollup::Gauge;
            let range = if is_gauge { end("_min").zip(end("_max")) } else { None };
            Reading { metric, label: label.map(Into::into), value, range }
        }));
    }
}

fn value_of(value: &Json) -> Option<Value> {
    match value {
        Json::Number(number) => number.as_u64().map(Value::Count).or_else(|| number.as_f64().map(Value::Float)),
        Json::Bool(flag) => Some(Value::Flag(*flag)),
        Json::String(text) => Some(Value::Text(text.as_str().into())),
        Json::Null | Json::Array(_) | Json::Object(_) => None,
    }
}

/// How [`Sample`](crate::engine::record::Sample) stores its readings.
pub(crate) mod stored {
    use minicbor::data::Type;
    use minicbor::decode::{Decoder, Error as DecodeError};
    use minicbor::encode::{Encoder, Error as EncodeError, Write};

    use crate::engine::record::Reading;

    pub(crate) fn encode<C, W: Write>(
        readings: &[Reading],
        cbor: &mut Encoder<W>,
        _: &mut C,
    ) -> Result<(), EncodeError<W::Error>> {
        cbor.bytes(super::text(readings).as_bytes())?.ok()
    }

    /// The text as it lies in the store. As bytes, because a text's UTF-8 is checked whenever it is decoded: of a
    /// backlog that was a twentieth of what sending it costs. What was stored as a text before is read too.
    pub(crate) fn text<'b, C>(cbor: &mut Decoder<'b>, _: &mut C) -> Result<&'b [u8], DecodeError> {
        if cbor.datatype()? == Type::String { Ok(cbor.str()?.as_bytes()) } else { cbor.bytes() }
    }

    pub(crate) fn decode<C>(cbor: &mut Decoder<'_>, context: &mut C) -> Result<Vec<Reading>, DecodeError> {
        let text = std::str::from_utf8(text(cbor, context)?).map_err(DecodeError::custom)?;
        super::parse(text).map_err(DecodeError::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn reading(metric: Metric, label: Option<&str>, value: impl Into<Value>, range: Option<(f64, f64)>) -> Reading {
        Reading { metric, label: label.map(Into::into), value: value.into(), range }
    }

    fn said(readings: &[Reading]) -> Json {
        let text = text(readings);
        serde_json::from_str(&format!("{{{text}}}")).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    #[test]
    fn readings_become_the_contracts_nested_groups() {
        let readings = [
            reading(Metric::BatteryVoltage, None, 12.1, Some((11.9, 12.3))),
            reading(Metric::HostLoad1, None, f64::NAN, None),
            reading(Metric::HostDiskFree, Some("/data"), 77_u64, None),
            reading(Metric::AgentDropped, Some("quota"), 3_u64, None),
        ];
        assert_eq!(
            said(&readings),
            json!({
                "battery": {"voltage_v": 12.1, "voltage_v_min": 11.9, "voltage_v_max": 12.3},
                "host": {"disk": {"/data": {"free_bytes": 77}}},
                "agent": {"dropped": {"quota": 3}},
            })
        );
        assert_eq!(text(&[]), "");
    }

    #[test]
    fn what_shares_a_label_stands_in_one_object() {
        let readings = [Metric::LinkUp, Metric::InterfaceUp, Metric::InterfaceRxBytes].into_iter().flat_map(|metric| {
            let labels: &[_] = if metric.has_label() { &[Some("eth0"), Some("wlan0")] } else { &[None] };
            labels.iter().map(move |label| reading(metric, *label, 1_u64, None))
        });
        let one = json!({"up": 1, "rx_bytes": 1});
        let link = json!({"up": 1, "interfaces": {"eth0": one, "wlan0": one}});
        assert_eq!(said(&readings.collect::<Vec<_>>()), json!({"link": link}));
    }

    #[test]
    fn a_label_with_quotes_or_dots_stays_one_key() {
        for odd in ["a \"b\"\\\n\u{e4}", "/mnt/a.b", "*", "free_bytes"] {
            let readings = [reading(Metric::HostDiskFree, Some(odd), 5_u64, None)];
            assert_eq!(said(&readings)["host"]["disk"][odd]["free_bytes"], json!(5));
            assert_eq!(parse(&text(&readings)).unwrap(), readings);
        }
    }

    #[test]
    fn readings_in_another_order_make_the_same_text() {
        let mut readings = vec![
            reading(Metric::BatteryChargePct, None, 50.5, None),
            reading(Metric::LinkUp, None, true, None),
            reading(Metric::HostDiskFree, Some("/"), 1_u64, None),
            reading(Metric::BatteryState, None, "full", None),
            reading(Metric::HostLoad1, None, 0.25, None),
        ];
        let mixed = text(&readings);
        readings.sort_by_key(|reading| reading.metric);
        assert_eq!(mixed, text(&readings));
    }

    /// What readers have seen so far they go on seeing: order, digits and all.
    #[test]
    fn a_sample_is_the_same_to_the_byte() {
        let readings = [
            reading(Metric::BatteryPresent, None, true, None),
            reading(Metric::BatteryChargePct, None, 55.0 / 3.0, Some((18.0, 99.9996))),
            reading(Metric::BatteryState, None, "dis\"charging", None),
            reading(Metric::BatteryVoltage, None, 12.345_678_9, Some((-0.000_000_4, f64::INFINITY))),
            reading(Metric::BatteryCurrent, None, -1.204, Some((-1_234_567.05, 1e300))),
            reading(Metric::LinkUp, None, false, None),
            reading(Metric::LinkRxBytes, None, 1_000_070_u64, None),
            reading(Metric::LinkTxBytes, None, u64::MAX, Some((0.0, 12.9))),
            reading(Metric::InterfaceUp, Some("eth0"), true, None),
            reading(Metric::ErrorsBySeverity, Some("err"), 3_u64, None),
            reading(Metric::HostLoad1, None, f64::NAN, None),
        ];
        let expected = concat!(
            r#""battery":{"present":true,"charge_pct":18.333,"charge_pct_min":18.0,"charge_pct_max":100.0,"#,
            r#""state":"dis\"charging","voltage_v":12.345679,"voltage_v_min":0.0,"#,
            r#""current_a":-1.204,"current_a_min":-1234567.05,"current_a_max":1e+300},"#,
            r#""link":{"up":false,"rx_bytes":1000070,"tx_bytes":18446744073709551615,"tx_bytes_min":0,"tx_bytes_max":12,"#,
            r#""interfaces":{"eth0":{"up":true}}},"errors":{"by_severity":{"err":3}}"#,
        );
        assert_eq!(text(&readings), expected);
    }

    #[test]
    fn a_range_is_written_where_it_differs_in_what_is_written() {
        let readings = [
            reading(Metric::HostMemUsed, None, 50.0, Some((49.999_8, 50.000_1))),
            reading(Metric::BatteryVoltage, None, 12.0, Some((11.999_999_9, 12.0))),
            reading(Metric::HostCpu, None, 50.0, Some((49.999, 50.0))),
        ];
        let group = json!({"mem_used_pct": 50.0, "cpu_pct": 50.0, "cpu_pct_min": 49.999, "cpu_pct_max": 50.0});
        assert_eq!(said(&readings), json!({"battery": {"voltage_v": 12.0}, "host": group}));
    }

    #[test]
    fn what_a_newer_version_measures_is_passed_over_where_it_is_read() {
        let newer =
            r#""battery":{"voltage_v":12.5,"mood":"good"},"sky":{"colour":{"north":"blue"}},"link":{"up":[1,null]}"#;
        assert_eq!(parse(newer).unwrap(), [reading(Metric::BatteryVoltage, None, 12.5, None)]);
        assert!(parse(r#""battery":{"#).is_err());
    }

    #[test]
    fn no_path_of_the_table_is_deeper_than_an_entry_holds_and_outermost_groups_come_once() {
        let mut outermost: Vec<&str> = Vec::new();
        for metric in Metric::ALL {
            assert!((2..=STEPS_MAX).contains(&metric.path().split('.').count()), "{metric}");
            let first = metric.path().split('.').next().unwrap();
            if outermost.last() != Some(&first) {
                outermost.push(first);
            }
        }
        assert_eq!(outermost.len(), outermost.iter().collect::<BTreeSet<_>>().len(), "{outermost:?}");
    }

    /// What is written as it is: of the decimals that are worth it.
    fn any_float() -> impl Strategy<Value = f64> {
        (-1_000_000_000_i64..1_000_000_000).prop_map(|thousandths| thousandths as f64 / 1e3)
    }

    fn any_reading() -> impl Strategy<Value = Reading> {
        let value = prop_oneof![
            any_float().prop_map(Value::Float),
            any::<u64>().prop_map(Value::Count),
            any::<bool>().prop_map(Value::Flag),
            "[ -~\u{e4}\n]{0,12}".prop_map(|text| Value::Text(text.into())),
        ];
        (0..Metric::ALL.len(), "[ -~]{1,8}", value, proptest::option::of((any_float(), any_float()))).prop_map(
            |(metric, label, value, range)| {
                let metric = Metric::ALL[metric];
                let is_gauge = matches!(value, Value::Float(_)) && metric.rollup() == Rollup::Gauge;
                let range = if is_gauge { range } else { None };
                Reading { metric, label: metric.has_label().then(|| label.into()), value, range }
            },
        )
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_back(readings in proptest::collection::vec(any_reading(), 0..40)) {
            let readings: BTreeMap<_, _> =
                readings.into_iter().map(|reading| ((reading.metric, reading.label.clone()), reading)).collect();
            let readings: Vec<Reading> = readings.into_values().collect();
            prop_assert_eq!(parse(&text(&readings)).unwrap(), readings);
        }

        #[test]
        fn no_text_makes_it_panic(text in "[ -~]{0,60}") {
            let _ = parse(&text);
        }
    }
}
