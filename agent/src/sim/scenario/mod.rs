//! Scenarios: what world a gateway lives in, what befalls it, what it is told to do, and what is expected of it.
//! Written in TOML by fleet engineers (`configs/scenarios/`), read with every mistake at once, each with its file and
//! line. Plain data; the world makes it happen.

mod read;

use std::path::PathBuf;
use std::time::Duration;

use crate::config::UnitName;
use crate::engine::observation::Severity;
use crate::engine::time::Unix;
use crate::words::words;

pub use read::load;

/// A scenario that was checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    /// Its name: that of its file.
    pub name: String,
    /// What it shows, in a line.
    pub about: String,
    /// The configuration that it is made for, beside it; used where none is named.
    pub config: Option<PathBuf>,
    /// How long it lasts, `calm` included.
    pub lasts: Duration,
    /// The last phase, in which no fault begins and those that last have ended: what was promised must come true in it.
    pub calm: Duration,
    /// The true date at its begin.
    pub starts: Unix,
    /// The wall clock.
    pub clock: ClockWorld,
    /// The flash.
    pub disk: DiskWorld,
    /// Between the gateway and the broker.
    pub network: NetworkWorld,
    /// `None`: mains power without a battery.
    pub battery: Option<BatteryWorld>,
    /// Load, memory, temperature.
    pub host: HostWorld,
    /// Network interfaces, the one with the route first.
    pub links: Vec<LinkWorld>,
    /// systemd units.
    pub units: Vec<UnitWorld>,
    /// Releases, by the `[rollback.NAME]` that goes back in them.
    pub releases: Vec<ReleaseWorld>,
    /// Error lines on an ordinary day.
    pub errors: ErrorsWorld,
    /// What befalls it.
    pub faults: Vec<Fault>,
    /// What it is told.
    pub commands: Vec<Order>,
    /// What is expected of it.
    pub expect: Vec<Expectation>,
}

/// The gateway's wall clock.
#[derive(Debug, Clone, PartialEq)]
pub struct ClockWorld {
    /// What it says at each boot: a clock without a battery of its own starts in 1970; `None`: the true date.
    pub boots_at: Option<Unix>,
    /// How long after a boot NTP sets it, if the network is up; `None`: never.
    pub set_after: Option<Duration>,
    /// How fast it runs away, in parts per million.
    pub drift_ppm: f64,
}

/// The gateway's flash.
#[derive(Debug, Clone, PartialEq)]
pub struct DiskWorld {
    /// Size of the file system.
    pub bytes: u64,
    /// What others use of it at the begin.
    pub others_bytes: u64,
    /// What others write to it in a day, and never delete.
    pub others_grow_bytes: u64,
    /// How long a commit takes: from, to.
    pub commit: (Duration, Duration),
}

/// Between the gateway and the broker.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkWorld {
    /// One way: from, to.
    pub latency: (Duration, Duration),
    /// Bytes a second; `None`: no limit.
    pub bandwidth: Option<u64>,
    /// How long the broker keeps a session.
    pub session_expiry: Duration,
}

/// A battery and what charges it.
#[derive(Debug, Clone, PartialEq)]
pub struct BatteryWorld {
    /// What it holds when full, in watt-hours.
    pub capacity_wh: f64,
    /// At the begin.
    pub charge_pct: f64,
    /// What the gateway draws.
    pub load_w: f64,
    /// Peak of a solar panel at noon; 0: none.
    pub sun_w: f64,
    /// Hours of daylight.
    pub daylight: Duration,
    /// How much of the sun gets through on a day: from, to, 0 to 1.
    pub sky: (f64, f64),
    /// Mains power at its begin; 0: none.
    pub mains_w: f64,
    /// The machine goes off below this charge, and comes back above `on_pct`.
    pub off_pct: f64,
    /// See `off_pct`.
    pub on_pct: f64,
}

/// The machine.
#[derive(Debug, Clone, PartialEq)]
pub struct HostWorld {
    /// Load of the processors, in percent.
    pub cpu_pct: f64,
    /// Memory in use at the begin, in percent.
    pub mem_used_pct: f64,
    /// By day; nights are 15 degrees colder.
    pub temperature_c: f64,
    /// How long a boot takes until the agent runs.
    pub boot: Duration,
}

/// A network interface.
#[derive(Debug, Clone, PartialEq)]
pub struct LinkWorld {
    /// Its name.
    pub interface: String,
    /// In the contract's words: ethernet, wifi, cellular.
    pub kind: String,
    /// Signal at its best, in dBm; `None` for a cable.
    pub rssi_dbm: Option<f64>,
    /// Without coverage: on average this long, this often a day; `None`: always covered.
    pub gaps: Option<Recurring>,
}

/// Something that comes at random and lasts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Recurring {
    /// From one to the next, on average.
    pub every: Duration,
    /// How long it lasts: from, to.
    pub lasts: (Duration, Duration),
}

