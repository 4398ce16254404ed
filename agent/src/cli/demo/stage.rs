//! What the demo needs before it begins, in a directory that is gone afterwards: a battery where the machine has none,
//! keys, a configuration, a broker and a workload.

#![expect(clippy::disallowed_methods, reason = "the stage is set with files, keys and tasks")]

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::super::keygen;
use crate::act::Actor;
use crate::act::diagnostics::Diagnostics;
use crate::act::supervisor::Supervisor;
use crate::act::units::Manager;
use crate::broker::Settings as BrokerSettings;
use crate::broker::serve::{self, Control};
use crate::config::{self, BrokerUrl, CheckedConfig, UnitName};
use crate::wire::keys::SigningKey;

/// The unit that the demo's command restarts.
pub(super) const WORKLOAD: &str = "demo-workload.service";
/// The directory's name says it wherever the battery shows up in telemetry.
pub(super) const SIMULATED_SUPPLY: &str = "simulated-battery";
/// The key that signs the demo's commands.
pub(super) const KID: &str = "demo";
/// Requests to the demo's broker that may wait.
const CONTROLS_MAX: usize = 4;
/// Names that are tried for the directory, beside the first.
const NAMES_MAX: u32 = 8;

/// Everything that the demo plays with.
pub(super) struct Stage {
    /// Removed with all that is in it when the demo ends.
    _dir: TempDir,
    pub(super) config: CheckedConfig,
    pub(super) key: SigningKey,
    pub(super) key_file: PathBuf,
    pub(super) actor: Arc<Actor>,
    /// The way to the demo's own broker; `None` with `--url`.
    pub(super) broker: Option<mpsc::Sender<Control>>,
    /// `None` where the machine has a real one.
    pub(super) battery: Option<Battery>,
}

/// A battery that is imitated in the kernel's own format.
pub(super) struct Battery {
    /// The root below which the agent looks for batteries.
    pub(super) root: PathBuf,
    /// The supply's directory.
    pub(super) supply: PathBuf,
}

impl Stage {
    /// Makes everything ready.
    pub(super) async fn set(port: u16, url: Option<BrokerUrl>) -> anyhow::Result<Self> {
        let dir = TempDir::new()?;
        let battery = imitate_battery(&dir.0).context("lay out the demo's battery")?;
        let (key, key_file) = make_key(&dir.0)?;
        let (broker, url) = match url {
            Some(url) => (None, url),
            None => {
                let (broker, url) = open_broker(port).await?;
                (Some(broker), url)
            }
        };
        let file = dir.0.join("agent.toml");
        fs::write(&file, configuration(&dir.0, &url, &key_file)).context("write the demo's configuration")?;
        let loaded = config::load(&[file]).map_err(|problems| {
            let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
            anyhow::anyhow!("the demo's own configuration: {}", problems.join("; "))
        })?;
        let unit = UnitName::parse(WORKLOAD).map_err(|error| anyhow::anyhow!("{WORKLOAD}: {error}"))?;
        let supervisor = Supervisor::start(unit, &workload()).context("start the demo's workload")?;
        let config = &loaded.config;
        let actor = Actor::new(Manager::Supervised(Box::new(supervisor)), config.runbooks.dir.clone())
            .with_diagnostics(Diagnostics::new(config.collect.root.clone(), config.to_toml()));
        let actor = Arc::new(actor);
        Ok(Self { _dir: dir, config: loaded.config, key, key_file, actor, broker, battery })
    }
}

/// As plain as a workload can be: it is there, and its pid tells one life from the next. Where the demo is killed,
/// nobody kills it: it ends by itself.
fn workload() -> [String; 5] {
    // Its sleep outlives it for a moment, and must not hold whoever reads what the demo says.
    const AS_LONG_AS_THE_DEMO: &str = "exec >/dev/null 2>&1; while kill -0 \"$1\"; do sleep 1; done";
    ["sh", "-c", AS_LONG_AS_THE_DEMO, "demo-workload", &std::process::id().to_string()].map(str::to_owned)
}

/// In place of a battery, where there is none, a directory like the kernel's; returns its root and the supply's own.
fn imitate_battery(dir: &Path) -> std::io::Result<Option<Battery>> {
    let real = fs::read_dir("/sys/class/power_supply");
    if real.is_ok_and(|mut supplies| supplies.next().is_some()) {
        return Ok(None);
    }
    let root = dir.join("battery");
    let supply = root.join("sys/class/power_supply").join(SIMULATED_SUPPLY);
    fs::create_dir_all(&supply)?;
    for (file, text) in [("type", "Battery"), ("present", "1"), ("manufacturer", "SIMULATED"), ("cycle_count", "37")] {
        fs::write(supply.join(file), text)?;
    }
    drain_battery(&supply, 0)?;
    Ok(Some(Battery { root, supply }))
}

