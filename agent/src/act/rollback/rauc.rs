//! RAUC's slots, over its D-Bus interface (de.pengutronix.rauc.Installer, docs "D-Bus API"). Going back is to mark the
//! other slot active and the booted one bad, and only where the other one is good: the next boot is the other one's.
//! Reboots nothing itself.

use std::collections::BTreeMap;

use zbus::Connection;
use zbus::zvariant::{ObjectPath, OwnedValue};

use crate::act::object::Object;
use crate::act::systemd::connect;
use crate::engine::io::{ActOutcome, Ending};
use crate::wire::Reason;

/// Each slot's name, and what RAUC says of it.
type Slots = Vec<(String, BTreeMap<String, OwnedValue>)>;

/// A slot, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Slot {
    name: String,
    class: String,
    booted: bool,
    good: bool,
    /// It can be booted at all: a slot of data can't.
    bootable: bool,
    version: Option<String>,
}

impl Slot {
    fn new(name: String, status: &BTreeMap<String, OwnedValue>) -> Self {
        let text = |key: &str| status.get(key).and_then(|value| <&str>::try_from(value).ok()).map(str::to_owned);
        Self {
            name,
            class: text("class").unwrap_or_default(),
            booted: text("state").as_deref() == Some("booted"),
            good: text("boot-status").as_deref() == Some("good"),
            bootable: text("bootname").is_some_and(|name| !name.is_empty()),
            version: text("bundle.version"),
        }
    }

    fn is(&self, wanted: &str) -> bool {
        self.name == wanted || self.version.as_deref() == Some(wanted)
    }
}

/// Makes the other slot the next boot's. What goes wrong is `no_other_release`, `no_such_release` or `rollback_failed`.
pub(super) async fn rollback(to: Option<&str>) -> ActOutcome {
    match connect().await {
        Ok(connection) => rollback_over(&connection, to).await,
        Err(error) => failed("connect to the system bus", &error),
    }
}

/// Marks the booted slot as good.
pub(super) async fn mark_good() -> ActOutcome {
    match connect().await {
        Ok(connection) => mark_good_over(&connection).await,
        Err(error) => failed("connect to the system bus", &error),
    }
}

async fn rollback_over(connection: &Connection, to: Option<&str>) -> ActOutcome {
    let rauc = installer(connection);
    let slots: Slots = match rauc.call("GetSlotStatus", vec![]).await {
        Ok(slots) => slots,
        Err(error) => return failed("ask RAUC for its slots", &error),
    };
    let slots: Vec<Slot> = slots.into_iter().map(|(name, status)| Slot::new(name, &status)).collect();
    let other = match other(&slots, to) {
        Ok(other) => other,
        Err(refusal) => return refusal,
    };
    // In this order: what is cut off in between boots the other one, or what it would have booted anyway.
    if let Err(error) = mark(&rauc, "active", &other.name).await {
        return failed(&format!("mark {} as active", other.name), &error);
    }
    let trouble = match mark(&rauc, "bad", "booted").await {
        Ok(_) => String::new(),
        Err(error) => format!("; the booted one could not be marked bad: {error}"),
    };
    let version = other.version.as_deref().unwrap_or("unknown");
    let detail = format!("the next boot is {}'s, release {version}{trouble}", other.name);
    ActOutcome::succeeded(detail).but(Reason::NeedsReboot)
}

/// The slot to go to; or why there is none.
fn other<'a>(slots: &'a [Slot], to: Option<&str>) -> Result<&'a Slot, ActOutcome> {
    let none = |ending, detail: &str| Err(ActOutcome::failed(ending, detail));
    let Some(booted) = slots.iter().find(|slot| slot.booted) else {
        return none(Ending::NoCurrentRelease, "RAUC doesn't know which slot is booted");
    };
    let others = slots.iter().filter(|slot| slot.bootable && !slot.booted && slot.class == booted.class);
    // Where there are several, a good one.
    let wanted = others.filter(|slot| to.is_none_or(|to| slot.is(to))).max_by_key(|slot| slot.good);
    let Some(other) = wanted else {
        return match to {
            Some(to) => {
                none(Ending::NoSuchRelease, &format!("no other slot is named {to}, or has a bundle of that version"))
            }
            None => none(Ending::NoOtherRelease, "there is no other slot"),
        };
    };
    // Marking the booted one bad as well would leave nothing to boot.
    if !other.good {
        return none(Ending::NoOtherRelease, &format!("{} is not marked good: it may not boot", other.name));
    }
    Ok(other)
}

