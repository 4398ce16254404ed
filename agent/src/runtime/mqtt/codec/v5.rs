//! Bodies of MQTT 5: between the neutral packet and rumqttc's. Pure translation. Properties that neither the agent nor
//! the broker model has a use for are read and dropped; topic aliases are never offered, so none may come.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5;
use rumqttc::v5::mqttbytes::v5::DisconnectReasonCode as Bye;

use super::{Header, Kind, answer, read_short_connack, write_publish_head};
use crate::engine::packet::{ConnAck, Connect, ConnectCode, Packet, Properties, Publish, SubscribeRefusal, Version};
use crate::text::head;

/// Of what a broker says beside its reason for a DISCONNECT.
const REASON_BYTES_MAX: usize = 256;

/// Reasons of DISCONNECT (3.14.2.1) in words. What has none here is sent as "unspecified error".
const REASONS: [(&str, Bye); 29] = [
    ("normal", Bye::NormalDisconnection),
    ("with will", Bye::DisconnectWithWillMessage),
    ("unspecified error", Bye::UnspecifiedError),
    ("malformed packet", Bye::MalformedPacket),
    ("protocol error", Bye::ProtocolError),
    ("implementation specific error", Bye::ImplementationSpecificError),
    ("not authorized", Bye::NotAuthorized),
    ("server busy", Bye::ServerBusy),
    ("server shutting down", Bye::ServerShuttingDown),
    ("keep alive timeout", Bye::KeepAliveTimeout),
    ("session taken over", Bye::SessionTakenOver),
    ("topic filter invalid", Bye::TopicFilterInvalid),
    ("topic name invalid", Bye::TopicNameInvalid),
    ("receive maximum exceeded", Bye::ReceiveMaximumExceeded),
    ("topic alias invalid", Bye::TopicAliasInvalid),
    ("packet too large", Bye::PacketTooLarge),
    ("message rate too high", Bye::MessageRateTooHigh),
    ("quota exceeded", Bye::QuotaExceeded),
    ("administrative action", Bye::AdministrativeAction),
    ("payload format invalid", Bye::PayloadFormatInvalid),
    ("retain not supported", Bye::RetainNotSupported),
    ("QoS not supported", Bye::QoSNotSupported),
    ("use another server", Bye::UseAnotherServer),
    ("server moved", Bye::ServerMoved),
    ("shared subscriptions not supported", Bye::SharedSubscriptionNotSupported),
    ("connection rate exceeded", Bye::ConnectionRateExceeded),
    ("maximum connect time", Bye::MaximumConnectTime),
    ("subscription identifiers not supported", Bye::SubscriptionIdentifiersNotSupported),
    ("wildcard subscriptions not supported", Bye::WildcardSubscriptionsNotSupported),
];

pub(super) fn read(header: &Header, mut frame: BytesMut) -> Result<Packet, String> {
    if header.kind == Kind::Disconnect {
        let (reason, session_expiry_s) = read_disconnect(header, frame);
        return Ok(Packet::Disconnect { reason, session_expiry_s });
    }
    if header.kind == Kind::ConnAck {
        return read_connack(header, frame).map(Packet::ConnAck);
    }
    let packet = v5::Packet::read(&mut frame, None).map_err(|error| error.to_string())?;
    Ok(match packet {
        v5::Packet::Connect(connect, will, login) => Packet::Connect(Box::new(from_connect(connect, will, login)?)),
        v5::Packet::Publish(publish) => Packet::Publish(from_publish(publish)?),
        v5::Packet::Subscribe(subscribe) => Packet::Subscribe {
            pkid: subscribe.pkid,
            filters: subscribe.filters.into_iter().map(from_filter).collect(),
            identifier: subscribe.properties.and_then(|found| found.id).and_then(|id| u32::try_from(id).ok()),
        },
        v5::Packet::Unsubscribe(unsubscribe) => {
            Packet::Unsubscribe { pkid: unsubscribe.pkid, filters: unsubscribe.filters }
        }
        v5::Packet::PingReq(_) => Packet::PingReq,
        v5::Packet::PingResp(_) => Packet::PingResp,
        _ => return Err("it is not expected".to_owned()),
    })
}

