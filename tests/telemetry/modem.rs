//! A ModemManager (D-Bus API 1.0) with one modem, on a bus of the test's own.
#![expect(clippy::disallowed_types, reason = "zbus hands properties over in what is banned for the agent")]

use tokio::runtime::Runtime;
use zbus::connection::{Builder, Connection};
use zbus::fdo::ObjectManager;

use super::common::Bus;

const PATH: &str = "/org/freedesktop/ModemManager1";

pub(crate) struct ModemManager {
    _connection: Connection,
    _runtime: Runtime,
}

impl ModemManager {
    pub(crate) fn on(bus: &Bus) -> Self {
        let runtime = Runtime::new().unwrap();
        let connection = runtime.block_on(async {
            let builder = Builder::address(bus.address()).unwrap().serve_at(PATH, ObjectManager).unwrap();
            let builder = builder.serve_at(format!("{PATH}/Modem/0"), Modem).unwrap();
            builder.name("org.freedesktop.ModemManager1").unwrap().build().await.unwrap()
        });
        Self { _connection: connection, _runtime: runtime }
    }
}

struct Modem;

#[zbus::interface(name = "org.freedesktop.ModemManager1.Modem")]
impl Modem {
    /// Of type 2: MM_MODEM_PORT_TYPE_NET.
    #[zbus(property)]
    fn ports(&self) -> Vec<(String, u32)> {
        vec![("wwan0".to_owned(), 2)]
    }

    /// MM_MODEM_ACCESS_TECHNOLOGY_5GNR, and the LTE that it is anchored to.
    #[zbus(property)]
    fn access_technologies(&self) -> u32 {
        1 << 15 | 1 << 14
    }

    #[zbus(property)]
    fn signal_quality(&self) -> (u32, bool) {
        (64, true)
    }
}
