//! Detectors on made series: a noise, a day, a week, and what is odd in them.

use super::*;
use crate::sim::dice::Dice;

const SECOND: u64 = 1_000;
const HOUR: u64 = 3_600 * SECOND;
const DAY: u64 = 24 * HOUR;

/// A detector that is fed a series, and what it says.
struct Watched {
    detector: Detector,
    kind: Anomaly,
    stands: bool,
    raised_at: Vec<u64>,
    cleared_at: Vec<u64>,
    last: Option<Finding>,
}

impl Watched {
    fn new(kind: Anomaly, metric: Metric) -> Self {
        let detector = Detector::new(kind, metric, "m");
        Self { detector, kind, stands: false, raised_at: Vec::new(), cleared_at: Vec::new(), last: None }
    }

    fn see(&mut self, ms: u64, seen: Seen<'_>) {
        let at = Moment { mono: Mono(ms), wall: Some(Unix(i64::try_from(ms).unwrap())), stands: self.stands };
        let Some(finding) = self.detector.judge(self.kind, seen, at) else { return };
        match (finding.verdict, self.stands) {
            (Verdict::Bad, false) => {
                self.stands = true;
                self.raised_at.push(ms);
            }
            (Verdict::Good, true) => {
                self.stands = false;
                self.cleared_at.push(ms);
            }
            _ => {}
        }
        self.last = Some(finding);
    }

    /// Readings of `series` every ten seconds.
    fn watch(&mut self, from: u64, to: u64, mut series: impl FnMut(u64) -> f64) {
        for ms in (from..to).step_by(10_000) {
            self.see(ms, Seen::Number(series(ms)));
        }
    }

    /// Counts of each minute.
    fn count(&mut self, from: u64, to: u64, mut counts: impl FnMut(u64) -> u32) {
        for ms in (from..to).step_by(60_000) {
            self.see(ms, Seen::PerMinute(f64::from(counts(ms))));
        }
    }
}

/// A temperature: 45 degrees, five more at noon and less at night, and noise.
fn day(dice: &mut Dice, ms: u64) -> f64 {
    let turn = ms as f64 / DAY as f64 * std::f64::consts::TAU;
    45.0 + 5.0 * turn.sin() + dice.normal() * 0.5
}

#[test]
fn a_spike_is_odd_at_once_and_a_slow_rise_is_not() {
    let mut dice = Dice::new(1, "spike");
    let mut spike = Watched::new(Anomaly::Spike, Metric::HostTemperature);
    spike.watch(0, DAY, |ms| day(&mut dice, ms) + ms as f64 / HOUR as f64 * 0.5);
    assert!(spike.raised_at.is_empty(), "a day with noise, and half a degree an hour");
    spike.watch(DAY, DAY + 20_000, |_| 85.0);
    assert_eq!(spike.raised_at, [DAY]);
    let Some(Finding { threshold: Value::Float(limit), value, .. }) = &spike.last else { panic!() };
    assert!((60.0..75.0).contains(limit), "{limit}");
    assert_eq!(*value, Value::Float(85.0));
    spike.watch(DAY + 20_000, DAY + 60_000, |ms| day(&mut dice, ms) + 12.0);
    assert_eq!(spike.cleared_at, [DAY + 20_000]);
}

#[test]
fn a_sensor_that_never_changed_may_change_by_its_resolution() {
    let mut spike = Watched::new(Anomaly::Spike, Metric::BatteryChargePct);
    spike.watch(0, HOUR, |_| 80.0);
    spike.watch(HOUR, 2 * HOUR, |ms| if ms % 30_000 == 0 { 79.0 } else { 80.0 });
    assert!(spike.raised_at.is_empty());
    spike.watch(2 * HOUR, 2 * HOUR + 10_000, |_| 40.0);
    assert_eq!(spike.raised_at.len(), 1);
}

#[test]
fn what_stays_odd_is_the_new_usual_after_its_time() {
    let mut spike = Watched::new(Anomaly::Spike, Metric::HostTemperature);
    spike.watch(0, HOUR, |_| 45.0);
    spike.watch(HOUR, 4 * HOUR, |_| 70.0);
    assert_eq!(spike.raised_at, [HOUR]);
    let [cleared] = spike.cleared_at[..] else { panic!("{:?}", spike.cleared_at) };
    assert!((2 * HOUR..2 * HOUR + HOUR / 2).contains(&cleared), "it stood an hour, and was learned: {cleared}");
}

