//! Bodies of MQTT 3.1.1: between the neutral packet and rumqttc's. Pure translation; what 3.1.1 can't say is lost (the
//! reason of a PUBACK or DISCONNECT) or said with its nearest word.

use bytes::BytesMut;
use rumqttc::mqttbytes::{QoS, v4};

use super::{Header, Kind, read_short_connack, write_publish_head};
use crate::engine::packet::{ConnAck, Connect, ConnectCode, Packet, Publish, Version};

pub(super) fn read(header: &Header, mut frame: BytesMut) -> Result<Packet, String> {
    if header.kind == Kind::Disconnect {
        return Ok(Packet::Disconnect { reason: "normal".to_owned(), session_expiry_s: None });
    }
    if let (Kind::ConnAck, &[_, 2, flags, code]) = (header.kind, frame.as_ref()) {
        return Ok(Packet::ConnAck(read_short_connack(flags, code)));
    }
    let packet = v4::Packet::read(&mut frame, usize::MAX).map_err(|error| error.to_string())?;
    Ok(match packet {
        v4::Packet::Connect(connect) => Packet::Connect(Box::new(from_connect(connect))),
        v4::Packet::ConnAck(_) => return Err("its length is not 4 B".to_owned()),
        v4::Packet::Publish(publish) => Packet::Publish(from_publish(publish)),
        v4::Packet::Subscribe(subscribe) => Packet::Subscribe {
            pkid: subscribe.pkid,
            filters: subscribe.filters.into_iter().map(|filter| (filter.path, filter.qos as u8)).collect(),
            identifier: None,
        },
        v4::Packet::Unsubscribe(unsubscribe) => {
            Packet::Unsubscribe { pkid: unsubscribe.pkid, filters: unsubscribe.topics }
        }
        v4::Packet::PingReq => Packet::PingReq,
        v4::Packet::PingResp => Packet::PingResp,
        _ => return Err("it is not expected".to_owned()),
    })
}

/// All of a packet but the payload of a publish.
pub(super) fn write(packet: &Packet, output: &mut BytesMut) -> Result<(), String> {
    let packet = match packet {
        Packet::Connect(connect) => {
            // rumqttc patches the flags at a fixed index from the start of the buffer: it needs one of its own.
            let mut own = BytesMut::new();
            to_connect(connect)?.write(&mut own).map_err(|error| error.to_string())?;
            output.extend_from_slice(&own);
            return Ok(());
        }
        Packet::ConnAck(ack) => v4::Packet::ConnAck(to_connack(ack)),
        Packet::Publish(publish) => return write_publish_head(publish, &[], output),
        Packet::PubAck { pkid, .. } => v4::Packet::PubAck(v4::PubAck { pkid: *pkid }),
        Packet::PubRec { pkid } => v4::Packet::PubRec(v4::PubRec { pkid: *pkid }),
        Packet::PubRel { pkid } => v4::Packet::PubRel(v4::PubRel { pkid: *pkid }),
        Packet::PubComp { pkid } => v4::Packet::PubComp(v4::PubComp { pkid: *pkid }),
        Packet::Subscribe { pkid, filters, .. } => {
            let filters = filters
                .iter()
                .map(|(path, qos)| Ok(v4::SubscribeFilter { path: path.clone(), qos: to_qos(*qos)? }))
                .collect::<Result<_, String>>()?;
            v4::Packet::Subscribe(v4::Subscribe { pkid: *pkid, filters })
        }
        Packet::SubAck { pkid, granted } => {
            let return_codes = granted
                .iter()
                .map(|qos| match qos {
                    Ok(qos) => to_qos(*qos).map(v4::SubscribeReasonCode::Success),
                    Err(_) => Ok(v4::SubscribeReasonCode::Failure),
                })
                .collect::<Result<_, String>>()?;
            v4::Packet::SubAck(v4::SubAck { pkid: *pkid, return_codes })
        }
        Packet::Unsubscribe { pkid, filters } => {
            v4::Packet::Unsubscribe(v4::Unsubscribe { pkid: *pkid, topics: filters.clone() })
        }
        Packet::UnsubAck { pkid, .. } => v4::Packet::UnsubAck(v4::UnsubAck { pkid: *pkid }),
        Packet::PingReq => v4::Packet::PingReq,
        Packet::PingResp => v4::Packet::PingResp,
        Packet::Disconnect { .. } => v4::Packet::Disconnect,
        Packet::Oversize { .. } => return Err("it exists inbound only".to_owned()),
    };
    packet.write(output, usize::MAX).map(drop).map_err(|error| error.to_string())
}

fn from_connect(connect: v4::Connect) -> Connect {
    let (username, password) = connect.login.map_or((None, None), |login| (some(login.username), some(login.password)));
    Connect {
        version: Version::V311,
        client_id: connect.client_id,
        clean_start: connect.clean_session,
        keep_alive_s: connect.keep_alive,
        username,
        password,
        will: connect.last_will.map(|will| Publish {
            topic: will.topic,
            payload: will.message,
            qos: will.qos as u8,
            retain: will.retain,
            dup: false,
            pkid: 0,
            properties: None,
        }),
        will_delay_s: 0,
        // 3.1.1 has one flag for both ends of a session's life.
        session_expiry_s: if connect.clean_session { 0 } else { u32::MAX },
        packet_max: u32::MAX,
        receive_max: u16::MAX,
    }
}

fn to_connect(connect: &Connect) -> Result<v4::Connect, String> {
    let mut packet = v4::Connect::new(connect.client_id.clone());
    packet.keep_alive = connect.keep_alive_s;
    packet.clean_session = connect.clean_start;
    if connect.username.is_some() || connect.password.is_some() {
        packet.set_login(connect.username.clone().unwrap_or_default(), connect.password.clone().unwrap_or_default());
    }
    if let Some(will) = &connect.will {
        packet.last_will =
            Some(v4::LastWill::new(will.topic.clone(), will.payload.clone(), to_qos(will.qos)?, will.retain));
    }
    Ok(packet)
}

const fn to_connack(ack: &ConnAck) -> v4::ConnAck {
    let code = match ack.code {
        ConnectCode::Success => v4::ConnectReturnCode::Success,
        ConnectCode::UnsupportedVersion => v4::ConnectReturnCode::RefusedProtocolVersion,
        ConnectCode::BadClientId => v4::ConnectReturnCode::BadClientId,
        ConnectCode::BadCredentials => v4::ConnectReturnCode::BadUserNamePassword,
        ConnectCode::NotAuthorized => v4::ConnectReturnCode::NotAuthorized,
        ConnectCode::ServerUnavailable
        | ConnectCode::RetainNotSupported
        | ConnectCode::WillTopicInvalid
        | ConnectCode::Other(_) => v4::ConnectReturnCode::ServiceUnavailable,
    };
    v4::ConnAck { session_present: ack.session_present, code }
}

fn from_publish(publish: v4::Publish) -> Publish {
    Publish {
        topic: publish.topic,
        payload: publish.payload,
        qos: publish.qos as u8,
        retain: publish.retain,
        dup: publish.dup,
        pkid: publish.pkid,
        properties: None,
    }
}

fn to_qos(qos: u8) -> Result<QoS, String> {
    rumqttc::mqttbytes::qos(qos).map_err(|error| error.to_string())
}

fn some(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}
