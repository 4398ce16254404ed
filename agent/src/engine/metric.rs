//! The table of everything that is measured: one row a metric, with its place in the payload, how it rolls up, its unit
//! and where it comes from. Collectors, roll-up, payload, rules and docs all read this table, so a name exists once.
//!
//! A `*` in a path stands for a label (a mount, an interface, a reason).

use std::fmt;

use minicbor::{Decode, Encode};

/// How the observations of one interval become one value of a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rollup {
    /// The last value, with `_min` and `_max` beside it where they differ.
    Gauge,
    /// The last value.
    Last,
    /// A counter that only grows: the growth within the interval. A smaller value than before is a restart from zero.
    Counter,
    /// Amounts that are added up over the interval.
    Sum,
}

/// What a metric's readings are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// A number.
    Number,
    /// True or false.
    Flag,
    /// A word, whose kind the gateway decides.
    Text,
    /// One of these words.
    Words(&'static [&'static str]),
}

/// A measured value.
#[derive(Debug, Clone, PartialEq, Encode, Decode)]
pub enum Value {
    /// A measurement.
    #[n(0)]
    Float(#[n(0)] f64),
    /// A count or an amount.
    #[n(1)]
    Count(#[n(0)] u64),
    /// Yes or no.
    #[n(2)]
    Flag(#[n(0)] bool),
    /// A word.
    #[n(3)]
    Text(#[n(0)] Box<str>),
}

impl Value {
    /// The value as a number; flags are 0 and 1, words have none.
    #[must_use]
    pub fn number(&self) -> Option<f64> {
        match self {
            Self::Float(value) => Some(*value),
            // Precise to 2^53, which is 285 years of microseconds or 8 PiB.
            #[expect(clippy::cast_precision_loss, reason = "precise enough for any threshold")]
            Self::Count(value) => Some(*value as f64),
            Self::Flag(value) => Some(f64::from(u8::from(*value))),
            Self::Text(_) => None,
        }
    }

    /// The value where it is a word.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// The value where it is a flag.
    #[must_use]
    pub const fn flag(&self) -> Option<bool> {
        if let Self::Flag(flag) = self { Some(*flag) } else { None }
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Float(value)
    }
}
impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Count(value)
    }
}
impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Flag(value)
    }
}
impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(value.into())
    }
}

/// One reading: a metric, the label that its path may ask for, and the value.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// Which metric.
    pub metric: Metric,
    /// Fills the `*` of the metric's path.
    pub label: Option<Box<str>>,
    /// The reading.
    pub value: Value,
}

impl Point {
    /// A reading of a metric without label.
    pub fn new(metric: Metric, value: impl Into<Value>) -> Self {
        Self { metric, label: None, value: value.into() }
    }

    /// A reading of a metric whose path has a `*`.
    pub fn labelled(metric: Metric, label: &str, value: impl Into<Value>) -> Self {
        Self { metric, label: Some(label.into()), value: value.into() }
    }
}

/// What was read of a metric without a label.
#[must_use]
pub fn find(points: &[Point], metric: Metric) -> Option<&Value> {
    points.iter().find(|point| point.metric == metric && point.label.is_none()).map(|point| &point.value)
}

macro_rules! metrics {
    ($( $number:literal $name:ident $path:literal $rollup:ident $unit:literal $source:literal; )*) => {
        /// A metric of the table.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        pub enum Metric { $( #[doc = concat!("`", $path, "` in ", $unit, ", from ", $source)] $name = $number, )* }

        impl Metric {
            /// Every metric, in the order of the table.
            pub const ALL: &[Self] = &[ $( Self::$name, )* ];

            /// Its place in a sample, as `group.field`, with `*` for a label.
            #[must_use]
            pub const fn path(self) -> &'static str { match self { $( Self::$name => $path, )* } }

            /// How it rolls up.
            #[must_use]
            pub const fn rollup(self) -> Rollup { match self { $( Self::$name => Rollup::$rollup, )* } }

            /// Its unit in UCUM's notation; `1` for a count, a word or a flag.
            #[must_use]
            pub const fn unit(self) -> &'static str { match self { $( Self::$name => $unit, )* } }

            /// The kernel file, or the part of the agent, that it is read from.
            #[must_use]
            pub const fn source(self) -> &'static str { match self { $( Self::$name => $source, )* } }

            /// Its number: metrics are ordered by it.
            #[must_use]
            pub const fn number(self) -> u16 { self as u16 }
        }
    };
}

