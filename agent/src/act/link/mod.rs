//! Restarts a network interface: down, a moment of rest, and up again. Whoever orders it may only be in reach by it, so
//! that nothing here leaves it down: once it is down neither a wish to cancel nor a deadline counts, bringing it up is
//! tried again until it works, and what the kernel forgets with a link that goes down (its routes, permanent
//! neighbours, and IPv6 addresses that somebody has set) is put back. It is done by this program as a process of its
//! own, which goes on whatever becomes of the one that wants it: killed, out of memory, or told to stop. Where
//! NetworkManager has the interface it does all that itself.

#![expect(clippy::disallowed_methods, reason = "a link needs time to come up")]

mod manager;

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep, timeout};

use super::program::{self, Program};
use super::transient;
use crate::engine::io::{ActOutcome, ActStatus, Ending};
use crate::one_thread;
use crate::wire::Reason;

/// The argument that has this program, or the helper's, be the process that restarts the interface named behind it.
pub const RESTART_FLAG: &str = "--restart-link";
/// What that process says once the link is up and its routes are back: from then on nobody need wait for it.
const IS_UP: &str = "progress 90";
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
/// How long a carrier is waited for however little time there is: mostly it is there at once.
const CARRIER_MIN: Duration = Duration::from_secs(2);
/// All of that together takes no longer, unless it hangs.
const RESTART_MAX: Duration = Duration::from_secs(900);
/// How often it is looked at meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How many interfaces may lie on one that is restarted, VLANs mostly, which go down with it.
const UPPERS_MAX: usize = 32;
/// Routes that are put back; a gateway with more of them has a routing daemon.
const ROUTES_MAX: usize = 64;
/// Neighbours that are put back.
const NEIGHBOURS_MAX: usize = 64;
/// `IFF_LOOPBACK` of linux/if.h.
const IFF_LOOPBACK: u32 = 0x8;
/// What ip(8) shows of a route's present state, and doesn't take.
const STATE_WORDS: [&str; 7] = ["linkdown", "dead", "pervasive", "offload", "trap", "notify", "unresolved"];

/// Where interfaces are restarted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interfaces {
    /// Nowhere.
    None,
    /// By a process of this program's own.
    Here,
    /// By a unit of its own: for who has neither network nor rights.
    Apart,
}

impl Interfaces {
    /// By a process of this program's own, where there is ip(8).
    #[must_use]
    pub fn find() -> Self {
        if Links::find().is_some() { Self::Here } else { Self::None }
    }

    /// Restarts one of them. Once it is taken down nothing ends that before it is up again; what then remains is to
    /// wait for a carrier, which both the deadline and a wish to cancel end.
    pub async fn restart(self, interface: &str, within: Duration, mut canceled: oneshot::Receiver<()>) -> ActOutcome {
        if self == Self::None {
            return ActOutcome::failed(Reason::NotSupported, "this gateway has no means to restart an interface");
        }
        let began = Instant::now();
        // Whoever has it done elsewhere may not even see the network.
        let links = Links::find().filter(|_| self == Self::Here);
        if let Some(Err(refusal)) = links.map(|links| links.check(interface)) {
            return refusal;
        }
        if canceled.try_recv().is_ok() {
            return ActOutcome::canceled(format!("{interface} was left as it was"));
        }
        let managed =
            match before(manager::find(interface, is_modems(interface)), interface, within, &mut canceled).await {
                Ok(Ok(managed)) => managed,
                Ok(Err(error)) => {
                    let detail = format!("{interface} was left as it was: ask NetworkManager for it: {error}");
                    return ActOutcome::failed(Ending::LinkFailed, detail);
                }
                Err(unwanted) => return unwanted,
            };
        let is_up = Notify::new();
        let restart = async {
            match managed {
                Some(managed) => managed.activate(interface, || is_up.notify_one()).await,
                None => self.restart_as_a_process(interface, || is_up.notify_one()).await,
            }
        };
        wait_for(restart, interface, &is_up, (began, within), canceled).await
    }

