//! What a line of the kernel is about, told by the words that its sources use: a responder acts differently on a
//! failing card, a weak supply and a loose plug. A line that fits nothing has no class; none is made up. Judges by the
//! text alone, so only lines that the kernel itself wrote may be asked about.

use crate::words::words;

/// Bytes of a line that are looked at.
const TEXT_MAX: usize = 512;

words! {
    /// What a line of the kernel is about: its word in events and samples.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
    KernelClass {
        /// The kernel ran out of memory (mm/oom_kill.c).
        Oom "oom",
        /// The supply is too weak (raspberrypi-hwmon).
        UnderVoltage "under_voltage",
        /// Too hot: throttled, or about to be switched off.
        Thermal "thermal",
        /// A port was switched off (drivers/usb/core/hub.c).
        UsbOverCurrent "usb_over_current",
        /// A device has gone, unplugged or not.
        UsbDisconnect "usb_disconnect",
        /// A device that doesn't answer as it should.
        Usb "usb",
        /// Damage of a file system, or one that was turned read-only.
        FileSystem "filesystem",
        /// A disk or card that doesn't read or write.
        Io "io",
        /// A task, a processor or a driver that doesn't go on.
        Hang "hang",
        /// A bug of the kernel's own: an oops or a panic.
        Crash "crash",
        /// Errors that the hardware itself reports: memory, buses.
        Hardware "hardware",
    }
}

/// Texts, in lower case, and their class: the first whose texts all stand in a line. A text that begins with `^` stands
/// at the beginning.
const PATTERNS: &[(&[&str], KernelClass)] = &[
    (&["^out of memory", ": kill"], KernelClass::Oom),
    (&["^memory cgroup out of memory", ": kill"], KernelClass::Oom),
    (&["^oom-kill:"], KernelClass::Oom),
    (&["invoked oom-killer"], KernelClass::Oom),
    (&["under-voltage detected"], KernelClass::UnderVoltage),
    (&["undervoltage detected"], KernelClass::UnderVoltage),
    (&["temperature", " above threshold"], KernelClass::Thermal),
    (&["cpu clock ", "throttled"], KernelClass::Thermal),
    (&["critical temperature reached"], KernelClass::Thermal),
    (&["^thermal", "shutting down"], KernelClass::Thermal),
    (&["^usb", "over-current"], KernelClass::UsbOverCurrent),
    (&["^hub", "over-current"], KernelClass::UsbOverCurrent),
    (&["^usb ", "usb disconnect"], KernelClass::UsbDisconnect),
    (&["^usb ", "error -"], KernelClass::Usb),
    (&["^usb", "unable to enumerate"], KernelClass::Usb),
    (&["^usb", "device not accepting address"], KernelClass::Usb),
    (&["^xhci", "not responding"], KernelClass::Usb),
    (&["^ext", "-fs error"], KernelClass::FileSystem),
    (&["^ext", "remounting filesystem read-only"], KernelClass::FileSystem),
    (&["^ext", "error to superblock"], KernelClass::FileSystem),
    (&["^ext", "filesystem with errors"], KernelClass::FileSystem),
    (&["^ext", "failed to convert unwritten"], KernelClass::FileSystem),
    (&["aborting journal"], KernelClass::FileSystem),
    (&["^jbd2:", "error"], KernelClass::FileSystem),
    (&["^btrfs error"], KernelClass::FileSystem),
    (&["^btrfs critical"], KernelClass::FileSystem),
    (&["^btrfs: error"], KernelClass::FileSystem),
    (&["^btrfs", "forced readonly"], KernelClass::FileSystem),
    (&["^xfs (", "corruption"], KernelClass::FileSystem),
    (&["^xfs (", "i/o error"], KernelClass::FileSystem),
    (&["^xfs (", "shutting down"], KernelClass::FileSystem),
    (&["^xfs (", "has been shut down"], KernelClass::FileSystem),
    (&["^f2fs-fs", "inconsistent"], KernelClass::FileSystem),
    (&["^f2fs-fs", "corrupt"], KernelClass::FileSystem),
    (&["^fat-fs (", "error"], KernelClass::FileSystem),
    (&["^fat-fs (", "not properly unmounted"], KernelClass::FileSystem),
    (&["^ubifs error"], KernelClass::FileSystem),
    (&["^squashfs error"], KernelClass::FileSystem),
    (&["^jffs2", "error"], KernelClass::FileSystem),
    (&["^erofs", "error"], KernelClass::FileSystem),
    (&["i/o error"], KernelClass::Io),
    (&["medium error"], KernelClass::Io),
    (&["critical target error"], KernelClass::Io),
    (&["^mmc", "error -"], KernelClass::Io),
    (&["^mmc", "card stuck"], KernelClass::Io),
    (&["^mmc", "timeout waiting for hardware"], KernelClass::Io),
    (&["^mmc", "removed"], KernelClass::Io),
    (&["^ata", "failed command"], KernelClass::Io),
    (&["^ata", "exception emask"], KernelClass::Io),
    (&["^ata", "link is slow to respond"], KernelClass::Io),
    (&["^nvme", "timeout"], KernelClass::Io),
    (&["^ubi", " error"], KernelClass::Io),
    (&["blocked for more than"], KernelClass::Hang),
    (&["soft lockup"], KernelClass::Hang),
    (&["hard lockup"], KernelClass::Hang),
    (&["^rcu", "stall"], KernelClass::Hang),
    (&["^info: rcu", "stall"], KernelClass::Hang),
    (&["netdev watchdog"], KernelClass::Hang),
    (&["kernel panic"], KernelClass::Crash),
    (&["^internal error: oops"], KernelClass::Crash),
    (&["^oops"], KernelClass::Crash),
    (&["^bug:"], KernelClass::Crash),
    (&["^kernel bug at"], KernelClass::Crash),
    (&["unable to handle kernel"], KernelClass::Crash),
    (&["^general protection fault"], KernelClass::Crash),
    (&["hardware error"], KernelClass::Hardware),
    (&["pcie bus error"], KernelClass::Hardware),
    (&["^edac", "error"], KernelClass::Hardware),
    (&["^edac", " ce "], KernelClass::Hardware),
    (&["^edac", " ue "], KernelClass::Hardware),
];

