//! Restarts a network interface: down, a moment of rest, and up again. Whoever orders it may only be in reach by it, so that
//! nothing here leaves it down: once it is down no wish to cancel counts, bringing it up is tried again until it works, and
//! what the kernel forgets with a link that goes down (its routes, and IPv6 addresses that somebody has set) is put back.
//! An agent that does it itself and is told to stop meanwhile brings it up before it ends.
//! Where NetworkManager has the interface it does all that itself.

#![expect(clippy::disallowed_methods, reason = "a link needs time to come up")]

mod manager;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::program::{self, Program};
use super::transient;
use crate::engine::io::{ActOutcome, ActStatus};

/// Where ip(8) is: iproute2's, or busybox's.
const IP: [&str; 4] = ["/usr/sbin/ip", "/sbin/ip", "/usr/bin/ip", "/bin/ip"];
/// How long one call of ip may take.
const IP_MAX: Duration = Duration::from_secs(10);
/// How long the interface stays down: a modem or a switch must notice.
const DOWN_FOR: Duration = Duration::from_secs(1);
/// How often bringing it up is tried, and how far apart.
const UP_TRIES: u32 = 30;
const UP_PAUSE: Duration = Duration::from_secs(1);
/// How long it may take to have a carrier: a modem registers anew.
const CARRIER_MAX: Duration = Duration::from_secs(60);
/// All of that together takes no longer, unless it hangs.
const RESTART_MAX: Duration = Duration::from_secs(900);
/// How often it is looked at meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Routes that are put back; a gateway with more of them has a routing daemon.
const ROUTES_MAX: usize = 64;
/// `IFF_LOOPBACK` of linux/if.h.
const IFF_LOOPBACK: u32 = 0x8;
/// What ip(8) shows of a route's present state, and doesn't take.
const STATE_WORDS: [&str; 7] = ["linkdown", "dead", "pervasive", "offload", "trap", "notify", "unresolved"];

/// Where interfaces are restarted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Interfaces {
    /// Nowhere.
    None,
    /// By this process.
    Here(Links),
    /// By a unit of its own.
    Apart,
}

impl Interfaces {
    /// Restarts one of them. Once it is taken down nothing ends that before it is up again.
    pub async fn restart(&self, interface: &str, canceled: oneshot::Receiver<()>) -> ActOutcome {
        match self {
            Self::None => ActOutcome::failed("not_supported", "this gateway has no means to restart an interface"),
            Self::Here(links) => links.restart(interface, canceled).await,
            Self::Apart => restart_apart(interface, canceled).await,
        }
    }
}

/// The way to the kernel's links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Links {
    /// ip(8).
    ip: PathBuf,
    /// Where /sys and /proc are.
    root: PathBuf,
    /// How long a link that is up may take to have a carrier.
    carrier_max: Duration,
}

impl Links {
    /// By ip(8), where it is installed.
    #[must_use]
    pub fn find() -> Option<Self> {
        let ip = IP.iter().map(Path::new).find(|path| path.exists())?;
        Some(Self { ip: ip.to_owned(), root: "/".into(), carrier_max: CARRIER_MAX })
    }

    /// Restarts an interface. What goes wrong is `no_such_interface`, `not_supported` (loopback), `link_failed` (it could
    /// not be taken down; nothing has changed) or `link_down` (it does not come up again by itself).
    pub async fn restart(&self, interface: &str, mut canceled: oneshot::Receiver<()>) -> ActOutcome {
        if let Err(refusal) = self.check(interface) {
            return refusal;
        }
        if let Some(outcome) = manager::restart(interface).await {
            return outcome;
        }
        if canceled.try_recv().is_ok() {
            return ActOutcome::canceled(format!("{interface} was left as it was"));
        }
        self.bounce(interface).await
    }

    fn check(&self, interface: &str) -> Result<(), ActOutcome> {
        let dir = self.root.join("sys/class/net").join(interface);
        let Ok(flags) = fs::read_to_string(dir.join("flags")) else {
            return Err(ActOutcome::failed("no_such_interface", format!("there is no interface {interface}")));
        };
        let flags = u32::from_str_radix(flags.trim().trim_start_matches("0x"), 16).unwrap_or_default();
        if flags & IFF_LOOPBACK != 0 {
            return Err(ActOutcome::failed("not_supported", format!("{interface} is a loopback interface")));
        }
        Ok(())
    }

