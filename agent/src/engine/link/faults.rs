//! What is said of a connection that failed or ended: to the log, once for each fault, and in the words of the fault
//! itself. Decides nothing of the connection.

use std::time::Duration;

use crate::engine::effects::Effects;
use crate::engine::io::{LinkFault, LinkFaultKind, LogLevel};
use crate::engine::packet::{AckReason, ConnectCode};

/// Says once what goes wrong with the connection, and again only when something else does: an outage of a month is one
/// line, not a million. A broker may refuse each version of MQTT in words of its own.
#[derive(Debug, Default)]
pub struct FaultLog {
    last: [Option<LinkFault>; 2],
}

impl FaultLog {
    /// A connection failed or ended.
    pub fn down(&mut self, fault: &LinkFault, retry_in: Duration, effects: &mut Effects) {
        if self.last.iter().flatten().any(|last| last == fault) {
            effects.log(LogLevel::Debug, format!("broker: {} again; next try in {retry_in:.1?}", fault.kind.word()));
            return;
        }
        if fault.kind == LinkFaultKind::Local {
            effects.log(LogLevel::Info, format!("broker: {}", fault.detail));
            return;
        }
        effects
            .log(LogLevel::Warn, format!("broker: {} (retrying with backoff; repeats are not logged)", fault.detail));
        let [last, _] = std::mem::take(&mut self.last);
        self.last = [Some(fault.clone()), last];
    }

    /// A connection proved stable: the next failure is news again.
    pub fn stable(&mut self) {
        self.last = [None, None];
    }
}

pub(super) fn overdue(what: &str, after: Duration) -> String {
    format!("no {what} within {} s", after.as_secs())
}

/// Why the broker said no, and what of the configuration to look at. `named`: we gave a user name.
pub(crate) fn refusal(code: &ConnectCode, named: bool) -> String {
    let advice = match code {
        ConnectCode::UnsupportedVersion => "set mqtt.version",
        ConnectCode::BadClientId => "check device.id",
        ConnectCode::BadCredentials if named => "check mqtt.username and mqtt.password_file",
        ConnectCode::BadCredentials => "no mqtt.username is set: does it want one, and a password?",
        ConnectCode::NotAuthorized if !named => {
            "no mqtt.username is set: does it want one, and a password? Else check its ACL and the client certificate"
        }
        ConnectCode::NotAuthorized => "check its ACL, mqtt.username, mqtt.password_file or the client certificate",
        ConnectCode::RetainNotSupported => "trying without",
        ConnectCode::WillTopicInvalid => "check mqtt.topic_prefix",
        ConnectCode::Success | ConnectCode::ServerUnavailable | ConnectCode::Other(_) => return code.to_string(),
    };
    format!("{code}: {advice}")
}

/// What to do about a publish that the broker refused so.
#[must_use]
pub const fn advice(reason: AckReason) -> &'static str {
    match reason {
        AckReason::TooLarge => {
            "raise its limit (mosquitto: message_size_limit, which it does not announce, or max_packet_size), and reload \
             the agent"
        }
        AckReason::NotAuthorized => {
            "check its ACL for our topics, and that it goes by the id in them: it may go by the user name or the \
             certificate's CN instead"
        }
        AckReason::TopicNameInvalid => "check mqtt.topic_prefix and device.id, and which topics it takes",
        AckReason::PayloadFormatInvalid => "check which payloads it takes, and telemetry.encoding",
        AckReason::QuotaExceeded => "raise its quota, or publish less often; it is tried again",
        AckReason::Success | AckReason::NoMatchingSubscribers | AckReason::Other(_) => {
            "it doesn't say why: see its log; it is tried again"
        }
    }
}

pub(super) fn server_disconnect(reason: &str) -> String {
    if reason.to_ascii_lowercase().contains("taken over") || reason.to_ascii_lowercase().contains("takenover") {
        return "another client connected with this device.id: ids must be unique in the fleet".into();
    }
    format!("the broker closed the connection: {reason}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::io::Effect;

    #[test]
    fn a_broker_that_refuses_each_version_in_other_words_is_told_of_once_for_each() {
        let (mut log, mut effects) = (FaultLog::default(), Effects::default());
        for detail in ["version", "greeting", "version", "greeting", "other", "other", "greeting", "version"] {
            log.down(&LinkFault::new(LinkFaultKind::Refused, detail.to_owned()), Duration::ZERO, &mut effects);
        }
        let mut warned = Vec::new();
        while let Some(effect) = effects.poll() {
            if let Effect::Log { level: LogLevel::Warn, text } = effect {
                warned.extend(text.split(' ').nth(1).map(str::to_owned));
            }
        }
        assert_eq!(warned, ["version", "greeting", "other", "version"]);
    }
}