/// All of a packet but the payload of a publish.
pub(super) fn write(packet: &Packet, output: &mut BytesMut) -> Result<(), String> {
    let packet = match packet {
        Packet::Connect(connect) => {
            // rumqttc patches the flags at a fixed index from the start of the buffer: it needs one of its own.
            let mut own = BytesMut::new();
            let (connect, will, login) = to_connect(connect)?;
            connect.write(&will, &login, &mut own).map_err(|error| error.to_string())?;
            output.extend_from_slice(&own);
            return Ok(());
        }
        Packet::ConnAck(ack) => v5::Packet::ConnAck(to_connack(ack)),
        Packet::Publish(publish) => {
            let Some(said) = &publish.properties else { return write_publish_head(publish, &[0], output) };
            let mut properties = BytesMut::new();
            to_properties(said).write(&mut properties).map_err(|error| error.to_string())?;
            return write_publish_head(publish, &properties, output);
        }
        Packet::PubAck { pkid, reason } => {
            answer::write_puback(*pkid, *reason, output);
            return Ok(());
        }
        Packet::PubRec { pkid } => v5::Packet::PubRec(v5::PubRec::new(*pkid, None)),
        Packet::PubRel { pkid } => v5::Packet::PubRel(v5::PubRel::new(*pkid, None)),
        Packet::PubComp { pkid } => v5::Packet::PubComp(v5::PubComp::new(*pkid, None)),
        Packet::Subscribe { pkid, filters, identifier } => {
            let filters =
                filters.iter().map(|(path, options)| to_filter(path, *options)).collect::<Result<_, String>>()?;
            v5::Packet::Subscribe(v5::Subscribe {
                pkid: *pkid,
                filters,
                properties: identifier.map(to_subscribe_properties),
            })
        }
        Packet::SubAck { pkid, granted } => {
            let return_codes = granted
                .iter()
                .map(|qos| match qos {
                    Ok(qos) => to_qos(*qos).map(v5::SubscribeReasonCode::Success),
                    Err(refusal) => Ok(to_refusal(*refusal)),
                })
                .collect::<Result<_, String>>()?;
            v5::Packet::SubAck(v5::SubAck { pkid: *pkid, return_codes, properties: None })
        }
        Packet::Unsubscribe { pkid, filters } => {
            v5::Packet::Unsubscribe(v5::Unsubscribe { pkid: *pkid, filters: filters.clone(), properties: None })
        }
        Packet::UnsubAck { pkid, existed } => {
            let reason = |existed: &bool| match existed {
                true => v5::UnsubAckReason::Success,
                false => v5::UnsubAckReason::NoSubscriptionExisted,
            };
            let reasons = existed.iter().map(reason).collect();
            v5::Packet::UnsubAck(v5::UnsubAck { pkid: *pkid, reasons, properties: None })
        }
        Packet::PingReq => v5::Packet::PingReq(v5::PingReq),
        Packet::PingResp => v5::Packet::PingResp(v5::PingResp),
        Packet::Disconnect { reason, session_expiry_s } => {
            write_disconnect(reason, *session_expiry_s, output);
            return Ok(());
        }
        Packet::Oversize { .. } => return Err("it exists inbound only".to_owned()),
    };
    packet.write(output, None).map(drop).map_err(|error| error.to_string())
}