metrics! {
    // Documentation/ABI/testing/sysfs-class-power; µV, µA, µW, µWh and µAh there, tenths of a degree.
    1 BatteryPresent "battery.present" Last "1" "power_supply/*/present";
    2 BatteryChargePct "battery.charge_pct" Gauge "%" "power_supply/*/capacity; where there is none charge_now/charge_full, else energy_now/energy_full";
    3 BatteryState "battery.state" Last "1" "power_supply/*/status";
    4 BatteryVoltage "battery.voltage_v" Gauge "V" "power_supply/*/voltage_now";
    5 BatteryCurrent "battery.current_a" Gauge "A" "power_supply/*/current_now, positive while charging";
    6 BatteryPower "battery.power_w" Gauge "W" "power_supply/*/power_now, else voltage_now x current_now";
    7 BatteryTemperature "battery.temperature_c" Gauge "Cel" "power_supply/*/temp";
    8 BatteryTimeToEmpty "battery.time_to_empty_s" Gauge "s" "power_supply/*/time_to_empty_now, else from charge and current, else from drain_pct_h";
    9 BatteryHealth "battery.health_pct" Last "%" "power_supply/*/charge_full / charge_full_design";
    10 BatteryCycles "battery.cycle_count" Last "1" "power_supply/*/cycle_count";
    11 BatteryExternalPower "battery.external_power" Last "1" "power_supply/*/online of Mains, USB, Wireless and BrickID";
    12 BatteryDischarged "battery.discharged_pct" Sum "%" "falls of charge_pct while discharging, a rise by less than 5 taken back first";
    14 BatterySupply "battery.supply" Last "1" "the directory's name below power_supply";
    15 BatteryDrain "battery.drain_pct_h" Gauge "%/h" "Theil-Sen slope of charge_pct over the last half hour of discharging";
    // Documentation/ABI/testing/sysfs-class-net and sysfs-class-net-statistics.
    30 LinkType "link.type" Last "1" "net/*/type, wireless, uevent's DEVTYPE; of a bridge, bond or vlan: of what carries it (lower_*)";
    31 LinkInterface "link.interface" Last "1" "/proc/net/route, lowest metric; of those in collect.link.interfaces";
    32 LinkUp "link.up" Last "1" "net/*/operstate and carrier";
    33 LinkRssi "link.rssi_dbm" Gauge "dBm" "/proc/net/wireless; of a modem: ModemManager Signal";
    34 LinkRsrp "link.rsrp_dbm" Gauge "dBm" "ModemManager Signal: Nr5g, else Lte";
    35 LinkRsrq "link.rsrq_db" Gauge "dB" "ModemManager Signal: Nr5g, else Lte";
    36 LinkSinr "link.sinr_db" Gauge "dB" "ModemManager Signal: Nr5g, else Lte";
    37 LinkRat "link.rat" Last "1" "ModemManager AccessTechnologies";
    38 LinkOperator "link.operator" Last "1" "ModemManager OperatorName";
    39 LinkRxBytes "link.rx_bytes" Counter "By" "net/*/statistics/rx_bytes of the interface with the route";
    40 LinkTxBytes "link.tx_bytes" Counter "By" "net/*/statistics/tx_bytes";
    41 LinkRxErrors "link.rx_errors" Counter "1" "net/*/statistics/rx_errors";
    42 LinkTxErrors "link.tx_errors" Counter "1" "net/*/statistics/tx_errors";
    43 LinkRxDropped "link.rx_dropped" Counter "1" "net/*/statistics/rx_dropped";
    44 LinkTxDropped "link.tx_dropped" Counter "1" "net/*/statistics/tx_dropped";
    45 LinkCarrierChanges "link.carrier_changes" Counter "1" "net/*/carrier_changes";
    46 LinkBrokerRtt "link.broker_rtt_ms" Gauge "ms" "from PINGREQ to PINGRESP, and from PUBLISH to PUBACK";
    47 LinkConnected "link.connected_s" Sum "s" "time with an accepted session, no longer than 1.5 x keep_alive after the broker was last heard";
    48 LinkExpected "link.expected_s" Sum "s" "time in which the agent wanted one";
    49 LinkReconnects "link.reconnects" Sum "1" "accepted sessions after the first";
    50 InterfaceType "link.interfaces.*.type" Last "1" "net/*/type, wireless, uevent's DEVTYPE";
    51 InterfaceUp "link.interfaces.*.up" Last "1" "net/*/operstate and carrier";
    52 InterfaceRxBytes "link.interfaces.*.rx_bytes" Counter "By" "net/*/statistics/rx_bytes";
    53 InterfaceTxBytes "link.interfaces.*.tx_bytes" Counter "By" "net/*/statistics/tx_bytes";
    54 InterfaceRxErrors "link.interfaces.*.rx_errors" Counter "1" "net/*/statistics/rx_errors";
    55 InterfaceTxErrors "link.interfaces.*.tx_errors" Counter "1" "net/*/statistics/tx_errors";
    56 InterfaceRxDropped "link.interfaces.*.rx_dropped" Counter "1" "net/*/statistics/rx_dropped";
    57 InterfaceTxDropped "link.interfaces.*.tx_dropped" Counter "1" "net/*/statistics/tx_dropped";
    58 InterfaceCarrierChanges "link.interfaces.*.carrier_changes" Counter "1" "net/*/carrier_changes";
    59 InterfaceKind "link.interfaces.*.kind" Last "1" "bridge, bond, vlan or vpn: uevent's DEVTYPE, bridge/, bonding/, tun_flags";
    60 LinkRegistration "link.registration" Last "1" "ModemManager Modem3gpp RegistrationState";
    61 LinkSignalQuality "link.signal_quality_pct" Gauge "%" "ModemManager SignalQuality";
    62 LinkDns "link.dns_ms" Gauge "ms" "getaddrinfo(3) of the broker's name, at the last connection of the interval";
    63 InterfaceMonthBytes "link.interfaces.*.month_bytes" Last "By" "rx_bytes and tx_bytes since the month began; only with a monthly_budget";
    64 InterfaceBudgetUsed "link.interfaces.*.budget_used_pct" Last "%" "month_bytes of collect.link.monthly_budget";
    65 InterfaceRssi "link.interfaces.*.rssi_dbm" Gauge "dBm" "/proc/net/wireless";
    // Severity as in RFC 5424; the journal's PRIORITY.
    70 ErrorsCount "errors.count" Sum "1" "lines of journal or /dev/kmsg and of applications that are collected";
    71 ErrorsBySeverity "errors.by_severity.*" Sum "1" "the severity of each of them: the journal's PRIORITY, the kernel's level, the application's word";
    72 ErrorsUnitFailures "errors.unit_failures" Sum "1" "systemd's messages of a unit that failed";
    73 ErrorsOomKills "errors.oom_kills" Sum "1" "the kernel's and systemd-oomd's messages";
    74 ErrorsCoredumps "errors.coredumps" Sum "1" "systemd-coredump's messages";
    75 ErrorsKernel "errors.kernel_errors" Sum "1" "messages of the kernel";
    76 ErrorsSuppressed "errors.suppressed" Sum "1" "lines counted without a cluster of their own, or lost before they were read";
    77 ErrorsUnitRestarts "errors.unit_restarts" Sum "1" "systemd's messages of a restart that it scheduled by itself";
    78 ErrorsKernelClass "errors.kernel_by_class.*" Sum "1" "messages of the kernel, by what they are about";
    79 ErrorsAppRefused "errors.app_refused.*" Sum "1" "lines of applications that were not taken, by reason";
    // proc(5), sysfs, statvfs(3).
    90 HostCpu "host.cpu_pct" Gauge "%" "/proc/stat, all cores together";
    91 HostLoad1 "host.load1" Gauge "1" "/proc/loadavg";
    92 HostMemUsed "host.mem_used_pct" Gauge "%" "/proc/meminfo: 1 - MemAvailable / MemTotal";
    93 HostMemAvailable "host.mem_available_bytes" Gauge "By" "/proc/meminfo MemAvailable";
    94 HostSwapUsed "host.swap_used_pct" Gauge "%" "/proc/meminfo: 1 - SwapFree / SwapTotal";
    95 HostDiskUsed "host.disk.*.used_pct" Last "%" "statvfs: (f_blocks - f_bfree) / (f_blocks - f_bfree + f_bavail)";
    96 HostDiskFree "host.disk.*.free_bytes" Last "By" "statvfs: f_bavail x f_frsize";
    97 HostDiskInodes "host.disk.*.inodes_used_pct" Last "%" "statvfs: (f_files - f_ffree) / f_files";
    98 HostFlashLife "host.flash_life_used_pct" Last "%" "mmc life_time: the worse of type A and B, in steps of 10 %; 110 past its end";
    99 HostTemperature "host.temperature_c" Gauge "Cel" "hottest of thermal/thermal_zone*/temp, without any of hwmon/*/temp*_input whose temp*_fault isn't 1";
    100 HostPsiCpu "host.psi.cpu" Gauge "%" "/proc/pressure/cpu some avg60";
    101 HostPsiMemory "host.psi.memory" Gauge "%" "/proc/pressure/memory some avg60";
    102 HostPsiIo "host.psi.io" Gauge "%" "/proc/pressure/io some avg60";
    103 HostUptime "host.uptime_s" Last "s" "/proc/uptime";
    104 HostClockSynced "host.clock_synced" Last "1" "adjtimex(2), STA_UNSYNC clear, or systemd-timesyncd has set it in this boot";
    105 HostListeners "host.listeners" Gauge "1" "/proc/net/{tcp,udp}{,6}: sockets that are listened on; only where a rule watches it";
    106 HostPeers "host.peers" Gauge "1" "/proc/net/{tcp,udp}{,6}: remote addresses that are connected; only where a rule watches it";
    107 HostUndervoltage "host.undervoltage" Last "1" "any of hwmon/*/in*_lcrit_alarm: a brown-out is near";
    // The agent itself.
    120 AgentVersion "agent.version" Last "1" "the build";
    121 AgentRss "agent.rss_bytes" Gauge "By" "/proc/self/statm";
    122 AgentCpu "agent.cpu_pct" Gauge "%" "/proc/self/stat, of one core";
    123 AgentOutboxRecords "agent.outbox_records" Last "1" "records not yet acknowledged";
    124 AgentOutboxBytes "agent.outbox_bytes" Last "By" "their size on disk";
    125 AgentDropped "agent.dropped.*" Last "1" "records given up since the store was made, by reason";
    126 AgentStoreWritten "agent.store_written_bytes" Sum "By" "/proc/self/io write_bytes; where the kernel doesn't count, bytes that the store handed to the disk";
    127 AgentCollectFaults "agent.collect_faults" Sum "1" "files that were missing, said nonsense or hang, interfaces beyond the 32nd";
    128 AgentRefused "agent.refused.*" Sum "1" "requests turned away because a bound was reached, by bound";
    129 AgentPublishes "agent.publishes" Sum "1" "PUBLISH packets sent";
    130 AgentDuplicates "agent.duplicates" Sum "1" "of those, sent again: the connection was lost, or the broker refused them for then";
    131 AgentCommandsRefused "agent.commands_refused.*" Sum "1" "commands refused, by reason";
    132 AgentThreads "agent.threads" Last "1" "/proc/self/status Threads";
    133 AgentDrainRemaining "agent.drain_remaining_records" Last "1" "telemetry older than this connection that is still to be sent; comes with its sample, after that telemetry: the events `draining` and `drained` tell it at once";
    134 AgentImplausible "agent.implausible_readings" Sum "1" "charges of the battery left out, because no battery can come to them in the time";
}

