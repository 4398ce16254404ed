//! What ModemManager says of the modem that carries the default route (D-Bus API 1.0, org.freedesktop.ModemManager1):
//! one question a round, on a connection that stays, and no signal that would wake the agent between rounds. Only asked
//! where the route goes over a modem. Where there is no bus or no ModemManager, the gateway just doesn't have these
//! readings.
#![expect(clippy::disallowed_methods, reason = "another daemon's answer has a deadline")]
#![expect(clippy::disallowed_types, reason = "zbus hands properties over in them; their order is of no matter here")]

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use tokio::runtime::LocalRuntime;
use tokio::time::error::Elapsed;
use tokio::time::timeout;
use zbus::export::ordered_stream::OrderedStreamExt as _;
use zbus::fdo::ManagedObjects;
use zbus::message::{Flags, Type};
use zbus::names::OwnedInterfaceName;
use zbus::zvariant::serialized::{Context, Data};
use zbus::zvariant::{Dict, Endian, OwnedObjectPath, OwnedValue};
use zbus::{Connection, Message, MessageStream};

use super::printable;
use super::round::Round;
use crate::act::object::Object;
use crate::engine::metric::Metric;
use crate::engine::observation::Observation;
use crate::engine::time::Mono;
use crate::one_thread;

const SERVICE: &str = "org.freedesktop.ModemManager1";
const PATH: &str = "/org/freedesktop/ModemManager1";
const MODEM: &str = "org.freedesktop.ModemManager1.Modem";
const MODEM_3GPP: &str = "org.freedesktop.ModemManager1.Modem.Modem3gpp";
const SIGNAL: &str = "org.freedesktop.ModemManager1.Modem.Signal";

/// What a bus says of a name that nobody has: dbus-daemon, and dbus-broker.
const ABSENT: [&str; 2] = ["org.freedesktop.DBus.Error.NameHasNoOwner", "org.freedesktop.DBus.Error.ServiceUnknown"];
/// A round waits for no longer than this.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// Where it isn't there, or has failed, it is asked again after this.
const ABSENT_FOR: Duration = Duration::from_secs(60);
/// The same where it hung, the longer the oftener in a row: each time costs a round [`ANSWER_MAX`].
const HUNG_FOR_MIN: Duration = Duration::from_secs(60);
const HUNG_FOR_MAX: Duration = Duration::from_secs(600);
/// More modems than that in one gateway are not looked at.
const MODEMS_MAX: usize = 8;
/// How often ModemManager reads a modem's signal, once it is told to: by itself it doesn't.
const SIGNAL_RATE_S: u32 = 30;
const TEXT_CHARS_MAX: usize = 64;
/// `MMModemPortType`.
const PORT_NET: u32 = 2;

/// `MMModemAccessTechnology`, the newest first, in the words of mmcli(1).
const TECHNOLOGIES: [(u32, &str); 18] = [
    (15, "5gnr"),
    (14, "lte"),
    (16, "lte-cat-m"),
    (17, "lte-nb-iot"),
    (9, "hspa-plus"),
    (8, "hspa"),
    (7, "hsupa"),
    (6, "hsdpa"),
    (5, "umts"),
    (13, "evdob"),
    (12, "evdoa"),
    (11, "evdo0"),
    (10, "1xrtt"),
    (4, "edge"),
    (3, "gprs"),
    (2, "gsm-compact"),
    (1, "gsm"),
    (0, "pots"),
];

/// `MMModem3gppRegistrationState`, in its own words.
const REGISTRATIONS: [&str; 12] = [
    "idle",
    "home",
    "searching",
    "denied",
    "unknown",
    "roaming",
    "home-sms-only",
    "roaming-sms-only",
    "emergency-only",
    "home-csfb-not-preferred",
    "roaming-csfb-not-preferred",
    "attached-rlos",
];

/// What a signal can be: 3GPP TS 36.133 and 38.133, sections 9.1 and 10.1; below it the modem says that it doesn't
/// know.
const RSRP_DBM: (f64, f64) = (-156.0, -31.0);
const RSRQ_DB: (f64, f64) = (-43.0, 20.0);
const SINR_DB: (f64, f64) = (-23.0, 40.0);
const RSSI_DBM: (f64, f64) = (-125.0, 0.0);

/// What is kept from round to round.
#[derive(Debug, Default)]
pub(super) struct Modems {
    /// Where the connection lives. It only moves while a round waits for it.
    runtime: Option<LocalRuntime>,
    bus: Option<Connection>,
    not_before: Option<Mono>,
    /// How long it was left alone when it hung the last time it was asked.
    hung_for: Option<Duration>,
    asked: Asked,
}