    async fn restart_as_a_process(self, interface: &str, mut is_up: impl FnMut() + Send) -> ActOutcome {
        let program = match self {
            // Also where the file has been replaced meanwhile, as by an upgrade.
            Self::Here | Self::None => Ok(PathBuf::from("/proc/self/exe")),
            Self::Apart => std::env::current_exe(),
        };
        let program = match program {
            Ok(program) => program,
            Err(error) => return ActOutcome::failed(Ending::LinkFailed, format!("find this program: {error}")),
        };
        let args = [RESTART_FLAG.to_owned(), interface.to_owned()];
        let program = Program::new(&program, &args, &[]).outliving();
        let (_keep, never) = oneshot::channel();
        let mut told = |_| is_up();
        let (apart, refusal) = (self == Self::Apart, Ending::LinkFailed);
        let ran = transient::run_where(apart, program, RESTART_FLAG, refusal, RESTART_MAX, never, &mut told).await;
        let said = ran.outcome.output.clone().unwrap_or_default();
        match said.lines().last().map(serde_json::from_str::<Told>) {
            Some(Ok(told)) => told.outcome(),
            _ => ran.outcome,
        }
    }
}

/// Whether it is a modem's: by what its driver says, or by its name, where nothing of the network is to be seen.
fn is_modems(interface: &str) -> bool {
    let uevent = fs::read_to_string(Path::new("/sys/class/net").join(interface).join("uevent")).unwrap_or_default();
    interface.starts_with("wwan") || uevent.lines().any(|line| line == "DEVTYPE=wwan")
}

/// Waits for what changes nothing yet, as long as somebody wants to.
async fn before<T>(
    asking: impl Future<Output = T>,
    interface: &str,
    within: Duration,
    canceled: &mut oneshot::Receiver<()>,
) -> Result<T, ActOutcome> {
    tokio::select! {
        answer = asking => Ok(answer),
        () = sleep(within) => {
            let within = humantime::format_duration(within);
            let detail = format!("{interface} was left as it was: who manages it isn't known after {within}");
            Err(ActOutcome::timed_out(detail))
        }
        Ok(()) = canceled => Err(ActOutcome::canceled(format!("{interface} was left as it was"))),
    }
}