/// The labels of [`Metric::AgentDropped`].
pub const DROPPED: [&str; 9] = [
    "thinned",
    "quota",
    "store_failed",
    "corrupt",
    "unreadable",
    "payload_format_invalid",
    "refused",
    "poison",
    "too_large",
];
/// Those of [`Metric::AgentRefused`].
pub const BOUNDS: [&str; 5] =
    ["series_max", "observe_one_at_a_time", "store_queue_max", "alarm_events_max", "change_events_max"];

impl Metric {
    /// The link's counters, each with the same of an interface by its name.
    pub const LINK_COUNTERS: [(Self, Self); 7] = [
        (Self::LinkRxBytes, Self::InterfaceRxBytes),
        (Self::LinkTxBytes, Self::InterfaceTxBytes),
        (Self::LinkRxErrors, Self::InterfaceRxErrors),
        (Self::LinkTxErrors, Self::InterfaceTxErrors),
        (Self::LinkRxDropped, Self::InterfaceRxDropped),
        (Self::LinkTxDropped, Self::InterfaceTxDropped),
        (Self::LinkCarrierChanges, Self::InterfaceCarrierChanges),
    ];

    /// What its readings are.
    #[must_use]
    pub const fn content(self) -> Content {
        match self {
            Self::BatteryState => Content::Words(&["charging", "discharging", "full", "not_charging", "unknown"]),
            Self::LinkType | Self::InterfaceType => Content::Words(&["ethernet", "wifi", "cellular", "none"]),
            Self::InterfaceKind => Content::Words(&["bridge", "bond", "vlan", "vpn"]),
            Self::BatterySupply
            | Self::LinkInterface
            | Self::LinkRat
            | Self::LinkOperator
            | Self::LinkRegistration
            | Self::AgentVersion => Content::Text,
            Self::BatteryPresent
            | Self::BatteryExternalPower
            | Self::LinkUp
            | Self::InterfaceUp
            | Self::HostClockSynced
            | Self::HostUndervoltage => Content::Flag,
            _ => Content::Number,
        }
    }