/// The modem that was told to read its signal and doesn't do it yet, whether it may or not.
type Asked = Option<OwnedObjectPath>;

/// What is known of a modem.
#[derive(Debug, Default, PartialEq)]
struct Modem {
    technology: Option<&'static str>,
    operator: Option<String>,
    registration: Option<&'static str>,
    quality_pct: Option<u32>,
    rsrp_dbm: Option<f64>,
    rsrq_db: Option<f64>,
    sinr_db: Option<f64>,
    rssi_dbm: Option<f64>,
    /// Values that no radio can have.
    nonsense: Vec<String>,
}

type Properties = HashMap<String, OwnedValue>;
type Interfaces = HashMap<OwnedInterfaceName, Properties>;

impl Modems {
    /// Reads the modem of `interface`, which carries the default route.
    pub(super) fn collect(&mut self, now: Mono, interface: &str, round: &mut Round<'_>) {
        if self.not_before.is_some_and(|at| now < at) {
            return;
        }
        let runtime = match &self.runtime {
            Some(runtime) => runtime,
            None => match one_thread::runtime() {
                Ok(runtime) => self.runtime.insert(runtime),
                Err(error) => {
                    round.fault(SERVICE, error.to_string());
                    return;
                }
            },
        };
        let (bus, asked) = (&mut self.bus, &mut self.asked);
        let answer = runtime.block_on(async { timeout(ANSWER_MAX, read(bus, asked, interface)).await });
        self.tell(now, answer, round);
    }

    fn tell(&mut self, now: Mono, answer: Result<zbus::Result<Option<Modem>>, Elapsed>, round: &mut Round<'_>) {
        let hung_for = self.hung_for.take();
        let pause = match answer {
            Ok(Ok(Some(modem))) => return modem.tell(round),
            Ok(Ok(None)) => ABSENT_FOR,
            Ok(Err(error)) => {
                round.fault(SERVICE, error.to_string());
                ABSENT_FOR
            }
            Err(_) => {
                round.fault(SERVICE, format!("no answer within {ANSWER_MAX:?}"));
                *self.hung_for.insert(hung_for.map_or(HUNG_FOR_MIN, |last| HUNG_FOR_MAX.min(last * 2)))
            }
        };
        self.bus = None;
        self.not_before = Some(now.after(pause));
    }
}

/// `None` where there is no ModemManager, or none of its modems carries the interface.
async fn read(bus: &mut Option<Connection>, asked: &mut Asked, interface: &str) -> zbus::Result<Option<Modem>> {
    let bus = match bus {
        Some(bus) => bus,
        None => match Connection::system().await {
            Ok(connection) => bus.insert(connection),
            // No bus: a gateway without one has no ModemManager.
            Err(_) => return Ok(None),
        },
    };
    read_over(bus, asked, interface).await
}

async fn read_over(bus: &Connection, asked: &mut Asked, interface: &str) -> zbus::Result<Option<Modem>> {
    let objects = match managed_objects(bus).await {
        Ok(objects) => objects,
        Err(zbus::Error::MethodError(name, ..)) if ABSENT.contains(&name.as_str()) => return Ok(None),
        Err(error) => return Err(error),
    };
    let Some(found) = find(objects, interface) else { return Ok(None) };
    if !found.is_asleep {
        // When ModemManager has been restarted its modem sleeps again, under the same path.
        *asked = None;
    } else if asked.as_ref() != Some(&found.path) {
        let signal = Object::new(bus, SERVICE, found.path.clone(), SIGNAL);
        // It may be forbidden to this user (polkit): then there is the quality alone.
        if let Err(error) = signal.call::<()>("Setup", vec![SIGNAL_RATE_S.into()]).await {
            tracing::info!("ModemManager does not let the agent ask for signal values: {error}");
        }
        *asked = Some(found.path);
    }
    Ok(Some(found.modem))
}

/// All that ModemManager has. One that isn't there must not be started by the question, and only a proxy of zbus's,
/// which nothing else here needs, asks so by itself.
async fn managed_objects(bus: &Connection) -> zbus::Result<ManagedObjects> {
    let question = Message::method_call(PATH, "GetManagedObjects")?
        .destination(SERVICE)?
        .interface("org.freedesktop.DBus.ObjectManager")?
        .with_flags(Flags::NoAutoStart)?
        .build(&())?;
    let serial = question.primary_header().serial_num();
    // From before it is sent: the answer may be there at once.
    let mut messages = MessageStream::from(bus);
    bus.send(&question).await?;
    while let Some(message) = messages.next().await {
        let message = message?;
        if message.header().reply_serial() == Some(serial) {
            return if message.message_type() == Type::Error {
                Err(message.into())
            } else {
                message.body().deserialize()
            };
        }
    }
    Err(zbus::Error::Failure("the bus went away before it answered".into()))
}

