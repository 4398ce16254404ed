//! Restarts units through systemd's D-Bus interface (org.freedesktop.systemd1(5)): queues the job, waits for its result,
//! and then for the unit to be active or failed. One connection an act: restarts are rare, and a bus that was restarted
//! meanwhile is no special case.

#![expect(clippy::disallowed_methods, reason = "between two looks at a unit time passes")]

use std::time::Duration;

use tokio::time::sleep;
use zbus::Connection;
use zbus::export::ordered_stream::OrderedStreamExt as _;
use zbus::zvariant::OwnedObjectPath;

use crate::config::UnitName;
use crate::engine::io::ActOutcome;

/// How often a unit is looked at that is neither active nor failed yet.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How often the bus is tried before it counts as not there: dbus may be starting, too.
const BUS_RETRY_FOR: Duration = Duration::from_secs(5);

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1",
    gen_blocking = false
)]
trait Systemd {
    fn subscribe(&self) -> zbus::Result<()>;
    fn load_unit(&self, name: &str) -> zbus::Result<OwnedObjectPath>;
    fn restart_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    #[zbus(signal)]
    fn job_removed(&self, id: u32, job: OwnedObjectPath, unit: &str, result: &str) -> zbus::Result<()>;
}

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Unit",
    default_service = "org.freedesktop.systemd1",
    gen_blocking = false
)]
trait Unit {
    #[zbus(property(emits_changed_signal = "false"))]
    fn load_state(&self) -> zbus::Result<String>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn active_state(&self) -> zbus::Result<String>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn sub_state(&self) -> zbus::Result<String>;
}

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Service",
    default_service = "org.freedesktop.systemd1",
    gen_blocking = false
)]
trait Service {
    #[zbus(property(emits_changed_signal = "false"), name = "MainPID")]
    fn main_pid(&self) -> zbus::Result<u32>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn result(&self) -> zbus::Result<String>;
    #[zbus(property(emits_changed_signal = "false"))]
    fn exec_main_status(&self) -> zbus::Result<i32>;
}

/// Restarts a unit. Takes as long as systemd does: the caller has the clock.
pub async fn restart(unit: &UnitName) -> ActOutcome {
    let connection = match connect().await {
        Ok(connection) => connection,
        Err(error) => {
            let hint = "is this a system with systemd, and may this user use its bus?";
            return ActOutcome::failed("no_systemd", format!("connect to the system bus: {error}; {hint}"));
        }
    };
    restart_over(&connection, unit)
        .await
        .unwrap_or_else(|error| ActOutcome::failed(word_of(&error), format!("restart {unit}: {error}")))
}

/// Tries for a while, at growing intervals.
async fn connect() -> zbus::Result<Connection> {
    let policy =
        backoff::ExponentialBackoff { max_elapsed_time: Some(BUS_RETRY_FOR), ..backoff::ExponentialBackoff::default() };
    let mut intervals = policy;
    loop {
        let error = match Connection::system().await {
            Ok(connection) => return Ok(connection),
            Err(error) => error,
        };
        // Where there is no bus at all, waiting won't bring one.
        let absent = matches!(&error, zbus::Error::InputOutput(error) if error.kind() == std::io::ErrorKind::NotFound);
        match backoff::backoff::Backoff::next_backoff(&mut intervals) {
            Some(wait) if !absent => sleep(wait).await,
            _ => return Err(error),
        }
    }
}

async fn restart_over(connection: &Connection, unit: &UnitName) -> zbus::Result<ActOutcome> {
    let systemd = SystemdProxy::new(connection).await?;
    let path = systemd.load_unit(unit.as_str()).await?;
    let state = UnitProxy::builder(connection).path(path.clone())?.build().await?;
    match state.load_state().await?.as_str() {
        "loaded" => {}
        "not-found" => return Ok(ActOutcome::failed("no_such_unit", format!("systemd knows no unit {unit}"))),
        other => return Ok(ActOutcome::failed("unit_not_loaded", format!("{unit} is {other}"))),
    }
    // Before the job is queued: it may be over before the answer is here.
    systemd.subscribe().await?;
    let mut removed = systemd.receive_job_removed().await?;
    let job = systemd.restart_unit(unit.as_str(), "replace").await?;
    let result = loop {
        let Some(signal) = removed.next().await else {
            return Ok(ActOutcome::failed("no_systemd", "the bus went away before the job was over"));
        };
        let args = signal.args()?;
        if args.job == job {
            break args.result.to_owned();
        }
    };
    if !matches!(result.as_str(), "done" | "failed") {
        return Ok(ActOutcome::failed("job_failed", format!("systemd's job to restart {unit} ended as {result}")));
    }
    settle(connection, unit, &path, &state).await
}

/// Waits until the unit is one or the other.
async fn settle(
    connection: &Connection,
    unit: &UnitName,
    path: &OwnedObjectPath,
    state: &UnitProxy<'_>,
) -> zbus::Result<ActOutcome> {
    loop {
        let active = state.active_state().await?;
        if matches!(active.as_str(), "active" | "failed" | "inactive") {
            let detail = describe(connection, unit, path, state, &active).await?;
            return Ok(if active == "active" {
                ActOutcome::succeeded(detail)
            } else {
                ActOutcome::failed("unit_failed", detail)
            });
        }
        sleep(LOOK_EVERY).await;
    }
}

async fn describe(
    connection: &Connection,
    unit: &UnitName,
    path: &OwnedObjectPath,
    state: &UnitProxy<'_>,
    active: &str,
) -> zbus::Result<String> {
    let sub = state.sub_state().await?;
    let service = ServiceProxy::builder(connection).path(path.clone())?.build().await?;
    // Only services have these: a timer or a socket is told of by its state alone.
    let more = match (active, service.main_pid().await, service.result().await, service.exec_main_status().await) {
        ("active", Ok(pid), ..) => format!(", pid {pid}"),
        (_, _, Ok(result), Ok(status)) => format!(", result {result}, exit status {status}"),
        _ => String::new(),
    };
    Ok(format!("{unit} is {active} ({sub}){more}"))
}

fn word_of(error: &zbus::Error) -> &'static str {
    match error {
        zbus::Error::MethodError(name, ..) if name.as_str().ends_with("AccessDenied") => "permission_denied",
        zbus::Error::MethodError(name, ..) if name.as_str().ends_with("InteractiveAuthorizationRequired") => {
            "permission_denied"
        }
        zbus::Error::MethodError(name, ..) if name.as_str().ends_with("NoSuchUnit") => "no_such_unit",
        zbus::Error::MethodError(..) => "systemd_refused",
        _ => "no_systemd",
    }
}