    /// Whether it is an amount of an interval, and not a reading of a moment.
    #[must_use]
    pub const fn is_counted(self) -> bool {
        matches!(self.rollup(), Rollup::Sum | Rollup::Counter)
    }

    /// The least and the most that it can be, where they are fixed. What is counted, and sizes, begin at 0 and have no
    /// end.
    #[must_use]
    pub const fn range(self) -> Option<(f64, f64)> {
        match self {
            _ if self.is_counted() => Some((0.0, f64::INFINITY)),
            Self::BatteryChargePct
            | Self::LinkSignalQuality
            | Self::HostCpu
            | Self::HostMemUsed
            | Self::HostSwapUsed
            | Self::HostDiskUsed
            | Self::HostDiskInodes
            | Self::HostPsiCpu
            | Self::HostPsiMemory
            | Self::HostPsiIo => Some((0.0, 100.0)),
            Self::LinkBrokerRtt
            | Self::LinkDns
            | Self::InterfaceMonthBytes
            | Self::InterfaceBudgetUsed
            | Self::HostLoad1
            | Self::HostMemAvailable
            | Self::HostDiskFree
            | Self::HostFlashLife
            | Self::HostUptime
            | Self::HostListeners
            | Self::HostPeers
            | Self::AgentRss
            | Self::AgentCpu
            | Self::AgentOutboxRecords
            | Self::AgentOutboxBytes
            | Self::AgentDropped
            | Self::AgentThreads
            | Self::AgentDrainRemaining => Some((0.0, f64::INFINITY)),
            _ => None,
        }
    }

    /// Whether its path asks for a label.
    #[must_use]
    pub fn has_label(self) -> bool {
        self.path().contains('*')
    }

    /// The metric and label that a rule or an option names: `battery.charge_pct`, `host.disk./data.used_pct`.
    #[must_use]
    pub fn find(path: &str) -> Option<(Self, Option<&str>)> {
        Self::ALL.iter().find_map(|metric| match metric.path().split_once('*') {
            None => (metric.path() == path).then_some((*metric, None)),
            Some((head, tail)) => {
                let label = path.strip_prefix(head)?.strip_suffix(tail)?;
                (!label.is_empty()).then_some((*metric, Some(label)))
            }
        })
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.path())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_for_a_label_is_no_reading_of_a_metric_without() {
        let points = [Point::labelled(Metric::LinkUp, "eth0", false), Point::new(Metric::LinkUp, true)];
        assert_eq!(find(&points, Metric::LinkUp), Some(&Value::Flag(true)));
        assert_eq!(find(&points[..1], Metric::LinkUp), None);
    }
}
