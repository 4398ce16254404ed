//! Restarts units through systemd's D-Bus interface (org.freedesktop.systemd1(5)): queues the job, waits for its
//! result, and then for the unit to be active or failed. One connection an act: restarts are rare, and a bus that was
//! restarted meanwhile is no special case.

#![expect(clippy::disallowed_methods, reason = "between two looks at a unit time passes")]

use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff as _;
use tokio::time::{sleep, timeout};
use zbus::connection::Builder;
use zbus::export::ordered_stream::OrderedStreamExt as _;
use zbus::message::Type;
use zbus::zvariant::{Array, ObjectPath, OwnedObjectPath, Signature, Value};
use zbus::{Connection, MatchRule, MessageStream};

use super::object::Object;
use crate::config::UnitName;
use crate::engine::GOES_DOWN_WITHIN;
use crate::engine::io::{ActOutcome, Ending};
use crate::wire::Reason;

/// How often a unit is looked at that is neither active nor failed yet.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// At how many looks it may be active before it has to be the same process as at the look before.
const ACTIVE_LOOKS_MAX: u32 = 8;
/// How long whoever is asked over the bus may take to answer, as with libdbus: a zbus that isn't told waits for ever.
const ANSWER_MAX: Duration = Duration::from_secs(25);
/// How long the bus itself may take to let somebody in.
const HELLO_MAX: Duration = Duration::from_secs(5);
/// For how long the bus is tried before it counts as not there: dbus may be starting, too.
const BUS_RETRY_FOR: Duration = Duration::from_secs(5);

/// How many ends of jobs may wait to be read, of whatever unit: with one more, all that comes over the bus is held up.
/// An order that is answered at once stays far below; zbus's own 64 are filled by a target that stops.
const ENDS_QUEUED_MAX: usize = 1024;
/// How long systemd may take to say whether the machine reboots: who asks is being stopped.
const JOBS_MAX: Duration = Duration::from_millis(500);
const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER_PATH: ObjectPath<'_> = ObjectPath::from_static_str_unchecked("/org/freedesktop/systemd1");
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const LOGIN_PATH: ObjectPath<'_> = ObjectPath::from_static_str_unchecked("/org/freedesktop/login1");
/// The units whose start is a reboot (systemd.special(7)).
const REBOOTS: [&str; 2] = ["reboot.target", "kexec.target"];
/// And those whose start ends this boot without another one. A soft reboot is none of them: it keeps the boot's id, by
/// which is known what the next one judges.
const SHUTDOWNS: [&str; 2] = ["poweroff.target", "halt.target"];

/// What, who, why, mode, uid and pid.
type Inhibitor = (String, String, String, String, u32, u32);
/// A job's id, its unit, type and state, and both their paths.
type ListedJob = (u32, String, String, String, OwnedObjectPath, OwnedObjectPath);
/// A job's id and path, its unit, and how it has ended.
type JobRemoved = (u32, OwnedObjectPath, String, String);
/// Name, description, load, active and sub state, following, path, job's id, type and path.
pub(super) type ListedUnit =
    (String, String, String, String, String, String, OwnedObjectPath, u32, String, OwnedObjectPath);

/// Path, argv, whether its failure is passed over, when it began and ended (by the wall clock and since boot, each),
/// pid, code and status.
pub(super) type Executed = (String, Vec<String>, bool, u64, u64, u64, u64, u32, i32, i32);

/// systemd's manager.
pub(super) struct Systemd(Object);

impl Systemd {
    pub(super) fn new(connection: &Connection) -> Self {
        Self(Object::new(connection, SYSTEMD, MANAGER_PATH.into(), MANAGER))
    }

    pub(super) async fn list_units_filtered(&self, state: &str) -> zbus::Result<Vec<ListedUnit>> {
        self.0.call("ListUnitsFiltered", vec![vec![state].into()]).await
    }

    pub(super) async fn load_unit(&self, name: &str) -> zbus::Result<OwnedObjectPath> {
        self.0.call("LoadUnit", vec![name.into()]).await
    }

