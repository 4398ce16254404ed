//! A stand-in for the reader of scenarios: heeds `about` and `config` only.
#![expect(clippy::disallowed_methods, reason = "scenarios are files")]

use std::path::Path;
use std::time::Duration;

use super::{ClockWorld, DiskWorld, ErrorsWorld, HostWorld, NetworkWorld, Scenario};
use crate::config::Problem;
use crate::engine::time::Unix;

/// Reads a scenario.
///
/// # Errors
/// Every mistake.
pub fn load(path: &Path) -> Result<Scenario, Vec<Problem>> {
    let problem = |line, message| Problem { file: path.to_owned(), line, column: 1, key: String::new(), message };
    let text = std::fs::read_to_string(path)
        .map_err(|error| vec![problem(1, format!("reading {}: {error}", path.display()))])?;
    let (mut about, mut config, mut problems) = (String::new(), None, Vec::new());
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let (key, value) = line.split_once('=').unwrap_or((line, ""));
        match key.trim() {
            "about" => about = value.trim().trim_matches('"').to_owned(),
            "config" => config = Some(value.trim().trim_matches('"').into()),
            "lasts" => {}
            key => problems.push(problem(index + 1, format!("unknown key {key:?}"))),
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let zero = Duration::ZERO;
    Ok(Scenario {
        name: path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
        about,
        config,
        lasts: Duration::from_secs(86_400),
        calm: Duration::from_secs(7_200),
        starts: Unix(1_768_435_200_000),
        clock: ClockWorld { boots_at: None, set_after: None, drift_ppm: 0.0 },
        disk: DiskWorld { bytes: 1 << 30, others_bytes: 0, others_grow_bytes: 0, commit: (zero, zero) },
        network: NetworkWorld { latency: (zero, zero), bandwidth: None, session_expiry: zero },
        battery: None,
        host: HostWorld { cpu_pct: 5.0, mem_used_pct: 30.0, mem_bytes: 1 << 29, temperature_c: 20.0, boot: zero },
        links: Vec::new(),
        units: Vec::new(),
        releases: Vec::new(),
        errors: ErrorsWorld { per_hour: 0.0, kinds: 1 },
        faults: Vec::new(),
        commands: Vec::new(),
        expect: Vec::new(),
    })
}
