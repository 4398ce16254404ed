//! Tries to connect come with full jitter and exponential growth, whatever is wrong, and the agent is back when it
//! isn't.

use std::process::Stdio;
use std::time::{Duration, Instant};

use super::broker::{Case, Conn};
use super::common::broker::free_port;
use super::common::process::Process;
use super::common::{Gateway, SOON, tool};
use super::packet::{self, Packet};

/// The first ceiling: `mqtt.reconnect.min` of these gateways.
const FIRST: Duration = Duration::from_millis(200);
/// The last one.
const LAST: Duration = Duration::from_secs(10);
/// Waits that are looked at: their ceilings are 0.2, 0.4, 0.8, 1.6, 3.2 and 6.4 s.
const GAPS: usize = 6;
/// Until all of them are over.
const GAPS_BOUND: Duration = Duration::from_secs(120);
/// Gateways that are looked at together: full jitter lets one alone draw anything.
const GATEWAYS: usize = 8;
/// The last two ceilings are sixteen times the first two. With linear growth it would be less than four.
const GROWTH: u32 = 5;
/// What a busy machine may add to a wait.
const SLACK: Duration = Duration::from_secs(5);

/// Lets each of some gateways fail as `fail` wants, and judges how long it waits before it tries again.
fn assert_backs_off(case: &Case, version: &str, fail: impl Fn(usize, Conn) + Sync) {
    judge(|number| {
        let broker = case.broker();
        let _agent = gateway(number, &broker.url(), version).start();
        let (gaps, _) = (0..GAPS).fold((Vec::new(), broker.accept()), |(mut gaps, conn), _| {
            fail(number, conn);
            let failed = Instant::now();
            let next = broker.accept_within(LAST + SOON);
            gaps.push(next.accepted.saturating_duration_since(failed));
            (gaps, next)
        });
        gaps
    });
}

/// Judges how long each of some gateways waits between its tries, by what `gaps` says of it.
fn judge(gaps: impl Fn(usize) -> Vec<Duration> + Sync) {
    let gaps: Vec<Vec<Duration>> = std::thread::scope(|scope| {
        let gaps = &gaps;
        let gateways: Vec<_> = (0..GATEWAYS).map(|number| scope.spawn(move || gaps(number))).collect();
        gateways.into_iter().map(|gateway| gateway.join().unwrap()).collect()
    });
    for gaps in &gaps {
        let ceilings = (0..).map(|n| (FIRST * 2_u32.pow(n)).min(LAST) + SLACK);
        assert!(gaps.iter().zip(ceilings).all(|(gap, ceiling)| *gap <= ceiling), "over its ceiling: {gaps:?}");
    }
    let sum = |nth: [usize; 2]| gaps.iter().map(|gaps| gaps[nth[0]] + gaps[nth[1]]).sum::<Duration>();
    let (early, late) = (sum([0, 1]), sum([GAPS - 2, GAPS - 1]));
    assert!(late > early * GROWTH, "no exponential growth, {early:?} to {late:?}: {gaps:#?}");
    let last = || gaps.iter().map(|gaps| gaps[GAPS - 1].as_secs_f64());
    let (shortest, longest) = (last().fold(f64::MAX, f64::min), last().fold(0.0, f64::max));
    assert!(shortest < 0.8 * longest, "no full jitter, {shortest} to {longest}: {gaps:#?}");
}

fn gateway(number: usize, url: &str, version: &str) -> Gateway {
    Gateway::new(&format!("gw-{number}"), url).with(&format!(
        "[mqtt]\nversion = \"{version}\"\n[mqtt.reconnect]\nmin = \"{}ms\"\nmax = \"{}s\"\nstable_after = \"1h\"",
        FIRST.as_millis(),
        LAST.as_secs()
    ))
}

#[test]
fn where_nobody_listens_it_is_tried_again_with_jitter_and_growth() {
    let _case = Case::new("MQTT connect exponential backoff retries: connection refused");
    judge(|number| {
        let port = free_port();
        let gateway = gateway(number, &format!("mqtt://127.0.0.1:{port}"), "auto");
        let run = gateway.command("run");
        // Nobody is there to see it come, so the kernel is asked. With -D it is the agent that is started, and ended.
        let mut traced = tool("strace");
        traced.args(["-D", "-f", "-qq", "-ttt", "-e", "trace=connect", "-e", "signal=none"]);
        traced.arg(run.get_program()).args(run.get_args()).stdout(Stdio::null());
        let agent = Process::start("strace", &mut traced);
        let to = format!("htons({port})");
        let tries = agent.log.wait_long(GAPS_BOUND, "tries to connect", |lines| {
            let tries: Vec<f64> =
                lines.iter().filter(|line| line.contains(&to)).filter_map(|line| time_of(line)).collect();
            (tries.len() > GAPS).then_some(tries)
        });
        tries.windows(2).map(|pair| Duration::from_secs_f64(pair[1] - pair[0])).take(GAPS).collect()
    });
}