    /// Queues a job for a unit, by the method of this name, and tells which.
    pub(super) async fn queue(&self, method: &'static str, unit: &str, mode: &str) -> zbus::Result<OwnedObjectPath> {
        self.0.call(method, vec![unit.into(), mode.into()]).await
    }

    /// Queues the start of a unit that is made by this and has these properties.
    pub(super) async fn start_transient_unit(
        &self,
        name: &str,
        mode: &str,
        properties: Vec<(&str, Value<'_>)>,
    ) -> zbus::Result<OwnedObjectPath> {
        let others = Array::new(&Signature::try_from("(sa(sv))")?);
        let args = vec![name.into(), mode.into(), properties.into(), others.into()];
        self.0.call("StartTransientUnit", args).await
    }
}

fn login(connection: &Connection) -> Object {
    Object::new(connection, "org.freedesktop.login1", LOGIN_PATH.into(), "org.freedesktop.login1.Manager")
}

/// Restarts a unit; one that was started later than `since_us` (microseconds of CLOCK_MONOTONIC) is left as it is.
/// Takes as long as systemd does: the caller has the clock. What goes wrong is `no_systemd`,
/// `permission_denied`, `systemd_refused`, `no_such_unit`, `unit_not_loaded` (masked, or its file is wrong),
/// `job_failed` (another job took its place, or a dependency failed) or `unit_failed`.
pub async fn restart(unit: &UnitName, since_us: Option<u64>) -> ActOutcome {
    let connection = match connect().await {
        Ok(connection) => connection,
        Err(error) => return no_bus(&error),
    };
    let restarted = restart_over(&connection, unit, since_us).await;
    restarted.unwrap_or_else(|error| refused(&format!("restart {unit}"), &error))
}

/// Tells the machine to reboot: logind, and where there is none systemd itself. It goes down some time after this has
/// succeeded. What goes wrong is `inhibited` (systemd-inhibit(1): logind itself lets root pass over that),
/// `no_systemd`, `permission_denied` or `systemd_refused`: also where logind doesn't say who inhibits it.
pub async fn reboot() -> ActOutcome {
    let connection = match connect().await {
        Ok(connection) => connection,
        Err(error) => return no_bus(&error),
    };
    match reboot_over(&connection).await {
        Ok(None) => ActOutcome::succeeded("the machine is going down"),
        Ok(Some(who)) => ActOutcome::failed(Reason::Inhibited, who),
        Err(error) => refused("reboot the machine", &error),
    }
}

/// Whether the machine is about to reboot, whoever has ordered that. Where systemd doesn't say so at once it isn't.
pub(crate) async fn is_rebooting() -> bool {
    is_starting(|unit| REBOOTS.contains(&unit)).await
}

/// Where the machine is about to reboot or to be switched off, waits for it to go down; where it doesn't in that time,
/// it stays.
pub(super) async fn outwait_shutdown() {
    if is_starting(goes_down).await {
        sleep(GOES_DOWN_WITHIN).await;
    }
}

fn goes_down(unit: &str) -> bool {
    REBOOTS.contains(&unit) || SHUTDOWNS.contains(&unit)
}

async fn is_starting(is_such: impl Fn(&str) -> bool) -> bool {
    let ask = async { is_starting_over(&Connection::system().await?, is_such).await };
    timeout(JOBS_MAX, ask).await.is_ok_and(|answer| answer.unwrap_or(false))
}

async fn is_starting_over(connection: &Connection, is_such: impl Fn(&str) -> bool) -> zbus::Result<bool> {
    let jobs: Vec<ListedJob> = Systemd::new(connection).0.call("ListJobs", vec![]).await?;
    Ok(jobs.iter().any(|(_, unit, kind, ..)| kind == "start" && is_such(unit)))
}

/// Who keeps the machine from being shut down, and why; `None`: nobody.
///
/// # Errors
/// There is no bus, or no logind on it.
pub(crate) async fn who_blocks_shutdown() -> zbus::Result<Option<String>> {
    who_blocks(&login(&connect().await?)).await
}

async fn who_blocks(login: &Object) -> zbus::Result<Option<String>> {
    let blocks = |what: &str, mode: &str| mode == "block" && what.split(':').any(|what| what == "shutdown");
    let inhibitors: Vec<Inhibitor> = login.call("ListInhibitors", vec![]).await?;
    let found = inhibitors.into_iter().find(|(what, _, _, mode, ..)| blocks(what, mode));
    Ok(found.map(|(_, who, why, ..)| format!("{who} inhibits it: {why}")))
}

/// Has the machine rebooted; or who inhibits that, and why.
async fn reboot_over(connection: &Connection) -> zbus::Result<Option<String>> {
    let login = login(connection);
    match who_blocks(&login).await {
        Ok(None) => {}
        Ok(Some(who)) => return Ok(Some(who)),
        // Where there is no logind there are no inhibitors. One that doesn't answer may have some.
        Err(error) if is_unknown_service(&error) => {}
        Err(error) => return Err(error),
    }
    match login.call("Reboot", vec![false.into()]).await {
        Err(error) if is_unknown_service(&error) => {
            // As `systemctl reboot` does where there is no logind.
            Systemd::new(connection).queue("StartUnit", "reboot.target", "replace-irreversibly").await?;
        }
        // Bus and logind go down with the machine, and may do so before the answer is here. Whether it does, time
        // tells.
        Err(error) if is_unanswered(&error) => {}
        other => other?,
    }
    Ok(None)
}

/// Nobody owns the name, and nobody can be started for it.
fn is_unknown_service(error: &zbus::Error) -> bool {
    let unknown = "org.freedesktop.DBus.Error.ServiceUnknown";
    matches!(error, zbus::Error::MethodError(name, _, _) if name.as_str() == unknown)
}

/// Whoever was asked, or the bus itself, went away without an answer: what was asked for may have been done.
pub(super) fn is_unanswered(error: &zbus::Error) -> bool {
    match error {
        zbus::Error::InputOutput(_) => true,
        zbus::Error::MethodError(name, _, _) => name.as_str() == "org.freedesktop.DBus.Error.NoReply",
        _ => false,
    }
}

/// The system bus, on which nobody is waited for without end. Tries for a while, at growing intervals.
pub(super) async fn connect() -> zbus::Result<Connection> {
    let mut intervals = ExponentialBackoff { max_elapsed_time: Some(BUS_RETRY_FOR), ..ExponentialBackoff::default() };
    loop {
        let error = match open(Builder::system()?, HELLO_MAX).await {
            Ok(connection) => return Ok(connection),
            Err(error) => error,
        };
        // Where there is no bus at all, waiting won't bring one.
        let absent = matches!(&error, zbus::Error::InputOutput(error) if error.kind() == std::io::ErrorKind::NotFound);
        match intervals.next_backoff() {
            Some(wait) if !absent => sleep(wait).await,
            _ => return Err(error),
        }
    }
}

async fn open(bus: Builder<'_>, within: Duration) -> zbus::Result<Connection> {
    let late = |_| Err(zbus::Error::Failure(format!("the bus has not let us in after {within:?}")));
    timeout(within, bus.method_timeout(ANSWER_MAX).build()).await.unwrap_or_else(late)
}

async fn restart_over(connection: &Connection, unit: &UnitName, since_us: Option<u64>) -> zbus::Result<ActOutcome> {
    let systemd = Systemd::new(connection);
    let path = systemd.load_unit(unit.as_str()).await?;
    let state = unit_at(connection, path.clone());
    match state.get::<String>("LoadState").await?.as_str() {
        "loaded" => {}
        "not-found" => return Ok(ActOutcome::failed(Ending::NoSuchUnit, format!("systemd knows no unit {unit}"))),
        other => return Ok(ActOutcome::failed(Ending::UnitNotLoaded, format!("{unit} is {other}"))),
    }
    if let Some(since_us) = since_us {
        if state.get::<u64>("InactiveExitTimestampMonotonic").await? > since_us {
            return Ok(ActOutcome::succeeded(format!("{unit} was started since")));
        }
    }
    // One that was made for a time is gone once nobody knows of its failure.
    let is_transient = state.get("Transient").await.unwrap_or(false);
    // Before the job is queued: it may be over before the answer is here.
    let mut jobs = Jobs::watch(connection, &systemd).await?;
    let restart = async move {
        if !is_transient {
            forget_starts(&systemd, unit.as_str()).await;
        }
        let job = systemd.queue("RestartUnit", unit.as_str(), "replace").await?;
        jobs.end_of(&job).await
    };
    let result = match restart.await {
        Ok(result) => result,
        Err(error) => return lost(unit.as_str(), error),
    };
    if !matches!(result.as_str(), "done" | "failed") {
        return Ok(ActOutcome::failed(Ending::JobFailed, format!("systemd's job to restart {unit} ended as {result}")));
    }
    settle(unit, &state, &service_at(connection, path)).await
}

/// Has systemd forget how often a unit was started: its start limit is for what restarts by itself. A start by order
/// would be refused by it after some others, though the unit is well, and that is what a crash loop ends in. Who may
/// not do this may still start it.
pub(super) async fn forget_starts(systemd: &Systemd, unit: &str) {
    let _: zbus::Result<()> = systemd.0.call("ResetFailedUnit", vec![unit.into()]).await;
}

/// Looks at the unit until it is what it will be: inactive or failed, or active and the same process as at the look
/// before. A job is over before that where the unit restarts by itself, or fails as soon as it runs. One that goes on
/// coming and going has failed.
async fn settle(unit: &UnitName, state: &Object, service: &Object) -> zbus::Result<ActOutcome> {
    let mut before = None;
    let mut looks_left = ACTIVE_LOOKS_MAX;
    loop {
        let (active, sub) = look(state).await?;
        let is_active = active == "active";
        if is_active || matches!(active.as_str(), "inactive" | "failed") {
            // Only services have these: a timer or a socket is told of by its state alone.
            let now = Service::of(service).await.ok();
            let run = now.as_ref().map(|now| (now.pid, now.restarts));
            let stays = before.replace(run) == Some(run);
            looks_left -= 1;
            if !is_active || stays || looks_left == 0 {
                return Ok(verdict(unit, &active, &sub, now.as_ref(), stays));
            }
        }
        sleep(LOOK_EVERY).await;
    }
}

/// `ActiveState` and `SubState` of one moment: they are two answers, between which a unit may change.
async fn look(state: &Object) -> zbus::Result<(String, String)> {
    let mut active: String = state.get("ActiveState").await?;
    loop {
        let sub = state.get("SubState").await?;
        let still = state.get("ActiveState").await?;
        if still == active {
            return Ok((active, sub));
        }
        active = still;
    }
}

/// `ActiveState`, `SubState`, …
pub(super) fn unit_at(connection: &Connection, path: OwnedObjectPath) -> Object {
    Object::new(connection, SYSTEMD, path, "org.freedesktop.systemd1.Unit")
}

/// What only services have (systemd.service(5)).
pub(super) fn service_at(connection: &Connection, path: OwnedObjectPath) -> Object {
    Object::new(connection, SYSTEMD, path, "org.freedesktop.systemd1.Service")
}

/// What a service says of itself (systemd.service(5)).
struct Service {
    kind: String,
    pid: u32,
    result: String,
    exit_status: i32,
    /// By systemd itself, since somebody last started it.
    restarts: u32,
}

impl Service {
    async fn of(service: &Object) -> zbus::Result<Self> {
        Ok(Self {
            kind: service.get("Type").await?,
            pid: service.get("MainPID").await?,
            result: service.get("Result").await?,
            exit_status: service.get("ExecMainStatus").await?,
            // Since systemd 235.
            restarts: service.get("NRestarts").await.unwrap_or(0),
        })
    }
}

/// What came of a restart; one that is active and not `stays` so has failed.
fn verdict(unit: &UnitName, active: &str, sub: &str, service: Option<&Service>, stays: bool) -> ActOutcome {
    let mut detail = format!("{unit} is {active} ({sub})");
    let Some(service) = service else {
        return if active == "active" {
            ActOutcome::succeeded(detail)
        } else {
            ActOutcome::failed(Ending::UnitFailed, detail)
        };
    };
    if service.pid != 0 {
        detail += &format!(", pid {}", service.pid);
    }
    if service.restarts > 0 {
        detail += &format!(", was restarted {} times", service.restarts);
    }
    // One that has done its work and ended well is not active any more, and that is right.
    let done = active == "inactive" && service.kind == "oneshot" && service.result == "success";
    if active == "active" && !stays {
        return ActOutcome::failed(Ending::UnitFailed, format!("{detail}: it comes up and does not stay up"));
    }
    if active == "active" || done {
        return ActOutcome::succeeded(detail);
    }
    ActOutcome::failed(
        Ending::UnitFailed,
        format!("{detail}, result {}, exit status {}", service.result, service.exit_status),
    )
}

/// The ends of all jobs, from when this was made on.
pub(super) struct Jobs(MessageStream);

impl Jobs {
    pub(super) async fn watch(connection: &Connection, systemd: &Systemd) -> zbus::Result<Self> {
        let rule = MatchRule::builder()
            .msg_type(Type::Signal)
            .sender(SYSTEMD)?
            .path(MANAGER_PATH)?
            .interface(MANAGER)?
            .member("JobRemoved")?
            .build();
        let ends = MessageStream::for_match_rule(rule, connection, Some(ENDS_QUEUED_MAX)).await?;
        systemd.0.call::<()>("Subscribe", vec![]).await?;
        Ok(Self(ends))
    }

