//! Objects on the bus, by their properties (D-Bus Specification, org.freedesktop.DBus.Properties), each of which is
//! asked for when it is wanted. A proxy of zbus's asks for all of them, keeps them and has their changes told.

use zbus::Connection;
use zbus::zvariant::{OwnedObjectPath, OwnedValue};

const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// An object, seen by one of its interfaces.
#[derive(Debug)]
pub(super) struct Object {
    connection: Connection,
    service: &'static str,
    path: OwnedObjectPath,
    interface: &'static str,
}

impl Object {
    pub(super) fn new(
        connection: &Connection,
        service: &'static str,
        path: OwnedObjectPath,
        interface: &'static str,
    ) -> Self {
        Self { connection: connection.clone(), service, path, interface }
    }

    /// A property as it is now.
    pub(super) async fn get<T>(&self, property: &str) -> zbus::Result<T>
    where
        T: TryFrom<OwnedValue>,
        T::Error: Into<zbus::Error>,
    {
        T::try_from(self.ask(property).await?).map_err(Into::into)
    }

    async fn ask(&self, property: &str) -> zbus::Result<OwnedValue> {
        let names = (self.interface, property);
        let path = self.path.as_ref();
        let reply = self.connection.call_method(Some(self.service), path, Some(PROPERTIES), "Get", &names).await?;
        let body = reply.body();
        body.deserialize()
    }
}