    /// Nothing in here returns between down and up; where it is dropped in between, it is brought up at once.
    async fn bounce(&self, interface: &str) -> ActOutcome {
        let routes = self.routes(interface).await;
        let keep = self.root.join("proc/sys/net/ipv6/conf").join(interface).join("keep_addr_on_down");
        let kept = fs::read_to_string(&keep).ok();
        if kept.is_some() {
            // Where it can't be written the addresses are the network's to give again.
            let _ = fs::write(&keep, "1");
        }
        let mut fall = Fall { links: self, interface, routes: &routes, keep, kept, is_down: true };
        let down = self.ip(&["link", "set", "dev", interface, "down"]).await;
        if down.is_ok() {
            sleep(DOWN_FOR).await;
        }
        let up = self.raise(interface).await;
        let (put_back, is_cut_off) = self.put_back(interface, &routes).await;
        fall.is_down = false;
        drop(fall);
        match (down, up) {
            (Err(error), _) => ActOutcome::failed("link_failed", format!("take {interface} down: {error}")),
            (_, Err(error)) => ActOutcome::failed("link_down", format!("bring {interface} up: {error}")),
            (Ok(_), Ok(())) => {
                let state = self.carrier(interface).await;
                let detail = format!("{interface} was restarted, it is {state}; {put_back}");
                // Drivers that know nothing of a carrier say `unknown` (Documentation/networking/operstates.rst).
                if matches!(state.as_str(), "up" | "unknown") && !is_cut_off {
                    ActOutcome::succeeded(detail)
                } else {
                    ActOutcome::failed("link_down", detail)
                }
            }
        }
    }

    async fn raise(&self, interface: &str) -> Result<(), String> {
        let mut result = Ok(());
        for _ in 0..UP_TRIES {
            result = self.ip(&["link", "set", "dev", interface, "up"]).await.map(drop);
            if result.is_ok() {
                break;
            }
            sleep(UP_PAUSE).await;
        }
        result
    }

    async fn carrier(&self, interface: &str) -> String {
        let file = self.root.join("sys/class/net").join(interface).join("operstate");
        let look = || fs::read_to_string(&file).map(|text| text.trim().to_owned()).unwrap_or_else(|_| "gone".into());
        let wait = async {
            while !matches!(look().as_str(), "up" | "unknown") {
                sleep(LOOK_EVERY).await;
            }
        };
        // Whether or not it has come, what it is now is told.
        let _ = timeout(self.carrier_max, wait).await;
        look()
    }

    /// The routes by an interface that the kernel doesn't make itself, in the words of ip(8), with their family.
    async fn routes(&self, interface: &str) -> Vec<(&'static str, Vec<String>)> {
        let mut routes = Vec::new();
        for family in ["-4", "-6"] {
            let text = match self.ip(&[family, "route", "show", "table", "all", "dev", interface]).await {
                Ok(text) => text,
                // BusyBox may know no other table than the main one, and a kernel without IPv6 has none of it.
                Err(_) => self.ip(&[family, "route", "show", "dev", interface]).await.unwrap_or_default(),
            };
            let made = text.lines().filter(|line| !line.contains("proto kernel") && !line.contains("table local"));
            routes.extend(made.map(|line| (family, words(line))).filter(|(_, words)| !words.is_empty()));
        }
        // A gateway has to be within reach before anything can go by way of it.
        routes.sort_by_key(|(_, words)| words.iter().any(|word| word == "via"));
        routes.truncate(ROUTES_MAX);
        routes
    }

    /// What came of it, and whether there were default routes and none of them is left.
    async fn put_back(&self, interface: &str, routes: &[(&'static str, Vec<String>)]) -> (String, bool) {
        let mut wrong = Vec::new();
        let is_default = |words: &[String]| words.first().is_some_and(|word| word == "default");
        let mut defaults = routes.iter().filter(|(_, words)| is_default(words)).count();
        let had_some = defaults > 0;
        for (family, words) in routes {
            if let Err(error) = self.ip(&replace(family, words, interface)).await {
                defaults -= usize::from(is_default(words));
                wrong.push(format!("{}: {error}", words.join(" ")));
            }
        }
        let told = match wrong.as_slice() {
            [] => format!("routes put back: {}", routes.len()),
            some => format!("{} of {} routes could not be put back: {}", some.len(), routes.len(), some.join("; ")),
        };
        (told, had_some && defaults == 0)
    }

    async fn ip(&self, args: &[&str]) -> Result<String, String> {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let (_keep, canceled) = oneshot::channel();
        let run = program::run(Program::new(&self.ip, &args, &[]), IP_MAX, canceled, |_| ()).await;
        let outcome = run.map_err(|error| format!("start {}: {error}", self.ip.display()))?.outcome("ip");
        let said = outcome.output.unwrap_or_default();
        if outcome.status == ActStatus::Succeeded {
            return Ok(said);
        }
        Err(format!("{}: {}", outcome.detail.unwrap_or_default(), said.lines().next().unwrap_or_default()))
    }
}

/// An interface that may be down, and what is to be as it was when that is over.
struct Fall<'a> {
    links: &'a Links,
    interface: &'a str,
    routes: &'a [(&'static str, Vec<String>)],
    /// Whether the kernel keeps its IPv6 addresses: where that stands, and what stood there.
    keep: PathBuf,
    kept: Option<String>,
    is_down: bool,
}

