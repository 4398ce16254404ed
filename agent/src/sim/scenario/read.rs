//! Reads a scenario's file with the configuration's reader: every mistake at once, each with its line, unknown keys
//! refused. Beyond single values it refuses what could never happen or never count (a fault in the calm, a unit that
//! isn't there): an expectation that holds because of a typing error is worse than none. The keys are explained in
//! configs/scenarios/README.md, and a test holds that page against this module.

mod expectation;
mod happening;
#[cfg(test)]
mod tests;
mod values;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{
    BatteryWorld, ClockWorld, DiskWorld, ErrorsWorld, HostWorld, LinkWorld, NetworkWorld, Recurring, ReleaseWorld,
    Scenario, UnitWorld,
};
use crate::config::reader::{Section, duration, parsed, word};
use crate::config::{Problem, UnitName, read, read_file};
use crate::engine::time::Unix;
use values::{DAY, HOUR, MINUTE, SECOND, ZERO, date, float, ms, nonempty, range, shares, size, unless};

/// The longest run: figures and anchors are made for years, patience isn't.
const LASTS_MAX: Duration = Duration::from_secs(366 * 86_400);
/// The shortest: below it an agent has hardly begun to send.
const LASTS_MIN: Duration = MINUTE;
/// The calm where the scenario says nothing: the longest wait of a reconnecting agent, several times, and a drain.
const CALM: Duration = Duration::from_secs(2 * 3600);
/// What comes at random comes not more often than this on average: more is a state, not an event.
const EVERY_MIN: Duration = Duration::from_secs(10);
/// Entries of one list.
const LIST_MAX: usize = 256;
/// 2026-01-15T00:00:00Z.
const STARTS: Unix = Unix(1_768_435_200_000);

/// Reads a scenario. Its name is that of its file.
///
/// # Errors
/// Every mistake, in the order of lines.
pub fn load(path: &Path) -> Result<Scenario, Vec<Problem>> {
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    read_file(path, |s| scenario(s, name))
}

/// How far a run goes: up to its end, and up to the begin of its calm.
#[derive(Debug, Clone, Copy)]
struct Span {
    end: Duration,
    calm_at: Duration,
}

/// What a fault needs to be possible.
#[derive(Debug, Clone, Copy)]
struct World<'a> {
    span: Span,
    units: &'a [UnitWorld],
    battery: bool,
}

fn scenario(s: &mut Section<'_>, name: String) -> Scenario {
    let about = s.required("about", "\"what it shows\"", nonempty("a line on what it shows"));
    let config = s.optional("config", nonempty("a file beside the scenario, such as \"gateway.toml\""));
    let (lasts, calm, span) = phases(s);
    let starts = s.optional("starts", date).unwrap_or(STARTS);
    let battery = s.has("battery");
    let battery = s.table("battery", self::battery).filter(|_| battery);
    let units = units(s);
    let releases = releases(s, &units);
    let (mut fault_names, mut command_names) = (BTreeSet::new(), BTreeSet::new());
    let world = World { span, units: &units, battery: battery.is_some() };
    let faults = s.tables("faults", |s| happening::fault(s, world, &mut fault_names));
    let commands = s.tables("commands", |s| happening::order(s, span, &mut command_names));
    let expect = s.tables("expect", |s| expectation::read(s, span, &fault_names, &command_names));
    let scenario = Scenario {
        name,
        about: about.unwrap_or_default(),
        config: config.map(PathBuf::from),
        lasts,
        calm,
        starts,
        clock: s.table("clock", clock),
        disk: s.table("disk", disk),
        network: s.table("network", network),
        battery,
        host: s.table("host", host),
        links: links(s),
        units,
        releases,
        errors: s.table("errors", errors),
        faults: faults.into_iter().flatten().collect(),
        commands: commands.into_iter().flatten().collect(),
        expect: expect.into_iter().flatten().collect(),
    };
    refuse_long_lists(s, &scenario);
    scenario
}

fn phases(s: &mut Section<'_>) -> (Duration, Duration, Span) {
    let written = s.has("lasts");
    let lasts = s.optional("lasts", duration(DAY, LASTS_MIN..=LASTS_MAX));
    // Where it is wrong nothing is held against it: one mistake, one error.
    let end = lasts.unwrap_or(if written { LASTS_MAX } else { DAY });
    let calm = s.duration("calm", CALM.min(end / 2), ZERO..=LASTS_MAX);
    if calm >= end {
        let (calm, end) = (humantime::format_duration(calm), humantime::format_duration(end));
        s.error("calm", format!("is {calm}, but the whole run lasts only {end}; make it shorter than lasts"));
    }
    (end, calm, Span { end, calm_at: end.saturating_sub(calm) })
}

