//! Processor, memory, disks, flash and sensors of the gateway.

use super::*;

#[test]
fn the_host_is_read_from_its_root() {
    let seen = Made::host().observe();
    near(&seen, Metric::HostLoad1, 0.52);
    near(&seen, Metric::HostUptime, 12_345.67);
    near(&seen, Metric::HostMemUsed, 75.0);
    near(&seen, Metric::HostMemAvailable, 256_000.0);
    near(&seen, Metric::HostSwapUsed, 25.0);
    near(&seen, Metric::HostTemperature, 48.25);
    near(&seen, Metric::HostFlashLife, 30.0);
    near(&seen, Metric::HostPsiCpu, 2.5);
    near(&seen, Metric::HostPsiIo, 0.04);
    assert_eq!(number(&seen, Metric::HostPsiMemory), None);
    assert_eq!(value(&seen, Metric::HostClockSynced), Some(false.into()));
    assert_eq!(seen.faults, []);
}

#[test]
fn the_processors_load_is_that_between_two_rounds() {
    let made = Made::host();
    let mut collectors = Collectors::new(&made.config);
    assert_eq!(number(&collectors.observe(reading()), Metric::HostCpu), None);
    made.write("proc/stat", "cpu  150 0 100 850 100 0 0 0 0 0\n");
    near(&collectors.observe(reading()), Metric::HostCpu, 25.0);
    made.write("proc/stat", "cpu  1 0 1 1 1 0 0 0 0 0\n");
    assert_eq!(number(&collectors.observe(reading()), Metric::HostCpu), None, "counters that went backwards");
}

#[test]
fn a_disk_is_counted_like_df_and_a_mount_that_is_missing_is_a_fault() {
    let mut made = Made::host();
    made.config.host.mounts.push(PathBuf::from("/data"));
    let seen = made.observe();
    let stat = rustix::fs::statvfs(made.dir.path()).unwrap();
    let used = labelled(&seen, Metric::HostDiskUsed, Some("/")).unwrap().number().unwrap();
    assert!((0.0..=100.0).contains(&used), "{used} % used");
    let free = labelled(&seen, Metric::HostDiskFree, Some("/")).unwrap().number().unwrap();
    let whole = Value::from(stat.f_blocks * stat.f_frsize).number().unwrap();
    assert!(free > 0.0 && free <= whole, "{free} B free of {whole} B");
    assert_eq!(faulty(&seen), ["/data"]);
}

#[test]
fn a_host_without_swap_flash_and_sensors_leaves_them_out() {
    let made = Made::host();
    made.remove("sys");
    made.remove("proc/pressure");
    made.write("proc/meminfo", "MemTotal:  1000 kB\nMemAvailable:  250 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n");
    let seen = made.observe();
    for metric in [Metric::HostSwapUsed, Metric::HostFlashLife, Metric::HostTemperature, Metric::HostPsiCpu] {
        assert_eq!(number(&seen, metric), None, "{metric}");
    }
    assert_eq!(seen.faults, []);
}

#[test]
fn a_kernel_without_an_estimate_of_what_is_available_has_no_share_in_use() {
    // Before 3.14.
    let made = Made::host();
    made.write("proc/meminfo", "MemTotal:  1000 kB\nMemFree: 10 kB\nCached: 500 kB\n");
    let seen = made.observe();
    assert_eq!((number(&seen, Metric::HostMemUsed), number(&seen, Metric::HostMemAvailable)), (None, None));
    assert_eq!(seen.faults, []);
}

#[test]
fn more_memory_free_than_there_is_is_a_fault_and_no_share() {
    let made = Made::host();
    made.write("proc/meminfo", "MemTotal: 1000 kB\nMemAvailable: 1001 kB\nSwapTotal: 10 kB\nSwapFree: 11 kB\n");
    let seen = made.observe();
    for metric in [Metric::HostMemUsed, Metric::HostMemAvailable, Metric::HostSwapUsed] {
        assert_eq!(number(&seen, metric), None, "{metric}");
    }
    assert_eq!(faulty(&seen), ["/proc/meminfo"; 2]);
}

#[test]
fn worn_out_flash_is_told_past_its_end_and_a_reserved_step_is_a_fault() {
    let made = Made::host();
    for (life, expected) in [("0x00 0x00", None), ("0x01 0x00", Some(10.0)), ("0x0a 0x0b", Some(110.0))] {
        made.write("sys/block/mmcblk0/device/life_time", life);
        assert_eq!(number(&made.observe(), Metric::HostFlashLife), expected, "{life}");
    }
    made.write("sys/block/mmcblk0/device/life_time", "0x0c 0x01");
    assert_eq!(faulty(&made.observe()), ["/sys/block/mmcblk0/device/life_time"]);
}

#[test]
fn a_voltage_that_is_critically_low_is_told_and_nothing_where_no_chip_watches_for_it() {
    let made = Made::host();
    made.write("sys/class/hwmon/hwmon0/in0_input", "3300\n");
    assert_eq!(value(&made.observe(), Metric::HostUndervoltage), None);
    made.write("sys/class/hwmon/hwmon0/in1_lcrit_alarm", "0\n");
    assert_eq!(value(&made.observe(), Metric::HostUndervoltage), Some(false.into()));
    made.write("sys/class/hwmon/hwmon1/in0_lcrit_alarm", "yes\n");
    assert_eq!(value(&made.observe(), Metric::HostUndervoltage), None, "it may be the one that is low");
    made.write("sys/class/hwmon/hwmon2/in0_lcrit_alarm", "1\n");
    assert_eq!(value(&made.observe(), Metric::HostUndervoltage), Some(true.into()));
}

#[test]
fn without_a_thermal_zone_the_hottest_is_that_of_the_hwmon_chips() {
    let made = Made::host();
    for (file, mc) in [
        ("hwmon0/name", "tmp102"),
        ("hwmon1/name", "tmp102"),
        ("hwmon0/temp1_input", "51000"),
        ("hwmon1/temp2_input", "63500"),
        ("hwmon1/temp2_max", "99000"),
        ("hwmon1/temp2_fault", "0"),
        ("hwmon1/temp3_input", "127000"),
        ("hwmon1/temp3_fault", "1"),
    ] {
        made.write(&format!("sys/class/hwmon/{file}"), mc);
    }
    near(&made.observe(), Metric::HostTemperature, 48.25);
    made.remove("sys/class/thermal");
    near(&made.observe(), Metric::HostTemperature, 63.5);
}

#[test]
fn a_sensor_that_says_nonsense_leaves_the_hottest_to_the_others() {
    let made = Made::host();
    made.write("sys/class/thermal/thermal_zone1/temp", "-274000\n");
    let seen = made.observe();
    near(&seen, Metric::HostTemperature, 41.5);
    assert_eq!(faulty(&seen), ["/sys/class/thermal/thermal_zone1/temp"]);
}