/// A systemd unit.
#[derive(Debug, Clone, PartialEq)]
pub struct UnitWorld {
    /// Its name.
    pub unit: UnitName,
    /// It fails this often, on average; `None`: never by itself.
    pub fails: Option<Duration>,
    /// It hangs instead of ending: nothing but a restart notices.
    pub hangs: bool,
    /// How often a restart heals it, 0 to 1; else it fails again within a minute.
    pub restart_heals: f64,
    /// systemd starts it again by itself this long after it failed; `None`: it stays down.
    pub restarts_itself: Option<Duration>,
    /// Memory that it takes and doesn't give back until it is restarted, in percent of all an hour.
    pub leaks_pct_per_hour: f64,
    /// How long a restart takes.
    pub starts_in: Duration,
}

/// The releases of a rollback target.
#[derive(Debug, Clone, PartialEq)]
pub struct ReleaseWorld {
    /// The name of its `[rollback.NAME]`.
    pub target: String,
    /// The one that runs at the begin.
    pub running: String,
    /// The one before.
    pub previous: String,
    /// The unit that fails in a bad release, every few seconds.
    pub unit: UnitName,
    /// Releases that are bad.
    pub bad: Vec<String>,
    /// The release to which an update brings it, and when; `None`: no update.
    pub update: Option<(String, Duration)>,
}

/// Error lines on an ordinary day.
#[derive(Debug, Clone, PartialEq)]
pub struct ErrorsWorld {
    /// How many in an hour, on average.
    pub per_hour: f64,
    /// Different messages among them.
    pub kinds: u32,
}

/// Something that befalls the gateway.
#[derive(Debug, Clone, PartialEq)]
pub struct Fault {
    /// What to call it: in the timeline, and in `after` of an expectation.
    pub name: String,
    /// What happens.
    pub kind: FaultKind,
    /// When.
    pub when: When,
    /// How long it lasts: from, to. For what happens in an instant: not at all.
    pub lasts: (Duration, Duration),
}

/// When something happens.
#[derive(Debug, Clone, PartialEq)]
pub enum When {
    /// At these times since the begin.
    At(Vec<Duration>),
    /// At random, this long apart on average.
    Every(Duration),
}

/// What can befall a gateway.
#[derive(Debug, Clone, PartialEq)]
pub enum FaultKind {
    /// The agent is killed (kill -9) between any two steps, and started again by systemd.
    Crash,
    /// The agent is stopped (SIGTERM) and started again.
    Restart,
    /// The power goes: what the disk had not committed may be lost. It is off for as long as the fault lasts.
    PowerCut,
    /// A user reboots the machine.
    Reboot,
    /// The connection is cut, and none comes about.
    Cut,
    /// Packets vanish both ways; nobody is told.
    HalfOpen,
    /// Latency is multiplied.
    Slow {
        /// By this.
        times: f64,
    },
    /// The broker is down. Sessions and retained messages survive it.
    BrokerDown,
    /// The broker restarts, and has forgotten every session and retained message.
    BrokerForgets,
    /// The broker refuses CONNECT: server busy.
    BrokerRefuses,
    /// PUBACKs vanish on their way with this probability; the connection breaks some time after.
    AcksLost {
        /// 0 to 1.
        probability: f64,
    },
    /// The broker delivers commands twice with this probability.
    Duplicates {
        /// 0 to 1.
        probability: f64,
    },
    /// The broker closes the connection when more come in a second.
    Throttle {
        /// Publishes a second.
        per_second: u32,
    },
    /// No space is left on the device.
    DiskFull,
    /// Each operation of the store fails with this probability.
    DiskErrors {
        /// 0 to 1.
        probability: f64,
    },
    /// Commits take this much longer.
    DiskSlow {
        /// Times.
        times: f64,
    },
    /// Flash cells go bad: records are found damaged at the next start.
    DiskDamage {
        /// The journal too.
        state: bool,
    },
    /// The wall clock jumps.
    ClockJump {
        /// By this many seconds; less than 0 is back.
        by_s: i64,
    },
    /// The kernel no longer calls the clock synchronised.
    ClockUnsynced,
    /// A sensor says nonsense.
    SensorLies {
        /// The metric, as in the samples: battery.charge_pct.
        metric: String,
        /// What it says.
        value: f64,
    },
    /// A sensor says nothing.
    SensorGone {
        /// The metric, or a group with a dot at its end: `battery.`.
        metric: String,
    },
    /// A unit fails now.
    UnitFails {
        /// Which.
        unit: UnitName,
    },
    /// Error lines come in a flood.
    ErrorStorm {
        /// Lines a second.
        per_second: u32,
        /// Different messages among them.
        kinds: u32,
        /// How bad they are.
        severity: Severity,
    },
    /// The mains fail, or no sun shines.
    NoPower,
    /// Something takes memory.
    MemoryPressure {
        /// In percent.
        pct: f64,
    },
    /// The machine is hot.
    Heat {
        /// By this many degrees.
        by_c: f64,
    },
}