fn refuse_long_lists(s: &mut Section<'_>, scenario: &Scenario) {
    let lists = [
        ("links", scenario.links.len()),
        ("units", scenario.units.len()),
        ("releases", scenario.releases.len()),
        ("faults", scenario.faults.len()),
        ("commands", scenario.commands.len()),
        ("expect", scenario.expect.len()),
    ];
    for (key, len) in lists.into_iter().filter(|(_, len)| *len > LIST_MAX) {
        s.error(key, format!("has {len} entries, at most {LIST_MAX} are allowed"));
    }
}

fn clock(s: &mut Section<'_>) -> ClockWorld {
    ClockWorld {
        boots_at: s.optional("boots_at", unless("true", date)).flatten(),
        set_after: s.optional("set_after", unless("never", duration(MINUTE, ZERO..=LASTS_MAX))).unwrap_or(Some(MINUTE)),
        // Crystals are off by tens; a broken one by thousands.
        drift_ppm: float(s, "drift_ppm", 20.0, -100_000.0..=100_000.0),
    }
}

fn disk(s: &mut Section<'_>) -> DiskWorld {
    let disk = DiskWorld {
        bytes: size(s, "size", 512 << 20, 1 << 20),
        others_bytes: size(s, "used", 128 << 20, 0),
        others_grow_bytes: size(s, "grows_per_day", 0, 0),
        commit: range(s, "commit", (ms(5), ms(40)), ZERO..=MINUTE),
    };
    if disk.others_bytes > disk.bytes {
        let key = if s.has("used") { "used" } else { "size" };
        s.error(key, "leaves no room: used is more than size (128MiB and 512MiB where they are not set)");
    }
    disk
}

fn network(s: &mut Section<'_>) -> NetworkWorld {
    NetworkWorld {
        latency: range(s, "latency", (ms(20), ms(80)), ZERO..=MINUTE),
        bandwidth: s.knows("bandwidth").then(|| size(s, "bandwidth", 32 << 10, 1)),
        session_expiry: s.duration("session_expiry", 7 * DAY, ZERO..=LASTS_MAX),
    }
}

fn battery(s: &mut Section<'_>) -> Option<BatteryWorld> {
    const WATTS: std::ops::RangeInclusive<f64> = 0.0..=10_000.0;
    let battery = BatteryWorld {
        capacity_wh: float(s, "capacity_wh", 50.0, 0.1..=1_000_000.0),
        charge_pct: float(s, "charge_pct", 80.0, 0.0..=100.0),
        load_w: float(s, "load_w", 1.5, WATTS),
        sun_w: float(s, "sun_w", 0.0, WATTS),
        daylight: s.duration("daylight", 12 * HOUR, ZERO..=DAY),
        sky: shares(s, "sky", (0.3, 1.0)),
        mains_w: float(s, "mains_w", 0.0, WATTS),
        off_pct: float(s, "off_pct", 2.0, 0.0..=100.0),
        on_pct: float(s, "on_pct", 10.0, 0.0..=100.0),
    };
    if battery.on_pct <= battery.off_pct {
        let key = if s.has("on_pct") { "on_pct" } else { "off_pct" };
        s.error(key, format!("on_pct = {} must be more than off_pct = {}", battery.on_pct, battery.off_pct));
    }
    Some(battery)
}

fn host(s: &mut Section<'_>) -> HostWorld {
    HostWorld {
        cpu_pct: float(s, "cpu_pct", 10.0, 0.0..=100.0),
        mem_used_pct: float(s, "mem_used_pct", 40.0, 0.0..=100.0),
        temperature_c: float(s, "temperature_c", 45.0, -60.0..=150.0),
        boot: s.duration("boot", 25 * SECOND, ZERO..=HOUR),
    }
}

/// The links; a cable where the scenario names none.
fn links(s: &mut Section<'_>) -> Vec<LinkWorld> {
    let mut names = BTreeSet::new();
    let links: Vec<LinkWorld> = s.tables("links", |s| link(s, &mut names)).into_iter().flatten().collect();
    if !links.is_empty() {
        return links;
    }
    vec![LinkWorld { interface: "eth0".to_owned(), kind: "ethernet".to_owned(), rssi_dbm: None, gaps: None }]
}