/// The modem of an interface.
struct Found {
    path: OwnedObjectPath,
    modem: Modem,
    /// Nobody has told it to read its signal.
    is_asleep: bool,
}

fn find(objects: ManagedObjects, interface: &str) -> Option<Found> {
    let mut objects: Vec<_> = objects.into_iter().collect();
    objects.sort_unstable_by(|(a, _), (b, _)| a.as_str().cmp(b.as_str()));
    objects.truncate(MODEMS_MAX);
    let modems: Vec<_> =
        objects.iter().filter_map(|(path, interfaces)| Some((path, of(interfaces, MODEM)?, interfaces))).collect();
    let carries = |modem: &Properties| {
        let ports = modem.get("Ports").and_then(|ports| Vec::<(String, u32)>::try_from(ports.clone()).ok());
        ports.unwrap_or_default().iter().any(|(name, kind)| *kind == PORT_NET && name == interface)
    };
    // A ppp interface is none of the modem's ports: there it is the only modem's. Any other that no modem has is that
    // of one that is gone for now, and the one that is left is another.
    let only = if interface.starts_with("ppp") && modems.len() == 1 { modems.first() } else { None };
    let (path, modem, interfaces) = modems.iter().find(|(_, modem, _)| carries(modem)).or(only)?;
    let none = Properties::new();
    let signal = of(interfaces, SIGNAL).unwrap_or(&none);
    Some(Found {
        path: (*path).clone(),
        modem: Modem::of(modem, of(interfaces, MODEM_3GPP).unwrap_or(&none), signal),
        is_asleep: signal.get("Rate").and_then(|rate| u32::try_from(rate).ok()) == Some(0),
    })
}

/// What is told of the modem of `wwan0` where this is the body of ModemManager's answer (a{oa{sa{sv}}}, little endian).
pub(crate) fn of_answer(body: &[u8]) -> Observation {
    let mut round = Round::new(Path::new("/"));
    let data = Data::new(body, Context::new_dbus(Endian::Little, 0));
    if let Ok((objects, _)) = data.deserialize::<ManagedObjects>() {
        if let Some(found) = find(objects, "wwan0") {
            found.modem.tell(&mut round);
        }
    }
    round.finish()
}

/// The properties of one of an object's interfaces.
fn of<'a>(interfaces: &'a Interfaces, name: &str) -> Option<&'a Properties> {
    interfaces.iter().find(|(known, _)| known.as_str() == name).map(|(_, properties)| properties)
}

impl Modem {
    fn of(modem: &Properties, network: &Properties, signal: &Properties) -> Self {
        let number = |properties: &Properties, name: &str| properties.get(name).and_then(|it| u32::try_from(it).ok());
        let bits = number(modem, "AccessTechnologies").unwrap_or(0);
        let mut this = Self {
            technology: TECHNOLOGIES.iter().find(|(bit, _)| bits & (1 << bit) != 0).map(|(_, word)| *word),
            operator: ["OperatorName", "OperatorCode"].iter().find_map(|name| text(network.get(*name)?)),
            registration: number(network, "RegistrationState")
                .and_then(|state| REGISTRATIONS.get(usize::try_from(state).ok()?))
                .copied(),
            quality_pct: modem
                .get("SignalQuality")
                .and_then(|quality| <(u32, bool)>::try_from(quality.clone()).ok())
                // That of a modem that is disabled, or has only just come up, is 0 and not recent.
                .filter(|(percent, is_recent)| *percent <= 100 && (*percent > 0 || *is_recent))
                .map(|(percent, _)| percent),
            ..Self::default()
        };
        // Each technology has a dictionary of its own; those that are not in use are empty.
        for technology in ["Nr5g", "Lte", "Umts", "Gsm"] {
            let Some(values) = signal.get(technology).and_then(|values| values.downcast_ref::<Dict<'_, '_>>().ok())
            else {
                continue;
            };
            let nonsense = &mut this.nonsense;
            let mut value =
                |name: &str, known: &mut Option<f64>, (least, most): (f64, f64)| match values.get::<&str, f64>(&name) {
                    Ok(Some(value)) if (least..=most).contains(&value) => *known = known.or(Some(value)),
                    Ok(Some(value)) => nonsense.push(format!("{technology} {name} {value}: not in {least} to {most}")),
                    _ => {}
                };
            value("rsrp", &mut this.rsrp_dbm, RSRP_DBM);
            value("rsrq", &mut this.rsrq_db, RSRQ_DB);
            value("snr", &mut this.sinr_db, SINR_DB);
            value("rssi", &mut this.rssi_dbm, RSSI_DBM);
        }
        this
    }

