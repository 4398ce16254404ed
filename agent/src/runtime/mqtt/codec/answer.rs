//! Answers: PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK, UNSUBACK. By hand, because rumqttc takes one whose reason code or
//! property it doesn't know for a packet that can't be read: over one publish that a broker refuses so, the connection
//! would be lost and made for ever. Of a code that has no meaning here it is still known whether it refuses (MQTT 5,
//! 2.4). What an answer says beside its codes is passed over.

use bytes::{BufMut, BytesMut};

use super::{Header, Kind, read_length, read_u16};
use crate::engine::packet::{AckReason, Packet, SubscribeRefusal, Version};

/// `None`: it is no answer.
pub(super) fn read(version: Version, header: &Header, frame: &[u8]) -> Option<Result<Packet, String>> {
    let body = frame.get(header.len..).unwrap_or_default();
    Some(match header.kind {
        Kind::PubAck => of_one(version, body).map(|(pkid, code)| Packet::PubAck { pkid, reason: reason_of(code) }),
        Kind::PubRec => of_one(version, body).map(|(pkid, _)| Packet::PubRec { pkid }),
        Kind::PubRel => of_one(version, body).map(|(pkid, _)| Packet::PubRel { pkid }),
        Kind::PubComp => of_one(version, body).map(|(pkid, _)| Packet::PubComp { pkid }),
        Kind::SubAck => of_each(version, body).map(|(pkid, codes)| {
            let granted = codes.iter().map(|code| granted(*code)).collect();
            Packet::SubAck { pkid, granted }
        }),
        // 3.1.1 says no more than that it was done.
        Kind::UnsubAck if version == Version::V311 => {
            pkid_of(body).map(|(pkid, _)| Packet::UnsubAck { pkid, existed: Vec::new() })
        }
        Kind::UnsubAck => of_each(version, body).map(|(pkid, codes)| {
            let existed = codes.iter().map(|code| *code == 0).collect();
            Packet::UnsubAck { pkid, existed }
        }),
        _ => return None,
    })
}

/// PUBACK of MQTT 5. By hand too: rumqttc knows few of the codes.
pub(super) fn write_puback(pkid: u16, reason: AckReason, output: &mut BytesMut) {
    let code = code_of(reason);
    output.put_slice(if code == 0 { &[0x40, 2] } else { &[0x40, 3] });
    output.put_u16(pkid);
    if code != 0 {
        output.put_u8(code);
    }
}

/// What is answered, and the code, which may be left out where all is well; so may the properties (MQTT 5, 3.4.2).
fn of_one(version: Version, body: &[u8]) -> Result<(u16, u8), String> {
    match (version, pkid_of(body)?) {
        (Version::V311, (pkid, _)) | (_, (pkid, [])) => Ok((pkid, 0)),
        (_, (pkid, [code])) => Ok((pkid, *code)),
        (_, (pkid, [code, rest @ ..])) => after_properties(rest).map(|_| (pkid, *code)),
    }
}

/// What is answered, and the code of each of its topic filters.
fn of_each(version: Version, body: &[u8]) -> Result<(u16, &[u8]), String> {
    let (pkid, rest) = pkid_of(body)?;
    let codes = if version == Version::V5 { after_properties(rest)? } else { rest };
    if codes.is_empty() { Err("it has no reason code".to_owned()) } else { Ok((pkid, codes)) }
}

fn pkid_of(body: &[u8]) -> Result<(u16, &[u8]), String> {
    let pkid = read_u16(body, 0).ok_or("it has no packet identifier")?;
    Ok((pkid, body.get(2..).unwrap_or_default()))
}

fn after_properties(bytes: &[u8]) -> Result<&[u8], String> {
    let (len, taken) = read_length(bytes).ok().flatten().ok_or("the length of its properties has no end")?;
    bytes.get(taken + len..).ok_or_else(|| format!("its properties of {len} B run over its end"))
}

const fn reason_of(code: u8) -> AckReason {
    match code {
        0x10 => AckReason::NoMatchingSubscribers,
        ..0x80 => AckReason::Success,
        0x87 => AckReason::NotAuthorized,
        0x90 => AckReason::TopicNameInvalid,
        // Not among those that 3.4.2.1 has for a PUBACK, but mosquitto says so.
        0x95 => AckReason::TooLarge,
        // Nor are the first two of these, server busy and message rate too high; they say: later.
        0x89 | 0x96 | 0x97 => AckReason::QuotaExceeded,
        0x99 => AckReason::PayloadFormatInvalid,
        _ => AckReason::Other(code),
    }
}

const fn code_of(reason: AckReason) -> u8 {
    match reason {
        AckReason::Success => 0,
        AckReason::NoMatchingSubscribers => 0x10,
        AckReason::NotAuthorized => 0x87,
        AckReason::TopicNameInvalid => 0x90,
        AckReason::TooLarge => 0x95,
        AckReason::QuotaExceeded => 0x97,
        AckReason::PayloadFormatInvalid => 0x99,
        AckReason::Other(code) => code,
    }
}

const fn granted(code: u8) -> Result<u8, SubscribeRefusal> {
    match code {
        0..=2 => Ok(code),
        0x8f => Err(SubscribeRefusal::FilterInvalid),
        0x97 => Err(SubscribeRefusal::QuotaExceeded),
        0x9e => Err(SubscribeRefusal::SharedNotSupported),
        0xa1 => Err(SubscribeRefusal::IdentifierNotSupported),
        _ => Err(SubscribeRefusal::Unspecified),
    }
}
