//! How little is written for what goes on all the time, and that nothing is lost for it.

use std::time::Duration;

use super::invariants::error_batch;
use super::world::{World, config_with};
use crate::engine::io::Input;
use crate::engine::observation::ErrorBatch;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// At the default intervals, without a broker.
fn away(bucket: &str) -> World {
    let mut config = config_with(&format!("[collect.errors]\nbucket = \"{bucket}\"\n"));
    (config.telemetry.report_interval, config.telemetry.publish_interval) = (MINUTE, MINUTE);
    let mut world = World::with(config);
    world.cut();
    world.advance(SECOND);
    world
}

/// Said by an application: it can't be read again.
fn say(world: &mut World) {
    world.input(Input::Errors(ErrorBatch { cursor: None, ..error_batch("boom") }));
}

/// What is told of the lines once the broker is back.
fn counted(mut world: World) -> u64 {
    world.broker_up = true;
    world.advance(10 * MINUTE);
    let mut errors: Vec<_> = world.got.iter().filter(|got| got.body["type"] == "error").map(|got| &got.body).collect();
    errors.sort_by_key(|body| body["seq"].as_u64());
    errors.dedup_by_key(|body| body["seq"].as_u64());
    errors.iter().filter_map(|body| body["error"]["count"].as_u64()).sum()
}

#[test]
fn an_error_that_goes_on_is_written_of_once_a_minute() {
    let mut world = away("60s");
    let written = |world: &World| world.store.written.values().sum::<u64>();
    let before = written(&world);
    for line in 0..30 {
        world.input(Input::Errors(ErrorBatch { cursor: Some(line.to_string()), ..error_batch("boom") }));
        world.advance(20 * SECOND);
    }
    // The journal's cursor, and what is counted behind it: with the first line, and with the count of each minute.
    let written = written(&world) - before;
    assert!(written <= 2 * 11, "{written} entries in ten minutes");
    assert!(world.store.commits > 0);
}

#[test]
fn a_line_that_was_counted_is_safe_within_an_interval_however_long_its_bucket_is() {
    for bucket in ["30s", "60s", "90s", "10m"] {
        for dies_after in 0..20 {
            let mut world = away(bucket);
            say(&mut world);
            world.advance(5 * SECOND);
            say(&mut world);
            world.advance(MINUTE);
            // It is safe now, whatever comes of the next ones.
            for _ in 0..dies_after {
                say(&mut world);
                world.advance(10 * SECOND);
            }
            world.crash();
            let lines = 2 + dies_after;
            let (told, new) = (counted(world), dies_after.min(6));
            assert!((lines - new..=lines).contains(&told), "{told} of {lines} lines, in buckets of {bucket}");
        }
    }
}