fn link(s: &mut Section<'_>, names: &mut BTreeSet<String>) -> Option<LinkWorld> {
    let interface = s.required("interface", "\"wwan0\"", read::interface);
    let kind = s.optional("type", word(&["ethernet", "wifi", "cellular"])).unwrap_or("ethernet");
    let rssi_dbm = s.knows("rssi_dbm").then(|| float(s, "rssi_dbm", -85.0, -150.0..=0.0));
    let every = s.optional("gap_every", duration(HOUR, EVERY_MIN..=LASTS_MAX));
    let lasts = range(s, "gap_lasts", (MINUTE, 5 * MINUTE), SECOND..=LASTS_MAX);
    if s.has("gap_lasts") && !s.has("gap_every") {
        s.error("gap_lasts", "says how long gaps last, but gap_every is missing, for example gap_every = \"1h\"");
    }
    let interface = interface?;
    if !names.insert(interface.clone()) {
        s.error("interface", format!("{interface:?} stands twice; each link needs a name of its own"));
    }
    let gaps = every.map(|every| Recurring { every, lasts });
    Some(LinkWorld { interface, kind: kind.to_owned(), rssi_dbm, gaps })
}

fn units(s: &mut Section<'_>) -> Vec<UnitWorld> {
    let mut names = BTreeSet::new();
    s.tables("units", |s| unit(s, &mut names)).into_iter().flatten().collect()
}

fn unit(s: &mut Section<'_>, names: &mut BTreeSet<UnitName>) -> Option<UnitWorld> {
    let name = s.required("unit", "\"app.service\"", parsed(UnitName::parse));
    let fails = s.optional("fails_every", duration(6 * HOUR, EVERY_MIN..=LASTS_MAX));
    let hangs = s.flag("hangs", false);
    let restart_heals = float(s, "restart_heals", 1.0, 0.0..=1.0);
    let restarts_itself = s.optional("restarts_itself", duration(5 * SECOND, SECOND..=LASTS_MAX));
    let leaks_pct_per_hour = float(s, "leaks_pct_per_hour", 0.0, 0.0..=10_000.0);
    let starts_in = s.duration("starts_in", 2 * SECOND, ZERO..=HOUR);
    let unit = name?;
    if !names.insert(unit.clone()) {
        s.error("unit", format!("\"{unit}\" stands twice"));
    }
    Some(UnitWorld { unit, fails, hangs, restart_heals, restarts_itself, leaks_pct_per_hour, starts_in })
}

fn releases(s: &mut Section<'_>, units: &[UnitWorld]) -> Vec<ReleaseWorld> {
    let releases = s.named_tables("releases", |s| release(s, units));
    releases.into_iter().filter_map(|(target, release)| Some(ReleaseWorld { target, ..release? })).collect()
}

/// Reads one `[releases.NAME]`, all but its name.
fn release(s: &mut Section<'_>, units: &[UnitWorld]) -> Option<ReleaseWorld> {
    let name = || nonempty("a release's name, such as \"2.0.10\"");
    let running = s.required("running", "\"2.0.10\"", name());
    let previous = s.required("previous", "\"2.0.9\"", name());
    let unit = s.required("unit", "\"app.service\"", parsed(UnitName::parse));
    let bad = s.list("bad", Vec::new(), "[\"2.0.11\"]", name());
    let update_to = s.optional("update_to", name());
    let update_at = s.optional("update_at", duration(2 * HOUR, ZERO..=LASTS_MAX));
    match (s.has("update_to"), s.has("update_at")) {
        (true, false) => s.error("update_to", "needs update_at beside it, for example update_at = \"2h\""),
        (false, true) => s.error("update_at", "needs update_to beside it, for example update_to = \"2.0.11\""),
        _ => {}
    }
    let unit = unit?;
    if !units.iter().any(|world| world.unit == unit) {
        s.error("unit", format!("there is no [[units]] with unit = \"{unit}\", so no release could break it"));
    }
    let (target, update) = (String::new(), update_to.zip(update_at));
    Some(ReleaseWorld { target, running: running?, previous: previous?, unit, bad, update })
}

fn errors(s: &mut Section<'_>) -> ErrorsWorld {
    ErrorsWorld { per_hour: float(s, "per_hour", 0.5, 0.0..=100_000.0), kinds: s.integer("kinds", 3, 1..=100_000) }
}
