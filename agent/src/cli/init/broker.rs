//! Tries the broker as the agent would: its name, TCP, TLS and a CONNECT, with the agent's own transport, so that what
//! is wrong is told in the agent's own words. The session is clean, and has a name of its own: an agent that runs under
//! this gateway's id is not thrown out. Nothing is published and nothing is subscribed to.

use std::io::{self, Write};
use std::sync::Arc;

use anyhow::Context as _;

use super::Ended;
use super::ask::Login;
use crate::cli::{block_on, keygen};
use crate::collect::clock;
use crate::config::CheckedConfig;
use crate::engine::io::{LinkFault, LinkFaultKind};
use crate::engine::observation::Severity;
use crate::engine::packet::Version;
use crate::runtime::mqtt::client::{Client, Credentials};
use crate::runtime::mqtt::transport::{self, Target};

/// The key of the file that need not be there yet.
const PASSWORD_FILE: &str = "mqtt.password_file";

/// Whether a connection can be tried with the files that it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Usable {
    Now,
    /// Once systemd has started the service and handed over what it is to have.
    AtItsStart,
    Never,
}

/// Says what is doubtful about the certificates, keys and password; whether they can be used.
pub(super) fn warn_of_files(config: &CheckedConfig, login: &Login, err: &mut impl Write) -> io::Result<Usable> {
    let is_new = |key: &str| key == PASSWORD_FILE && matches!(login, Login::New(..));
    let mut usable = Usable::Now;
    for doubt in transport::examine(&config.mqtt, Some(clock::realtime())).iter().filter(|doubt| !is_new(doubt.key)) {
        let is_handed_over = || transport::named_by(&config.mqtt, doubt.key).is_some_and(transport::is_handed_over);
        let is_grave = doubt.severity <= Severity::Error;
        if is_grave && is_handed_over() {
            writeln!(err, "note: {}: {}: systemd hands it over when it starts the service", doubt.key, doubt.detail)?;
            usable = usable.max(Usable::AtItsStart);
            continue;
        }
        writeln!(err, "warning: {}: {}", doubt.key, doubt.detail)?;
        if is_grave {
            usable = Usable::Never;
        }
    }
    Ok(usable)
}

/// Whether the broker takes this gateway, which is told.
pub(super) fn reach(config: &CheckedConfig, login: &Login, err: &mut impl Write) -> Result<bool, Ended> {
    let url = &config.mqtt.url;
    let client_id = format!("{}-init-{:016x}", config.device.id, u64::from_le_bytes(keygen::random()?));
    let credentials = credentials(login)?;
    let answer = block_on(connect(config, &client_id, credentials.as_ref()))?;
    let told = match answer {
        Ok(version) => writeln!(err, "broker    {url} takes this gateway, with MQTT {}", version.word()).map(|()| true),
        Err(LinkFault { kind, detail }) => {
            let hint = match kind {
                LinkFaultKind::Refused | LinkFaultKind::Server => {
                    format!("\n          (It was asked as {client_id:?}, so as not to throw out an agent that runs.)")
                }
                _ => String::new(),
            };
            writeln!(err, "broker    {url} is out of reach ({}): {detail}{hint}", kind.word()).map(|()| false)
        }
    };
    Ok(told.context("write to stderr")?)
}

async fn connect(
    config: &CheckedConfig,
    client_id: &str,
    credentials: Option<&Credentials>,
) -> Result<Version, LinkFault> {
    let target = Arc::new(Target::new(config.mqtt.url.clone(), Some(config.mqtt.tls.clone())));
    let client = Client::connect(&target, client_id, credentials).await?;
    let version = client.version();
    // It has said yes: that it hears no goodbye changes nothing.
    let _ = client.disconnect().await;
    Ok(version)
}

fn credentials(login: &Login) -> Result<Option<Credentials>, Ended> {
    let (username, password) = match login {
        Login::None => return Ok(None),
        Login::New(name, password) => (name.clone(), password.clone()),
        Login::File(name, file) => {
            let password =
                transport::password_in(file).with_context(|| format!("the password in {}", file.display()))?;
            (name.clone(), password)
        }
    };
    Ok(Some(Credentials { username, password }))
}