/// Commands to this gateway.
#[derive(Debug, Clone, PartialEq)]
pub struct Order {
    /// The command.
    pub name: String,
    /// Its arguments.
    pub args: serde_json::Map<String, serde_json::Value>,
    /// When it is sent.
    pub when: When,
    /// How many at once.
    pub burst: u32,
    /// To this group rather than to the device.
    pub group: Option<String>,
    /// How long it is valid.
    pub expires: Duration,
    /// With the nonce of the presence message that the operator saw last.
    pub nonce: bool,
    /// What is wrong with it.
    pub flaw: Option<Flaw>,
}

words! {
    /// What is wrong with a command.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    Flaw {
        /// Signed by a key that nobody trusts.
        Forged "forged",
        /// Expired when it is sent.
        Expired "expired",
        /// The same message once more, a while later.
        Replayed "replayed",
        /// Not a token at all.
        Garbage "garbage",
        /// For another gateway.
        Misaddressed "misaddressed",
    }
}

impl FaultKind {
    /// The words of all kinds.
    pub const WORDS: [&str; 26] = [
        "crash",
        "restart",
        "power_cut",
        "reboot",
        "cut",
        "half_open",
        "slow",
        "broker_down",
        "broker_forgets",
        "broker_refuses",
        "acks_lost",
        "duplicates",
        "throttle",
        "disk_full",
        "disk_errors",
        "disk_slow",
        "disk_damage",
        "clock_jump",
        "clock_unsynced",
        "sensor_lies",
        "sensor_gone",
        "unit_fails",
        "error_storm",
        "no_power",
        "memory_pressure",
        "heat",
    ];

    /// Whether it happens in an instant, rather than last.
    #[must_use]
    pub const fn is_instant(&self) -> bool {
        matches!(
            self,
            Self::Crash
                | Self::Restart
                | Self::Reboot
                | Self::DiskDamage { .. }
                | Self::ClockJump { .. }
                | Self::UnitFails { .. }
        )
    }

    /// Its word in a scenario file.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::Restart => "restart",
            Self::PowerCut => "power_cut",
            Self::Reboot => "reboot",
            Self::Cut => "cut",
            Self::HalfOpen => "half_open",
            Self::Slow { .. } => "slow",
            Self::BrokerDown => "broker_down",
            Self::BrokerForgets => "broker_forgets",
            Self::BrokerRefuses => "broker_refuses",
            Self::AcksLost { .. } => "acks_lost",
            Self::Duplicates { .. } => "duplicates",
            Self::Throttle { .. } => "throttle",
            Self::DiskFull => "disk_full",
            Self::DiskErrors { .. } => "disk_errors",
            Self::DiskSlow { .. } => "disk_slow",
            Self::DiskDamage { .. } => "disk_damage",
            Self::ClockJump { .. } => "clock_jump",
            Self::ClockUnsynced => "clock_unsynced",
            Self::SensorLies { .. } => "sensor_lies",
            Self::SensorGone { .. } => "sensor_gone",
            Self::UnitFails { .. } => "unit_fails",
            Self::ErrorStorm { .. } => "error_storm",
            Self::NoPower => "no_power",
            Self::MemoryPressure { .. } => "memory_pressure",
            Self::Heat { .. } => "heat",
        }
    }
}

/// What the user expects of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Expectation {
    /// Of what.
    pub of: Subject,
    /// How it is to be.
    pub bounds: Bounds,
    /// As it is written, for messages.
    pub text: String,
}

/// What an expectation is about.
#[derive(Debug, Clone, PartialEq)]
pub enum Subject {
    /// How often an alarm is raised.
    Alarm(String),
    /// How often an alarm stands when the run ends: 0 or 1.
    AlarmStands(String),
    /// How often a remedy was tried, by its action, whoever wanted it.
    Remedy(String),
    /// How often a remedy was found to have helped, by its action.
    Healed(String),
    /// How many commands ended so, by status, however often that was told; `None`: any that is terminal.
    Command {
        /// The command's name.
        name: String,
        /// The status in which it ended.
        status: Option<String>,
    },
    /// How often an event of this name was recorded.
    Event(String),
    /// A figure of the summary.
    Measure(super::report::Measure),
}

/// How often, or how much, and when.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Bounds {
    /// Not less.
    pub at_least: Option<f64>,
    /// Not more.
    pub at_most: Option<f64>,
    /// What comes later than this after `after` doesn't count.
    pub within: Option<Duration>,
    /// The begin of the first fault of this name, or a time; `None`: the begin of the run. What comes before doesn't
    /// count.
    pub after: Option<After>,
}

/// From when on something counts.
#[derive(Debug, Clone, PartialEq)]
pub enum After {
    /// Since the begin of the run.
    Time(Duration),
    /// The first fault of this name.
    Fault(String),
}
