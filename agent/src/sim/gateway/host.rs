//! What `/proc`, `/sys` and statvfs(3) would say of the machine. What this world knows nothing of (worn flash, a low
//! supply) reads as on a machine that is well, so that a sensor can lie about it.

use std::time::Duration;

use super::{Gateway, Space, power};
use crate::engine::metric::{Metric, Point};
use crate::sim::scenario::FaultKind;

/// Nights are colder by this.
const NIGHT_COLDER_C: f64 = 15.0;
/// All of the memory.
const MEM_BYTES: f64 = (512_u64 << 20) as f64;
/// Beyond so much memory in use the kernel begins to swap, and somebody waits for memory.
const SWAPS_PCT: f64 = 70.0;
const PRESSES_PCT: f64 = 85.0;
/// Of a process like the agent's.
const AGENT_RSS_BYTES: u64 = 12 << 20;

impl Gateway {
    /// A round of the host's collector. `synced`: what the kernel says of its clock.
    pub(super) fn observe_host(&mut self, at: u64, synced: bool, points: &mut Vec<Point>) {
        let cpu = (self.host.cpu_pct + self.dice.normal() * 2.0).clamp(0.0, 100.0);
        let mem = self.mem_used_pct(at);
        points.push(Point::new(Metric::HostCpu, tenths(cpu)));
        points.push(Point::new(Metric::HostLoad1, tenths(cpu / 50.0)));
        points.push(Point::new(Metric::HostUptime, at.saturating_sub(self.booted_at) / 1_000));
        points.push(Point::new(Metric::HostMemUsed, tenths(mem)));
        points.push(Point::new(Metric::HostMemAvailable, (MEM_BYTES * (1.0 - mem / 100.0)).round()));
        points.push(Point::new(Metric::HostSwapUsed, beyond(mem, SWAPS_PCT)));
        points.push(Point::new(Metric::HostTemperature, self.temperature_c(at).round()));
        points.push(Point::new(Metric::HostPsiCpu, tenths(cpu / 10.0)));
        points.push(Point::new(Metric::HostPsiMemory, beyond(mem, PRESSES_PCT)));
        points.push(Point::new(Metric::HostPsiIo, 0.5));
        points.push(Point::new(Metric::HostFlashLife, 10.0));
        points.push(Point::new(Metric::HostUndervoltage, false));
        points.push(Point::new(Metric::HostClockSynced, synced));
        // It has one disk: whatever is mounted lies on that.
        for mount in &self.collect.host.mounts {
            let (Some(Space { bytes, free }), label) = (self.disk, mount.to_string_lossy()) else { continue };
            #[expect(clippy::cast_precision_loss, reason = "a share")]
            let used = (bytes.saturating_sub(free)) as f64 * 100.0 / bytes.max(1) as f64;
            points.push(Point::labelled(Metric::HostDiskUsed, &label, tenths(used)));
            points.push(Point::labelled(Metric::HostDiskFree, &label, free));
            points.push(Point::labelled(Metric::HostDiskInodes, &label, 5.0));
        }
    }

    pub(super) fn mem_used_pct(&self, at: u64) -> f64 {
        let pressure: f64 = self
            .faults
            .iter()
            .map(|fault| if let FaultKind::MemoryPressure { pct } = fault { *pct } else { 0.0 })
            .sum();
        (self.host.mem_used_pct + pressure + self.units.leaked_pct(at)).clamp(0.0, 100.0)
    }

    /// By the time of day, and what befalls it.
    pub(super) fn temperature_c(&self, at: u64) -> f64 {
        let heat: f64 =
            self.faults.iter().map(|fault| if let FaultKind::Heat { by_c } = fault { *by_c } else { 0.0 }).sum();
        let noon = power::daylight(at + self.day_offset_ms, Duration::from_secs(12 * 3_600));
        self.host.temperature_c - NIGHT_COLDER_C * (1.0 - noon) + heat
    }
}

/// What a process like the agent's uses: nothing in this world makes it more.
pub(super) fn observe_agent(points: &mut Vec<Point>) {
    points.push(Point::new(Metric::AgentRss, AGENT_RSS_BYTES));
    points.push(Point::new(Metric::AgentCpu, 0.2));
    points.push(Point::new(Metric::AgentThreads, 4_u64));
}

/// How far a share is beyond one that can be borne, in percent of what is left above that.
fn beyond(pct: f64, borne_pct: f64) -> f64 {
    tenths(((pct - borne_pct) * 100.0 / (100.0 - borne_pct)).max(0.0))
}

/// What sensors resolve.
fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}
