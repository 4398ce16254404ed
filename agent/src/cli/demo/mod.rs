//! `fieldmedic demo`: everything on this machine and nothing to install. A broker (the simulator's, behind a loopback
//! socket), the real agent with the real collectors, a workload for it to restart, a signed command, and an outage. It
//! shows what a fleet would see, and its exit code says whether all of it happened.

mod scene;
mod stage;
mod viewer;

use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{BAD_USAGE, DONE, FAILED, block_on, fail, parse_duration, say};
use crate::config::BrokerUrl;
use scene::Verdict;
use stage::Stage;

/// How long all of its scenes take.
const TAKES: &str = "15 s";

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    fieldmedic demo                              until Ctrl-C\n  \
    fieldmedic demo --for 20s                    ends by itself; exit code 0 if everything happened, else 1\n  \
    fieldmedic demo --port 1883                  watch it with: mosquitto_sub -t '#' -v\n  \
    fieldmedic demo --url mqtt://broker.lan      with a broker of your own (which is then not cut off)")]
pub(super) struct DemoArgs {
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_length, help = ends_by_itself())]
    duration: Option<Duration>,
    /// The demo broker's port on 127.0.0.1 [default: any that is free].
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true, conflicts_with = "url")]
    port: u16,
    /// A broker of your own instead of the demo's.
    #[arg(long, value_name = "URL")]
    url: Option<String>,
}

/// Before a second is over not even its own broker is up.
fn parse_length(text: &str) -> Result<Duration, String> {
    let fits = parse_duration(text).ok().filter(|length| *length >= Duration::from_secs(1));
    fits.ok_or_else(|| "a duration of 1s or more is expected, such as 20s".to_owned())
}

fn ends_by_itself() -> String {
    format!(
        "Ends by itself after this time; in less than {TAKES} not all of it happens, which is exit code 1 [default: at \
         Ctrl-C]"
    )
}

pub(super) fn run(args: DemoArgs) -> u8 {
    let url = match args.url.as_deref().map(BrokerUrl::parse).transpose() {
        Ok(url) => url,
        Err(error) => {
            eprintln!("fieldmedic: --url: {error}");
            return BAD_USAGE;
        }
    };
    let played = block_on(async {
        // From before there is anything to take away.
        let leave = Leave::listen()?;
        let stage = Stage::set(args.port, url).await?;
        scene::play(stage, args.duration, leave).await
    });
    match played.and_then(|played| played) {
        Ok(Verdict::All) => {
            say(format_args!("\nAll of it happened. Now point an agent at a broker of your own: fieldmedic init"));
            DONE
        }
        Ok(Verdict::LeftEarly) => {
            say(format_args!("\nNot all of it has happened yet; {}", in_time()));
            DONE
        }
        Ok(Verdict::TooShort) => {
            eprintln!("fieldmedic: the demo did not show: all of its scenes in the time that it had; {}", in_time());
            FAILED
        }
        Ok(Verdict::Missing(missing)) => {
            for what in missing {
                eprintln!("fieldmedic: the demo did not show: {what}");
            }
            FAILED
        }
        Err(error) => fail(&error),
    }
}

/// How to see all of it.
fn in_time() -> String {
    format!("it takes {TAKES}: fieldmedic demo --for 20s")
}

/// What ends the demo from outside: Ctrl-C, a service manager or container that is stopped, a terminal that is closed.
struct Leave([Signal; 3]);

impl Leave {
    fn listen() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("listen to signals");
        Ok(Self([listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?, listen(SignalKind::hangup())?]))
    }

    /// Waits until one comes.
    async fn is_asked(&mut self) {
        let Self([interrupt, terminate, hangup]) = self;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}