/// For each kind, a level that shifts for good: the alarm ends when it has stood for as long as the first number says,
/// and the new level was learned for as long as the second.
#[test]
fn what_takes_longer_to_learn_than_to_become_usual_is_learned_all_the_same() {
    let mut dice = Dice::new(3, "level");
    let mut noise = move || dice.normal() * 0.5;
    for (kind, before, stands, learns) in
        [(Anomaly::Drift, 2 * DAY, DAY, DAY), (Anomaly::Seasonal, 21 * DAY, 7 * DAY, 14 * DAY)]
    {
        let mut watched = Watched::new(kind, Metric::HostTemperature);
        watched.watch(0, before, |_| 45.0 + noise());
        watched.watch(before, before + 40 * DAY, |_| 70.0 + noise());
        let ([raised], [cleared]) = (&watched.raised_at[..], &watched.cleared_at[..]) else {
            panic!("{kind:?}: raised {:?}, cleared {:?}", watched.raised_at, watched.cleared_at)
        };
        let stood = cleared - raised;
        assert!((stands + learns..stands + learns + 2 * DAY).contains(&(stood + HOUR)), "{kind:?}: {} h", stood / HOUR);
    }
    let mut rarely = Watched::new(Anomaly::Spike, Metric::HostTemperature);
    for ms in (0..12 * HOUR).step_by(120_000) {
        rarely.see(ms, Seen::Number(if ms < 4 * HOUR { 45.0 } else { 70.0 }));
    }
    assert_eq!((rarely.raised_at.len(), rarely.cleared_at.len()), (1, 1), "a reading every two minutes");
}

#[test]
fn what_stays_odd_becomes_usual_also_where_the_agent_restarts_sooner_than_that() {
    let mut spike = Watched::new(Anomaly::Spike, Metric::HostTemperature);
    spike.watch(0, HOUR, |_| 45.0);
    for part in 3..12 {
        let ms = part * HOUR / 3;
        let saved = spike.detector.save(Mono(ms));
        spike.detector = Detector::new(Anomaly::Spike, Metric::HostTemperature, "m");
        assert!(spike.detector.restore(&saved));
        spike.watch(ms, ms + HOUR / 3, |_| 70.0);
    }
    let ([raised], [cleared]) = (&spike.raised_at[..], &spike.cleared_at[..]) else {
        panic!("raised {:?}, cleared {:?}", spike.raised_at, spike.cleared_at)
    };
    assert!((HOUR..HOUR + HOUR / 2).contains(&(cleared - raised)), "{}", cleared - raised);
}

#[test]
fn a_drift_is_found_that_no_reading_shows_and_a_day_is_none() {
    let mut dice = Dice::new(1, "drift");
    let mut drift = Watched::new(Anomaly::Drift, Metric::HostTemperature);
    drift.watch(0, 7 * DAY, |ms| day(&mut dice, ms));
    assert!(drift.raised_at.is_empty(), "a week of days");
    // Three quarters of a degree an hour: the sun does more than that.
    drift.watch(7 * DAY, 8 * DAY, |ms| day(&mut dice, ms) + (ms - 7 * DAY) as f64 / HOUR as f64 * 0.75);
    let found = drift.raised_at.first().map(|at| at - 7 * DAY);
    assert!(found.is_some_and(|after| after < DAY), "{found:?}");
}

#[test]
fn a_level_that_shifts_drifts_within_hours_and_is_usual_again_when_it_is_back() {
    let mut dice = Dice::new(2, "drift");
    let mut noise = move || dice.normal() * 0.5;
    let mut drift = Watched::new(Anomaly::Drift, Metric::HostTemperature);
    drift.watch(0, 2 * DAY, |_| 45.0 + noise());
    drift.watch(2 * DAY, 2 * DAY + 6 * HOUR, |_| 43.0 + noise());
    let [raised] = drift.raised_at[..] else { panic!("{:?}", drift.raised_at) };
    assert!(raised - 2 * DAY < HOUR, "{}", raised - 2 * DAY);
    drift.watch(2 * DAY + 6 * HOUR, 3 * DAY, |_| 45.0 + noise());
    let [cleared] = drift.cleared_at[..] else { panic!("{:?}", drift.cleared_at) };
    assert!(cleared - (2 * DAY + 6 * HOUR) < 2 * HOUR);
}