/// When a call was made, in strace's words.
fn time_of(line: &str) -> Option<f64> {
    line.split_once(" connect(")?.0.split_whitespace().last()?.parse().ok()
}

#[test]
fn without_a_connack_it_is_tried_again_with_jitter_and_growth() {
    let case = Case::new("MQTT connect exponential backoff retries: no CONNACK");
    assert_backs_off(&case, "5", |_, mut conn| {
        conn.read_connect();
        assert!(conn.until_closed(SOON).is_empty(), "nothing may follow CONNECT before CONNACK");
    });
}

#[test]
fn a_server_that_closes_at_once_is_tried_again_with_jitter_and_growth() {
    let case = Case::new("MQTT reconnect backoff retries: the server closes each connection at once");
    // In order, or, as CONNECT is left unread, with a reset.
    assert_backs_off(&case, "3.1.1", |number, conn| if number % 2 == 0 { conn.close() } else { drop(conn) });
}

#[test]
fn connections_that_die_young_are_no_reason_to_begin_anew_with_the_backoff() {
    let case = Case::new("MQTT reconnect backoff retries: unstable connection");
    assert_backs_off(&case, "auto", |_, mut conn| {
        let level = conn.read_connect().level;
        conn.send(&packet::connack(level, false, 0, &[]));
        conn.until_publish("presence", |_| true);
        conn.close();
    });
}

#[test]
fn a_refusal_is_met_with_patience_whatever_its_code() {
    // 3.2.2.2: unspecified, client id, credentials, not authorized, unavailable, busy, banned, connection rate.
    const CODES: [u8; GATEWAYS] = [0x80, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x9f];
    let case = Case::new("MQTT connect exponential backoff retries: CONNACK refuses");
    assert_backs_off(&case, "5", |number, mut conn| {
        let level = conn.read_connect().level;
        conn.send(&packet::connack(level, false, CODES[number], &[]));
        assert!(conn.until_closed(SOON).is_empty(), "nothing may be said on a refused connection");
    });
}

#[test]
fn a_refusal_of_the_older_protocol_is_met_with_patience_too() {
    let case = Case::new("MQTT connect exponential backoff retries: CONNACK refuses, MQTT 3.1.1");
    assert_backs_off(&case, "3.1.1", |number, mut conn| {
        let level = conn.read_connect().level;
        // 3.2.2.3: all but "version", which has one answer only.
        conn.send(&packet::connack(level, false, 2 + u8::try_from(number).unwrap() % 4, &[]));
        assert!(conn.until_closed(SOON).is_empty(), "nothing may be said on a refused connection");
    });
}

#[test]
fn a_server_that_refused_connections_is_found_when_it_listens() {
    let case = Case::new("MQTT connect: connection refused, then accepted");
    let port = free_port();
    let gateway = Gateway::new("gw-refused", &format!("mqtt://127.0.0.1:{port}"));
    let agent = gateway.start();
    agent.wait_for_log("refused the connection");
    let broker = case.broker_on(port);
    let mut conn = broker.welcome(false);
    conn.until_publish("presence", |presence| presence["online"] == true);
}

#[test]
fn after_a_refusal_the_first_connection_that_is_accepted_serves() {
    let case = Case::new("MQTT connect: refused, then accepted");
    let broker = case.broker();
    let gateway = Gateway::new("gw-later", &broker.url());
    let agent = gateway.start();
    for code in [0x88, 0x97, 0x86] {
        let mut conn = broker.accept();
        let level = conn.read_connect().level;
        conn.send(&packet::connack(level, false, code, &[]));
        conn.until_closed(SOON);
    }
    let mut conn = broker.welcome(false);
    conn.until("a PUBLISH", |packet| matches!(packet, Packet::Publish(_)).then_some(()));
    assert_eq!(agent.sigterm(), Some(0));
}
