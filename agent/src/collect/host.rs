//! The host: processors, memory, disks, flash wear, temperature, pressure and uptime, from `/proc` and `/sys` below the
//! root and from statvfs(3). Keeps the processors' counters from one round to the next, and nothing else.
//!
//! Parses `/proc` itself: sysinfo can't be pointed at another root, and two ways to one number would be two truths.

use std::path::Path;

use super::mounts;
use super::round::{Faulted, Reading, Round};
use crate::config::CollectHost;
use crate::engine::metric::Metric;

/// Of an eMMC, below its directory.
pub(crate) const FLASH_LIFE: &str = "device/life_time";
/// JESD84-B51, DEVICE_LIFE_TIME_EST: steps of 10 %; 0x0B is past the end, above that is reserved.
const LIFE_TIME_MAX: u8 = 0x0B;
/// Thousandths of a degree Celsius.
const TEMPERATURE_MC: std::ops::RangeInclusive<f64> = -100_000.0..=200_000.0;
const LOAD_MAX: f64 = 1e6;
const MEMINFO: &str = "proc/meminfo";
/// Documentation/hwmon/sysfs-interface.rst.
const CHIPS: &str = "sys/class/hwmon";
/// A thousand years.
const UPTIME_MAX_S: f64 = 1e3 * 365.0 * 86_400.0;
/// Columns of /proc/stat that add up to all time: user to steal. Guest time is in user time already.
const CPU_COLUMNS: usize = 8;

/// Jiffies since boot, all processors together.
#[derive(Debug, Clone, Copy)]
struct Jiffies {
    busy: u64,
    total: u64,
}

/// What the host collector keeps between rounds.
#[derive(Debug, Default)]
pub(super) struct Host {
    jiffies: Option<Jiffies>,
}

impl Host {
    /// Reads the host into `round`. The processors' load comes from the second round on.
    pub(super) fn collect(&mut self, config: &CollectHost, round: &mut Round<'_>) {
        let cpu = self.cpu_pct(round);
        round.reading(Metric::HostCpu, cpu);
        let load = first_number(round, "proc/loadavg", LOAD_MAX);
        round.reading(Metric::HostLoad1, load);
        let uptime = first_number(round, "proc/uptime", UPTIME_MAX_S);
        round.reading(Metric::HostUptime, uptime);
        let _: Result<(), Faulted> = memory(round);
        for mount in &config.mounts {
            disk(round, mount);
        }
        let life = flash_life_used_pct(round);
        round.reading(Metric::HostFlashLife, life);
        let temperature = temperature_c(round);
        round.reading(Metric::HostTemperature, temperature);
        let undervoltage = undervoltage(round);
        round.reading(Metric::HostUndervoltage, undervoltage);
        for (what, metric) in
            [("cpu", Metric::HostPsiCpu), ("memory", Metric::HostPsiMemory), ("io", Metric::HostPsiIo)]
        {
            let pressure = pressure_pct(round, &format!("proc/pressure/{what}"));
            round.reading(metric, pressure);
        }
    }

    fn cpu_pct(&mut self, round: &mut Round<'_>) -> Reading<f64> {
        let now = jiffies(round)?;
        let Some(before) = self.jiffies.replace(now) else { return Ok(None) };
        // iowait may run backwards (proc(5)), and so may the sums.
        let busy = now.busy.saturating_sub(before.busy);
        let total = now.total.saturating_sub(before.total);
        Ok((total > 0).then(|| pct(busy.min(total), total)))
    }
}

fn jiffies(round: &mut Round<'_>) -> Result<Jiffies, Faulted> {
    const FILE: &str = "proc/stat";
    let text = round.required(FILE)?;
    let line = text.lines().next().unwrap_or_default();
    let mut columns = line.split_whitespace();
    let counts: Vec<u64> = match columns.next() {
        Some("cpu") => columns.take(CPU_COLUMNS).map_while(|column| column.parse().ok()).collect(),
        _ => Vec::new(),
    };
    // Kernels before 2.6.11 have no steal time.
    let [_user, _nice, _system, idle, iowait, ..] = counts.as_slice() else {
        return Err(round.nonsense(FILE, line, "`cpu` and its jiffies"));
    };
    let total = counts.iter().fold(0_u64, |sum, count| sum.saturating_add(*count));
    Ok(Jiffies { busy: total.saturating_sub(idle.saturating_add(*iowait)), total })
}