    fn tell(self, round: &mut Round<'_>) {
        for what in self.nonsense {
            round.fault(SIGNAL, what);
        }
        round.reading(Metric::LinkRat, Ok(self.technology));
        round.reading(Metric::LinkOperator, Ok(self.operator.as_deref()));
        round.reading(Metric::LinkRegistration, Ok(self.registration));
        round.reading(Metric::LinkSignalQuality, Ok(self.quality_pct.map(f64::from)));
        round.reading(Metric::LinkRsrp, Ok(self.rsrp_dbm));
        round.reading(Metric::LinkRsrq, Ok(self.rsrq_db));
        round.reading(Metric::LinkSinr, Ok(self.sinr_db));
        round.reading(Metric::LinkRssi, Ok(self.rssi_dbm));
    }
}

/// A name that the network gave.
fn text(value: &OwnedValue) -> Option<String> {
    let text = printable(<&str>::try_from(value).ok()?, TEXT_CHARS_MAX);
    (!text.trim().is_empty()).then(|| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixStream;
    use zbus::connection::Builder;
    use zbus::fdo::ObjectManager;
    use zbus::zvariant::Value;

    use super::*;

    /// A modem as ModemManager shows it.
    struct FakeModem {
        port: &'static str,
        quality: (u32, bool),
    }

    #[zbus::interface(name = "org.freedesktop.ModemManager1.Modem")]
    impl FakeModem {
        #[zbus(property)]
        fn ports(&self) -> Vec<(String, u32)> {
            vec![("cdc-wdm0".to_owned(), 6), (self.port.to_owned(), PORT_NET)]
        }

        #[zbus(property)]
        fn access_technologies(&self) -> u32 {
            1 << 14 | 1 << 5
        }

        #[zbus(property)]
        fn signal_quality(&self) -> (u32, bool) {
            self.quality
        }
    }

    struct Fake3gpp {
        operator: &'static str,
    }

    #[zbus::interface(name = "org.freedesktop.ModemManager1.Modem.Modem3gpp")]
    impl Fake3gpp {
        #[zbus(property)]
        fn operator_name(&self) -> String {
            self.operator.to_owned()
        }

        #[zbus(property)]
        fn operator_code(&self) -> String {
            "26201".to_owned()
        }

        #[zbus(property)]
        fn registration_state(&self) -> u32 {
            5
        }
    }

    /// Without a rate it knows nothing of its signal.
    struct FakeSignal {
        rate: u32,
        rsrp: f64,
    }

    type Signals = HashMap<String, Value<'static>>;

    #[zbus::interface(name = "org.freedesktop.ModemManager1.Modem.Signal")]
    impl FakeSignal {
        fn setup(&mut self, rate: u32) {
            self.rate = rate;
        }

        #[zbus(property)]
        fn rate(&self) -> u32 {
            self.rate
        }

        #[zbus(property)]
        fn lte(&self) -> Signals {
            let values = [("rsrp", self.rsrp), ("rsrq", -11.0), ("snr", 12.4), ("rssi", -67.0)];
            let values = values.map(|(name, value)| (name.to_owned(), Value::from(value)));
            if self.rate == 0 { Signals::new() } else { values.into() }
        }

        #[zbus(property)]
        fn gsm(&self) -> Signals {
            Signals::new()
        }
    }

    /// The end of a wire whose other end is a ModemManager with these modems.
    async fn manager(modems: &[(&'static str, &'static str, f64)]) -> (Connection, Connection) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut server = Builder::unix_stream(theirs).server(zbus::Guid::generate()).unwrap().p2p();
        server = server.serve_at(PATH, ObjectManager).unwrap();
        for (n, (port, operator, rsrp)) in modems.iter().copied().enumerate() {
            let path = format!("{PATH}/Modem/{n}");
            server = server.serve_at(path.clone(), FakeModem { port, quality: (71, true) }).unwrap();
            server = server.serve_at(path.clone(), Fake3gpp { operator }).unwrap();
            server = server.serve_at(path, FakeSignal { rate: 0, rsrp }).unwrap();
        }
        let client = Builder::unix_stream(ours).p2p().build();
        let (server, client) = tokio::join!(server.build(), client);
        (server.unwrap(), client.unwrap())
    }

    #[tokio::test]
    async fn the_modem_of_the_interface_is_asked_to_read_its_signal_once_and_then_read() {
        let (server, client) = manager(&[("wwan0", "Other", -90.0), ("wwan1", "Field Mobile", -98.0)]).await;
        let mut asked: Asked = None;
        let first = read_over(&client, &mut asked, "wwan1").await.unwrap().unwrap();
        assert_eq!((first.technology, first.registration), (Some("lte"), Some("roaming")));
        assert_eq!((first.operator.as_deref(), first.quality_pct), (Some("Field Mobile"), Some(71)));
        assert_eq!(first.rsrp_dbm, None, "it has not read its signal yet");
        let ours = format!("{PATH}/Modem/1");
        assert_eq!(asked.as_ref().unwrap().as_str(), ours, "the other modem is not ours to set up");
        let second = read_over(&client, &mut asked, "wwan1").await.unwrap().unwrap();
        let signal = (second.rsrp_dbm, second.rsrq_db, second.sinr_db, second.rssi_dbm);
        assert_eq!(signal, (Some(-98.0), Some(-11.0), Some(12.4), Some(-67.0)));

        let restarted = server.object_server().interface::<_, FakeSignal>(ours).await.unwrap();
        restarted.get_mut().await.rate = 0;
        read_over(&client, &mut asked, "wwan1").await.unwrap();
        let third = read_over(&client, &mut asked, "wwan1").await.unwrap().unwrap();
        assert_eq!(third.rsrp_dbm, Some(-98.0), "it is asked again after ModemManager was restarted");

        let mut asked: Asked = None;
        assert_eq!(read_over(&client, &mut asked, "ppp0").await.unwrap(), None, "which of the two can't be told");
    }

    #[tokio::test]
    async fn a_modem_that_is_gone_is_not_told_as_the_one_that_is_left_and_a_quality_of_none_not_as_zero() {
        let (server, client) = manager(&[("wwan0", "Other", -90.0)]).await;
        let mut asked: Asked = None;
        assert_eq!(read_over(&client, &mut asked, "wwan1").await.unwrap(), None, "wwan0's operator and signal");
        assert_eq!(asked, None, "the other modem is not ours to set up");

        let modem = server.object_server().interface::<_, FakeModem>(format!("{PATH}/Modem/0")).await.unwrap();
        for (quality, told) in [((0, false), None), ((0, true), Some(0)), ((71, false), Some(71)), ((101, true), None)]
        {
            modem.get_mut().await.quality = quality;
            let found = read_over(&client, &mut asked, "wwan0").await.unwrap().unwrap();
            assert_eq!(found.quality_pct, told, "{quality:?}");
        }
    }

    #[tokio::test]
    async fn one_that_hangs_is_asked_again_soon_and_later_each_time() {
        let mut modems = Modems::default();
        let mut now = Mono(0);
        let mut pauses = Vec::new();
        for is_hung in [true, true, true, true, true, true, false, true] {
            let hung = timeout(Duration::ZERO, std::future::pending()).await;
            let answer = if is_hung { hung } else { Ok(Ok(Some(Modem::default()))) };
            modems.tell(now, answer, &mut Round::new(Path::new("/")));
            let at = modems.not_before.take().unwrap_or(now);
            pauses.push(at.since(now).as_secs());
            now = at;
        }
        assert_eq!(pauses, [60, 120, 240, 480, 600, 600, 0, 60]);
    }

    #[tokio::test]
    async fn the_only_modem_is_that_of_a_ppp_link_and_nonsense_is_a_fault() {
        let (_server, client) = manager(&[("ttyUSB2", "\u{1b}[2JEvil\n", -32_768.0)]).await;
        let mut asked: Asked = None;
        read_over(&client, &mut asked, "ppp0").await.unwrap();
        let modem = read_over(&client, &mut asked, "ppp0").await.unwrap().unwrap();
        assert_eq!((modem.rsrp_dbm, modem.rsrq_db), (None, Some(-11.0)));
        assert_eq!(modem.operator.as_deref(), Some("[2JEvil"), "a terminal must not obey the network");
        let mut round = Round::new(Path::new("/"));
        modem.tell(&mut round);
        let observation = round.finish();
        assert_eq!(observation.faults.len(), 1, "{:?}", observation.faults);
        let told: Vec<Metric> = observation.points.iter().map(|point| point.metric).collect();
        assert!(told.contains(&Metric::LinkSinr) && !told.contains(&Metric::LinkRsrp), "{told:?}");
    }
}