/// Writes the battery's files as they are after so many seconds of a load that would empty it in half an hour, and that
/// a charger takes off when it is half done; in the units of Documentation/ABI/testing/sysfs-class-power.
pub(super) fn drain_battery(supply: &Path, seconds: u64) -> std::io::Result<()> {
    const FULL_UAH: u64 = 5_000_000;
    const LIFE_S: u64 = 1_800;
    const DRAIN_S: u64 = LIFE_S / 2;
    const CHARGE_S: u64 = DRAIN_S / 5;
    let phase = seconds % (DRAIN_S + CHARGE_S);
    let (status, drained) = match phase.checked_sub(DRAIN_S) {
        None => ("Discharging", phase),
        Some(charging) => ("Charging", DRAIN_S - charging * DRAIN_S / CHARGE_S),
    };
    let left = LIFE_S - LIFE_S / 5 - drained;
    let charge_uah = FULL_UAH * left / LIFE_S;
    let files = [
        ("status", status.to_owned()),
        ("charge_full", FULL_UAH.to_string()),
        ("charge_full_design", (FULL_UAH * 100 / 95).to_string()),
        ("charge_now", charge_uah.to_string()),
        ("capacity", (100 * left / LIFE_S).to_string()),
        ("current_now", (FULL_UAH * 3_600 / LIFE_S).to_string()),
        ("voltage_now", (11_000_000 + 1_600_000 * left / LIFE_S).to_string()),
        ("temp", (241 + seconds % 10).to_string()),
    ];
    files.iter().try_for_each(|(file, text)| fs::write(supply.join(file), text))
}

fn make_key(dir: &Path) -> anyhow::Result<(SigningKey, PathBuf)> {
    let file = keygen::write_pair(dir, KID)?.private;
    let text = fs::read_to_string(&file).context("read the demo's key")?;
    Ok((SigningKey::from_pem(&text)?, file))
}

async fn open_broker(port: u16) -> anyhow::Result<(mpsc::Sender<Control>, BrokerUrl)> {
    let listener = TcpListener::bind(("127.0.0.1", port))
        .await
        .with_context(|| format!("listen on 127.0.0.1:{port} for the demo's broker"))?;
    let port = listener.local_addr().context("read the broker's port")?.port();
    let (control, controls) = mpsc::channel(CONTROLS_MAX);
    // Ends with the demo; should it fail before, nothing connects any more, and the demo says that.
    drop(tokio::spawn(serve::serve(listener, BrokerSettings::default(), controls)));
    Ok((control, BrokerUrl { tls: false, host: "127.0.0.1".into(), port }))
}

/// The contract's configuration with a demo's haste. The clock is believed, because a machine that a developer sits at
/// keeps time even where its kernel doesn't say so.
fn configuration(dir: &Path, url: &BrokerUrl, key_file: &Path) -> String {
    let text = |path: &Path| format!("{:?}", path.display().to_string());
    format!(
        r#"
        [device]
        id = "demo-gateway"
        groups = ["demo"]
        [device.attributes]
        site = "your desk"
        [mqtt]
        url = "{url}"
        [mqtt.reconnect]
        min = "500ms"
        max = "2s"
        stable_after = "2s"
        [store]
        path = {store}
        commit_interval = "200ms"
        [telemetry]
        sample_interval = "250ms"
        report_interval = "500ms"
        publish_interval = "1s"
        [clock]
        trust = "always"
        [remediation]
        allow = ["restart_unit"]
        units = ["{WORKLOAD}"]
        [remediation.budget]
        restart_unit = "20/1h"
        [commands]
        trusted_keys = [{key}]
        [local]
        socket = {socket}
        "#,
        store = text(&dir.join("store")),
        key = text(&key_file.with_extension("pub")),
        socket = text(&dir.join("agent.sock")),
    )
}

/// A directory of our own below the system's for temporary files; removed when it is dropped.
pub(super) struct TempDir(pub(super) PathBuf);

impl TempDir {
    fn new() -> anyhow::Result<Self> {
        let mut tries = 0..NAMES_MAX;
        loop {
            // Not the pid: in a container it is the same at each start, and one that was killed has left its directory.
            let name = format!("fieldmedic-demo-{:08x}", u32::from_ne_bytes(keygen::random()?));
            let path = std::env::temp_dir().join(name);
            // `create_dir` fails if somebody was here first, so nobody can lay files or links in our way.
            match fs::create_dir(&path) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists && tries.next().is_some() => {}
                other => return other.map(|()| Self(path.clone())).with_context(|| format!("make {}", path.display())),
            }
        }
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
