//! NetworkManager's way of restarting an interface (D-Bus API 1.0, org.freedesktop.NetworkManager): its connection is
//! activated anew, in one step, so that there is nothing that could leave it down. What NetworkManager isn't there for,
//! or doesn't manage, is left to others.

#![expect(clippy::disallowed_methods, reason = "a device needs time to be active")]

use std::time::Duration;

use tokio::time::{sleep, timeout};
use zbus::Connection;
use zbus::zvariant::{ObjectPath, OwnedObjectPath};

use crate::act::object::Object;
use crate::act::systemd::{connect, is_unanswered};
use crate::engine::io::{ActOutcome, Ending};

const MANAGER: &str = "org.freedesktop.NetworkManager";
const ACTIVE: &str = "org.freedesktop.NetworkManager.Connection.Active";
/// `NMDeviceState`: it is managed from here on.
const STATE_UNAVAILABLE: u32 = 20;
const STATE_ACTIVATED: u32 = 100;
const STATE_FAILED: u32 = 120;
/// `NMDeviceType`.
const TYPE_MODEM: u32 = 8;
/// As many devices are looked at to find a modem among them.
const DEVICES_MAX: usize = 64;
/// How long it may take to be active: DHCP, or a modem's registration.
const ACTIVE_MAX: Duration = Duration::from_secs(60);
/// How often it is looked at meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// A device that NetworkManager manages.
pub(super) struct Managed {
    connection: Connection,
    device: OwnedObjectPath,
}