fn memory(round: &mut Round<'_>) -> Result<(), Faulted> {
    let text = round.required(MEMINFO)?;
    let total = meminfo_bytes(round, &text, "MemTotal");
    let available = meminfo_bytes(round, &text, "MemAvailable");
    match (total, available) {
        (Ok(Some(total @ 1..)), Ok(Some(available))) => {
            if let Ok(used) = meminfo_used_pct(round, total, available) {
                round.point(Metric::HostMemAvailable, available);
                round.point(Metric::HostMemUsed, used);
            }
        }
        (_, available) => round.reading(Metric::HostMemAvailable, available),
    }
    let swap = meminfo_bytes(round, &text, "SwapTotal")?;
    let free = meminfo_bytes(round, &text, "SwapFree")?;
    // A gateway without swap has no share of it in use.
    if let (Some(swap @ 1..), Some(free)) = (swap, free) {
        let used = meminfo_used_pct(round, swap, free)?;
        round.point(Metric::HostSwapUsed, used);
    }
    Ok(())
}

/// What isn't free of a `total` that is not zero.
fn meminfo_used_pct(round: &mut Round<'_>, total: u64, free: u64) -> Result<f64, Faulted> {
    match total.checked_sub(free) {
        Some(used) => Ok(pct(used, total)),
        None => Err(round.fault(MEMINFO, format!("says that {free} B of {total} B are free"))),
    }
}

/// A line like `MemTotal:  24684560 kB`.
fn meminfo_bytes(round: &mut Round<'_>, text: &str, key: &str) -> Reading<u64> {
    let Some(value) = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')) else {
        return Ok(None);
    };
    let kib = round.parse(MEMINFO, value.trim().trim_end_matches(" kB"), 0..=u64::MAX / 1024)?;
    Ok(Some(kib * 1024))
}

fn disk(round: &mut Round<'_>, mount: &Path) {
    let label = mount.to_string_lossy();
    let Some(stat) = mounts::stat(round, &label) else { return };
    // Like df(1): what root keeps for itself (f_bfree over f_bavail) is neither used nor ours to use.
    let used = stat.f_blocks.saturating_sub(stat.f_bfree);
    let usable = used.saturating_add(stat.f_bavail);
    if usable > 0 {
        round.labelled(Metric::HostDiskUsed, &label, pct(used, usable));
        round.labelled(Metric::HostDiskFree, &label, stat.f_bavail.saturating_mul(stat.f_frsize));
    }
    // btrfs and FAT have no inodes to run out of.
    if stat.f_files > 0 {
        let used = stat.f_files.saturating_sub(stat.f_ffree);
        round.labelled(Metric::HostDiskInodes, &label, pct(used, stat.f_files));
    }
}

/// The most worn eMMC, in percent of its life: the upper end of the step that it reports.
fn flash_life_used_pct(round: &mut Round<'_>) -> Reading<f64> {
    let mut worst = None;
    for name in round.names("sys/block") {
        let is_disk = name.strip_prefix("mmcblk").is_some_and(|number| number.bytes().all(|b| b.is_ascii_digit()));
        if is_disk {
            let used = life_time_pct(round, &format!("sys/block/{name}/{FLASH_LIFE}"))?;
            worst = worst.max(used);
        }
    }
    Ok(worst.map(f64::from))
}