#[test]
fn a_surge_is_far_above_its_own_rate_and_never_less_than_a_few() {
    let mut dice = Dice::new(1, "surge");
    let mut poisson = move |mean: f64| {
        let (mut n, mut product) = (0, dice.fraction());
        while product > (-mean).exp() {
            n += 1;
            product *= dice.fraction();
        }
        n
    };
    let mut surge = Watched::new(Anomaly::Surge, Metric::ErrorsCount);
    surge.count(0, 7 * DAY, |_| poisson(3.0));
    assert!(surge.raised_at.is_empty(), "three a minute for a week");
    surge.count(7 * DAY, 7 * DAY + 60_000, |_| 40);
    assert_eq!(surge.raised_at, [7 * DAY]);
    let mut quiet = Watched::new(Anomaly::Surge, Metric::ErrorsCount);
    quiet.count(0, DAY, |_| 0);
    quiet.count(DAY, DAY + HOUR, |_| 5);
    assert!(quiet.raised_at.is_empty(), "five are no surge");
    quiet.count(DAY + HOUR, DAY + HOUR + 60_000, |_| 50);
    assert_eq!(quiet.raised_at.len(), 1);
}

#[test]
fn nothing_is_learned_of_a_surge_while_it_lasts() {
    let mut surge = Watched::new(Anomaly::Surge, Metric::ErrorsCount);
    surge.count(0, DAY, |_| 1);
    surge.count(DAY, DAY + 12 * HOUR, |_| 100);
    assert_eq!((surge.raised_at.len(), surge.cleared_at.len()), (1, 0), "half a day of it is not usual yet");
    surge.count(DAY + 12 * HOUR, DAY + 13 * HOUR, |_| 1);
    surge.count(DAY + 13 * HOUR, DAY + 14 * HOUR, |_| 100);
    assert_eq!(surge.raised_at.len(), 2, "the next one is as odd as the first");
}

#[test]
fn what_is_usual_on_a_weekday_is_odd_at_night() {
    let mut dice = Dice::new(1, "seasonal");
    let mut load = move |ms: u64| {
        let (hour, weekday) = (ms / HOUR % 24, ms / DAY % 7 < 5);
        dice.normal() + if weekday && (8..17).contains(&hour) { 60.0 } else { 10.0 }
    };
    let mut seasonal = Watched::new(Anomaly::Seasonal, Metric::HostCpu);
    seasonal.watch(0, 28 * DAY, &mut load);
    assert!(seasonal.raised_at.is_empty(), "four weeks as always");
    let night = 28 * DAY + 2 * HOUR;
    seasonal.watch(28 * DAY, night, &mut load);
    seasonal.watch(night, night + HOUR, |_| 60.0);
    let [raised] = seasonal.raised_at[..] else { panic!("{:?}", seasonal.raised_at) };
    assert!(raised - night <= 600_000, "{}", raised - night);
}

#[test]
fn without_a_clock_no_hour_is_odd() {
    let mut detector = Detector::new(Anomaly::Seasonal, Metric::HostCpu, "m");
    for minute in 0..60 * 24 * 30 {
        let at = Moment { mono: Mono(minute * 60_000), wall: None, stands: false };
        assert_eq!(detector.judge(Anomaly::Seasonal, Seen::Number(minute as f64), at), None);
    }
}

#[test]
fn a_port_that_was_never_listened_on_is_new_until_it_has_stood_for_a_day() {
    let names = |ports: &[u16]| ports.iter().map(|port| format!("tcp 0.0.0.0:{port}")).collect::<Vec<_>>();
    let mut ports = Watched::new(Anomaly::NewListener, Metric::HostListeners);
    let mut listen = |from: u64, to: u64, listening: &[u16]| {
        let names = names(listening);
        for ms in (from..to).step_by(10_000) {
            ports.see(ms, Seen::Names(&names));
        }
        (ports.raised_at.clone(), ports.cleared_at.clone(), ports.last.clone())
    };
    let (raised, ..) = listen(0, 2 * HOUR, &[22, 80]);
    assert!(raised.is_empty());
    listen(2 * HOUR, 3 * HOUR, &[22]);
    let (raised, ..) = listen(3 * HOUR, 4 * HOUR, &[22, 80]);
    assert!(raised.is_empty(), "80 was there before");
    let (raised, _, last) = listen(4 * HOUR, 5 * HOUR, &[22, 80, 4444]);
    assert_eq!(raised, [4 * HOUR]);
    assert_eq!(last.unwrap().value, Value::Text("tcp 0.0.0.0:4444".into()));
    let (_, cleared, _) = listen(5 * HOUR, 6 * HOUR, &[22, 80]);
    assert_eq!(cleared, [5 * HOUR], "it is gone");
    let (raised, cleared, _) = listen(6 * HOUR, 6 * HOUR + 2 * DAY, &[22, 80, 4444]);
    assert_eq!((raised.len(), cleared.len()), (2, 2), "new again, and usual after a day");
}