/// Waits for a restart to end; once the link is up, only as long as somebody wants to, which is `within` since it
/// began.
async fn wait_for(
    restart: impl Future<Output = ActOutcome>,
    interface: &str,
    is_up: &Notify,
    (began, within): (Instant, Duration),
    canceled: oneshot::Receiver<()>,
) -> ActOutcome {
    let unwanted = async {
        tokio::select! {
            () = sleep(within.saturating_sub(began.elapsed())) => {
                let within = humantime::format_duration(within);
                ActOutcome::timed_out(format!("{interface} was restarted; it has no carrier, and {within} are over"))
            }
            Ok(()) = canceled => {
                ActOutcome::canceled(format!("{interface} was restarted; its carrier isn't waited for"))
            }
        }
    };
    let is_up = async {
        is_up.notified().await;
        sleep(CARRIER_MIN).await;
    };
    tokio::select! {
        outcome = restart => outcome,
        (outcome, ()) = async { tokio::join!(unwanted, is_up) } => outcome,
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

    /// Restarts an interface, tells when it is up, and then waits for its carrier until that is `enough`. What goes
    /// wrong is `no_such_interface`, `not_supported` (loopback), `link_failed` (it could not be taken down; nothing has
    /// changed) or `link_down` (it does not come up again by itself).
    async fn restart(&self, interface: &str, is_up: impl FnOnce(), enough: impl Future<Output = ()>) -> ActOutcome {
        let bounced = match self.check(interface) {
            Ok(()) => self.bounce(interface).await,
            Err(refusal) => Err(refusal),
        };
        let (put_back, is_cut_off) = match bounced {
            Ok(put_back) => put_back,
            Err(outcome) => return outcome,
        };
        is_up();
        let state = self.carrier(interface, enough).await;
        let detail = format!("{interface} was restarted, it is {state}; {put_back}");
        // Drivers that know nothing of a carrier say `unknown` (Documentation/networking/operstates.rst).
        if matches!(state.as_str(), "up" | "unknown") && !is_cut_off {
            ActOutcome::succeeded(detail)
        } else {
            ActOutcome::failed(Ending::LinkDown, detail)
        }
    }

    fn check(&self, interface: &str) -> Result<(), ActOutcome> {
        let dir = self.root.join("sys/class/net").join(interface);
        let Ok(flags) = fs::read_to_string(dir.join("flags")) else {
            return Err(ActOutcome::failed(Ending::NoSuchInterface, format!("there is no interface {interface}")));
        };
        let flags = u32::from_str_radix(flags.trim().trim_start_matches("0x"), 16).unwrap_or_default();
        if flags & IFF_LOOPBACK != 0 {
            return Err(ActOutcome::failed(Reason::NotSupported, format!("{interface} is a loopback interface")));
        }
        Ok(())
    }

    /// Nothing in here returns between down and up. What came of the routes is as [`Links::put_back`] has it.
    async fn bounce(&self, interface: &str) -> Result<(String, bool), ActOutcome> {
        let stack = self.stack(interface);
        let (routes, neighbours) = (self.routes(&stack).await, self.neighbours(&stack).await);
        let kept = stack.iter().filter_map(|interface| {
            let keep = self.root.join("proc/sys/net/ipv6/conf").join(interface).join("keep_addr_on_down");
            let kept = fs::read_to_string(&keep).ok()?;
            // Where it can't be written the addresses are the network's to give again.
            fs::write(&keep, "1").ok().map(|()| (keep, kept))
        });
        let kept: Vec<(PathBuf, String)> = kept.collect();
        let down = self.ip(&["link", "set", "dev", interface, "down"]).await;
        if down.is_ok() {
            sleep(DOWN_FOR).await;
        }
        let up = self.raise(interface).await;
        let put_back = self.put_back(&routes, &neighbours).await;
        for (keep, kept) in kept {
            let _ = fs::write(&keep, kept.trim());
        }
        match (down, up) {
            (Err(error), _) => Err(ActOutcome::failed(Ending::LinkFailed, format!("take {interface} down: {error}"))),
            (_, Err(error)) => Err(ActOutcome::failed(Ending::LinkDown, format!("bring {interface} up: {error}"))),
            (Ok(_), Ok(())) => Ok(put_back),
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

    async fn carrier(&self, interface: &str, enough: impl Future<Output = ()>) -> String {
        let file = self.root.join("sys/class/net").join(interface).join("operstate");
        let look = || fs::read_to_string(&file).map(|text| text.trim().to_owned()).unwrap_or_else(|_| "gone".into());
        let wait = async {
            while !matches!(look().as_str(), "up" | "unknown") {
                sleep(LOOK_EVERY).await;
            }
        };
        // Whether or not it has come, what it is now is told.
        tokio::select! {
            _ = timeout(self.carrier_max, wait) => {}
            () = enough => {}
        }
        look()
    }

    /// The interface, and those that lie on it: the kernel links each of these as `upper_NAME`.
    fn stack(&self, interface: &str) -> Vec<String> {
        let mut stack = vec![interface.to_owned()];
        let mut next = 0;
        while let Some(lower) = stack.get(next).cloned() {
            next += 1;
            let entries = fs::read_dir(self.root.join("sys/class/net").join(lower)).into_iter().flatten().flatten();
            for entry in entries {
                let name = entry.file_name();
                let upper = name.to_str().and_then(|name| name.strip_prefix("upper_"));
                let known = |upper: &&str| stack.iter().any(|known| known == upper);
                if let Some(upper) = upper.filter(|upper| stack.len() <= UPPERS_MAX && !known(upper)) {
                    stack.push(upper.to_owned());
                }
            }
        }
        stack
    }

    /// The routes by these interfaces that neither the kernel nor a router's advertisements make again, in the words of
    /// ip(8), with their family.
    async fn routes(&self, interfaces: &[String]) -> Vec<(&'static str, Vec<String>)> {
        let (mut direct, mut indirect) = (Vec::new(), Vec::new());
        for (interface, family) in interfaces.iter().flat_map(|interface| [(interface, "-4"), (interface, "-6")]) {
            let text = match self.ip(&[family, "route", "show", "table", "all", "dev", interface]).await {
                Ok(text) => text,
                // BusyBox may know no other table than the main one, and a kernel without IPv6 has none of it.
                Err(_) => self.ip(&[family, "route", "show", "dev", interface]).await.unwrap_or_default(),
            };
            let lines = text.lines().filter(|line| !line.trim().is_empty() && !is_made_again(line));
            for words in lines.map(|line| words(line, interface)) {
                let place = if words.iter().any(|word| word == "via") { &mut indirect } else { &mut direct };
                place.push((family, words));
            }
        }
        for family in ["-4", "-6"] {
            indirect.extend(self.multipath(family, interfaces).await.into_iter().map(|words| (family, words)));
        }
        // A gateway has to be within reach before anything can go by way of it.
        direct.into_iter().chain(indirect).take(ROUTES_MAX).collect()
    }

    /// Routes of several ways one of which is by these interfaces: ip(8) shows none of them as an interface's. The
    /// kernel forgets those that have no other way.
    async fn multipath(&self, family: &str, interfaces: &[String]) -> Vec<Vec<String>> {
        let shown = self.ip(&["-o", family, "route", "show", "table", "all"]).await.unwrap_or_default();
        let routes = shown.lines().filter(|line| line.contains(" nexthop ") || line.contains("\tnexthop "));
        let routes = routes.filter(|line| !is_made_again(line)).map(shown_words);
        routes.filter(|words| interfaces.iter().any(|interface| goes_by(words, interface))).collect()
    }

    /// What is to be told of neighbours that somebody has set, by these interfaces.
    async fn neighbours(&self, interfaces: &[String]) -> Vec<Vec<String>> {
        let mut neighbours = Vec::new();
        for interface in interfaces {
            let shown = self.ip(&["neigh", "show", "dev", interface, "nud", "permanent"]).await.unwrap_or_default();
            neighbours.extend(shown.lines().filter_map(|line| neighbour(line, interface)));
        }
        neighbours.truncate(NEIGHBOURS_MAX);
        neighbours
    }

    /// What came of it, and whether there were default routes and none of them is left.
    async fn put_back(&self, routes: &[(&'static str, Vec<String>)], neighbours: &[Vec<String>]) -> (String, bool) {
        let mut wrong = Vec::new();
        let is_default = |words: &[String]| words.first().is_some_and(|word| word == "default");
        let mut defaults = routes.iter().filter(|(_, words)| is_default(words)).count();
        let had_some = defaults > 0;
        for (family, words) in routes {
            if let Err(error) = self.ip(&replace(family, words)).await {
                defaults -= usize::from(is_default(words));
                wrong.push(format!("{}: {error}", words.join(" ")));
            }
        }
        let mut told = match wrong.as_slice() {
            [] => format!("routes put back: {}", routes.len()),
            some => format!("{} of {} routes could not be put back: {}", some.len(), routes.len(), some.join("; ")),
        };
        for words in neighbours {
            let args: Vec<&str> = ["neigh", "replace"].into_iter().chain(words.iter().map(String::as_str)).collect();
            if let Err(error) = self.ip(&args).await {
                told += &format!("; a neighbour could not be put back: {}: {error}", words.join(" "));
            }
        }
        (told, had_some && defaults == 0)
    }

    async fn ip(&self, args: &[&str]) -> Result<String, String> {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let (_keep, canceled) = oneshot::channel();
        let run = program::run(Program::new(&self.ip, &args, &[]), IP_MAX, canceled, &mut |_| ()).await;
        let outcome = run.map_err(|error| format!("start {}: {error}", self.ip.display()))?.outcome("ip");
        let said = outcome.output.unwrap_or_default();
        if outcome.status == ActStatus::Succeeded {
            return Ok(said);
        }
        Err(format!("{}: {}", outcome.detail.unwrap_or_default(), said.lines().next().unwrap_or_default()))
    }
}

/// What puts a route back.
fn replace<'a>(family: &'a str, words: &'a [String]) -> Vec<&'a str> {
    [family, "route", "replace"].into_iter().chain(words.iter().map(String::as_str)).collect()
}

/// Whether a route comes back without anybody's doing. One by a router's advertisement has a lifetime, which ip(8)
/// shows and doesn't take; it comes with the next advertisement, which a link that comes up asks for.
fn is_made_again(line: &str) -> bool {
    ["proto kernel", "table local", "proto ra", "expires "].iter().any(|mark| line.contains(mark))
}

/// The words of an interface's route, without those of its state.
fn words(line: &str, interface: &str) -> Vec<String> {
    [shown_words(line), vec!["dev".to_owned(), interface.to_owned()]].concat()
}

/// The same without its interface. A backslash is where `ip -o` has a line end.
fn shown_words(line: &str) -> Vec<String> {
    let words = line.split_whitespace().filter(|word| !STATE_WORDS.contains(word) && *word != "\\");
    words.map(str::to_owned).collect()
}

fn goes_by(words: &[String], interface: &str) -> bool {
    words.windows(2).any(|pair| matches!(pair, [dev, name] if dev == "dev" && name == interface))
}

/// What makes a neighbour of this line again.
fn neighbour(line: &str, interface: &str) -> Option<Vec<String>> {
    let mut words = line.split_whitespace();
    let (address, "lladdr", link) = (words.next()?, words.next()?, words.next()?) else { return None };
    Some([address, "lladdr", link, "nud", "permanent", "dev", interface].map(str::to_owned).into())
}

/// Is the process that restarts an interface, and tells on lines of their own when it is up and how it ended.
///
/// # Errors
/// There is no runtime, or there are no signals: the interface was left as it was.
pub fn restart_as_this_process(interface: &str) -> io::Result<bool> {
    // The interface comes up whoever else ends. Refused to who leads a group of its own, as a unit does: that is as
    // good.
    let _ = rustix::process::setsid();
    let runtime = one_thread::runtime()?;
    let outcome = runtime.block_on(async {
        let mut ends = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal);
        let [Ok(terminate), Ok(interrupt), Ok(hangup)] = &mut ends else {
            let error = ends.into_iter().find_map(Result::err);
            return Err(error.unwrap_or_else(|| io::ErrorKind::Other.into()));
        };
        let Some(links) = Links::find() else {
            return Ok(ActOutcome::failed(Ending::LinkFailed, "there is no ip(8) here: install iproute2"));
        };
        // A stop that comes while it is down counts once it is up.
        let told_to_end = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                _ = hangup.recv() => {}
            }
        };
        Ok(links.restart(interface, || say(IS_UP), told_to_end).await)
    })?;
    let told = Told { reason: outcome.reason, detail: outcome.detail.unwrap_or_default() };
    say(&serde_json::to_string(&told).unwrap_or_default());
    Ok(outcome.status == ActStatus::Succeeded)
}

/// To whoever still listens.
fn say(line: &str) {
    let _ = writeln!(io::stdout().lock(), "{line}");
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
            Some(reason) => ActOutcome::failed(reason, self.detail),
        }
    }
}

#[cfg(test)]
mod tests;
