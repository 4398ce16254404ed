//! Objects on the bus: their methods, and their properties (D-Bus Specification, org.freedesktop.DBus.Properties), each
//! of which is asked for when it is wanted. A proxy of zbus's brings a cache of all of them, and whoever tells it of
//! their changes: a hundred kB of program that nobody here would use.

use serde::{Serialize, Serializer};
use zbus::zvariant::{DynamicDeserialize, DynamicType, OwnedObjectPath, OwnedValue, Signature};
use zbus::zvariant::{Structure, StructureBuilder, Value};
use zbus::{Connection, Message};

const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// An object, seen by one of its interfaces.
#[derive(Debug)]
pub(crate) struct Object {
    connection: Connection,
    service: &'static str,
    path: OwnedObjectPath,
    interface: &'static str,
}

impl Object {
    pub(crate) fn new(
        connection: &Connection,
        service: &'static str,
        path: OwnedObjectPath,
        interface: &'static str,
    ) -> Self {
        Self { connection: connection.clone(), service, path, interface }
    }

    /// Calls a method. What it takes and answers is for the interface to say.
    pub(crate) async fn call<T>(&self, method: &'static str, args: Vec<Value<'_>>) -> zbus::Result<T>
    where
        T: for<'a> DynamicDeserialize<'a>,
    {
        self.ask(self.interface, method, args).await?.body().deserialize()
    }

    /// A property as it is now.
    pub(super) async fn get<T>(&self, property: &str) -> zbus::Result<T>
    where
        T: TryFrom<OwnedValue>,
        T::Error: Into<zbus::Error>,
    {
        T::try_from(self.value(property).await?).map_err(Into::into)
    }

    async fn value(&self, property: &str) -> zbus::Result<OwnedValue> {
        let names = vec![self.interface.into(), property.into()];
        self.ask(PROPERTIES, "Get", names).await?.body().deserialize()
    }

    async fn ask(&self, interface: &'static str, method: &'static str, args: Vec<Value<'_>>) -> zbus::Result<Message> {
        let args = args.into_iter().fold(StructureBuilder::new(), StructureBuilder::append_field);
        let body = Body(args.build().ok());
        self.connection.call_method(Some(self.service), self.path.as_ref(), Some(interface), method, &body).await
    }
}

/// What a method is passed: nothing, or a structure, which has one field at least. All calls have this type, as each
/// type would have code of its own.
struct Body<'a>(Option<Structure<'a>>);

impl DynamicType for Body<'_> {
    fn signature(&self) -> Signature {
        self.0.as_ref().map_or(Signature::Unit, DynamicType::signature)
    }
}

impl Serialize for Body<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            Some(args) => args.serialize(serializer),
            None => serializer.serialize_unit(),
        }
    }
}