/// `0x02 0x01`: memory of type A (SLC) and of type B (MLC); 0 says nothing.
fn life_time_pct(round: &mut Round<'_>, file: &str) -> Reading<u8> {
    let Some(text) = round.text(file)? else { return Ok(None) };
    let steps: Option<Vec<u8>> = text
        .split_whitespace()
        .map(|step| u8::from_str_radix(step.strip_prefix("0x")?, 16).ok().filter(|step| *step <= LIFE_TIME_MAX))
        .collect();
    let Some(worst) = steps.and_then(|steps| steps.into_iter().max()) else {
        return Err(round.nonsense(file, &text, "two steps from 0x00 to 0x0b"));
    };
    Ok((worst > 0).then(|| worst * 10))
}

/// The hottest thermal zone; on a board without any, the hottest sensor of its hwmon chips that they don't call faulty.
fn temperature_c(round: &mut Round<'_>) -> Reading<f64> {
    const ZONES: &str = "sys/class/thermal";
    let zones = round.names(ZONES).into_iter().filter(|name| name.starts_with("thermal_zone"));
    let mut sensors: Vec<String> = zones.map(|zone| format!("{ZONES}/{zone}/temp")).collect();
    if sensors.is_empty() {
        for chip in round.names(CHIPS) {
            let files = round.names(&format!("{CHIPS}/{chip}")).into_iter();
            let names = files.filter_map(|file| file.strip_suffix("_input").map(str::to_owned));
            let sensor = |name| format!("{CHIPS}/{chip}/{name}");
            sensors.extend(names.filter(|name| name.starts_with("temp")).map(sensor));
        }
        // An open diode reads as 127 degrees.
        sensors.retain(|sensor| round.number(&format!("{sensor}_fault"), 0..=1) != Ok(Some(1)));
        sensors.iter_mut().for_each(|sensor| sensor.push_str("_input"));
    }
    let readings = sensors.iter().filter_map(|sensor| round.number(sensor, TEMPERATURE_MC).ok().flatten());
    Ok(readings.max_by(f64::total_cmp).map(|mc| mc / 1000.0))
}

/// Whether a supply voltage is critically low (Documentation/hwmon/sysfs-interface; a Raspberry Pi's firmware tells it
/// so, as `rpi_volt`): the hint of a brown-out. Nothing where no chip watches for it.
fn undervoltage(round: &mut Round<'_>) -> Reading<bool> {
    let mut answer = Ok(None);
    for chip in round.names(CHIPS) {
        let dir = format!("{CHIPS}/{chip}");
        for file in round.names(&dir).iter().filter(|name| name.starts_with("in") && name.ends_with("_lcrit_alarm")) {
            match round.number(&format!("{dir}/{file}"), 0..=1) {
                Ok(Some(1..)) => return Ok(Some(true)),
                Ok(Some(0)) if answer == Ok(None) => answer = Ok(Some(false)),
                Ok(_) => {}
                // The one that can't be read may be the one that is low.
                Err(Faulted) => answer = Err(Faulted),
            }
        }
    }
    answer
}

/// `some avg10=0.18 avg60=0.04 …` (Documentation/accounting/psi.rst): avg60, in percent of the time.
fn pressure_pct(round: &mut Round<'_>, file: &str) -> Reading<f64> {
    let Some(text) = round.text(file)? else { return Ok(None) };
    let some = text.lines().find_map(|line| line.strip_prefix("some "));
    let avg60 = some.and_then(|some| some.split_whitespace().find_map(|field| field.strip_prefix("avg60=")));
    match avg60 {
        Some(avg60) => round.parse(file, avg60, 0.0..=100.0).map(Some),
        None => Err(round.nonsense(file, &text, "a pressure with avg60")),
    }
}

fn first_number(round: &mut Round<'_>, file: &str, max: f64) -> Reading<f64> {
    let Some(text) = round.text(file)? else { return Ok(None) };
    let first = text.split_whitespace().next().unwrap_or_default();
    round.parse(file, first, 0.0..=max).map(Some)
}

/// `part` of a `whole` that is not zero.
#[expect(clippy::cast_precision_loss, reason = "precise enough for a percentage")]
fn pct(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64 * 100.0
}