/// The device of an interface, which is a modem's or not; `None` where NetworkManager doesn't manage it.
///
/// # Errors
/// There may be a NetworkManager that has it, and it doesn't answer.
pub(super) async fn find(interface: &str, is_modems: bool) -> zbus::Result<Option<Managed>> {
    match connect().await {
        Ok(connection) => find_over(connection, interface, is_modems).await,
        // Where there is no bus there is no NetworkManager.
        Err(zbus::Error::InputOutput(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn find_over(connection: Connection, interface: &str, is_modems: bool) -> zbus::Result<Option<Managed>> {
    let manager = manager(&connection);
    let mut found = unless_refused(manager.call("GetDeviceByIpIface", vec![interface.into()]).await)?;
    // A modem has its interface only while it is connected: the one that is to be restarted may be one that is not.
    if found.is_none() && is_modems {
        found = modem(&connection, &manager, interface).await?;
    }
    let Some(device) = found else { return Ok(None) };
    let state = device_at(&connection, device.clone()).get::<u32>("State").await;
    let is_managed = unless_refused(state)?.is_some_and(|state| state >= STATE_UNAVAILABLE);
    Ok(is_managed.then_some(Managed { connection, device }))
}

fn manager(connection: &Connection) -> Object {
    let path = ObjectPath::from_static_str_unchecked("/org/freedesktop/NetworkManager");
    Object::new(connection, MANAGER, path.into(), MANAGER)
}

fn device_at(connection: &Connection, path: OwnedObjectPath) -> Object {
    Object::new(connection, MANAGER, path, "org.freedesktop.NetworkManager.Device")
}

/// The only modem that NetworkManager has, or the one whose control port is called after the interface.
async fn modem(connection: &Connection, manager: &Object, interface: &str) -> zbus::Result<Option<OwnedObjectPath>> {
    let mut modems = Vec::new();
    let devices: Option<Vec<OwnedObjectPath>> = unless_refused(manager.call("GetDevices", vec![]).await)?;
    for path in devices.into_iter().flatten().take(DEVICES_MAX) {
        let device = device_at(connection, path.clone());
        // One that has gone meanwhile is none.
        if unless_refused(device.get("DeviceType").await)? == Some(TYPE_MODEM) {
            modems.extend(unless_refused(device.get::<String>("Interface").await)?.map(|port| (path, port)));
        }
    }
    // wwan0qmi0 is wwan0's, and wwan10qmi0 not wwan1's.
    let is_its = |port: &str| port.strip_prefix(interface).is_some_and(|rest| !rest.starts_with(char::is_numeric));
    let its = modems.iter().position(|(_, port)| is_its(port)).or((modems.len() == 1).then_some(0));
    Ok(its.map(|index| modems.swap_remove(index).0))
}

/// `None` where there is nobody to ask, or nothing that was asked for. No answer at all is an error.
fn unless_refused<T>(answer: zbus::Result<T>) -> zbus::Result<Option<T>> {
    let is_refusal = |error: &zbus::Error| matches!(error, zbus::Error::MethodError(..)) && !is_unanswered(error);
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if is_refusal(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

impl Managed {
    /// Restarts it, and tells when that is under way, which nobody need wait for. What goes wrong is `link_down`.
    pub(super) async fn activate(&self, interface: &str, under_way: impl FnOnce()) -> ActOutcome {
        match activate(&self.connection, &self.device, under_way).await {
            Ok(STATE_ACTIVATED) => ActOutcome::succeeded(format!("NetworkManager has activated {interface} anew")),
            Ok(state) => {
                ActOutcome::failed(Ending::LinkDown, format!("NetworkManager: {interface} is in state {state}"))
            }
            Err(error) => {
                ActOutcome::failed(Ending::LinkDown, format!("NetworkManager: activate {interface}: {error}"))
            }
        }
    }
}

/// Activates what is active on the device, or whatever fits it; the state that it is in then.
async fn activate(connection: &Connection, path: &OwnedObjectPath, under_way: impl FnOnce()) -> zbus::Result<u32> {
    let any = ObjectPath::from_static_str_unchecked("/");
    let device = device_at(connection, path.clone());
    let active: OwnedObjectPath = device.get("ActiveConnection").await?;
    let profile = match active.as_str() {
        "/" => active,
        _ => Object::new(connection, MANAGER, active, ACTIVE).get("Connection").await?,
    };
    let args = vec![profile.into(), path.as_ref().into(), any.into()];
    manager(connection).call::<OwnedObjectPath>("ActivateConnection", args).await?;
    under_way();
    let settled = async {
        loop {
            let state = device.get::<u32>("State").await?;
            if matches!(state, STATE_ACTIVATED | STATE_FAILED) {
                return Ok(state);
            }
            sleep(LOOK_EVERY).await;
        }
    };
    match timeout(ACTIVE_MAX, settled).await {
        Ok(state) => state,
        Err(_) => device.get("State").await,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_types, reason = "the code that zbus makes of an interface holds a HashMap")]

    use std::sync::{Arc, Mutex};

    use tokio::net::UnixStream;
    use zbus::connection::Builder;

    use super::*;
    use crate::engine::io::ActStatus;

    const DEVICE: &str = "/org/freedesktop/NetworkManager/Devices/2";
    /// One that nobody knows of any more when it is asked for.
    const GONE: &str = "/org/freedesktop/NetworkManager/Devices/3";
    const MODEMS: &str = "/org/freedesktop/NetworkManager/Modems";
    const ACTIVE: &str = "/org/freedesktop/NetworkManager/ActiveConnection/1";
    const PROFILE: &str = "/org/freedesktop/NetworkManager/Settings/7";

    /// What is played: the device's states, one look after the other, the last of which stays; and what was asked for.
    #[derive(Clone)]
    struct Played {
        states: Arc<Mutex<Vec<u32>>>,
        active: &'static str,
        /// The control ports of modems that have lost their connection, and with it their interface.
        ports: Vec<&'static str>,
        /// Instead of its devices.
        refusal: fn(String) -> zbus::fdo::Error,
        activated: Arc<Mutex<Vec<[String; 3]>>>,
    }

    impl Played {
        fn next_state(&self) -> u32 {
            let mut states = self.states.lock().unwrap();
            if states.len() > 1 { states.remove(0) } else { states[0] }
        }
    }

    struct Manager(Played);
    struct Device(Played);
    struct Modem(Played, &'static str);
    struct Active;

    fn path(text: &str) -> OwnedObjectPath {
        text.try_into().unwrap()
    }

    #[zbus::interface(name = "org.freedesktop.NetworkManager")]
    impl Manager {
        fn get_device_by_ip_iface(&self, iface: &str) -> zbus::fdo::Result<OwnedObjectPath> {
            let is_known = iface == "wwan0" && self.0.ports.is_empty();
            if is_known { Ok(path(DEVICE)) } else { Err((self.0.refusal)("no device".into())) }
        }

        fn get_devices(&self) -> Vec<OwnedObjectPath> {
            let modems = self.0.ports.iter().map(|port| path(&format!("{MODEMS}/{port}")));
            [path(DEVICE), path(GONE)].into_iter().chain(modems).collect()
        }

        fn activate_connection(
            &self,
            connection: ObjectPath<'_>,
            device: ObjectPath<'_>,
            specific: ObjectPath<'_>,
        ) -> OwnedObjectPath {
            let asked = [connection, device, specific].map(|path| path.to_string());
            self.0.activated.lock().unwrap().push(asked);
            path(ACTIVE)
        }
    }

    #[zbus::interface(name = "org.freedesktop.NetworkManager.Device")]
    impl Device {
        #[zbus(property)]
        fn state(&self) -> u32 {
            self.0.next_state()
        }

        #[zbus(property)]
        fn active_connection(&self) -> OwnedObjectPath {
            path(self.0.active)
        }

        /// `NM_DEVICE_TYPE_ETHERNET`.
        #[zbus(property)]
        fn device_type(&self) -> u32 {
            1
        }
    }

    #[zbus::interface(name = "org.freedesktop.NetworkManager.Device")]
    impl Modem {
        #[zbus(property)]
        fn state(&self) -> u32 {
            self.0.next_state()
        }

        #[zbus(property)]
        fn active_connection(&self) -> OwnedObjectPath {
            path(self.0.active)
        }

        #[zbus(property)]
        fn device_type(&self) -> u32 {
            TYPE_MODEM
        }

        #[zbus(property)]
        fn interface(&self) -> &str {
            self.1
        }
    }

    #[zbus::interface(name = "org.freedesktop.NetworkManager.Connection.Active")]
    impl Active {
        #[zbus(property)]
        fn connection(&self) -> OwnedObjectPath {
            path(PROFILE)
        }
    }

    async fn play(interface: &str, states: &[u32], active: &'static str) -> (Option<ActOutcome>, Vec<[String; 3]>) {
        play_modems(&[], interface, states, active).await
    }

    async fn play_modems(
        ports: &[&'static str],
        interface: &str,
        states: &[u32],
        active: &'static str,
    ) -> (Option<ActOutcome>, Vec<[String; 3]>) {
        let played = Played {
            states: Arc::new(Mutex::new(states.to_vec())),
            active,
            ports: ports.to_vec(),
            refusal: zbus::fdo::Error::Failed,
            activated: Arc::default(),
        };
        let (_server, found) = find_with(&played, interface).await;
        let outcome = match found.unwrap() {
            Some(managed) => Some(managed.activate(interface, || ()).await),
            None => None,
        };
        let activated = played.activated.lock().unwrap().clone();
        (outcome, activated)
    }

    /// Who plays it, and what is found.
    async fn find_with(played: &Played, interface: &str) -> (Connection, zbus::Result<Option<Managed>>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let server = Builder::unix_stream(theirs)
            .server(zbus::Guid::generate())
            .unwrap()
            .p2p()
            .serve_at("/org/freedesktop/NetworkManager", Manager(played.clone()))
            .unwrap()
            .serve_at(DEVICE, Device(played.clone()))
            .unwrap()
            .serve_at(ACTIVE, Active)
            .unwrap()
            .build();
        let client = Builder::unix_stream(ours).p2p().build();
        let (server, client) = tokio::try_join!(server, client).unwrap();
        for port in &played.ports {
            let modem = Modem(played.clone(), port);
            server.object_server().at(format!("{MODEMS}/{port}"), modem).await.unwrap();
        }
        let found = find_over(client, interface, interface.starts_with("wwan")).await;
        (server, found)
    }

    #[tokio::test]
    async fn what_is_active_is_activated_anew_and_waited_for() {
        let (outcome, activated) = play("wwan0", &[100, 40, 50, 70, 100], ACTIVE).await;
        assert_eq!(outcome.unwrap().status, ActStatus::Succeeded);
        assert_eq!(activated, [[PROFILE, DEVICE, "/"].map(str::to_owned)]);
    }

    #[tokio::test]
    async fn where_nothing_is_active_it_chooses_and_its_failure_is_ours() {
        let (outcome, activated) = play("wwan0", &[30, 40, 120], "/").await;
        assert_eq!(outcome.unwrap().reason.as_deref(), Some("link_down"));
        assert_eq!(activated, [["/", DEVICE, "/"].map(str::to_owned)]);
    }

    #[tokio::test]
    async fn a_modem_that_has_lost_its_connection_is_found_without_its_interface() {
        for (ports, found) in [
            (&["cdc_wdm0"][..], Some("cdc_wdm0")),
            (&["wwan10qmi0", "wwan1qmi0"], Some("wwan1qmi0")),
            (&["cdc_wdm0", "cdc_wdm1"], None),
        ] {
            let (outcome, activated) = play_modems(ports, "wwan1", &[30, 40, 100], "/").await;
            assert_eq!(outcome.map(|outcome| outcome.status), found.map(|_| ActStatus::Succeeded), "{ports:?}");
            let expected = found.map(|port| ["/", &format!("{MODEMS}/{port}"), "/"].map(str::to_owned));
            assert_eq!(activated, expected.into_iter().collect::<Vec<_>>(), "{ports:?}");
        }
        assert_eq!(play_modems(&["cdc_wdm0"], "eth9", &[100], "/").await, (None, vec![]));
    }

    #[tokio::test]
    async fn what_it_does_not_manage_is_left_to_others() {
        assert_eq!(play("wwan0", &[10], ACTIVE).await, (None, vec![]));
        assert_eq!(play("eth9", &[100], ACTIVE).await, (None, vec![]));
    }

    #[tokio::test]
    async fn whether_it_manages_an_interface_is_not_known_where_it_does_not_answer() {
        for (refusal, is_known) in [
            (zbus::fdo::Error::ServiceUnknown as fn(String) -> zbus::fdo::Error, true),
            (zbus::fdo::Error::NoReply, false),
        ] {
            let states = Arc::new(Mutex::new(vec![STATE_ACTIVATED]));
            let played = Played { states, active: ACTIVE, ports: vec![], refusal, activated: Arc::default() };
            let (_server, found) = find_with(&played, "eth9").await;
            assert_eq!(found.is_ok_and(|found| found.is_none()), is_known);
        }
    }
}