impl Fall<'_> {
    /// Brings it up at once: nothing waits here any more.
    fn end(&self) {
        let ip = |args: &[&str]| {
            let done = Command::new(&self.links.ip).args(args).stdin(Stdio::null()).stdout(Stdio::null()).status();
            match done {
                Ok(status) if status.success() => {}
                Ok(status) => tracing::error!("ip {}: {status}", args.join(" ")),
                Err(error) => tracing::error!("start {}: {error}", self.links.ip.display()),
            }
        };
        ip(&["link", "set", "dev", self.interface, "up"]);
        for (family, words) in self.routes {
            ip(&replace(family, words, self.interface));
        }
    }
}

impl Drop for Fall<'_> {
    fn drop(&mut self) {
        // Whoever brought it down ends before it is up again, as an agent does that is told to stop.
        if self.is_down {
            self.end();
        }
        if let Some(kept) = &self.kept {
            let _ = fs::write(&self.keep, kept.trim());
        }
    }
}

/// What puts a route back.
fn replace<'a>(family: &'a str, words: &'a [String], interface: &'a str) -> Vec<&'a str> {
    let mut args = vec![family, "route", "replace"];
    args.extend(words.iter().map(String::as_str));
    args.extend(["dev", interface]);
    args
}

/// A route's words, without those of its state.
fn words(line: &str) -> Vec<String> {
    line.split_whitespace().filter(|word| !STATE_WORDS.contains(word)).map(str::to_owned).collect()
}

/// Has PID 1 run this program with `--restart-link`, as a unit of its own: whoever has neither network nor rights asks so.
/// Neither a wish to cancel, nor a deadline, nor the helper's own end stops that unit: it would stay down.
async fn restart_apart(interface: &str, mut canceled: oneshot::Receiver<()>) -> ActOutcome {
    if let Some(outcome) = manager::restart(interface).await {
        return outcome;
    }
    if canceled.try_recv().is_ok() {
        return ActOutcome::canceled(format!("{interface} was left as it was"));
    }
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return ActOutcome::failed("link_failed", format!("find this program: {error}")),
    };
    let args = ["--restart-link".to_owned(), interface.to_owned()];
    let program = Program::new(&program, &args, &[]).outliving();
    let (_keep, never) = oneshot::channel();
    let outcome = transient::run_file(program, RESTART_MAX, never, |_| ()).await;
    let said = outcome.output.clone().unwrap_or_default();
    match said.lines().last().map(serde_json::from_str::<Told>) {
        Some(Ok(told)) => told.outcome(),
        _ => outcome,
    }
}

/// Does it, as that unit, and tells how it ended on a line of its own.
pub async fn restart_told(interface: &str) -> (bool, String) {
    let (_keep, canceled) = oneshot::channel();
    let outcome = match Links::find() {
        Some(links) => links.restart(interface, canceled).await,
        None => ActOutcome::failed("link_failed", "there is no ip(8) here: install iproute2"),
    };
    let told = Told { reason: outcome.reason, detail: outcome.detail.unwrap_or_default() };
    (outcome.status == ActStatus::Succeeded, serde_json::to_string(&told).unwrap_or_default())
}

/// How a restart ended, from one program to the other.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Told {
    reason: Option<String>,
    detail: String,
}

impl Told {
    fn outcome(self) -> ActOutcome {
        match self.reason {
            None => ActOutcome::succeeded(self.detail),
            Some(reason) => ActOutcome::failed(&reason, self.detail),
        }
    }
}

#[cfg(test)]
mod tests;
