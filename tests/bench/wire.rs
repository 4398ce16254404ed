//! What a sample costs on the wire, TLS and MQTT included: a proxy in front of a real mosquitto counts the bytes of the
//! connection both ways. The baseline is the same samples as JSON, one a message, from mosquitto_pub over the same TLS.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fieldmedic::engine::time::{BootId, Unix};
use fieldmedic::engine::timeline::Timeline;
use fieldmedic::wire::payload::Speaker;

use crate::common::broker::Access;
use crate::common::process::{Process, output_of};
use crate::common::relay::relay;
use crate::common::{Broker, Gateway, tool};
use crate::drain;
use crate::report::{Goal, Report};
use crate::sample;

const SAMPLES: u64 = 6_000;
/// A message of the default link's bound has fewer samples than that as plain JSON.
const MESSAGE_SAMPLES: usize = 60;
const BOUND: Duration = Duration::from_secs(60);
/// What a dictionary may weigh that each gateway and each reader would have to carry.
const DICTIONARY_BYTES: usize = 8 * 1024;

pub fn run(report: &mut Report) {
    let singly = one_a_message();
    report.figure("on the wire, JSON one a message", singly, "B/sample", None);
    for (encoding, goal) in [("json", None), ("json+zstd", Some(Goal::AtMost(1.0 / 6.0)))] {
        let batched = through_the_agent(encoding);
        report.ratio(&format!("on the wire, {encoding}"), batched, ("one a message", singly), "B/sample", goal);
    }
    dictionary(report);
}

/// Bytes a sample, as the agent sends a backlog.
fn through_the_agent(encoding: &str) -> f64 {
    let broker = Broker::start(Access::MutualTls);
    let proxy = Proxy::start(broker.port());
    let file = |name| broker.file(name).display().to_string();
    let gateway = Gateway::new("gw-wire", &format!("mqtts://127.0.0.1:{}", proxy.port)).with(&format!(
        "[mqtt.tls]\nca_file = \"{}\"\ncert_file = \"{}\"\nkey_file = \"{}\"\n[mqtt.drain]\npublishes_per_second = 1000\n\
         [telemetry]\nsample_interval = \"10m\"\nreport_interval = \"10m\"\npublish_interval = \"10m\"\nencoding = \"{encoding}\"\n",
        file("ca.pem"),
        file("client.pem"),
        file("client.key"),
    ));
    sample::fill(&gateway.store(), SAMPLES);
    let agent = Process::start("agent", gateway.command("run").stdout(Stdio::null()));
    drain::wait_until_connected(&agent);
    let began = Instant::now();
    while drain::backlog(&gateway.file("agent.sock")) > 0 {
        assert!(began.elapsed() < BOUND, "not drained: {:?}", agent.log.so_far());
        std::thread::sleep(Duration::from_millis(20));
    }
    proxy.bytes() as f64 / SAMPLES as f64
}

fn one_a_message() -> f64 {
    let broker = Broker::start(Access::MutualTls);
    let proxy = Proxy::start(broker.port());
    let lines: String = (1..=SAMPLES).map(|n| message(n) + "\n").collect();
    let file = broker.file("samples");
    std::fs::write(&file, lines).unwrap();
    let port = proxy.port.to_string();
    let mut command = tool("mosquitto_pub");
    command.args(["-h", "127.0.0.1", "-p", &port, "-q", "1", "-t", "fieldmedic/gw-wire/telemetry", "-l"]);
    for (option, name) in [("--cafile", "ca.pem"), ("--cert", "client.pem"), ("--key", "client.key")] {
        command.arg(option).arg(broker.file(name));
    }
    output_of(command.stdin(std::fs::File::open(&file).unwrap()));
    proxy.bytes() as f64 / SAMPLES as f64
}

/// The message of one sample.
fn message(n: u64) -> String {
    let timeline = Timeline::new(BootId([7; 16]), std::collections::BTreeMap::new(), None, Unix(0));
    let speaker = Speaker { device: "gw-wire", timeline: &timeline };
    String::from_utf8(speaker.record(n, &sample::record(n))).unwrap()
}

/// Whether a dictionary would be worth its distribution: payloads alone, with one that knows this gateway's samples.
fn dictionary(report: &mut Report) {
    let samples: Vec<String> = (1..=SAMPLES).map(message).collect();
    let (known, sent) = samples.split_at(samples.len() / 2);
    let dictionary = zstd::dict::from_samples(known, DICTIONARY_BYTES).unwrap();
    let mut plain = zstd::bulk::Compressor::new(1).unwrap();
    let mut trained = zstd::bulk::Compressor::with_dictionary(1, &dictionary).unwrap();
    for size in [1, MESSAGE_SAMPLES] {
        let bytes = |compressor: &mut zstd::bulk::Compressor<'_>| {
            let chunks = sent.chunks(size).map(|chunk| compressor.compress(chunk.join(",").as_bytes()).unwrap().len());
            chunks.sum::<usize>() as f64 / sent.len() as f64
        };
        let (without, with) = (bytes(&mut plain), bytes(&mut trained));
        report
            .note(&format!("  zstd, {size:>2} samples a payload: {without:.0} B/sample, with a dictionary {with:.0}"));
    }
}

/// Passes connections on, and counts their bytes.
struct Proxy {
    port: u16,
    bytes: Arc<AtomicU64>,
}

impl Proxy {
    fn start(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let bytes = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&bytes);
        relay(listener, to, move |_, from, to| pass(from, to, &counter));
        Self { port, bytes }
    }

    fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

fn pass(mut from: &TcpStream, mut to: &TcpStream, counter: &AtomicU64) -> io::Result<()> {
    let mut chunk = [0; 16 * 1024];
    loop {
        let len = from.read(&mut chunk)?;
        if len == 0 {
            return Ok(());
        }
        counter.fetch_add(len as u64, Ordering::Relaxed);
        to.write_all(&chunk[..len])?;
    }
}