async fn mark_good_over(connection: &Connection) -> ActOutcome {
    match mark(&installer(connection), "good", "booted").await {
        Ok((slot, message)) => ActOutcome::succeeded(format!("{slot}: {message}")),
        Err(error) => failed("mark the booted slot as good", &error),
    }
}

fn installer(connection: &Connection) -> Object {
    let path = ObjectPath::from_static_str_unchecked("/");
    Object::new(connection, "de.pengutronix.rauc", path.into(), "de.pengutronix.rauc.Installer")
}

/// Marks a slot: which it was, and what RAUC says of that.
async fn mark(rauc: &Object, state: &str, slot: &str) -> zbus::Result<(String, String)> {
    rauc.call("Mark", vec![state.into(), slot.into()]).await
}

fn failed(what: &str, error: &zbus::Error) -> ActOutcome {
    ActOutcome::failed(Ending::RollbackFailed, format!("{what}: {error}; does rauc.service run?"))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_types, reason = "the code that zbus makes of an interface holds a HashMap")]

    use std::sync::{Arc, Mutex};

    use tokio::net::UnixStream;
    use zbus::connection::Builder;
    use zbus::zvariant::Value;

    use super::*;
    use crate::engine::io::ActStatus;

    type Marked = Arc<Mutex<Vec<(String, String)>>>;

    /// RAUC on a gateway with two slots, the first of which is booted.
    struct Rauc {
        other: &'static str,
        marked: Marked,
    }

    #[zbus::interface(name = "de.pengutronix.rauc.Installer")]
    impl Rauc {
        fn get_slot_status(&self) -> Vec<(String, BTreeMap<String, Value<'static>>)> {
            let slot = |name: &str, entries: &[(&str, &'static str)]| {
                let entries = entries.iter().map(|(key, value)| ((*key).to_owned(), Value::from(*value)));
                (name.to_owned(), entries.collect())
            };
            vec![
                slot("data.0", &[("class", "data"), ("state", "inactive")]),
                slot(
                    "rootfs.0",
                    &[
                        ("class", "rootfs"),
                        ("bootname", "A"),
                        ("state", "booted"),
                        ("boot-status", "good"),
                        ("bundle.version", "2.0"),
                    ],
                ),
                slot(
                    "rootfs.1",
                    &[
                        ("class", "rootfs"),
                        ("bootname", "B"),
                        ("state", "inactive"),
                        ("boot-status", self.other),
                        ("bundle.version", "1.0"),
                    ],
                ),
            ]
        }

        fn mark(&self, state: String, slot_identifier: String) -> (String, String) {
            self.marked.lock().unwrap().push((state, slot_identifier));
            ("rootfs.0".into(), "activated".into())
        }
    }

    async fn play<T>(other: &'static str, ask: impl AsyncFnOnce(Connection) -> T) -> (T, Vec<(String, String)>) {
        let marked = Marked::default();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let server = Builder::unix_stream(theirs).server(zbus::Guid::generate()).unwrap().p2p();
        let server = server.serve_at("/", Rauc { other, marked: Arc::clone(&marked) }).unwrap().build();
        let client = Builder::unix_stream(ours).p2p().build();
        let (_server, client) = tokio::try_join!(server, client).unwrap();
        let result = ask(client).await;
        let marked = marked.lock().unwrap().clone();
        (result, marked)
    }

    fn marks(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(state, slot)| ((*state).to_owned(), (*slot).to_owned())).collect()
    }

    #[tokio::test]
    async fn the_other_slot_is_the_next_boots_and_the_booted_one_is_bad() {
        for to in [None, Some("1.0"), Some("rootfs.1")] {
            let (outcome, marked) = play("good", async |bus| rollback_over(&bus, to).await).await;
            assert_eq!((outcome.status, outcome.reason.as_deref()), (ActStatus::Succeeded, Some("needs_reboot")));
            assert_eq!(marked, marks(&[("active", "rootfs.1"), ("bad", "booted")]));
        }
    }

    #[tokio::test]
    async fn nothing_is_marked_where_the_other_slot_is_not_good_or_not_the_one() {
        for (status, to, reason) in [
            ("bad", None, "no_other_release"),
            ("good", Some("9.9"), "no_such_release"),
            ("good", Some("data.0"), "no_such_release"),
        ] {
            let (outcome, marked) = play(status, async |bus| rollback_over(&bus, to).await).await;
            assert_eq!((outcome.reason.as_deref(), marked), (Some(reason), vec![]));
        }
    }

    #[tokio::test]
    async fn the_booted_slot_is_marked_good() {
        let (outcome, marked) = play("good", async |bus| mark_good_over(&bus).await).await;
        assert_eq!((outcome.status, marked), (ActStatus::Succeeded, marks(&[("good", "booted")])));
    }
}
