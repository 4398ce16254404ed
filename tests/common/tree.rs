//! A made gateway: the files of /sys, /proc and /dev that the collectors read, with known values, below a root of its
//! own.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::time::{ClockId, clock_gettime};
use tempfile::TempDir;

/// The battery's directory.
pub const BATTERY: &str = "sys/class/power_supply/BAT0";
/// The directory of the interface that carries the default route.
pub const ETHERNET: &str = "sys/class/net/eth0";

const FILES: &[(&str, &str)] = &[
    ("sys/class/power_supply/AC/type", "Mains"),
    ("sys/class/power_supply/AC/online", "0"),
    ("sys/class/power_supply/BAT0/type", "Battery"),
    ("sys/class/power_supply/BAT0/present", "1"),
    ("sys/class/power_supply/BAT0/status", "Discharging"),
    ("sys/class/power_supply/BAT0/capacity", "80"),
    ("sys/class/power_supply/BAT0/voltage_now", "12100000"),
    ("sys/class/power_supply/BAT0/current_now", "500000"),
    ("sys/class/power_supply/BAT0/temp", "253"),
    ("sys/class/power_supply/BAT0/charge_now", "4000000"),
    ("sys/class/power_supply/BAT0/charge_full", "4500000"),
    ("sys/class/power_supply/BAT0/charge_full_design", "5000000"),
    ("sys/class/power_supply/BAT0/cycle_count", "123"),
    ("sys/class/net/eth0/type", "1"),
    ("sys/class/net/eth0/operstate", "up"),
    ("sys/class/net/eth0/carrier", "1"),
    ("sys/class/net/eth0/carrier_changes", "2"),
    ("sys/class/net/eth0/uevent", "INTERFACE=eth0\nIFINDEX=2"),
    ("sys/class/net/eth0/statistics/rx_bytes", "1000"),
    ("sys/class/net/eth0/statistics/tx_bytes", "2000"),
    ("sys/class/net/eth0/statistics/rx_errors", "3"),
    ("sys/class/net/eth0/statistics/tx_errors", "4"),
    ("sys/class/net/eth0/statistics/rx_dropped", "5"),
    ("sys/class/net/eth0/statistics/tx_dropped", "6"),
    ("sys/class/net/wlan0/type", "1"),
    ("sys/class/net/wlan0/operstate", "up"),
    ("sys/class/net/wlan0/carrier", "1"),
    ("sys/class/net/wlan0/carrier_changes", "1"),
    ("sys/class/net/wlan0/uevent", "DEVTYPE=wlan\nINTERFACE=wlan0"),
    ("sys/class/net/wlan0/wireless/status", "0"),
    ("sys/class/net/wlan0/statistics/rx_bytes", "10"),
    ("sys/class/net/wlan0/statistics/tx_bytes", "20"),
    ("sys/class/net/wlan0/statistics/rx_errors", "0"),
    ("sys/class/net/wlan0/statistics/tx_errors", "0"),
    ("sys/class/net/wlan0/statistics/rx_dropped", "0"),
    ("sys/class/net/wlan0/statistics/tx_dropped", "0"),
    (
        "proc/net/route",
        "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
         eth0\t00000000\t0100000A\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
         wlan0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0",
    ),
    (
        "proc/net/wireless",
        "Inter-| sta-|   Quality        |   Discarded packets               | Missed | WE\n \
         face | tus | link level noise |  nwid  crypt   frag  retry   misc | beacon | 22\n \
         wlan0: 0000   54.  -56.  -256        0      0      0      0      0        0",
    ),
    ("sys/block/mmcblk0/device/life_time", "0x02 0x01"),
    ("sys/class/thermal/thermal_zone0/temp", "45000"),
    ("sys/class/thermal/thermal_zone1/temp", "51500"),
    ("proc/stat", "cpu  100 0 100 800 0 0 0 0 0 0\ncpu0 100 0 100 800 0 0 0 0 0 0"),
    ("proc/loadavg", "0.52 0.58 0.59 1/389 12345"),
    (
        "proc/meminfo",
        "MemTotal:        1000000 kB\nMemFree:          200000 kB\nMemAvailable:     250000 kB\n\
         SwapTotal:        400000 kB\nSwapFree:         300000 kB",
    ),
    ("proc/uptime", "12345.67 54321.00"),
    ("proc/pressure/cpu", "some avg10=1.00 avg60=2.50 avg300=0.00 total=1"),
    ("proc/pressure/memory", "some avg10=0.00 avg60=0.75 avg300=0.00 total=1"),
    ("proc/pressure/io", "some avg10=0.00 avg60=12.25 avg300=0.00 total=1"),
];

pub struct Tree {
    dir: TempDir,
    /// Held open for writing, so that the reader never sees the end of it.
    kernel_log: File,
}

impl Tree {
    pub fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let kmsg = dir.path().join("dev/kmsg");
        std::fs::create_dir_all(kmsg.parent().unwrap()).unwrap();
        mknodat(CWD, &kmsg, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        let kernel_log = OpenOptions::new().read(true).write(true).open(&kmsg).unwrap();
        let tree = Self { dir, kernel_log };
        for (file, text) in FILES {
            tree.write(file, text);
        }
        // The kernel's own, so that whoever reads either file sees the same boot.
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        tree.write("proc/sys/kernel/random/boot_id", &boot_id);
        tree
    }

    pub fn root(&self) -> &Path {
        self.dir.path()
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.root().join(file)
    }

    /// Writes a file as a reader sees it in /sys: whole or not at all.
    pub fn write(&self, file: &str, text: &str) {
        let path = self.path(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let fresh = path.with_extension("new");
        std::fs::write(&fresh, format!("{text}\n")).unwrap();
        std::fs::rename(&fresh, &path).unwrap();
    }

    /// Makes a file of which each read hangs, as with a driver that doesn't answer, until another one is written.
    /// Writing to what is handed back answers whoever hangs in it.
    pub fn hang(&self, file: &str) -> PathBuf {
        let (path, aside) = (self.path(file), self.path(&format!("{file}.hangs")));
        mknodat(CWD, &aside, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::hard_link(&aside, &path).unwrap();
        aside
    }

    pub fn remove(&self, file: &str) {
        std::fs::remove_file(self.path(file)).unwrap();
    }

    /// A record of the kernel's log, in the form of Documentation/ABI/testing/dev-kmsg. `level` is syslog's.
    pub fn kernel_says(&self, level: u8, seq: u64, message: &str) {
        let mut kernel_log = &self.kernel_log;
        let now = clock_gettime(ClockId::Monotonic);
        let since_boot_us = now.tv_sec * 1_000_000 + now.tv_nsec / 1_000;
        kernel_log.write_all(format!("{level},{seq},{since_boot_us},-;{message}\n").as_bytes()).unwrap();
    }
}