    /// The next that ends: which, and how in systemd's word.
    pub(super) async fn next(&mut self) -> zbus::Result<(OwnedObjectPath, String)> {
        let Some(message) = self.0.next().await else {
            return Err(zbus::Error::Failure("the bus went away before the job was over".into()));
        };
        let (_, job, _, result): JobRemoved = message?.body().deserialize()?;
        Ok((job, result))
    }

    pub(super) async fn end_of(&mut self, job: &OwnedObjectPath) -> zbus::Result<String> {
        loop {
            let (ended, result) = self.next().await?;
            if ended == *job {
                return Ok(result);
            }
        }
    }
}

/// What was begun on a unit goes on, though the bus is gone that would have told its end. A refusal stays one.
pub(super) fn lost(unit: &str, error: zbus::Error) -> zbus::Result<ActOutcome> {
    match error {
        zbus::Error::MethodError(..) if !is_unanswered(&error) => Err(error),
        _ => Ok(ActOutcome::interrupted(Ending::NoSystemd, format!("what came of {unit} can't be known: {error}"))),
    }
}

fn no_bus(error: &zbus::Error) -> ActOutcome {
    let hint = "is this a system with systemd, and may this user use its bus?";
    ActOutcome::failed(Ending::NoSystemd, format!("connect to the system bus: {error}; {hint}"))
}

pub(super) fn refused(what: &str, error: &zbus::Error) -> ActOutcome {
    let (reason, hint) = match error {
        zbus::Error::MethodError(name, ..) => match name.rsplit('.').next() {
            Some("AccessDenied" | "InteractiveAuthorizationRequired") => {
                (Ending::PermissionDenied, whose_leave(rustix::process::geteuid().is_root()))
            }
            Some("NoSuchUnit") => (Ending::NoSuchUnit, ""),
            Some("ServiceUnknown" | "NameHasNoOwner") => (Ending::NoSystemd, "; there is a bus, but no systemd on it"),
            _ => (Ending::SystemdRefused, ""),
        },
        _ => (Ending::NoSystemd, ""),
    };
    ActOutcome::failed(reason, format!("{what}: {error}{hint}"))
}

/// Whoever isn't root asks by root's helper, where there was one when it started.
const fn whose_leave(is_root: bool) -> &'static str {
    if is_root {
        "; only root, or whom polkit lets, may do that"
    } else {
        "; only root, or whom polkit lets, may do that, and there was no helper when the agent started: systemctl \
         enable --now fieldmedic-act.socket, then systemctl restart fieldmedic"
    }
}

#[cfg(test)]
mod tests;