#[test]
fn names_are_bounded_and_so_is_what_is_told_of_them() {
    let mut peers = Watched::new(Anomaly::NewPeer, Metric::HostPeers);
    let names = |from: u32, to: u32| (from..to).map(|n| format!("10.0.{}.{}", n / 256, n % 256)).collect::<Vec<_>>();
    for hour in 0..2 {
        peers.see(hour * HOUR / 2, Seen::Names(&names(0, 256)));
        peers.see(hour * HOUR / 2 + 1, Seen::Names(&names(256, 500)));
    }
    for ms in (HOUR..2 * HOUR).step_by(10_000) {
        peers.see(ms, Seen::Names(&[]));
    }
    peers.see(2 * HOUR, Seen::Names(&names(1_000, 1_100)));
    let Some(Finding { value: Value::Text(told), .. }) = &peers.last else { panic!() };
    assert!(told.ends_with("and 95 more") && told.len() < 120, "{told}");
    assert!(peers.detector.save(Mono(0)).len() < 5_000, "the store takes values below 5 KiB");
}

#[test]
fn what_was_learned_goes_on_after_a_restart_and_fits_the_store() {
    let cases =
        [(Anomaly::Spike, Metric::HostCpu), (Anomaly::Drift, Metric::HostCpu), (Anomaly::Seasonal, Metric::HostCpu)];
    for (kind, metric) in cases {
        let mut dice = Dice::new(1, kind.word());
        let mut before = Watched::new(kind, metric);
        before.watch(0, 15 * DAY, |_| 20.0 + dice.normal());
        let saved = before.detector.save(Mono(0));
        assert!(saved.len() < 5_000, "{kind}: {} bytes", saved.len());
        let mut after = Watched::new(kind, metric);
        assert!(after.detector.restore(&saved), "{kind}");
        // The same hour of the week, four weeks later.
        after.watch(28 * DAY, 28 * DAY + 3 * HOUR, |_| 90.0);
        assert!(!after.raised_at.is_empty(), "{kind} has forgotten what is usual");
    }
    let mut surge = Watched::new(Anomaly::Surge, Metric::ErrorsCount);
    surge.count(0, DAY, |_| 1);
    let mut after = Watched::new(Anomaly::Surge, Metric::ErrorsCount);
    assert!(after.detector.restore(&surge.detector.save(Mono(0))));
    after.count(DAY, DAY + 60_000, |_| 60);
    assert_eq!(after.raised_at.len(), 1);
}

#[test]
fn what_another_detector_learned_or_damage_has_touched_is_of_no_use() {
    let mut spike = Watched::new(Anomaly::Spike, Metric::HostCpu);
    spike.watch(0, HOUR, |_| 20.0);
    let saved = spike.detector.save(Mono(0));
    assert!(!Detector::new(Anomaly::Drift, Metric::HostCpu, "m").restore(&saved));
    assert!(!Detector::new(Anomaly::Spike, Metric::HostMemUsed, "of another").restore(&saved));
    for at in 0..saved.len() {
        let mut damaged = saved.to_vec();
        damaged[at] ^= 0x80;
        let mut detector = Detector::new(Anomaly::Spike, Metric::HostCpu, "m");
        if detector.restore(&damaged) {
            let at = Moment { mono: Mono(0), wall: None, stands: false };
            let _ = detector.judge(Anomaly::Spike, Seen::Number(1.0), at);
        }
    }
    let kept = |learned| encode(&Saved { metric: "m".to_owned(), learned, stood_ms: u64::MAX, relearns: false });
    let endless = kept(Learned::Spike(Spike::default()));
    assert!(Detector::new(Anomaly::Spike, Metric::HostCpu, "m").restore(&endless));
    let nan = Learned::Surge(minicbor::decode(&encode(&(60.0, f64::NAN, 1.0))).unwrap());
    assert!(!Detector::new(Anomaly::Surge, Metric::ErrorsCount, "m").restore(&kept(nan)));
}