impl KernelClass {
    /// What a line is about.
    #[must_use]
    pub fn of(message: &str) -> Option<Self> {
        let line: String = message.chars().take(TEXT_MAX).map(|c| c.to_ascii_lowercase()).collect();
        let stands = |text: &&str| match text.strip_prefix('^') {
            Some(text) => line.starts_with(text),
            None => line.contains(text),
        };
        PATTERNS.iter().find(|(texts, _)| texts.iter().all(stands)).map(|(_, class)| *class)
    }

    /// Whether it is wanted however little the kernel makes of it: that a device has gone is only information.
    #[must_use]
    pub const fn is_wanted_at_any_severity(self) -> bool {
        matches!(self, Self::UnderVoltage | Self::Thermal | Self::UsbOverCurrent | Self::UsbDisconnect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_kernels_write_are_told_apart() {
        for (line, word) in [
            ("Out of memory: Killed process 77 (app) total-vm:1kB", "oom"),
            ("Out of memory (oom_kill_allocating_task): Killed process 77 (app) total-vm:1kB", "oom"),
            ("app invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0", "oom"),
            ("Under-voltage detected! (0x00050005)", "under_voltage"),
            ("hwmon hwmon1: Undervoltage detected!", "under_voltage"),
            ("CPU1: Core temperature above threshold, cpu clock throttled (total events = 1)", "thermal"),
            ("CPU1: Core temperature is above threshold, cpu clock is throttled (total events = 1)", "thermal"),
            ("thermal thermal_zone0: cpu-thermal: critical temperature reached, shutting down", "thermal"),
            ("usb usb1-port2: over-current condition", "usb_over_current"),
            ("usb 1-1.2: USB disconnect, device number 7", "usb_disconnect"),
            ("usb 1-1: device descriptor read/64, error -71", "usb"),
            ("usb usb1-port1: unable to enumerate USB device", "usb"),
            (
                "EXT4-fs error (device mmcblk0p2): ext4_find_entry:1455: inode #2: comm app: reading directory lblock 0",
                "filesystem",
            ),
            ("EXT4-fs (sda1): Remounting filesystem read-only", "filesystem"),
            ("Aborting journal on device mmcblk0p2-8.", "filesystem"),
            ("XFS (sda1): Metadata I/O Error (0x1) detected at xfs_trans_read_buf_map", "filesystem"),
            ("FAT-fs (sda1): Volume was not properly unmounted. Some data may be corrupt.", "filesystem"),
            ("UBIFS error (ubi0:0 pid 1): ubifs_read_node: bad node type", "filesystem"),
            ("blk_update_request: I/O error, dev mmcblk0, sector 1234 op 0x0:(READ) flags 0x0", "io"),
            ("Buffer I/O error on dev sda1, logical block 5, async page read", "io"),
            ("mmc0: error -110 whilst initialising SD card", "io"),
            ("ata1: link is slow to respond, please be patient (ready=0)", "io"),
            ("nvme nvme0: I/O 22 QID 5 timeout, aborting", "io"),
            ("INFO: task kworker/0:1:23 blocked for more than 120 seconds.", "hang"),
            ("watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [app:77]", "hang"),
            ("rcu: INFO: rcu_preempt self-detected stall on CPU", "hang"),
            ("INFO: rcu_sched self-detected stall on CPU { 0}  (t=5250 jiffies)", "hang"),
            ("Kernel panic - not syncing: Fatal exception", "crash"),
            ("BUG: kernel NULL pointer dereference, address: 0000000000000008", "crash"),
            ("mce: [Hardware Error]: Machine check events logged", "hardware"),
            ("EDAC MC0: 1 CE on DIMM0 (channel:0 slot:0 page:0x0)", "hardware"),
        ] {
            assert_eq!(KernelClass::of(line).map(KernelClass::word), Some(word), "{line}");
        }
    }

    #[test]
    fn what_a_healthy_kernel_says_has_no_class() {
        for line in [
            "EXT4-fs (sda1): mounted filesystem with ordered data mode. Opts: errors=remount-ro",
            "EXT4-fs (mmcblk0p2): re-mounted. Opts: (null). Quota mode: none.",
            "usb 1-1: new high-speed USB device number 3 using xhci_hcd",
            "thermal_sys: Registered thermal governor 'step_wise'",
            "mmc0: new high speed SDHC card at address aaaa",
            "EDAC MC: Ver: 3.0.0",
            "app[77]: segfault at 8 ip 0000 sp 0000 error 4 in app",
            "IPv6: ADDRCONF(NETDEV_CHANGE): eth0: link becomes ready",
            "",
        ] {
            assert_eq!(KernelClass::of(line), None, "{line}");
        }
    }

    #[test]
    fn each_class_can_be_reached_and_has_a_word_of_its_own() {
        for class in KernelClass::ALL {
            assert!(PATTERNS.iter().any(|(_, found)| found == class), "{class:?}");
            assert_eq!(KernelClass::ALL.iter().filter(|other| other.word() == class.word()).count(), 1, "{class:?}");
        }
        let is_lower = |text: &&str| !text.bytes().any(|b| b.is_ascii_uppercase());
        assert!(PATTERNS.iter().all(|(texts, _)| texts.iter().all(is_lower)), "a text in upper case never fits");
    }
}