/// A refusal says enough by its code: what stands behind that may be missing, or unknown to rumqttc, as the code may
/// be.
fn read_connack(header: &Header, mut frame: BytesMut) -> Result<ConnAck, String> {
    let (flags, code) = match *frame.get(header.len..).unwrap_or_default() {
        [flags, code @ 0..=5] => return Ok(read_short_connack(flags, code)),
        [flags, code, ..] => (flags, code),
        _ => return Err("it is too short".to_owned()),
    };
    let mut read = v5::Packet::read(&mut frame, None);
    if read.is_err() && code >= 0x80 {
        read = v5::Packet::read(&mut BytesMut::from(&[0x20, 3, flags, code, 0][..]), None);
    }
    match read {
        Ok(v5::Packet::ConnAck(ack)) => Ok(from_connack(&ack)),
        Err(_) if code >= 0x80 => {
            let refusal = ConnectCode::Other(format!("reason code {code:#04x}"));
            Ok(ConnAck { code: refusal, ..read_short_connack(flags, 0) })
        }
        Ok(_) => Err("it is not expected".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// A DISCONNECT that can't be read is still a disconnect: the peer is gone, whatever it tried to say. rumqttc can read
/// neither the empty form nor the one of a reason alone (3.14.2.2.1).
fn read_disconnect(header: &Header, mut frame: BytesMut) -> (String, Option<u32>) {
    let code = match *frame.get(header.len..).unwrap_or_default() {
        [] => return ("normal".to_owned(), None),
        [code] => return (reason_of_code(code), None),
        [code, ..] => code,
    };
    match v5::Packet::read(&mut frame, None) {
        Ok(v5::Packet::Disconnect(disconnect)) => {
            let word = word_of(disconnect.reason_code);
            let properties = disconnect.properties;
            let session_expiry_s = properties.as_ref().and_then(|found| found.session_expiry_interval);
            let reason = match properties.and_then(|found| found.reason_string) {
                Some(text) => format!("{word}: {}", said(&text)),
                None => word.to_owned(),
            };
            (reason, session_expiry_s)
        }
        // Its code is known all the same.
        Ok(_) | Err(_) => (reason_of_code(code), None),
    }
}

/// The broker's own words, as a part of one line of the log.
fn said(text: &str) -> String {
    head(text, REASON_BYTES_MAX).replace(char::is_control, "\u{fffd}")
}

/// By hand: rumqttc writes one byte more than the length that it announces.
fn write_disconnect(reason: &str, session_expiry_s: Option<u32>, output: &mut BytesMut) {
    match (to_bye(reason), session_expiry_s) {
        (Bye::NormalDisconnection, None) => output.extend_from_slice(&[0xe0, 0]),
        (code, None) => output.extend_from_slice(&[0xe0, 1, code as u8]),
        (code, Some(expiry_s)) => {
            output.extend_from_slice(&[0xe0, 7, code as u8, 5, 0x11]);
            output.extend_from_slice(&expiry_s.to_be_bytes());
        }
    }
}

fn reason_of_code(code: u8) -> String {
    Bye::try_from(code).map_or_else(|_| format!("reason {code}"), |code| word_of(code).to_owned())
}

fn word_of(code: Bye) -> &'static str {
    REASONS.iter().find(|(_, known)| *known == code).map_or("unspecified error", |(word, _)| word)
}

fn to_bye(reason: &str) -> Bye {
    REASONS.iter().find(|(word, _)| *word == reason).map_or(Bye::UnspecifiedError, |(_, code)| *code)
}

fn from_connect(connect: v5::Connect, will: Option<v5::LastWill>, login: Option<v5::Login>) -> Result<Connect, String> {
    let (username, password) = login.map_or((None, None), |login| (some(login.username), some(login.password)));
    let properties = connect.properties.unwrap_or_default();
    let of_will = will.as_ref().and_then(|will| will.properties.as_ref());
    Ok(Connect {
        will_delay_s: of_will.and_then(|found| found.delay_interval).unwrap_or(0),
        version: Version::V5,
        client_id: connect.client_id,
        clean_start: connect.clean_start,
        keep_alive_s: connect.keep_alive,
        username,
        password,
        will: will.map(from_will).transpose()?,
        session_expiry_s: properties.session_expiry_interval.unwrap_or(0),
        packet_max: properties.max_packet_size.unwrap_or(u32::MAX),
        receive_max: properties.receive_maximum.unwrap_or(u16::MAX).max(1),
    })
}

fn to_connect(connect: &Connect) -> Result<(v5::Connect, Option<v5::LastWill>, Option<v5::Login>), String> {
    let mut properties = v5::ConnectProperties::new();
    properties.session_expiry_interval = (connect.session_expiry_s > 0).then_some(connect.session_expiry_s);
    properties.max_packet_size = (connect.packet_max < u32::MAX).then_some(connect.packet_max);
    properties.receive_maximum = (connect.receive_max < u16::MAX).then_some(connect.receive_max);
    let will = match &connect.will {
        Some(will) => Some(v5::LastWill {
            topic: Bytes::copy_from_slice(will.topic.as_bytes()),
            message: will.payload.clone(),
            qos: to_qos(will.qos)?,
            retain: will.retain,
            properties: to_will_properties(will, connect.will_delay_s),
        }),
        None => None,
    };
    let login = (connect.username.is_some() || connect.password.is_some()).then(|| v5::Login {
        username: connect.username.clone().unwrap_or_default(),
        password: connect.password.clone().unwrap_or_default(),
    });
    let connect = v5::Connect {
        keep_alive: connect.keep_alive_s,
        client_id: connect.client_id.clone(),
        clean_start: connect.clean_start,
        properties: Some(properties),
    };
    Ok((connect, will, login))
}

fn from_will(will: v5::LastWill) -> Result<Publish, String> {
    let properties = will.properties.map(|found| Properties {
        expiry_s: found.message_expiry_interval,
        payload_format: found.payload_format_indicator,
        response_topic: found.response_topic,
        correlation_data: found.correlation_data,
        content_type: found.content_type,
        user: found.user_properties,
    });
    Ok(Publish {
        topic: text(&will.topic)?,
        payload: will.message,
        qos: will.qos as u8,
        retain: will.retain,
        dup: false,
        pkid: 0,
        properties: properties.and_then(unless_empty),
    })
}

fn to_will_properties(will: &Publish, delay_s: u32) -> Option<v5::LastWillProperties> {
    if delay_s == 0 && will.properties.is_none() {
        return None;
    }
    let found = will.properties.as_deref().cloned().unwrap_or_default();
    Some(v5::LastWillProperties {
        delay_interval: (delay_s > 0).then_some(delay_s),
        payload_format_indicator: found.payload_format,
        message_expiry_interval: found.expiry_s,
        content_type: found.content_type,
        response_topic: found.response_topic,
        correlation_data: found.correlation_data,
        user_properties: found.user,
    })
}

fn from_connack(ack: &v5::ConnAck) -> ConnAck {
    let properties = ack.properties.as_ref();
    ConnAck {
        session_present: ack.session_present,
        code: from_code(ack.code),
        // Zero is forbidden (3.2.2.3.3): one is the least that lets anything through.
        receive_max: properties.and_then(|found| found.receive_max).unwrap_or(u16::MAX).max(1),
        packet_max: properties.and_then(|found| found.max_packet_size),
        keep_alive_s: properties.and_then(|found| found.server_keep_alive),
        qos_max: properties.and_then(|found| found.max_qos).unwrap_or(2),
        retains: properties.and_then(|found| found.retain_available) != Some(0),
        assigned_id: properties.and_then(|found| found.assigned_client_identifier.clone()),
    }
}

fn to_connack(ack: &ConnAck) -> v5::ConnAck {
    let code = match ack.code {
        ConnectCode::Success => v5::ConnectReturnCode::Success,
        ConnectCode::UnsupportedVersion => v5::ConnectReturnCode::UnsupportedProtocolVersion,
        ConnectCode::BadClientId => v5::ConnectReturnCode::ClientIdentifierNotValid,
        ConnectCode::BadCredentials => v5::ConnectReturnCode::BadUserNamePassword,
        ConnectCode::NotAuthorized => v5::ConnectReturnCode::NotAuthorized,
        ConnectCode::ServerUnavailable => v5::ConnectReturnCode::ServerUnavailable,
        ConnectCode::RetainNotSupported => v5::ConnectReturnCode::RetainNotSupported,
        ConnectCode::WillTopicInvalid => v5::ConnectReturnCode::TopicNameInvalid,
        ConnectCode::Other(_) => v5::ConnectReturnCode::UnspecifiedError,
    };
    let properties = v5::ConnAckProperties {
        session_expiry_interval: None,
        receive_max: (ack.receive_max < u16::MAX).then_some(ack.receive_max),
        max_qos: (ack.qos_max < 2).then_some(ack.qos_max),
        retain_available: (!ack.retains).then_some(0),
        max_packet_size: ack.packet_max,
        assigned_client_identifier: ack.assigned_id.clone(),
        topic_alias_max: None,
        reason_string: None,
        user_properties: Vec::new(),
        wildcard_subscription_available: None,
        // Left out they would count as supported (3.2.2.3.12, 3.2.2.3.13). Only our own broker's model is written here,
        // and it supports neither.
        subscription_identifiers_available: Some(0),
        shared_subscription_available: Some(0),
        server_keep_alive: ack.keep_alive_s,
        response_information: None,
        server_reference: None,
        authentication_method: None,
        authentication_data: None,
    };
    v5::ConnAck { session_present: ack.session_present, code, properties: Some(properties) }
}

fn from_code(code: v5::ConnectReturnCode) -> ConnectCode {
    use v5::ConnectReturnCode as Code;
    match code {
        Code::Success => ConnectCode::Success,
        Code::UnsupportedProtocolVersion | Code::RefusedProtocolVersion => ConnectCode::UnsupportedVersion,
        Code::ClientIdentifierNotValid | Code::BadClientId => ConnectCode::BadClientId,
        Code::BadUserNamePassword => ConnectCode::BadCredentials,
        Code::NotAuthorized => ConnectCode::NotAuthorized,
        Code::ServerUnavailable | Code::ServiceUnavailable => ConnectCode::ServerUnavailable,
        Code::ServerBusy => other("server busy"),
        Code::UnspecifiedError => other("unspecified error"),
        Code::MalformedPacket => other("malformed packet"),
        Code::ProtocolError => other("protocol error"),
        Code::ImplementationSpecificError => other("implementation specific error"),
        Code::Banned => other("banned"),
        Code::BadAuthenticationMethod => other("bad authentication method"),
        Code::TopicNameInvalid => ConnectCode::WillTopicInvalid,
        Code::PacketTooLarge => other("packet too large"),
        Code::QuotaExceeded => other("quota exceeded"),
        Code::PayloadFormatInvalid => other("payload format of the will invalid"),
        Code::RetainNotSupported => ConnectCode::RetainNotSupported,
        Code::QoSNotSupported => other("QoS of the will not supported"),
        Code::UseAnotherServer => other("use another server"),
        Code::ServerMoved => other("server moved"),
        Code::ConnectionRateExceeded => other("connection rate exceeded"),
    }
}

fn other(words: &str) -> ConnectCode {
    ConnectCode::Other(words.to_owned())
}

fn from_publish(publish: v5::Publish) -> Result<Publish, String> {
    Ok(Publish {
        topic: text(&publish.topic)?,
        payload: publish.payload,
        qos: publish.qos as u8,
        retain: publish.retain,
        dup: publish.dup,
        pkid: publish.pkid,
        properties: publish.properties.and_then(from_properties),
    })
}

fn from_properties(found: v5::PublishProperties) -> Option<Arc<Properties>> {
    unless_empty(Properties {
        expiry_s: found.message_expiry_interval,
        payload_format: found.payload_format_indicator,
        response_topic: found.response_topic,
        correlation_data: found.correlation_data,
        content_type: found.content_type,
        user: found.user_properties,
    })
}

fn to_properties(properties: &Properties) -> v5::PublishProperties {
    v5::PublishProperties {
        payload_format_indicator: properties.payload_format,
        message_expiry_interval: properties.expiry_s,
        response_topic: properties.response_topic.clone(),
        correlation_data: properties.correlation_data.clone(),
        content_type: properties.content_type.clone(),
        user_properties: properties.user.clone(),
        ..v5::PublishProperties::default()
    }
}

/// Those that say nothing are none at all: they are left out on the wire too.
fn unless_empty(properties: Properties) -> Option<Arc<Properties>> {
    (properties != Properties::default()).then(|| Arc::new(properties))
}

fn from_filter(filter: v5::Filter) -> (String, u8) {
    let handling = match filter.retain_forward_rule {
        v5::RetainForwardRule::OnEverySubscribe => 0,
        v5::RetainForwardRule::OnNewSubscribe => 0x10,
        v5::RetainForwardRule::Never => 0x20,
    };
    let options = u8::from(filter.nolocal) << 2 | u8::from(filter.preserve_retain) << 3 | handling;
    (filter.path, filter.qos as u8 | options)
}

fn to_filter(path: &str, options: u8) -> Result<v5::Filter, String> {
    Ok(v5::Filter {
        path: path.to_owned(),
        qos: to_qos(options & 3)?,
        nolocal: options & 4 != 0,
        preserve_retain: options & 8 != 0,
        retain_forward_rule: match options >> 4 {
            0 => v5::RetainForwardRule::OnEverySubscribe,
            1 => v5::RetainForwardRule::OnNewSubscribe,
            2 => v5::RetainForwardRule::Never,
            _ => return Err(format!("there are no subscription options {options:#x}")),
        },
    })
}

fn to_subscribe_properties(identifier: u32) -> v5::SubscribeProperties {
    v5::SubscribeProperties { id: usize::try_from(identifier).ok(), user_properties: Vec::new() }
}

const fn to_refusal(refusal: SubscribeRefusal) -> v5::SubscribeReasonCode {
    match refusal {
        SubscribeRefusal::FilterInvalid => v5::SubscribeReasonCode::TopicFilterInvalid,
        SubscribeRefusal::QuotaExceeded => v5::SubscribeReasonCode::QuotaExceeded,
        SubscribeRefusal::SharedNotSupported => v5::SubscribeReasonCode::SharedSubscriptionsNotSupported,
        SubscribeRefusal::IdentifierNotSupported => v5::SubscribeReasonCode::SubscriptionIdNotSupported,
        SubscribeRefusal::Unspecified => v5::SubscribeReasonCode::Unspecified,
    }
}

fn to_qos(qos: u8) -> Result<QoS, String> {
    rumqttc::v5::mqttbytes::qos(qos).ok_or_else(|| format!("there is no QoS {qos}"))
}

fn text(bytes: &Bytes) -> Result<String, String> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|error| format!("topic: {error}"))
}

fn some(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}
